"""One watcher per tree: a lock on the root's own directory."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from watcher.names import printable

__all__ = ["RootLock", "TreeTakenError"]


class TreeTakenError(Exception):
    """Another watcher holds this tree."""


@dataclass(frozen=True, slots=True)
class RootLock:
    """The root as it was when it was locked: flock(2) on the directory itself, so that a second watcher is noticed
    whatever its state directory, and by whatever link it comes."""

    descriptor: int
    device: int
    inode: int

    @classmethod
    def take(cls, root: Path) -> Self | None:
        """Take the tree; None where the root is not there.

        Raises:
            TreeTakenError: another watcher has it.
        """
        try:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                os.close(descriptor)
                raise TreeTakenError(f"another journal-watcher holds the tree {printable(root)}") from error
            # A file system that locks no directories (NFS): the state directory's own lock has to do.
        found = os.fstat(descriptor)
        return cls(descriptor, found.st_dev, found.st_ino)

    def is_still(self, root: Path) -> bool:
        """Whether this path leads to the directory that is locked."""
        try:
            found = os.stat(root)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def release(self) -> None:
        """Give it back. Once only."""
        os.close(self.descriptor)
