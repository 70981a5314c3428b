"""A host with a tree that agents write, and the real rooms of journal-watcher on it; what is outside must stay."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests.writers import CrashedPair, journal_of
from watcher.decision import Finding
from watcher.installation import Rooms
from watcher.once import Recovered, recover_all, scan
from watcher.owner.clock import WallClock
from watcher.records.record import Outcome
from watcher.settings import load_settings
from watcher.tree import Place


@dataclass(frozen=True)
class Seen:
    """What can be seen of a file from outside, but for its times of access."""

    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    size: int
    mtime_ns: int
    ctime_ns: int
    content: str

    @classmethod
    def at(cls, path: Path) -> Seen:
        status = path.lstat()
        return cls(
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_nlink,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            _content(path, status),
        )


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 30:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def everything_in(directory: Path) -> dict[str, Seen]:
    """Every file and directory below, and the directory itself."""
    found = {".": Seen.at(directory)}
    for at, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(at, name)
            found[os.path.relpath(path, directory)] = Seen.at(path)
    return found


class Host:
    """The files of a host.

    Attributes:
        root: the tree, which agents write.
        outside: what is the host's own: a crashed database of its own with a hot journal among other files.
        rooms: the rooms of journal-watcher for this tree, as `recover` has them.
    """

    def __init__(self, directory: Path, crashed: CrashedPair) -> None:
        self.root = directory / "tree"
        self.outside = directory / "outside"
        self._directory = directory
        self._crashed = crashed
        self.root.mkdir()
        self.outside.mkdir()
        self.victim = crashed.put(self.outside / "outbound.db")
        for name in ("secret", "victim-mj0123459AB"):
            (self.outside / name).write_text("of the host", encoding="utf-8")
        for name in ("directory", "sessions/s"):
            crashed.put(self.outside / name / "outbound.db")
        self.configure()

    def configure(self, **sections: object) -> None:
        """Set the rooms up anew, with these settings beside the ordinary ones."""
        file = self._directory / "settings.yaml"
        tree = {"root": str(self.root)} | dict(sections.pop("tree", {}))  # type: ignore[call-overload]
        told = {"state_dir": str(self._directory / "state"), "tree": tree, **sections}
        file.write_text(yaml.safe_dump(told), encoding="utf-8")
        self.settings = load_settings(file)
        self.settings.state_dir.mkdir(mode=0o700, exist_ok=True)
        self.rooms = Rooms(self.settings, WallClock())

    def crash(self, name: str | bytes = "outbound.db") -> Path:
        """A crashed database in the tree, with its hot journal."""
        return self._crashed.put(self.root / os.fsdecode(name))

    def scan(self) -> list[Finding]:
        """What `scan` finds in the tree."""
        return list(scan(self.rooms, self.rooms.tree.journals()))

    def find(self, database: Path) -> Finding:
        """What `explain` says of a database."""
        return self.rooms.examiner.examine_place(self._place(database))

    def recover(self, *databases: Path) -> list[Recovered]:
        """What `recover` does: with all that is in the tree, or with these."""
        places = list(map(self._place, databases)) if databases else list(self.rooms.tree.journals())
        return recover_all(self.rooms, places, dry_run=False, done=lambda _: None)

    def outcome_of(self, database: Path) -> Outcome | None:
        """What comes of recovering this database; None where there is nothing to do."""
        recovered = self.recover(database)
        return recovered[0].record.outcome if recovered else None

    def is_recovered(self, database: Path) -> bool:
        """Whether SQLite's own rollback has been done to a database that :meth:`crash` has left."""
        return database.read_bytes() == self._crashed.recovered and not journal_of(database).exists()

    def _place(self, database: Path) -> Place:
        directory, _, name = os.path.relpath(database, self.root).rpartition("/")
        return Place(directory, name)


@contextmanager
def unchanged(directory: Path, *, but_for_links: bool = False) -> Iterator[None]:
    """Nothing in this directory is made, changed or removed in the block.

    Args:
        but_for_links: somebody gives its files other names meanwhile, which changes their number of links and ctime.
    """

    def seen() -> dict[str, Seen]:
        found = everything_in(directory)
        return {n: replace(s, links=0, ctime_ns=0) for n, s in found.items()} if but_for_links else found

    before = seen()
    yield
    assert seen() == before


@contextmanager
def only_rolled_back(root: Path, *databases: Path) -> Iterator[None]:
    """In this tree the block changes nothing but these databases, takes away nothing but their journals, and makes
    nothing: what SQLite's rollback does."""
    before = everything_in(root)
    names = {os.path.relpath(each, root) for each in databases}
    yield
    after = everything_in(root)
    expected = {
        name: seen for name, seen in before.items() if name.removesuffix("-journal") not in names or name in names
    }
    assert set(after) == set(expected)
    touched = {name for name in after if after[name] != expected[name]}
    directories = {os.path.dirname(name) or "." for name in names}
    assert touched <= names | directories
    for name in names:
        assert (after[name].mode, after[name].owner, after[name].links) == (
            before[name].mode,
            before[name].owner,
            before[name].links,
        )


def rounds(few: int) -> int:
    """How often a race is run: `few` times, or as often as JOURNAL_WATCHER_ROUNDS says."""
    return int(os.environ.get("JOURNAL_WATCHER_ROUNDS", few))


def slow_to_check(database: Path) -> Path:
    """Make a database whose schema has `quick_check` compute for hours: one `instr`, which nothing interrupts.

    (In a CHECK constraint it would do nothing: a read-only connection parses none, `sqlite3AddCheckConstraint`.)
    """
    return computing(database, "instr(zeroblob(40000000), zeroblob(20000000) || x'01')")


def computing(database: Path, expression: str) -> Path:
    """Make a database with a row whose check computes this, which is never null."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (x)")
        with connection:
            connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("PRAGMA writable_schema = on")
        with connection:
            sql = f"CREATE TABLE t (x, y AS ({expression}) VIRTUAL NOT NULL)"
            connection.execute("UPDATE sqlite_schema SET sql = ?", (sql,))
    return database
