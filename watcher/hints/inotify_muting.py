"""Storms: directories that are not asked about deletions while their writers commit without a pause.

Half of what a storm says is that journals are gone. Where a journal is closed again and again, its next close says as
much. So there the kernel is not asked about deletions, until a journal has been still for some reads, or its database
was closed, or the storm is over. Then it is asked again, and only after that the directory is listed: a journal that
lies there is the one that a death has left, or its end will be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from watcher.hints.inotify_events import MUTED, RIPE, Closed, Journal

__all__ = ["Muting"]

_LOUD_BYTES = 10 * 1024
"""A read that brings so much, some 8,000 commits a second: muted it is a storm still."""
_READS, _LOUD_IN = 8, 2
"""Of so many such reads, a tenth of a second, a directory was heard in so many: from some twenty commits a second on.
More writers than processors have their turns one after the other."""
_MOST_AT_ONCE = 64
"""Directories muted after one read. Each of them is walked to: some ten microseconds."""
_STILL_FOR = 32
"""Reads, some tenths of a second. Of a death the close of the database tells long before."""
_CALM_FOR = 4
"""Reads that were none of a storm: one may be so because all writers waited for the disk."""
_SPARED_FOR = 1024
"""Reads, ten seconds or more, for which a directory is not muted anew: whose writers paused will pause again."""
_MOST_HEARD, _MOST_SPARED = 2048, 4096


class Watches(Protocol):
    """What asks the kernel, see `Directories`."""

    def mute(self, wd: int) -> bool: ...

    def unmute(self, wd: int) -> None: ...


class Muting:
    """Which directories are muted. Used by the observer's thread.

    Attributes:
        gone: for `sift` to tell which journals are gone.
    """

    def __init__(self, watches: Watches, closed: Closed) -> None:
        self.gone: set[Journal] = set()
        self._watches = watches
        self._closed = closed
        self._muted: set[int] = set()
        self._heard: dict[Journal, int] = {}  # in which turn a journal in one of them was closed last
        self._calm = 0
        self._reads = 0
        self._loud: Counter[int] = Counter()
        self._spared: dict[int, int] = {}  # until which turn

    def __bool__(self) -> bool:
        return bool(self._muted)

    def see(self, turn: int, size_bytes: int, *, storms: bool) -> None:
        """What has been read in this turn, and sifted.

        Raises:
            RootMissingError: the root is not there any more.
        """
        if self._muted:
            self._calm = 0 if storms else self._calm + 1
            self._hear(turn)
        if size_bytes >= _LOUD_BYTES:
            self._loud.update({wd for wd, _ in self.gone})
            self._reads += 1
            if self._reads == _READS:
                self._mute_the_loud(turn)
        elif not storms:
            self._forget()
        self.gone.clear()

    def _hear(self, turn: int) -> None:
        muted, heard, closed = self._muted, self._heard, self._closed
        again = set()
        for journal, state in closed.items():
            if state != MUTED and journal[0] in muted:
                if state == RIPE:  # it is passed on as it is
                    again.add(journal[0])
                else:
                    heard[journal] = turn
                    closed[journal] = MUTED
        if self._calm >= _CALM_FOR or len(heard) > _MOST_HEARD:
            again = muted.copy()
        else:
            still = turn - _STILL_FOR
            again.update([journal[0] for journal, last in heard.items() if last <= still])
        if again:
            self._unmute(again, turn)

    def _mute_the_loud(self, turn: int) -> None:
        if not self._muted:  # else it is over at once where the last storm has ended in a calm
            self._calm = 0
        loud = [wd for wd, reads in self._loud.items() if reads >= _LOUD_IN and self._spared.get(wd, 0) <= turn]
        self._muted.update([wd for wd in loud[:_MOST_AT_ONCE] if self._watches.mute(wd)])
        self._forget()
        self._hear(turn)  # whose delete may not be told any more

    def _forget(self) -> None:
        self._reads = 0
        self._loud.clear()

    def _unmute(self, wds: Iterable[int], turn: int) -> None:
        for wd in wds:
            self._watches.unmute(wd)
        self._muted.difference_update(wds)
        for journal in [journal for journal in self._heard if journal[0] not in self._muted]:
            del self._heard[journal]
            if self._closed.get(journal) == MUTED:
                del self._closed[journal]
        if len(self._spared) > _MOST_SPARED:
            self._spared.clear()
        self._spared.update(dict.fromkeys(wds, turn + _SPARED_FOR))
