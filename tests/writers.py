"""Writers: real processes in real transactions, to live beside, and to kill."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

# One command a line on stdin, answered when it is done. A cache of a few pages makes a transaction spill: its journal
# is synced and hot then, though nothing is committed. `begin` and `more` each journal pages that were not there yet.
_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)
connection.execute("PRAGMA cache_size = 4")
row = 0
for line in sys.stdin:
    command = line.strip()
    if command in ("begin", "more"):
        if command == "begin":
            connection.execute("BEGIN")
            row = 0
        connection.execute("UPDATE t SET body = randomblob(900) WHERE id > ? AND id <= ?", (row, row + 20))
        row += 20
    else:
        connection.execute(command)
    print("done", flush=True)
"""
ROWS = 800
STANDARD_LIBRARY_ALONE = (sys.executable, "-I", "-S")
"""An interpreter without what is installed; it is there in a third of the time."""


def make_database(path: Path) -> None:
    """A database of some hundred pages, with the table t(id, body)."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.executemany("INSERT INTO t VALUES (?, zeroblob(900))", [(row + 1,) for row in range(ROWS)])


class Writer:
    """A process that writes one database when it is told to."""

    def __init__(self, database: Path, vfs: str | None) -> None:
        uri = database.absolute().as_uri() + (f"?vfs={vfs}" if vfs else "")
        self._process = subprocess.Popen(
            [*STANDARD_LIBRARY_ALONE, "-c", _WRITER, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, command: str) -> None:
        """`begin` a transaction that spills, write `more` in it, or any SQL; comes back when it is done."""
        stdin, stdout = self._pipes()
        stdin.write(f"{command}\n")
        stdin.flush()
        assert stdout.readline() == "done\n"

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        self.kill()
        for pipe in self._pipes():
            pipe.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


@contextmanager
def writing(database: Path, vfs: str | None = None) -> Iterator[Writer]:
    """A writer, gone at the end.

    Args:
        vfs: of SQLite's own, for locks that are not the ordinary ones.
    """
    with closing(Writer(database, vfs)) as writer:
        yield writer


@contextmanager
def writing_unseen(database: Path) -> Iterator[Writer]:
    """A writer whose locks nobody sees, as a guest's behind a VM's mount: its journal looks hot to a reader."""
    with closing(Writer(database, "unix-none")) as writer:
        yield writer


def crash(database: Path) -> None:
    """Leave a real hot journal beside the database: a writer is killed in a transaction that has spilled."""
    with writing(database) as writer:
        writer.tell("begin")
        writer.kill()


@dataclass(frozen=True, slots=True)
class CrashedPair:
    """The bytes that a real crash has left: where a test needs many crashes, or just any, it puts these down.

    Attributes:
        recovered: the database's bytes after SQLite's own rollback.
    """

    database: bytes
    journal: bytes
    recovered: bytes

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Crash a writer in this directory, and let SQLite recover."""
        path = directory / "crashed.db"
        make_database(path)
        crash(path)
        database, journal = path.read_bytes(), journal_of(path).read_bytes()
        recover(path)
        return cls(database, journal, path.read_bytes())

    def put(self, database: Path) -> Path:
        """Leave it at this path, whose directories are made."""
        database.parent.mkdir(parents=True, exist_ok=True)
        database.write_bytes(self.database)
        leave(journal_of(database), self.journal)
        return database


def leave(journal: Path, contents: bytes) -> None:
    """Put a journal down at once: nobody holds a lock meanwhile, and half of one would be rolled back as it is."""
    draft = journal.with_name(".draft")
    draft.write_bytes(contents)
    draft.replace(journal)


def journal_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-journal")


def recover(database: Path) -> None:
    """Let SQLite roll the journal back, as any read-write open does."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT count(*) FROM t").fetchone()


def count_read_only(database: Path) -> int:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        count: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        return count


_HOLD_SHARED = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.lockf(fd, fcntl.LOCK_SH, 510, 0x40000002)  # SHARED_FIRST, SHARED_SIZE of SQLite's os.h
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def reading(database: Path) -> Iterator[int]:
    """A process with a SHARED lock: it reads, and does not come to an end."""
    argv = [sys.executable, "-c", _HOLD_SHARED, str(database)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.kill()
