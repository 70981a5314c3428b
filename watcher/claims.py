"""Which files of the trees this process is at, so that no two threads are at the same one.

POSIX locks belong to a process: closing any descriptor of a database drops every lock that the process holds on it
(fcntl(2)). If one thread read a database, or took it for the journal of another, or for what a start-up check wants to
see, while SQLite rolls it back in a second thread, that rollback would go on without its locks.
"""

from __future__ import annotations

import os

__all__ = ["Claims"]

_claimed: dict[tuple[int, int], Claims] = {}
"""Whose each claimed file is, by (device, inode). Any thread may change it: `setdefault` and `del` are atomic here."""


class Claims:
    """The files that one thread is at. A file counts by its identity, whatever names it has."""

    __slots__ = ("_mine",)

    def __init__(self) -> None:
        self._mine: set[tuple[int, int]] = set()

    def claim(self, status: os.stat_result) -> bool:
        """Claim a file until :meth:`release`. False where another thread has it."""
        identity = (status.st_dev, status.st_ino)
        if _claimed.setdefault(identity, self) is not self:
            return False
        self._mine.add(identity)
        return True

    def release(self) -> None:
        """Let go of them all."""
        while self._mine:
            del _claimed[self._mine.pop()]
