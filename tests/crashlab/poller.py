"""A host: polls each database of a tree read-only, until SIGTERM, and prints what it has met. It is run as a script."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_PAUSE_S = 0.05


def main() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    met: Counter[str] = Counter()
    while not stopped.wait(_PAUSE_S):
        for database in _databases(Path(sys.argv[1])):
            met[_poll(database)] += 1
    print(json.dumps(met))


def _databases(root: Path) -> Iterator[Path]:
    """Those of all sessions. The lab removes a round that is through, also while we are listing it: a directory that
    has just gone has none (`Path.glob` would raise)."""
    for group in _listed(root):
        for session in _listed(group):
            database = session / "outbound.db"
            if database.exists():
                yield database


def _listed(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _poll(database: Path) -> str:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA schema_version").fetchall()
            return "read"
    except sqlite3.Error as error:
        return error.sqlite_errorname


if __name__ == "__main__":
    main()
