"""One look at a database and its journal: what is there now, reached and held by checked descriptors.

A look starts from the file system each time. Between any two system calls a live journal may vanish, shrink or be
replaced; what vanishes is :class:`~watcher.tree.Gone`, what changes makes a look that differs from the one before, and
whoever acts on a look takes another one right before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

from watcher import journal as format_
from watcher.authorship import may_have_written
from watcher.claims import Claims
from watcher.filesystem import FileSystem, file_system_of
from watcher.journal import Contents, JournalState
from watcher.met import let_go
from watcher.names import clipped, printable
from watcher.pinned import FileIdentity, LookAgainError, Pinned
from watcher.tree import Gone, Place, Tree, UnsafeError

__all__ = ["FileIdentity", "Look", "LookAgainError", "Looker", "Pair"]


class Look(NamedTuple):
    """What was there.

    Attributes:
        state: of the pair.
        detail: what is wrong with it, in one printable line, where something is; else empty.
        journal: None only where it could not be reached.
        database: None where there is none, or it could not be reached.
        contents: what the journal's bytes say; None where they were not read.
        is_over_limit: its journal is larger than `recovery.max_journal_size`, and nothing else is against it.
    """

    place: Place
    state: JournalState
    detail: str = ""
    journal: FileIdentity | None = None
    database: FileIdentity | None = None
    contents: Contents | None = None
    is_over_limit: bool = False

    @property
    def blocks_nobody(self) -> bool:
        """Beside an empty database a read-only open works, whatever its journal holds: SQLite finds no page to roll
        back into."""
        database = self.database
        return (
            database is not None
            and database.size_bytes <= format_.EMPTY_DATABASE_BYTES
            and self.state is not JournalState.UNSAFE
        )

    @property
    def size_bytes(self) -> int:
        return 0 if self.journal is None else self.journal.size_bytes


class Looker:
    """Looks at the places of one tree."""

    def __init__(self, tree: Tree, *, max_journal_bytes: int) -> None:
        self.tree = tree
        self._max_journal_bytes = max_journal_bytes

    def pair(self, place: Place) -> Pair:
        """The pair of this place, for a `with` statement, at whose end it is let go.

        Raises:
            Gone: its directory is not there.
            UnsafeError: its directory cannot be reached safely.
            RootMissingError: the tree is not there.
            OSError: we have run out of descriptors, or the file system fails.
        """
        return Pair(self.tree, place, self.tree.enter(place.directory), self._max_journal_bytes)

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


class Pair:
    """A database and its journal, held for one thread. A look pins them, and the next one keeps what has stayed in its
    place. Once read they are open for reading until then: closed while an SQLite connection of this process is on the
    database, a descriptor of it would take that connection's locks along (DESIGN.md, section 2)."""

    def __init__(self, tree: Tree, place: Place, directory_fd: int, max_journal_bytes: int) -> None:
        self.place = place
        self.path = tree.path(place)
        self.session: Mapping[str, str] = tree.session(place)
        self.directory_fd = directory_fd
        self._max_journal_bytes = max_journal_bytes
        self._journal: Pinned | None = None
        self._database: Pinned | None = None
        self._claims = Claims()
        self._file_system: FileSystem | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()
        let_go(self.directory_fd)

    def file_system(self) -> FileSystem:
        """The file system that the pair is on."""
        if self._file_system is None:
            self._file_system = file_system_of(self.directory_fd)
        return self._file_system

    def look(self) -> Look:
        """Look at the pair by its names in its directory. No SQLite connection of this process is on the database.

        Raises:
            Gone: there is no journal.
            LookAgainError: it changes too fast, or this process is at one of the two by another name.
            OSError: the file system fails.
        """
        if self._journal is not None and not self._is_still_there(self._journal):
            self._release()
        try:
            return self._look()
        except UnsafeError as error:
            return Look(self.place, JournalState.UNSAFE, str(error), journal=self._journal_by_name())

    def _look(self) -> Look:
        if self._journal is None:
            self._journal = self._pin(self.place.journal_name, "the journal")
            try:
                self._database = self._pin(self.place.name, "the database")
            except Gone:
                self._database = None
        journal = FileIdentity.of(self._journal.status)
        contents = format_.read_contents(self._journal.reader(), journal.size_bytes)
        database = head = None
        if self._database is not None:
            database = FileIdentity.of(self._database.status)
            head = os.pread(self._database.reader(), format_.DATABASE_HEAD_BYTES, 0)
        state = format_.state_of(contents, head)
        detail = _DETAILS.get(state, "")
        is_over_limit = False
        if state in _BLOCKS and database is not None and database.size_bytes > format_.EMPTY_DATABASE_BYTES:
            refusal = self._refusal(contents, journal, database, head or b"")
            if not refusal and journal.size_bytes > self._max_journal_bytes:
                is_over_limit = True
                refusal = (
                    f"its journal has {journal.size_bytes} bytes,"
                    f" more than recovery.max_journal_size ({self._max_journal_bytes})"
                )
            if refusal:
                state, detail = JournalState.UNSAFE, refusal
        elif state is JournalState.SUPER:
            detail = f"the journal's trailer names the super-journal {clipped(contents.super_journal or '', 200)}"
        return Look(self.place, state, detail, journal, database, contents, is_over_limit)

    def _refusal(self, contents: Contents, journal: FileIdentity, database: FileIdentity, head: bytes) -> str:
        header = contents.header
        grown = None if header is None else header.excessive_size(journal.size_bytes, database.size_bytes, head)
        if grown is not None:
            return (
                f"its journal would grow the database from {database.size_bytes} to {grown} bytes,"
                " more than both files hold"
            )
        if not may_have_written(journal, database, self.directory_fd):
            return (
                f"its journal belongs to uid {journal.uid}, who may not write the database"
                f" (uid {database.uid}, mode {stat.S_IMODE(database.mode):04o})"
            )
        return ""

    def _is_still_there(self, journal: Pinned) -> bool:
        """Whether both names stand for what the last look has pinned."""
        return self._database is not None and journal.renew() and self._database.renew()

    def _pin(self, name: str, what: str) -> Pinned:
        pinned = Pinned(name, what, self.directory_fd)
        if not self._claims.claim(pinned.status):
            pinned.close()
            raise LookAgainError(f"{printable(self.path)} or its journal is at hand by another name")
        return pinned

    @property
    def pinned_database(self) -> Pinned:
        """The database of the last look, which has met one."""
        assert self._database is not None
        return self._database

    @property
    def pinned_journal(self) -> Pinned:
        """The journal of the last look, which has reached it."""
        assert self._journal is not None
        return self._journal

    @property
    def journal_ctime_ns(self) -> int:
        """When the status of the last look's journal had changed: nanoseconds since the epoch."""
        assert self._journal is not None
        return self._journal.status.st_ctime_ns

    @property
    def database_fd(self) -> int:
        """A descriptor that stands for the database of the last look (O_PATH on Linux); -1 where there is none."""
        return -1 if self._database is None else self._database.fd

    def database_reader(self) -> int:
        """A raw descriptor of the last look's database, for reading and for asking about locks; borrowed.

        Raises:
            UnsafeError, LookAgainError: as :meth:`Pinned.reader`.
        """
        assert self._database is not None
        return self._database.reader()

    def _journal_by_name(self) -> FileIdentity | None:
        try:
            return FileIdentity.of(os.stat(self.place.journal_name, dir_fd=self.directory_fd, follow_symlinks=False))
        except (FileNotFoundError, PermissionError):
            return None

    def let_go(self) -> None:
        """Close the descriptors of both files; no other thread is at them all the same. The next look pins them anew.
        Whoever closes a deleted journal as the last waits until the file system has freed what it held."""
        for pinned in (self._journal, self._database):
            if pinned is not None:
                pinned.close()
        self._journal = self._database = None

    def _release(self) -> None:
        self.let_go()
        self._claims.release()


_BLOCKS = frozenset({JournalState.HOT, JournalState.MALFORMED})
_DETAILS = {
    JournalState.ORPHAN: "there is no database beside the journal",
    JournalState.FOREIGN: "the file beside the journal is no SQLite 3 database, or an encrypted one",
    JournalState.MALFORMED: "the journal has no valid header: SQLite would delete it without rolling back",
}
