"""The root's coming and going: locked and watched while it is there, waited for while it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from watcher.advice import in_words
from watcher.installation import Installation
from watcher.names import printable
from watcher.records import log
from watcher.records.events import Event
from watcher.root_lock import RootLock, TreeTakenError
from watcher.tree import RootMissingError
from watcher.vitals import Vitals

__all__ = ["RootPresence"]

_AGAIN_S = 0.5
_AGAIN_MOST_S = 30.0
"""Where the watch fails again and again."""


class RootPresence:
    """Touched by the main thread alone.

    Args:
        vitals: is told whether the root is missing.
        warn: tells what may come again and again.
        changed: called when the root was lost.
    """

    def __init__(self, vitals: Vitals, warn: Callable[[Event, str], None], changed: Callable[[], None]) -> None:
        self._vitals = vitals
        self._warn = warn
        self._changed = changed
        self._lock: RootLock | None = None
        self._due = 0.0  # when to look for it again, by time.monotonic
        self._again_s = _AGAIN_S

    @property
    def due(self) -> float | None:
        """When to look for it again, by time.monotonic; None while it is there."""
        return self._due if self._vitals.root_missing else None

    def take(self, root: Path) -> None:
        """Lock it, where it is there.

        Raises:
            TreeTakenError: another watcher has it.
        """
        self._lock = RootLock.take(root)

    def is_replaced(self, root: Path) -> bool:
        """Whether its path leads elsewhere than to the directory that is locked."""
        return self._lock is not None and not self._lock.is_still(root)

    def begin_to_watch(self, installation: Installation) -> None:
        """Watch it; lost, where that cannot be."""
        try:
            installation.watch()
        except OSError as error:
            self.lose(installation, in_words(error))

    def lose(self, installation: Installation, why: str, *, watch_failed: bool = False) -> None:
        """It is gone, or cannot be watched: watch it no more, give its lock back, and wait for it.

        Args:
            watch_failed: it may be there, and the watch fails: it is tried again less and less often.
        """
        self._again_s = min(2 * self._again_s, _AGAIN_MOST_S) if watch_failed else _AGAIN_S
        installation.unwatch()
        self._release()
        if not self._vitals.root_missing:
            self._vitals.root_missing = True
            self._due = time.monotonic() + (self._again_s if watch_failed else 0.0)
            words = f"{why[:1].lower()}{why[1:]}"
            log.tell(Event.ROOT_MISSING, f"{printable(installation.settings.tree.root)}: {words}; waiting for it")
            self._changed()

    def look_for(self, installation: Installation) -> bool:
        """It may be back: lock it and watch it.

        Returns:
            Whether it is.
        """
        root = installation.settings.tree.root
        self._due = time.monotonic() + self._again_s
        try:
            self._lock = RootLock.take(root)
        except TreeTakenError as error:
            self._warn(Event.ROOT_MISSING, f"{error}; waiting until it is free")
        if self._lock is None:
            return False
        try:
            installation.watch()
        except OSError as error:
            installation.unwatch()
            self._release()
            if not isinstance(error, RootMissingError):
                message = f"{printable(root)} is there, but cannot be watched: {in_words(error)}; trying again"
                self._warn(Event.ROOT_MISSING, message)
            return False
        self._vitals.root_missing = False
        return True

    def lock_for(self, root: Path, before: Path) -> RootLock | None:
        """The lock of another root: the one that we have, where both mean the same directory. :meth:`give_up` or
        :meth:`change_to` it then.

        Raises:
            TreeTakenError: another watcher has it.
        """
        if root == before or (self._lock is not None and self._lock.is_still(root)):
            return self._lock
        return RootLock.take(root)

    def give_up(self, lock: RootLock | None) -> None:
        """It is not wanted after all."""
        if lock is not None and lock is not self._lock:
            lock.release()

    def change_to(self, lock: RootLock | None) -> None:
        """From now on it is the root."""
        if lock is not self._lock:
            self._release()
        self._lock, self._vitals.root_missing = lock, False

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
