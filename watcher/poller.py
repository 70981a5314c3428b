"""The read-only poll of a host program.

It stands alone: beside the standard library it needs loguru, :mod:`watcher.races` and :mod:`watcher.stillness`, and
nothing of the service.
"""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from loguru import logger

from watcher.names import printable
from watcher.races import RACED, ErrorClass, Raced, classify, is_async, is_generator, is_readonly_race, log_race
from watcher.stillness import Stillness, look_beside

__all__ = ["Poller", "Stats"]

_BUSY_TIMEOUT_S: Final = 1.0


class Closable(Protocol):
    """A connection, as far as the poller cares."""

    def close(self) -> object: ...


T = TypeVar("T")
ConnectionT = TypeVar("ConnectionT", bound=Closable)
PathT = TypeVar("PathT", bound="str | os.PathLike[str]")


@dataclass(frozen=True, slots=True)
class Stats:
    """The polls of one poller up to a moment. Never changed: each finished poll puts a new one in its place.

    Attributes:
        polls: polls that have finished, in whatever way.
        races: those that met a race.
        errors: those that raised anything else, SQLITE_BUSY among it.
        streak: races in a row up to now; 0 after a value or an error.
    """

    polls: int = 0
    races: int = 0
    errors: int = 0
    streak: int = 0


class Poller(Generic[T]):
    """Polls one database read-only, tells races from errors, and a journal that nobody will finish from both.

    Against a busy writer whose locks cannot be seen most polls may race, and nothing is wrong. But when every poll for
    `stale_after` seconds has raced, and the journal beside the database was the same file with the same size and mtime
    all the while, nobody is working on it: its writer was killed. That is told by one WARNING `stale_journal` and one
    call of `on_stale`, once per streak of races.

    Threads: the methods may be called from any thread, `read`, `connect` and `on_stale` run in the thread of the poll
    (for `arun` one of asyncio's pool), and each poll has a connection of its own. `stats` belongs to the poll that
    finishes; what a reader gets is a snapshot that no one changes.

    Args:
        database: path of the database. A relative one is resolved at each poll.
        read: is given the connection and returns the value of the poll. The connection is closed when it returns, so
            the value must not need it any more. For `run` and `arun`, which drop the value, it does the work itself.
        interval: seconds from the beginning of one poll to the beginning of the next.
        connect: is given `database` and returns a new connection with a `close` method, in place of the default:
            sqlite3, read-only, busy time-out 1 s.
        stale_after: seconds; infinity for never.
        on_stale: is given `database`. What it raises is logged as `on_stale_failed` at ERROR.

    Raises:
        TypeError: `database` is no path, or a callback is none, or is `async`, or a generator.
        ValueError: an impossible path, `interval` or `stale_after`.

    Example:
        def unread(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            return connection.execute("SELECT id, body FROM messages WHERE NOT seen").fetchall()

        for identity, body in Poller("outbound.db", unread).poll() or []:
            deliver(identity, body)
    """

    @overload
    def __init__(
        self,
        database: PathT,
        read: Callable[[sqlite3.Connection], T],
        *,
        interval: float = ...,
        connect: None = ...,
        stale_after: float = ...,
        on_stale: Callable[[PathT], object] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        database: PathT,
        read: Callable[[ConnectionT], T],
        *,
        interval: float = ...,
        connect: Callable[[PathT], ConnectionT],
        stale_after: float = ...,
        on_stale: Callable[[PathT], object] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        database: str | os.PathLike[str],
        read: Callable[[Any], T],
        *,
        interval: float = 1.0,
        connect: Callable[[Any], Closable] | None = None,
        stale_after: float = 30.0,
        on_stale: Callable[[Any], object] | None = None,
    ) -> None:
        path = os.fspath(database)
        if not isinstance(path, str):
            raise TypeError(f"database must be a str or a path of str, not {database!r}")
        if not path or "\0" in path:
            raise ValueError(f"database must be the path of a file, not {database!r}")
        if not 0 < interval <= threading.TIMEOUT_MAX:
            raise ValueError(f"interval must be a number of seconds above 0, not {interval!r}")
        if not stale_after > 0:
            raise ValueError(f"stale_after must be a number of seconds above 0, not {stale_after!r}")
        _require_plain_function("read", read)
        if connect is not None:
            _require_plain_function("connect", connect)
        if on_stale is not None:
            _require_plain_function("on_stale", on_stale)
        self._database = database
        self._path = path
        self._read = read
        self._interval = interval
        self._connect = connect or _connect_read_only
        self._stale_after = stale_after
        self._on_stale = on_stale
        self._bookkeeping = threading.Lock()  # guards the two below; held for moments, never while host code runs
        self._stats = Stats()
        self._stillness = Stillness()

    def __repr__(self) -> str:
        return f"Poller({self._database!r}, {self._read!r}, interval={self._interval!r})"

    @property
    def stats(self) -> Stats:
        """How the polls went until now: `polls`, `races`, `errors`, `streak`."""
        return self._stats

    def poll(self) -> T | Raced:
        """Open the database, read it, close it.

        Returns:
            What `read` returned, or :data:`RACED` where opening, reading or closing met a race.

        Raises:
            Exception: whatever else `connect`, `read` or closing the connection raised, untouched.

        Example:
            value = poller.poll()
            if value is not RACED:
                show(value)
        """
        try:
            value = self._read_once()
        except Exception as error:
            if not is_readonly_race(error):
                self._count_error()
                raise
            log_race(error, self._path)
            self._count_race()
            return RACED
        if value is RACED:  # `read` tolerates races by itself, and has told of this one
            self._count_race()
        else:
            self._count_value()
        return value

    def run(self, stop: threading.Event) -> None:
        """Poll every `interval` seconds, at once for the first time, until `stop` is set.

        An error that is no race is logged, `poll_failed` at ERROR or `poll_busy` at WARNING, and the polling goes on.
        A poll that lasts longer than `interval` skips the polls that it has missed.

        Args:
            stop: ends the polling; a poll under way is finished first.

        Raises:
            BaseException: what is no `Exception`, such as KeyboardInterrupt, ends the polling.

        Example:
            stop = threading.Event()
            thread = threading.Thread(target=poller.run, args=(stop,))
            thread.start()
            ...
            stop.set()
        """
        pace = _Pace(self._interval)
        while not stop.is_set():
            self._poll_and_log()
            stop.wait(pace.pause())

    async def arun(self) -> None:
        """Poll as :meth:`run` does, until the task is cancelled. The polls run in threads of asyncio's pool.

        Cancelling takes effect at once; a poll under way then ends by itself, in its thread.

        Raises:
            BaseException: what is no `Exception`, such as CancelledError, ends the polling.

        Example:
            async with asyncio.TaskGroup() as tasks:
                polling = tasks.create_task(poller.arun())
                await serve()
                polling.cancel()
        """
        pace = _Pace(self._interval)
        while True:
            await asyncio.to_thread(self._poll_and_log)
            await asyncio.sleep(pace.pause())

    def _poll_and_log(self) -> None:
        shown = printable(self._path)
        try:
            self.poll()
        except Exception as error:  # noqa: BLE001 - the top of a loop that must go on
            next_poll = f"polling again within {self._interval:g} s"
            if classify(error) is ErrorClass.BUSY:
                logger.bind(event="poll_busy", database=shown).opt(exception=error).warning(
                    f"polling {shown} found it locked: {_in_one_line(error)}; {next_poll}"
                )
            else:
                logger.bind(event="poll_failed", database=shown).opt(exception=error).error(
                    f"polling {shown} failed: {_in_one_line(error)}; {next_poll}"
                )

    def _read_once(self) -> T:
        connection = self._connect(self._database)
        try:
            value = self._read(connection)
        except BaseException as error:
            try:
                connection.close()
            except Exception as at_close:
                # The error of `read` goes first, or a race at the close would hide a bug in `read`. But a race in
                # `read` does not hide what the close has to say.
                if is_readonly_race(error):
                    raise
                error.add_note(f"Closing the connection failed too: {_in_one_line(at_close)}")
            raise
        connection.close()
        return value

    def _count_value(self) -> None:
        with self._bookkeeping:
            self._stats = replace(self._stats, polls=self._stats.polls + 1, streak=0)
            self._stillness = Stillness()

    def _count_error(self) -> None:
        with self._bookkeeping:
            stats = self._stats
            self._stats = replace(stats, polls=stats.polls + 1, errors=stats.errors + 1, streak=0)
            self._stillness = Stillness()

    def _count_race(self) -> None:
        journal = look_beside(self._path)
        now = time.monotonic()
        with self._bookkeeping:
            stats = self._stats
            self._stats = replace(stats, polls=stats.polls + 1, races=stats.races + 1, streak=stats.streak + 1)
            self._stillness, stale = self._stillness.after_race(journal, now, self._stale_after)
        if stale:
            self._tell_stale()

    def _tell_stale(self) -> None:
        shown = printable(self._path)
        logger.bind(event="stale_journal", database=shown).warning(
            f"the journal of {shown} is stale: every read for {self._stale_after:g} s met it, and it has not changed; "
            "its writer was probably killed in the middle of a transaction. Reads go on failing until it is rolled "
            f"back; what to do tells: journal-watcher explain {shlex.quote(shown)}"
        )
        if self._on_stale is None:
            return
        try:
            self._on_stale(self._database)
        except Exception as error:  # noqa: BLE001 - the host's callback: told, and the poll is still a race
            logger.bind(event="on_stale_failed", database=shown).opt(exception=error).error(
                f"on_stale failed for {shown}: {_in_one_line(error)}; polling goes on, and it is called again only "
                "after a poll that did not race"
            )


class _Pace:
    """Ticks every `interval` seconds from now on, on a fixed grid: a late tick moves no later one, and a poll that has
    outlasted ticks skips them. Owned by the loop that made it."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._start = time.monotonic()
        self._tick = 0

    def pause(self) -> float:
        """Seconds from now to the next tick."""
        elapsed = time.monotonic() - self._start
        self._tick = next_tick(self._tick, elapsed, self._interval)
        return max(0.0, self._tick * self._interval - elapsed)


def next_tick(tick: int, elapsed: float, interval: float) -> int:
    """The number of the tick to wait for: the first one not yet past, and never one that was had already, for a wait
    may end a little early."""
    return max(tick + 1, math.ceil(elapsed / interval))


def _connect_read_only(database: str | os.PathLike[str]) -> sqlite3.Connection:
    # An absolute path, since SQLite takes the bare name ":memory:" in a URI for no file at all; and not normalised,
    # since "a/../b" is another file where a is a symlink.
    uri = Path(database).absolute().as_uri()
    return sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)


def _require_plain_function(role: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{role} must be a function, not {function!r}")
    if is_async(function) or is_generator(function):
        raise TypeError(f"{role} must be a plain function, neither async nor a generator: {function!r}")


def _in_one_line(error: BaseException) -> str:
    # The formatter of tracebacks copes with exceptions that cannot be turned into text.
    text = "".join(traceback.format_exception_only(error)).strip()
    return printable(text.partition("\n")[0])
