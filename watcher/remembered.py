"""What is remembered of journals between two looks: for how long each has been as it is, and what waits for it.

It serves only to wait the right time, to count, and not to say the same thing twice; nothing is decided by it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from watcher.decision import Decision, Finding
from watcher.journal import JournalState
from watcher.look import Look
from watcher.tree import Place

__all__ = ["Counts", "Known", "News", "Remembered"]

_MOST_REMEMBERED = 50_000
_MOST_REFUSED_PER_SESSION = 200
"""Of more journals than these nothing is remembered between two looks: a tree full of junk costs no memory."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many journals are known now: `hot` counts all that SQLite would roll back, whatever they wait for."""

    hot: int = 0
    waiting: int = 0
    held: int = 0
    refused: int = 0


@dataclass(slots=True)
class Known:
    """One journal. Written by the worker that has its place in its hands."""

    finding: Finding
    since: float  # by time.monotonic: the journal has been seen unchanged, and the same decided
    looks: int = 0  # in a row, without a change
    failures: int = 0  # in a row, with the same journal
    is_untold: bool = False  # refused, while too many of its session were
    not_before: float = 0.0  # by time.monotonic: the next try with that journal
    watched: frozenset[int] = frozenset()  # pids whose exit is a hint
    series: tuple[float, ...] = ()  # moments at which to look again whatever comes; guarded by the lock of all


class News(Enum):
    """What a finding is to what was remembered."""

    NONE = auto()
    CHANGED = auto()  # another journal, or what was known has changed
    COUNTS = auto()  # and it counts as another thing than before


class Remembered:
    """All of them; for any thread.

    Args:
        session_of: the directory whose writer a place is (:meth:`watcher.tree.Tree.session_of`).
    """

    def __init__(self, session_of: Callable[[Place], str]) -> None:
        self._session_of = session_of
        self._lock = threading.Lock()
        self._known: dict[Place, Known] = {}  # guarded by _lock, like the next one
        self._refused_in: Counter[str] = Counter()  # how many of them are refused, by session
        self._restless: dict[Place, tuple[float, int]] = {}  # since when, and how often in a row; guarded, too

    def note(self, finding: Finding) -> tuple[Known, News]:
        """Remember a finding, where there is room for it."""
        now = time.monotonic()
        with self._lock:
            self._restless.pop(finding.place, None)
            known = self._known.get(finding.place)
            if known is not None and _same(known.finding, finding):
                known.finding = finding
                known.looks += 1
                return known, News.NONE
            counts = known is None or known.finding.decision is not finding.decision
            if known is None:
                known = Known(finding, now)
            else:
                self._count_refused(known.finding, -1)
                if known.finding.look.journal != finding.look.journal:
                    known.failures, known.not_before = 0, 0.0
                known.finding, known.since, known.looks, known.is_untold = finding, now, 0, False
            if self._has_room_for(finding):
                self._known[finding.place] = known
                self._count_refused(finding, 1)
            else:
                self._known.pop(finding.place, None)
        return known, News.COUNTS if counts else News.CHANGED

    def forget(self, place: Place) -> Known | None:
        """What was remembered of a place, which is not any more."""
        with self._lock:
            self._restless.pop(place, None)
            known = self._known.pop(place, None)
            if known is not None:
                self._count_refused(known.finding, -1)
        return known

    def look_again(self, place: Place) -> tuple[int, float]:
        """A look that came to nothing.

        Returns:
            How many there were in a row, and for how long, seconds.
        """
        now = time.monotonic()
        with self._lock:
            since, looks = self._restless.get(place, (now, 0))
            if len(self._restless) < _MOST_REMEMBERED or looks:
                self._restless[place] = since, looks + 1
            else:  # of so many none is urgent
                looks = _MOST_REMEMBERED
            known = self._known.get(place)
            if known is not None:  # it came to something before, and then to nothing on the way to a recovery
                known.looks += 1
                looks = max(looks, known.looks)
            return looks, now - since

    def begin_series(self, known: Known, moments: tuple[float, ...]) -> None:
        """Something may have changed for it: the pauses between the looks begin anew.

        Args:
            moments: by time.monotonic, in order, at which to look whatever comes.
        """
        with self._lock:
            known.series = moments
            known.looks = 0

    def next_of_series(self, known: Known, now: float) -> float | None:
        """The first of those moments that is still to come; None where there is none."""
        with self._lock:
            known.series = tuple(moment for moment in known.series if moment > now)
            return known.series[0] if known.series else None

    def all(self) -> list[Known]:
        with self._lock:
            return list(self._known.values())

    def places(self) -> list[Place]:
        with self._lock:
            return list(self._known)

    def findings(self) -> list[tuple[Finding, float]]:
        """What is waited for, held or refused now, with the seconds since it has been seen so."""
        now = time.monotonic()
        return [(each.finding, now - each.since) for each in self.all() if each.finding.decision is not Decision.IGNORE]

    def counts(self) -> Counts:
        findings = [each.finding for each in self.all()]
        by_decision = [each.decision for each in findings]
        return Counts(
            hot=sum(each.look.state in {JournalState.HOT, JournalState.MALFORMED} for each in findings),
            waiting=by_decision.count(Decision.WAIT),
            held=by_decision.count(Decision.HOLD),
            refused=by_decision.count(Decision.REFUSE),
        )

    def _has_room_for(self, finding: Finding) -> bool:
        if len(self._known) >= _MOST_REMEMBERED:
            return False
        if finding.decision is not Decision.REFUSE:
            return True
        return self._refused_in[self._session_of(finding.place)] < _MOST_REFUSED_PER_SESSION

    def _count_refused(self, finding: Finding, change: int) -> None:
        if finding.decision is Decision.REFUSE:
            session = self._session_of(finding.place)
            self._refused_in[session] += change
            if not self._refused_in[session]:
                del self._refused_in[session]


def _same(before: Finding, now: Finding) -> bool:
    """Whether nothing has changed between two looks: the files, and what is to be done."""
    return before.decision is now.decision and _files(before.look) == _files(now.look)


def _files(look: Look) -> tuple[object, ...]:
    return (look.state, look.detail, look.journal, look.database)
