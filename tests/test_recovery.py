"""The recovery of one database, step by step, with what others do between the steps."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.hostile import Host, only_rolled_back, slow_to_check
from tests.pairs import READ_LOCK_ON_RESERVED, READERS_LOCK, Shape, holding, journal_with_page_1, wal_switch
from tests.running import wait_until
from tests.small_disk import fill, small_disk
from tests.writers import journal_of, make_database, writing
from watcher import rollback
from watcher.filesystem import FileSystem
from watcher.look import Look, Pair
from watcher.narrow import Grant
from watcher.owner.testimony import Answer, Evidence, Judgement, judge
from watcher.records.events import Event
from watcher.records.record import Outcome
from watcher.recovery import Attempt, Recovery
from watcher.settings import RecoverySettings, SnapshotSettings, VerifyMode
from watcher.snapshots import Snapshots
from watcher.tree import Gone, Place
from watcher.verification import Health, check

EXITED = judge((Evidence("locks", Answer.EXITED, "nobody holds the writer's lock"),))
ALIVE = judge((Evidence("locks", Answer.ALIVE, "pid 7 holds the writer's lock", 7),))
UNKNOWN = judge((Evidence("command", Answer.UNKNOWN, "it did not answer"),))


class Trial:
    """One installation's recovery, with a last judgement that may do something before it is given."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.judgement = EXITED
        self.before_judging: Callable[[], object] = lambda: None
        self.configure()

    def configure(self, **settings: object) -> None:
        self.settings = RecoverySettings.model_validate(settings)
        directory = self.host.settings.state_dir / "snapshots"
        kept = self.settings.snapshot
        snapshots = None if kept is None else Snapshots(directory, kept)
        self.recovery = Recovery(self.settings, self._judge, snapshots, verify_limit_s=20.0)

    def _judge(self, _pair: Pair, _look: Look) -> Judgement:
        self.before_judging()
        return self.judgement

    def recover(self, database: Path, *, still_for_s: float = 1000.0) -> Attempt:
        with self.host.rooms.looker.pair(Place("", database.name)) as pair:
            look = pair.look()
            return self.recovery.recover(pair, look, since=time.monotonic(), still_for_s=still_for_s)

    def verify(self, database: Path, attempt: Attempt) -> tuple[Health, str]:
        with self.host.rooms.looker.pair(Place("", database.name)) as pair:
            return self.recovery.verify(pair, attempt.record)

    def snapshots(self) -> list[Path]:
        return sorted((self.host.settings.state_dir / "snapshots").glob("*/*/*"))


@pytest.fixture
def trial(host: Host) -> Trial:
    return Trial(host)


def test_the_whole_way(trial: Trial) -> None:
    database = trial.host.crash()
    before = database.read_bytes(), journal_of(database).read_bytes()
    with only_rolled_back(trial.host.root, database):
        attempt = trial.recover(database)
    assert trial.host.is_recovered(database)
    record = attempt.record
    assert record.outcome is Outcome.RECOVERED
    assert record.pages == 20
    assert record.journal_size == len(before[1])
    assert record.owner is EXITED
    assert record.error is None
    assert record.duration_ms > 0
    assert record.snapshot is not None
    assert (Path(record.snapshot) / "database").read_bytes() == before[0]
    assert (Path(record.snapshot) / "database-journal").read_bytes() == before[1]
    assert trial.verify(database, attempt) == (Health.SOUND, "read")


# --- 1: look again, and stillness ---


def test_what_has_changed_since_it_was_judged_is_not_opened(trial: Trial) -> None:
    database = trial.host.crash()
    trial.before_judging = lambda: journal_of(database).write_bytes(journal_of(database).read_bytes() + b"x")
    before = database.read_bytes()
    attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.BUSY
    assert attempt.record.error == "the files have changed meanwhile"
    assert database.read_bytes() == before
    assert trial.snapshots() == []


def test_a_journal_that_somebody_else_deletes_meanwhile_is_told(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    database = trial.host.crash()
    writes = Grant.writes

    def and_deletes(grant: Grant, descriptor: int, end: int) -> bool:
        journal_of(database).unlink(missing_ok=True)
        return writes(grant, descriptor, end)

    monkeypatch.setattr(Grant, "writes", and_deletes)
    attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.RECOVERED
    assert attempt.note == "its journal was deleted by somebody else meanwhile"
    assert attempt.record.snapshot is not None


def test_a_journal_that_was_finished_meanwhile_is_clean(trial: Trial) -> None:
    database = trial.host.crash()
    trial.before_judging = lambda: journal_of(database).write_bytes(bytes(600))
    assert trial.recover(database).record.outcome is Outcome.CLEAN
    assert journal_of(database).read_bytes() == bytes(600)


def test_a_journal_that_was_deleted_meanwhile_is_gone(trial: Trial) -> None:
    database = trial.host.crash()
    trial.before_judging = journal_of(database).unlink
    with pytest.raises(Gone):
        trial.recover(database)
    assert trial.snapshots() == []


def test_what_was_not_still_for_long_enough_is_waited_for(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(settle=0.5)
    attempt = trial.recover(database, still_for_s=0.2)
    assert attempt.record.outcome is Outcome.BUSY
    assert attempt.again_in_s == pytest.approx(0.3)
    assert trial.recover(database, still_for_s=0.5).record.outcome is Outcome.RECOVERED


def test_on_a_local_file_system_nothing_has_to_be_still_and_elsewhere_it_has(trial: Trial) -> None:
    assert trial.recovery.settle_s(FileSystem("ext4", is_local=True)) == 0
    assert trial.recovery.settle_s(FileSystem("nfs", is_local=False)) == 0.5
    trial.configure(settle=2)
    assert trial.recovery.settle_s(FileSystem("ext4", is_local=True)) == 2


# --- 3: the last judgement ---


@pytest.mark.parametrize(("judgement", "outcome"), [(ALIVE, Outcome.WAITING), (UNKNOWN, Outcome.HELD)])
def test_only_an_owner_that_has_exited_at_the_last_moment_is_recovered(
    trial: Trial, judgement: Judgement, outcome: Outcome
) -> None:
    database = trial.host.crash()
    trial.judgement = judgement
    with only_rolled_back(trial.host.root):
        record = trial.recover(database).record
    assert (record.outcome, record.owner, record.error) == (outcome, judgement, judgement.reason)
    assert trial.snapshots() == []


# --- 4: the snapshot ---


def test_a_snapshot_that_is_too_large_is_skipped_and_told_and_the_recovery_goes_on(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(snapshot={"max_size": 1000})
    attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.RECOVERED
    assert attempt.record.snapshot is None
    assert [event for event, _ in attempt.warnings] == [Event.SNAPSHOT_SKIPPED]


def test_a_snapshot_that_fails_is_told_and_the_recovery_goes_on(trial: Trial) -> None:
    database = trial.host.crash()
    (trial.host.settings.state_dir / "snapshots").write_text("in the way", encoding="utf-8")
    attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.RECOVERED
    assert [event for event, _ in attempt.warnings] == [Event.SNAPSHOT_FAILED]


def test_without_the_snapshot_that_is_required_nothing_is_done_and_it_is_tried_again(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(snapshot={"required": True})
    in_the_way = trial.host.settings.state_dir / "snapshots"
    in_the_way.write_text("", encoding="utf-8")
    with only_rolled_back(trial.host.root):
        record = trial.recover(database).record
    assert record.outcome is Outcome.FAILED
    assert record.error is not None
    assert record.error.startswith("not without a snapshot: ")
    in_the_way.unlink()
    assert trial.recover(database).record.outcome is Outcome.RECOVERED


@pytest.mark.parametrize("snapshot", [None, {"max_size": 1000}])
def test_a_malformed_journal_is_deleted_with_a_snapshot_or_not_at_all(trial: Trial, snapshot: object) -> None:
    database = trial.host.crash()
    journal_of(database).write_bytes(b"x" * 600)
    trial.configure(snapshot=snapshot)
    with only_rolled_back(trial.host.root):
        assert trial.recover(database).record.outcome is Outcome.REFUSED
    trial.configure()
    record = trial.recover(database).record
    assert record.outcome is Outcome.RECOVERED
    assert record.snapshot is not None
    assert (Path(record.snapshot) / "database-journal").read_bytes() == b"x" * 600
    assert not journal_of(database).exists()


def test_on_a_full_disk_the_recovery_goes_on_without_a_snapshot(trial: Trial, tmp_path: Path) -> None:
    database = trial.host.crash()
    with small_disk(tmp_path / "disk", size_kib=2048) as disk:
        (disk / "state").mkdir()
        snapshots = Snapshots(disk / "state" / "snapshots", SnapshotSettings())
        fill(disk)
        trial.recovery = Recovery(trial.settings, trial._judge, snapshots)
        attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.RECOVERED
    assert [event for event, _ in attempt.warnings] == [Event.SNAPSHOT_FAILED]


def test_what_sqlite_may_have_touched_keeps_its_copy_whatever_goes_wrong_then(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = trial.host.crash()
    journal_of(database).write_bytes(b"x" * 600)

    def fail(_job: rollback.Job) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(rollback, "read_back", fail)
    with pytest.raises(OSError, match="Input/output error"):
        trial.recover(database)
    assert not journal_of(database).exists()
    (kept,) = trial.snapshots()
    assert (kept / "database-journal").read_bytes() == b"x" * 600


# --- 5: the open ---


def test_a_reader_that_stays_is_named_and_costs_no_time_and_no_copy(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(busy_timeout=60)
    with holding(database, READERS_LOCK) as holder:
        began = time.monotonic()
        attempt = trial.recover(database)
        assert time.monotonic() - began < 30  # of the 60
        assert attempt.record.outcome is Outcome.BUSY
        assert attempt.record.error == f"pid {holder.pid} is reading it"
        assert attempt.again_in_s is not None
        assert trial.snapshots() == []
    assert trial.recover(database).record.outcome is Outcome.RECOVERED


def test_a_live_writer_with_the_locks_of_unix_excl_is_left_alone(trial: Trial) -> None:
    database = trial.host.root / "outbound.db"
    make_database(database)
    with writing(database, vfs="unix-excl") as writer:
        writer.tell("begin")
        before = database.read_bytes(), journal_of(database).read_bytes()
        record = trial.recover(database).record
        assert (record.outcome, (record.error or "").partition(":")[0]) == (
            Outcome.BUSY,
            f"pid {writer.pid} has it to itself",
        )
        assert (database.read_bytes(), journal_of(database).read_bytes()) == before
        writer.tell("COMMIT")
        writer.tell("begin")
        writer.kill()
        assert trial.recover(database).record.outcome is Outcome.RECOVERED


def test_a_read_lock_on_the_writers_byte_is_busy_and_not_clean(trial: Trial) -> None:
    # SQLite asks for that byte with a write lock: it takes the journal for a live writer's, and leaves it alone.
    database = trial.host.crash()
    with holding(database, READ_LOCK_ON_RESERVED) as holder:
        record = trial.recover(database).record
        assert (record.outcome, record.error) == (Outcome.BUSY, f"pid {holder.pid} is reading it")
    with ExitStack() as held:
        trial.before_judging = lambda: held.enter_context(holding(database, READ_LOCK_ON_RESERVED))
        record = trial.recover(database).record
        assert record.outcome is Outcome.BUSY
        assert "a lock on it" in (record.error or "")
    trial.before_judging = lambda: None
    assert trial.recover(database).record.outcome is Outcome.RECOVERED


def test_a_reader_that_comes_at_the_last_moment_ties_up_nobody_for_busy_timeout(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(busy_timeout=60)
    # The last judgement comes after the reader was asked for: just then a hostile process takes its lock.
    with ExitStack() as held:
        trial.before_judging = lambda: held.enter_context(holding(database, READERS_LOCK))
        began = time.monotonic()
        record = trial.recover(database).record
        assert time.monotonic() - began < 30
    assert (record.outcome, record.error) == (Outcome.BUSY, "another connection holds a lock on it")
    assert trial.snapshots() == []


def test_a_database_that_cannot_be_written_fails_and_keeps_everything(trial: Trial) -> None:
    database = trial.host.crash()
    subprocess.run(["chattr", "+i", str(database)], check=False, capture_output=True)
    try:
        os.open(database, os.O_RDWR)
    except PermissionError:
        pass
    else:
        pytest.skip("no file can be made immutable here")
    try:
        with only_rolled_back(trial.host.root):
            record = trial.recover(database).record
    finally:
        subprocess.run(["chattr", "-i", str(database)], check=True)
    assert record.outcome is Outcome.FAILED
    assert record.error is not None
    assert "may not write it" in record.error
    assert trial.snapshots() == []


# --- 6: verification ---


def test_a_database_that_is_corrupt_after_the_rollback_is_told_and_its_snapshot_kept(trial: Trial) -> None:
    database = trial.host.crash()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT count(*) FROM t").fetchone()
    page = bytearray(database.read_bytes()[:1024])
    page[16:18] = b"\x03\x03"
    journal_of(database).write_bytes(journal_with_page_1(database, bytes(page)))
    record = trial.recover(database).record
    assert record.outcome is Outcome.CORRUPT
    assert record.error == "file is not a database"
    assert record.snapshot is not None
    assert record.snapshot.endswith(".corrupt")
    assert trial.snapshots() == [Path(record.snapshot)]


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_a_sound_database_is_verified_as_that(trial: Trial, mode: str) -> None:
    database = trial.host.crash()
    trial.configure(verify=mode)
    attempt = trial.recover(database)
    with only_rolled_back(trial.host.root):
        assert trial.verify(database, attempt) == (Health.SOUND, "ok")


@pytest.mark.parametrize(("mode", "health"), [("quick", Health.SOUND), ("full", Health.CORRUPT)])
def test_what_only_a_full_check_finds(trial: Trial, mode: str, health: Health) -> None:
    database = trial.host.root / "outbound.db"
    Shape(before=("CREATE INDEX b ON t (length(body))",)).crash(database)
    trial.configure(verify=mode)
    attempt = trial.recover(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA writable_schema = on")
        with connection:
            connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'length', 'typeof') WHERE name = 'b'")
    found, words = trial.verify(database, attempt)
    assert found is health, words


def test_a_damaged_page_is_found_by_a_quick_check_and_condemned(trial: Trial) -> None:
    database = trial.host.crash()
    trial.configure(verify="quick")
    attempt = trial.recover(database)
    with database.open("r+b") as file:
        file.seek(1024 * 5)
        file.write(b"\xff" * 1024)
    health, words = trial.verify(database, attempt)
    assert health is Health.CORRUPT
    assert words
    assert words.isprintable()
    record = trial.recovery.condemn(attempt.record, words)
    assert (record.outcome, record.error) == (Outcome.CORRUPT, words)
    assert record.snapshot is not None
    assert record.snapshot.endswith(".corrupt")


def test_a_header_that_says_wal_after_the_rollback_is_recovered_and_not_verified(trial: Trial) -> None:
    database = trial.host.root / "outbound.db"
    wal_switch(database)
    attempt = trial.recover(database)
    assert attempt.record.outcome is Outcome.RECOVERED
    assert attempt.note is not None
    assert "WAL" in attempt.note
    assert not database.with_name("outbound.db-shm").exists()


# --- 7: what a child that verifies is allowed ---


def test_the_process_that_verifies_is_killed_when_its_time_is_over(host: Host) -> None:
    database = host.crash()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        health, words = check(pair.directory_fd, pair.path, VerifyMode.QUICK, time_limit_s=0.01)
    assert (health, words) == (Health.UNKNOWN, "it took longer than 0.01 s")


def test_the_process_that_verifies_dies_with_the_one_that_started_it(host: Host) -> None:
    database = slow_to_check(host.root / "outbound.db")
    parent = subprocess.Popen([sys.executable, "-c", _VERIFY, str(database)], stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = wait_until(lambda: children.read_text(encoding="ascii").strip())
    name = Path(f"/proc/{child}/cmdline")
    wait_until(lambda: "watcher.verification" in name.read_text(encoding="utf-8"))
    parent.kill()
    parent.wait()
    wait_until(lambda: not name.exists())


_VERIFY = """
import os, sys
from watcher.settings import VerifyMode
from watcher.verification import check
directory = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
check(directory, sys.argv[1], VerifyMode.QUICK)
"""
