"""How the commands print: on terminals of any width, in pipes, into what is full or closed; help and completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Runner
from tests.terminals import Shown, command, on_terminal
from tests.writers import CrashedPair, journal_of

REASON = "nobody holds the writer's lock"


def shown(runner: Runner, *arguments: str, columns: int, **environ: str) -> Shown:
    name, *rest = arguments
    return on_terminal(command(name, "-c", str(runner.settings), *rest), columns=columns, environ=environ)


def in_shell(runner: Runner, line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line in which "$@" stands for the command."""
    name, *rest = arguments
    argv = ["bash", "-c", line, "bash", *command(name, "-c", str(runner.settings), *rest)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_table_keeps_its_words_whole(runner: Runner, crashed: CrashedPair, columns: int) -> None:
    names = [f"agent-group-{number}/session-2026-11-24-{number}/outbound.db" for number in range(3)]
    for name in names:
        crashed.put(runner.root / name)
    done = shown(runner, "scan", columns=columns)
    assert done.status == 1
    for name in names:
        (line,) = [line for line in done.lines if name in line]
        assert line.startswith("recover ")
        assert " hot " in line
    told = " ".join(" ".join(done.lines).split())
    assert told.count(REASON) == len(names)
    assert done.lines[-2] == "3 journals: 3 recover"
    assert all(len(line) <= columns for line in done.lines if not any(name in line for name in names))


def test_a_path_that_is_longer_than_the_terminal_squeezes_nothing_else(runner: Runner, crashed: CrashedPair) -> None:
    long = "x" * 150 + ".db"
    crashed.put(runner.root / long)
    crashed.put(runner.root / "short.db")
    done = shown(runner, "scan", columns=80)
    (line,) = [line for line in done.lines if long in line]
    assert line.startswith("recover   hot")
    assert [line for line in done.lines if line.strip().startswith(REASON)]


def test_many_journals_are_summed_up(runner: Runner, crashed: CrashedPair) -> None:
    for number in range(60):
        crashed.put(runner.root / f"s{number}" / "x.db")
    for number in range(10):
        (runner.root / f"s{number}" / "x.db").unlink()
    runner.configure(owner={"locks": "off"})
    done = shown(runner, "recover", columns=100)
    assert done.status == 1
    assert "60 journals: 50 held, 10 refused" in done.lines
    assert done.text.count("By hand: ") == 5, "the same advice is not given sixty times"
    assert "55 more: journal-watcher explain PATH says what to do by hand" in done.lines


def test_a_command_to_copy_stands_on_one_line(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"})
    database = crashed.put(runner.root / ("a-session-with-a-long-name-" * 3) / "x.db")
    line = f"sqlite3 {database} 'PRAGMA schema_version'"
    for arguments in (("explain", str(database)), ("recover",)):
        assert line in [each.strip() for each in shown(runner, *arguments, columns=80).lines]


def test_a_long_recover_shows_a_bar_on_a_terminal_and_clears_it_away(runner: Runner, crashed: CrashedPair) -> None:
    for number in range(200):
        crashed.put(runner.root / f"s{number:03}" / "x.db")
    done = shown(runner, "recover", columns=100)
    assert done.status == 0
    assert "recovering" in done.text
    assert "200/200" in done.text
    assert "200 journals: 200 recovered" in done.lines
    erased = done.raw.rpartition("200/200")[2].partition("OUTCOME")[0]
    assert "\x1b[2K" in erased, "it is gone before the table comes"
    assert all((runner.root / f"s{number:03}" / "x.db").read_bytes() == crashed.recovered for number in range(200))


@pytest.mark.parametrize("name", ["scan", "recover", "check", "status", "history", "explain"])
def test_a_pipe_gets_no_escape_codes_and_no_bar(runner: Runner, crashed: CrashedPair, name: str) -> None:
    database = crashed.put(runner.root / "x.db")
    arguments = [str(database)] if name == "explain" else []
    done = runner.command(name, *arguments, environ={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_no_color_is_heard_on_a_terminal(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    for arguments in (("explain", str(database)), ("scan",)):
        assert "\x1b[" in shown(runner, *arguments, columns=80).raw
        assert "\x1b" not in shown(runner, *arguments, columns=80, NO_COLOR="1").raw


def test_json_is_one_line_of_ascii_also_on_a_terminal(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "ä \x1b[31m" / os.fsdecode(b"\xff.db"))
    for name in ("scan", "recover", "history"):
        out = runner.command(name, "--json").stdout
        assert out.isascii()
        assert out.count("\n") == 1
        json.loads(out)
    json.loads(shown(runner, "history", "--json", columns=20).lines[0])


def test_a_reader_that_goes_early_gets_no_traceback(runner: Runner, crashed: CrashedPair) -> None:
    for number in range(300):
        crashed.put(runner.root / f"s{number:03}" / "x.db")
    for more in ([], ["--json"]):
        done = in_shell(runner, '"$@" | head -c 100; exit "${PIPESTATUS[0]}"', "scan", *more)
        assert len(done.stdout) == 100
        assert (done.stderr, done.returncode) == ("", 1)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_is_said(runner: Runner, crashed: CrashedPair, more: list[str]) -> None:
    crashed.put(runner.root / "x.db")
    done = in_shell(runner, '"$@" > /dev/full', "scan", *more)
    assert (done.returncode, done.stderr) == (1, "journal-watcher: [Errno 28] No space left on device\n")


def test_closed_streams_are_no_reason_to_fail(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    assert in_shell(runner, '"$@" >&- 2>&- <&-', "scan").returncode == 1
    assert in_shell(runner, '"$@" >&- 2>&- <&-', "recover").returncode == 0
    assert database.read_bytes() == crashed.recovered
    assert not journal_of(database).exists()


def test_an_encoding_that_does_not_know_a_name_shows_its_escape(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "дневник.db")
    done = runner.command("scan", environ={"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 1
    assert "\\u0434" in done.stdout


def test_no_command_loads_what_it_does_not_need() -> None:
    for name, unwanted in (("status", ["docker", "watchdog", "prometheus_client"]), ("run", ["rich.table"])):
        code = (
            "import sys\nfrom watcher import cli\n"
            f"sys.argv = ['journal-watcher', {name!r}, '-c', '/nowhere.yaml']\n"
            "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code == 2\n"
            f"assert not [each for each in {unwanted!r} if each in sys.modules]\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_version_is_shown() -> None:
    done = subprocess.run(command("--version"), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    name, version = done.stdout.split()
    assert name == "journal-watcher"
    assert version[0].isdigit()


def test_help_names_every_command_and_every_option() -> None:
    done = subprocess.run(command("-h"), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for name in ("run", "scan", "recover", "explain", "check", "status", "history", "demo", "--version"):
        assert name in done.stdout
    for name, options in {
        "recover": ["--config", "--json", "--dry-run", "PATH"],
        "status": ["--config", "--json", "--watch"],
        "history": ["--config", "--json", "--limit", "--since", "--session", "--outcome"],
    }.items():
        done = subprocess.run(command(name, "-h"), capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert [option for option in [*options, "-h"] if option not in done.stdout] == []
        assert "JOURNAL_WATCHER_CONFIG" in done.stdout


@pytest.mark.parametrize("arguments", [["frob"], ["scan", "--frob"], ["run", "extra"]])
def test_what_is_no_command_is_status_two(runner: Runner, arguments: list[str]) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, cwd=runner.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: journal-watcher" in done.stderr


def test_the_settings_are_found_by_option_then_variable_then_directory(runner: Runner, tmp_path: Path) -> None:
    def tree(cwd: Path, *options: str, **environ: str) -> str:
        env = {**os.environ, **environ}
        done = subprocess.run(command("scan", "--json", *options), capture_output=True, cwd=cwd, env=env, check=False)
        return str(json.loads(done.stdout)["tree"])

    for name in ("by_option", "by_variable", "by_directory"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").write_text("tree: {root: .}\nstate_dir: ../elsewhere\n")
    named = {name: str(tmp_path / name / "settings.yaml") for name in ("by_option", "by_variable")}
    directory = tmp_path / "by_directory"
    assert tree(directory) == str(directory)
    assert tree(directory, JOURNAL_WATCHER_CONFIG=named["by_variable"]) == str(tmp_path / "by_variable")
    for option in (["-c", named["by_option"]], ["--config", named["by_option"]]):
        assert tree(directory, *option, JOURNAL_WATCHER_CONFIG=named["by_variable"]) == str(tmp_path / "by_option")
    assert tree(directory, JOURNAL_WATCHER__TREE__ROOT=str(runner.root)) == str(runner.root)


def test_settings_that_may_not_be_read_are_said_in_our_words(runner: Runner) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user wants root")
    runner.settings.chmod(0o600)
    os.chown(runner.settings, 65_534, 65_534)
    done = runner.command("scan", unprivileged=True)
    assert done.returncode == 2
    assert done.stderr == f"journal-watcher: {runner.settings}: cannot be read: Permission denied\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_the_shell_that_asks(shell: str, tmp_path: Path) -> None:
    # The shell is known by its name in the process table: so a bash that is called like it will do.
    there = shutil.which("bash")
    assert there is not None
    asking = shutil.copy(there, tmp_path / shell)
    line = f"{shutil.which('journal-watcher', path=str(Path(sys.executable).parent))} --show-completion; :"
    done = subprocess.run([asking, "-c", line], capture_output=True, text=True, check=False)
    named = {"bash": "complete -o default -F", "zsh": "#compdef journal-watcher", "fish": "complete --command"}
    assert named[shell] in done.stdout


def test_bash_completes_commands_options_and_paths(tmp_path: Path) -> None:
    (tmp_path / "a-database.db").touch()
    script = """
eval "$(journal-watcher --show-completion)"
try() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _journal_watcher_completion journal-watcher
    if [ ${#COMPREPLY[@]} = 0 ]; then compgen -o default -- "${!#}"; else printf '%s ' "${COMPREPLY[@]}"; echo; fi
}
complete -p journal-watcher
try journal-watcher sc
try journal-watcher recover --dr
try journal-watcher history --outcome re
try journal-watcher recover a-da
try journal-watcher scan -c a-da
"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    argv = ["bash", "-c", script]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PATH": path}
    )
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "complete -o default -F _journal_watcher_completion journal-watcher",
        "scan",
        "--dry-run",
        "recovered refused",
        "a-database.db",
        "a-database.db",
    ]


@pytest.mark.parametrize("name", ["run", "scan", "recover", "explain", "check", "status", "history", "unit", "demo"])
@pytest.mark.parametrize("option", ["-c", "--config"])
def test_every_command_takes_a_settings_file(name: str, option: str) -> None:
    argv = command(name, option, "settings.yaml", "--help")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
