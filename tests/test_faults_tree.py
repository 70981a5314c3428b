"""Sessions that are removed under us, and that are shut from us for a while."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import AS_NOBODY, assert_heals, assert_untouched, configure, told_once, wait_for_sweeps
from tests.running import Runner, wait_until
from tests.writers import CrashedPair, journal_of, make_database, writing

NOBODY = 65534


@pytest.fixture
def nobodys() -> Iterator[Runner]:
    """A tree and a state directory of a user without any privilege, who may reach them."""
    if os.geteuid() != 0:
        pytest.skip("wants to be two users")
    directory = Path(tempfile.mkdtemp(prefix="nobodys-"))
    directory.chmod(0o755)
    runner = Runner(directory)
    runner.state.mkdir(mode=0o700)
    for each in (runner.root, runner.state):
        os.chown(each, NOBODY, NOBODY)
    with closing(runner):
        yield runner
    shutil.rmtree(directory)


def give(database: Path, uid: int) -> None:
    """The session's directory and its files get another owner."""
    for each in (database.parent, database, journal_of(database)):
        os.chown(each, uid, uid)


def test_a_root_that_may_not_be_entered_is_waited_for(nobodys: Runner, crashed: CrashedPair) -> None:
    nobodys.root.chmod(0)
    service = nobodys.start(argv=AS_NOBODY, wait="root_missing")
    nobodys.root.chmod(0o755)
    database = crashed.put(nobodys.root / "s1" / "outbound.db")
    give(database, NOBODY)
    service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_a_database_that_we_may_not_write_is_recovered_when_we_may(nobodys: Runner, crashed: CrashedPair) -> None:
    configure(nobodys)
    database = crashed.put(nobodys.root / "s1" / "outbound.db")
    service = nobodys.start(argv=AS_NOBODY)
    service.wait_for("recovery_failed", database=database)
    wait_for_sweeps(service)
    message = told_once(service, "recovery_failed", database)["message"]
    assert "s1/outbound.db" in message
    assert f"we may not write it (uid {NOBODY})" in message
    assert "belongs to uid 0" in message
    assert_untouched(database, crashed)
    give(database, NOBODY)
    assert_heals(service, database, crashed)
    assert service.stop() == 0


@pytest.mark.parametrize("what", ["database", "journal", "directory"])
def test_what_we_may_not_read_is_refused_once_and_recovered_when_we_may(
    nobodys: Runner, crashed: CrashedPair, what: str
) -> None:
    configure(nobodys)
    database = crashed.put(nobodys.root / "s1" / "outbound.db")
    give(database, NOBODY)
    shut = {"database": database, "journal": journal_of(database), "directory": database.parent}[what]
    mode = shut.stat().st_mode
    shut.chmod(0o700)
    os.chown(shut, 0, 0)
    service = nobodys.start(argv=AS_NOBODY)
    wait_for_sweeps(service)
    if what != "directory":  # whose names nobody can know
        message = told_once(service, "refused", database)["message"]
        assert "s1/outbound.db" in message
        assert f"may not be read by us (uid {NOBODY})" in message
    assert_untouched(database, crashed)
    os.chown(shut, NOBODY, NOBODY)
    shut.chmod(mode)
    assert_heals(service, database, crashed)
    assert service.stop() == 0


def test_a_journal_that_we_may_not_delete_stays_until_we_may(nobodys: Runner, crashed: CrashedPair) -> None:
    configure(nobodys)
    database = crashed.put(nobodys.root / "s1" / "outbound.db")
    give(database, NOBODY)
    database.parent.chmod(0o555)
    service = nobodys.start(argv=AS_NOBODY)
    service.wait_for("recovery_failed", database=database)
    wait_for_sweeps(service)
    message = told_once(service, "recovery_failed", database)["message"]
    assert "the journal cannot be deleted: Permission denied" in message
    assert journal_of(database).read_bytes() == crashed.journal
    # Each try has written the database, which comes back as a hint: it is no reason for another one.
    assert nobodys.json("status")["recoveries"]["failed"] < 20
    database.parent.chmod(0o755)
    assert_heals(service, database, crashed)
    assert service.stop() == 0


def test_sessions_that_are_removed_under_us_leave_nothing_behind(runner: Runner, crashed: CrashedPair) -> None:
    configure(runner)
    service = runner.start()
    stopped = threading.Event()

    def churn(name: str) -> None:
        while not stopped.is_set():
            crashed.put(runner.root / name / "outbound.db")
            shutil.rmtree(runner.root / name, ignore_errors=True)  # the service deletes the journal beside it

    churners = [threading.Thread(target=churn, args=(f"churning-{number}",)) for number in range(3)]
    for churner in churners:
        churner.start()
    wait_for_sweeps(service)
    staying = crashed.put(runner.root / "staying" / "outbound.db")
    assert_heals(service, staying, crashed)
    stopped.set()
    for churner in churners:
        churner.join()
    # What is known of the last of them is forgotten with the next sweep, and the status follows within a second.
    wait_until(lambda: runner.json("status")["journals"] == {"hot": 0, "waiting": 0, "held": 0, "refused": 0})
    for event in ("recovery_failed", "corrupt", "verify_failed"):
        assert [each["message"] for each in service.events(event)] == []
    assert service.stop() == 0


def test_a_session_that_is_removed_while_its_writer_lives_is_forgotten(runner: Runner) -> None:
    configure(runner)
    database = runner.root / "s1" / "outbound.db"
    database.parent.mkdir()
    make_database(database)
    service = runner.start()
    with writing(database) as writer:
        writer.tell("begin")
        wait_until(lambda: runner.json("status")["journals"]["waiting"] == 1)
        shutil.rmtree(database.parent)
        wait_until(lambda: runner.json("status")["journals"]["waiting"] == 0)
    assert service.stop() == 0
    assert [each for each in service.events() if each["level"] in {"ERROR", "CRITICAL"}] == []
