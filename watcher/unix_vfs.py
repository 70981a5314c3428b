"""SQLite's own unix VFS, once more under a name of ours, whose calls ask a view first.

Those of its system calls that open, delete or write a file come here (`xSetSystemCall`), and are put to the view that
the calling thread looks through, if any; else they do what they always did. Reading, syncing and locking stay SQLite's
own: of a VFS in Python hundreds of calls in each rollback would queue for Python's lock, and four workers would be
slower than one.

A name that SQLite is given is taken as it stands: `xFullPathname` would look for links on the way to it, and nothing is
opened by a way.

None of what is led here is called while SQLite holds its own global lock (`unixBigLock`): apsw closes a connection
with Python's lock in hand and then waits for that one. So stat(2), which `findReusableFd` calls, is left alone, and
whether there is a file is answered in the place of `xAccess`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import apsw

__all__ = ["VFS", "View", "let_write", "through"]

VFS = "journal-watcher"
_UNIX = "unix"
_SYSTEM_FILES = {b"/dev/null", b"/dev/urandom"}
"""What os_unix.c opens beside: in the place of standard descriptors that are closed, and for random bytes."""


class View(Protocol):
    """What one thread lets SQLite see and do. An OSError that it raises is what the system call returns."""

    @property
    def directory_fd(self) -> int:
        """The directory that is synced after a deletion."""

    def opens(self, path: bytes, flags: int) -> int:
        """A descriptor of this file, as open(2) gives it; SQLite's from now on."""

    def sees(self, path: bytes) -> bool:
        """Whether there is a file of this name that is not empty."""

    def unlinks(self, path: bytes) -> None:
        """Delete the name."""

    def writes(self, descriptor: int, end: int) -> bool:
        """A write that ends there, or a truncation to there, is about to be. True where those that follow it need not
        be told: SQLite itself keeps them within what this one was allowed."""

    def logs(self, message: str) -> None:
        """SQLite has logged something (SQLITE_CONFIG_LOG)."""


class _OfThread(threading.local):
    view: View | None = None


_of_thread = _OfThread()
"""SQLite makes its system calls and logs in the thread that has called it."""


class through:  # noqa: N801 - what a `with` reads
    """Have SQLite see what the view allows, in this thread, until the end of the block."""

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        self._view = view

    def __enter__(self) -> None:
        assert _of_thread.view is None
        _writes.begin()
        _of_thread.view = self._view

    def __exit__(self, *_: object) -> None:
        _of_thread.view = None
        _writes.end()


def let_write() -> None:
    """Let SQLite write from now on without asking any view: for a process whose files the kernel keeps from growing
    (RLIMIT_FSIZE, setrlimit(2)). `View.writes` tells of truncations only."""
    _writes.never_ask()


def _log(_code: int, message: str) -> None:
    view = _of_thread.view
    if view is not None:
        view.logs(message)


# --- SQLite's system calls (`aSyscall` in os_unix.c) ---

_OFF_T = ctypes.c_int64  # 32-bit builds use the calls with 64 bits, too (_FILE_OFFSET_BITS in sqlite3.c)


def _signature(result: type[Any], *arguments: type[Any]) -> type[Any]:
    kind: type[Any] = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
    return kind


def _address(call: Any) -> int:
    return ctypes.cast(call, ctypes.c_void_p).value or 0


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
_WRITES = {"write", "pwrite", "pwrite64"}
_system: dict[str, Any] = {}
"""The calls as they were."""
_led: dict[str, Any] = {}
"""Ours, kept for as long as the process lives: SQLite holds their addresses."""


def _lead(name: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Lead SQLite's system call of this name to a function that is given the view, and the call's arguments; what it
    raises is the call's errno. Without a view the call is as it was."""

    def lead(asks: Callable[..., int | None]) -> Callable[..., int | None]:
        address = _vfs.xGetSystemCall(name)
        if not address:  # this build of SQLite has no use for it
            return asks
        signature = _SIGNATURES[name]
        system = _system[name] = signature(address)

        def call(*arguments: Any) -> int:
            try:
                view = _of_thread.view
                return system(*arguments) if view is None else asks(view, *arguments) or 0
            except OSError as error:
                ctypes.set_errno(error.errno or errno.EIO)
            except BaseException:  # noqa: BLE001 - C takes no exception, and would go on with the descriptor 0
                ctypes.set_errno(errno.EIO)
            return -1

        led = _led[name] = signature(call)
        _vfs.xSetSystemCall(name, _address(led))
        return asks

    return lead


# Once, before any connection of this process: SQLite refuses it afterwards (sqlite3_config).
apsw.config(apsw.SQLITE_CONFIG_LOG, _log)
_vfs = apsw.VFS("journal-watcher-calls", _UNIX)
"""Leads SQLite's system calls here; nothing is opened by it."""


@_lead("open")
def _open(view: View, path: bytes, flags: int, mode: int) -> int:
    if path in _SYSTEM_FILES:
        return os.open(path, flags, mode)
    return view.opens(path, flags)


@_lead("lstat")
def _lstat(_: View, _path: bytes, _status: int) -> int:
    _fail(errno.ENOENT)


@_lead("access")
def _access(_: View, _path: bytes, _mode: int) -> int:
    _fail(errno.ENOENT)


@_lead("readlink")
def _readlink(_: View, _path: bytes, _buffer: int, _size: int) -> int:
    _fail(errno.ENOENT)


@_lead("unlink")
def _unlink(view: View, path: bytes) -> None:
    view.unlinks(path)


@_lead("mkdir")
def _mkdir(_: View, _path: bytes, _mode: int) -> int:
    _fail(errno.EPERM)


@_lead("rmdir")
def _rmdir(_: View, _path: bytes) -> int:
    _fail(errno.EPERM)


@_lead("openDirectory")
def _open_directory(view: View, _path: bytes, descriptor: Any) -> None:
    descriptor[0] = os.dup(view.directory_fd)  # to sync it after a deletion


@_lead("ftruncate")
def _ftruncate(view: View, descriptor: int, size: int) -> int:
    view.writes(descriptor, size)
    return int(_system["ftruncate"](descriptor, size))


@_lead("write")
def _write(view: View, descriptor: int, data: int, size: int) -> int:
    _ask(view, descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) + size)
    return int(_system["write"](descriptor, data, size))


@_lead("pwrite")
def _pwrite(view: View, descriptor: int, data: int, size: int, offset: int) -> int:
    _ask(view, descriptor, offset + size)
    return int(_system["pwrite"](descriptor, data, size, offset))


@_lead("pwrite64")
def _pwrite64(view: View, descriptor: int, data: int, size: int, offset: int) -> int:
    _ask(view, descriptor, offset + size)
    return int(_system["pwrite64"](descriptor, data, size, offset))


def _ask(view: View, descriptor: int, end: int) -> None:
    if view.writes(descriptor, end):
        _writes.go_on()


@_lead("fchmod")
def _fchmod(_: View, _descriptor: int, _mode: int) -> None:
    """A journal keeps its mode."""


@_lead("fchown")
def _fchown(_: View, _descriptor: int, _uid: int, _gid: int) -> None:
    """A journal keeps its owner."""


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


class _Writes:
    """Whether SQLite's writes are put to the views. To ask Python at each is a third of all that a rollback computes,
    so where one thread of this process looks through a view, it is asked only until that view lets it go on. The calls
    are those of the whole process: when a second thread comes, all writes are put to the views again."""

    def __init__(self) -> None:
        self._calls = [(name, _address(_led[name]), _address(_system[name])) for name in _WRITES & _system.keys()]
        self._guard = threading.Lock()
        self._views = 0  # guarded by _guard, like the next two
        self._asks = True
        self._may_ask = True

    def begin(self) -> None:
        """A thread looks through a view."""
        with self._guard:
            self._views += 1
            if self._may_ask and not self._asks:
                self._set(asks=True)

    def end(self) -> None:
        """A thread does not look through its view any more."""
        with self._guard:
            self._views -= 1

    def go_on(self) -> None:
        """The calling thread's view need not be asked again."""
        with self._guard:
            if self._views == 1 and self._asks:
                self._set(asks=False)

    def never_ask(self) -> None:
        with self._guard:
            self._may_ask = False
            self._set(asks=False)

    def _set(self, *, asks: bool) -> None:
        for name, led, system in self._calls:
            _vfs.xSetSystemCall(name, led if asks else system)
        self._asks = asks


_writes = _Writes()


# --- a VFS of SQLite's own functions, but for two ---

_Access = _signature(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
_FullPathname = _signature(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)


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
        view = _of_thread.view
        if view is None:
            return int(apsw.SQLITE_CANTOPEN)
        seen[0] = int(view.sees(path))
    except OSError:
        return int(apsw.SQLITE_CANTOPEN)
    except BaseException:  # noqa: BLE001 - C takes no exception
        return int(apsw.SQLITE_IOERR)
    return int(apsw.SQLITE_OK)


def _full_pathname(_vfs: int, name: bytes, size: int, full: int) -> int:
    if _of_thread.view is None or len(name) >= size:
        return int(apsw.SQLITE_CANTOPEN)
    ctypes.memmove(full, name, len(name) + 1)
    return int(apsw.SQLITE_OK)


def _registered() -> _Vfs:
    """The unix VFS once more, under our name and with our functions, in SQLite's list right behind the original.

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
    ours.xFullPathname = ctypes.cast(_full_pathname_callback, ctypes.c_void_p).value
    ours.pNext, unix.pNext = unix.pNext, ctypes.addressof(ours)
    return ours


_access_callback = _Access(_access_in_view)
_full_pathname_callback = _FullPathname(_full_pathname)
_ours = _registered()
"""They are kept for as long as the process lives: they are in SQLite's list."""
