"""Completion, asked as the shells ask: by their own protocol, and by real ones."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.running import Runner, wait_until
from watcher.completion import databases


@pytest.fixture
def tree(runner: Runner) -> Runner:
    """Databases of all sorts of names, beside what is none."""
    runner.configure(tree={"databases": ["*.db"], "exclude": ["cache"]})
    for name in ("g1/s1/outbound.db", "g1/s2/out bound.db", "g2/new\nline.db", "g2/notes.txt", "cache/x.db"):
        (runner.root / name).parent.mkdir(parents=True, exist_ok=True)
        (runner.root / name).touch()
    (runner.root / "g1/s1/gone.db-journal").touch()
    return runner


def completed(tree: Runner, word: str, shell: str = "") -> list[str]:
    return databases(tree.settings, word, {"_JOURNAL_WATCHER_COMPLETE": shell})


def test_a_word_is_completed_by_directories_and_databases_below_the_root(tree: Runner) -> None:
    assert completed(tree, "g") == ["g1/", "g2/"]
    assert completed(tree, "g1/") == ["g1/s1/", "g1/s2/"]
    assert completed(tree, "g1/s1/") == ["g1/s1/gone.db", "g1/s1/outbound.db"]
    assert completed(tree, "g1/s1/o") == ["g1/s1/outbound.db"]
    assert completed(tree, "g9/") == []


def test_an_absolute_word_finds_its_way_to_the_tree(tree: Runner) -> None:
    assert completed(tree, "/") == [f"/{tree.root.parts[1]}/"]
    assert completed(tree, f"{tree.root.parent}/") == [f"{tree.root}/"]
    assert completed(tree, f"{tree.root}/g1/s1/out") == [f"{tree.root}/g1/s1/outbound.db"]


def test_a_word_is_completed_from_the_working_directory_too(tree: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.root / "g1")
    assert completed(tree, "s1/out") == ["s1/outbound.db"]
    assert completed(tree, "../g1/s1/out") == ["../g1/s1/outbound.db"]


def test_names_are_shown_as_log_lines_show_them_and_bash_gets_them_quoted(tree: Runner) -> None:
    assert completed(tree, "g2/") == ["g2/new\\nline.db"]
    assert completed(tree, "g2/", "complete_bash") == ["'g2/new\\nline.db'"]
    assert completed(tree, "g1/s2/", "complete_bash") == ["'g1/s2/out bound.db'"]
    assert completed(tree, "g1/s2/", "complete_zsh") == ["g1/s2/out bound.db"]
    assert completed(tree, "g2/", "complete_zsh") == ["g2/new\\\\\\\\nline.db"]


def test_what_cannot_be_read_completes_nothing(tree: Runner, tmp_path: Path) -> None:
    assert databases(tmp_path / "missing.yaml", "g") == []
    shutil.rmtree(tree.root)
    assert completed(tree, "g") == []


ZSH = """
autoload -Uz compinit; compinit -u -D; source {script}
show() {{ print -rl -- "${{(@Q)${{(z)BUFFER}}}}" > {shown} }}; zle -N show; bindkey '^X' show
"""
FISH = """
source {script}; function show; commandline -o > {shown}; end; bind \\cx show
"""
SHELLS = pytest.mark.parametrize("shell", ["zsh", "fish"])
HOSTILE = [
    "$(touch pwned1)",
    "`touch pwned2`",
    "\\$(touch pwned3)",
    "')) ; touch pwned4 ; ((",
    '" ; touch pwned5 ; "',
    "*",
]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("g1/s1/o", "g1/s1/outbound.db"),
        ("g1/s2/", "g1/s2/out bound.db"),
        ("g2/ne", r"g2/new\nline.db"),
        ("g3/$", "g3/$HOME.db"),
    ],
)
@SHELLS
def test_zsh_and_fish_complete_a_path_that_the_command_then_takes(
    tree: Runner, tmp_path: Path, shell: str, typed: str, completed: str
) -> None:
    (tree.root / "g3").mkdir()
    (tree.root / "g3" / "$HOME.db").touch()
    line = f"journal-watcher explain -c {tree.settings} {shlex.quote(typed)[:-1] if '$' in typed else typed}"
    *_, word = pressed_tab(tmp_path, shell, line)
    assert word == completed
    assert tree.command("explain", word).returncode == 0


@SHELLS
def test_no_name_is_run_by_the_shell_that_completes_it(tree: Runner, tmp_path: Path, shell: str) -> None:
    (tree.root / "g3").mkdir()
    for name in HOSTILE:
        (tree.root / "g3" / f"{name}.db").touch()
    pressed_tab(tmp_path, shell, f"journal-watcher explain -c {tree.settings} g3/")
    assert not list(tmp_path.glob("pwned*"))


def pressed_tab(directory: Path, shell: str, line: str) -> list[str]:
    """A real shell on a terminal is typed this line and a tab; the words that the line has then."""
    if shutil.which(shell) is None or shutil.which("setsid") is None:
        pytest.skip(f"there is no {shell}, or no setsid")
    command = Path(sys.executable).with_name("journal-watcher")
    environ = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "TERM": "xterm",
        "HOME": str(directory),
        "ZDOTDIR": str(directory),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script, shown = directory / "script", directory / "shown"
    asked = [str(command), "--show-completion", shell]
    script.write_text(subprocess.run(asked, capture_output=True, text=True, env=environ, check=True).stdout)
    (directory / ".zshrc").write_text(ZSH.format(script=script, shown=shown))
    started = {
        "zsh": ["zsh", "-i"],
        "fish": ["fish", "--no-config", "-i", "-C", FISH.format(script=script, shown=shown)],
    }
    ours, theirs = pty.openpty()
    argv = ["setsid", "--ctty", *started[shell]]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=directory) as process:
        os.close(theirs)
        reading = threading.Thread(target=_read_all, args=(ours,))
        reading.start()
        try:
            wait_until(lambda: _typed(ours, f"\x15{line}\t\x18", shown))
        finally:
            process.kill()
            reading.join()
            os.close(ours)
    return shown.read_text().splitlines()


def _typed(terminal: int, keys: str, shown: Path) -> bool:
    """Whether it is shown what came of the keys: a shell that is not at its prompt yet may forget them."""
    os.write(terminal, keys.encode())
    with suppress(AssertionError):
        return wait_until(lambda: shown.exists() and shown.read_text().strip() != "", 5.0)
    return False


def _read_all(terminal: int) -> None:
    """What is shown is not looked at, but nobody may wait for it to be read."""
    while True:
        try:
            os.read(terminal, 65_536)
        except OSError:  # EIO: the shell has gone
            return


@pytest.mark.parametrize("command", ["explain", "recover"])
def test_bash_itself_completes_a_path_that_the_command_then_takes(tree: Runner, command: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = Path(sys.executable).with_name("journal-watcher")
    if not script.exists():
        pytest.skip("the package is not installed")
    asked = f"""
        source <({shlex.quote(str(script))} --show-completion bash 2>/dev/null || true)
        COMP_WORDS=(journal-watcher {command} -c {shlex.quote(str(tree.settings))} g2/ne)
        COMP_CWORD=4 COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
        _journal_watcher_completion journal-watcher g2/ne {shlex.quote(str(tree.settings))}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environ = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run([bash, "-c", asked], capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.stdout == "'g2/new\\nline.db'\n", done.stderr
    (word,) = shlex.split(done.stdout)
    assert tree.command("explain", word).returncode == 0
