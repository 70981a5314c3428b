"""What has become of journals lately, kept in memory for the page; what was before the start is in the history."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

from watcher.records.history import KEPT
from watcher.records.record import Outcome, Record

__all__ = ["MOST", "Recent"]

MOST = 300
"""So many are shown."""
_MOST_OBSTACLES = 2000


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    record: Record
    key: tuple[str, str, str]


class Recent:
    """The newest records, numbered; for any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: deque[_Entry] = deque()  # guarded by _guard, like the rest
        self._keys: set[tuple[str, str, str]] = set()
        self._obstacles: OrderedDict[str, str] = OrderedDict()
        self._number = 0

    def add(self, record: Record, change: str) -> None:
        """Take a record; never waits, and costs next to nothing. What is no history, or was told already, is no news.

        Args:
            change: for the same database and outcome it is the same for as long as nothing has changed.
        """
        key = (record.database, record.outcome.value, change)
        with self._guard:
            self._note_obstacle(record)
            if record.outcome not in KEPT or key in self._keys:
                return
            self._number += 1
            self._entries.append(_Entry(self._number, record, key))
            self._keys.add(key)
            if len(self._entries) > MOST:
                self._keys.discard(self._entries.popleft().key)

    def since(self, number: int) -> list[tuple[int, Record]]:
        """Those behind this number, the oldest first."""
        with self._guard:
            return [(each.number, each.record) for each in self._entries if each.number > number]

    def obstacle(self, database: str) -> str | None:
        """Why the last attempt at this database has not recovered it, where there was one."""
        with self._guard:
            return self._obstacles.get(database)

    def _note_obstacle(self, record: Record) -> None:
        self._obstacles.pop(record.database, None)
        if record.outcome in {Outcome.FAILED, Outcome.BUSY} and record.error is not None:
            self._obstacles[record.database] = record.error
            if len(self._obstacles) > _MOST_OBSTACLES:
                self._obstacles.popitem(last=False)
