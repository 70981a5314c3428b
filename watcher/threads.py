"""Threads that the kernel refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["REMEDY", "NoThreadError", "may_have_threads", "needing_threads"]

_REFUSED = "can't start new thread"
"""What `threading` raises a RuntimeError with, and nothing else tells it from others (Python 3.11 to 3.14)."""


REMEDY = "raise our limit of them (ulimit -u, in a unit TasksMax=)"


class NoThreadError(Exception):
    """The kernel has no thread for us. The message says what to do."""


@contextmanager
def needing_threads(closing: ExitStack) -> Iterator[None]:
    """A block in which threads are started, where one that is refused ends the process.

    Args:
        closing: what ends them all; it is emptied then, since what was never begun cannot be ended, and the end of the
            process ends the rest.

    Raises:
        NoThreadError: one was refused.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _REFUSED:
            raise
        closing.pop_all()
        raise NoThreadError(
            f"the kernel gives us no more threads: {REMEDY}, and start journal-watcher again"
        ) from error


def may_have_threads(count: int) -> bool:
    """Whether the kernel gives us so many threads more, at this moment: they are begun, and ended again."""
    end = threading.Event()
    begun: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, name="rehearsal", daemon=True)
            thread.start()
            begun.append(thread)
    except RuntimeError as error:
        if str(error) != _REFUSED:
            raise
        return False
    finally:
        end.set()
        for thread in begun:
            thread.join()
    return True
