"""A host that waits for its databases: a process that sleeps until a journal is deleted, and then reads.

    python -m tests.benchmarks.reader

For each path of a database on stdin: `there` when it watches the directory, before a writer comes, for that is an event
for whoever watches the tree; at the next line `waits` when it does; and the moment of its first good read-only read, in
seconds of `time.perf_counter`, which is one clock for all processes (CLOCK_MONOTONIC on Linux, clock_gettime(2)).
"""

from __future__ import annotations

import ctypes
import os
import select
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from watcher.hints.inotify_events import In, Inotify

POLL_S = 0.00005
_PR_SET_TIMERSLACK = 29  # prctl(2)


def main() -> None:
    if sys.platform == "linux":  # else a sleep of POLL_S takes twice as long
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    for line in sys.stdin:
        database = Path(line.rstrip("\n"))
        with _deletion(Path(f"{database}-journal")) as wait_for_deletion:
            print("there", flush=True)
            sys.stdin.readline()
            wait_for_deletion(lambda: print("waits", flush=True))
            while not _reads(database):
                time.sleep(POLL_S)
            print(time.perf_counter(), flush=True)


@contextmanager
def _deletion(journal: Path) -> Iterator[Callable[[Callable[[], None]], None]]:
    """What waits until the journal is deleted, and calls what it is given when it begins to.

    The kernel tells. To look again every 50 us would take the processor from who recovers, in three kills of ten: the
    scheduler leaves both on the one where they woke up, and each turn takes a third of the next one's time there.
    """
    if sys.platform != "linux":

        def poll_for_it(begins: Callable[[], None]) -> None:
            begins()
            while os.path.lexists(journal):
                time.sleep(POLL_S)

        yield poll_for_it
        return
    inotify = Inotify()
    try:
        directory_fd = os.open(journal.parent, os.O_RDONLY)
        try:
            inotify.watch(directory_fd, In.DELETE)
        finally:
            os.close(directory_fd)
        events = select.poll()
        events.register(inotify.fileno(), select.POLLIN)

        def wait_for_it(begins: Callable[[], None]) -> None:
            inotify.read()  # what the writer has done until now
            begins()
            while os.path.lexists(journal):
                events.poll()
                inotify.read()

        yield wait_for_it
    finally:
        inotify.close()


def _reads(database: Path) -> bool:
    """A read that must fail is not tried before: it would hold a read lock just when the rollback wants its own."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        try:
            connection.execute("SELECT count(*) FROM t").fetchone()
        except sqlite3.OperationalError:
            return False
    return True


if __name__ == "__main__":
    main()
