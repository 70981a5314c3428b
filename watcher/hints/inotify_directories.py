"""Setting the watches: which directories are still to be looked at, and the look.

Whatever an event says is but a reason to go and see. A directory is walked to from the root without following a link,
gets its watch, and is listed after that: a journal that was made before the watch is found by the listing, and one that
is closed after it by its event. To do so twice does no harm, and where a listing has run ahead of the events that are
still in the queue they lead to the same end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from heapq import heappop, heappush
from itertools import count
from time import monotonic

from watcher.hints.inotify_events import DirectoryEvent, In, Inotify, Journal
from watcher.hints.inotify_map import Directory, Listing, WatchMap
from watcher.hints.inotify_missing import Missing, trouble_of
from watcher.hints.inotify_names import JournalNames
from watcher.hints.trouble import Sink, Trouble
from watcher.tree import SUFFIX, Gone, Place, RootMissingError, Tree, UnsafeError

__all__ = ["Directories"]

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_ABOUT_ITSELF = In.IGNORED | In.DELETE_SELF | In.MOVE_SELF | In.UNMOUNT
_MOST_NEWS = 64
"""Names that are remembered for one directory: beyond them it is listed as a whole."""
_ENTRIES_IN_A_STEP = 256
_WORKS_FOR_S = 0.02
_STEPS_IN_A_TURN = 16
_MOST_PAUSED = 8
"""Each holds two descriptors."""

Steps = Generator[None, None, None]


class Directories:
    """The watched directories of a tree. Used by the observer's thread; `watched`, `missed` and `ready` by any.

    Attributes:
        ready: the first setting of the watches is through.
    """

    def __init__(self, tree: Tree, inotify: Inotify, sink: Sink) -> None:
        self.ready = False
        self._tree = tree
        self._inotify = inotify
        self._sink = sink
        self._map = WatchMap(tree, inotify)
        self._names = JournalNames(tree)
        self._missing = Missing()
        # Shallow ones first: who floods a session with directories does not keep other sessions waiting.
        self._due: list[tuple[int, int, Directory]] = []
        self._order = count()
        self._unlisted: dict[Directory, None] = {}
        self._used_up: Trouble | None = None
        self._steps: Steps | None = None
        self._list(self._map.root, Listing.NEW)

    @property
    def watched(self) -> int:
        """How many are watched now."""
        return len(self._map)

    @property
    def missed(self) -> int:
        """How many should be and are not; what lies below them is not counted."""
        return self._missing.total

    @property
    def busy(self) -> bool:
        """Whether there is work to do."""
        return self._steps is not None or bool(self._due)

    @property
    def retry_at(self) -> float | None:
        """When `retry` is due, by the monotonic clock; None where nothing is missing."""
        return self._missing.retry_at

    def place(self, journal: Journal) -> Place | None:
        """The place whose journal an event names, where its directory is now; None where it is none of ours."""
        wd, padded_name = journal
        directory = self._map.get(wd)
        if directory is None or not directory.holds:
            return None
        database = self._names.database_of_event(padded_name)
        return Place(directory.path, database) if database else None

    def note(self, event: DirectoryEvent) -> None:
        """What an event means for the directories.

        Raises:
            RootMissingError: it was the root that went.
        """
        directory = self._map.get(event.wd)
        if directory is None:
            return
        if event.mask & _ABOUT_ITSELF:
            if directory is self._map.root:
                raise self._root_went()
            if event.mask & In.UNMOUNT and directory.parent is not None:
                self._news(directory.parent, directory.name)  # what was hidden below the mount
            if event.mask & In.IGNORED:
                self._drop(directory)
        elif event.mask & In.ISDIR and directory.children is not None:
            name = os.fsdecode(event.name)
            if event.mask & (In.CREATE | In.MOVED_TO):
                if self._tree.admits_directory(directory.depth, name):
                    self._news(directory, name)
            elif name in directory.children:
                # Moved within the tree it comes back as news, and is listed: what happens in between is found then.
                self._drop(directory.children[name])

    def verify(self) -> None:
        """Events were lost: look at everything again."""
        self._list(self._map.root, Listing.ALL)

    def retry(self) -> None:
        """Try again what is missing."""
        for directory in self._missing.take():
            self._list(directory, Listing.NEW)

    def mute(self, wd: int) -> bool:
        """Ask no longer about deletions in a directory; whether that is so now.

        Raises:
            RootMissingError: the root is not there any more.
        """
        directory = self._map.get(wd)
        if directory is None or directory.muted_mask is None:
            return False
        descriptor = self._reach(directory)
        if descriptor is None:
            return False
        try:
            muted = self._inotify.watch(descriptor, directory.muted_mask) == wd
        except OSError:
            muted = False  # settling it meets the same, and tells
        finally:
            os.close(descriptor)
        if not muted:  # another has its name by now
            self._list(directory, Listing.NEW)
        return muted

    def unmute(self, wd: int) -> None:
        """Ask about everything again, and look what lies there."""
        directory = self._map.get(wd)
        if directory is not None:
            self._list(directory, Listing.NEW)

    def work(self, steps: int, now: float) -> None:
        """Do some of it: so many steps, as far as there is time for them before the next events are read. A step is
        one directory, or some hundred files.

        Raises:
            RootMissingError: the root is not there any more.
        """
        self._steps = self._steps or self._all_steps()
        until = monotonic() + _WORKS_FOR_S
        for _ in range(steps):
            if monotonic() > until:
                return
            if next(self._steps, self) is self:
                self._steps = None
                self._used_up = None
                for trouble in self._missing.conclude(now):
                    self._sink.sweep(trouble)
                return

    def close(self) -> None:
        """Give back what unfinished work holds open."""
        if self._steps is not None:
            self._steps.close()

    # --- what is to be done ---

    def _news(self, parent: Directory, name: str) -> None:
        parent.news = parent.news or set()
        if len(parent.news) < _MOST_NEWS:
            parent.news.add(name)
            self._queue(parent)
        else:
            self._list(parent, Listing.ALL)

    def _list(self, directory: Directory, listing: Listing) -> None:
        directory.listing = max(directory.listing, listing)
        self._queue(directory)

    def _queue(self, directory: Directory) -> None:
        if not directory.queued:
            directory.queued = True
            heappush(self._due, (directory.depth, next(self._order), directory))

    def _drop(self, directory: Directory) -> None:
        self._missing.forgive(self._map.drop(directory))

    def _miss(self, listed: Directory, trouble: Trouble) -> None:
        if trouble.is_shortage:
            self._used_up = trouble
        self._missing.add(listed, trouble)

    def _root_went(self) -> RootMissingError:
        return RootMissingError(errno.ENOENT, "deleted, moved or unmounted", os.fspath(self._tree.root))

    # --- doing it ---

    def _all_steps(self) -> Steps:
        paused: dict[Directory, Steps] = {}
        again: set[Directory] = set()  # they are due while they are still at it
        try:
            while self._due or paused or self._unlisted:
                if self._due:
                    directory = heappop(self._due)[2]
                    if directory in paused:
                        again.add(directory)
                    else:
                        directory.queued = False
                        steps = self._settle(directory)
                        if not (
                            yield from self._some(steps, None if len(paused) >= _MOST_PAUSED else _STEPS_IN_A_TURN)
                        ):
                            paused[directory] = steps
                elif not paused:
                    # The first watches are set before any session is listed: that long the rest would be deaf.
                    self.ready = True
                    yield from self._list_leaves(next(iter(self._unlisted)))
                if paused:
                    # A directory full of directories lets the others go between its turns.
                    directory = next(iter(paused))
                    steps = paused.pop(directory)
                    if not (yield from self._some(steps, _STEPS_IN_A_TURN)):
                        paused[directory] = steps
                    elif directory in again:
                        again.discard(directory)
                        directory.queued = False
                        self._queue(directory)
            self.ready = True
        finally:
            for steps in paused.values():
                steps.close()

    def _some(self, steps: Steps, most: int | None) -> Generator[None, None, bool]:
        """Some of these steps; True where they have come to their end."""
        done = 0
        while most is None or done < most:
            if next(steps, self) is self:
                return True
            done += 1
            yield
        return False

    def _settle(self, directory: Directory) -> Steps:
        listing, news = directory.listing, directory.news or ()
        directory.listing, directory.news = Listing.NONE, None
        if listing:
            self._missing.forgive([directory])
        descriptor = self._reach(directory)
        if descriptor is None:
            return
        try:
            here = self._watch(directory.parent, directory.name, descriptor)
            if here is None:
                return
            if here is not directory:  # another has its name by now
                listing = Listing.NEW
            if listing:
                yield from self._list_all(here, descriptor, listing)
            for name in news:
                if listing is Listing.ALL or not here.is_watched:
                    break
                yield from self._settle_child(here, descriptor, name, Listing.NONE)
                yield
        finally:
            os.close(descriptor)

    def _reach(self, directory: Directory) -> int | None:
        """A descriptor of a directory where it was last; None where it is not there, or cannot be entered."""
        if directory.parent is not None and not directory.is_watched:
            return None  # dropped while it waited
        try:
            return self._tree.enter(directory.path)
        except Gone:
            return None  # the event that tells so is on its way
        except UnsafeError:
            trouble = Trouble.UNREADABLE
        except OSError as error:
            trouble = trouble_of(error)
            if isinstance(error, RootMissingError) and not trouble.is_shortage:
                raise
        directory.listing = Listing.ALL  # when it is tried again
        self._miss(directory, trouble)
        return None

    def _watch(self, parent: Directory | None, name: str, descriptor: int) -> Directory | None:
        """The directory behind a descriptor, watched and known by this name; None where it cannot be watched."""
        known = self._map.root if parent is None else (parent.children or {}).get(name)
        wanted = known or self._map.candidate(parent, name)
        try:
            wd = self._inotify.watch(descriptor, wanted.mask)
        except OSError as error:
            self._miss(parent or self._map.root, trouble_of(error))
            return None
        if known is not None and known.is_watched:
            if known.wd == wd:
                return known
            if parent is None:
                raise self._root_went()
            wanted = self._map.candidate(parent, name)  # another inode, and perhaps what was known moved elsewhere
        self._missing.forgive(self._map.attach(wanted, wd))
        return wanted

    def _list_all(self, here: Directory, descriptor: int, listing: Listing) -> Steps:
        seen: set[str] = set()
        try:
            with os.scandir(descriptor) as entries:
                for number, entry in enumerate(entries, 1):
                    if not entry.is_dir(follow_symlinks=False):
                        self._hint_file(here, entry.name)
                    elif here.children is not None and self._tree.admits_directory(here.depth, entry.name):
                        seen.add(entry.name)
                        if listing is Listing.ALL or entry.name not in here.children:
                            yield from self._settle_child(here, descriptor, entry.name, listing)
                            yield
                    if not number % _ENTRIES_IN_A_STEP:
                        yield
                    if not here.is_watched:  # dropped while others had their turn
                        return
        except OSError as error:
            here.listing = listing  # when it is tried again
            self._miss(here, trouble_of(error))
            return
        if listing is Listing.ALL and here.children:
            for name in here.children.keys() - seen:
                self._drop(here.children[name])

    def _settle_child(self, parent: Directory, at: int, name: str, listing: Listing) -> Steps:
        known = (parent.children or {}).get(name)
        if self._used_up is not None and known is None:
            self._miss(parent, self._used_up)
            return
        try:
            descriptor = os.open(name, _ENTER, dir_fd=at)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                self._miss(parent, trouble_of(error))
            elif known is not None:
                self._drop(known)
            return
        try:
            child = self._watch(parent, name, descriptor)
            if child is None:
                return
            if child.children is not None:
                self._list(child, Listing.ALL if listing is Listing.ALL and child is known else Listing.NEW)
            elif not self.ready:
                self._unlisted[parent] = None
            elif child is not known or listing is Listing.NONE:
                yield from self._list_files(child, descriptor)
        finally:
            os.close(descriptor)

    def _list_leaves(self, parent: Directory) -> Steps:
        del self._unlisted[parent]
        descriptor = self._reach(parent)
        if descriptor is None:
            return
        try:
            for child in list((parent.children or {}).values()):
                if child.children is not None or not child.is_watched:
                    continue
                try:
                    below = os.open(child.name, _ENTER, dir_fd=descriptor)
                except OSError as error:
                    if error.errno not in _NO_DIRECTORY:
                        self._miss(parent, trouble_of(error))
                    continue
                try:
                    yield from self._list_files(child, below)
                finally:
                    os.close(below)
                yield
        finally:
            os.close(descriptor)

    def _list_files(self, directory: Directory, descriptor: int) -> Steps:
        try:
            with os.scandir(descriptor) as entries:
                for number, entry in enumerate(entries, 1):
                    if entry.name.endswith(SUFFIX) and not entry.is_dir(follow_symlinks=False):
                        self._hint_file(directory, entry.name)
                    if not number % _ENTRIES_IN_A_STEP:
                        yield
        except OSError as error:
            self._miss(directory.parent or directory, trouble_of(error))

    def _hint_file(self, directory: Directory, file_name: str) -> None:
        database = self._names.database_of(file_name) if directory.holds else ""
        if database:
            self._sink.hint(Place(directory.path, database))
