"""Directories that should be watched and are not: how many, what was said of them, and when they are tried again."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from watcher.hints.inotify_map import Directory
from watcher.hints.trouble import Trouble

__all__ = ["Missing", "trouble_of"]

_RETRY_FIRST_S, _RETRY_MAX_S = 2.0, 60.0
_SHORTAGES = {
    errno.ENOSPC: Trouble.WATCH_LIMIT,
    errno.ENOMEM: Trouble.MEMORY,
    errno.EMFILE: Trouble.DESCRIPTORS,
    errno.ENFILE: Trouble.DESCRIPTORS,
}


def trouble_of(error: OSError) -> Trouble:
    """Whether watches, descriptors or memory have run out, or the directory is the reason."""
    return _SHORTAGES.get(error.errno or 0, Trouble.UNREADABLE)


class Missing:
    """Counted by the directory that has to be listed to find them again. Touched by the observer's thread alone.

    Attributes:
        total: how many; what lies below them is not counted.
        retry_at: when to try again, by the monotonic clock; None where nothing is missing. No timer runs then.
    """

    def __init__(self) -> None:
        self.total = 0
        self.retry_at: float | None = None
        self._pause_s = _RETRY_FIRST_S
        kinds = (Trouble.WATCH_LIMIT, Trouble.DESCRIPTORS, Trouble.MEMORY, Trouble.UNREADABLE)
        self._counts: dict[Trouble, dict[Directory, int]] = {kind: {} for kind in kinds}
        self._told: set[Trouble] = set()

    def add(self, listed: Directory, trouble: Trouble) -> None:
        """One more that the listing of this directory would find."""
        counts = self._counts[trouble]
        counts[listed] = counts.get(listed, 0) + 1
        self.total += 1

    def forgive(self, directories: Iterable[Directory]) -> None:
        """These are listed anew, or are gone."""
        if self.total:
            for directory in directories:
                for counts in self._counts.values():
                    self.total -= counts.pop(directory, 0)

    def take(self) -> set[Directory]:
        """Those to be listed again, now."""
        self.retry_at = None
        return {directory for counts in self._counts.values() for directory in counts}

    def conclude(self, now: float) -> list[Trouble]:
        """All work is done for the moment: what has to be told, each trouble once until it has passed."""
        new = [trouble for trouble, counts in self._counts.items() if counts and trouble not in self._told]
        self._told = {trouble for trouble, counts in self._counts.items() if counts}
        if not self.total:
            self.retry_at, self._pause_s = None, _RETRY_FIRST_S
        elif self.retry_at is None:
            self.retry_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _RETRY_MAX_S)
        return new
