"""Which errors are races, on real errors of each library, and what `tolerate_races` lets pass."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type

import aiosqlite
import apsw
import pytest
import sqlalchemy
from loguru import logger

import watcher
from tests.writers import ROWS, Writer, make_database, writing, writing_unseen
from watcher import RACED, ErrorClass, classify, is_readonly_race, tolerate_races
from watcher.races import Raced

if TYPE_CHECKING:
    from loguru import Record

QUERY = "SELECT count(*) FROM t"
RACES = {"RECOVERY": 264, "CANTLOCK": 520, "ROLLBACK": 776, "CANTINIT": 1288}
BUGS = {"DBMOVED": 1032, "DIRECTORY": 1544}
UNKNOWN_READONLY = 8 | 77 << 8


@contextmanager
def listening() -> Iterator[list[Record]]:
    """A host that has enabled the logger, and what it hears."""
    heard: list[Record] = []
    sink = logger.add(lambda message: heard.append(message.record), level=0)
    logger.enable("watcher")
    try:
        yield heard
    finally:
        logger.disable("watcher")
        logger.remove(sink)


def error_of(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the caller looks at it
        action()
    return raised.value


def read_with_sqlite3(database: Path) -> object:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        return connection.execute(QUERY).fetchone()


def read_with_apsw(database: Path) -> object:
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(QUERY).get


def read_with_sqlalchemy(database: Path) -> object:
    engine = sqlalchemy.create_engine(f"sqlite:///{database.as_uri()}?mode=ro&uri=true&timeout=0")
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(QUERY)).scalar_one()
    finally:
        engine.dispose()


def read_with_aiosqlite(database: Path) -> object:
    async def read() -> object:
        async with aiosqlite.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0) as connection:
            return await connection.execute_fetchall(QUERY)

    return asyncio.run(read())


every_library = pytest.mark.parametrize(
    "read", [read_with_sqlite3, read_with_apsw, read_with_sqlalchemy, read_with_aiosqlite]
)


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


@pytest.fixture
def race(database: Path, unseen_writer: Writer) -> Exception:
    assert unseen_writer
    return error_of(lambda: read_with_sqlite3(database))


def coded(code: object, kind: type[Exception] = sqlite3.OperationalError) -> Exception:
    error = kind("attempt to write a readonly database")
    vars(error)["sqlite_errorcode"] = code
    return error


class TestRealErrors:
    @every_library
    def test_a_read_beside_an_unseen_transaction_is_a_race(
        self, read: Callable[[Path], object], database: Path, unseen_writer: Writer
    ) -> None:
        assert classify(error_of(lambda: read(database))) is ErrorClass.RACE
        unseen_writer.tell("COMMIT")
        assert read(database)

    @every_library
    def test_a_database_locked_by_its_writer_is_busy(self, read: Callable[[Path], object], database: Path) -> None:
        with writing(database) as writer:
            writer.tell("BEGIN EXCLUSIVE")
            assert classify(error_of(lambda: read(database))) is ErrorClass.BUSY

    @every_library
    def test_a_table_that_is_not_there_is_something_else(self, read: Callable[[Path], object], tmp_path: Path) -> None:
        (tmp_path / "empty.db").touch()
        assert classify(error_of(lambda: read(tmp_path / "empty.db"))) is ErrorClass.OTHER

    def test_a_write_through_a_read_only_connection_is_a_bug(self, database: Path) -> None:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            error = error_of(lambda: connection.execute("DELETE FROM t"))
        assert classify(error) is ErrorClass.READONLY

    def test_a_write_to_a_database_that_was_moved_away_is_a_bug(self, database: Path) -> None:
        with closing(apsw.Connection(str(database))) as connection:
            connection.execute(QUERY)
            database.rename(database.with_name("moved.db"))
            error = error_of(lambda: connection.execute("DELETE FROM t"))
        assert isinstance(error, apsw.ReadOnlyError)
        assert vars(error)["extendedresult"] == apsw.SQLITE_READONLY_DBMOVED
        assert classify(error) is ErrorClass.READONLY

    def test_a_table_locked_in_a_shared_cache_is_busy(self) -> None:
        shared = "file:shared?mode=memory&cache=shared"
        with closing(sqlite3.connect(shared, uri=True)) as one, closing(sqlite3.connect(shared, uri=True)) as other:
            one.execute("BEGIN")
            one.execute("CREATE TABLE t (x)")
            error = error_of(lambda: other.execute("SELECT * FROM t"))
        assert isinstance(error, sqlite3.OperationalError)
        assert error.sqlite_errorname == "SQLITE_LOCKED_SHAREDCACHE"
        assert classify(error) is ErrorClass.BUSY


class TestCodes:
    @pytest.mark.parametrize(("name", "code"), [*RACES.items(), *BUGS.items()])
    def test_they_are_those_of_sqlite(self, name: str, code: int) -> None:
        assert getattr(sqlite3, f"SQLITE_READONLY_{name}") == code
        assert getattr(apsw, f"SQLITE_READONLY_{name}") == code

    @pytest.mark.parametrize("code", RACES.values())
    def test_four_members_of_the_readonly_family_are_races(self, code: int) -> None:
        assert classify(apsw.exception_for(code)) is ErrorClass.RACE
        assert classify(coded(code)) is ErrorClass.RACE

    @pytest.mark.parametrize("code", [8, *BUGS.values(), UNKNOWN_READONLY])
    def test_the_rest_of_the_readonly_family_is_never_hidden(self, code: int) -> None:
        assert classify(apsw.exception_for(code)) is ErrorClass.READONLY
        assert classify(coded(code)) is ErrorClass.READONLY

    @pytest.mark.parametrize("code", [5, 261, 517, 773, 6, 262, 518, 5 | 99 << 8])
    def test_busy_and_locked_are_busy_with_every_extended_code(self, code: int) -> None:
        assert classify(apsw.exception_for(code)) is ErrorClass.BUSY
        assert classify(coded(code)) is ErrorClass.BUSY

    @pytest.mark.parametrize("code", [0, -248, 1, 10, 11, 14, 1802, 2826, 2**31, 2**80])
    def test_every_other_code_is_other(self, code: int) -> None:
        assert classify(coded(code)) is ErrorClass.OTHER

    @pytest.mark.parametrize("code", [None, "776", 776.0, b"\x03\x08", [776]])
    def test_what_is_no_int_is_no_code(self, code: object) -> None:
        assert classify(coded(code)) is ErrorClass.OTHER


class TestWhatAnErrorSpeaksThrough:
    def test_the_message_never_counts(self) -> None:
        assert classify(sqlite3.OperationalError("attempt to write a readonly database (776)")) is ErrorClass.OTHER

    def test_a_cause_speaks_for_an_error_without_a_code(self, race: Exception) -> None:
        outer, inner = RuntimeError("poll failed"), KeyError("session")
        outer.__cause__, inner.__cause__ = inner, race
        assert classify(outer) is ErrorClass.RACE

    def test_a_context_never_speaks(self, race: Exception) -> None:
        def handle() -> None:
            try:
                raise race
            except sqlite3.Error:
                raise KeyError("a bug in the handler")  # noqa: B904 - that is the point

        error = error_of(handle)
        assert error.__context__ is race
        assert classify(error) is ErrorClass.OTHER

    def test_a_code_of_its_own_decides_against_what_it_wraps(self, race: Exception) -> None:
        constraint = coded(19, sqlite3.IntegrityError)
        constraint.__cause__ = race
        vars(constraint)["orig"] = race
        assert classify(constraint) is ErrorClass.OTHER

    def test_orig_decides_against_the_cause(self, race: Exception) -> None:
        wrapped = sqlalchemy.exc.OperationalError("SELECT 1", {}, coded(8))
        wrapped.__cause__ = race
        assert classify(wrapped) is ErrorClass.READONLY

    def test_the_cause_decides_where_orig_has_no_code(self, race: Exception) -> None:
        wrapped = sqlalchemy.exc.StatementError("no code", "SELECT 1", {}, ValueError("bad parameter"))
        wrapped.__cause__ = race
        assert classify(wrapped) is ErrorClass.RACE

    def test_causes_may_run_in_a_circle(self) -> None:
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        vars(one)["orig"] = one
        assert classify(one) is ErrorClass.OTHER

    def test_a_chain_that_makes_itself_up_comes_to_an_end(self) -> None:
        class EndlessError(Exception):
            @property
            def orig(self) -> Exception:
                return EndlessError()

        assert classify(EndlessError()) is ErrorClass.OTHER

    def test_attributes_that_raise_tell_nothing(self, race: Exception) -> None:
        class BrokenError(Exception):
            @property
            def sqlite_errorcode(self) -> int:
                raise ZeroDivisionError

            @property
            def orig(self) -> Exception:
                raise LookupError

        error = BrokenError()
        assert classify(error) is ErrorClass.OTHER
        error.__cause__ = race
        assert classify(error) is ErrorClass.RACE

    def test_a_code_may_come_from_a_property_or_the_class(self) -> None:
        class ByClassError(Exception):
            extendedresult = 776

        class ByPropertyError(Exception):
            @property
            def sqlite_errorcode(self) -> int:
                return 776

        assert classify(ByClassError()) is ErrorClass.RACE
        assert classify(ByPropertyError()) is ErrorClass.RACE

    def test_exceptions_need_not_be_hashable_or_comparable(self, race: Exception) -> None:
        class AwkwardError(Exception):
            def __eq__(self, other: object) -> bool:
                raise AssertionError

            def __hash__(self) -> int:
                raise AssertionError

        error = AwkwardError()
        error.__cause__ = race
        assert classify(error) is ErrorClass.RACE

    @pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
    def test_what_ends_a_program_or_a_task_is_no_race_whatever_its_cause(
        self, ending: type[BaseException], race: Exception
    ) -> None:
        error = ending()
        error.__cause__ = race
        assert classify(error) is ErrorClass.OTHER

    def test_a_group_is_no_race(self, race: Exception) -> None:
        assert classify(ExceptionGroup("two", [race, ValueError("a bug")])) is ErrorClass.OTHER

    @pytest.mark.parametrize("thing", [None, 776, "SQLITE_READONLY_ROLLBACK", sqlite3.OperationalError, object()])
    def test_what_is_no_exception_is_no_race(self, thing: object) -> None:
        assert classify(thing) is ErrorClass.OTHER
        assert is_readonly_race(thing) is False

    def test_an_object_that_only_looks_like_an_error_is_none(self) -> None:
        lies = {"sqlite_errorcode": 776, "__class__": property(lambda _: 1 / 0)}
        assert classify(type("Lookalike", (), lies)()) is ErrorClass.OTHER

    def test_is_readonly_race_says_what_classify_says(self, race: Exception) -> None:
        assert is_readonly_race(race) is True
        assert is_readonly_race(coded(8)) is False
        assert is_readonly_race(coded(5)) is False


class TestRaced:
    def test_it_is_falsy_and_shows_its_name(self) -> None:
        assert not RACED
        assert (repr(RACED), str(RACED), f"{RACED}") == ("RACED", "RACED", "RACED")

    def test_it_stays_one_object(self) -> None:
        assert copy.copy(RACED) is RACED
        assert copy.deepcopy([RACED])[0] is RACED
        assert all(pickle.loads(pickle.dumps(RACED, level)) is RACED for level in range(pickle.HIGHEST_PROTOCOL + 1))

    def test_a_type_checker_narrows_it(self) -> None:
        @tolerate_races("outbound.db")
        def read() -> list[int]:
            return [1]

        rows = read()
        assert_type(rows, list[int] | Raced)
        if rows is RACED:
            assert_type(rows, Literal[Raced.RACED])
        else:
            assert_type(rows, list[int])
        assert_type(read() or (), list[int] | tuple[()])


class TestTolerateRaces:
    def test_a_race_in_the_block_is_told_at_debug_and_swallowed(self, database: Path, unseen_writer: Writer) -> None:
        assert unseen_writer
        after = False
        with listening() as heard:
            with tolerate_races("outbound.db"):
                read_with_sqlite3(database)
            after = True
        assert after
        [record] = heard
        assert record["level"].name == "DEBUG"
        assert record["extra"] == {"event": "readonly_race", "database": "outbound.db"}
        assert "SQLITE_READONLY_ROLLBACK" in record["message"]

    def test_a_name_is_told_in_one_printable_line(self, race: Exception) -> None:
        with listening() as heard, tolerate_races(Path("out\nbound\udcff{0}<red>.db")):
            raise race
        assert heard[0]["extra"]["database"] == "out\\nbound\\xff{0}<red>.db"
        assert heard[0]["message"].isprintable()

    def test_a_decorated_function_returns_its_value_or_raced(self, database: Path, unseen_writer: Writer) -> None:
        read = tolerate_races(database)(read_with_sqlite3)
        assert read(database) is RACED
        unseen_writer.tell("COMMIT")
        assert read(database) == (ROWS,)

    def test_a_decorated_coroutine_function_returns_its_value_or_raced(
        self, database: Path, unseen_writer: Writer
    ) -> None:
        @tolerate_races(database)
        async def count(mode: str) -> int:
            async with aiosqlite.connect(f"{database.as_uri()}?mode={mode}", uri=True) as connection:
                [[rows]] = await connection.execute_fetchall(QUERY)
                return int(rows)

        assert inspect.iscoroutinefunction(count)
        result = asyncio.run(count("ro"))
        assert_type(result, int | Raced)
        assert result is RACED
        unseen_writer.tell("COMMIT")
        assert asyncio.run(count(mode="ro")) == ROWS

    def test_methods_keep_their_self_and_their_name(self, race: Exception) -> None:
        class Session:
            def __init__(self, fails: bool) -> None:
                self.fails = fails

            @tolerate_races("outbound.db")
            def read(self, value: int, *, scale: int = 1) -> int:
                """Read."""
                if self.fails:
                    raise race
                return value * scale

            @staticmethod
            @tolerate_races("outbound.db")
            async def read_later(value: int) -> int:
                return value

        assert Session(fails=False).read(2, scale=3) == 6
        assert Session(fails=True).read(2) is RACED
        assert asyncio.run(Session(fails=True).read_later(7)) == 7
        assert (Session.read.__name__, Session.read.__doc__) == ("read", "Read.")

    @pytest.mark.parametrize(
        "error",
        [ValueError("bug"), coded(8), coded(1032), coded(5), coded(19), KeyboardInterrupt(), asyncio.CancelledError()],
        ids=repr,
    )
    def test_every_other_exception_passes_through_untouched(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        with listening() as heard:
            with pytest.raises(type(error)) as by_block, tolerate_races("outbound.db"):
                fail()
            with pytest.raises(type(error)) as by_call:
                tolerate_races("outbound.db")(fail)()
        assert by_block.value is by_call.value is error
        assert (error.__cause__, error.__context__, getattr(error, "__notes__", None)) == (None, None, None)
        assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
        assert heard == []

    def test_a_cancelled_task_stays_cancelled(self, race: Exception) -> None:
        @tolerate_races("outbound.db")
        async def read() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as error:
                raise error from race

        async def cancel() -> None:
            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            task.cancel()
            await task

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancel())

    def test_one_object_serves_nested_blocks_and_many_threads_and_tasks(self) -> None:
        shared = tolerate_races("outbound.db")
        together = threading.Barrier(4)

        @shared
        def read(value: int) -> int:
            with shared:
                together.wait(10)
                if value % 2:
                    raise coded(776)
            with shared:
                return value
            raise AssertionError

        async def read_all() -> list[int | Raced | None]:
            return await asyncio.gather(*(asyncio.to_thread(read, value) for value in range(4)))

        with listening() as heard:
            results = asyncio.run(read_all())
        assert results == list(range(4))
        assert [record["extra"]["event"] for record in heard] == ["readonly_race"] * 2

    def test_generators_are_refused_when_they_are_decorated(self) -> None:
        def rows() -> Iterator[int]:
            yield 1

        async def rows_later() -> AsyncIterator[int]:
            yield 1

        for generator in (rows, rows_later, functools.partial(rows)):
            with pytest.raises(TypeError, match="generator"):
                tolerate_races("outbound.db")(generator)

    def test_what_is_no_function_is_refused_when_it_is_decorated(self) -> None:
        decorate: Callable[[Any], object] = tolerate_races("outbound.db")
        below: Any = read_with_apsw
        things: list[object] = [staticmethod(below), classmethod(below), property(below), Path, 5]
        for thing in things:
            with pytest.raises(TypeError, match="decorates functions"):
                decorate(thing)

    def test_an_object_with_an_async_call_counts_as_async(self, race: Exception) -> None:
        class Reader:
            async def __call__(self) -> int:
                raise race

        async def read() -> int | Raced:
            return await tolerate_races("outbound.db")(Reader())()

        assert asyncio.run(read()) is RACED

    def test_the_decorator_without_a_name_is_refused(self) -> None:
        decorate: Callable[[Any], object] = tolerate_races
        with pytest.raises(TypeError, match="wants the name of a database"):
            decorate(read_with_sqlite3)


class TestStandingAlone:
    def test_importing_the_package_imports_loguru_and_the_standard_library_only(self) -> None:
        script = (
            "import sys; before = set(sys.modules); from watcher import *\n"
            "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
            "print(*sorted(new - set(sys.stdlib_module_names)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        # What begins with an underscore is Python's own: _sysconfigdata_…, __mp_main__.
        assert [name for name in done.stdout.split() if not name.startswith("_")] == ["loguru", "watcher"]

    def test_what_a_host_wants_is_loaded_when_it_asks_for_it(self) -> None:
        script = (
            "import sys, watcher\n"
            "assert not {'sqlite3', 'watcher.poller', 'watcher.races'} & set(sys.modules)\n"
            "assert {'Poller', 'RACED', 'classify'} <= set(dir(watcher))\n"
            "assert watcher.Poller is watcher.Poller is sys.modules['watcher.poller'].Poller\n"
            "assert not hasattr(watcher, 'Pollers')\n"
            "from watcher import *\n"
            "print(*(each for each in watcher.__all__ if each not in globals()))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")

    def test_the_package_is_silent_until_the_host_enables_it(self) -> None:
        script = (
            "import sqlite3, watcher; from loguru import logger\n"
            "error = sqlite3.OperationalError(); error.sqlite_errorcode = 776\n"
            "def race():\n    with watcher.tolerate_races('quiet' if silent else 'loud'): raise error\n"
            "silent = True; race(); silent = False; logger.enable('watcher'); race()"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr.count("\n") == 1
        assert "loud" in done.stderr

    def test_nothing_else_is_public(self) -> None:
        assert set(watcher.__all__) == {
            "ErrorClass",
            "Poller",
            "RACED",
            "classify",
            "is_readonly_race",
            "tolerate_races",
        }


def coroutine_types_are_kept(function: Callable[[int], Coroutine[Any, Any, str]]) -> None:
    """Checked by mypy alone."""
    assert_type(tolerate_races("x")(function), Callable[[int], Coroutine[Any, Any, str | Raced]])
