"""Which paths are ours: the root, the layout and the patterns; how to reach a pair of files safely; the walk.

The containers write this tree, so a name in it is never followed on trust. Whatever is opened is walked to from the
root by `openat` with O_NOFOLLOW | O_DIRECTORY, and what was reached is judged by `fstat` of the descriptor.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from watcher.met import O_PATH, SUFFIX, Gone, UnsafeError, kind_of
from watcher.names import parse_printable, printable, quoted, shown_word
from watcher.settings import Layout, TreeSettings

__all__ = [
    "MAX_DEPTH",
    "SUFFIX",
    "Gone",
    "OutsideTreeError",
    "Place",
    "RootMissingError",
    "Tree",
    "UnsafeError",
    "enter_one",
    "kind_of",
    "stands_for_journal",
]

_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_ENTER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideTreeError(ValueError):
    """A path that a person gave names no database of this tree. The message says why."""


class RootMissingError(OSError):
    """The root is not there, or is no directory that we may enter."""


class Place(NamedTuple):
    """A database of the tree by its name: the key that hints carry and that the reconciler works on.

    Attributes:
        directory: the path of its directory below the root, `/` between components; empty for the root itself.
        name: the database's file name; its journal is `name` with `-journal` behind it.
    """

    directory: str
    name: str

    @property
    def journal_name(self) -> str:
        return self.name + SUFFIX

    @property
    def relative(self) -> str:
        """The database's path below the root."""
        return f"{self.directory}/{self.name}" if self.directory else self.name

    @property
    def parts(self) -> tuple[str, ...]:
        """The directories between the root and the database."""
        return tuple(self.directory.split("/")) if self.directory else ()


class Tree:
    """The tree of one installation. It keeps no state: each question is answered by the file system of that moment.
    (What names mean by the settings does not change, and is remembered for some.)"""

    def __init__(self, settings: TreeSettings) -> None:
        self.root = Path(settings.root)
        self.layout: Layout | None = Layout.parse(settings.layout) if settings.layout is not None else None
        self._root = os.fspath(self.root)
        self._below_root = os.path.join(self._root, "")
        self._session_in = lru_cache(maxsize=_MOST_REMEMBERED)(self._match)
        self._patterns = () if "*" in settings.databases else settings.databases
        self._excluded = frozenset(settings.exclude)

    # --- which names are ours ---

    def admits_directory(self, depth: int, name: str) -> bool:
        """Whether a directory of this name, `depth` directories below the root, may lie on the way to a database."""
        if name in self._excluded:
            return False
        return self.layout is None or self.layout.match_directory(depth, name)

    def holds_databases(self, parts: Sequence[str]) -> bool:
        """Whether databases may lie in this directory (its components below the root)."""
        if self._excluded and not self._excluded.isdisjoint(parts):
            return False
        return self.layout is None or self.layout.match(parts) is not None

    def admits_database(self, name: str) -> bool:
        """Whether a database of this file name is one of ours."""
        return not self._patterns or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def literal_names(self) -> tuple[str, ...]:
        """The file names of all databases that can be ours, where the patterns are plain names; else empty."""
        plain = all(not any(sign in pattern for sign in "*?[") for pattern in self._patterns)
        return tuple(self._patterns) if plain else ()

    def place_of_journal(self, directory: str, file_name: str) -> Place | None:
        """The place whose journal this file is by its name, or None where it is none of ours.

        Args:
            directory: path below the root, empty for the root.
            file_name: the name of the file in it.
        """
        if not file_name.endswith(SUFFIX) or len(file_name) == len(SUFFIX):
            return None
        name = file_name.removesuffix(SUFFIX)
        if not self.admits_database(name) or self._session_in(directory) is None:
            return None
        place = Place(directory, name)
        return place if not self._excluded or self._excluded.isdisjoint(place.parts) else None

    def session(self, place: Place) -> Mapping[str, str]:
        """The fields of the layout with their values for this place; empty without a layout."""
        return self._session_in(place.directory) or _NO_FIELDS

    def _match(self, directory: str) -> Mapping[str, str] | None:
        """The fields of the layout with their values for databases in this directory; None where it does not fit."""
        if self.layout is None:
            return _NO_FIELDS
        return self.layout.match(directory.split("/") if directory else [])

    def session_of(self, place: Place) -> str:
        """The directory whose writer this place is: the session's; without a layout the one right below the root, since
        whoever writes there makes any number of others below."""
        return place.directory if self.layout is not None else place.directory.partition("/")[0]

    def path(self, place: Place) -> str:
        """The database's absolute path, for messages and patterns; nothing is opened by it."""
        directory, name = place
        return f"{self._below_root}{directory}/{name}" if directory else f"{self._below_root}{name}"

    def locate(self, path: str) -> Place:
        """The place that a person means: the path of a database or of its journal, absolute, relative to the working
        directory or to the root, as the file system has it or as a log line of ours shows it.

        Raises:
            OutsideTreeError: it is none of this tree, or may be two of it.
        """
        meant = self._meant_by(path)
        if len(meant) == 1:
            return meant[0]
        words = []
        for each in map(self.path, meant):
            spelled = ((shown_word(each), printable(each)), (quoted(each), each))
            words += [word for word, read in spelled if len(self._meant_by(read)) == 1][:1]
        if len(words) == len(meant):
            remedy = f"write {' or '.join(words)}"
        else:
            remedy = "and no other word means one alone: recover the whole tree, without a PATH"
        raise OutsideTreeError(f"{quoted(path)}: as it stands and as a log shows it, two databases are meant; {remedy}")

    def _meant_by(self, path: str) -> list[Place]:
        """What is there by this path as it stands, and by what is shown so; not none.

        Raises:
            OutsideTreeError: as :meth:`locate`.
        """
        meant: list[Place] = []
        refused: OutsideTreeError | None = None
        for spelled in dict.fromkeys((path, parse_printable(path))):
            for base in (os.getcwd(), self._root):
                try:
                    place = self._place_at(os.path.normpath(os.path.join(base, spelled)), path)
                except OutsideTreeError as error:
                    refused = refused or error
                    continue
                if self._exists(place):
                    meant.append(place)
                    break
                refused = OutsideTreeError(f"{printable(path)}: {self._why_absent(place)}")
        if not meant:
            assert refused is not None
            raise refused
        return list(dict.fromkeys(meant))

    def _place_at(self, absolute: str, given: str) -> Place:
        for root in dict.fromkeys((os.path.normpath(self._root), os.path.realpath(self._root))):
            for spelled in dict.fromkeys((absolute, _resolved_parent(absolute))):
                if spelled == root:
                    raise OutsideTreeError(f"{printable(given)}: that is the tree itself; name a database of it")
                if not spelled.startswith(root.rstrip("/") + "/"):
                    continue
                directory, _, name = spelled[len(root.rstrip("/")) + 1 :].rpartition("/")
                place = Place(directory, name)
                if name.endswith(SUFFIX) and len(name) > len(SUFFIX) and not self._is_named_so(place):
                    place = Place(directory, name.removesuffix(SUFFIX))
                if os.path.isdir(self.path(place)) and not self._is_named_so(place):
                    raise OutsideTreeError(f"{printable(given)}: expected a database or its journal, got a directory")
                if not self.holds_databases(place.parts):
                    wanted = "tree.exclude leaves it out" if self.layout is None else f"not of layout {self.layout}"
                    raise OutsideTreeError(f"{printable(given)}: no directory of this tree holds it ({wanted})")
                if not self.admits_database(place.name):
                    raise OutsideTreeError(f"{printable(given)}: no pattern of tree.databases matches its name")
                return place
        raise OutsideTreeError(f"{printable(given)}: outside the tree {printable(self._root)}")

    def _is_named_so(self, place: Place) -> bool:
        """Whether a file called `x-journal` is a database of that name, having a journal of its own beside it."""
        return os.path.lexists(os.path.join(self._root, place.directory, place.journal_name))

    def _exists(self, place: Place) -> bool:
        path = self.path(place)
        return os.path.lexists(path) or os.path.lexists(path + SUFFIX)

    def _why_absent(self, place: Place) -> str:
        try:
            os.lstat(self.path(place))
        except PermissionError:
            return f"uid {os.geteuid()} may not enter its directory"
        except OSError:
            pass
        return "there is no such database or journal"

    # --- reaching it ---

    def open_root(self) -> int:
        """A descriptor of the root's directory; the caller closes it.

        Raises:
            RootMissingError: it cannot be opened.
            OSError: we have run out of descriptors or memory, which says nothing about the root.
        """
        try:
            return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _USED_UP:
                raise
            raise RootMissingError(error.errno, error.strerror, self._root) from error

    def enter(self, directory: str) -> int:
        """A descriptor of a directory below the root, reached without following a link; the caller closes it.

        Raises:
            Gone: it is not there.
            UnsafeError: a component is a symbolic link or no directory, or may not be entered.
            RootMissingError: the root is not there.
            OSError: we have run out of descriptors or memory, or the file system fails.
        """
        reached = self.open_root()
        parts = directory.split("/") if directory else []
        try:
            for index, part in enumerate(parts):
                # What lies between need only be searched, not listed; the last one is synced after a delete in it.
                mode = os.O_RDONLY if index == len(parts) - 1 or not O_PATH else O_PATH
                below = enter_one(part, reached, mode)
                os.close(reached)
                reached = below
        except BaseException:
            os.close(reached)
            raise
        return reached

    # --- walking it ---

    def journals(self, shut: Callable[[str], None] | None = None) -> Iterator[Place]:
        """Every journal of the tree by its name, directory by directory.

        What vanishes or may not be entered during the walk is passed over: it is met again at the next.

        Args:
            shut: called with each directory below the root that we may not enter.

        Raises:
            RootMissingError: the root is not there.
        """
        for directory, files in self.walk(shut):
            for file_name in files:
                place = self.place_of_journal(directory, file_name)
                if place is not None:
                    yield place

    def walk(
        self, shut: Callable[[str], None] | None = None, links: Callable[[str], None] | None = None
    ) -> Iterator[tuple[str, list[str]]]:
        """Every directory that may hold databases or directories of the tree, with the names of what is no directory
        in it, or stands where a database's journal would; links to directories are not entered.

        Args:
            shut: called with each directory below the root that we may not enter.
            links: called with each link that stands where the layout has a directory.

        Raises:
            RootMissingError: the root is not there.
        """
        with _descriptor(self.open_root()) as root:
            yield from self._walk_below(root, "", 0, shut or _pass_over, links or _pass_over)

    def _walk_below(
        self, descriptor: int, directory: str, depth: int, shut: Callable[[str], None], links: Callable[[str], None]
    ) -> Iterator[tuple[str, list[str]]]:
        # Depth first with one open descriptor a level: a hostile tree that is very deep ends at PATH_MAX or, before
        # that, at the descriptors that we may have, and either is an OSError of that branch alone.
        files, directories = [], []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_directory and self.admits_directory(depth, entry.name):
                    directories.append(entry.name)
                if not is_directory or stands_for_journal(entry.name, descriptor):
                    files.append(entry.name)
                if entry.is_symlink() and self.layout is not None and self.admits_directory(depth, entry.name):
                    links(f"{directory}/{entry.name}" if directory else entry.name)
        yield directory, files
        if depth >= MAX_DEPTH:
            return
        for name in directories:
            path = f"{directory}/{name}" if directory else name
            try:
                below = enter_one(name, descriptor, os.O_RDONLY)
            except Gone:
                continue
            except UnsafeError as error:
                if isinstance(error.__cause__, PermissionError):  # else a link has taken its place in this moment
                    shut(path)
                continue
            with _descriptor(below):
                try:
                    yield from self._walk_below(below, path, depth + 1, shut, links)
                except PermissionError:
                    shut(path)


_NO_FIELDS: Mapping[str, str] = {}
_MOST_REMEMBERED = 1024
"""Directories; the name of each has at most PATH_MAX bytes."""

MAX_DEPTH = 64
"""Directories below the root that a walk without a layout descends: deeper ones are nobody's sessions."""


def _pass_over(_directory: str) -> None:
    pass


def _resolved_parent(path: str) -> str:
    """The path with the links of its directory resolved, but not those of the file itself."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def enter_one(part: str, at: int, mode: int) -> int:
    """A descriptor of one directory in another, not following a link; the caller closes it.

    Args:
        part: its name.
        at: descriptor of the directory that holds it.
        mode: O_RDONLY, or O_PATH for one that is only passed through.

    Raises:
        Gone, UnsafeError, OSError: as :meth:`Tree.enter`.
    """
    if part in {"", ".", ".."}:
        raise UnsafeError(f"{part!r} is no directory's name")
    try:
        return os.open(part, mode | _ENTER, dir_fd=at)
    except FileNotFoundError as error:
        raise Gone(f"the directory {printable(part)} is not there") from error
    except PermissionError as error:
        raise UnsafeError(f"the directory {printable(part)} may not be entered by us (uid {os.geteuid()})") from error
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
            raise
        raise UnsafeError(f"{printable(part)} on the way to it is {_kind_at(part, at)}, not a directory") from error


def stands_for_journal(name: str, at: int) -> bool:
    """Whether a directory of this name has a file beside it whose journal it would be, were it a file.

    Args:
        at: descriptor of the directory that holds both.
    """
    database = name.removesuffix(SUFFIX)
    return database not in {name, ""} and os.access(database, os.F_OK, dir_fd=at, follow_symlinks=False)


def _kind_at(name: str, at: int) -> str:
    try:
        return kind_of(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except OSError:
        return "something that cannot be looked at"


@contextmanager
def _descriptor(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
