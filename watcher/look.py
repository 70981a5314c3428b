"""One look at a database and its journal: what is there now, reached and held by checked descriptors.

A look starts from the file system each time. Between any two system calls a live journal may vanish, shrink or be
replaced; what vanishes is :class:`~watcher.tree.Gone`, what changes makes a look that differs from the one before, and
whoever acts on a look takes another one right before.
"""

from __future__ import annotations

import os
import pwd
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from watcher import journal as format_
from watcher.filesystem import FileSystem, file_system_of
from watcher.journal import Contents, JournalState
from watcher.names import printable
from watcher.tree import O_PATH, Gone, Place, Tree, UnsafeError, kind_of

__all__ = ["FileIdentity", "Look", "LookAgainError", "Looker", "Pair"]

_READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LookAgainError(Exception):
    """The files are being changed under our eyes, or another thread of ours is at this very database by another name:
    nothing can be said now, and another look in a moment will tell."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file it is, and in which version: equal as long as nobody has written it or put another in its place.

    The ctime does not count: SQLite, run by root, gives each journal that it opens its owner anew (`robustFchown` in
    os_unix.c), so that every poll of a root's host changes it.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = field(compare=False)
    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_mode,
            status.st_uid,
            status.st_gid,
        )

    def is_file(self, status: os.stat_result) -> bool:
        """Whether it is this file, whatever has been written to it."""
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


@dataclass(frozen=True, slots=True)
class Look:
    """What was there.

    Attributes:
        state: of the pair.
        detail: what is wrong with it, in one printable line, where something is; else empty.
        journal: None only where it could not be reached.
        database: None where there is none, or it could not be reached.
        contents: what the journal's bytes say; None where they were not read.
    """

    place: Place
    state: JournalState
    detail: str = ""
    journal: FileIdentity | None = None
    database: FileIdentity | None = None
    contents: Contents | None = None

    @property
    def blocks_nobody(self) -> bool:
        """Beside a database of zero bytes a read-only open works, whatever its journal holds: SQLite finds no page
        to roll back into."""
        return self.state is not JournalState.UNSAFE and self.database is not None and self.database.size_bytes == 0

    @property
    def size_bytes(self) -> int:
        return 0 if self.journal is None else self.journal.size_bytes


class Looker:
    """Looks at the places of one tree."""

    def __init__(self, tree: Tree, *, max_journal_bytes: int) -> None:
        self.tree = tree
        self._max_journal_bytes = max_journal_bytes

    @contextmanager
    def pair(self, place: Place) -> Iterator[Pair]:
        """The pair of this place, held until the end of the block.

        Raises:
            Gone: its directory is not there.
            UnsafeError: its directory cannot be reached safely.
            RootMissingError: the tree is not there.
            OSError: we have run out of descriptors, or the file system fails.
        """
        pair = Pair(self.tree, place, self.tree.enter(place.directory), self._max_journal_bytes)
        try:
            yield pair
        finally:
            pair.close()

    def look(self, place: Place) -> Look:
        """A single look, nothing held afterwards; a place that cannot be reached safely is a look, too.

        Raises:
            Gone, RootMissingError, LookAgainError, OSError: as :meth:`pair` and :meth:`Pair.look`.
        """
        try:
            with self.pair(place) as pair:
                return pair.look()
        except UnsafeError as error:
            return Look(place, JournalState.UNSAFE, str(error))


_claims: set[tuple[int, int]] = set()
"""(device, inode) of each database that a :class:`Pair` of this process holds; guarded by `_claims_lock`. POSIX locks
belong to the process: if one thread closed a raw descriptor of a database while another's SQLite connection was on
it (through a second bind mount of its directory, say), that connection would lose its locks (fcntl(2))."""
_claims_lock = threading.Lock()


class Pair:
    """A database and its journal, held for one thread. Descriptors are opened by a look and kept until the next one."""

    def __init__(self, tree: Tree, place: Place, directory_fd: int, max_journal_bytes: int) -> None:
        self.place = place
        self.path = tree.path(place)
        self.session = tree.session(place)
        self.directory_fd = directory_fd
        self._max_journal_bytes = max_journal_bytes
        self._database_fd: int | None = None
        self._claim: tuple[int, int] | None = None

    def close(self) -> None:
        self._release()
        os.close(self.directory_fd)

    def file_system(self) -> FileSystem:
        """The file system that the pair is on."""
        return file_system_of(self.directory_fd)

    def look(self) -> Look:
        """Look at the pair by its names in its directory.

        Raises:
            Gone: there is no journal.
            LookAgainError: it changes too fast, or this process is at this database by another name.
            OSError: the file system fails.
        """
        self._release()
        try:
            return self._look()
        except UnsafeError as error:
            return Look(self.place, JournalState.UNSAFE, str(error), journal=self._identity(self.place.journal_name))

    def _look(self) -> Look:
        with self._pinned(self.place.journal_name, "the journal") as (journal_fd, journal):
            self._database_fd, database = self._pin_database()
            with _reopened(journal_fd, self.place.journal_name, self.directory_fd, journal) as readable:
                contents = format_.read_contents(readable, journal.size_bytes)
        head = None if database is None else self._database_head(database)
        state = format_.state_of(contents, head)
        detail = _DETAILS.get(state, "")
        if contents.super_journal is not None and state is JournalState.SUPER:
            detail = f"the journal's trailer names the super-journal {printable(contents.super_journal)}"
        elif database is not None and database.size_bytes and state in {JournalState.HOT, JournalState.MALFORMED}:
            refusal = self._refusal(contents, journal, database)
            if refusal:
                state, detail = JournalState.UNSAFE, refusal
        return Look(self.place, state, detail, journal, database, contents)

    def _refusal(self, contents: Contents, journal: FileIdentity, database: FileIdentity) -> str:
        if journal.size_bytes > self._max_journal_bytes:
            return (
                f"its journal has {journal.size_bytes} bytes,"
                f" more than recovery.max_journal_size ({self._max_journal_bytes})"
            )
        header = contents.header
        # The rollback gives the database its initial size again. SQLite truncates a database only after its journal
        # is finished (pager_end_transaction), so an honest rollback never grows it by more than the journal holds.
        if header is not None and header.initial_size_bytes() > database.size_bytes + journal.size_bytes:
            return (
                f"its journal would grow the database from {database.size_bytes}"
                f" to {header.initial_size_bytes()} bytes, more than both files hold"
            )
        if not _may_write(journal, database):
            return (
                f"its journal belongs to uid {journal.uid}, who may not write the database"
                f" (uid {database.uid}, mode {stat.S_IMODE(database.mode):04o})"
            )
        if not _is_utf8(self.place.name):
            return "its file name is no UTF-8, and SQLite is opened by UTF-8 names only"
        return ""

    def _pin_database(self) -> tuple[int | None, FileIdentity | None]:
        try:
            descriptor = self._pin(self.place.name)
        except Gone:
            return None, None
        try:
            identity = _plain(descriptor, self.place.name, self.directory_fd, "the database")
            claim = (identity.device, identity.inode)
            with _claims_lock:
                if claim in _claims:
                    raise LookAgainError(f"{printable(self.path)} is at hand by another name")
                _claims.add(claim)
            self._claim = claim
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, identity

    def _database_head(self, identity: FileIdentity) -> bytes:
        with self.database_readable(identity) as descriptor:
            return os.pread(descriptor, format_.DATABASE_HEAD_BYTES, 0)

    @contextmanager
    def database_readable(self, identity: FileIdentity) -> Iterator[int]:
        """A raw descriptor of the database, for reading and for asking about locks. It is open only inside the block,
        in which no SQLite connection of this process may be on the database (DESIGN.md, section 2).

        Raises:
            UnsafeError: we may not read it.
            LookAgainError: another file has taken its place.
        """
        assert self._database_fd is not None
        with _reopened(self._database_fd, self.place.name, self.directory_fd, identity) as descriptor:
            yield descriptor

    @contextmanager
    def journal_readable(self, identity: FileIdentity) -> Iterator[int]:
        """A descriptor of the journal, for reading.

        Raises:
            Gone, UnsafeError, LookAgainError: it is not the file of the last look any more.
        """
        name = self.place.journal_name
        with (
            self._pinned(name, "the journal") as (pinned, _),
            _reopened(pinned, name, self.directory_fd, identity) as descriptor,
        ):
            yield descriptor

    @property
    def database_fd(self) -> int:
        """A descriptor that stands for the database of the last look (O_PATH on Linux); -1 where there is none."""
        return -1 if self._database_fd is None else self._database_fd

    def status(self, name: str) -> os.stat_result | None:
        """`lstat` of a name in the pair's directory; None where there is none."""
        try:
            return os.stat(name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _identity(self, name: str) -> FileIdentity | None:
        status = self.status(name)
        return None if status is None else FileIdentity.of(status)

    def _release(self) -> None:
        if self._database_fd is not None:
            os.close(self._database_fd)
            self._database_fd = None
        if self._claim is not None:
            with _claims_lock:
                _claims.discard(self._claim)
            self._claim = None

    @contextmanager
    def _pinned(self, name: str, what: str) -> Iterator[tuple[int, FileIdentity]]:
        descriptor = self._pin(name)
        try:
            yield descriptor, _plain(descriptor, name, self.directory_fd, what)
        finally:
            os.close(descriptor)

    def _pin(self, name: str) -> int:
        """A descriptor that stands for the file without opening it: a device or a FIFO notices nothing, and closing it
        drops no lock (Linux: O_PATH). Elsewhere one of the directory, and the file is known by its name."""
        if not O_PATH:
            if self.status(name) is None:
                raise Gone(f"{printable(name)} is not there")
            return os.dup(self.directory_fd)
        try:
            return os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory_fd)
        except FileNotFoundError as error:
            raise Gone(f"{printable(name)} is not there") from error
        except PermissionError as error:
            raise UnsafeError(f"its directory may not be searched by us (uid {os.geteuid()})") from error


_DETAILS = {
    JournalState.ORPHAN: "there is no database beside the journal",
    JournalState.FOREIGN: "the file beside the journal is no SQLite 3 database, or an encrypted one",
    JournalState.MALFORMED: "the journal has no valid header: SQLite would delete it without rolling back",
}


def _plain(descriptor: int, name: str, directory_fd: int, what: str) -> FileIdentity:
    """The identity of a plain file with one name.

    Raises:
        UnsafeError: it is something else.
        Gone: it has just been deleted.
    """
    status = os.fstat(descriptor) if O_PATH else os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeError(f"{what} is {kind_of(status.st_mode)}, not a plain file")
    if status.st_nlink == 0:
        raise Gone(f"{printable(name)} has been deleted")
    if status.st_nlink != 1:
        raise UnsafeError(f"{what} has {status.st_nlink} hard links")
    return FileIdentity.of(status)


@contextmanager
def _reopened(pinned: int, name: str, directory_fd: int, identity: FileIdentity) -> Iterator[int]:
    """The pinned file, opened for reading, for as long as the block lasts."""
    try:
        if O_PATH:
            descriptor = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        else:
            descriptor = os.open(name, _READ_ONLY, dir_fd=directory_fd)
    except PermissionError as error:
        raise UnsafeError(f"{printable(name)} may not be read by us (uid {os.geteuid()})") from error
    except FileNotFoundError as error:
        raise LookAgainError(f"{printable(name)} has just gone") from error
    try:
        if not identity.is_file(os.fstat(descriptor)):
            raise LookAgainError(f"another file has taken the place of {printable(name)}")
        yield descriptor
    finally:
        os.close(descriptor)


def _may_write(journal: FileIdentity, database: FileIdentity) -> bool:
    """Whether the journal's owner may write the database by its mode. (SQLite gives a journal the owner and the mode of
    its database when it can, and else its writer's.)"""
    if journal.uid == 0 or database.mode & stat.S_IWOTH:
        return True
    if journal.uid == database.uid:
        return bool(database.mode & stat.S_IWUSR)
    if not database.mode & stat.S_IWGRP:
        return False
    if journal.gid == database.gid:
        return True
    with suppress(KeyError):
        entry = pwd.getpwuid(journal.uid)
        return database.gid in os.getgrouplist(entry.pw_name, entry.pw_gid)
    return False


def _is_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode()
    except UnicodeDecodeError:
        return False
    return True
