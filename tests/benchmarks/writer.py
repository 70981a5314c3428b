"""A live writer: one real SQLite connection in DELETE mode that commits until it is killed, counting its commits.

    python -S writer.py DATABASE COUNTERS INDEX COMMITS_PER_SECOND

COUNTERS is a file of 64-bit numbers, mapped by everybody; number INDEX is ours. 0 commits per second means full speed.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import sys
import time


def write(database: str, counters: str, index: int, commits_per_s: float) -> None:
    descriptor = os.open(counters, os.O_RDWR)
    commits = memoryview(mmap.mmap(descriptor, 0)).cast("Q")
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=delete")
    connection.execute("PRAGMA synchronous=off")
    connection.execute("CREATE TABLE IF NOT EXISTS t(v)")
    connection.execute("INSERT INTO t VALUES (0)")
    due = time.monotonic() + index / max(commits_per_s, 1) / 20
    while True:
        if commits_per_s:
            due = max(due + 1 / commits_per_s, time.monotonic() - 1 / commits_per_s)  # stopped, it does not catch up
            time.sleep(max(0.0, due - time.monotonic()))
        connection.execute("UPDATE t SET v = v + 1")
        commits[index] += 1


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
