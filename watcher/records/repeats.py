"""A lasting fault is told once, then seldom."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Repeats"]

_PAUSES_S = (60.0, 300.0, 1800.0, 3600.0)
"""After the first telling, the second, the third, and every later one."""


@dataclass(slots=True)
class _Told:
    fingerprint: Hashable
    next_at: float
    times: int = 1
    left_out: int = 0


class Repeats:
    """Decides whether a message is worth telling again. Any thread may ask.

    At most `capacity` keys are remembered, the least recently asked for are forgotten first; a key that was forgotten
    is told at once when it comes back. So a key should be what an operator would look at (a database, a directory, an
    engine), not whatever a hostile tree can make by the million.

        if (left_out := repeats.allow(database, (reason, journal_mtime_ns), time.monotonic())) is not None:
            log.tell(Event.HELD, message, database=database, left_out=left_out)
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._guard = threading.Lock()
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()  # under _guard

    def allow(self, key: Hashable, fingerprint: Hashable, now: float) -> int | None:
        """Whether to tell it.

        Args:
            key: what the message is about.
            fingerprint: what it says; a change is told at once.
            now: seconds of a monotonic clock.

        Returns:
            How many were left out since it was last told; None: leave it out.
        """
        with self._guard:
            told = self._told.get(key)
            if told is None or told.fingerprint != fingerprint:
                self._told[key] = _Told(fingerprint, now + _PAUSES_S[0])
                self._told.move_to_end(key)
                if len(self._told) > self._capacity:
                    self._told.popitem(last=False)
                return 0 if told is None else told.left_out
            self._told.move_to_end(key)
            if now < told.next_at:
                told.left_out += 1
                return None
            left_out, told.left_out = told.left_out, 0
            told.next_at = now + _PAUSES_S[min(told.times, len(_PAUSES_S) - 1)]
            told.times += 1
            return left_out

    def ease(self, key: Hashable, now: float) -> None:
        """The fault is over for now: if it comes back it is told as a new one, but not within the first pause."""
        with self._guard:
            told = self._told.get(key)
            if told is not None:
                told.times, told.next_at = 1, min(told.next_at, now + _PAUSES_S[0])

    def forget(self, key: Hashable) -> None:
        """The fault is over: if it comes back, it is told at once."""
        with self._guard:
            self._told.pop(key, None)
