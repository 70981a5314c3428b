"""The service itself is killed, stopped or ended in the middle of large recoveries.

`pytest tests/test_faults_kill.py --service-kills 300` takes more.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.crashlab.oracle import Oracle
from tests.crashlab.sessions import Bytes, frozen, is_finished
from tests.running import Runner, wait_until
from tests.writers import journal_of, writing

_ROWS = 5000
_PAGE_BYTES = 4096
_SHUTDOWN_S = 15.0
"""Five seconds are promised, of a machine that has time."""


@dataclass(frozen=True, slots=True)
class LargeCrash:
    """A killed writer's pair of some 20 MB each, and what SQLite makes of it."""

    left: Bytes
    recovered: bytes

    def put(self, database: Path) -> None:
        """The journal comes last, and all at once: nobody takes up a recovery before it is whole."""
        database.parent.mkdir(exist_ok=True)
        assert self.left.database is not None
        assert self.left.journal is not None
        database.write_bytes(self.left.database)
        coming = database.with_name("coming")
        coming.write_bytes(self.left.journal)
        coming.rename(journal_of(database))

    def is_begun(self, database: Path) -> bool:
        """Whether a rollback has written, and not finished: it takes up the pages in the order of the journal."""
        assert self.left.database is not None
        start = next(
            page
            for page in range(_PAGE_BYTES, len(self.recovered), _PAGE_BYTES)
            if self.left.database[page : page + _PAGE_BYTES] != self.recovered[page : page + _PAGE_BYTES]
        )
        with database.open("rb") as file:
            now = os.pread(file.fileno(), _PAGE_BYTES, start)
        return now != self.left.database[start : start + _PAGE_BYTES] and not is_finished(database)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> LargeCrash:
    database = tmp_path_factory.mktemp("large") / "outbound.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.executemany("INSERT INTO t VALUES (?, zeroblob(3900))", [(row,) for row in range(_ROWS)])
    with writing(database) as writer:
        writer.tell("BEGIN")
        writer.tell("UPDATE t SET body = randomblob(3900)")
        writer.kill()
    left = Bytes.of(database)
    with closing(Oracle()) as oracle:
        verdict = oracle.recover(database)
    assert verdict.was_hot
    assert (verdict.pages or 0) > _ROWS * 0.9
    return LargeCrash(left, database.read_bytes())


@pytest.fixture
def database(runner: Runner) -> Path:
    runner.configure(watch={"sweep_interval": "1s"})
    return runner.root / "s1" / "outbound.db"


def assert_recovered(database: Path, large: LargeCrash) -> None:
    wait_until(lambda: is_finished(database))
    assert database.read_bytes() == large.recovered


def time_of_a_recovery(database: Path, large: LargeCrash) -> float:
    """From the hint to the end, seconds, when nothing disturbs."""
    large.put(database)
    since = time.monotonic()
    assert_recovered(database, large)
    return time.monotonic() - since


def test_a_service_that_is_killed_in_a_large_recovery_loses_nothing(
    runner: Runner, database: Path, large: LargeCrash, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(pytestconfig.getoption("seed"))
    kills: int = pytestconfig.getoption("service_kills")
    service = runner.start()
    takes_s = time_of_a_recovery(database, large)
    begun = 0
    for number in itertools.count():
        if number >= kills and begun > kills / 4:  # and on, until enough of them have met a rollback
            break
        large.put(database)
        if number % 2:
            until_begun(database, large)
            time.sleep(chance.uniform(0, takes_s / 10))
        else:
            time.sleep(chance.uniform(0, takes_s))
        service.kill()
        begun += large.is_begun(database)
        service = runner.start(wait=None)
        assert_recovered(database, large)
    assert service.stop() == 0


def until_begun(database: Path, large: LargeCrash) -> None:
    """Until it is begun, or was through before that was seen."""
    wait_until(lambda: large.is_begun(database) or is_finished(database))


def test_a_service_that_is_stopped_in_a_recovery_keeps_others_out_and_goes_on(
    runner: Runner, database: Path, large: LargeCrash
) -> None:
    service = runner.start()
    for _ in range(20):
        large.put(database)
        until_begun(database, large)
        with frozen(service.process.pid):
            is_begun = large.is_begun(database)
            if is_begun:
                by_hand = runner.command("recover", "--json", database)
                assert by_hand.returncode == 1, by_hand.stdout
                assert large.is_begun(database)
        assert_recovered(database, large)
        if is_begun:
            break
    assert is_begun
    assert service.stop() == 0


def has_recorded(runner: Runner, recoveries: int) -> bool:
    return len(runner.json("history")) == recoveries


def test_sigterm_in_a_recovery_ends_the_service_in_time_and_records_nothing_half(
    runner: Runner, database: Path, large: LargeCrash
) -> None:
    for round_ in range(3):
        service = runner.start()
        if database.exists():  # what the one before has left is recovered now, or was
            assert_recovered(database, large)
        wait_until(partial(has_recorded, runner, round_))  # one a round, by now
        large.put(database)
        until_begun(database, large)
        since = time.monotonic()
        service.signal(signal.SIGTERM)
        assert service.process.wait(_SHUTDOWN_S) == 0
        assert time.monotonic() - since < _SHUTDOWN_S
        assert service.stop() == 0
        assert service.events()[-1]["event"] == "stopped"
        finished = is_finished(database)
        assert has_recorded(runner, round_ + finished)
        assert not is_finished(database) or database.read_bytes() == large.recovered
    service = runner.start()
    assert_recovered(database, large)
    assert service.stop() == 0
