"""Signals, taken the moment they come, whatever the main thread is at.

Python calls a handler when its main thread is between two steps of the interpreter. A signal that comes after the last
of them and before the main thread blocks (in a get from a queue, say) interrupts nothing, and its handler waits until
something else wakes that thread: for the next sweep, here. So the C-level handler is what we go by: it writes the
signal's number into a pipe at once (signal.set_wakeup_fd), and a thread of ours reads there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType

__all__ = ["Signals"]


class Signals:
    """Takes these signals away from what they do by default, for as long as the process lives.

    Args:
        numbers: which.
        came: called with each one's number, from a thread of this object's.
    """

    def __init__(self, numbers: Iterable[int], came: Callable[[int], None]) -> None:
        self._numbers = frozenset(numbers)
        self._came = came
        self._thread: threading.Thread | None = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _nothing_more)

    def start(self) -> None:
        """Begin to tell; of those that have come meanwhile, too."""
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell no more; what comes now does nothing."""
        signal.set_wakeup_fd(-1)
        os.close(self._write)
        if self._thread is not None:
            self._thread.join()
        os.close(self._read)

    def _run(self) -> None:
        while numbers := os.read(self._read, 64):
            for number in numbers:
                if number in self._numbers:
                    self._came(number)


def _nothing_more(_number: int, _frame: FrameType | None) -> None:
    """The C-level handler has done it."""
