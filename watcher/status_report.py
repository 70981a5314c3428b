"""The report of how the service is: when it is due, for `status` and for the service manager."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from watcher.outward import Outward
from watcher.records import status
from watcher.records.events import Event
from watcher.records.state_dir import StateDir, StateError
from watcher.service_manager import ServiceManager
from watcher.vitals import Vitals

__all__ = ["StatusReport"]

_PAUSE_S = 0.25
"""After a change, for those that come with it."""
_MOST_APART_S = 1.0
"""Between two reports, where the changes do not end: the time doubles from one to the next."""
_AGAIN_S = 1.0
_FIRST_SWEEP_PAUSE_S = 1.0


class StatusReport:
    """Made by the main thread, which comes by when :attr:`due` is over; that there is something to report, any may say.

    Args:
        vitals: what is reported.
        outward: shows each change by itself, and is told of it at once.
        wake: has the main thread call :meth:`soon`; called from any thread, must not wait.
        warn: tells what may come again and again.

    Attributes:
        due: when to report, by time.monotonic; None where nothing has changed. Written by the main thread, read by any.
    """

    def __init__(
        self,
        vitals: Vitals,
        outward: Outward,
        manager: ServiceManager,
        *,
        wake: Callable[[], None],
        warn: Callable[[Event, str, object], None],
    ) -> None:
        self.due: float | None = None
        self._vitals = vitals
        self._outward = outward
        self._manager = manager
        self._wake = wake
        self._warn = warn
        self._state: StateDir | None = None
        # The rest belongs to the main thread.
        self._reported = -math.inf
        self._apart_s = _PAUSE_S

    def begin(self, state: StateDir) -> None:
        """The service has started: report at the next turn, and keep what is reported in this directory."""
        self._state = state
        self.due = time.monotonic()

    def has_changed(self) -> None:
        """The counts, or the state of the watch, may have; called from any thread, never waits. The main thread is not
        woken for a report that is due already: it forgets that before it looks at what it reports."""
        self._outward.changed()
        if self.due is None:
            self._wake()

    def soon(self) -> None:
        """Something has changed; for the main thread."""
        self._outward.changed()
        if self.due is None:
            now = time.monotonic()
            goes_on = now - self._reported < self._apart_s
            self._apart_s = min(2 * self._apart_s, _MOST_APART_S) if goes_on else _PAUSE_S
            self.due = max(now + _PAUSE_S, self._reported + self._apart_s)

    def turn(self) -> None:
        """Report, where that is due."""
        if self.due is not None and time.monotonic() >= self.due:
            self._report()

    def _report(self) -> None:
        assert self._state is not None, "nobody turns before the start"
        self._reported = time.monotonic()
        # While the watches are being set their number grows, and nobody tells.
        self.due = None if self._vitals.installation.is_watching else self._reported + _AGAIN_S
        self._outward.changed()
        try:
            status.write(self._state, self._vitals.status())
        except StateError as error:
            self._warn(Event.STATE_FAILED, str(error), "status")
        if self._manager.listens or self._vitals.first_sweep is not None:  # whose end is found by that sentence
            self._manager.status(self._vitals.sentence())
        if self._vitals.first_sweep is not None:
            self.due = time.monotonic() + _FIRST_SWEEP_PAUSE_S
