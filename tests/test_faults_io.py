"""A disk that fails in the middle of a recovery, at every call in its turn, and one whose power is cut there.

Nothing is lost, and the next try ends as if nothing had been.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.crashlab.oracle import Oracle
from tests.crashlab.sessions import Bytes, Plan, Writer, is_finished
from tests.faulty_disk import Call, faulty_disk
from tests.running import Runner
from watcher import once
from watcher.installation import Rooms
from watcher.owner.clock import WallClock
from watcher.records.record import Outcome, Record
from watcher.settings import load_settings
from watcher.tree import Place

PLACE = Place("session", "outbound.db")
_DEATHS_PER_CALL = 3
"""Different states of the disk after a power cut."""


@dataclass(frozen=True, slots=True)
class Crash:
    """What a killed writer has left, and what SQLite makes of it on a disk that works."""

    left: Bytes
    recovered: bytes


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with closing(Oracle()) as made:
        yield made


SMALL = Plan(
    seed=1,
    page_size=1024,
    journal_mode="delete",
    synchronous="full",
    auto_vacuum="none",
    cache_size=1,
    rows=6,
    steps=12,
    pause_s=0.0,
)
"""A writer of a small database whose transactions spill: of a recovery that takes some dozens of calls."""


def crash(directory: Path, oracle: Oracle, plan: Plan) -> Crash:
    """Kill a writer in a transaction after some others, such that the recovery will have to write and to truncate."""
    database = directory / "outbound.db"
    chance = random.Random(plan.seed)
    while True:
        with closing(Writer(database, plan)) as writer:
            writer.wait_ready()
            time.sleep(chance.uniform(0.05, 0.15))
            writer.kill()
        left = Bytes.of(database)
        verdict = oracle.recover(database)
        recovered = database.read_bytes()
        if verdict.was_hot and (verdict.pages or 0) > 3 and left.database and len(recovered) < len(left.database):
            return Crash(left, recovered)


@pytest.fixture(
    scope="module",
    params=[
        SMALL,
        replace(SMALL, seed=2, journal_mode="persist", synchronous="off", auto_vacuum="full"),
        replace(SMALL, seed=3, journal_mode="truncate", page_size=4096, synchronous="normal"),
    ],
    ids=lambda plan: f"{plan.journal_mode}-{plan.synchronous}-{plan.page_size}",
)
def crashed_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle: Oracle) -> Crash:
    return crash(tmp_path_factory.mktemp("crashed"), oracle, request.param)


@pytest.fixture
def database(runner: Runner) -> Path:
    runner.state.mkdir(mode=0o700)
    return runner.root / PLACE.directory / PLACE.name


@pytest.fixture
def rooms(runner: Runner) -> Rooms:
    return Rooms(load_settings(runner.settings), WallClock())


def try_to_recover(rooms: Rooms) -> Record | None:
    """As `journal-watcher recover` does, in this process. None where there was nothing to recover."""
    done = once.recover_all(rooms, [PLACE], dry_run=False, done=lambda _recovered: None)
    return done[0].record if done else None


def calls_of_a_recovery(database: Path, crash: Crash, rooms: Rooms) -> list[tuple[Call, bool]]:
    """Those of one that nothing disturbs."""
    crash.left.put(database)
    with faulty_disk(database) as disk:
        record = try_to_recover(rooms)
    assert record is not None
    assert record.outcome is Outcome.RECOVERED
    assert database.read_bytes() == crash.recovered
    return disk.trace


def assert_still_recoverable(files: Bytes, copy: Path, crash: Crash, oracle: Oracle, when: str) -> None:
    """SQLite, on a disk that works again, makes of these files what it would have made of the crash."""
    oracle.recover(files.put(copy))
    assert copy.read_bytes() == crash.recovered, when


def test_the_journal_is_synced_before_the_database_is_written_and_that_before_the_journal_goes(
    database: Path, crashed_session: Crash, rooms: Rooms
) -> None:
    calls = calls_of_a_recovery(database, crashed_session, rooms)
    writes = [index for index, call in enumerate(calls) if call == (Call.WRITE, False)]
    assert (Call.SYNC, True) in calls[: writes[0]]
    deleted = calls.index((Call.DELETE, True))
    assert (Call.SYNC, False) in calls[writes[-1] : deleted]


@pytest.mark.parametrize("call", list(Call))
def test_a_call_that_fails_loses_nothing_whichever_it_is(
    database: Path, crashed_session: Crash, rooms: Rooms, oracle: Oracle, tmp_path: Path, call: Call
) -> None:
    number_of_calls = [each for each, _ in calls_of_a_recovery(database, crashed_session, rooms)].count(call)
    assert number_of_calls > 0
    copy = tmp_path / "copy" / "outbound.db"
    for number in range(number_of_calls):
        crashed_session.left.put(database)
        with faulty_disk(database) as disk:
            disk.fail(call, number)
            record = try_to_recover(rooms)
        assert record is not None
        when = f"{call} {number} of {number_of_calls}: {record.outcome} {record.error}"
        assert record.outcome is (Outcome.RECOVERED if is_finished(database) else Outcome.FAILED), when
        assert record.error is None or call in record.error or "deleted" in record.error, when
        assert_still_recoverable(Bytes.of(database), copy, crashed_session, oracle, when)
        again = try_to_recover(rooms)
        assert again is None or again.outcome is Outcome.RECOVERED, when
        assert is_finished(database), when
        assert database.read_bytes() == crashed_session.recovered, when


def test_a_power_cut_at_any_call_loses_nothing(
    database: Path, crashed_session: Crash, rooms: Rooms, oracle: Oracle, tmp_path: Path
) -> None:
    number_of_calls = len(calls_of_a_recovery(database, crashed_session, rooms))
    copy = tmp_path / "copy" / "outbound.db"
    for at in range(number_of_calls):
        crashed_session.left.put(database)
        with faulty_disk(database) as disk:
            disk.cut_power(at)
            try_to_recover(rooms)
        for state in range(_DEATHS_PER_CALL):
            files = disk.disk.after_power_cut(random.Random(f"{at}:{state}"))
            when = f"power cut at call {at} of {number_of_calls}, after {disk.trace[-3:]}, state {state}"
            assert_still_recoverable(files, copy, crashed_session, oracle, when)
        files.put(database)  # the machine is up again, and so is the watcher
        try_to_recover(rooms)
        assert database.read_bytes() == crashed_session.recovered, f"power cut at call {at} of {number_of_calls}"
