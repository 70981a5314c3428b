"""Real journals in the middle of real transactions, of every shape that SQLite makes; and one look at them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from tests.writers import STANDARD_LIBRARY_ALONE, journal_of, leave
from watcher.look import Look, Looker
from watcher.settings import TreeSettings
from watcher.tree import Place, Tree

# A writer of the newest SQLite whose disk has sectors of the wanted size; it kills itself in its transaction.
_WRITER = """
import json, os, signal, sys
import apsw
wanted = json.loads(sys.argv[1])

class File(apsw.VFSFile):
    def xSectorSize(self):
        return wanted["sector_size"]
    def xDeviceCharacteristics(self):
        return 0

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("disk", "")
    def xOpen(self, name, flags):
        return (File if wanted["sector_size"] else apsw.VFSFile)("", name, flags)
    def xDelete(self, name, sync):
        if wanted["at_commit"] and last:
            os.kill(os.getpid(), signal.SIGKILL)
        super().xDelete(name, sync)

disk = Disk()
last = False
connection = apsw.Connection(wanted["path"], vfs="disk")
for statement in wanted["statements"]:
    last = statement == wanted["statements"][-1]
    for _ in connection.execute(statement):
        pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Shape:
    """How a writer is set up, and what it is doing when it is killed.

    Attributes:
        sector_size: of its disk; 0 for the ordinary one with powersafe overwrite, whose sectors count as 512 bytes.
        before: statements before the transaction.
        during: statements of the transaction.
        at_commit: the last statement commits by itself, and is killed there: the database is written, and its journal
            is to be deleted.
    """

    page_size: int = 1024
    sector_size: int = 0
    journal_mode: str = "delete"
    synchronous: str = "full"
    auto_vacuum: str = "none"
    before: tuple[str, ...] = ()
    during: tuple[str, ...] = ("UPDATE t SET body = randomblob(length(body)) WHERE id % 2",)
    rows: int = 200
    at_commit: bool = False

    def statements(self) -> list[str]:
        made = [
            f"PRAGMA page_size = {self.page_size}",
            f"PRAGMA auto_vacuum = {self.auto_vacuum}",
            "PRAGMA synchronous = off",
        ]
        if self.rows:
            made += [
                "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)",
                "CREATE VIEW n AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
                f"INSERT INTO t SELECT i, zeroblob({self.page_size - 100}) FROM n LIMIT {self.rows}",
            ]
        made += [
            f"PRAGMA journal_mode = {self.journal_mode}",
            f"PRAGMA synchronous = {self.synchronous}",
            "PRAGMA cache_size = 3",
        ]
        return [*made, *self.before, *(() if self.at_commit else ("BEGIN",)), *self.during]

    def crash(self, path: Path) -> None:
        """Leave a database that was killed in such a transaction, with its journal."""
        wanted = {
            "path": str(path),
            "sector_size": self.sector_size,
            "statements": self.statements(),
            "at_commit": self.at_commit,
        }
        killed = subprocess.run([sys.executable, "-c", _WRITER, json.dumps(wanted)], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


@dataclass(frozen=True)
class Bytes:
    """A pair as bytes: for putting it where a test wants it, as it was or changed."""

    database: bytes
    journal: bytes

    @classmethod
    def of(cls, path: Path) -> Bytes:
        return cls(path.read_bytes(), journal_of(path).read_bytes())

    def put(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.database)
        leave(journal_of(path), self.journal)
        return path

    def with_journal_field(self, offset: int, number: int) -> Bytes:
        """The same with another number (32 bits) in its journal's header."""
        return replace(self, journal=self.journal[:offset] + number.to_bytes(4, "big") + self.journal[offset + 4 :])


RECORDS, NONCE, INITIAL_PAGES, SECTOR_SIZE, PAGE_SIZE = 8, 12, 16, 20, 24
"""Offsets in a journal's header."""
MAGIC = bytes.fromhex("d9d505f920a163d7")


def super_trailer(name: bytes) -> bytes:
    """What `writeSuperJournal` of pager.c appends: the lock page's number, the name, its length, its sum, the magic."""
    lock_page = (0x40000000 // 1024 + 1).to_bytes(4, "big")
    return lock_page + name + len(name).to_bytes(4, "big") + (sum(name) & 0xFFFFFFFF).to_bytes(4, "big") + MAGIC


@dataclass(frozen=True)
class Left:
    """What SQLite itself leaves of a pair; None where there is no such file."""

    database: bytes | None
    journal: bytes | None


def left_by_sqlite(pair: Bytes, scratch: Path) -> Left:
    """SQLite's own word on a pair: an ordinary read-write open of a copy, by its ordinary VFS, and one read."""
    path = pair.put(scratch / "oracle.db")
    try:
        connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.pragma("schema_version")
        finally:
            connection.close(True)
    except (apsw.CorruptError, apsw.NotADBError):
        pass  # it has looked for a hot journal before it came to that
    left = Left(_content(path), _content(journal_of(path)))
    path.unlink(missing_ok=True)
    journal_of(path).unlink(missing_ok=True)
    return left


def _content(path: Path) -> bytes | None:
    if not path.exists():
        return None
    assert path.stat().st_size < 1 << 30, "SQLite has grown it beyond all measure"
    return path.read_bytes()


def looker(root: Path, *, max_journal_bytes: int = 1 << 30) -> Looker:
    return Looker(Tree(TreeSettings(root=root)), max_journal_bytes=max_journal_bytes)


def look_at(path: Path, *, max_journal_bytes: int = 1 << 30) -> Look:
    """One look at the pair of this database, in a tree that is its directory."""
    return looker(path.parent, max_journal_bytes=max_journal_bytes).look(Place("", path.name))


def wal_switch(database: Path) -> None:
    """A writer that is killed while it switches a database from WAL to DELETE."""
    killed = subprocess.run([sys.executable, "-c", _WAL_SWITCH, str(database)], check=False)
    assert killed.returncode == -9


_WAL_SWITCH = """
import os, signal, sys
import apsw

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("disk", "")
    def xDelete(self, name, sync):
        if switching and name.endswith("-journal"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().xDelete(name, sync)

disk = Disk()
switching = False
connection = apsw.Connection(sys.argv[1], vfs="disk")
connection.pragma("journal_mode", "wal")
connection.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
switching = True
connection.pragma("journal_mode", "delete")
"""


def journal_with_page_1(database: Path, page: bytes) -> bytes:
    """A sound journal that gives page 1 this content."""
    pages = database.stat().st_size // 1024
    header = bytes.fromhex("d9d505f920a163d7") + b"".join(n.to_bytes(4, "big") for n in (1, 0, pages, 512, 1024))
    checksum = sum(page[at] for at in range(len(page) - 200, 0, -200)) & 0xFFFFFFFF
    return header.ljust(512, b"\0") + (1).to_bytes(4, "big") + page + checksum.to_bytes(4, "big")


READERS_LOCK = ("F_RDLCK", 0x40000002, 510)
READ_LOCK_ON_RESERVED = ("F_RDLCK", 0x40000001, 1)
RESERVED_LOCK = ("F_WRLCK", 0x40000001, 1)
"""Locks of SQLite's: their kind, and the first byte and the number of bytes of the database file (os_unix.c)."""
_HOLD = """
import fcntl, os, struct, sys
path, kind, start, length = sys.argv[1:]
descriptor = os.open(path, os.O_RDWR)
lock = struct.pack("hhqqi4x", getattr(fcntl, kind), 0, int(start), int(length), 0)
fcntl.fcntl(descriptor, fcntl.F_SETLK, lock)
print("held", flush=True)
sys.stdin.read()
"""


_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when somebody else wants the file
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


def holding(database: Path, lock: tuple[str, int, int]) -> AbstractContextManager[subprocess.Popen[str]]:
    """Another process holds a lock on the database."""
    return _holder(_HOLD, database, *lock)


def leasing(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Another process holds a lease on the file, for up to /proc/sys/fs/lease-break-time seconds after the first who
    wants it."""
    return _holder(_LEASE, path)


@contextmanager
def _holder(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    holder = subprocess.Popen(
        [*STANDARD_LIBRARY_ALONE, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.communicate("")
