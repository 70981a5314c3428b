"""The service manager's watchdog, kept quiet for as long as the reconciler turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from watcher.names import printable
from watcher.reconciler import Reconciler
from watcher.records import log
from watcher.records.events import Event
from watcher.service_manager import ServiceManager

__all__ = ["Watchdog"]

_TURNS_PER_TIMEOUT = 3
_MISSES = 2


class Watchdog:
    """Belongs to the main thread, which comes by when something has happened or :attr:`due` is over. So the message
    that we live says two things: that thread turns, and a worker of the reconciler has shown itself.

    A hung reconciler is told of at its second missed turn, and the service manager is asked for an end at once; where
    it knows no such message, its own time-out comes.

    Args:
        manager: who waits for the message.
        wake: has the main thread come by; called from a worker, must not wait.
    """

    def __init__(self, manager: ServiceManager, wake: Callable[[], None]) -> None:
        self._manager = manager
        self._wake = wake
        self._period_s = None if manager.watchdog_s is None else manager.watchdog_s / _TURNS_PER_TIMEOUT
        self.due: float | None = None if self._period_s is None else time.monotonic()
        self._shown: threading.Event | None = None  # set by the worker that shows itself; None: nobody was asked
        self._misses = 0

    def turn(self, reconciler: Reconciler) -> None:
        """Tell the service manager what there is to be told."""
        if self._period_s is None or self.due is None:
            return
        if self._shown is not None and self._shown.is_set():
            self._shown = None
            self._live()
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self._period_s
        if self._shown is None:
            self._ask(reconciler)
        elif reconciler.goes_on():
            self._live()
        else:
            self._miss(reconciler)

    def renew(self) -> None:
        """The reconciler is another one: the old one owes us no sign any more."""
        self._shown = None
        self._misses = 0

    def _ask(self, reconciler: Reconciler) -> None:
        shown = self._shown = threading.Event()

        def show() -> None:
            shown.set()
            self._wake()

        reconciler.sign(show)

    def _live(self) -> None:
        self._misses = 0
        self._manager.keep_alive()

    def _miss(self, reconciler: Reconciler) -> None:
        self._misses += 1
        if self._misses != _MISSES:
            return
        now = time.monotonic()
        held = [
            f"{each.worker} is at {printable(each.place.relative)} for {now - each.since:.0f} s"
            for each in reconciler.held()
        ]
        log.tell(
            Event.HUNG,
            f"the reconciler does not turn: {'; '.join(held) or 'no worker takes anything'}. The service manager is"
            " asked to start us anew; what is under way begins again then",
        )
        self._manager.give_up()
