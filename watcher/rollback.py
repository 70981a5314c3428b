"""SQLite's own rollback of one database, by a brief read-write open through a VFS that lets it touch nothing else.

The open goes through the checked descriptor of the database's directory (`/proc/self/fd/N/name`), so that no directory
on the way can be swapped for a link in between, and through a VFS which opens, deletes and sees only that database and
the very journal that was judged. What the database may grow to is bounded. A super-journal, a write-ahead log or
shared memory is not to be had by it.

The process may load no other copy of SQLite, and the caller has no raw descriptor open on the database meanwhile.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import apsw

from watcher.journal import JournalState
from watcher.look import FileIdentity, Look, Pair
from watcher.names import printable
from watcher.tree import SUFFIX

__all__ = ["BusyError", "CorruptError", "RollbackError", "Rolled", "read_back", "reading", "roll_back"]

VFS_NAME = "journal-watcher"
_MAX_PATH_BYTES = 4096
_NOTICE = re.compile(r"recovered (\d+) pages from ")


class RollbackError(Exception):
    """SQLite could not roll back; journal and database are as they were, or as far as it came (the journal stays hot
    until SQLite has finished, so it begins anew at the next try)."""


class BusyError(RollbackError):
    """Another connection holds a lock: somebody lives."""


class CorruptError(RollbackError):
    """The rollback is through, and what it has left is no database that SQLite can read."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """What the open has done.

    Attributes:
        pages: pages that SQLite says it rolled back (SQLITE_NOTICE_RECOVER_ROLLBACK); None where it said nothing.
        finished_journal: our open has deleted, truncated or zeroed the journal: the sign of a rollback also where no
            page came back and SQLite logs nothing.
        is_wal: the header of the database now says WAL: it was switching from WAL when it was killed.
    """

    pages: int | None
    finished_journal: bool
    is_wal: bool

    @property
    def found_something(self) -> bool:
        """Whether there was something to roll back."""
        return self.finished_journal or self.pages is not None


@dataclass(slots=True)
class _Grant:
    """What one open may touch. Used by the one thread that made it."""

    directory_fd: int
    name: str
    database: FileIdentity
    journal: FileIdentity | None = None
    most_bytes: int = 0
    pages: int | None = None
    finished_journal: bool = False
    refused: str | None = None
    logged: list[str] = field(default_factory=list)

    @property
    def journal_name(self) -> str:
        return self.name + SUFFIX

    def status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check(self, name: str, identity: FileIdentity) -> None:
        """Raises where the name stands for another file by now, or the file has got another name."""
        status = self.status(name)
        if status is None or not identity.is_file(status) or status.st_nlink != 1:
            self.refuse(f"{printable(name)} was replaced while it was being opened")

    def refuse(self, why: str) -> None:
        """Stop the open here. SQLite gives up what it was about to do; nothing has been done that a next open would
        not do again."""
        self.refused = self.refused or why
        raise apsw.CantOpenError(why)


_grants: dict[str, _Grant] = {}
"""By the name that SQLite knows the database by. Each key holds a descriptor's number, so no two threads share one."""
_of_thread = threading.local()
"""`.grant`: the grant of the open that this thread is in, for SQLite's log, which calls back in the same thread."""


def _log(_code: int, message: str) -> None:
    grant: _Grant | None = getattr(_of_thread, "grant", None)
    if grant is None:
        return
    notice = _NOTICE.match(message)
    if notice is not None:
        grant.pages = (grant.pages or 0) + int(notice[1])
    elif len(grant.logged) < 8:
        grant.logged.append(message)


class _File:
    """A file of the base VFS, without shared memory (io methods of version 1), and bounded: most calls go straight to
    the base's own methods."""

    def __init__(self, base: apsw.VFSFile, grant: _Grant, *, is_journal: bool) -> None:
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
        if self._is_journal:
            self._grant.finished_journal = True
        elif offset + len(data) > self._grant.most_bytes:
            self._grant.refuse(f"the rollback would grow the database beyond {self._grant.most_bytes} bytes")
        self._write(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        if self._is_journal:
            self._grant.finished_journal = True
        elif size > self._grant.most_bytes:
            self._grant.refuse(f"the rollback would grow the database beyond {self._grant.most_bytes} bytes")
        self._truncate(size)


class _NarrowVFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(VFS_NAME, "", maxpathname=_MAX_PATH_BYTES)

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - SQLite's name
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802, ARG002 - SQLite's name and signature
        database, is_journal = _split(pathname)
        grant = _grants.get(database)
        if grant is None or not is_journal:
            grant = _grants.get(pathname.removesuffix("-wal"))
            if grant is not None:
                return False  # a write-ahead log is not for us to replay
            grant = getattr(_of_thread, "grant", None)
            if grant is not None:
                grant.refuse("SQLite asked for a file that is neither the database nor its journal")
            raise apsw.CantOpenError("no such file for this VFS")
        status = grant.status(grant.journal_name)
        return status is not None and status.st_size > 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        database, is_journal = _split(path) if flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL else (path, False)
        grant = _grants.get(database)
        if grant is None or not flags[0] & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_MAIN_DB):
            raise apsw.CantOpenError("no such file for this VFS")
        identity = grant.journal if is_journal else grant.database
        file_name = grant.journal_name if is_journal else grant.name
        if identity is None:
            grant.refuse(_NEW_JOURNAL)
            raise AssertionError
        grant.check(file_name, identity)
        flags[0] &= ~apsw.SQLITE_OPEN_CREATE
        base = apsw.VFSFile("", path, flags)
        try:
            grant.check(file_name, identity)
        except apsw.CantOpenError:
            base.xClose()
            raise
        return _File(base, grant, is_journal=is_journal)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        database, is_journal = _split(filename)
        grant = _grants.get(database)
        if grant is None or not is_journal or grant.journal is None:
            raise apsw.CantOpenError("no such file for this VFS")
        grant.check(grant.journal_name, grant.journal)
        super().xDelete(filename, syncdir)
        grant.finished_journal = True


def _split(path: str) -> tuple[str, bool]:
    """The database's name, and whether `path` is that of its journal."""
    return path.removesuffix(SUFFIX), path.endswith(SUFFIX)


# Once, before any connection of this process: SQLite refuses it afterwards (sqlite3_config).
apsw.config(apsw.SQLITE_CONFIG_LOG, _log)
_vfs = _NarrowVFS()


def roll_back(pair: Pair, look: Look, *, busy_timeout_s: float) -> Rolled:
    """Open the database read-write, let SQLite roll its hot journal back, and close it.

    Args:
        pair: held by this thread.
        look: the pair's last look, judged: exactly these two files are opened.
        busy_timeout_s: how long SQLite waits for a lock, seconds.

    Raises:
        BusyError: another connection holds a lock.
        CorruptError: what is left after the rollback is no database that SQLite can read.
        RollbackError: anything else that SQLite says, with its words.
    """
    assert look.state in {JournalState.HOT, JournalState.MALFORMED}
    assert look.journal is not None
    assert look.database is not None
    grant = _Grant(
        pair.directory_fd,
        pair.place.name,
        look.database,
        look.journal,
        most_bytes=look.database.size_bytes + look.journal.size_bytes,
    )
    with _granted(grant, pair.path) as name:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
        try:
            _open_and_read(name, flags, busy_timeout_s)
        except (apsw.BusyError, apsw.LockedError) as error:
            raise BusyError("another connection holds a lock on it") from error
        except apsw.ReadOnlyError as error:
            raise RollbackError(f"we may not write it (uid {os.geteuid()}): {error}") from error
        except apsw.CantOpenError as error:
            # Without shared memory SQLite cannot read a database in WAL mode; the rollback came before.
            if grant.finished_journal and _says_wal(pair, look):
                return Rolled(grant.pages, finished_journal=True, is_wal=True)
            raise RollbackError(grant.refused or f"SQLite cannot open it: {error}") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            if grant.finished_journal:
                raise CorruptError(str(error)) from error
            raise RollbackError(_told(grant, error)) from error
        except apsw.Error as error:
            raise RollbackError(_told(grant, error)) from error
        return Rolled(grant.pages, grant.finished_journal, is_wal=False)


def read_back(pair: Pair, look: Look) -> None:
    """Open the recovered database read-only and read its schema version, as a host's poll would.

    Args:
        look: the one that was rolled back.

    Raises:
        BusyError: a writer is at it again, so it can be read.
        CorruptError: SQLite cannot read it.
        RollbackError: anything else that SQLite says.
    """
    assert look.database is not None
    grant = _Grant(pair.directory_fd, pair.place.name, look.database)
    with _granted(grant, pair.path) as name:
        try:
            _open_and_read(name, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW, busy_timeout_s=0.0)
        except (apsw.BusyError, apsw.LockedError) as error:
            raise BusyError("another connection holds a lock on it") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise CorruptError(str(error)) from error
        except apsw.Error as error:
            if grant.refused == _NEW_JOURNAL:
                raise BusyError(grant.refused) from error
            raise RollbackError(_told(grant, error)) from error


@contextmanager
def reading(directory_fd: int, name: str) -> Iterator[apsw.Connection]:
    """A read-only connection on a database, with the same narrow view; for the process that verifies it.

    Args:
        directory_fd: checked descriptor of its directory.
        name: its file name.

    Raises:
        apsw.Error: SQLite cannot open or read it.
        OSError: it is not there.
    """
    identity = FileIdentity.of(os.stat(name, dir_fd=directory_fd, follow_symlinks=False))
    with _granted(_Grant(directory_fd, name, identity), name) as path:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
        connection = _opened(path, flags, busy_timeout_s=5.0)
        try:
            yield connection
        finally:
            connection.close(True)


_NEW_JOURNAL = "a new journal has appeared: a writer is at it again"


def _open_and_read(name: str, flags: int, busy_timeout_s: float) -> None:
    connection = _opened(name, flags, busy_timeout_s)
    try:
        # Takes the SHARED lock, before which SQLite rolls a hot journal back, and parses no schema.
        connection.pragma("schema_version")
    finally:
        connection.close(True)


def _opened(name: str, flags: int, busy_timeout_s: float) -> apsw.Connection:
    connection = apsw.Connection(name, flags=flags, vfs=VFS_NAME, statementcachesize=0)
    try:
        connection.set_busy_timeout(round(busy_timeout_s * 1000))
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.pragma("cell_size_check", True)
        connection.pragma("mmap_size", 0)
    except BaseException:
        connection.close(True)
        raise
    return connection


@contextmanager
def _granted(grant: _Grant, path: str) -> Iterator[str]:
    """Let SQLite at these files, by the name that is given here."""
    # Elsewhere than on Linux no path leads through a descriptor: a directory of the tree that is swapped for a link at
    # this very moment is followed there, and only the checks of the VFS before and after the open stand against it.
    name = f"/proc/self/fd/{grant.directory_fd}/{grant.name}" if sys.platform == "linux" else path
    assert name not in _grants
    _grants[name] = _of_thread.grant = grant
    try:
        yield name
    finally:
        del _grants[name]
        _of_thread.grant = None


def _told(grant: _Grant, error: apsw.Error) -> str:
    name = type(error).__name__.removesuffix("Error")
    words = grant.refused or f"SQLite says {name}: {error}"
    return f"{words} ({'; '.join(grant.logged)})" if grant.logged and not grant.refused else words


def _says_wal(pair: Pair, look: Look) -> bool:
    """Whether the database's header asks for a write-ahead log (file format version 2 at offset 18)."""
    assert look.database is not None
    with pair.database_readable(look.database) as descriptor:
        return os.pread(descriptor, 1, 18) == b"\2"
