"""A plain file of the tree, held by a descriptor that stands for it without having opened it.

What a hostile process puts in the place of a name after it was pinned is not reached: the file is opened through its
own descriptor, never by the name. Linux has O_PATH for that; elsewhere a file is opened by its name in a checked
directory and known again by its identity.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from watcher.met import O_PATH, Gone, UnsafeError, kind_of, let_go
from watcher.names import printable

__all__ = ["FileIdentity", "LookAgainError", "Pinned"]


class LookAgainError(Exception):
    """The files are being changed under our eyes, or another thread of ours is at this very database by another name:
    nothing can be said now, and another look in a moment will tell."""


class FileIdentity(NamedTuple):
    """Which file it is, and in which version: equal as long as nobody has written it or put another in its place.

    The ctime does not belong to it: SQLite, run by root, gives each journal that it opens its owner anew
    (`robustFchown` in os_unix.c), so that every poll of a root's host changes it.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        mode, inode, device, _, uid, gid, size_bytes = status[:7]
        return cls(device, inode, size_bytes, status.st_mtime_ns, mode, uid, gid)

    def is_file(self, status: os.stat_result) -> bool:
        """Whether it is this file, whatever has been written to it."""
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


class Pinned:
    """A plain file that has one name.

    Args:
        name: in its directory.
        what: it is, for messages: `the journal`.
        directory_fd: checked descriptor of its directory; borrowed for as long as this lives.
        fd: a descriptor that has pinned the file already, this object's from now on; None: by its name.

    Raises:
        Gone: there is none of this name.
        UnsafeError: it is something else than a plain file, has a second name, or its directory may not be searched.
        OSError: we have run out of descriptors, or the file system fails.
    """

    __slots__ = ("_directory_fd", "_name", "_reader", "_what", "fd", "status")

    def __init__(self, name: str, what: str, directory_fd: int, *, fd: int | None = None) -> None:
        self._name = name
        self._what = what
        self._directory_fd = directory_fd
        self._reader = -1
        self.fd = _pin(name, directory_fd) if fd is None else fd
        """Stands for the file (Linux), or for its directory."""
        try:
            self.status = self._checked()
            """As it was when it was pinned, or renewed."""
        except BaseException:
            os.close(self.fd)
            raise

    def _checked(self) -> os.stat_result:
        try:
            status = os.fstat(self.fd) if O_PATH else os.stat(self._name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise Gone(f"{printable(self._name)} is not there") from error
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeError(f"{self._what} is {kind_of(status.st_mode)}, not a plain file")
        if status.st_nlink == 0:
            raise Gone(f"{printable(self._name)} has been deleted")
        if status.st_nlink != 1:
            raise UnsafeError(f"{self._what} has {status.st_nlink} hard links")
        return status

    def renew(self) -> bool:
        """Bring `status` up to date where the name still stands for this file, and no other name does. False where it
        is to be pinned anew, whatever has become of it."""
        now = self._by_name()
        if now is None:  # to pin it anew tells why
            return False
        self.status = now
        return True

    def close(self) -> None:
        """No SQLite connection of this process may be on the file: its locks would be lost (fcntl(2))."""
        if self._reader >= 0:
            let_go(self._reader)
        let_go(self.fd)

    def is_named(self) -> bool:
        """Whether the name still stands for this file, and no other name does."""
        return self._by_name() is not None

    def _by_name(self) -> os.stat_result | None:
        """This file's status of now, where it is to be had by its name, and has no other."""
        try:
            now = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
        except OSError:  # gone, or its directory was shut
            return None
        before = self.status
        is_it = now.st_ino == before.st_ino and now.st_dev == before.st_dev and now.st_nlink == 1
        return now if is_it else None

    def open(self, flags: int) -> int:
        """Open the file; never waits, neither for the far end of a FIFO nor for a lease to be given up (fcntl(2)).

        Raises:
            OSError: as open(2); ESTALE where the name stands for another file (not Linux).
        """
        flags = flags | os.O_NONBLOCK | os.O_CLOEXEC
        if O_PATH:
            return os.open(f"/proc/self/fd/{self.fd}", flags & ~os.O_NOFOLLOW)
        descriptor = os.open(self._name, flags | os.O_NOFOLLOW, dir_fd=self._directory_fd)
        if not os.path.samestat(os.fstat(descriptor), self.status):
            let_go(descriptor)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return descriptor

    def reader(self) -> int:
        """A descriptor for reading, open until :meth:`close`; also when the file has been deleted since.

        Raises:
            UnsafeError: we may not read it.
            LookAgainError: it has gone, another file has taken its place, or a process holds a lease on it.
        """
        if self._reader >= 0:
            return self._reader
        try:
            self._reader = self.open(os.O_RDONLY)
        except PermissionError as error:
            raise UnsafeError(f"{printable(self._name)} may not be read by us (uid {os.geteuid()})") from error
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ESTALE, errno.EWOULDBLOCK, errno.ELOOP}:
                raise
            raise LookAgainError(f"{printable(self._name)} cannot be opened at the moment") from error
        return self._reader


def _pin(name: str, directory_fd: int) -> int:
    if not O_PATH:
        return os.dup(directory_fd)
    try:
        return os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    except PermissionError as error:
        raise UnsafeError(f"its directory may not be searched by us (uid {os.geteuid()})") from error
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENAMETOOLONG}:
            raise
        raise Gone(f"{printable(name)} is not there") from error
