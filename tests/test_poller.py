"""What a host gets from a poll, from `run` and from `arun`, on real databases with real writers."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, assert_type

import apsw
import pytest
import sqlalchemy

from tests.test_races import coded, listening
from tests.writers import ROWS, Writer, make_database, writing, writing_unseen
from watcher import RACED, Poller, tolerate_races
from watcher.poller import Stats, next_tick
from watcher.races import Raced

QUERY = "SELECT count(*) FROM t"
NEVER_AGAIN = 3600.0  # an interval, seconds: only the first poll of a loop happens


def count_rows(connection: sqlite3.Connection) -> int:
    rows: int = connection.execute(QUERY).fetchone()[0]
    return rows


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 40 s"
        time.sleep(0.002)


def races_reach(poller: Poller[Any], number: int) -> bool:
    return poller.stats.races >= number


@contextmanager
def running(poller: Poller[Any]) -> Iterator[threading.Thread]:
    """The poller's `run` in a thread, stopped and joined at the end."""
    stop = threading.Event()
    thread = threading.Thread(target=poller.run, args=(stop,))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "outbound.db"
    make_database(path)
    return path


@pytest.fixture
def unseen_writer(database: Path) -> Iterator[Writer]:
    with writing_unseen(database) as writer:
        writer.tell("begin")
        yield writer


class Kept:
    """Connections that stay to be looked at: `closed` tells how many of those opened were closed."""

    def __init__(self, at_close: BaseException | None = None) -> None:
        self.opened = self.closed = 0
        self._at_close = at_close

    def connect(self, _: object) -> Kept:
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1
        if self._at_close is not None:
            raise self._at_close


class TestPoll:
    def test_it_returns_what_read_returns(self, database: Path) -> None:
        poller = Poller(database, count_rows)
        value = poller.poll()
        assert_type(value, int | Raced)
        assert value == ROWS
        assert poller.stats == Stats(polls=1)

    def test_a_value_that_is_falsy_is_no_race(self, database: Path) -> None:
        poller = Poller(database, lambda connection: connection.execute("SELECT 1 WHERE 0").fetchall())
        assert poller.poll() == []
        assert poller.stats == Stats(polls=1)

    def test_a_race_is_raced_and_told_at_debug_and_heals(self, database: Path, unseen_writer: Writer) -> None:
        poller = Poller(database, count_rows)
        with listening() as heard:
            assert poller.poll() is RACED
            assert poller.poll() is RACED
        assert poller.stats == Stats(polls=2, races=2, streak=2)
        assert [(each["level"].name, each["extra"]) for each in heard] == [
            ("DEBUG", {"event": "readonly_race", "database": str(database)})
        ] * 2
        unseen_writer.tell("COMMIT")
        assert poller.poll() == ROWS
        assert poller.stats == Stats(polls=3, races=2, streak=0)

    def test_every_other_error_is_raised_as_it_is(self, database: Path) -> None:
        error = ValueError("a bug of the host")

        def read(_: sqlite3.Connection) -> None:
            raise error

        poller = Poller(database, read)
        with listening() as heard, pytest.raises(ValueError, match="a bug of the host") as raised:
            poller.poll()
        assert raised.value is error
        assert poller.stats == Stats(polls=1, errors=1)
        assert heard == []

    def test_an_error_ends_a_streak_of_races(self, database: Path, unseen_writer: Writer) -> None:
        assert unseen_writer
        errors: list[Exception] = []

        def read(connection: sqlite3.Connection) -> int:
            if errors:
                raise errors.pop()
            return count_rows(connection)

        poller = Poller(database, read)
        poller.poll()
        errors.append(coded(5))
        with pytest.raises(sqlite3.OperationalError):
            poller.poll()
        assert poller.stats == Stats(polls=2, races=1, errors=1, streak=0)

    def test_a_read_that_tolerates_races_by_itself_is_counted_and_told_once(
        self, database: Path, unseen_writer: Writer
    ) -> None:
        assert unseen_writer
        poller = Poller(database, tolerate_races(database)(count_rows))
        with listening() as heard:
            assert poller.poll() is RACED
        assert poller.stats == Stats(polls=1, races=1, streak=1)
        assert len(heard) == 1

    def test_polls_of_many_threads_are_all_counted(self, database: Path) -> None:
        poller = Poller(database, count_rows)
        threads = [threading.Thread(target=lambda: [poller.poll() for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert poller.stats == Stats(polls=200)


class TestDefaultConnection:
    def test_it_cannot_write(self, database: Path) -> None:
        poller = Poller(database, lambda connection: connection.execute("DELETE FROM t"))
        with pytest.raises(sqlite3.OperationalError) as raised:
            poller.poll()
        assert raised.value.sqlite_errorname == "SQLITE_READONLY"

    def test_it_waits_a_second_for_a_lock(self, database: Path) -> None:
        poller = Poller(database, lambda connection: connection.execute("PRAGMA busy_timeout").fetchone())
        assert poller.poll() == (1000,)

    def test_it_is_closed_after_the_read(self, database: Path) -> None:
        connection = Poller(database, lambda connection: connection).poll()
        assert connection is not RACED
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")

    def test_it_makes_no_database_where_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            Poller(tmp_path / "absent.db", count_rows).poll()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "name",
        [
            *("a?mode=memory.db", "a#b.db", "100%.db", "%41.db", " a b ", "a\nb.db", "a\\b.db", "\u00fc\u202e.db"),
            *(":memory:", "file:a.db", "file::memory:?cache=shared", "a&b=c'd\"e.db", "-", "..db"),
            os.fsdecode(b"\xff\xfe\x80.db"),
        ],
        ids=ascii,
    )
    def test_every_name_that_a_file_may_have_is_only_a_name(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / name
        make_database(path)
        monkeypatch.chdir(tmp_path)
        assert Poller(path, count_rows).poll() == ROWS
        assert Poller(name, count_rows).poll() == ROWS
        assert Poller(f"/{path}", count_rows).poll() == ROWS

    def test_a_parent_directory_is_that_of_a_symlinks_target(self, database: Path, tmp_path: Path) -> None:
        (tmp_path / "sessions" / "s1").mkdir(parents=True)
        (tmp_path / "current").symlink_to("sessions/s1")
        database.rename(tmp_path / "sessions" / "outbound.db")
        assert Poller(tmp_path / "current" / ".." / "outbound.db", count_rows).poll() == ROWS


class TestOtherConnections:
    def test_apsw(self, database: Path, unseen_writer: Writer) -> None:
        def connect(path: Path) -> apsw.Connection:
            return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

        poller = Poller(database, lambda connection: connection.execute(QUERY).get, connect=connect)
        assert poller.poll() is RACED
        unseen_writer.tell("COMMIT")
        assert poller.poll() == ROWS

    def test_sqlalchemy(self, database: Path, unseen_writer: Writer) -> None:
        engine = sqlalchemy.create_engine(f"sqlite:///{database.as_uri()}?mode=ro&uri=true")

        def read(connection: sqlalchemy.Connection) -> int:
            return int(connection.scalar(sqlalchemy.text(QUERY)) or 0)

        poller = Poller(database, read, connect=lambda _: engine.connect())
        try:
            assert poller.poll() is RACED
            unseen_writer.tell("COMMIT")
            assert poller.poll() == ROWS
        finally:
            engine.dispose()

    def test_connect_is_given_the_database_as_the_host_gave_it(self, database: Path) -> None:
        given: list[Path] = []

        def connect(path: Path) -> sqlite3.Connection:
            given.append(path)
            return sqlite3.connect(path)

        assert Poller(database, count_rows, connect=connect).poll() == ROWS
        assert given == [database]
        assert given[0] is database

    def test_a_race_while_connecting_is_a_race(self, database: Path, unseen_writer: Writer) -> None:
        assert unseen_writer

        def connect(path: Path) -> sqlite3.Connection:
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
            try:
                count_rows(connection)
            except sqlite3.Error:
                connection.close()
                raise
            return connection

        poller = Poller(database, count_rows, connect=connect)
        assert poller.poll() is RACED
        assert poller.stats == Stats(polls=1, races=1, streak=1)

    @pytest.mark.parametrize("error", [None, ValueError(), coded(776), KeyboardInterrupt()], ids=repr)
    def test_each_connection_is_closed_once_however_the_read_ends(self, error: BaseException | None) -> None:
        kept = Kept()

        def read(_: object) -> None:
            if error is not None:
                raise error

        try:
            Poller("outbound.db", read, connect=kept.connect).poll()
        except (ValueError, KeyboardInterrupt) as raised:
            assert raised is error  # noqa: PT017 - only two of the four ends raise
        assert (kept.opened, kept.closed) == (1, 1)

    def test_a_race_while_closing_is_a_race(self) -> None:
        poller = Poller("outbound.db", lambda _: 1, connect=Kept(at_close=coded(776)).connect)
        assert poller.poll() is RACED

    def test_a_race_while_closing_does_not_hide_a_bug_in_the_read(self) -> None:
        def read(_: object) -> None:
            raise ValueError("a bug")

        with pytest.raises(ValueError, match="a bug") as raised:
            Poller("outbound.db", read, connect=Kept(at_close=coded(776)).connect).poll()
        assert "Closing the connection failed too" in raised.value.__notes__[0]

    def test_a_race_in_the_read_does_not_hide_an_error_while_closing(self) -> None:
        def read(_: object) -> None:
            raise coded(776)

        poller = Poller("outbound.db", read, connect=Kept(at_close=OSError("no space")).connect)
        with pytest.raises(OSError, match="no space"):
            poller.poll()
        assert poller.stats == Stats(polls=1, errors=1)


class TestWhatIsRefused:
    @pytest.mark.parametrize("interval", [0, -1, math.nan, math.inf, 1e12])
    def test_an_impossible_interval(self, interval: float) -> None:
        with pytest.raises(ValueError, match="interval must be"):
            Poller("outbound.db", count_rows, interval=interval)

    @pytest.mark.parametrize("stale_after", [0, -1, math.nan])
    def test_an_impossible_stale_after(self, stale_after: float) -> None:
        with pytest.raises(ValueError, match="stale_after must be"):
            Poller("outbound.db", count_rows, stale_after=stale_after)

    @pytest.mark.parametrize("name", ["", "out\0bound.db"])
    def test_a_name_that_no_file_has(self, name: str) -> None:
        with pytest.raises(ValueError, match="must be the path of a file"):
            Poller(name, count_rows)

    def test_what_is_no_path(self) -> None:
        for thing in (5, None, b"outbound.db"):
            database: Any = thing
            with pytest.raises(TypeError):
                Poller(database, count_rows)

    @pytest.mark.parametrize("role", ["read", "connect", "on_stale"])
    def test_a_callback_that_is_async_or_a_generator_or_nothing_to_call(self, role: str) -> None:
        async def coroutine(_: object) -> None: ...

        async def later(_: object) -> AsyncIterator[int]:
            yield 1

        def generator(_: object) -> Iterator[int]:
            yield 1

        for function in (coroutine, later, generator, 5):
            callbacks: dict[str, Any] = {"read": count_rows, role: function}
            with pytest.raises(TypeError, match=f"{role} must be a"):
                Poller("outbound.db", **callbacks)


class TestPace:
    def test_ticks_lie_on_a_grid_so_that_lateness_does_not_add_up(self) -> None:
        assert [next_tick(tick, tick * 1.0 + 0.3, 1.0) for tick in range(4)] == [1, 2, 3, 4]

    def test_a_poll_that_outlasts_ticks_skips_them(self) -> None:
        assert next_tick(2, 5.4, 1.0) == 6

    def test_a_wait_that_ends_early_does_not_bring_the_same_tick_twice(self) -> None:
        assert next_tick(3, 0.3 - 1e-9, 0.1) == 4

    def test_run_polls_at_most_once_a_tick_also_after_a_long_poll(self, database: Path) -> None:
        starts: list[float] = []

        def read(_: sqlite3.Connection) -> None:
            starts.append(time.monotonic())
            if len(starts) == 2:
                time.sleep(0.1)  # a poll of five ticks

        with running(Poller(database, read, interval=0.02)):
            wait_until(lambda: len(starts) >= 8)
        assert starts[7] - starts[2] > 3.9 * 0.02, "the polls that were missed came in a burst"


class TestRun:
    def test_it_polls_at_once_and_goes_on_until_it_is_stopped(self, database: Path) -> None:
        poller = Poller(database, count_rows, interval=0.01)
        with running(poller):
            wait_until(lambda: poller.stats.polls >= 3)
        assert poller.stats.errors == 0

    def test_stop_ends_a_long_wait_at_once(self, database: Path) -> None:
        poller = Poller(database, count_rows, interval=NEVER_AGAIN)
        with running(poller):
            wait_until(lambda: poller.stats.polls == 1)
            before = time.monotonic()
        assert time.monotonic() - before < 5

    def test_it_does_nothing_when_it_is_stopped_beforehand(self, database: Path) -> None:
        poller = Poller(database, count_rows)
        stop = threading.Event()
        stop.set()
        poller.run(stop)
        assert poller.stats == Stats()

    def test_an_error_is_told_with_its_traceback_and_the_polling_goes_on(self, database: Path) -> None:
        def read(_: sqlite3.Connection) -> None:
            raise LookupError("two\nlines")

        poller = Poller(database, read, interval=0.01)
        with listening() as heard, running(poller):
            wait_until(lambda: poller.stats.errors >= 2)
        record = heard[0]
        assert (record["level"].name, record["extra"]) == ("ERROR", {"event": "poll_failed", "database": str(database)})
        assert record["message"] == f"polling {database} failed: LookupError: two; polling again within 0.01 s"
        assert record["exception"] is not None
        assert isinstance(record["exception"].value, LookupError)

    def test_an_error_that_has_no_text_does_not_end_the_polling(self, database: Path) -> None:
        class UnprintableError(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

        def read(_: sqlite3.Connection) -> None:
            raise UnprintableError

        poller = Poller(database, read, interval=0.01)
        with listening() as heard, running(poller):
            wait_until(lambda: poller.stats.errors >= 2)
        assert "UnprintableError" in heard[0]["message"]

    def test_a_locked_database_is_a_warning(self, database: Path) -> None:
        def connect(path: Path) -> sqlite3.Connection:
            return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)

        poller = Poller(database, count_rows, connect=connect, interval=0.01)
        with writing(database) as writer, listening() as heard:
            writer.tell("BEGIN EXCLUSIVE")
            with running(poller):
                wait_until(lambda: poller.stats.errors >= 1)
                writer.tell("COMMIT")
                wait_until(lambda: poller.stats.polls > poller.stats.errors)
        assert {(each["level"].name, each["extra"]["event"]) for each in heard} == {("WARNING", "poll_busy")}
        assert "database is locked" in heard[0]["message"]

    def test_races_of_a_busy_unseen_writer_are_debug_only(self, database: Path) -> None:
        poller = Poller(database, lambda connection: connection.execute("SELECT 1 FROM t").fetchone(), interval=0.001)
        with listening() as heard, writing_unseen(database) as writer, running(poller):
            for transaction in range(1, 6):
                writer.tell("begin")
                wait_until(partial(races_reach, poller, transaction))
                writer.tell("COMMIT")
        assert {(each["level"].name, each["extra"]["event"]) for each in heard} == {("DEBUG", "readonly_race")}

    @pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
    def test_what_ends_a_program_ends_it(self, ending: type[BaseException], database: Path) -> None:
        def read(_: sqlite3.Connection) -> None:
            raise ending

        with listening() as heard, pytest.raises(ending):
            Poller(database, read).run(threading.Event())
        assert heard == []


class TestArun:
    def test_it_polls_in_other_threads_while_the_loop_goes_on(self, database: Path) -> None:
        threads: list[threading.Thread] = []
        go_on = threading.Event()

        def read(_: sqlite3.Connection) -> None:
            threads.append(threading.current_thread())
            assert go_on.wait(40), "the event loop stands still while a poll is under way"

        async def host() -> None:
            polling = asyncio.create_task(Poller(database, read, interval=0.01).arun())
            await asyncio.to_thread(wait_until, lambda: threads)
            go_on.set()
            await asyncio.to_thread(wait_until, lambda: len(threads) >= 3)
            polling.cancel()

        asyncio.run(asyncio.wait_for(host(), 60))
        assert threading.main_thread() not in threads

    def test_cancelling_takes_effect_while_a_poll_is_under_way(self, database: Path) -> None:
        entered, go_on = threading.Event(), threading.Event()

        def read(connection: sqlite3.Connection) -> int:
            entered.set()
            go_on.wait(60)
            return count_rows(connection)

        poller = Poller(database, read)

        async def host() -> None:
            polling = asyncio.create_task(poller.arun())
            await asyncio.to_thread(entered.wait, 40)
            polling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(polling, 20)
            assert poller.stats == Stats()
            go_on.set()

        asyncio.run(host())
        wait_until(lambda: poller.stats == Stats(polls=1))

    def test_cancelling_ends_a_long_wait_at_once(self, database: Path) -> None:
        poller = Poller(database, count_rows, interval=NEVER_AGAIN)

        async def host() -> None:
            polling = asyncio.create_task(poller.arun())
            await asyncio.to_thread(wait_until, lambda: poller.stats.polls == 1)
            polling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(polling, 40)

        asyncio.run(host())
        assert poller.stats == Stats(polls=1)

    def test_errors_are_told_and_races_are_not_errors(self, database: Path, unseen_writer: Writer) -> None:
        def read(connection: sqlite3.Connection) -> int:
            count_rows(connection)
            raise LookupError

        poller = Poller(database, read, interval=0.01)

        async def host() -> None:
            polling = asyncio.create_task(poller.arun())
            await asyncio.to_thread(wait_until, lambda: poller.stats.races >= 2)
            await asyncio.to_thread(unseen_writer.tell, "COMMIT")
            await asyncio.to_thread(wait_until, lambda: poller.stats.errors >= 2)
            polling.cancel()

        with listening() as heard:
            asyncio.run(host())
        told = {(each["level"].name, each["extra"]["event"]) for each in heard}
        assert told == {("DEBUG", "readonly_race"), ("ERROR", "poll_failed")}

    def test_what_ends_a_program_ends_it(self, database: Path) -> None:
        def read(_: sqlite3.Connection) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            asyncio.run(Poller(database, read).arun())
