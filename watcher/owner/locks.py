"""The `locks` probe: does a process hold a writer's lock on the database?

SQLite's unix VFS takes POSIX advisory locks on bytes of the database file (os_unix.c, `PENDING_BYTE` and its
neighbours): a writer holds a write lock on RESERVED from its first change to its commit, and on PENDING and the SHARED
range while it writes the database; a reader holds a read lock in the SHARED range, and for a moment one on PENDING.
F_GETLK tells whether such a lock is held, and by whom, without taking one and without any privilege.

A write lock on the SHARED range alone is one of two: of the VFS unix-excl, for as long as the database is open, or of
somebody who rolls it back. While it is held nobody else can, so nothing is said of it here: see :func:`is_alone`.

The VFS unix-dotfile takes none of them: it makes a directory beside the database (`dotlockLock`), which stays when its
maker is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys

from watcher.filesystem import FileSystem
from watcher.names import printable
from watcher.owner.testimony import Answer, Evidence
from watcher.settings import LocksMode

__all__ = ["LocksProbe", "holder_of", "is_alone", "lock_directory_of", "question", "reader_of", "writer_of"]

PENDING_BYTE = 0x40000000

if sys.platform == "darwin":  # struct flock: l_start, l_len, l_pid, l_type, l_whence
    _FLOCK = struct.Struct("qqihh")
    _TYPE, _PID = 3, 2

    def question(kind: int, start: int, length: int) -> bytes:
        """What to ask :func:`holder_of`: for a lock that conflicts with one of `kind` (of fcntl) on these bytes."""
        return _FLOCK.pack(start, length, 0, kind, os.SEEK_SET)

else:  # Linux with 64-bit offsets: l_type, l_whence, l_start, l_len, l_pid
    _FLOCK = struct.Struct("hhqqi4x")
    _TYPE, _PID = 0, 4

    def question(kind: int, start: int, length: int) -> bytes:
        """What to ask :func:`holder_of`: for a lock that conflicts with one of `kind` (of fcntl) on these bytes."""
        return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


_IS_THERE_A_WRITER = question(fcntl.F_RDLCK, PENDING_BYTE, 2)  # PENDING and RESERVED
_IS_THERE_A_READER = question(fcntl.F_WRLCK, PENDING_BYTE + 1, 511)  # a rollback needs RESERVED and the SHARED range
_IS_THERE_ONE_ALONE = question(fcntl.F_RDLCK, PENDING_BYTE + 2, 510)  # the SHARED range


def writer_of(descriptor: int) -> int | None:
    """The pid of a process with a writer's lock on the database, or None.

    Asked with F_RDLCK, so that readers, who hold read locks on PENDING for moments, do not show.

    Args:
        descriptor: of the database; no SQLite connection of this process may be on it (closing the descriptor would
            drop that connection's locks, fcntl(2)).

    Returns:
        A pid in our own pid namespace; 0 where the holder is in one that ours does not see, -1 where the lock is no
        process's (an open file description lock, or one held elsewhere).

    Raises:
        OSError: the file system knows no such locks.
    """
    return holder_of(descriptor, _IS_THERE_A_WRITER)


def reader_of(descriptor: int) -> int | None:
    """The pid of a process with any lock on RESERVED or in the SHARED range, as :func:`writer_of` gives it: no
    testimony about the owner, but while it is held no rollback can begin. A read lock on RESERVED, which SQLite never
    takes itself, makes a hot journal a live writer's to it (`unixCheckReservedLock` asks with a write lock)."""
    return holder_of(descriptor, _IS_THERE_A_READER)


def is_alone(descriptor: int) -> bool:
    """Whether somebody has the database to himself: a lock on it that lets nobody read, and is no writer's by
    :func:`writer_of`."""
    return holder_of(descriptor, _IS_THERE_ONE_ALONE) is not None


def lock_directory_of(name: str, at: int) -> str | None:
    """The name of the directory that a writer with the VFS unix-dotfile has made beside the database, or None.

    Args:
        name: of the database.
        at: descriptor of its directory.
    """
    lock = f"{name}.lock"
    if not os.access(lock, os.F_OK, dir_fd=at, follow_symlinks=False):  # as nearly always; it costs half of a stat
        return None
    try:
        return lock if stat.S_ISDIR(os.stat(lock, dir_fd=at, follow_symlinks=False).st_mode) else None
    except FileNotFoundError:
        return None


def holder_of(descriptor: int, asked: bytes) -> int | None:
    """F_GETLK: who holds such a lock as is asked for.

    Args:
        asked: a :func:`question`.

    Raises:
        OSError: as fcntl(2).
    """
    answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    pid: int = answer[_PID]
    return None if answer[_TYPE] == fcntl.F_UNLCK else pid


class LocksProbe:
    """ALIVE where a writer's lock is held; EXITED where none is and locks are this kernel's own; else silent."""

    name = "locks"

    def __init__(self, mode: LocksMode) -> None:
        self._trusts = mode is LocksMode.TRUST

    def testify(
        self, database_fd: int, file_system: FileSystem, foreign_kernel: str | None, lock_directory: str | None = None
    ) -> Evidence:
        """Ask for a writer's lock.

        Args:
            database_fd: as for :func:`writer_of`.
            file_system: that of the database.
            foreign_kernel: why guests run on a kernel whose locks are not seen here; None where nothing says so.
            lock_directory: the name of what :func:`lock_directory_of` has found.
        """
        try:
            pid = writer_of(database_fd)
        except OSError as error:
            return Evidence(self.name, Answer.UNKNOWN, f"the file system refuses to tell of locks ({error.strerror})")
        if pid is not None:
            whom = f"pid {pid} holds" if pid > 0 else "a process that we cannot see holds"
            return Evidence(self.name, Answer.ALIVE, f"{whom} the writer's lock", pid if pid > 0 else None)
        if lock_directory is not None:
            # Of a live writer or of one that was killed: it looks the same.
            detail = f"{printable(lock_directory)} stands for a lock (SQLite's unix-dotfile), and nobody can ask whose"
            return Evidence(self.name, Answer.SILENT, detail)
        if self._trusts:
            return Evidence(self.name, Answer.EXITED, "nobody holds the writer's lock (owner.locks: trust)")
        if not file_system.is_local:
            return Evidence(self.name, Answer.SILENT, f"locks of writers elsewhere do not show on {file_system.name}")
        if foreign_kernel is not None:
            return Evidence(self.name, Answer.SILENT, f"locks of guests do not show here: {foreign_kernel}")
        return Evidence(self.name, Answer.EXITED, f"nobody holds the writer's lock ({file_system.name}, local locks)")
