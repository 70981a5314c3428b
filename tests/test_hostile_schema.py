"""A schema is an agent's program: it is parsed by nothing but a child that can be killed."""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.hostile import Host, computing, only_rolled_back, slow_to_check
from tests.running import Runner, wait_until
from tests.writers import CrashedPair, journal_of
from watcher.records.record import Outcome
from watcher.settings import VerifyMode
from watcher.tree import Place
from watcher.verification import Health, check

TRAPS = {
    "a virtual table of a module that is not there": "CREATE VIRTUAL TABLE x USING nothing(a)",
    "a view of itself": "CREATE VIEW x AS SELECT * FROM x",
    "no SQL at all": "CREATE TABLE x (",
    "a trigger on everything": "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT load_extension('/etc/passwd'); END",
    "a generated column": "CREATE TABLE x (a, b GENERATED ALWAYS AS (hex(zeroblob(100000000))) STORED)",
    "an index on an expression": "CREATE INDEX x ON t (writefile('/tmp/x', body))",
}
HOSTILE_NAME = "\x1b[2J\n" + "x" * 2000
"""What a check complains of: SQLite repeats it in its words."""


def crashed_with(crashed: CrashedPair, database: Path, *statements: str, writable: bool = False) -> Path:
    """A crashed database whose schema has more in it; its journal rolls back pages beside."""
    crashed.put(database)
    journal = journal_of(database).read_bytes()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_count")
        for statement in statements:
            if writable:
                connection.execute("PRAGMA writable_schema = on")
                insert = "INSERT INTO sqlite_schema VALUES ('table', ?1, ?1, 0, ?2)"
                connection.execute(insert, (HOSTILE_NAME, statement))
            else:
                connection.execute(statement)
    pages = database.stat().st_size // 1024
    # The journal of the crash again, with the database's size of now: it rolls back the pages that it rolled back.
    journal_of(database).write_bytes(journal[:16] + pages.to_bytes(4, "big") + journal[20:])
    return database


@pytest.mark.parametrize("trap", TRAPS)
def test_a_schema_full_of_traps_is_not_parsed_by_a_recovery(host: Host, crashed: CrashedPair, trap: str) -> None:
    database = crashed_with(crashed, host.root / "outbound.db", TRAPS[trap], writable=True)
    with only_rolled_back(host.root, database):
        assert host.outcome_of(database) is Outcome.RECOVERED


def test_megabytes_of_schema_cost_a_recovery_nothing(host: Host, crashed: CrashedPair) -> None:
    columns = ", ".join(f"c{number} TEXT DEFAULT '{'x' * 1000}'" for number in range(1900))
    database = crashed_with(
        crashed, host.root / "outbound.db", *(f"CREATE TABLE x{number} ({columns})" for number in range(10))
    )
    assert database.stat().st_size > 18_000_000
    host.configure(recovery={"snapshot": None})
    recovered = host.recover(database)[0].record
    assert recovered.outcome is Outcome.RECOVERED
    assert recovered.duration_ms < 10_000


@pytest.mark.parametrize("trap", TRAPS)
def test_what_a_check_says_of_it_is_one_printable_line(host: Host, crashed: CrashedPair, trap: str) -> None:
    database = crashed_with(crashed, host.root / "outbound.db", TRAPS[trap], writable=True)
    host.recover(database)
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        health, words = check(pair.directory_fd, pair.path, VerifyMode.QUICK, time_limit_s=20)
    assert health in Health
    assert words
    assert words.isprintable()
    assert len(words) < 1000


def test_a_check_that_computes_for_hours_is_killed_in_time(host: Host) -> None:
    database = slow_to_check(host.root / "outbound.db")
    before = _children()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        began = time.monotonic()
        health, words = check(pair.directory_fd, pair.path, VerifyMode.QUICK, time_limit_s=1.5)
        assert time.monotonic() - began < 15
    assert (health, words) == (Health.UNKNOWN, "it took longer than 1.5 s")
    assert _children() == before


def test_a_check_that_wants_all_memory_ends(host: Host) -> None:
    database = computing(host.root / "outbound.db", "length(hex(zeroblob(400000000)) || x)")
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        health, words = check(pair.directory_fd, pair.path, VerifyMode.QUICK, time_limit_s=60)
    assert health is not Health.SOUND
    assert words


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def test_a_neighbour_is_recovered_while_a_check_computes_and_the_check_ends_with_the_service(
    runner: Runner, crashed: CrashedPair
) -> None:
    runner.configure(recovery={"verify": "quick"})
    hostile = runner.root / "hostile" / "outbound.db"
    hostile.parent.mkdir()
    slow_to_check(hostile)
    _make_hot(hostile)
    service = runner.start(wait=None)
    service.wait_for("recovered", database=hostile)
    checking = _verifying(service.process.pid)
    for number in range(5):
        neighbour = crashed.put(runner.root / str(number) / "outbound.db")
        service.wait_for("recovered", database=neighbour)
    assert checking.is_running()
    assert service.stop() == 0
    wait_until(lambda: not checking.is_running() or checking.status() == psutil.STATUS_ZOMBIE)


def _verifying(pid: int) -> psutil.Process:
    """The child of a process that checks a database, when it has come to the computing."""

    def computing() -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):  # a zombie among them
            for child in psutil.Process(pid).children():
                if "watcher.verification" in child.cmdline() and child.cpu_times().user > 1:
                    return child
        return None

    found = wait_until(computing)
    assert found is not None
    return found


def _make_hot(database: Path) -> None:
    """Give a database a hot journal that rolls its first page back to what it is."""
    page_size = int.from_bytes(database.read_bytes()[16:18], "big")
    page = database.read_bytes()[:page_size]
    pages = database.stat().st_size // page_size
    numbers = (1, 0, pages, 512, page_size)
    header = bytes.fromhex("d9d505f920a163d7") + b"".join(number.to_bytes(4, "big") for number in numbers)
    checksum = sum(page[at] for at in range(page_size - 200, 0, -200)) & 0xFFFFFFFF
    record = (1).to_bytes(4, "big") + page + checksum.to_bytes(4, "big")
    journal_of(database).write_bytes(header.ljust(512, b"\0") + record)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_the_child_has_given_root_up_before_it_parses(host: Host) -> None:
    database = slow_to_check(host.root / "outbound.db")
    with host.rooms.looker.pair(Place("", database.name)) as pair, ThreadPoolExecutor() as pool:
        checking = pool.submit(check, pair.directory_fd, pair.path, VerifyMode.QUICK, time_limit_s=100)
        child = _verifying(os.getpid())
        wait_until(lambda: set(child.uids()) == {65534})  # it may compute before, where Python takes long to start
        assert set(child.gids()) == {65534}
        none = "\nCapEff:\t0000000000000000\n"
        wait_until(lambda: none in Path(f"/proc/{child.pid}/status").read_text(encoding="ascii"))
        child.kill()
        assert checking.result() == (Health.UNKNOWN, "the process that checks it ended with signal 9")
