"""What the service says about journals: log lines for the person at three in the morning, and entries of the history.

It decides nothing. Names come from the tree, so they are shown by `printable`; a fault that lasts is told once, then
seldom; and a directory full of junk is told of as one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace

from watcher.advice import by_hand, in_words, is_of_machine
from watcher.decision import Decision, Finding
from watcher.names import counted, printable
from watcher.owner.testimony import Judgement, Verdict
from watcher.records import log
from watcher.records.events import Event
from watcher.records.record import Outcome, Record
from watcher.records.repeats import Repeats
from watcher.recovery import Attempt
from watcher.settings import format_seconds
from watcher.tree import Place

__all__ = ["Reports", "change_of", "judged", "record_of"]

_KEPT_WHEN_TOLD = frozenset({Outcome.HELD, Outcome.REFUSED})
_MOST_REFUSED_PER_DIRECTORY = 20
_REFUSED_WITHIN_S = 3600.0
_MOST_SESSIONS = 10_000


class Reports:
    """May be used by any thread.

    Args:
        keep: takes a record for the history, with the text that stays the same until something has changed.
        count_found: takes the state of each journal that was not known, or has changed.
        session_of: the directory whose writer a place is (:meth:`watcher.tree.Tree.session_of`).
    """

    def __init__(
        self,
        keep: Callable[[Record, str], None],
        count_found: Callable[[str], None],
        session_of: Callable[[Place], str],
    ) -> None:
        self._session_of = session_of
        self._keep = keep
        self._count_found = count_found
        self._repeats = Repeats()
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()  # guarded by _lock, like the next one
        self._refused: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by session: told, since when

    def recoveries(self) -> dict[str, int]:
        """How many there were of each outcome since the start."""
        with self._lock:
            return {outcome.value: count for outcome, count in self._outcomes.items()}

    def count(self, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[outcome] += 1

    def found(self, finding: Finding) -> None:
        """A journal that was not known, or has changed."""
        self._count_found(finding.look.state)
        if not log.tells(Event.JOURNAL_FOUND):
            return
        size = finding.look.size_bytes
        message = f"{_name(finding.place)}: {finding.look.state.value} journal of {size} bytes"
        log.tell(Event.JOURNAL_FOUND, message, database=finding.path, state=finding.look.state.value, size=size)
        if finding.judgement is not None and finding.judgement.verdict is not Verdict.UNKNOWN:
            alive = finding.judgement.verdict is Verdict.ALIVE
            log.tell(
                Event.OWNER_ALIVE if alive else Event.OWNER_EXITED,
                f"{_name(finding.place)}: {finding.reason}",
                database=finding.path,
                evidence=_evidence(finding.judgement),
            )

    def waiting(self, finding: Finding, for_s: float) -> None:
        """A live owner's journal has not changed for so long."""
        left_out = self._repeats.allow((Event.WAITING, finding.place), finding.change(), time.monotonic())
        if left_out is None:
            return
        log.tell(
            Event.WAITING,
            f"{_name(finding.place)}: its journal has not changed for {_rounded(for_s)}, and its owner lives"
            f" ({finding.reason}); it is recovered as soon as that ends; where it hangs, end it{_left_out(left_out)}",
            database=finding.path,
            evidence=_evidence(finding.judgement),
        )

    def blocked(self, finding: Finding, record: Record, for_s: float) -> None:
        """The owner has exited, but somebody has kept the recovery waiting for so long: a reader that hangs."""
        left_out = self._repeats.allow((Event.WAITING, finding.place), finding.change(), time.monotonic())
        if left_out is None:
            return
        log.tell(
            Event.WAITING,
            f"{_name(finding.place)}: its writer has exited, but for {_rounded(for_s)} it could not be recovered:"
            f" {record.error}; it is recovered as soon as that ends{_left_out(left_out)}",
            database=finding.path,
            evidence=_evidence(record.owner or finding.judgement),
        )

    def unseen(self, place: Place, path: str, why: str, for_s: float) -> None:
        """No look at it has come to anything for so long. Told by session, which may have thousands of them."""
        left_out = self._repeats.allow((Event.WAITING, self._session_of(place)), None, time.monotonic())
        if left_out is not None:
            log.tell(
                Event.WAITING,
                f"{_name(place)}: for {_rounded(for_s)} nothing could be said of its journal: {why}; it is looked"
                f" at again. A process that holds a lease on it does that: lslocks names it{_left_out(left_out)}",
                database=path,
            )

    def held(self, finding: Finding, for_s: float, again_s: float) -> None:
        """Nobody can say whether the owner has exited."""
        left_out = self._repeats.allow((Event.HELD, finding.place), finding.change(), time.monotonic())
        if left_out is None:
            return
        log.tell(
            Event.HELD,
            f"{_name(finding.place)}: seen hot for {_rounded(for_s)}, and nobody can say whether its writer has exited:"
            f" {finding.reason}; looking again in {format_seconds(again_s)}. {by_hand(finding)}{_left_out(left_out)}",
            database=finding.path,
            evidence=_evidence(finding.judgement),
        )
        if left_out == 0:
            self.count(Outcome.HELD)
            self._keep(_record_of(finding, Outcome.HELD), finding.change())

    def refused(self, finding: Finding, *, is_new: bool = True) -> bool:
        """A journal that is not ours to touch; told once per change of it. False where so many of its session were told
        within the hour that this one is not: to be said again.

        Args:
            is_new: it is not said again.
        """
        told = self._count_refused(self._session_of(finding.place))
        if is_new:
            self.count(Outcome.REFUSED)
        if told > _MOST_REFUSED_PER_DIRECTORY:
            return False
        more = ""
        if told == _MOST_REFUSED_PER_DIRECTORY:
            more = " More of this session are told an hour later: see journal-watcher scan."
        log.tell(
            Event.REFUSED,
            f"{_name(finding.place)}: {finding.reason}; it is left as it is. {by_hand(finding)}{more}",
            database=finding.path,
            state=finding.look.state.value,
        )
        self._keep(_record_of(finding, Outcome.REFUSED), finding.change())
        return True

    def attempted(self, finding: Finding, attempt: Attempt, again_s: float | None) -> None:
        """A try to recover has ended."""
        record = judged(attempt.record, finding)
        name, path = _name(finding.place), finding.path
        self.count(record.outcome)
        for event, why in attempt.warnings:
            # A snapshot fails for what is wrong with the state's disk, which is the same for each database.
            about = None if event is Event.SNAPSHOT_FAILED else finding.place
            left_out = self._repeats.allow((event, about), why, time.monotonic())
            if left_out is not None:
                log.tell(event, f"{name}: {why}{_left_out(left_out)}", database=path)
        match record.outcome:
            case Outcome.RECOVERED:
                self._repeats.ease((Event.RECOVERY_FAILED, finding.place), time.monotonic())
                self._tell_recovered(name, record, attempt.note)
            case Outcome.CORRUPT:
                self.corrupt(finding.place, record)
            case Outcome.FAILED:
                self._tell_failed(finding, record, again_s)
            case Outcome.BUSY:
                again = "" if again_s is None else f"; looking again in {_rounded(again_s)}"
                log.tell(Event.BUSY, f"{name}: {record.error}{again}", database=path)
            case _:
                pass
        if record.outcome not in _KEPT_WHEN_TOLD:
            self._keep(record, change_of(finding, record))

    def _tell_recovered(self, name: str, record: Record, note: str | None) -> None:
        pages = "a journal that held no page" if record.pages is None else counted(record.pages, "page")
        why = "" if record.owner is None else f"; {record.owner.reason}"
        log.tell(
            Event.RECOVERED,
            f"{name}: {pages} rolled back in {record.duration_ms:.1f} ms{why}{f'; {note}' if note else ''}",
            database=record.database,
            pages=record.pages,
            journal_size=record.journal_size,
            duration_ms=round(record.duration_ms, 1),
            snapshot=record.snapshot,
            evidence=_evidence(record.owner),
        )

    def _tell_failed(self, finding: Finding, record: Record, again_s: float | None) -> None:
        # Whatever journal it is by now: its agent makes new ones as fast as it likes.
        left_out = self._repeats.allow((Event.RECOVERY_FAILED, finding.place), record.error, time.monotonic())
        if left_out is not None:
            again = "" if again_s is None else f"; trying again in {format_seconds(again_s)}, then less often"
            log.tell(
                Event.RECOVERY_FAILED,
                f"{_name(finding.place)}: {record.error}. Nothing is lost, for its journal is kept{again}"
                f"{_left_out(left_out)}",
                database=finding.path,
            )

    def corrupt(self, place: Place, record: Record) -> None:
        """A database that came out of its rollback corrupt."""
        kept = f"as it was before: {printable(record.snapshot)}" if record.snapshot else "no snapshot was made"
        log.tell(
            Event.CORRUPT,
            f"{_name(place)}: rolled back, and SQLite calls it corrupt: {record.error}. It was damaged before, or its"
            f" writer was not alone; {kept}",
            database=record.database,
            snapshot=record.snapshot,
        )

    def condemned(self, place: Place, record: Record) -> None:
        """The thorough verification has found a recovered database corrupt."""
        self.count(Outcome.CORRUPT)
        self.corrupt(place, record)
        self._keep(record, record.time.isoformat())

    def unverified(self, place: Place, record: Record, why: str) -> None:
        """The thorough verification could not be done."""
        message = f"{_name(place)}: recovered, but recovery.verify could not be done: {why}"
        log.tell(Event.VERIFY_FAILED, message, database=record.database)

    def defect(self, place: Place, path: str, error: BaseException) -> None:
        """Something went wrong that nobody has thought of, or the machine has no more to give."""
        name, words, about = type(error).__name__, printable(str(error)), place.relative
        if isinstance(error, OSError):  # whose own words name the file that was asked for, another one at each try
            words, about = in_words(error), "" if is_of_machine(error) else place.relative
        left_out = self._repeats.allow((name, about), words, time.monotonic())
        if left_out is not None:
            log.tell(
                Event.RECOVERY_FAILED,
                f"{_name(place)}: {name}: {words}; database and journal are as they were, looking again"
                f"{_left_out(left_out)}",
                database=path,
                exception=None if isinstance(error, OSError) else error,
            )

    def _count_refused(self, session: str) -> int:
        """How many were refused in this session within the hour, this one included."""
        now = time.monotonic()
        with self._lock:
            told, since = self._refused.pop(session, (0, now))
            if now - since > _REFUSED_WITHIN_S:
                told, since = 0, now
            self._refused[session] = (told + 1, since)
            if len(self._refused) > _MOST_SESSIONS:
                self._refused.popitem(last=False)
            return told + 1


def _record_of(finding: Finding, outcome: Outcome) -> Record:
    return Record(
        database=finding.path,
        session=finding.session,
        outcome=outcome,
        journal_size=finding.look.size_bytes,
        owner=finding.judgement,
        error=finding.reason,
    )


def record_of(finding: Finding) -> Record | None:
    """The record of a journal that is left alone; None for one that is cold, or to be recovered."""
    outcomes = {
        Decision.WAIT: Outcome.WAITING,
        Decision.HOLD: Outcome.HELD,
        Decision.REFUSE: Outcome.REFUSED,
    }
    outcome = outcomes.get(finding.decision)
    return None if outcome is None else _record_of(finding, outcome)


def judged(record: Record, finding: Finding) -> Record:
    """The record of an attempt; where that ended before its own judgement, with the one that had led to it."""
    return record if record.owner is not None else replace(record, owner=finding.judgement)


def change_of(finding: Finding, record: Record) -> str:
    """For the history, the change of an attempt: a failure is the same until journal or error change; every success is
    one of its own."""
    return f"{finding.change()} {record.error}" if record.outcome is Outcome.FAILED else record.time.isoformat()


def _name(place: Place) -> str:
    return printable(place.relative)


def _rounded(seconds: float) -> str:
    return format_seconds(round(seconds) if seconds >= 1 else round(seconds, 3))


def _left_out(number: int) -> str:
    return f" (told {number} times less since)" if number else ""


def _evidence(judgement: Judgement | None) -> list[dict[str, str]]:
    return [] if judgement is None else judgement.as_json()["evidence"]  # type: ignore[return-value]
