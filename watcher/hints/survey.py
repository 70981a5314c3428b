"""The journals of a tree, found without looking at what cannot have changed.

Making, renaming or deleting a file changes the mtime of its directory (inode(7)). So a directory whose mtime is the
one that was seen before it was last listed holds the names that it held then, and one `lstat` of it is all that a sweep
costs there. That is trusted only on a local file system, and only where the listing came well after the mtime: a change
within the same tick of the clock leaves no trace in it. Where a layout and plain names say which journals there can be,
a session's directory is not looked at at all: each journal is asked for by its name.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from watcher.agenda import MOST_PER_DIRECTORY
from watcher.filesystem import file_system_of
from watcher.look import FileIdentity
from watcher.tree import MAX_DEPTH, SUFFIX, Gone, Place, Tree, UnsafeError, enter_one, stands_for_journal

__all__ = ["Survey", "UnreadError"]

_TICK_NS = 3_000_000_000
"""Longer than the clock of any file system's times (FAT: 2 s)."""
_NEVER = -1
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_MOST_COLD = 200_000
_MOST_SHARED, _MOST_KNOWN = 4, 256


class UnreadError(OSError):
    """A directory that is there and could not be read; its path is the `filename`."""


class _Node:
    """A directory as it was last listed.

    Attributes:
        asked: where its directories are sessions whose journals are asked for by name: the paths from here to them, for
            each name in turn, as the kernel takes them. They have no nodes.
    """

    __slots__ = ("asked", "children", "inode", "journals", "mtime_ns")

    def __init__(self) -> None:
        self.inode = 0
        self.mtime_ns = _NEVER  # of before the listing; _NEVER: it is to be listed again
        self.children: dict[str, _Node] | None = None
        self.journals: tuple[str, ...] = ()
        self.asked: tuple[tuple[bytes, ...], ...] = ()


class Survey:
    """Walks one tree again and again. :meth:`journals` is for one thread, :meth:`note_cold` for any."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._top = _Node()
        self._device = -1
        self._is_local = False
        self._unread: UnreadError | None = None  # the first of this walk
        self._names = tuple(f"{name}{SUFFIX}" for name in tree.literal_names())
        self._asked_at = tree.layout.depth - 1 if tree.layout is not None and self._names else -1
        self._known_journals: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._cold: dict[Place, tuple[int, int, int]] = {}  # guarded by _lock

    def note_cold(self, place: Place, journal: FileIdentity) -> None:
        """The journal of this place was looked at, and there is nothing in it to roll back. It is passed over for as
        long as it is the same file and was not written (PERSIST and TRUNCATE mode leave it there for good)."""
        if time.time_ns() - journal.mtime_ns < _TICK_NS:
            return
        with self._lock:
            if len(self._cold) >= _MOST_COLD:
                self._cold.clear()
            self._cold[place] = (journal.inode, journal.size_bytes, journal.mtime_ns)

    def sessions(self) -> Iterator[str]:
        """The directories in which databases may lie, by their paths below the root, as the last sweep has left them:
        those of the layout, or without one those that have none below them. It looks at nothing, and is for any thread:
        what a listing has found is replaced as a whole, never changed."""
        layout = self._tree.layout
        yield from _leaves(self._top, "", -1 if layout is None else layout.depth)

    def journals(self) -> Iterator[Place]:
        """Every journal of the tree, those left out that are known to be cold.

        What vanishes or may not be entered during the walk is passed over: it is met again at the next. So is a
        directory that the file system cannot read, which is told at the end.

        Raises:
            RootMissingError: the root is not there.
            UnreadError: after all the others, of the first directory that could not be read.
            OSError: we have run out of descriptors, or the file system fails.
        """
        self._unread = None
        root = self._tree.open_root()
        try:
            status = os.fstat(root)
            if (status.st_dev, status.st_ino) != (self._device, self._top.inode):
                self._top = _Node()
                self._device = status.st_dev
            self._is_local = file_system_of(root).is_local
            if not self._is_unchanged(self._top, status):
                self._list(self._top, root, status, "", 0)
            yield from self._below(self._top, root, "", 0)
        finally:
            os.close(root)
        if self._unread is not None:
            raise self._unread

    def _below(self, node: _Node, descriptor: int, directory: str, depth: int) -> Iterator[Place]:
        """The journals of a directory that was just listed or is unchanged, and of those below it."""
        yield from self._warm(node.journals, descriptor, directory, "")
        if depth == self._asked_at:
            yield from self._by_name(node, descriptor, directory)
            return
        for name, child in list((node.children or {}).items()):
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError as error:
                self._pass_over(child, _joined(directory, name), error)
                continue
            unchanged = self._is_unchanged(child, status)
            if unchanged and not child.children and not child.asked:
                if child.journals:
                    yield from self._warm(child.journals, descriptor, _joined(directory, name), f"{name}/")
                continue
            below = _joined(directory, name)
            try:
                yield from self._enter(child, name, descriptor, below, depth + 1, unchanged)
            except (Gone, UnsafeError):
                pass
            except OSError as error:
                if error.errno in _USED_UP:
                    raise
                self._pass_over(child, below, error)

    def _pass_over(self, child: _Node, directory: str, error: OSError) -> None:
        child.mtime_ns = _NEVER
        if self._unread is None and not isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            self._unread = UnreadError(error.errno, error.strerror, os.path.join(self._tree.root, directory))

    def _by_name(self, node: _Node, descriptor: int, directory: str) -> Iterator[Place]:
        """The journals of sessions: a call of faccessat2(2) each, which costs half of an lstat, and a little less where
        it is asked for our effective rights: for the real ones the kernel makes credentials of their own.

        A loop of the same calls in C takes five sixths of the time (30,000 sessions on ext4: 26 ms of 31, find 200):
        two names of each are looked up in a cache that is larger than the processor's. The rest is Python's, of which
        map, partial, names as str and calls without these flags save next to nothing."""
        access, exists = os.access, os.F_OK  # this loop is what a sweep of a large tree costs
        for journal, paths in zip(self._names, node.asked, strict=False):
            for path in paths:
                if access(path, exists, dir_fd=descriptor, follow_symlinks=False, effective_ids=True):
                    name = _session_in(path)
                    yield from self._warm((journal,), descriptor, _joined(directory, name), f"{name}/")

    def _enter(self, node: _Node, name: str, at: int, directory: str, depth: int, unchanged: bool) -> Iterator[Place]:
        descriptor = enter_one(name, at, os.O_RDONLY)
        try:
            if not unchanged:
                self._list(node, descriptor, os.fstat(descriptor), directory, depth)
            yield from self._below(node, descriptor, directory, depth)
        finally:
            os.close(descriptor)

    def _is_unchanged(self, node: _Node, status: os.stat_result) -> bool:
        return node.mtime_ns == status.st_mtime_ns and node.inode == status.st_ino and self._is_local

    def _list(self, node: _Node, descriptor: int, before: os.stat_result, directory: str, depth: int) -> None:
        """List a directory anew; `before` is its status from before."""
        journals: list[str] = []
        children: dict[str, _Node] = {}
        sessions: list[str] = []
        known = node.children or {}
        began_ns = time.time_ns()
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name, is_directory = entry.name, entry.is_dir(follow_symlinks=False)
                if (
                    name.endswith(SUFFIX)  # most names by far do not, and a call costs as much as the rest of this
                    and self._tree.place_of_journal(directory, name) is not None  # whatever it is: a look will tell
                    and (not is_directory or stands_for_journal(name, descriptor))
                ):
                    journals.append(name)
                if is_directory and depth < MAX_DEPTH and self._tree.admits_directory(depth, name):
                    if depth == self._asked_at:
                        sessions.append(name)
                    else:
                        children[name] = known.get(name) or _Node()
        node.inode = before.st_ino
        node.mtime_ns = before.st_mtime_ns if began_ns - before.st_mtime_ns > _TICK_NS else _NEVER
        node.journals = self._shared(tuple(journals))
        node.children = children or None
        node.asked = ()
        if sessions:
            node.asked = tuple(tuple(os.fsencode(f"{name}/{journal}") for name in sessions) for journal in self._names)

    def _shared(self, journals: tuple[str, ...]) -> tuple[str, ...]:
        """One for all directories that hold journals of the same names, as most do; where it is a long one, its own."""
        if len(journals) > _MOST_SHARED:
            return journals
        if len(self._known_journals) >= _MOST_KNOWN:
            self._known_journals.clear()
        return self._known_journals.setdefault(journals, journals)

    def _warm(self, journals: tuple[str, ...], at: int, directory: str, prefix: str) -> Iterator[Place]:
        """The places of journals of a directory, without those that are known to be cold.

        Args:
            at: a descriptor, of this directory or of the one above it.
            prefix: from there to the journals.
        """
        if len(journals) > MOST_PER_DIRECTORY:
            # Not all of them will be looked at: then not always the same ones.
            journals = tuple(random.sample(journals, len(journals)))  # order only
        for name in journals:
            place = self._tree.place_of_journal(directory, name)
            if place is not None and not self._is_cold(place, prefix + name, at):
                yield place

    def _is_cold(self, place: Place, path: str, at: int) -> bool:
        with self._lock:
            cold = self._cold.get(place)
        if cold is None:
            return False
        with suppress(OSError):
            status = os.stat(path, dir_fd=at, follow_symlinks=False)
            if self._is_local and cold == (status.st_ino, status.st_size, status.st_mtime_ns):
                return True
        with self._lock:
            self._cold.pop(place, None)
        return False


def _leaves(node: _Node, directory: str, depth: int) -> Iterator[str]:
    """Args:
    depth: how many directories further down a session is; negative: nobody knows.
    """
    children = node.children
    if depth == 0 or (depth < 0 and not children):
        yield directory
        return
    if depth == 1:  # most of them by far
        names = map(_session_in, node.asked[0]) if node.asked else children or ()
        yield from (_joined(directory, name) for name in names)
        return
    for name, child in (children or {}).items():
        yield from _leaves(child, _joined(directory, name), depth - 1)


def _session_in(path: bytes) -> str:
    """The first part of a path that `asked` holds."""
    return os.fsdecode(path.partition(b"/")[0])


def _joined(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
