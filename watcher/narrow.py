"""A view of one database through which SQLite can touch nothing else.

SQLite is given no path of the tree. It opens the database and the very journal that was judged through the descriptors
that pin them, so that nothing that is swapped in between is reached, whatever it is: no link, no FIFO that would block,
no file of the host. What it may see of names is whether the journal's name still stands for that journal; what it may
delete is that name. A super-journal, a write-ahead log, shared memory or a temporary file is not to be had, no file is
made, and none gets another owner or mode. What the database may grow to is bounded.

For that it is given SQLite's own unix VFS, whose calls ask a :class:`Grant` first (`unix_vfs`).

The process may load no other copy of SQLite, and no raw descriptor of the database is opened or closed meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

import apsw

from watcher import denials
from watcher.met import SUFFIX, let_go
from watcher.names import printable
from watcher.pinned import Pinned
from watcher.rights import rights_of
from watcher.unix_vfs import VFS, through

__all__ = ["NEW_JOURNAL", "Grant", "opened", "read_version"]

NEW_JOURNAL = "a new journal has appeared: a writer is at it again"
_STRANGE = "SQLite asked for a file that is neither the database nor its journal"
_NOTICE = re.compile(r"recovered (\d+) pages from ")
_MOST_LOGGED = 8
_JOURNAL = os.fsencode(SUFFIX)
_WAL = b"-wal"
_MAPS_NOTHING = "DEFAULT_MMAP_SIZE=0" in apsw.compile_options
"""Whether SQLite maps no file into memory unless it is told to."""


class _Names(NamedTuple):
    """As SQLite spells them."""

    database: bytes
    journal: bytes
    wal: bytes


class Grant:
    """What one open may touch, and what it has done. Used by the one thread that opens.

    Attributes:
        directory_fd: checked descriptor of the directory of both files; borrowed.
        path: of the database. Nothing is opened by it.
        database: the database, pinned.
        journal: the journal that was judged, pinned; None where none may be rolled back.
        most_bytes: what the database may grow to.
        acts_as: the user whose file-system rights SQLite has meanwhile; None: ours.
        alias: the name by which SQLite knows the database, and with `-journal` behind it the journal.
        names: the same, as bytes.
        name, journal_name: the real ones, in the directory.
        pages: pages that SQLite says it rolled back (SQLITE_NOTICE_RECOVER_ROLLBACK); None where it said nothing.
        finished_journal: our open has deleted, truncated or zeroed the journal, or was about to when it was gone.
        found_deleted: somebody else had deleted it by then.
        kept_open: a second descriptor of the journal that is rolled back, ours to close; -1 where there is none.
        has_written: our open has begun to write the database, or was about to: it had the journal open for that.
        refused: why we stopped SQLite, where we did.
        was_replaced: we did because a name stood for another file, or for none, by then.
        denied: why the system has not opened a file for SQLite, where that is for want of rights.
        logged: what else it has logged.
    """

    __slots__ = (
        "acts_as",
        "alias",
        "database",
        "database_descriptor",
        "denied",
        "directory_fd",
        "finished_journal",
        "found_deleted",
        "has_opened_journal",
        "has_written",
        "journal",
        "journal_name",
        "kept_open",
        "logged",
        "most_bytes",
        "name",
        "names",
        "pages",
        "path",
        "refused",
        "was_replaced",
    )

    def __init__(
        self,
        directory_fd: int,
        path: str,
        database: Pinned,
        journal: Pinned | None = None,
        *,
        most_bytes: int = 0,
        acts_as: int | None = None,
    ) -> None:
        self.directory_fd = directory_fd
        self.path = path
        self.database = database
        self.journal = journal
        self.most_bytes = most_bytes
        self.acts_as = acts_as
        self.pages: int | None = None
        self.finished_journal = False
        self.found_deleted = False
        self.has_written = False
        self.refused: str | None = None
        self.was_replaced = False
        self.denied: str | None = None
        self.logged: list[str] = []
        self.database_descriptor = -1  # SQLite's own, as long as it has one
        self.has_opened_journal = False
        self.kept_open = -1
        self.name = path.rpartition("/")[2]
        self.journal_name = self.name + SUFFIX
        # SQLite looks up the mode of that file (`getFileMode`), and opens nothing by it.
        self.alias = f"/proc/self/fd/{database.fd}" if sys.platform == "linux" else path
        alias = os.fsencode(self.alias)
        self.names = _Names(alias, alias + _JOURNAL, alias + _WAL)

    @property
    def _directory(self) -> str:
        return os.path.dirname(self.path)

    # --- what SQLite asks for, by the names that it knows ---

    def opens(self, path: bytes, flags: int) -> int:
        """A descriptor, as open(2) gives it; of the database and of its journal, as they are pinned, and no other.

        Raises:
            OSError: as open(2), or it is refused.
        """
        flags &= ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        if path == self.names.database:
            self._check(self.database, self.name)
            self.database_descriptor = self._open(self.database, "it", self.path, flags)
            return self.database_descriptor
        if path != self.names.journal:
            self.refuse(_STRANGE)
        if self.journal is None:
            self.refuse(NEW_JOURNAL)
        # What is pinned can be opened after it was deleted, too; but a journal without its name is a transaction that
        # was committed, so the name counts.
        self._check(self.journal, self.journal_name)
        descriptor = self._open(self.journal, "its journal", self.path + SUFFIX, flags)
        self.has_opened_journal = True
        if flags & os.O_ACCMODE == os.O_RDWR:
            self.has_written = True
            self._keep_open(descriptor)
        return descriptor

    def _keep_open(self, descriptor: int) -> None:
        """SQLite closes the journal right before it deletes it. The last close of a file is told to whoever watches the
        directory, and our own emitter would take Python's lock at just that moment; the one of a file that is deleted
        by then is told to nobody (IN_EXCL_UNLINK, inotify(7)), and frees what it held when no reader waits any more."""
        self.let_go()
        try:
            self.kept_open = os.dup(descriptor)
        except OSError:  # no descriptor is left: then it goes without
            pass

    def let_go(self) -> None:
        """SQLite is through with both files."""
        if self.kept_open >= 0:
            let_go(self.kept_open)
            self.kept_open = -1

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
        """Delete the journal's name, where it stands for the journal that was rolled back. Where it stands for nothing
        any more, somebody else has deleted it, with its whole session as like as not: SQLite is through with it, too.

        Raises:
            OSError: as unlink(2), or it is refused.
        """
        # Beside a database of no page SQLite would delete a journal that it has never read (`hasHotJournal`).
        if path != self.names.journal or self.journal is None or not self.has_opened_journal:
            self.refuse("SQLite asked to delete what is not the journal that was rolled back")
        if not self.journal.is_named():
            if self._is_absent(self.journal_name):
                self.finished_journal = self.found_deleted = True
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._check(self.journal, self.journal_name)
        try:
            os.unlink(self.journal_name, dir_fd=self.directory_fd)
        except FileNotFoundError:
            self.finished_journal = self.found_deleted = True
            raise
        except OSError as error:
            self.refused = self.refused or denials.not_deleted(
                self._directory, os.fstat(self.directory_fd), self.journal.status, error, self.acts_as
            )
            raise
        self.finished_journal = True

    def writes(self, descriptor: int, end: int) -> bool:
        """Whether a write that ends there, or a truncation to there, may be.

        A rollback that makes the database longer does so by its first write, to its last page, and leaves out what
        the journal holds of pages behind that (`pager_playback`, `pager_truncate` and `pager_playback_one_page` in
        pager.c; the journal is not read a second time for it). So the first is asked about, and those that follow,
        until the journal is finished, lie within what it was allowed, or within the page that the file ends in.

        Raises:
            OSError: it is refused.
        """
        if descriptor != self.database_descriptor:
            self.finished_journal = True
            return False
        if end > self.most_bytes:
            self.refuse(f"the rollback would grow the database beyond {self.most_bytes} bytes")
        self.has_written = True
        return True

    def logs(self, message: str) -> None:
        """SQLite has logged something: how many pages it has rolled back, or what went wrong."""
        notice = _NOTICE.match(message)
        if notice is not None:
            self.pages = (self.pages or 0) + int(notice[1])
        elif len(self.logged) < _MOST_LOGGED:
            self.logged.append(message)

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

    def _is_absent(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def _check(self, pinned: Pinned, name: str) -> None:
        if pinned.is_named():
            return
        try:
            os.stat(name, dir_fd=self.directory_fd, follow_symlinks=False)
        except PermissionError as error:
            self.refuse(denials.not_searched(self._directory, os.fstat(self.directory_fd), error, self.acts_as))
        except OSError:
            pass  # gone
        self.was_replaced = True
        self.refuse(f"{printable(name)} was replaced while it was being opened")

    def _open(self, pinned: Pinned, what: str, path: str, flags: int) -> int:
        try:
            return pinned.open(flags)
        except OSError as error:
            if denials.is_denial(error):
                # A hot journal is opened to be read first (`hasHotJournal`), and then it must be written, too.
                only_reads = self.journal is None
                self.denied = self.denied or denials.not_opened(
                    what, path, pinned.status, error, only_reads=only_reads, acts_as=self.acts_as
                )
            raise


@contextmanager
def opened(grant: Grant, flags: int, *, busy_timeout_s: float) -> Iterator[apsw.Connection]:
    """A connection that has what the grant allows; closed at the end of the block. It has parsed no schema, and allows
    nothing that a hostile one could want. Who has it parse one wants `cell_size_check`, too: no cell is met before.

    Args:
        flags: `SQLITE_OPEN_READWRITE` or `SQLITE_OPEN_READONLY`.
        busy_timeout_s: how long SQLite waits for a lock, seconds.

    Raises:
        apsw.Error: SQLite cannot open it.
        RightsError: the kernel does not let us act as that user.
    """
    with through(grant), rights_of(grant.acts_as):
        connection = _connected(grant, flags, busy_timeout_s)
        try:
            yield connection
        finally:
            connection.close(True)


def read_version(grant: Grant, flags: int, *, busy_timeout_s: float) -> None:
    """Open it as :func:`opened` does, have SQLite take the SHARED lock, before which it rolls a hot journal back, and
    read the schema version, for which no schema is parsed.

    Raises:
        apsw.Error, RightsError: as :func:`opened`; SQLite cannot read it.
    """
    try:
        with through(grant), rights_of(grant.acts_as):
            connection = _connected(grant, flags, busy_timeout_s)
            try:
                connection.pragma("schema_version")
            finally:
                connection.close(True)
    finally:
        grant.let_go()


def _connected(grant: Grant, flags: int, busy_timeout_s: float) -> apsw.Connection:
    connection = apsw.Connection(grant.alias, flags=flags, vfs=VFS, statementcachesize=0)
    try:
        connection.set_busy_timeout(round(busy_timeout_s * 1000))
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        if not _MAPS_NOTHING:
            connection.pragma("mmap_size", 0)
    except BaseException:
        connection.close(True)
        raise
    return connection
