"""The lock that keeps a second service out of a state directory, and the question who holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from dataclasses import dataclass
from typing import Self

__all__ = ["LOCK_NAME", "AlreadyRunning", "Lock", "holder_of"]

LOCK_NAME = "lock"

# struct flock of fcntl(2), 64-bit offsets, native alignment. Linux: type, whence, start, len, pid.
# macOS (sys/fcntl.h): start, len, pid, type, whence.
_LINUX_FLOCK = "hhqqi"
_MACOS_FLOCK = "qqihh"

# POSIX locks belong to the process, and closing any descriptor of a file drops all that it holds on it (fcntl(2)). So
# the process remembers which lock files it holds, by (device, inode), and never opens one of those a second time.
_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


class AlreadyRunning(Exception):  # noqa: N818 - an answer rather than an error: it is status 3 of `run`
    """Another service holds the lock.

    Attributes:
        pid: its process; 0 where it is not in our pid namespace.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        who = f"pid {pid}" if pid else "a process outside our pid namespace"
        super().__init__(f"another journal-watcher is running here ({who})")


@dataclass(frozen=True, slots=True)
class Lock:
    """A POSIX write lock on the file `lock`, held until :meth:`release` or the end of the process.

    The kernel gives it back however the process ends: there are no stale locks. A forked child does not inherit it.
    """

    fd: int
    identity: tuple[int, int]

    @classmethod
    def take(cls, directory_fd: int) -> Self:
        """Take it, or find out who has it.

        Raises:
            AlreadyRunning: another process, or this one, holds it.
            OSError: it cannot be asked for (no rights, no space, a file system without locks).
        """
        with _held_guard:
            if _identity_of(directory_fd) in _held:
                raise AlreadyRunning(os.getpid())
            fd = os.open(LOCK_NAME, _flags(os.O_RDWR | os.O_CREAT), 0o600, dir_fd=directory_fd)
            try:
                while not _try_to_lock(fd):
                    pid = _ask(fd)
                    if pid is not None:  # None: it has let go in this very moment
                        raise AlreadyRunning(pid)
            except BaseException:
                os.close(fd)
                raise
            found = os.fstat(fd)
            lock = cls(fd, (found.st_dev, found.st_ino))
            _held.add(lock.identity)
            return lock

    def release(self) -> None:
        """Give it back. Once only."""
        with _held_guard:
            os.close(self.fd)
            _held.discard(self.identity)


def holder_of(directory_fd: int) -> int | None:
    """The pid of the process that holds the lock of this directory; None where nobody does.

    It is asked by F_GETLK, which takes nothing: a service that starts in this moment is not in its way.

    Returns:
        The pid as our pid namespace numbers it, 0 for a process outside it.

    Raises:
        OSError: the lock may not be read.
    """
    with _held_guard:
        try:
            if _identity_of(directory_fd) in _held:
                return os.getpid()
            fd = os.open(LOCK_NAME, _flags(os.O_RDONLY), dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        try:
            return _ask(fd)
        finally:
            os.close(fd)


def _flags(access: int) -> int:
    return access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _identity_of(directory_fd: int) -> tuple[int, int] | None:
    try:
        found = os.stat(LOCK_NAME, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _try_to_lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _ask(fd: int) -> int | None:
    """The first holder of a lock in the way of a write lock on the whole file."""
    start, length = 0, 0  # a length of 0: to the end, wherever that is
    if sys.platform == "darwin":
        question = struct.pack(_MACOS_FLOCK, start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = struct.unpack(_MACOS_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))
    else:
        question = struct.pack(_LINUX_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        kind, _, _, _, pid = struct.unpack(_LINUX_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else int(pid)
