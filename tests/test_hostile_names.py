"""Names that an agent chooses: one printable line everywhere, and a person can name them again."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest

from tests.running import Runner, free_port, wait_until
from tests.writers import CrashedPair, journal_of
from watcher.names import printable

NAMES = [
    b"new\nline.db",
    b'{"event": "recovered"}\n.db',
    b"\x1b[2J\x1b]0;title\x07.db",
    b"\xff\xfe\x80.db",
    b"\xe2\x80\xaegnp.db",
    b"-rf",
    b"--json",
    b'it\'s "quoted" $(id) `id`',
    b"x" * 247,
    b"back\\slash\\n",
    b"tab\tand\rreturn",
    b"<b>bold{0}{message}",
    b"[red]rich[bold]:smile:",
    b'a=b,c"d',
    b" ",
    b"%s%n",
]
"""A journal of the name `-journal` alone is no database's: there is nothing before it."""


@pytest.fixture
def named(runner: Runner, crashed: CrashedPair) -> list[Path]:
    """A crashed database of each name."""
    (runner.root / "-journal").write_bytes(crashed.journal)
    return [crashed.put(runner.root / "s1" / os.fsdecode(name)) for name in NAMES]


def expect_lines(text: str, least: int = 1) -> list[str]:
    """Lines that a terminal shows as they are."""
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) >= least
    for line in lines:
        assert line.replace("\t", "").isprintable(), ascii(line)
    return lines


def test_the_services_log_as_json_has_one_line_for_each_event(runner: Runner, named: list[Path]) -> None:
    service = runner.start(wait=None)
    for database in named:
        service.wait_for("recovered", database=printable(database))
    assert service.stop() == 0
    for line in expect_lines("".join(service.raw), len(NAMES)):
        told = json.loads(line)
        assert {"time", "level", "event", "instance"} <= told.keys()
        assert told["message"].isprintable()
    assert len(service.events("recovered")) == len(NAMES)
    assert all(not journal_of(database).exists() for database in named)


def test_the_services_log_for_people_has_one_line_for_each_event(runner: Runner, named: list[Path]) -> None:
    runner.configure(log={"json": False})
    service = runner.start(wait=None)
    wait_until(lambda: sum(" recovered " in line or "rolled back" in line for line in service.raw) >= len(NAMES))
    assert service.stop() == 0
    for line in expect_lines("".join(service.raw), len(NAMES)):
        assert line[:2].isdigit(), ascii(line)
    assert all(not journal_of(database).exists() for database in named)


@pytest.mark.parametrize("arguments", [("scan",), ("recover", "--dry-run")])
def test_tables_and_json_show_each_name_in_one_line(
    runner: Runner, named: list[Path], arguments: tuple[str, ...]
) -> None:
    lines = expect_lines(runner.command(*arguments).stdout, len(NAMES))
    told = runner.json(*arguments)
    entries = told["journals"] if isinstance(told, dict) else told
    assert {each["database"] for each in entries} == {printable(database) for database in named}
    for database in named:
        assert any(printable(f"s1/{database.name}") in line for line in lines), (database.name, lines)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7], ids=lambda number: repr(NAMES[number]))
def test_a_database_is_explained_and_recovered_by_its_printed_name_and_by_its_own(
    runner: Runner, named: list[Path], number: int
) -> None:
    database = named[number]
    (told,) = [each for each in runner.json("scan")["journals"] if each["database"] == printable(database)]
    for spelled in (told["database"], told["journal"], os.fspath(database)):
        explained = runner.json("explain", spelled)
        assert explained["database"] == told["database"]
    expect_lines(runner.command("explain", told["database"]).stdout)
    done = runner.command("recover", told["database"])
    assert done.returncode == 0, done.stderr
    expect_lines(done.stdout)
    assert not journal_of(database).exists()
    (entry,) = runner.json("history")
    assert (entry["database"], entry["outcome"]) == (told["database"], "recovered")
    expect_lines(runner.command("history").stdout)


def test_what_is_refused_is_told_and_advised_in_printable_lines(runner: Runner, named: list[Path]) -> None:
    for database in named:
        database.write_bytes(b"Dear diary")
    service = runner.start(wait=None)
    for database in named:
        told = service.wait_for("refused", database=printable(database))
        assert told["message"].isprintable()
    assert service.stop() == 0
    for line in runner.command("history").stdout.splitlines():
        assert line.replace("\t", "").isprintable()


def test_names_of_sessions_are_as_harmless_as_those_of_databases(runner: Runner, crashed: CrashedPair) -> None:
    port = free_port()
    runner.configure(tree={"layout": "{agent_group}/{session}"}, metrics={"listen": f"127.0.0.1:{port}"})
    sessions = [name for name in NAMES if len(name) < 200]
    databases = [crashed.put(runner.root / "g" / os.fsdecode(name) / "outbound.db") for name in sessions]
    service = runner.start(wait=None)
    for database in databases:
        service.wait_for("recovered", database=printable(database))
    expect_lines("".join(service.raw))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        expect_lines(answer.read().decode())
    assert service.stop() == 0
    for entry in runner.json("history"):
        assert entry["database"].isprintable()
