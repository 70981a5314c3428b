"""When races are no races any more: a journal that stands still, and who is told."""

from __future__ import annotations

import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.test_races import coded, listening
from tests.writers import ROWS, crash, make_database, recover, writing_unseen
from watcher import RACED, Poller
from watcher.stillness import JournalLook, Stillness, look_beside

if TYPE_CHECKING:
    from loguru import Record

STALE_AFTER = 0.15
ONE_LOOK = JournalLook(device=1, inode=2, size_bytes=4616, mtime_ns=1_000_000_000)


def count_rows(connection: sqlite3.Connection) -> int:
    rows: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    return rows


def poll_until(poller: Poller[int], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 40 s"
        assert poller.poll() is RACED
        time.sleep(0.005)


def poll_for(poller: Poller[int], seconds: float, before_each: Callable[[], object] = lambda: None) -> None:
    end, least = time.monotonic() + seconds, poller.stats.polls + 3
    while time.monotonic() < end or poller.stats.polls < least:
        before_each()
        assert poller.poll() is RACED


def warnings_of(heard: list[Record]) -> list[Record]:
    return [each for each in heard if each["level"].name != "DEBUG"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "outbound.db"
    make_database(path)
    return path


@pytest.fixture
def stale() -> list[Path]:
    """What `on_stale` was called with."""
    return []


@pytest.fixture
def poller(database: Path, stale: list[Path]) -> Poller[int]:
    return Poller(database, count_rows, stale_after=STALE_AFTER, on_stale=stale.append, interval=0.01)


@pytest.fixture
def heard() -> Iterator[list[Record]]:
    with listening() as records:
        yield records


class TestStaleJournal:
    def test_a_killed_writers_journal_is_told_once(
        self, database: Path, poller: Poller[int], stale: list[Path], heard: list[Record]
    ) -> None:
        crash(database)
        before = time.monotonic()
        poll_until(poller, lambda: stale)
        assert time.monotonic() - before >= STALE_AFTER
        poll_for(poller, 3 * STALE_AFTER)
        assert stale == [database]
        [record] = warnings_of(heard)
        assert (record["level"].name, record["extra"]) == (
            "WARNING",
            {"event": "stale_journal", "database": str(database)},
        )
        assert record["message"].endswith(f"journal-watcher explain {shlex.quote(str(database))}")

    def test_after_a_recovery_the_next_crash_is_told_again(
        self, database: Path, poller: Poller[int], stale: list[Path]
    ) -> None:
        crash(database)
        poll_until(poller, lambda: stale)
        recover(database)
        assert poller.poll() == ROWS
        crash(database)
        poll_until(poller, lambda: len(stale) == 2)

    def test_a_journal_that_grows_is_never_stale(
        self, database: Path, poller: Poller[int], stale: list[Path], heard: list[Record]
    ) -> None:
        with writing_unseen(database) as writer:
            writer.tell("begin")
            deadline = time.monotonic() + 3 * STALE_AFTER
            while time.monotonic() < deadline or not poller.stats.polls:
                for _ in range(5):
                    writer.tell("more")
                    assert poller.poll() is RACED
                writer.tell("COMMIT")
                writer.tell("begin")
        assert poller.stats.streak == poller.stats.polls >= 5
        assert (stale, warnings_of(heard)) == ([], [])

    def test_a_busy_writer_whose_every_transaction_meets_a_poll_is_never_stale(
        self, database: Path, poller: Poller[int], stale: list[Path]
    ) -> None:
        with writing_unseen(database) as writer:

            def next_transaction() -> None:
                writer.tell("COMMIT")
                writer.tell("begin")

            writer.tell("begin")
            poll_for(poller, 3 * STALE_AFTER, before_each=next_transaction)
        assert poller.stats.streak == poller.stats.polls >= 3
        assert stale == []

    def test_the_clock_starts_anew_when_the_journal_changes(self, database: Path, stale: list[Path]) -> None:
        poller = Poller(database, count_rows, stale_after=3.0, on_stale=stale.append)
        with writing_unseen(database) as writer:
            writer.tell("begin")
            poll_for(poller, 0.3)
            writer.tell("more")
            changed = time.monotonic()
            poll_until(poller, lambda: stale)
        assert time.monotonic() - changed >= 3.0

    def test_a_journal_is_found_through_a_symlink_to_the_database(self, database: Path, tmp_path: Path) -> None:
        crash(database)
        link = tmp_path / "elsewhere"
        link.symlink_to(database)
        stale: list[str] = []
        poll_until(Poller(str(link), count_rows, stale_after=STALE_AFTER, on_stale=stale.append), lambda: stale)
        assert stale == [str(link)]

    def test_races_without_a_journal_are_never_stale(self, database: Path, stale: list[Path]) -> None:
        def read(_: sqlite3.Connection) -> int:
            raise coded(264)

        poller = Poller(database, read, stale_after=STALE_AFTER, on_stale=stale.append)
        poll_for(poller, 2 * STALE_AFTER)
        assert stale == []

    def test_an_error_in_between_starts_another_streak(
        self, database: Path, stale: list[Path], heard: list[Record]
    ) -> None:
        errors: list[Exception] = []

        def read(connection: sqlite3.Connection) -> int:
            if errors:
                raise errors.pop()
            return count_rows(connection)

        poller = Poller(database, read, stale_after=STALE_AFTER, on_stale=stale.append)
        crash(database)
        poll_until(poller, lambda: stale)
        errors.append(coded(5))
        with pytest.raises(sqlite3.OperationalError):
            poller.poll()
        again = time.monotonic()
        poll_until(poller, lambda: len(stale) == 2)
        assert time.monotonic() - again >= STALE_AFTER
        assert len(warnings_of(heard)) == 2

    def test_run_tells_it_and_reads_on_after_the_recovery(
        self, database: Path, poller: Poller[int], heard: list[Record]
    ) -> None:
        crash(database)
        stop = threading.Event()
        thread = threading.Thread(target=poller.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 40
        while not warnings_of(heard) and time.monotonic() < deadline:
            stop.wait(0.01)
        recover(database)
        while poller.stats.streak and time.monotonic() < deadline:
            stop.wait(0.01)
        stop.set()
        thread.join(10)
        assert [each["extra"]["event"] for each in warnings_of(heard)] == ["stale_journal"]
        assert poller.stats.streak == poller.stats.errors == 0


class TestOnStale:
    def test_what_it_raises_is_told_and_the_poll_is_still_a_race(self, database: Path, heard: list[Record]) -> None:
        def fail(_: Path) -> None:
            raise RuntimeError("no recovery today")

        crash(database)
        poller = Poller(database, count_rows, stale_after=STALE_AFTER, on_stale=fail)
        poll_until(poller, lambda: len(warnings_of(heard)) == 2)
        record = warnings_of(heard)[1]
        assert (record["level"].name, record["extra"]["event"]) == ("ERROR", "on_stale_failed")
        assert "RuntimeError: no recovery today" in record["message"]
        assert record["exception"] is not None

    def test_it_may_recover_and_poll_by_itself(self, database: Path) -> None:
        values: list[object] = []

        def heal(path: Path) -> None:
            recover(path)
            values.append(healing.poll())

        crash(database)
        healing: Poller[int] = Poller(database, count_rows, stale_after=STALE_AFTER, on_stale=heal)
        poll_until(healing, lambda: values)
        assert values == [ROWS]
        assert healing.stats.streak == 0


class TestStillness:
    @pytest.mark.parametrize("change", [{"device": 9}, {"inode": 9}, {"size_bytes": 9}, {"mtime_ns": 9}], ids=str)
    def test_any_change_starts_the_clock_anew(self, change: dict[str, int]) -> None:
        stillness, _ = Stillness().after_race(ONE_LOOK, 100.0, 30)
        stillness, told = stillness.after_race(ONE_LOOK._replace(**change), 140.0, 30)
        assert not told
        assert stillness.since == 140.0

    def test_a_journal_that_was_gone_in_between_starts_the_clock_anew(self) -> None:
        stillness = Stillness()
        for journal, now in ((ONE_LOOK, 100.0), (None, 120.0), (ONE_LOOK, 140.0)):
            stillness, told = stillness.after_race(journal, now, 30)
            assert not told
        assert stillness.since == 140.0

    def test_it_is_told_at_its_time_and_once_a_streak_even_of_another_journal(self) -> None:
        other = ONE_LOOK._replace(inode=9)
        stillness, told = Stillness(), []
        for journal, now in (
            (ONE_LOOK, 0),
            (ONE_LOOK, 29.9),
            (ONE_LOOK, 30),
            (ONE_LOOK, 90),
            (other, 91),
            (other, 200),
        ):
            stillness, tell = stillness.after_race(journal, now, 30)
            told.append(tell)
        assert told == [False, False, True, False, False, False]

    def test_a_look_finds_no_journal_where_there_is_none_or_none_to_be_seen(self, database: Path) -> None:
        assert look_beside(str(database)) is None
        assert look_beside(str(database / "below-a-file")) is None
