"""The watched directories, by their watch and as a tree of names.

A watch follows the inode, so a directory is known by its watch; its path is put together when a hint needs one. All of
it is touched by the observer's thread alone.
"""

from __future__ import annotations

from enum import IntEnum

from watcher.hints.inotify_events import In, Inotify
from watcher.tree import MAX_DEPTH, Tree

__all__ = ["Directory", "Listing", "WatchMap"]

# Plain numbers: an IntFlag's operators would cost as much as the system call.
_ALWAYS = int(In.ONLYDIR | In.EXCL_UNLINK)
_OF_FILES = int(In.CLOSE_WRITE | In.MOVED_TO | In.MOVED_FROM | In.DELETE)
_OF_DIRECTORIES = int(In.CREATE | In.MOVED_TO | In.MOVED_FROM | In.DELETE)
_DELETION = int(In.DELETE)
_OF_THE_ROOT = int(In.DELETE_SELF | In.MOVE_SELF)
_NO_WATCH = -1


class Listing(IntEnum):
    """What a directory is to be listed for.

    Attributes:
        NONE: not at all; only its news are to be looked at.
        NEW: for what is not known yet.
        ALL: for everything: what is known may have changed unseen.
    """

    NONE = 0
    NEW = 1
    ALL = 2


class Directory:
    """A directory that is watched, or about to be.

    Attributes:
        holds: databases may lie in it.
        children: those of its directories that are watched, by name; None where none of them is of the tree.
        wd: its watch.
        queued, listing, news: whether something is to be done about it, and what: the names in it to look at.
    """

    __slots__ = ("children", "depth", "holds", "listing", "name", "news", "parent", "queued", "wd")

    def __init__(self, parent: Directory | None, name: str, *, holds: bool, descends: bool) -> None:
        self.parent = parent
        self.name = name
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.holds = holds
        self.children: dict[str, Directory] | None = _NO_CHILDREN if descends else None
        self.wd = _NO_WATCH
        self.queued = False
        self.listing = Listing.NONE
        self.news: set[str] | None = None

    @property
    def path(self) -> str:
        """Where it is now, below the root."""
        path, here = self.name, self.parent
        while here is not None and here.parent is not None:
            path = f"{here.name}/{path}"
            here = here.parent
        return path

    @property
    def is_watched(self) -> bool:
        return self.wd != _NO_WATCH

    @property
    def mask(self) -> int:
        """Only what can happen there: a directory without databases is not asked about files closed in it, and one
        without directories of the tree not about files made in it."""
        wanted = _ALWAYS
        if self.holds:
            wanted |= _OF_FILES
        if self.children is not None:
            wanted |= _OF_DIRECTORIES
        if self.parent is None:
            wanted |= _OF_THE_ROOT
        return wanted

    @property
    def muted_mask(self) -> int | None:
        """The same without deletions; None where no databases are. That a directory in it has gone is told by its own
        watch, too (IN_IGNORED)."""
        return self.mask & ~_DELETION if self.holds else None


_NO_CHILDREN: dict[str, Directory] = {}
"""Of all that have none, without a layout most of them; never changed. One of its own would double what each takes."""


class WatchMap:
    """What is watched now."""

    def __init__(self, tree: Tree, inotify: Inotify) -> None:
        self._inotify = inotify
        self._by_wd: dict[int, Directory] = {}
        layout = tree.layout
        self._depth = MAX_DEPTH if layout is None else layout.depth
        self._holds_at = None if layout is None else layout.depth
        self.root = Directory(None, "", holds=tree.holds_databases(()), descends=self._depth > 0)

    def __len__(self) -> int:
        return len(self._by_wd)

    def get(self, wd: int) -> Directory | None:
        return self._by_wd.get(wd)

    def candidate(self, parent: Directory | None, name: str) -> Directory:
        """A directory of a name that the tree admits there, as it would be watched; the root where it has no parent."""
        if parent is None:
            return self.root
        depth = parent.depth + 1
        holds = self._holds_at is None or self._holds_at == depth  # each name above it was admitted: so the layout fits
        return Directory(parent, name, holds=holds, descends=depth < self._depth)

    def attach(self, directory: Directory, wd: int) -> list[Directory]:
        """Enter a directory that has got this watch.

        The inode may have been known elsewhere: then it was moved here, and the events that tell so are still in the
        queue. Another may have been known by this name: it was moved or removed.

        Returns:
            What had to be dropped for it.
        """
        dropped = []
        moved = self._by_wd.get(wd)
        if moved is not None:  # first: it may lie below the one that is dropped next, and must keep its watch
            self._by_wd.pop(moved.wd)
            moved.wd = _NO_WATCH
            dropped = self.drop(moved)
        if directory.parent is not None:
            if not directory.parent.is_watched:  # the map was so far behind that the parent was known below it
                self._inotify.forget(wd)
                return dropped
            if not directory.parent.children:
                assert directory.parent.children is not None
                directory.parent.children = {}
            replaced = directory.parent.children.get(directory.name)
            if replaced is not None:
                dropped += self.drop(replaced)
            directory.parent.children[directory.name] = directory
        directory.wd = wd
        self._by_wd[wd] = directory
        return dropped

    def drop(self, directory: Directory) -> list[Directory]:
        """Forget a directory and what lies below it, with their watches."""
        siblings = directory.parent.children if directory.parent is not None else None
        if siblings is not None and siblings.get(directory.name) is directory:
            del siblings[directory.name]
        dropped = [directory]
        for each in dropped:  # grows while it is walked
            if each.is_watched:
                self._by_wd.pop(each.wd)
                self._inotify.forget(each.wd)
                each.wd = _NO_WATCH
            if each.children:
                dropped.extend(each.children.values())
                each.children = _NO_CHILDREN
        return dropped
