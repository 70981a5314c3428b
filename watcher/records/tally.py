"""What the service counts of itself from its start on, whether anybody asks or not: it costs next to nothing, since
what a number is shown as is left to whoever asks for it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from watcher.names import printable
from watcher.owner.testimony import Answer, Judgement
from watcher.records.record import Outcome, Record

__all__ = ["MOST_SESSIONS", "OTHERS", "Durations", "SessionKey", "Tally"]

MOST_SESSIONS = 200
"""So many sessions are counted by name, the first to need it; the rest are one."""
OTHERS = "(others)"

_RECOVERY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SWEEP_BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_BY_SESSION = frozenset({Outcome.RECOVERED, Outcome.FAILED, Outcome.CORRUPT})

SessionKey = tuple[tuple[str, str], ...]
"""Fields of the layout with their values; for others as `printable` shows them."""


@dataclass(slots=True)
class Durations:
    """How often something took how long: `counts[i]` of those up to `bounds_s[i]` seconds, the last of all others."""

    bounds_s: Sequence[float]
    counts: list[int] = field(init=False)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> Durations:
        made = Durations(self.bounds_s, self.sum_s)
        made.counts = list(self.counts)
        return made


class Tally:
    """May be used by any thread. All counts only ever grow."""

    def __init__(self) -> None:
        self._guard = threading.Lock()  # of all below
        self._verdicts: Counter[tuple[str, Answer]] = Counter()
        self._sessions: Counter[tuple[SessionKey, Outcome]] = Counter()
        self._named: set[SessionKey] = set()
        self._recoveries = Durations(_RECOVERY_BOUNDS_S)
        self._sweeps = Durations(_SWEEP_BOUNDS_S)
        self._overflows = 0
        self._hooks: Counter[tuple[str, bool]] = Counter()
        self._found: Counter[str] = Counter()

    def judged(self, judgement: Judgement) -> None:
        """The probes were asked about one journal."""
        with self._guard:
            for each in judgement.evidence:
                self._verdicts[each.probe, each.answer] += 1

    def recorded(self, record: Record) -> None:
        """Something became of a journal."""
        with self._guard:
            if record.outcome is Outcome.RECOVERED:
                self._recoveries.add(record.duration_ms / 1000)
            if record.outcome in _BY_SESSION and record.session:
                self._sessions[self._key(record.session), record.outcome] += 1

    def swept(self, seconds: float) -> None:
        with self._guard:
            self._sweeps.add(seconds)

    def overflowed(self) -> None:
        with self._guard:
            self._overflows += 1

    def hooked(self, event: str, went_well: bool) -> None:
        with self._guard:
            self._hooks[event, went_well] += 1

    def found(self, state: str) -> None:
        """A journal was found, or has changed."""
        with self._guard:
            self._found[state] += 1

    def found_by_state(self) -> dict[str, int]:
        with self._guard:
            return {str(state): count for state, count in self._found.items()}

    def verdicts(self) -> dict[tuple[str, str], int]:
        """Answers by probe."""
        with self._guard:
            return {(probe, answer.value): count for (probe, answer), count in self._verdicts.items()}

    def sessions(self) -> dict[tuple[SessionKey, str], int]:
        """Recoveries by session and outcome."""
        with self._guard:
            return {(_shown(key), outcome.value): count for (key, outcome), count in self._sessions.items()}

    def recovery_durations(self) -> Durations:
        with self._guard:
            return self._recoveries.copy()

    def sweep_durations(self) -> Durations:
        with self._guard:
            return self._sweeps.copy()

    def hooks(self) -> dict[tuple[str, bool], int]:
        """Calls by event and whether they went well."""
        with self._guard:
            return dict(self._hooks)

    @property
    def overflows(self) -> int:
        return self._overflows

    def _key(self, session: Mapping[str, str]) -> SessionKey:
        key = tuple(session.items())
        if key not in self._named:
            if len(self._named) >= MOST_SESSIONS:
                return tuple((name, OTHERS) for name in session)
            self._named.add(key)
        return key


def _shown(key: SessionKey) -> SessionKey:
    return tuple((name, printable(value)) for name, value in key)
