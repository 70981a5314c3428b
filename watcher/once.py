"""The same way through as the service's, once: for `scan`, `recover` and `explain`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from watcher.decision import Decision, Finding
from watcher.installation import Rooms
from watcher.journal import JournalState
from watcher.look import Look, LookAgainError
from watcher.names import printable
from watcher.records.record import Outcome, Record
from watcher.recovery import Attempt
from watcher.reports import change_of, judged, record_of
from watcher.tree import Gone, Place, RootMissingError, UnsafeError
from watcher.verification import Health

__all__ = ["Recovered", "explain", "is_stale", "outlasts", "recover_all", "scan"]

_LOOK_AGAIN_S = 0.01
_MOST_LOOKS = 20
_STALE = {Outcome.HELD, Outcome.REFUSED, Outcome.BUSY, Outcome.FAILED, Outcome.CORRUPT, Outcome.WOULD_RECOVER}


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one journal: its record, whether it is still stale, and what went wrong beside it."""

    finding: Finding
    record: Record
    is_stale: bool
    remarks: tuple[str, ...] = ()

    @property
    def change(self) -> str:
        """For the history: the same text for as long as nothing has changed."""
        if self.record.outcome in {Outcome.HELD, Outcome.REFUSED}:
            return self.finding.change()
        return change_of(self.finding, self.record)


def scan(rooms: Rooms, places: Iterable[Place]) -> Iterator[Finding]:
    """Examine each place, one after another; those whose journal is gone meanwhile are left out, and one that the file
    system fails at is found unsafe.

    Raises:
        RootMissingError: the tree is not there.
    """
    for place in places:
        finding = _found(rooms, place)
        if finding is not None:
            yield finding


def explain(rooms: Rooms, place: Place) -> Finding:
    """Examine one place; one without a journal has nothing to roll back.

    Raises:
        RootMissingError: the tree is not there.
    """
    finding = _found(rooms, place)
    if finding is not None:
        return finding if finding.decision is not Decision.RECOVER else finding._replace(blocked=_reader(rooms, place))
    look = Look(place, JournalState.EMPTY)
    path, session = rooms.tree.path(place), rooms.tree.session(place)
    return Finding(look, path, session, None, Decision.IGNORE, "there is no journal: nothing to roll back")


def _reader(rooms: Rooms, place: Place) -> str | None:
    """Who would keep a recovery waiting now; None where nobody would, or it is not to be told."""
    with suppress(Gone, LookAgainError, UnsafeError, OSError), rooms.looker.pair(place) as pair:
        return rooms.recovery.reader(pair, pair.look())
    return None


def outlasts(finding: Finding, hold_warning_s: float) -> bool:
    """Whether the journal has stood unchanged for longer than `hold_warning`, by its own time and this machine's."""
    journal = finding.look.journal
    return journal is not None and time.time() - journal.mtime_ns / 1e9 >= hold_warning_s


def is_stale(finding: Finding, hold_warning_s: float) -> bool:
    """Whether a person should know: it would be recovered, held or refused, or waits for an owner that does nothing."""
    if finding.decision is Decision.WAIT:
        return outlasts(finding, hold_warning_s)
    return finding.decision is not Decision.IGNORE


def recover_all(
    rooms: Rooms, places: Iterable[Place], *, dry_run: bool, done: Callable[[Recovered | None], None]
) -> list[Recovered]:
    """Examine each place and recover what is stale, several at once.

    Args:
        dry_run: only say what would be done.
        done: called after each place, from several threads, with what has become of it; None for what is cold. It is
            called for all that was begun, also where an interrupt ends it early.

    Returns:
        In the order of the places; what is cold is left out.

    Raises:
        RootMissingError: the tree is not there.
    """

    def one(place: Place) -> Recovered | None:
        recovered: Recovered | None = None
        try:
            recovered = _recover(rooms, place, dry_run=dry_run)
            return recovered
        finally:
            done(recovered)

    workers = ThreadPoolExecutor(rooms.settings.recovery.workers, "recover")
    try:
        return [each for each in workers.map(one, places) if each is not None]
    finally:
        workers.shutdown(cancel_futures=True)


def _found(rooms: Rooms, place: Place) -> Finding | None:
    try:
        return _examined(rooms, place)
    except RootMissingError:
        raise
    except OSError as error:
        return rooms.examiner.unreachable(place, _words(error))


def _examined(rooms: Rooms, place: Place) -> Finding | None:
    for _ in range(_MOST_LOOKS):
        try:
            return rooms.examiner.examine_place(place)
        except Gone:
            return None
        except LookAgainError:
            time.sleep(_LOOK_AGAIN_S)
    return None  # it changes from one look to the next: a writer is at work, and nothing is stale


def _recover(rooms: Rooms, place: Place, *, dry_run: bool) -> Recovered | None:
    since = time.monotonic()
    try:
        finding = _examined(rooms, place)
    except RootMissingError:
        raise
    except OSError as error:
        finding = rooms.examiner.unreachable(place, _words(error))
        return Recovered(finding, _unsettled(finding, error, since).record, is_stale=True)
    if finding is None or finding.decision is not Decision.RECOVER:
        return _left_alone(rooms, finding)
    if dry_run:
        record = Record(
            database=finding.path,
            session=finding.session,
            outcome=Outcome.WOULD_RECOVER,
            journal_size=finding.look.size_bytes,
            owner=finding.judgement,
        )
        return Recovered(finding, record, is_stale=True)
    return _act(rooms, finding, since)


def _left_alone(rooms: Rooms, finding: Finding | None) -> Recovered | None:
    """What is said of a journal that is not to be recovered; None of one that is cold or gone."""
    record = None if finding is None else record_of(finding)
    if finding is None or record is None:
        return None
    return Recovered(finding, record, is_stale(finding, rooms.settings.watch.hold_warning))


def _act(rooms: Rooms, finding: Finding, since: float) -> Recovered | None:
    """Recover it; what is busy, or not yet still, is tried again for as long as `busy_timeout`."""
    busy_s = rooms.settings.recovery.busy_timeout
    until: float | None = None
    seen_since = time.monotonic()
    while True:
        try:
            with rooms.looker.pair(finding.place) as pair:
                look = pair.look()
                if look != finding.look:
                    seen_since = time.monotonic()
                    finding = rooms.examiner.examine(pair)
                    if finding.decision is not Decision.RECOVER:
                        return _left_alone(rooms, finding)
                attempt = rooms.recovery.recover(
                    pair, finding.look, since=since, still_for_s=time.monotonic() - seen_since
                )
                attempt = _verified(rooms, finding, attempt)
        except (Gone, LookAgainError, UnsafeError, OSError) as error:
            attempt = _unsettled(finding, error, since)
        if attempt.record.outcome is not Outcome.BUSY:
            break
        again_s = attempt.again_in_s or _LOOK_AGAIN_S
        until = until or time.monotonic() + again_s + busy_s
        if time.monotonic() + again_s > until:
            break
        time.sleep(again_s)
    record = judged(attempt.record, finding)
    remarks = [why for _, why in attempt.warnings if why not in (record.error or "")]
    remarks += [attempt.note] if attempt.note else []
    stale = record.outcome in _STALE or (record.outcome is Outcome.WAITING and is_stale(finding, float("inf")))
    return Recovered(finding, record, stale, tuple(remarks))


def _verified(rooms: Rooms, finding: Finding, attempt: Attempt) -> Attempt:
    """What comes after a recovery. That it fails, makes no recovery undone."""
    try:
        if attempt.record.snapshot is not None:
            rooms.recovery.sync_snapshot(attempt.record.snapshot)
        if attempt.record.outcome is not Outcome.RECOVERED or not rooms.recovery.verifies_thoroughly:
            return attempt
        with rooms.looker.pair(finding.place) as pair:
            health, words = rooms.recovery.verify(pair, attempt.record)
    except (Gone, UnsafeError, OSError) as error:
        return attempt._replace(note=f"not verified, or not on the disk: {_words(error)}")
    if health is Health.CORRUPT:
        return attempt._replace(record=rooms.recovery.condemn(attempt.record, words))
    return attempt if health is Health.SOUND else attempt._replace(note=f"recovered, but not verified: {words}")


def _unsettled(finding: Finding, error: Exception, since: float) -> Attempt:
    outcome = Outcome.FAILED
    if isinstance(error, Gone):
        outcome = Outcome.CLEAN
    elif isinstance(error, LookAgainError):
        outcome = Outcome.BUSY
    elif isinstance(error, UnsafeError):
        outcome = Outcome.REFUSED
    record = Record(
        database=finding.path,
        session=finding.session,
        outcome=outcome,
        journal_size=finding.look.size_bytes,
        duration_ms=(time.monotonic() - since) * 1000,
        owner=finding.judgement,
        error=None if outcome is Outcome.CLEAN else printable(_words(error)),
    )
    return Attempt(record)


def _words(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
