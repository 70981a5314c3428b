"""The README: every block in it is run, every command parses, every name in it exists. What it shows is what comes.

Its messages are provoked in test_readme_messages, its NanoClaw section is followed in test_readme_containers, and its
JavaScript runs in test_javascript.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
import yaml

from tests import test_javascript
from tests.benchmarks import __main__ as benchmarks
from tests.readme import README, Block, block, blocks, rows
from tests.test_metrics import READING
from tests.transcripts import differences, pattern_of, shell_in, typed_in
from watcher import commands
from watcher.options import UnitKind
from watcher.records.metrics import Metrics
from watcher.records.record import Outcome, Record
from watcher.records.tally import Tally
from watcher.settings import load_settings
from watcher.settings.schema import key_paths

SOURCE = README.parent
FIRST = "60 seconds to the first recovery"
POLLING = "Polling from your host program"

# Where the blocks of a section are run, and how many they are: a test here, or a module.
RUN_BY: dict[tuple[str, str], tuple[int, str]] = {
    ("sh", "journal-watcher"): (1, "test_a_clone_is_set_up_and_plays_its_demo_by_the_one_line"),
    ("sh", FIRST): (1, "test_the_first_recovery_goes_as_it_is_shown"),
    ("console", FIRST): (2, "test_the_first_recovery_goes_as_it_is_shown"),
    ("console", "How it decides"): (1, "test_the_first_recovery_goes_as_it_is_shown"),
    ("sh", "Install as a service"): (1, "test_the_service_is_installed_as_it_is_told"),
    ("yaml", "Settings"): (4, "test_settings_load"),
    ("yaml", "Hooks"): (1, "test_settings_load"),
    ("yaml", "NanoClaw, step by step"): (1, "test_settings_load"),
    ("python", "Metrics and health"): (1, "test_python_runs_as_it_stands"),
    ("python", POLLING): (1, "test_python_runs_as_it_stands"),
    ("python", "Around a poll that you have"): (1, "test_python_runs_as_it_stands"),
    ("python", "Or a poller that does the rest"): (2, "test_python_runs_as_it_stands"),
    ("python", "What is never hidden"): (1, "test_python_runs_as_it_stands"),
    ("js", "Polling from Node"): (1, "test_javascript"),
    ("sh", "NanoClaw, step by step"): (4, "test_readme_containers"),
}
NOT_RUN = {
    ("sh", "Development"): (2, "they run the tests, this one among them: .ci/run takes its command from there"),
    ("text", "How it decides"): (1, "a drawing"),
}


def environment(home: Path) -> dict[str, str]:
    """A stranger's: a home with nothing in it, and `journal-watcher` and `python` of these tests on the PATH. What pip
    would fetch comes from the directory that JW_TEST_WHEELS names, where it does."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JOURNAL_WATCHER", "JW_", "XDG_", "PYTEST", "PYTHON", "VIRTUAL_ENV", "COV_"))
    }
    home.mkdir(exist_ok=True)
    cache = os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip")
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    fetched = {"PIP_CACHE_DIR": cache}
    if wheels := os.environ.get("JW_TEST_WHEELS"):
        fetched |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels}
    return {**kept, **fetched, "HOME": str(home), "PATH": path}


@pytest.fixture
def stranger(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path / "home")


def test_every_block_is_run_or_named_with_the_reason_why_not() -> None:
    found = Counter((each.language, each.heading) for each in blocks())
    assert found == {place: count for place, (count, _) in (RUN_BY | NOT_RUN).items()}
    tests = globals().keys() | {each.stem for each in Path(__file__).parent.glob("test_*.py")}
    assert {test for _, test in RUN_BY.values()} <= tests


def clone(directory: Path) -> Path:
    """A clone of this repository, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no clone of the repository")
    for name in filter(None, listed.stdout.split("\0")):
        if (SOURCE / name).exists() and not name.startswith("tests/"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, directory / name)
    return directory


@pytest.mark.timeout(300)
def test_a_clone_is_set_up_and_plays_its_demo_by_the_one_line(tmp_path: Path, stranger: Mapping[str, str]) -> None:
    told = subprocess.run(
        ["sh", "-ec", block("sh", "journal-watcher").text],
        cwd=clone(tmp_path / "clone"),
        env={**stranger, "PATH": os.environ["PATH"]},
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"^Kill to readable: [\d.]+ ms", told.stdout, re.MULTILINE)


def test_the_first_recovery_goes_as_it_is_shown(tmp_path: Path, stranger: Mapping[str, str]) -> None:
    directory = tmp_path / "first"
    directory.mkdir()
    subprocess.run(["sh", "-ec", block("sh", FIRST).text], cwd=directory, env=stranger, check=True)
    places = {"/tmp/first": str(directory)}
    transcripts = [block("console", FIRST, 1), block("console", FIRST, 2), block("console", "How it decides")]
    with shell_in(directory, stranger) as shell:
        for typed in (each for transcript in transcripts for each in typed_in(transcript.text)):
            lines = shell.type(typed.command, [pattern_of(line, places) for line in typed.shows])
            assert not (differs := differences(typed, lines, places)), differs


def test_the_service_is_installed_as_it_is_told(tmp_path: Path, stranger: Mapping[str, str]) -> None:
    """On a machine with a real systemd, test_systemd does it; here `systemctl` only writes down what it is told."""
    tools, units = tmp_path / "tools", tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n', encoding="utf-8")
    (tools / "systemctl").chmod(0o755)
    (tmp_path / "sessions").mkdir()
    (tmp_path / "settings.yaml").write_text("tree: {root: sessions}", encoding="utf-8")
    script = block("sh", "Install as a service").text.replace("/etc/", f"{tmp_path}/etc/")
    env = {**stranger, "PATH": f"{tools}:{stranger['PATH']}"}
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "told").read_text().split("\n") == [
        "daemon-reload",
        "enable --now journal-watcher",
        "status journal-watcher",
        "",
    ]
    unit = (units / "journal-watcher.service").read_text(encoding="utf-8")
    assert f"{tmp_path}/settings.yaml" in unit
    assert "Type=notify" in unit


def spans() -> Iterator[str]:
    """What the README sets in backticks, blocks aside."""
    prose = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose.replace("\\|", "|"))


def _fragments() -> list[str]:
    whole = [each.text for each in blocks() if each.language == "yaml"]
    return whole + sorted({each for each in spans() if re.fullmatch(r"[a-z_]+: \{.+\}", each)})


@pytest.mark.parametrize("fragment", _fragments())
def test_settings_load(fragment: str, tmp_path: Path) -> None:
    whole = {"tree": {"root": "tree", "layout": "{agent_group}/{session}"}} | yaml.safe_load(fragment)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    load_settings(file)


def _python() -> list[Block]:
    return [each for each in blocks() if each.language == "python"]


def test_python_runs_as_it_stands(tmp_path: Path, stranger: Mapping[str, str]) -> None:
    made, *others = sorted(_python(), key=lambda each: each.heading != POLLING)  # the first one makes the database
    for each in (made, *others):
        (tmp_path / f"{each.line}.py").write_text(each.text, encoding="utf-8")
    python = [sys.executable, "-W", "error"]
    subprocess.run([*python, f"{made.line}.py"], cwd=tmp_path, env=stranger, check=True)
    running = {
        each: subprocess.Popen(
            [*python, f"{each.line}.py"],
            cwd=tmp_path,
            env=stranger,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for each in others
    }
    for each, process in running.items():
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{each}: {told}"
        assert "Traceback" not in told


def test_the_javascript_is_what_test_javascript_runs() -> None:
    assert [each for each in blocks() if each.language == "js"] == [test_javascript.ADVICE]


# --- names and commands ---

COMMANDS = typer.main.get_command(commands.app)


def _commands_in_prose() -> list[str]:
    return sorted({each for each in spans() if re.match(r"journal-watcher [a-z-]", each)})


def _commands_in_blocks() -> list[str]:
    typed = [each.text for each in blocks() if each.language == "sh"]
    typed += [
        line[2:]
        for each in blocks()
        if each.language == "console"
        for line in each.text.splitlines()
        if line.startswith("$ ")
    ]
    return sorted(set(re.findall(r"journal-watcher(?: [\w./-]+)+(?=$| [&>#])", "\n".join(typed), re.MULTILINE)))


@pytest.mark.parametrize("line", sorted({*_commands_in_prose(), *_commands_in_blocks()}))
def test_each_command_line_parses(line: str) -> None:
    words = shlex.split(line.replace("…", "systemd" if "--for" in line else "x"))[1:]
    if words[0].startswith("-"):
        assert words[0] in {option for each in COMMANDS.params for option in each.opts}
        return
    assert isinstance(COMMANDS, typer.core.TyperGroup)
    name, *arguments = words
    assert name in COMMANDS.commands, f"there is no command {name}"
    COMMANDS.commands[name].make_context(name, arguments)


def test_the_table_of_commands_is_complete() -> None:
    assert isinstance(COMMANDS, typer.core.TyperGroup)
    told = {}
    for cells in rows("Commands"):
        name, *_ = words = cells[0].strip("`").split()
        told[name] = set(re.findall(r"--[a-z-]+", " ".join(words)))
    options = {
        name: {option for each in command.params for option in each.opts if option.startswith("--")} - {"--config"}
        for name, command in COMMANDS.commands.items()
    }
    assert told == options


def test_the_units_that_are_told_are_those_that_there_are() -> None:
    kinds = {cells[0].strip("`").split("`")[0] for cells in rows("Install as a service")}
    assert kinds == {each.value for each in UnitKind}


def test_each_module_that_is_run_exists() -> None:
    named = [each.split() for each in spans() if each.startswith("python -m ")]
    assert named
    for _, _, module, *arguments in named:
        assert find_spec(module) is not None, module
        assert module != "tests.benchmarks" or arguments[0] in {*benchmarks.NAMES, "all", "plot"}


def test_each_setting_that_is_named_exists() -> None:
    keys = {".".join(path) for path in key_paths()}
    sections = {each.partition(".")[0] for each in keys if "." in each}
    named = {each for each in spans() if re.fullmatch(r"[a-z_]+(?:\.[a-z_]+)+", each)}
    named = {each for each in named if each.partition(".")[0] in sections and not each.endswith((".py", ".yaml"))}
    assert named
    assert named <= keys


def test_each_metric_that_is_named_is_served_and_each_that_is_served_is_named() -> None:
    told = " ".join(cells[0] for cells in rows("Metrics and health"))
    named = {each.partition("{")[0] for each in re.findall(r"`([a-z_]+(?:\{[^}]*\})?)`", told)}
    tally = Tally()
    tally.recorded(Record(database="/tree/x.db", outcome=Outcome.RECOVERED, session={"session": "s"}, duration_ms=1.0))
    body, _ = Metrics(lambda: replace(READING, engine_answers=True), tally).render("")
    assert named == set(re.findall(r"^# TYPE journal_watcher_(\w+) \w+$", body.decode(), re.MULTILINE))


def test_each_link_leads_somewhere() -> None:
    told = README.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", told, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", told):
        place = "".join(target)
        if place.startswith("#"):
            assert place[1:] in headings, place
        else:
            assert (SOURCE / place).exists(), place
