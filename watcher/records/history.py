"""The history: what became of journals, in an SQLite database of our own.

Rollback journal (DELETE) and `synchronous=FULL` rather than WAL: a commit outlives a SIGKILL and a power cut; between
two writes the one file is the whole history, so that it can be read from a read-only mount, by a user who may only
read, or from a copy, where WAL wants `-shm` beside it, and write access to make that; and one short commit per batch,
in a thread of its own, is no hurry. It is opened for every batch and every question (1.6 ms with the commit, measured):
a history that was removed, replaced or on a file system that was away is found as it is, and nothing has to be mended.

Only apsw opens it, as no second SQLite may be loaded into the service; no connection is made before the first use.
One thread appends; any may ask, since a question holds no state. Several of them, in one process or in many, are kept
apart by SQLite's locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath

import apsw

from watcher.names import printable
from watcher.records.history_file import HistoryError, Trouble, connection, make_file, set_aside
from watcher.records.lines import one_line
from watcher.records.record import Outcome, Record, rfc3339

__all__ = ["HISTORY_NAME", "KEPT", "History", "HistoryError", "Trouble"]

HISTORY_NAME = "history.db"
"""In the state directory."""
KEPT = frozenset({Outcome.RECOVERED, Outcome.FAILED, Outcome.CORRUPT, Outcome.REFUSED, Outcome.HELD})
"""The outcomes that are history; the others pass."""

_APPLICATION_ID = 0x4A_57_68_69  # "JWhi"
_MIGRATIONS = (
    """
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,      -- since the epoch, UTC
    database TEXT NOT NULL,        -- names as watcher.names.printable shows them
    session TEXT NOT NULL,         -- JSON: the fields of tree.layout
    outcome TEXT NOT NULL,
    change TEXT NOT NULL,          -- digest of what the caller says has changed
    pages INTEGER,
    journal_size INTEGER NOT NULL,
    duration_ms REAL NOT NULL,
    snapshot TEXT,
    owner TEXT,                    -- JSON
    error TEXT
) STRICT;
CREATE UNIQUE INDEX once_per_change ON history (database, outcome, change);
CREATE INDEX by_time ON history (time_ms);
""",
)
"""What makes version 1 of an empty database, version 2 of that, and so on. What was once released never changes."""
_INSERT = """
INSERT OR IGNORE INTO history
    (time_ms, database, session, outcome, change, pages, journal_size, duration_ms, snapshot, owner, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT = """
SELECT time_ms, database, session, outcome, pages, journal_size, duration_ms, snapshot, owner, error
FROM history WHERE time_ms >= ? AND (? IS NULL OR outcome = ?) ORDER BY time_ms DESC, id DESC
"""
_PRUNE_BY_NUMBER = """
DELETE FROM history WHERE id IN (
    SELECT id FROM (
        SELECT id, time_ms, row_number() OVER newest_of_session AS nth FROM history
        WINDOW newest_of_session AS (PARTITION BY whose(session, database) ORDER BY time_ms DESC, id DESC)
    ) ORDER BY nth > ?, time_ms DESC, id DESC LIMIT -1 OFFSET ?
)
"""
_PRUNE_BY_AGE = "DELETE FROM history WHERE time_ms < ?"

_NO_FIELDS = json.dumps({})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRUNE_EVERY_S = 3600.0
_SHARE = 10
"""A tenth of the history is nobody's to take: what a session has beyond it goes first."""


class _OlderError(Exception):
    """The history was written by an older journal-watcher."""


class History:
    """The history in one file; one of an older version is made one of this by whoever may write it.

    Args:
        path: of the database, in the state directory; made (0600) by the first :meth:`append`.
        keep: entries kept, the newest; pruned now and then, so there may be up to a tenth more for a while. Where there
            are more, those of a session that has more than a tenth of them go first, so that none pushes out the
            others'.
        max_age_s: entries older than this are dropped, seconds.
        root: of the tree; without a layout, a directory right below it counts as a session.
    """

    def __init__(self, path: Path, *, keep: int, max_age_s: float, root: Path | None = None) -> None:
        self.path = path
        self._above = "" if root is None else printable(root).rstrip("/") + "/"
        self._keep = keep
        self._max_age_ms = round(max_age_s * 1000)
        self._appended_since_prune = 0
        self._prune_due = 0.0

    def append(self, records: Iterable[tuple[Record, str]]) -> int:
        """Add the records in one transaction: all of them are there afterwards, or none.

        Args:
            records: each with its change: a text that is the same for as long as nothing has changed (the identity of
                the journal, and the error). Where the history holds that database, outcome and change already, it is
                not added again, whoever has added it and when; so adding twice does no harm. Outcomes that are not
                `KEPT` are passed over.

        Returns:
            How many were added.

        Raises:
            HistoryError: nothing was added.
        """
        rows = [_row(record, change) for record, change in records if record.outcome in KEPT]
        if not rows:
            return 0
        make_file(self.path)
        with connection(self.path, apsw.SQLITE_OPEN_READWRITE) as opened:
            opened.execute("PRAGMA synchronous = FULL; BEGIN IMMEDIATE")
            self._migrate(opened)
            before = opened.total_changes()
            opened.executemany(_INSERT, rows)
            added = opened.total_changes() - before
            self._prune_now_and_then(opened, added)
            opened.execute("COMMIT")
        return added

    def query(
        self,
        limit: int | None = None,
        since: datetime | None = None,
        session: str | None = None,
        outcome: Outcome | None = None,
        *,
        root: str | None = None,
    ) -> list[dict[str, object]]:
        """The entries that fit, newest first, as INTERFACE.md's objects. It writes nothing; a history that is not there
        is empty.

        Args:
            limit: at most so many.
            since: not older than this, aware.
            session: the value of any field of the session; of a database without fields, the name of a directory above
                it. As it is, or as `printable` shows it.
            outcome: only this one.
            root: the tree's root; directories above it are not taken for sessions.

        Raises:
            HistoryError: it cannot be read.
        """
        since_ms = -(2**62) if since is None else _milliseconds(since)
        wanted = None if session is None else {session, printable(session)}
        above = "" if root is None else printable(root)
        found: list[dict[str, object]] = []

        def read(opened: apsw.Connection) -> None:
            found.clear()
            opened.execute("BEGIN")  # one state of it for all that is read, also while it is being made
            version = self._version(opened)
            if version == 0:
                return
            if version < len(_MIGRATIONS):
                raise _OlderError
            for row in opened.execute(_SELECT, (since_ms, outcome, outcome)):
                if limit is not None and len(found) >= limit:
                    break
                if wanted is None or not wanted.isdisjoint(_session_names(row, above)):
                    found.append(_entry(row))

        if os.path.lexists(self.path):
            self._read(read)
        return found

    def set_aside(self) -> Path:
        """Move a corrupt history out of the way (`history.db.corrupt-20261124T083137Z`), so that the next
        :meth:`append` begins a new one. Of those moved away the newest three are kept.

        Raises:
            HistoryError: it cannot be moved.
        """
        return set_aside(self.path)

    def _read(self, read: Callable[[apsw.Connection], None]) -> None:
        try:
            with connection(self.path, apsw.SQLITE_OPEN_READONLY) as opened:
                read(opened)
        except _OlderError:
            with connection(self.path, apsw.SQLITE_OPEN_READWRITE) as opened:
                opened.execute("BEGIN IMMEDIATE")
                self._migrate(opened)
                opened.execute("COMMIT")
                read(opened)
        except HistoryError as error:
            if error.trouble is not Trouble.HALF_WRITTEN:
                raise
            # A service was killed in the middle of an append. Its lock is gone, or this would be BUSY: whoever may
            # write the history rolls it back by opening it so.
            with connection(self.path, apsw.SQLITE_OPEN_READWRITE) as opened:
                read(opened)

    def _migrate(self, opened: apsw.Connection) -> None:
        """Make it one of this version, within the caller's transaction."""
        version = self._version(opened)
        if version < len(_MIGRATIONS):
            for statements in _MIGRATIONS[version:]:
                opened.execute(statements)
            opened.pragma("application_id", _APPLICATION_ID)
            opened.pragma("user_version", len(_MIGRATIONS))

    def _version(self, opened: apsw.Connection) -> int:
        """The version of a history of ours; 0 for a database that is still empty."""
        whose, version = opened.pragma("application_id"), opened.pragma("user_version")
        if whose != _APPLICATION_ID:
            if opened.execute("SELECT count(*) FROM sqlite_schema").get:
                raise HistoryError(self.path, Trouble.FOREIGN, "is a database of another program")
            return 0
        assert isinstance(version, int)
        if version > len(_MIGRATIONS):
            what = f"was written by a newer journal-watcher (version {version}, this one knows {len(_MIGRATIONS)})"
            raise HistoryError(self.path, Trouble.NEWER, what)
        return version

    def _prune_now_and_then(self, opened: apsw.Connection, added: int) -> None:
        now = time.monotonic()
        self._appended_since_prune += added
        if self._appended_since_prune > self._keep // 10 or now >= self._prune_due:
            opened.create_scalar_function("whose", self._whose, 2, deterministic=True)
            opened.execute(_PRUNE_BY_NUMBER, (max(1, self._keep // _SHARE), self._keep))
            opened.execute(_PRUNE_BY_AGE, (_milliseconds(datetime.now(UTC)) - self._max_age_ms,))
            self._appended_since_prune, self._prune_due = 0, now + _PRUNE_EVERY_S

    def _whose(self, *of: apsw.SQLiteValue) -> str:
        """Who has made the entry of this session and database, for the shares."""
        session, database = of
        assert isinstance(session, str)
        assert isinstance(database, str)
        return session if session != _NO_FIELDS else database.removeprefix(self._above).partition("/")[0]


def _row(record: Record, change: str) -> tuple[str | int | float | None, ...]:
    session = {printable(name): printable(value) for name, value in record.session.items()}
    return (
        _milliseconds(record.time),
        printable(record.database),
        json.dumps(session) if session else _NO_FIELDS,
        record.outcome.value,
        hashlib.sha256(change.encode("utf-8", "surrogatepass")).hexdigest(),
        record.pages,
        record.journal_size,
        round(record.duration_ms, 1),
        None if record.snapshot is None else printable(record.snapshot),
        None if record.owner is None else json.dumps(record.owner.as_json()),
        None if record.error is None else one_line(record.error),
    )


def _entry(row: tuple[apsw.SQLiteValue, ...]) -> dict[str, object]:
    time_ms, database, _, outcome, pages, journal_size, duration_ms, snapshot, owner, error = row
    assert isinstance(time_ms, int)  # STRICT holds the types
    assert owner is None or isinstance(owner, str)
    return {
        "time": rfc3339(_EPOCH + timedelta(milliseconds=time_ms)),
        "database": database,
        "outcome": outcome,
        "pages": pages,
        "journal_size": journal_size,
        "duration_ms": duration_ms,
        "snapshot": snapshot,
        "owner": None if owner is None else json.loads(owner),
        "error": error,
    }


def _session_names(row: tuple[apsw.SQLiteValue, ...], above: str) -> set[str]:
    database, session = row[1], row[2]
    assert isinstance(database, str)
    assert isinstance(session, str)
    fields: dict[str, str] = json.loads(session)
    if fields:
        return set(fields.values())
    directory = PurePath(database).parent
    return set((directory.relative_to(above) if above and directory.is_relative_to(above) else directory).parts)


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
