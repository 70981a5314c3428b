"""The copy of one pair, in memory or on the disk."""

from __future__ import annotations

import os
import resource
import threading
from typing import Protocol

from watcher.look import Look, LookAgainError, Pair
from watcher.met import let_go
from watcher.snapshot_files import Content
from watcher.tree import UnsafeError

__all__ = ["Disk", "InMemory", "Snapshot", "SnapshotError", "SnapshotSkipped"]

_MOST_IN_MEMORY, _MOST_IN_MEMORY_BYTES = 500, 80 << 20
"""So many wait in memory, and so much of it, while hundreds are recovered: files take longer to make than a
rollback, and a host waits for the one but not for the other."""


def _most_in_memory() -> int:
    """Each has a descriptor of its journal, and they may not take those that a recovery needs."""
    return min(_MOST_IN_MEMORY, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class SnapshotError(Exception):
    """The copy could not be made. The message says why, and where."""


class SnapshotSkipped(SnapshotError):  # noqa: N818 - a rule, not a failure
    """The settings, or the space that is left, allow no copy of this size."""


class Disk(Protocol):
    """Where snapshots are kept."""

    def take(self, pair: Pair, look: Look, *, database: Content | None = None, journal_fd: int | None = None) -> str:
        """Copy the pair to the disk, from these where it may be held no more, and return the snapshot's path.

        Raises:
            SnapshotError: the copy failed, or the disk would be too full; nothing of it is left.
        """

    def drop(self, path: str) -> None:
        """Forget a snapshot after which nothing was done."""


class InMemory:
    """How many snapshots wait in memory while their pair is held no more. May be used by several threads."""

    def __init__(self) -> None:
        self._most = _most_in_memory()
        self._lock = threading.Lock()
        self._count = 0  # guarded by _lock, like the next one
        self._bytes = 0

    def add(self, size_bytes: int) -> bool:
        """Count one more. False where it is one too many, or they would be too large together."""
        with self._lock:
            if self._count >= self._most or self._bytes + size_bytes > _MOST_IN_MEMORY_BYTES:
                return False
            self._count += 1
            self._bytes += size_bytes
            return True

    def remove(self, size_bytes: int) -> None:
        """One that was counted is on the disk, or given up."""
        with self._lock:
            self._count -= 1
            self._bytes -= size_bytes


class Snapshot:
    """The copy of one pair, made before its rollback: on the disk at once, or in memory until SQLite has finished.

    A small database is read in a tenth of the time that new files take, and the poll of its host waits for neither. Of
    its journal nothing need be read before: SQLite deletes it, and it is there for as long as it is open (unlink(2)).
    Where the process is killed in between, the journal is still the copy that is safe, or the rollback is through.

    Args:
        disk, memory: of the installation, where it ends, and where it may wait.
        look: the pair's last.
        path: where it is on the disk; None while it is in memory.
        database: what is in memory.
    """

    def __init__(
        self, disk: Disk, memory: InMemory, pair: Pair, look: Look, *, path: str | None, database: Content
    ) -> None:
        self._disk = disk
        self._memory = memory
        self._pair = pair
        self._look = look
        self._path = path
        self._database = database
        self._journal_fd: int | None = None  # while it is detached

    def detach(self) -> bool:
        """Let it stay in memory when the pair is let go, until :meth:`keep`. False where it has to be kept before: too
        many wait already, or it is on the disk."""
        if self._path is not None or not self._memory.add(self._size_bytes):
            return False
        try:
            self._journal_fd = os.dup(self._pair.pinned_journal.reader())
        except (OSError, LookAgainError, UnsafeError):  # no descriptor to be had
            self._memory.remove(self._size_bytes)
            return False
        return True

    def keep(self) -> str:
        """Have it on the disk, the pair being held still, or the snapshot detached.

        Returns:
            Its path.

        Raises:
            SnapshotError: the copy failed, or the disk would be too full; nothing of it is left.
        """
        if self._path is None:
            try:
                self._path = self._disk.take(
                    self._pair, self._look, database=self._database, journal_fd=self._journal_fd
                )
            finally:
                self._attach()
            self._database = b""
        return self._path

    def _attach(self) -> None:
        if self._journal_fd is not None:
            let_go(self._journal_fd)
            self._journal_fd = None
            self._memory.remove(self._size_bytes)

    @property
    def _size_bytes(self) -> int:
        """What it takes of our memory."""
        return len(self._database)

    def drop(self) -> None:
        """Forget it: nothing was done."""
        if self._path is not None:
            self._disk.drop(self._path)
