"""The recovery of one database, step by step: snapshot, last judgement, rollback, verification.

It is told which pair, and does not know who asked. Killing the process at any moment of this loses nothing: the journal
is SQLite's, and stays hot until SQLite has finished with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import NamedTuple

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


class Attempt(NamedTuple):
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
        verify_limit_s: how long a thorough verification may take, seconds.
    """

    def __init__(
        self,
        settings: RecoverySettings,
        judge: Callable[[Pair, Look], Judgement],
        snapshots: Snapshots | None,
        *,
        verify_limit_s: float = verification.TIME_LIMIT_S,
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._snapshots = snapshots
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

    def steps(
        self,
        pair: Pair,
        look: Look,
        *,
        since: float,
        still_for_s: float,
        patient: bool = True,
        hurried: bool = False,
    ) -> Generator[rollback.Job, rollback.Rolled, Attempt]:
        """Recover the database of a pair whose owner was judged to have exited, but for the rollback itself: that is a
        job for whoever goes through these steps, who sends back, or throws, what :func:`watcher.rollback.perform` makes
        of it.

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
        case = _Case(pair, look, since)
        settle_s = self.settle_s(pair.file_system())
        if still_for_s < settle_s:
            wait = settle_s - still_for_s
            return case.ended(Outcome.BUSY, f"not yet still for {settle_s:g} s", again_in_s=wait)
        reader = self.reader(pair, look, _READER_PATIENCE_S if patient else 0.0)
        if reader is not None:
            return case.ended(Outcome.BUSY, reader, again_in_s=_READER_AGAIN_S)
        snapshot, warnings = self._begin_snapshot(pair, look, may_wait=hurried)
        if snapshot is None and self._must_have_snapshot(look):
            event, why = warnings[-1] if warnings else (Event.SNAPSHOT_SKIPPED, "recovery.snapshot is off")
            outcome = Outcome.REFUSED if event is Event.SNAPSHOT_SKIPPED else Outcome.FAILED
            return case.ended(outcome, f"not without a snapshot: {why}", warnings=warnings)
        try:
            # The last judgement comes right before the open, after the copy, which may have taken long.
            case.judgement = self._judge(pair, look)
            again = pair.look()
        except BaseException:
            _drop(snapshot)
            raise
        try:
            attempt = yield from self._act(case, again, is_pair_needed=snapshot is not None)
        except BaseException:
            if snapshot is not None:  # SQLite may have touched it
                _keep(snapshot)
            raise
        if not attempt.has_acted:
            _drop(snapshot)
            return attempt._replace(warnings=warnings)
        attempt = attempt._replace(warnings=warnings + attempt.warnings, snapshot=snapshot)
        if hurried and snapshot is not None and attempt.record.outcome is Outcome.RECOVERED and snapshot.detach():
            return attempt
        return self.conclude(attempt)

    def recover(self, pair: Pair, look: Look, *, since: float, still_for_s: float) -> Attempt:
        """The same with the rollback, at once and in this thread."""
        steps = self.steps(pair, look, since=since, still_for_s=still_for_s)
        try:
            job = next(steps)
            try:
                rolled = rollback.perform(job)
            except (rollback.RollbackError, OSError) as error:
                steps.throw(error)
            else:
                steps.send(rolled)
        except StopIteration as end:
            attempt: Attempt = end.value
            return attempt
        raise AssertionError("a recovery is one job")

    def conclude(self, attempt: Attempt) -> Attempt:
        """Put the snapshot of an attempt on the disk, where that was left; from any thread, once."""
        if attempt.snapshot is None:
            return attempt
        kept, problems = _keep(attempt.snapshot)
        if attempt.record.outcome is Outcome.CORRUPT:
            kept = self._keep_for_corrupt(kept)
        record = replace(attempt.record, snapshot=kept)
        return attempt._replace(record=record, warnings=attempt.warnings + problems, snapshot=None)

    def _act(
        self, case: _Case, again: Look, *, is_pair_needed: bool
    ) -> Generator[rollback.Job, rollback.Rolled, Attempt]:
        judgement = case.judgement
        assert judgement is not None
        if judgement.verdict is not Verdict.EXITED:
            return case.ended(Outcome.WAITING if judgement.verdict is Verdict.ALIVE else Outcome.HELD, judgement.reason)
        if again != case.look:
            # A lock that was free right after a commit: nothing is there to do, and the database is not opened.
            return case.ended(
                Outcome.CLEAN if again.state.is_cold else Outcome.BUSY, "the files have changed meanwhile"
            )
        try:
            timeout_s = min(self._settings.busy_timeout, _LOCK_PATIENCE_S)
            rolled = yield rollback.Job.of(case.pair, case.look, busy_timeout_s=timeout_s, is_needed=is_pair_needed)
        except rollback.BusyError as error:
            return case.ended(Outcome.BUSY, str(error))
        except rollback.CorruptError as error:
            return case.ended(Outcome.CORRUPT, str(error), has_acted=True)
        except rollback.RollbackError as error:
            return case.ended(Outcome.FAILED, str(error), has_acted=error.began)
        if not rolled.found_something:
            return _found_nothing(case)
        return _rolled_back(case, rolled)

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

    def _begin_snapshot(self, pair: Pair, look: Look, *, may_wait: bool) -> tuple[Snapshot | None, Warnings]:
        if self._snapshots is None:
            return None, ()
        try:
            at_once = self._must_have_snapshot(look)
            return self._snapshots.begin(pair, look, at_once=at_once, may_wait=may_wait), ()
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
    def reader(pair: Pair, look: Look, patience_s: float = 0.0) -> str | None:
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


class _Case:
    """One recovery. Its record is made when it has ended: hosts do not wait for it.

    Attributes:
        judgement: the last one; None before.
    """

    __slots__ = ("_since", "judgement", "look", "pair")

    def __init__(self, pair: Pair, look: Look, since: float) -> None:
        self.pair = pair
        self.look = look
        self.judgement: Judgement | None = None
        self._since = since

    def ended(
        self,
        outcome: Outcome,
        error: str | None = None,
        *,
        pages: int | None = None,
        again_in_s: float | None = None,
        warnings: Warnings = (),
        note: str | None = None,
        has_acted: bool = False,
    ) -> Attempt:
        duration_ms = (time.monotonic() - self._since) * 1000
        record = Record(
            database=self.pair.path,
            session=self.pair.session,
            outcome=outcome,
            pages=pages,
            journal_size=self.look.size_bytes,
            duration_ms=duration_ms,
            owner=self.judgement,
            error=error,
        )
        return Attempt(record, again_in_s, warnings, note, has_acted)


def _found_nothing(case: _Case) -> Attempt:
    """SQLite has left the journal alone. Where it is hot all the same, a lock has made it a live writer's: one that we
    did not see, or that was taken in between."""
    try:
        left_alone = case.pair.look() == case.look
    except Gone:
        left_alone = False
    if left_alone:
        return case.ended(Outcome.BUSY, "a process has a lock on it, and SQLite takes that for a writer's")
    return case.ended(Outcome.CLEAN)


def _rolled_back(case: _Case, rolled: rollback.Rolled) -> Attempt:
    pages = rolled.pages
    if rolled.is_left:
        return case.ended(Outcome.FAILED, "its journal is still there after the rollback", pages=pages, has_acted=True)
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
            return case.ended(Outcome.CORRUPT, str(error), pages=pages, has_acted=True)
        case error:
            warnings = ((Event.VERIFY_FAILED, f"recovered, but it could not be read back: {error}"),)
    if rolled.found_deleted:  # with its session; or by a writer that no probe has seen
        note = f"its journal was deleted by somebody else meanwhile{f'; {note}' if note else ''}"
    return case.ended(Outcome.RECOVERED, pages=pages, warnings=warnings, note=note, has_acted=True)


def _keep(snapshot: Snapshot) -> tuple[str | None, Warnings]:
    try:
        return snapshot.keep(), ()
    except SnapshotError as error:
        return None, ((Event.SNAPSHOT_FAILED, str(error)),)


def _drop(snapshot: Snapshot | None) -> None:
    if snapshot is not None:
        snapshot.drop()
