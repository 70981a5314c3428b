"""The sweep: at regular intervals, and whenever something may have been missed, every journal of the tree is a hint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from loguru import logger

from watcher.hints.survey import Survey
from watcher.tree import Place, RootMissingError

__all__ = ["Sweep", "Swept"]


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep that is through.

    Attributes:
        ended: when, in UTC.
        duration_s: seconds.
        journals: how many it met.
        error: why it ended early, or which directory it could not read (:class:`~watcher.hints.survey.UnreadError`);
            None where it has seen everything.
    """

    ended: datetime
    duration_s: float
    journals: int
    error: OSError | None


class Sweep:
    """A thread that walks the tree by its survey.

    Args:
        hint: called with each journal's place.
        swept: called at the end of each sweep, in this object's thread. The error of a sweep is a
            :class:`~watcher.tree.RootMissingError` where the root is not there.
    """

    def __init__(
        self, survey: Survey, *, interval_s: float, hint: Callable[[Place], None], swept: Callable[[Swept], None]
    ) -> None:
        self._survey = survey
        self._interval_s = interval_s
        self._hint = hint
        self._swept = swept
        self._turn = threading.Condition()
        self._asked = True  # guarded by _turn, like the next one: the first sweep comes at once
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Sweep now, or once more after the one that is under way."""
        with self._turn:
            self._asked = True
            self._turn.notify()

    def stop(self, deadline_s: float = 1.0) -> None:
        """End the thread; a sweep that is under way is broken off. One that a dead file system holds is left behind."""
        with self._turn:
            self._stopping = True
            self._turn.notify()
        if self._thread.is_alive():
            self._thread.join(deadline_s)

    def _run(self) -> None:
        while self._next():
            try:
                swept = self._sweep()
                if swept is not None:
                    self._swept(swept)
            except Exception:  # noqa: BLE001 - the top of a thread; the next sweep starts afresh
                logger.exception("a sweep failed")

    def _next(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._asked or self._stopping, self._interval_s)
            self._asked = False
            return not self._stopping

    def _sweep(self) -> Swept | None:
        """None where it was broken off."""
        began = time.monotonic()
        journals = 0
        error: OSError | None = None
        try:
            for place in self._survey.journals():
                if self._stopping:  # a peek without the lock: a moment later is early enough
                    return None
                self._hint(place)
                journals += 1
        except (RootMissingError, OSError) as failed:
            error = failed
        return Swept(datetime.now(UTC), time.monotonic() - began, journals, error)
