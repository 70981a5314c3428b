"""Which databases of a tree could not be recovered for want of rights."""

from __future__ import annotations

import os
import pwd
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from watcher.claims import Claims
from watcher.denials import Wish, giving, lets
from watcher.journal import DATABASE_MAGIC
from watcher.names import printable
from watcher.pinned import LookAgainError, Pinned
from watcher.rights import overrides_modes, recovers_as
from watcher.tree import SUFFIX, Gone, Place, Tree, UnsafeError

__all__ = ["Unwritable", "is_database", "unwritable", "user_of"]

_EFFECTIVE = os.access in os.supports_effective_ids
_NO_DATABASE = (SUFFIX, "-wal", "-shm")


@dataclass(slots=True)
class Unwritable:
    """Databases and directories that we could not write, among all that were looked at.

    Attributes:
        shut: directories that we may not even enter, below the root.
        owners: whose they are: a number for each uid.
        by_owners: some of them by root with the rights of their owner (`watcher.rights.recovers_as`).
        gifts: at how many it is their owner himself who lacks the rights.
        gift: the command that gives them to the first of these.
    """

    databases: int = 0
    directories: int = 0
    databases_seen: int = 0
    directories_seen: int = 0
    shut: list[str] = field(default_factory=list)
    owners: Counter[int] = field(default_factory=Counter)
    example: str | None = None
    by_owners: bool = False
    gifts: int = 0
    gift: str | None = None

    def note(self, path: str, status: os.stat_result, wish: Wish, acts_as: int | None) -> None:
        """It cannot be written, by us or with the rights of this user."""
        self.owners[status.st_uid] += 1
        self.example = self.example or path
        self.by_owners = self.by_owners or (acts_as is not None and overrides_modes())
        is_bound = acts_as is not None or not overrides_modes()
        who = os.geteuid() if acts_as is None else acts_as
        if is_bound and status.st_uid == who and not lets(status, wish, who):
            self.gifts += 1
            self.gift = self.gift or giving(wish, path)

    @property
    def any(self) -> bool:
        return bool(self.databases or self.directories)

    def told(self) -> str:
        """In one line: how many, whose, for example which."""
        rights = ", with the rights of their owner" if self.by_owners else ""
        whose = ", ".join(f"{count} to {user_of(uid)}" for uid, count in self.owners.most_common(3))
        return (
            f"{self.databases} of {self.databases_seen} databases and {self.directories} of {self.directories_seen}"
            f" directories may not be written by us (uid {os.geteuid()}{rights}); of these belong {whose}; first"
            f" {printable(self.example or '')}"
        )


def unwritable(tree: Tree, going_on: Callable[[], bool] = lambda: True) -> Unwritable:
    """Which databases of the tree, and which of their directories, we could not write.

    Args:
        going_on: asked now and then; False ends it early.

    Raises:
        RootMissingError: the tree is not there.
    """
    found = Unwritable()
    for directory, files in tree.walk(found.shut.append):
        if not going_on():
            break
        names = [name for name in files if not name.endswith(_NO_DATABASE) and tree.admits_database(name)]
        if not names or not tree.holds_databases(Place(directory, "").parts):
            continue
        try:
            descriptor = tree.enter(directory)
        except (Gone, UnsafeError):
            continue  # it was there a moment ago
        try:
            databases = [name for name in names if is_database(name, descriptor)]
            if databases:
                _note(found, tree, directory, databases, descriptor)
        finally:
            os.close(descriptor)
    return found


def _note(found: Unwritable, tree: Tree, directory: str, databases: list[str], descriptor: int) -> None:
    found.directories_seen += 1
    here = os.fstat(descriptor)
    shut: list[tuple[str, os.stat_result, Wish, int | None]] = []
    actors = set()
    for name in databases:
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError:
            continue  # it was there a moment ago
        found.databases_seen += 1
        acts_as = recovers_as(here.st_uid, status.st_uid, *_owner_of(name + SUFFIX, descriptor))
        actors.add(acts_as)
        if not _may(name, descriptor, status, Wish.READ | Wish.WRITE, acts_as):
            found.databases += 1
            shut.append((tree.path(Place(directory, name)), status, Wish.READ | Wish.WRITE, acts_as))
    # A rollback ends with the deletion of the journal, so the directory must be ours to write, too.
    wish = Wish.WRITE | Wish.SEARCH
    for acts_as in actors:
        if not _may(".", descriptor, here, wish, acts_as):
            found.directories += 1
            found.note(os.path.join(tree.root, directory), here, wish, acts_as)
            break
    for each in shut:
        found.note(*each)


def _owner_of(journal: str, descriptor: int) -> tuple[int, ...]:
    try:
        return (os.stat(journal, dir_fd=descriptor, follow_symlinks=False).st_uid,)
    except OSError:  # usually there is none
        return ()


def _may(name: str, at: int, status: os.stat_result, wish: Wish, acts_as: int | None) -> bool:
    """Whether we may do that, and where we act with the rights of another, he may, too."""
    may = os.access(name, int(wish), dir_fd=at, effective_ids=_EFFECTIVE)
    return may and (acts_as is None or lets(status, wish, acts_as))


def is_database(name: str, at: int) -> bool:
    """Whether the file begins as an SQLite database; one that we may not read is taken for one. So is one that a
    worker of ours is at, which is not opened: its locks would be lost (see `claims`)."""
    claims = Claims()
    try:
        pinned = Pinned(name, "the database", at)
    except (Gone, UnsafeError):
        return False
    try:
        if not claims.claim(pinned.status):
            return True
        return os.pread(pinned.reader(), len(DATABASE_MAGIC), 0) == DATABASE_MAGIC
    except UnsafeError:
        return True
    except (LookAgainError, OSError):
        return False
    finally:
        pinned.close()
        claims.release()


def user_of(uid: int) -> str:
    """Who that is: name and number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
