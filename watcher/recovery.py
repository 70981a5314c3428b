"""The recovery of one database, step by step: snapshot, last judgement, rollback, verification.

It is told which pair, and does not know who asked. Killing the process at any moment of this loses nothing: the journal
is SQLite's, and stays hot until SQLite has finished with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from watcher import rollback, verification
from watcher.filesystem import FileSystem
from watcher.journal import JournalState
from watcher.look import Look, Pair
from watcher.owner.locks import is_alone, reader_of
from watcher.owner.testimony import Judgement, Verdict
from watcher.records.events import Event
from watcher.records.record import Outcome, Record
from watcher.settings import RecoverySettings, VerifyMode
from watcher.snapshots import Snapshot, SnapshotError, Snapshots, SnapshotSkipped
from watcher.tree import Gone
from watcher.verification import Health

__all__ = ["Attempt", "Recovery"]

Warnings = tuple[tuple[Event, str], ...]

_SETTLE_ELSEWHERE_S = 0.5
_READER_PATIENCE_S = 0.004
"""A host's poll holds its read lock for less."""
_READER_AGAIN_S = 0.01
_LOCK_PATIENCE_S = 0.1
"""The most that a worker waits inside SQLite, whatever `busy_timeout` allows: a hostile process can take a lock at just
the moment when we open, in as many databases as it likes. Who is told `busy` tries again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one try.

    Attributes:
        record: as for the history.
        again_in_s: where it was too early: when to try again, seconds.
        warnings: what went wrong beside it, and did not stop it.
        note: what a person may want to know of a success, e.g. why it was not verified.
        has_acted: SQLite may have written the database.
        snapshot: one that is still to be put on the disk, by :meth:`Recovery.conclude`.
    """

    record: Record
    again_in_s: float | None = None
    warnings: Warnings = ()
    note: str | None = None
    has_acted: bool = False
    snapshot: Snapshot | None = None


class Recovery:
    """Recovers databases by the settings of one installation. May be used by several threads, each on its own pair.

    Args:
        judge: asks about the owner of a pair, afresh.
        snapshots: None where the settings want none.
        perform: does the rollback of a job.
        verify_limit_s: how long a thorough verification may take, seconds.
    """

    def __init__(
        self,
        settings: RecoverySettings,
        judge: Callable[[Pair, Look], Judgement],
        snapshots: Snapshots | None,
        *,
        perform: Callable[[rollback.Job], rollback.Rolled] = rollback.perform,
        verify_limit_s: float = verification.TIME_LIMIT_S,
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._snapshots = snapshots
        self._perform = perform
        self._verify_limit_s = verify_limit_s

    def settle_s(self, file_system: FileSystem) -> float:
        """How long both files must have been still, seconds: on a local file system nothing comes late."""
        if self._settings.settle is not None:
            return self._settings.settle
        return 0.0 if file_system.is_local else _SETTLE_ELSEWHERE_S

    def obstacle(self, look: Look) -> str | None:
        """Why a pair of this look would be refused although its owner has exited; None where it would not be."""
        if not self._must_have_snapshot(look):
            return None
        if self._snapshots is None:
            return "SQLite would delete a journal without a valid header, and recovery.snapshot is off"
        obstacle = self._snapshots.obstacle(look)
        return None if obstacle is None else f"not without a snapshot: {obstacle}"

    def recover(
        self,
        pair: Pair,
        look: Look,
        *,
        since: float,
        still_for_s: float,
        patient: bool = True,
        hurried: bool = False,
    ) -> Attempt:
        """Recover the database of a pair whose owner was judged to have exited.

        Args:
            pair: held by this thread.
            look: the one that was judged; the pair's last.
            since: when that look began, by `time.monotonic`.
            still_for_s: how long the pair has been seen unchanged, seconds.
            patient: wait for a reader that holds its lock for a moment; else it is `busy` at once.
            hurried: many others wait: what can be done later is left to :meth:`conclude`.

        Raises:
            Gone: the journal is gone: somebody else has finished.
            UnsafeError, LookAgainError: it has just been shut from us, or changes under our eyes.
            OSError: the file system fails, or we have run out of descriptors.
        """
        record = Record(database=pair.path, session=pair.session, outcome=Outcome.FAILED, journal_size=look.size_bytes)
        settle_s = self.settle_s(pair.file_system())
        if still_for_s < settle_s:
            wait = settle_s - still_for_s
            return _ended(record, Outcome.BUSY, since, f"not yet still for {settle_s:g} s", again_in_s=wait)
        reader = self._reader(pair, look, _READER_PATIENCE_S if patient else 0.0)
        if reader is not None:
            return _ended(record, Outcome.BUSY, since, reader, again_in_s=_READER_AGAIN_S)
        snapshot, warnings = self._begin_snapshot(pair, look)
        if snapshot is None and self._must_have_snapshot(look):
            event, why = warnings[-1] if warnings else (Event.SNAPSHOT_SKIPPED, "recovery.snapshot is off")
            outcome = Outcome.REFUSED if event is Event.SNAPSHOT_SKIPPED else Outcome.FAILED
            return _ended(record, outcome, since, f"not without a snapshot: {why}", warnings=warnings)
        try:
            # The last judgement comes right before the open, after the copy, which may have taken long.
            judgement = self._judge(pair, look)
            again = pair.look()
        except BaseException:
            _drop(snapshot)
            raise
        try:
            attempt = self._act(pair, look, again, replace(record, owner=judgement), since)
        except BaseException:
            if snapshot is not None:  # SQLite may have touched it
                _keep(snapshot)
            raise
        if not attempt.has_acted:
            _drop(snapshot)
            return replace(attempt, warnings=warnings)
        attempt = replace(attempt, warnings=warnings + attempt.warnings, snapshot=snapshot)
        if hurried and snapshot is not None and attempt.record.outcome is Outcome.RECOVERED and snapshot.detach():
            return attempt
        return self.conclude(attempt)

    def conclude(self, attempt: Attempt) -> Attempt:
        """Put the snapshot of an attempt on the disk, where that was left; from any thread, once."""
        if attempt.snapshot is None:
            return attempt
        kept, problems = _keep(attempt.snapshot)
        if attempt.record.outcome is Outcome.CORRUPT:
            kept = self._keep_for_corrupt(kept)
        record = replace(attempt.record, snapshot=kept)
        return replace(attempt, record=record, warnings=attempt.warnings + problems, snapshot=None)

    def _act(self, pair: Pair, look: Look, again: Look, record: Record, since: float) -> Attempt:
        judgement = record.owner
        assert judgement is not None
        if judgement.verdict is not Verdict.EXITED:
            outcome = Outcome.WAITING if judgement.verdict is Verdict.ALIVE else Outcome.HELD
            return _ended(record, outcome, since, judgement.reason)
        if again != look:
            # A lock that was free right after a commit: nothing is there to do, and the database is not opened.
            outcome = Outcome.CLEAN if again.state.is_cold else Outcome.BUSY
            return _ended(record, outcome, since, "the files have changed meanwhile")
        try:
            timeout_s = min(self._settings.busy_timeout, _LOCK_PATIENCE_S)
            rolled = self._perform(rollback.Job.of(pair, look, busy_timeout_s=timeout_s))
        except rollback.BusyError as error:
            return _ended(record, Outcome.BUSY, since, str(error))
        except rollback.CorruptError as error:
            return _ended(record, Outcome.CORRUPT, since, str(error), has_acted=True)
        except rollback.RollbackError as error:
            return _ended(record, Outcome.FAILED, since, str(error), has_acted=error.began)
        if not rolled.found_something:
            return self._found_nothing(pair, look, record, since)
        return _rolled_back(replace(record, pages=rolled.pages), rolled, since)

    def _found_nothing(self, pair: Pair, look: Look, record: Record, since: float) -> Attempt:
        """SQLite has left the journal alone. Where it is hot all the same, a lock has made it a live writer's: one that
        we did not see, or that was taken in between."""
        try:
            left_alone = pair.look() == look
        except Gone:
            left_alone = False
        if left_alone:
            return _ended(
                record, Outcome.BUSY, since, "a process has a lock on it, and SQLite takes that for a writer's"
            )
        return _ended(record, Outcome.CLEAN, since, None)

    def verify(self, pair: Pair, record: Record) -> tuple[Health, str]:
        """The thorough verification of a recovered database, where the settings ask for one: it may take long.

        Returns:
            Its health, and SQLite's words. For `verify: read` it is sound: it has been read.
        """
        if self._settings.verify is VerifyMode.READ or record.outcome is not Outcome.RECOVERED:
            return Health.SOUND, "read"
        return verification.check(
            pair.directory_fd, pair.path, self._settings.verify, time_limit_s=self._verify_limit_s
        )

    @property
    def verifies_thoroughly(self) -> bool:
        """Whether :meth:`verify` has anything to do."""
        return self._settings.verify is not VerifyMode.READ

    def condemn(self, record: Record, words: str) -> Record:
        """The record of a recovered database that :meth:`verify` has found corrupt; its snapshot is kept longer."""
        kept = self._keep_for_corrupt(record.snapshot)
        return replace(record, outcome=Outcome.CORRUPT, error=words, snapshot=kept)

    def sync_snapshot(self, path: str) -> None:
        """Put a snapshot on the disk, after the recovery.

        Raises:
            OSError: the disk fails.
        """
        if self._snapshots is not None:
            self._snapshots.sync(path)

    def _begin_snapshot(self, pair: Pair, look: Look) -> tuple[Snapshot | None, Warnings]:
        if self._snapshots is None:
            return None, ()
        try:
            return self._snapshots.begin(pair, look, at_once=self._must_have_snapshot(look)), ()
        except SnapshotSkipped as error:
            return None, ((Event.SNAPSHOT_SKIPPED, str(error)),)
        except SnapshotError as error:
            return None, ((Event.SNAPSHOT_FAILED, str(error)),)

    def _must_have_snapshot(self, look: Look) -> bool:
        required = self._settings.snapshot is not None and self._settings.snapshot.required
        return required or look.state is JournalState.MALFORMED

    def _keep_for_corrupt(self, snapshot: str | None) -> str | None:
        if snapshot is None or self._snapshots is None:
            return snapshot
        try:
            return self._snapshots.keep_for_corrupt(snapshot)
        except SnapshotError:
            return snapshot if os.path.isdir(snapshot) else None

    @staticmethod
    def _reader(pair: Pair, look: Look, patience_s: float) -> str | None:
        """Who would make the rollback wait: asked beforehand, so that no reader ties up a worker for busy_timeout."""
        assert look.database is not None
        until = time.monotonic() + patience_s
        descriptor = pair.database_reader()
        while (pid := reader_of(descriptor)) is not None and time.monotonic() < until:
            time.sleep(_READER_PATIENCE_S / 20)
        if pid is None:
            return None
        who = f"pid {pid}" if pid > 0 else "a process that we cannot see"
        if is_alone(descriptor):
            return f"{who} has it to itself: another recovery, or a writer with SQLite's unix-excl locks"
        return f"{who} is reading it"


def _rolled_back(record: Record, rolled: rollback.Rolled, since: float) -> Attempt:
    if rolled.is_left:
        left = "its journal is still there after the rollback"
        return _ended(record, Outcome.FAILED, since, left, has_acted=True)
    note = None
    warnings: Warnings = ()
    match rolled.unread:
        case None if rolled.is_wal:
            note = "not verified: its header says WAL, which wants shared memory beside it"
        case None:
            pass
        case rollback.BusyError() as error:
            note = f"not verified: {error}"
        case rollback.CorruptError() as error:
            return _ended(record, Outcome.CORRUPT, since, str(error), has_acted=True)
        case error:
            warnings = ((Event.VERIFY_FAILED, f"recovered, but it could not be read back: {error}"),)
    return _ended(record, Outcome.RECOVERED, since, None, warnings=warnings, note=note, has_acted=True)


def _keep(snapshot: Snapshot) -> tuple[str | None, Warnings]:
    try:
        return snapshot.keep(), ()
    except SnapshotError as error:
        return None, ((Event.SNAPSHOT_FAILED, str(error)),)


def _drop(snapshot: Snapshot | None) -> None:
    if snapshot is not None:
        snapshot.drop()


def _ended(
    record: Record,
    outcome: Outcome,
    since: float,
    error: str | None,
    *,
    again_in_s: float | None = None,
    warnings: Warnings = (),
    note: str | None = None,
    has_acted: bool = False,
) -> Attempt:
    duration_ms = (time.monotonic() - since) * 1000
    ended = replace(record, outcome=outcome, error=error, duration_ms=duration_ms)
    return Attempt(ended, again_in_s, warnings, note, has_acted)
