"""A view of one database through which SQLite can touch nothing else: its system calls are led through here.

SQLite is given no path of the tree. It opens the database and the very journal that was judged through the descriptors
that pin them, so that nothing that is swapped in between is reached, whatever it is: no link, no FIFO that would block,
no file of the host. What it may see of names is whether the journal's name still stands for that journal; what it may
delete is that name. A super-journal, a write-ahead log, shared memory or a temporary file is not to be had, no file is
made, and none gets another owner or mode. What the database may grow to is bounded.

For that, those system calls of SQLite's unix VFS that open, delete or write a file come here first (`xSetSystemCall`).
Outside an open of ours they do what they always did. Reading, syncing and locking stay SQLite's own: of a VFS in Python
hundreds of calls in each rollback would queue for Python's lock, and four workers would be slower than one.

None of what is led here is called while SQLite holds its own global lock (`unixBigLock`): apsw closes a connection
with Python's lock in hand and then waits for that one. So stat(2), which `findReusableFd` calls, is left alone, and
whether there is a journal is answered in the place of `xAccess`.

The process may load no other copy of SQLite, and no raw descriptor of the database is opened or closed meanwhile.
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
from typing import Any, NamedTuple, NoReturn

import apsw

from watcher.names import printable
from watcher.pinned import Pinned
from watcher.rights import rights_of
from watcher.tree import SUFFIX

__all__ = ["NEW_JOURNAL", "Grant", "opened"]

VFS = "journal-watcher"
NEW_JOURNAL = "a new journal has appeared: a writer is at it again"
_UNIX = "unix"
_STRANGE = "SQLite asked for a file that is neither the database nor its journal"
_NOTICE = re.compile(r"recovered (\d+) pages from ")
_MOST_LOGGED = 8
_SYSTEM_FILES = {b"/dev/null", b"/dev/urandom"}
"""What os_unix.c opens beside: in the place of standard descriptors that are closed, and for random bytes."""


class _Names(NamedTuple):
    """As SQLite spells them."""

    database: bytes
    journal: bytes
    wal: bytes


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
    database_descriptor: int = -1  # SQLite's own, as long as it has one
    has_opened_journal: bool = False
    names: _Names = field(init=False)

    def __post_init__(self) -> None:
        alias = os.fsencode(self.alias)
        self.names = _Names(alias, alias + os.fsencode(SUFFIX), alias + b"-wal")

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def journal_name(self) -> str:
        return self.name + SUFFIX

    @property
    def alias(self) -> str:
        """The name by which SQLite knows the database, and with `-journal` behind it the journal. It looks up the mode
        of that file (`getFileMode`), and opens nothing by it."""
        return f"/proc/self/fd/{self.database.fd}" if sys.platform == "linux" else self.path

    # --- what SQLite asks for, by the names that it knows ---

    def opens(self, path: bytes, flags: int) -> int:
        """A descriptor, as open(2) gives it; of the database and of its journal, as they are pinned, and no other.

        Raises:
            OSError: as open(2), or it is refused.
        """
        flags &= ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        if path == self.names.database:
            self._check(self.database, self.name)
            self.database_descriptor = self.database.open(flags)
            return self.database_descriptor
        if path != self.names.journal:
            self.refuse(_STRANGE)
        if self.journal is None:
            self.refuse(NEW_JOURNAL)
        # What is pinned can be opened after it was deleted, too; but a journal without its name is a transaction that
        # was committed, so the name counts.
        self._check(self.journal, self.journal_name)
        descriptor = self.journal.open(flags)
        self.has_opened_journal = True
        return descriptor

    def sees(self, path: bytes) -> bool:
        """Whether there is a file of this name that is not empty.

        Raises:
            OSError: it is refused.
        """
        if path == self.names.journal:
            return self._has_new_journal() if self.journal is None else self.journal.is_named()
        if path != self.names.wal:  # a write-ahead log is not for us to replay
            self.refuse(_STRANGE)
        return False

    def unlinks(self, path: bytes) -> None:
        """Delete the journal's name, where it stands for the journal that was rolled back.

        Raises:
            OSError: as unlink(2), or it is refused.
        """
        # Beside a database of no page SQLite would delete a journal that it has never read (`hasHotJournal`).
        if path != self.names.journal or self.journal is None or not self.has_opened_journal:
            self.refuse("SQLite asked to delete what is not the journal that was rolled back")
        self._check(self.journal, self.journal_name)
        try:
            os.unlink(self.journal_name, dir_fd=self.directory_fd)
        except OSError as error:
            self.refused = self.refused or f"the journal cannot be deleted: {error.strerror}"
            raise
        self.finished_journal = True

    def writes(self, descriptor: int, end: int) -> None:
        """Whether a write that ends there, or a truncation to there, may be.

        Raises:
            OSError: it is refused.
        """
        if descriptor != self.database_descriptor:
            self.finished_journal = True
            return
        if end > self.most_bytes:
            self.refuse(f"the rollback would grow the database beyond {self.most_bytes} bytes")
        self.has_written = True

    def refuse(self, why: str) -> NoReturn:
        """Stop the open here. SQLite gives up what it was about to do; nothing has been done that a next open would
        not do again."""
        self.refused = self.refused or why
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # at EACCES it would try once more, to read only

    def _has_new_journal(self) -> bool:
        try:
            status = os.stat(self.journal_name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return status.st_size > 0

    def _check(self, pinned: Pinned, name: str) -> None:
        if not pinned.is_named():
            self.was_replaced = True
            self.refuse(f"{printable(name)} was replaced while it was being opened")


class _OfThread(threading.local):
    grant: Grant | None = None


_of_thread = _OfThread()
"""The grant of the open that this thread is in: SQLite makes its system calls and logs in the thread of the open."""


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
        connection = apsw.Connection(grant.alias, flags=flags, vfs=VFS, statementcachesize=0)
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


# --- SQLite's system calls (`aSyscall` in os_unix.c) ---

_OFF_T = ctypes.c_int64  # 32-bit builds use the calls with 64 bits, too (_FILE_OFFSET_BITS in sqlite3.c)


def _signature(result: type[Any], *arguments: type[Any]) -> type[Any]:
    kind: type[Any] = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
    return kind


_SIGNATURES = {
    "open": _signature(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "lstat": _signature(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p),
    "access": _signature(ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "readlink": _signature(ctypes.c_ssize_t, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t),
    "unlink": _signature(ctypes.c_int, ctypes.c_char_p),
    "mkdir": _signature(ctypes.c_int, ctypes.c_char_p, ctypes.c_uint),
    "rmdir": _signature(ctypes.c_int, ctypes.c_char_p),
    "openDirectory": _signature(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)),
    "ftruncate": _signature(ctypes.c_int, ctypes.c_int, _OFF_T),
    "write": _signature(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
    "pwrite": _signature(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, _OFF_T),
    "pwrite64": _signature(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, _OFF_T),
    "fchmod": _signature(ctypes.c_int, ctypes.c_int, ctypes.c_uint),
    "fchown": _signature(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
}
_system: dict[str, Any] = {}
"""The calls as they were."""
_led: list[Any] = []
"""Ours, kept for as long as the process lives: SQLite holds their addresses."""


def _lead(name: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Lead SQLite's system call of this name to a function that is given the grant, and the call's arguments; what it
    raises is the call's errno. Without a grant the call is as it was."""

    def lead(granted: Callable[..., int | None]) -> Callable[..., int | None]:
        address = _vfs.xGetSystemCall(name)
        if not address:  # this build of SQLite has no use for it
            return granted
        signature = _SIGNATURES[name]
        system = _system[name] = signature(address)

        def call(*arguments: Any) -> int:
            try:
                grant = _of_thread.grant
                return system(*arguments) if grant is None else granted(grant, *arguments) or 0
            except OSError as error:
                ctypes.set_errno(error.errno or errno.EIO)
            except BaseException:  # noqa: BLE001 - C takes no exception, and would go on with the descriptor 0
                ctypes.set_errno(errno.EIO)
            return -1

        led = signature(call)
        _led.append(led)
        _vfs.xSetSystemCall(name, ctypes.cast(led, ctypes.c_void_p).value or 0)
        return granted

    return lead


# Once, before any connection of this process: SQLite refuses it afterwards (sqlite3_config).
apsw.config(apsw.SQLITE_CONFIG_LOG, _log)
_vfs = apsw.VFS("journal-watcher-calls", _UNIX)
"""Leads SQLite's system calls here; nothing is opened by it."""


@_lead("open")
def _open(grant: Grant, path: bytes, flags: int, mode: int) -> int:
    if path in _SYSTEM_FILES:
        return os.open(path, flags, mode)
    return grant.opens(path, flags)


@_lead("lstat")
def _lstat(_: Grant, _path: bytes, _status: int) -> int:
    _fail(errno.ENOENT)  # xFullPathname looks for links on the way: there is no way


@_lead("access")
def _access(_: Grant, _path: bytes, _mode: int) -> int:
    _fail(errno.ENOENT)


@_lead("readlink")
def _readlink(_: Grant, _path: bytes, _buffer: int, _size: int) -> int:
    _fail(errno.ENOENT)


@_lead("unlink")
def _unlink(grant: Grant, path: bytes) -> None:
    grant.unlinks(path)


@_lead("mkdir")
def _mkdir(_: Grant, _path: bytes, _mode: int) -> int:
    _fail(errno.EPERM)


@_lead("rmdir")
def _rmdir(_: Grant, _path: bytes) -> int:
    _fail(errno.EPERM)


@_lead("openDirectory")
def _open_directory(grant: Grant, _path: bytes, descriptor: Any) -> None:
    descriptor[0] = os.dup(grant.directory_fd)  # to sync it after a deletion


@_lead("ftruncate")
def _ftruncate(grant: Grant, descriptor: int, size: int) -> int:
    grant.writes(descriptor, size)
    return int(_system["ftruncate"](descriptor, size))


@_lead("write")
def _write(grant: Grant, descriptor: int, data: int, size: int) -> int:
    grant.writes(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) + size)
    return int(_system["write"](descriptor, data, size))


@_lead("pwrite")
def _pwrite(grant: Grant, descriptor: int, data: int, size: int, offset: int) -> int:
    grant.writes(descriptor, offset + size)
    return int(_system["pwrite"](descriptor, data, size, offset))


@_lead("pwrite64")
def _pwrite64(grant: Grant, descriptor: int, data: int, size: int, offset: int) -> int:
    grant.writes(descriptor, offset + size)
    return int(_system["pwrite64"](descriptor, data, size, offset))


@_lead("fchmod")
def _fchmod(_: Grant, _descriptor: int, _mode: int) -> None:
    """A journal keeps its mode."""


@_lead("fchown")
def _fchown(_: Grant, _descriptor: int, _uid: int, _gid: int) -> None:
    """A journal keeps its owner."""


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


# --- a VFS of SQLite's own functions, but for one ---

_Access = _signature(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int))


_VERSION = 3


class _Vfs(ctypes.Structure):
    """`struct sqlite3_vfs` of sqlite3.h in that version: a later one only has more behind it."""

    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p),
        ("pAppData", ctypes.c_void_p),
        ("xOpen", ctypes.c_void_p),
        ("xDelete", ctypes.c_void_p),
        ("xAccess", ctypes.c_void_p),
        ("xFullPathname", ctypes.c_void_p),
        ("xDlOpen", ctypes.c_void_p),
        ("xDlError", ctypes.c_void_p),
        ("xDlSym", ctypes.c_void_p),
        ("xDlClose", ctypes.c_void_p),
        ("xRandomness", ctypes.c_void_p),
        ("xSleep", ctypes.c_void_p),
        ("xCurrentTime", ctypes.c_void_p),
        ("xGetLastError", ctypes.c_void_p),
        ("xCurrentTimeInt64", ctypes.c_void_p),
        ("xSetSystemCall", ctypes.c_void_p),
        ("xGetSystemCall", ctypes.c_void_p),
        ("xNextSystemCall", ctypes.c_void_p),
    )


def _access_in_view(_vfs: int, path: bytes, _flags: int, seen: Any) -> int:
    try:
        grant = _of_thread.grant
        if grant is None:
            return int(apsw.SQLITE_CANTOPEN)
        seen[0] = int(grant.sees(path))
    except OSError:
        return int(apsw.SQLITE_CANTOPEN)
    except BaseException:  # noqa: BLE001 - C takes no exception
        return int(apsw.SQLITE_IOERR)
    return int(apsw.SQLITE_OK)


def _registered() -> _Vfs:
    """The unix VFS once more, under our name and with our `xAccess`, in SQLite's list right behind the original.

    Raises:
        ImportError: this SQLite is not made as all others are.
    """
    address = ctypes.c_void_p()
    connection = apsw.Connection(":memory:", vfs=_UNIX)
    connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(address))
    connection.close(True)
    if not address.value:
        raise ImportError("this SQLite does not tell where its unix VFS is (SQLITE_FCNTL_VFS_POINTER)")
    unix = _Vfs.from_address(address.value)
    told = next(each for each in apsw.vfs_details() if each["zName"] == _UNIX)
    found = {name: getattr(unix, name) or 0 for name, *_ in _Vfs._fields_} | {"zName": _UNIX}
    if any(found[name] != value for name, value in told.items() if name in found):
        raise ImportError("SQLite's unix VFS is not where SQLITE_FCNTL_VFS_POINTER says")
    ours = _Vfs.from_buffer_copy(unix)
    ours.iVersion = min(unix.iVersion, _VERSION)
    ours.zName = VFS.encode()
    ours.xAccess = ctypes.cast(_access_callback, ctypes.c_void_p).value
    ours.pNext, unix.pNext = unix.pNext, ctypes.addressof(ours)
    return ours


_access_callback = _Access(_access_in_view)
_ours = _registered()
"""Both are kept for as long as the process lives: they are in SQLite's list."""
