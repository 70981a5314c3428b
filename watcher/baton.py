"""The workers compute one at a time.

Python's lock does not see to that well: each system call lets go of it, and threads that compute take it from each
other at every one, thirty times in a look. Four of them needed nearly twice as long for 500 recoveries as one alone.
Who has the baton runs on until there is something to wait for.
"""

from __future__ import annotations

import threading
from types import TracebackType

__all__ = ["Baton"]

_PATIENCE_S = 0.003
"""A look mostly computes, for less than that. One that waits, for a disk or an engine, holds nobody up for longer."""


class Baton:
    """A lock that is waited for in vain: who does not get it soon goes on without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0  # ident of the thread that has it; written by that thread only

    def __enter__(self) -> None:
        if self._lock.acquire(timeout=_PATIENCE_S):
            self._holder = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder == threading.get_ident():
            self._holder = 0
            self._lock.release()
