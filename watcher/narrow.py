"""A view of one database through which SQLite can touch nothing else: a VFS of ours.

SQLite is given no path of the tree. It opens the database and the very journal that was judged through the descriptors
that pin them, so that nothing that is swapped in between is reached, whatever it is: no link, no FIFO that would block,
no file of the host. What it may see of names is whether the journal's name still stands for that journal; what it may
delete is that name. A super-journal, a write-ahead log, shared memory or a temporary file is not to be had, no file is
made, and none gets another owner or mode. What the database may grow to is bounded.

For that, three of the system calls of SQLite's unix VFS are led through here (`xSetSystemCall`). Outside an open of
ours they do what they always did.

The process may load no other copy of SQLite, and the caller has no raw descriptor open on the database meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import apsw

from watcher.names import printable
from watcher.pinned import Pinned
from watcher.rights import rights_of
from watcher.tree import SUFFIX

__all__ = ["NEW_JOURNAL", "Grant", "opened"]

VFS_NAME = "journal-watcher"
NEW_JOURNAL = "a new journal has appeared: a writer is at it again"
_MAX_PATH_BYTES = 4096
_NOTICE = re.compile(r"recovered (\d+) pages from ")
_MOST_LOGGED = 8
_SYSTEM_FILES = {b"/dev/null", b"/dev/urandom"}
"""What os_unix.c opens beside: in the place of standard descriptors that are closed, and for random bytes."""


@dataclass(slots=True)
class Grant:
    """What one open may touch, and what it has done. Used by the one thread that opens.

    Attributes:
        directory_fd: checked descriptor of the directory of both files; borrowed.
        path: of the database. Nothing is opened by it.
        database: the database, pinned.
        journal: the journal that was judged, pinned; None where none may be rolled back.
        most_bytes: what the database may grow to.
        acts_as: the user whose file-system rights SQLite has meanwhile; None: ours.
        pages: pages that SQLite says it rolled back (SQLITE_NOTICE_RECOVER_ROLLBACK); None where it said nothing.
        finished_journal: our open has deleted, truncated or zeroed the journal.
        has_written: our open has begun to write the database.
        refused: why we stopped SQLite, where we did.
        was_replaced: we did because a name stood for another file, or for none, by then.
        logged: what else it has logged.
    """

    directory_fd: int
    path: str
    database: Pinned
    journal: Pinned | None = None
    most_bytes: int = 0
    acts_as: int | None = None
    pages: int | None = None
    finished_journal: bool = False
    has_written: bool = False
    refused: str | None = None
    was_replaced: bool = False
    logged: list[str] = field(default_factory=list)
    opens: Pinned | None = None  # what SQLite's unix VFS is opening at this moment
    has_opened_journal: bool = False

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def journal_name(self) -> str:
        return self.name + SUFFIX

    @property
    def alias(self) -> str:
        """The name by which SQLite knows the database. It looks up the mode of that file (`getFileMode`), and opens
        nothing by it."""
        return f"/proc/self/fd/{self.database.fd}" if sys.platform == "linux" else self.path

    def sees_journal(self) -> bool:
        """Whether the journal's name stands for the very journal that was judged, or for any, where none was."""
        if self.journal is not None:
            return self.journal.is_named()
        try:
            status = os.stat(self.journal_name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return status.st_size > 0

    def check(self, pinned: Pinned, name: str) -> None:
        """Raises where the name stands for another file by now, or the file has got another name."""
        if not pinned.is_named():
            self.was_replaced = True
            self.refuse(f"{printable(name)} was replaced while it was being opened")

    def refuse(self, why: str) -> None:
        """Stop the open here. SQLite gives up what it was about to do; nothing has been done that a next open would
        not do again."""
        self.refused = self.refused or why
        raise apsw.CantOpenError(why)


class _OfThread(threading.local):
    grant: Grant | None = None


_of_thread = _OfThread()
"""The grant of the open that this thread is in: SQLite calls its VFS and its log back in the thread of the open."""


@contextmanager
def opened(grant: Grant, flags: int, *, busy_timeout_s: float) -> Iterator[apsw.Connection]:
    """A connection that has what the grant allows; closed at the end of the block. It has parsed no schema, and allows
    nothing that a hostile one could want.

    Args:
        flags: `SQLITE_OPEN_READWRITE` or `SQLITE_OPEN_READONLY`.
        busy_timeout_s: how long SQLite waits for a lock, seconds.

    Raises:
        apsw.Error: SQLite cannot open it.
        RightsError: the kernel does not let us act as that user.
    """
    with _granted(grant), rights_of(grant.acts_as):
        connection = apsw.Connection(grant.alias, flags=flags, vfs=VFS_NAME, statementcachesize=0)
        try:
            connection.set_busy_timeout(round(busy_timeout_s * 1000))
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.pragma("cell_size_check", True)
            connection.pragma("mmap_size", 0)
            yield connection
        finally:
            connection.close(True)


@contextmanager
def _granted(grant: Grant) -> Iterator[None]:
    assert _of_thread.grant is None
    _of_thread.grant = grant
    try:
        yield
    finally:
        _of_thread.grant = None


def _log(_code: int, message: str) -> None:
    grant = _of_thread.grant
    if grant is None:
        return
    notice = _NOTICE.match(message)
    if notice is not None:
        grant.pages = (grant.pages or 0) + int(notice[1])
    elif len(grant.logged) < _MOST_LOGGED:
        grant.logged.append(message)


class _File:
    """A file of the base VFS, without shared memory (io methods of version 1), and bounded: most calls go straight to
    the base's own methods."""

    def __init__(self, base: apsw.VFSFile, grant: Grant, *, is_journal: bool) -> None:
        self._grant = grant
        self._write, self._truncate = base.xWrite, base.xTruncate
        self._is_journal = is_journal
        self.xRead = base.xRead
        self.xClose = base.xClose
        self.xSync = base.xSync
        self.xFileSize = base.xFileSize
        self.xLock = base.xLock
        self.xUnlock = base.xUnlock
        self.xCheckReservedLock = base.xCheckReservedLock
        self.xFileControl = base.xFileControl
        self.xSectorSize = base.xSectorSize
        self.xDeviceCharacteristics = base.xDeviceCharacteristics

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._check(offset + len(data))
        self._write(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        self._check(size)
        self._truncate(size)

    def _check(self, size_bytes: int) -> None:
        if self._is_journal:
            self._grant.finished_journal = True
            return
        if size_bytes > self._grant.most_bytes:
            self._grant.refuse(f"the rollback would grow the database beyond {self._grant.most_bytes} bytes")
        self._grant.has_written = True


class _NarrowVFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(VFS_NAME, "", maxpathname=_MAX_PATH_BYTES)

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - SQLite's name
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802, ARG002 - SQLite's name and signature
        grant = _grant()
        if pathname == grant.alias + SUFFIX:
            return grant.sees_journal()
        if pathname != grant.alias + "-wal":  # a write-ahead log is not for us to replay
            grant.refuse("SQLite asked for a file that is neither the database nor its journal")
        return False

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        grant = _grant()
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        if path == grant.alias and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return self._open(grant, grant.alias, flags, grant.database, grant.name)
        if path != grant.alias + SUFFIX or not flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL:
            grant.refuse("SQLite asked for a file that is neither the database nor its journal")
        if grant.journal is None:
            grant.refuse(NEW_JOURNAL)
            raise AssertionError
        file = self._open(grant, path, flags, grant.journal, grant.journal_name)
        grant.has_opened_journal = True
        return file

    @staticmethod
    def _open(grant: Grant, path: str, flags: list[int], pinned: Pinned, name: str) -> _File:
        # What is pinned can be opened after it was deleted, too; but a journal without its name is a transaction that
        # was committed, so the name counts.
        grant.check(pinned, name)
        flags[0] &= ~apsw.SQLITE_OPEN_CREATE
        grant.opens = pinned
        try:
            base = apsw.VFSFile("", path, flags)
        finally:
            grant.opens = None
        return _File(base, grant, is_journal=pinned is grant.journal)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        grant = _grant()
        # Beside a database of no page SQLite would delete a journal that it has never read (`hasHotJournal`).
        if filename != grant.alias + SUFFIX or grant.journal is None or not grant.has_opened_journal:
            grant.refuse("SQLite asked to delete what is not the journal that was rolled back")
            raise AssertionError
        grant.check(grant.journal, grant.journal_name)
        try:
            os.unlink(grant.journal_name, dir_fd=grant.directory_fd)
            grant.finished_journal = True
            if syncdir:
                os.fsync(grant.directory_fd)
        except OSError as error:
            raise apsw.IOError(f"the journal cannot be deleted: {error.strerror}") from error


def _grant() -> Grant:
    grant = _of_thread.grant
    if grant is None:
        raise apsw.CantOpenError("nothing may be opened by this VFS but what is granted")
    return grant


# --- SQLite's system calls ---

_Open = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, use_errno=True)
_Chmod = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, use_errno=True)
_Chown = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, use_errno=True)


def _returned(call: Callable[[], int | None]) -> int:
    """The result of a system call as C wants it: -1 and errno where it failed."""
    try:
        return call() or 0
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
    except BaseException:  # noqa: BLE001 - C takes no exception, and would go on with the descriptor 0
        ctypes.set_errno(errno.EIO)
    return -1


def _system_open(path: bytes, flags: int, mode: int) -> int:
    grant = _of_thread.grant
    if grant is None or path in _SYSTEM_FILES:
        return _returned(lambda: os.open(path, flags, mode))
    pinned = grant.opens
    if pinned is None:
        return _returned(_denied)
    return _returned(lambda: pinned.open(flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)))


def _system_chmod(descriptor: int, mode: int) -> int:
    return 0 if _of_thread.grant is not None else _returned(lambda: os.fchmod(descriptor, mode))


def _system_chown(descriptor: int, uid: int, gid: int) -> int:
    return 0 if _of_thread.grant is not None else _returned(lambda: os.fchown(descriptor, uid, gid))


def _denied() -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


# Once, before any connection of this process: SQLite refuses it afterwards (sqlite3_config).
apsw.config(apsw.SQLITE_CONFIG_LOG, _log)
_vfs = _NarrowVFS()
_calls = {"open": _Open(_system_open), "fchmod": _Chmod(_system_chmod), "fchown": _Chown(_system_chown)}
"""Kept for as long as the process lives: SQLite holds their addresses."""
for _name, _call in _calls.items():
    _vfs.xSetSystemCall(_name, ctypes.cast(_call, ctypes.c_void_p).value or 0)
