"""SQLite's own rollback of one database, by a brief read-write open that can touch nothing else (`narrow`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import apsw

from watcher.denials import no_room
from watcher.met import UnsafeError
from watcher.names import clipped
from watcher.narrow import NEW_JOURNAL, Grant, opened, read_version
from watcher.pinned import LookAgainError, Pinned
from watcher.rights import RightsError, recovers_as

if TYPE_CHECKING:  # it is loaded by processes that only roll back
    from watcher.look import Look, Pair

__all__ = [
    "BusyError",
    "CorruptError",
    "Job",
    "RollbackError",
    "Rolled",
    "perform",
    "read_back",
    "reading",
    "roll_back",
]


class RollbackError(Exception):
    """SQLite could not roll back; journal and database are as they were, or as far as it came (the journal stays hot
    until SQLite has finished, so it begins anew at the next try).

    Attributes:
        began: it had begun to write the database, or was about to.
    """

    def __init__(self, words: str, *, began: bool = False) -> None:
        super().__init__(words)
        self.began = began


class BusyError(RollbackError):
    """Another connection holds a lock, or a file was replaced or removed meanwhile: somebody lives."""


class CorruptError(RollbackError):
    """The rollback is through, and what it has left is no database that SQLite can read."""


class Rolled(NamedTuple):
    """What the open has done.

    Attributes:
        pages: pages that SQLite says it rolled back (SQLITE_NOTICE_RECOVER_ROLLBACK); None where it said nothing.
        finished_journal: our open has deleted, truncated or zeroed the journal: the sign of a rollback also where no
            page came back and SQLite logs nothing.
        is_wal: the header of the database now says WAL: it was switching from WAL when it was killed.
        is_left: the journal still has its name after that.
        unread: why it could not be read back, where it could not.
        found_deleted: somebody else had deleted the journal when SQLite was through with it.
    """

    pages: int | None
    finished_journal: bool
    is_wal: bool
    is_left: bool = False
    unread: RollbackError | None = None
    found_deleted: bool = False

    @property
    def found_something(self) -> bool:
        """Whether there was something to roll back."""
        return self.finished_journal or self.pages is not None


class Job(NamedTuple):
    """A rollback that was judged, with all that it takes, in whichever process it is done.

    Attributes:
        path: of the database. Nothing is opened by it.
        directory_fd: checked descriptor of its directory; borrowed.
        database, journal: pinned: exactly these two files are opened.
        most_bytes: what the database may grow to.
        acts_as: the user whose file-system rights SQLite has meanwhile; None: ours.
        busy_timeout_s: how long SQLite waits for a lock, seconds.
        let_go: where another process has the descriptors now, closes ours; None: they are needed afterwards.
    """

    path: str
    directory_fd: int
    database: Pinned
    journal: Pinned
    most_bytes: int
    acts_as: int | None
    busy_timeout_s: float
    let_go: Callable[[], None] | None = None

    @classmethod
    def of(cls, pair: Pair, look: Look, *, busy_timeout_s: float, is_needed: bool = True) -> Job:
        """
        Args:
            pair: held by this thread until the job is done.
            look: the pair's last, judged.
            is_needed: the descriptors of both files are needed afterwards.
        """
        assert look.journal is not None
        assert look.database is not None
        return cls(
            path=pair.path,
            directory_fd=pair.directory_fd,
            database=pair.pinned_database,
            journal=pair.pinned_journal,
            most_bytes=look.database.size_bytes + look.journal.size_bytes,
            acts_as=recovers_as(look.database.uid, look.journal.uid, os.fstat(pair.directory_fd).st_uid),
            busy_timeout_s=busy_timeout_s,
            let_go=None if is_needed else pair.let_go,
        )


def perform(job: Job) -> Rolled:
    """Have SQLite roll the hot journal back, and read the database as a host's poll would.

    Raises:
        BusyError, CorruptError, RollbackError, OSError: as :func:`roll_back`.
    """
    rolled = roll_back(job)
    os.sched_yield()  # whoever waits for the database goes first
    if not rolled.found_something:
        return rolled
    if job.journal.is_named():
        return rolled._replace(is_left=True)
    if not rolled.is_wal:
        try:
            read_back(job)
        except RollbackError as error:
            return rolled._replace(unread=error)
    return rolled


def roll_back(job: Job) -> Rolled:
    """Open the database read-write, let SQLite roll its hot journal back, and close it.

    Raises:
        BusyError: another connection holds a lock.
        CorruptError: what is left after the rollback is no database that SQLite can read.
        RollbackError: anything else that SQLite says, with its words.
        OSError: the file system fails.
    """
    grant = Grant(job.directory_fd, job.path, job.database, job.journal, most_bytes=job.most_bytes, acts_as=job.acts_as)
    try:
        read_version(grant, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s=job.busy_timeout_s)
    except (apsw.BusyError, apsw.LockedError) as error:
        raise BusyError("another connection holds a lock on it") from error
    except RightsError as error:
        raise RollbackError(str(error)) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        if grant.finished_journal:
            raise CorruptError(_words(error)) from error
        raise _failed(grant, error) from error
    except apsw.Error as error:
        # What fails after the journal is finished undoes no rollback: a disk at the read that follows, or SQLite, which
        # cannot read a database in WAL mode without shared memory.
        if not grant.finished_journal:
            raise _failed(grant, error) from error
        is_wal = isinstance(error, apsw.CantOpenError) and _says_wal(job.database)
        return Rolled(grant.pages, finished_journal=True, is_wal=is_wal, found_deleted=grant.found_deleted)
    if grant.refused is not None and not grant.finished_journal:  # a failure that SQLite takes no notice of
        raise _failed(grant, apsw.CantOpenError(grant.refused))
    return Rolled(grant.pages, grant.finished_journal, is_wal=False, found_deleted=grant.found_deleted)


def read_back(job: Job) -> None:
    """Open the recovered database read-only and read its schema version, as a host's poll would.

    Raises:
        BusyError: a writer is at it again, so it can be read.
        CorruptError: SQLite cannot read it.
        RollbackError: anything else that SQLite says.
        OSError: the file system fails.
    """
    grant = Grant(job.directory_fd, job.path, job.database, acts_as=job.acts_as)
    try:
        read_version(grant, apsw.SQLITE_OPEN_READONLY, busy_timeout_s=0.0)
    except (apsw.BusyError, apsw.LockedError) as error:
        raise BusyError("another connection holds a lock on it") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise CorruptError(_words(error)) from error
    except RightsError as error:
        raise RollbackError(str(error)) from error
    except apsw.Error as error:
        if grant.refused == NEW_JOURNAL:
            raise BusyError(grant.refused) from error
        raise _failed(grant, error) from error


@contextmanager
def reading(database: Pinned, directory_fd: int, path: str) -> Iterator[apsw.Connection]:
    """A read-only connection on a database, with the same narrow view; for the process that verifies it.

    Args:
        directory_fd: checked descriptor of its directory.
        path: its path; nothing is opened by it.

    Raises:
        apsw.Error: SQLite cannot open it.
    """
    with opened(Grant(directory_fd, path, database), apsw.SQLITE_OPEN_READONLY, busy_timeout_s=5.0) as connection:
        connection.pragma("cell_size_check", True)
        yield connection


def _failed(grant: Grant, error: apsw.Error) -> RollbackError:
    if grant.was_replaced and not (grant.has_written and grant.database.is_named()):
        return BusyError(grant.refused or "")  # another look tells what is there now, if anything is
    words = grant.refused
    if words is None and isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError):
        words = grant.denied
    if words is None and isinstance(error, apsw.FullError):
        words = no_room(os.path.dirname(grant.path), grant.directory_fd)
    if words is None:
        logged = "; ".join(grant.logged).replace(grant.alias, grant.name)
        words = f"SQLite says {type(error).__name__.removesuffix('Error')}: {_words(error)}"
        words += f" ({clipped(logged)})" if logged else ""
    return RollbackError(words, began=grant.has_written)


def _words(error: apsw.Error) -> str:
    return clipped(str(error))


def _says_wal(database: Pinned) -> bool:
    """Whether the database's header asks for a write-ahead log (file format version 2 at offset 18)."""
    try:
        return os.pread(database.reader(), 1, 18) == b"\2"
    except (UnsafeError, LookAgainError):  # shut from us since
        return False
