"""What the README says of the alternatives. Who opens a database read-write to mend it, beside a living writer whose
locks nobody sees, tears that writer's transaction; journal-watcher, asked at the same moments, does not."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.readme import rows
from tests.running import Runner
from tests.writers import ROWS, Writer, crash, journal_of, make_database, recover, writing, writing_unseen

ROUNDS = 20
ONE_TRANSACTION = 40
"""Rows that a writer changes by `begin` and `more`."""

Mend = Callable[[Path], object]


def by_the_shell(database: Path) -> None:
    """As a cron job does it, and a loop around inotifywait."""
    program = shutil.which("sqlite3") or pytest.skip("sqlite3, the shell, is not installed")
    subprocess.run([program, str(database), "SELECT count(*) FROM t"], check=False, capture_output=True)


def by_a_script(database: Path) -> None:
    """As a script on watchdog does it, and a host whose poll opens read-write."""
    recover(database)


ALTERNATIVES = {
    "`sqlite3` from cron": by_the_shell,
    "`inotifywait` into a loop with `sqlite3`": by_the_shell,
    "a script on watchdog with `sqlite3`": by_a_script,
    "the host polls read-write": by_a_script,
}
OURS = "journal-watcher"


@pytest.fixture
def tree(runner: Runner) -> list[Path]:
    """Databases, each of a session of its own."""
    databases = [runner.root / f"s{number}" / "outbound.db" for number in range(ROUNDS)]
    for each in databases:
        each.parent.mkdir()
        make_database(each)
    return databases


def torn_by(mend: Callable[[], object], databases: list[Path]) -> int:
    """Have each database's writer, whose locks nobody sees, be in a transaction that has spilled; mend, have them
    commit, and count where half a transaction is left.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(writing_unseen(each)) for each in databases]
        for writer, database in zip(writers, databases, strict=True):
            (database.parent / ".writer.pid").write_text(str(writer.pid), encoding="ascii")
            writer.tell("begin")
        mend()
        return sum(_is_torn(writer, database) for writer, database in zip(writers, databases, strict=True))


def _is_torn(writer: Writer, database: Path) -> bool:
    try:
        writer.tell("more")
        writer.tell("COMMIT")
    except (AssertionError, BrokenPipeError):  # SQLite has failed in its hands: a disk I/O error
        pass
    writer.kill()
    with closing(sqlite3.connect(database)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return True
        as_before = connection.execute("SELECT count(*) FROM t WHERE body = zeroblob(900)").fetchone()[0]
    return as_before not in {ROWS, ROWS - ONE_TRANSACTION}


def told_by_the_readme(name: str) -> str:
    """What the column on a living writer says of an alternative."""
    found = [cells[3] for cells in rows("Alternatives") if cells[0] == name]
    assert len(found) == 1, f"the README has {len(found)} rows for {name}"
    return found[0]


def test_the_table_names_all_that_are_measured_here() -> None:
    measured = {cells[0] for cells in rows("Alternatives") if " of " in cells[3]}
    assert measured == {*ALTERNATIVES, OURS}


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_who_does_not_ask_tears_the_transactions_of_living_writers(name: str, tree: list[Path]) -> None:
    def mend() -> None:
        for each in tree:
            ALTERNATIVES[name](each)

    assert f"{torn_by(mend, tree)} of {ROUNDS} torn" == told_by_the_readme(name)


def test_journal_watcher_asks_and_tears_none(runner: Runner, tree: list[Path]) -> None:
    runner.configure(owner={"pid_file": ".writer.pid"})
    outcomes: list[str] = []

    def ask() -> None:
        outcomes.extend(each["outcome"] for each in runner.json("recover"))

    assert f"{torn_by(ask, tree)} of {ROUNDS} torn" == told_by_the_readme(OURS)
    assert outcomes == ["waiting"] * ROUNDS


@pytest.mark.parametrize("mend", [by_the_shell, by_a_script])
def test_where_the_writer_has_been_killed_each_of_them_mends(mend: Mend, tree: list[Path]) -> None:
    crash(tree[0])
    mend(tree[0])
    assert not journal_of(tree[0]).exists()


def test_beside_a_writer_whose_locks_are_seen_sqlite_itself_refuses(tree: list[Path]) -> None:
    with writing(tree[0]) as writer:
        writer.tell("begin")
        before = journal_of(tree[0]).read_bytes()
        by_the_shell(tree[0])
        assert journal_of(tree[0]).read_bytes() == before
        writer.tell("COMMIT")


def test_a_patient_host_is_told_776_at_once_and_again_and_again(tree: list[Path]) -> None:
    crash(tree[0])
    for _ in range(3):
        began = time.monotonic()
        patient = sqlite3.connect(f"{tree[0].as_uri()}?mode=ro", uri=True, timeout=60)
        with closing(patient), pytest.raises(sqlite3.OperationalError) as raised:
            patient.execute("SELECT count(*) FROM t")
        assert raised.value.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK
        assert time.monotonic() - began < 30
    assert journal_of(tree[0]).exists()
