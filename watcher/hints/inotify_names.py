"""Which database a journal's name stands for."""

from __future__ import annotations

import os

from watcher.tree import SUFFIX, Tree

__all__ = ["JournalNames"]

_MOST_NAMES = 256
"""Of journals, whose databases are remembered: there are few, however many sessions."""


class JournalNames:
    """The names of databases by those of their journals, as a tree admits them; empty where it is none of ours."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._databases: dict[bytes, str] = {}  # by the padded name

    def database_of_event(self, padded_name: bytes) -> str:
        """By the name of a journal as an event has it, with NULs behind."""
        database = self._databases.get(padded_name)
        if database is None:
            if len(self._databases) >= _MOST_NAMES:
                self._databases.clear()
            database = self._databases[padded_name] = self.database_of(os.fsdecode(padded_name.rstrip(b"\0")))
        return database

    def database_of(self, file_name: str) -> str:
        """By the name of a file, whatever it is."""
        database = file_name.removesuffix(SUFFIX)
        return database if database not in {file_name, ""} and self._tree.admits_database(database) else ""
