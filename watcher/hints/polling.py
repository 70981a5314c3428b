"""An emitter that looks instead of being told: for file systems whose writers are elsewhere, and where one wants it so.

watchdog's own polling keeps a stat of every file in the tree, and follows symbolic links out of it (its snapshots use
`os.stat`). This one walks as `Tree` walks, by descriptors and only as deep as the layout goes, and keeps the journals.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from watchdog.observers.api import EventQueue, ObservedWatch

from watcher.hints.emitter import HintEmitter
from watcher.hints.trouble import Sink, Trouble
from watcher.tree import Gone, Place, RootMissingError, Tree, UnsafeError

__all__ = ["PollingEmitter"]


class _Seen(NamedTuple):
    inode: int
    size_bytes: int
    mtime_ns: int


class PollingEmitter(HintEmitter):
    """Every `timeout` seconds, a hint for each journal that is new or has changed since the last look.

    `directories` are those of the last round, and none is ever missed: each round tries again what cannot be entered.
    """

    def __init__(
        self, event_queue: EventQueue, watch: ObservedWatch, *, tree: Tree, sink: Sink, **options: Any
    ) -> None:
        super().__init__(event_queue, watch, tree=tree, sink=sink, **options)
        self.name = "watch-polling"
        self._seen: dict[Place, _Seen] = {}
        self._failing = False

    def queue_events(self, timeout: float) -> None:
        """One round, and the pause after it."""
        try:
            self._look_around()
        except RootMissingError:
            raise
        except OSError:  # a share that does not answer, descriptors used up: the next round tries again
            if not self._failing:
                self._failing = True
                self._sink.sweep(Trouble.UNREADABLE)
        else:
            self._failing = False
            self.ready = True
        self.stopped_event.wait(timeout)

    def _look_around(self) -> None:
        seen: dict[Place, _Seen] = {}
        directories = 0
        for directory, files in self._tree.walk():
            directories += 1
            if not self.should_keep_running():
                return
            for file_name in files:
                place = self._tree.place_of_journal(directory, file_name)
                now = self._look(place) if place is not None else None
                if place is None or now is None:
                    continue
                seen[place] = now
                if self._seen.get(place) != now:
                    self._sink.hint(place)
        self._seen = seen
        self.directories = directories

    def _look(self, place: Place) -> _Seen | None:
        try:
            directory = self._tree.enter(place.directory)
        except (Gone, UnsafeError):
            return None
        try:
            status = os.stat(place.journal_name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(directory)
        return _Seen(status.st_ino, status.st_size, status.st_mtime_ns)
