"""That nobody is answered by HTTP is told once, then seldom, and so is its end."""

from __future__ import annotations

import time

from watcher.records import log
from watcher.records.events import Event
from watcher.records.repeats import Repeats

__all__ = ["Outage"]


class Outage:
    """Whether `metrics.listen` does what it is there for; used by one thread."""

    def __init__(self) -> None:
        self._repeats = Repeats(capacity=1)
        self._lasts = False
        self._was_told = False

    def goes_on(self, why: str) -> None:
        """It has begun, or has not ended yet.

        Args:
            why: what, where, and what to do about it.
        """
        self._lasts = True
        if self._repeats.allow("", why, time.monotonic()) is not None:
            self._was_told = True
            log.tell(Event.HTTP_FAILED, f"metrics.listen: {why}")

    def is_over(self, words: str) -> None:
        """There is none, or it has ended; what is told then."""
        if not self._lasts:
            return
        self._lasts = False
        self._repeats.ease("", time.monotonic())
        if self._was_told:
            self._was_told = False
            log.tell(Event.HTTP_BACK, f"metrics.listen: {words}")
