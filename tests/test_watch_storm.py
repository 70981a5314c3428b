"""The real service beside storms of live commits: it never opens a database for writing, and loses no crash.

Some ten thousand commits here, and as many as JOURNAL_WATCHER_STORM says (the issue asks for 100,000).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from struct import Struct
from typing import IO

import pytest

from tests.running import Runner, Service, wait_until
from tests.writers import CrashedPair, count_read_only, journal_of, make_database, writing

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)

from watcher.hints.inotify_events import In, Inotify

COMMITS = int(os.environ.get("JOURNAL_WATCHER_STORM", "12000"))
WRITERS = 4

pytestmark = pytest.mark.timeout(120 + COMMITS // 200)

# Without a sync a journal has its magic from the first page on, so that each commit leaves it hot for a moment; with a
# tiny cache every tenth spills, too. It commits as often as it is told, and keeps its connection until it dies.
_STORM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA synchronous = off")
connection.execute("PRAGMA cache_size = 4")
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        last = 60 if number % 10 == 0 else 1
        connection.execute("UPDATE t SET body = randomblob(900) WHERE id <= ?", (last,))
    print("done", flush=True)
"""
_EVENT = Struct("=iIII")


class Storm:
    """Writers in sessions of their own."""

    def __init__(self, databases: list[Path]) -> None:
        self.databases = databases
        self._writers = [
            subprocess.Popen(
                [sys.executable, "-c", _STORM, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for database in databases
        ]
        self._expect("ready")

    def commit(self, times: int) -> None:
        """So many commits of all of them together, as fast as they can."""
        for writer in self._writers:
            stdin = _there(writer.stdin)
            stdin.write(f"{times // len(self._writers)}\n")
            stdin.flush()
        self._expect("done")

    def end(self) -> None:
        for writer in self._writers:
            writer.kill()
            writer.wait()
            _there(writer.stdin).close()
            _there(writer.stdout).close()

    def _expect(self, word: str) -> None:
        for writer in self._writers:
            assert _there(writer.stdout).readline() == f"{word}\n"


def _there(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class Closes:
    """How often these files were closed since they are watched, told apart by how they had been opened."""

    def __init__(self, files: list[Path], watching: ExitStack) -> None:
        self._inotify = Inotify()
        watching.callback(self._inotify.close)
        for file in files:
            descriptor = os.open(file, os.O_PATH)
            self._inotify.watch(descriptor, In.CLOSE_WRITE | _CLOSE_NOWRITE)
            os.close(descriptor)

    def taken(self) -> tuple[int, int]:
        """For writing, and for reading only; alike ones without another in between count once."""
        masks = []
        while gulp := self._inotify.read():
            masks += [_EVENT.unpack_from(gulp, at)[1] for at in range(0, len(gulp), _EVENT.size)]
        return sum(mask == In.CLOSE_WRITE for mask in masks), sum(mask == _CLOSE_NOWRITE for mask in masks)


_CLOSE_NOWRITE = 0x10  # inotify(7)


@contextmanager
def storm_in(runner: Runner) -> Iterator[Storm]:
    databases = [runner.root / "g" / f"busy-{number}" / "outbound.db" for number in range(WRITERS)]
    for database in databases:
        database.parent.mkdir(parents=True, exist_ok=True)
        make_database(database)
    storm = Storm(databases)
    try:
        yield storm
    finally:
        storm.end()


def expect_recovered(service: Service, database: Path) -> None:
    service.wait_for("recovered", database=database, deadline_s=60)
    assert count_read_only(database) > 0


def events_of_kernel_queue() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def test_no_database_of_a_live_writer_is_opened_for_writing(runner: Runner) -> None:
    runner.configure(tree={"layout": "{agent_group}/{session}"}, watch={"sweep_interval": "1s"})
    with storm_in(runner) as storm, ExitStack() as watching:
        service = runner.start()
        closes = Closes(storm.databases, watching)
        storm.commit(COMMITS)
        for_writing, for_reading = closes.taken()
        print(f"{COMMITS} commits: {for_reading} times a database was opened to ask for its lock")
        assert for_writing == 0
        assert for_reading < COMMITS / 20
        with closing(sqlite3.connect(storm.databases[0])) as connection:  # what would have been seen
            connection.execute("SELECT count(*) FROM t").fetchone()
        assert closes.taken() == (1, 0)
        assert service.stop() == 0
        assert service.events("recovered") == []
        assert service.events("recovery_failed") == []
        for database in storm.databases:
            assert count_read_only(database) > 0


@pytest.mark.parametrize("place", ["dies/outbound.db", "busy-0/inbound.db"])
def test_a_writer_that_dies_in_a_storm_is_recovered_meanwhile(runner: Runner, place: str) -> None:
    runner.configure(tree={"layout": "{agent_group}/{session}"}, watch={"sweep_interval": "1h"})
    database = runner.root / "g" / place
    database.parent.mkdir(parents=True)
    make_database(database)
    with storm_in(runner) as storm, writing(database) as writer:
        service = runner.start()
        writer.tell("begin")
        storm.commit(COMMITS // 4)
        assert service.events("recovered") == []
        writer.kill()
        storm.commit(COMMITS // 4)
        expect_recovered(service, database)
        assert len(service.events("recovered")) == 1


def test_a_crash_whose_events_were_lost_in_an_overflow_is_recovered(runner: Runner, crashed: CrashedPair) -> None:
    """The sweep that an overflow calls for is the only one there is."""
    runner.configure(tree={"layout": "{agent_group}/{session}"}, watch={"sweep_interval": "1h"})
    with storm_in(runner) as storm:
        database = runner.root / "g" / "lost" / "outbound.db"
        database.parent.mkdir()
        service = runner.start()
        wait_until(lambda: runner.json("status")["watch"]["directories"] == 1 + 1 + WRITERS + 1)
        service.signal(signal.SIGSTOP)
        try:
            storm.commit(events_of_kernel_queue())  # at least two events each, and merged they are not
            crashed.put(database)
        finally:
            service.signal(signal.SIGCONT)
        service.wait_for("overflow")
        expect_recovered(service, database)
        assert not journal_of(database).exists()
        assert [each["database"] for each in service.events("recovered")] == [str(database)]
