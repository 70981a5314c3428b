"""Read-only races: telling them from every other SQLite error, and tolerating them.

A read-only connection may not roll a journal back. When it meets one that SQLite holds for hot it fails with
SQLITE_READONLY_ROLLBACK, and in WAL mode with one of its siblings, though nothing need be wrong: a writer that lives
is between its journal's first write and its end, and the next read succeeds. Every other member of the
SQLITE_READONLY family is a bug or a broken set-up, and never hidden here.

The codes are those of https://www.sqlite.org/rescode.html.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum, StrEnum
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeVar, overload

from loguru import logger

from watcher.names import printable

__all__ = [
    "RACED",
    "ErrorClass",
    "Raced",
    "Tolerance",
    "classify",
    "is_async",
    "is_generator",
    "is_readonly_race",
    "log_race",
    "tolerate_races",
]

P = ParamSpec("P")
T = TypeVar("T")

_READONLY: Final = 8
_BUSY: Final = 5
_LOCKED: Final = 6
_LONGEST_CHAIN: Final = 100  # an attribute may make up a new exception each time it is asked
_RACES: Final = {
    264: "SQLITE_READONLY_RECOVERY",
    520: "SQLITE_READONLY_CANTLOCK",
    776: "SQLITE_READONLY_ROLLBACK",
    1288: "SQLITE_READONLY_CANTINIT",
}


class ErrorClass(StrEnum):
    """What an error means for somebody who reads.

    Attributes:
        RACE: the read met a writer's transaction, live or dead; read again later.
        READONLY: the rest of the SQLITE_READONLY family: a bug or a broken set-up.
        BUSY: SQLITE_BUSY or SQLITE_LOCKED: somebody holds a lock.
        OTHER: everything else.
    """

    RACE = "race"
    READONLY = "readonly"
    BUSY = "busy"
    OTHER = "other"


class Raced(Enum):
    """The type of :data:`RACED`. An enum of one member, so that it is one object after pickling and copying, and a type
    checker narrows `T | Raced` by `is RACED` and, where T is never falsy, by truth."""

    RACED = "raced"

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "RACED"

    __str__ = __repr__


RACED: Final = Raced.RACED
"""What a poll returns in place of a value when it met a race. It is falsy."""


def classify(error: object) -> ErrorClass:
    """Tell what an error means for somebody who reads, by its SQLite code alone, never by its message.

    An exception that carries a code decides: `sqlite_errorcode` (sqlite3, aiosqlite) or `extendedresult` (apsw). One
    that carries none speaks through what it wraps: `orig` (SQLAlchemy) first, then `__cause__`. `__context__` is never
    followed: an error raised while a race was being handled is a bug of the handler. A group of exceptions is OTHER:
    a race in it must not hide its neighbours. So is what is no `Exception` (KeyboardInterrupt, SystemExit,
    CancelledError), whatever its cause: it ends a program or a task, and never passes for a race.

    Args:
        error: usually an exception. Anything else is OTHER.

    Returns:
        The class of the error. It never raises.

    Example:
        try:
            rows = connection.execute("SELECT id FROM messages").fetchall()
        except sqlite3.Error as error:
            if classify(error) is not ErrorClass.RACE:
                raise
    """
    code = _code_of(error)
    if code in _RACES:
        return ErrorClass.RACE
    family = code & 0xFF
    if family == _READONLY:
        return ErrorClass.READONLY
    if family in (_BUSY, _LOCKED):
        return ErrorClass.BUSY
    return ErrorClass.OTHER


def is_readonly_race(error: object) -> bool:
    """Tell whether an error is a read-only race: `classify(error) is ErrorClass.RACE`.

    Args:
        error: anything; what is no exception is no race.

    Returns:
        True for a race.

    Example:
        rows = []
        try:
            rows = session.execute(select(Message)).all()
        except DBAPIError as error:
            if not is_readonly_race(error):
                raise
    """
    return classify(error) is ErrorClass.RACE


def _code_of(error: object) -> int:
    """The SQLite code that speaks for an error; 0 (SQLITE_OK, which no error has) where there is none."""
    waiting = [error]
    seen: dict[int, object] = {}  # by identity: exceptions may define __eq__, and causes may run in a circle
    while waiting and len(seen) < _LONGEST_CHAIN:
        current = waiting.pop()
        if id(current) in seen or not issubclass(type(current), Exception):
            continue
        seen[id(current)] = current
        for attribute in ("sqlite_errorcode", "extendedresult"):
            code = _attribute(current, attribute)
            if isinstance(code, int) and code > 0:
                return code
        waiting += [_attribute(current, "__cause__"), _attribute(current, "orig")]
    return 0


def _attribute(error: object, name: str) -> object:
    # A property of somebody's exception class may raise anything. Then it tells nothing, and must not take the place
    # of the error that the caller is asking about.
    with suppress(Exception):
        value: object = getattr(error, name, None)
        return value
    return None


def log_race(error: object, database: str) -> None:
    """Tell of a race, at DEBUG.

    Args:
        error: the race.
        database: its name, as it is; shown printable.
    """
    shown = printable(database)
    code = _RACES[_code_of(error)]
    logger.bind(event="readonly_race", database=shown).debug(
        f"skipped a read of {shown}: a transaction is under way, or its writer was killed in one ({code}); "
        "the next read will tell"
    )


def tolerate_races(name: str | os.PathLike[str]) -> Tolerance:
    """Tolerate read-only races in a block or a function, and nothing else.

    A race that leaves the block is logged as `readonly_race` at DEBUG and swallowed; a decorated function returns
    :data:`RACED` then. Every other exception passes through untouched. What is returned holds no state: it may be kept,
    nested, and used by any number of threads and tasks at once.

    Args:
        name: the database, for the log.

    Returns:
        A context manager, which is also a decorator for functions and methods, plain and `async`.

    Raises:
        TypeError: `name` is no name. Decorating raises it for a generator (its body runs where no decorator sees it),
            a class, and a `staticmethod` or `classmethod` (decorate the function below them).

    Example:
        @tolerate_races("outbound.db")
        async def unread(connection: aiosqlite.Connection) -> list[Row]:
            return list(await connection.execute_fetchall("SELECT * FROM messages WHERE NOT seen"))

        if (rows := await unread(connection)) is not RACED:
            show(rows)
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f'tolerate_races wants the name of a database, as in @tolerate_races("outbound.db"), not {name!r}'
        )
    return Tolerance(os.fspath(name))


class Tolerance:
    """What :func:`tolerate_races` returns. Immutable, so any thread may use it."""

    __slots__ = ("_database",)

    def __init__(self, database: str) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"tolerate_races({self._database!r})"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not is_readonly_race(error):
            return False
        log_race(error, self._database)
        return True

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T | Raced]]: ...
    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, T | Raced]: ...
    def __call__(self, function: Callable[P, Any]) -> Callable[P, Any]:
        if not callable(function) or isinstance(function, type | staticmethod | classmethod):
            raise TypeError(f"{self!r} decorates functions and methods (below @staticmethod), not {function!r}")
        if is_generator(function):
            raise TypeError(f"{self!r} cannot decorate the generator {function!r}: use it as a context manager inside")
        if is_async(function):

            @functools.wraps(function)
            async def tolerant_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)
                return RACED

            return tolerant_async

        @functools.wraps(function)
        def tolerant(*args: P.args, **kwargs: P.kwargs) -> Any:
            with self:
                return function(*args, **kwargs)
            return RACED

        return tolerant


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine: an `async def`, or an object whose `__call__` is one."""
    return _is_kind(inspect.iscoroutinefunction, function)


def is_generator(function: object) -> bool:
    """Whether calling it gives a generator, plain or asynchronous, and runs nothing of its body yet."""
    return _is_kind(inspect.isgeneratorfunction, function) or _is_kind(inspect.isasyncgenfunction, function)


def _is_kind(test: Callable[[object], bool], function: object) -> bool:
    return test(function) or test(getattr(type(function), "__call__", None))  # noqa: B004 - its code, not whether it is
