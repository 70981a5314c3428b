"""Which snapshots there are, and in which order they go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["CORRUPT", "Index", "Kept", "Shelf"]

CORRUPT = ".corrupt"
"""The end of the name of a snapshot whose database came out corrupt."""


@dataclass(slots=True, eq=False)
class Kept:
    """A snapshot on the disk.

    Attributes:
        size_bytes: what it takes there.
        database, session: the directories that it lies in.
        is_being_made: by some thread at this moment: it counts, and nobody takes it away.
    """

    path: str
    size_bytes: int
    is_being_made: bool = False
    database: str = field(init=False)
    session: str = field(init=False)

    def __post_init__(self) -> None:
        self.database = os.path.dirname(self.path)
        self.session = os.path.dirname(self.database)

    @property
    def is_of_corrupt(self) -> bool:
        return self.path.endswith(CORRUPT)


class Shelf:
    """Snapshots in the order in which they were made. Nothing here costs more for there being many."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._kept: dict[Kept, None] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, kept: Kept) -> None:
        self._kept[kept] = None
        self.size_bytes += kept.size_bytes

    def remove(self, kept: Kept) -> None:
        del self._kept[kept]
        self.size_bytes -= kept.size_bytes

    def in_order_of_worth(self) -> Iterator[Kept]:
        """In which order they go: the oldest first, those of corrupt databases last; none that is being made."""
        for of_corrupt in (False, True):
            for each in self._kept:
                if each.is_of_corrupt is of_corrupt and not each.is_being_made:
                    yield each


class Index:
    """All snapshots: together, by session and by database."""

    def __init__(self) -> None:
        self.all = Shelf()
        self.by_path: dict[str, Kept] = {}
        self._sessions: dict[str, Shelf] = {}
        self._databases: dict[str, Shelf] = {}

    def of_session(self, session: str) -> Shelf:
        return self._sessions.get(session) or Shelf()

    def of_database(self, database: str) -> Shelf:
        return self._databases.get(database) or Shelf()

    def add(self, kept: Kept) -> None:
        self.by_path[kept.path] = kept
        self.all.add(kept)
        self._sessions.setdefault(kept.session, Shelf()).add(kept)
        self._databases.setdefault(kept.database, Shelf()).add(kept)

    def remove(self, kept: Kept) -> None:
        del self.by_path[kept.path]
        self.all.remove(kept)
        for shelves, name in ((self._sessions, kept.session), (self._databases, kept.database)):
            shelves[name].remove(kept)
            if not shelves[name]:
                del shelves[name]

    def rename(self, kept: Kept, path: str) -> None:
        del self.by_path[kept.path]
        kept.path = path
        self.by_path[path] = kept
