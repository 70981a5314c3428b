"""What no host waits for, done when nobody waits any more: while hundreds of databases are recovered, the words about
those that are, their entries of the history and the files of their snapshots come when the others have had their turn.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from loguru import logger

__all__ = ["Afterwards"]

_GIVES_WAY_S, _LOOKS_S = 2.0, 0.05
_MOST_WAITING = 5_000


class Afterwards:
    """One thread, in which everything is done in the order in which it came.

    Args:
        busy: whether recoveries are waiting: what has waited for less than some seconds gives way to them.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._order = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="afterwards", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Do what is left, and end. What comes after that is done by who brings it."""
        with self._order:
            self._stopping.set()
            self._waiting.put(None)
        self._thread.join(deadline_s)

    def do(self, task: Callable[[], None]) -> None:
        """Do it afterwards; in the calling thread where too much waits already, or nothing is done here any more."""
        with self._order:
            waits = self._waiting.qsize() < _MOST_WAITING and not self._stopping.is_set()
            if waits:
                self._waiting.put((time.monotonic(), task))
        if not waits:
            task()

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            since, task = waiting
            while self._busy() and time.monotonic() < since + _GIVES_WAY_S and not self._stopping.wait(_LOOKS_S):
                pass
            try:
                task()
            except Exception:  # noqa: BLE001 - the top of a thread, which must go on for the others
                logger.exception("what comes after a recovery failed")
