"""How long a killed writer keeps its readers out: from the kill to the first good read-only read.

Real writers are killed with SIGKILL in the middle of a transaction that has spilled, one at a time, in trees of many
sessions. Who recovers takes turns: the floor (this process, warm, opens the database read-write at once, which is the
least that SQLite and the disk allow), the service with its defaults and without snapshots, a shell loop on inotifywait
with the sqlite3 command, and a script on watchdog's default observer with Python's sqlite3.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import yaml

from tests.benchmarks.trees import WRITER

FLOOR = "floor"
OURS = "journal-watcher"
OURS_BARE = "journal-watcher, no snapshots"
SHELL = "inotifywait + sqlite3"
SCRIPT = "watchdog + sqlite3"
DEADLINE_S = 10.0

_WATCHDOG = """
import sqlite3, sys
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
class Handler(FileSystemEventHandler):
    def on_closed(self, event):
        if event.src_path.endswith("-journal"):
            c = sqlite3.connect(event.src_path.removesuffix("-journal"), timeout=2)
            try:
                c.execute("PRAGMA schema_version").fetchone()
            except sqlite3.Error:
                pass
            c.close()
observer = Observer()
observer.schedule(Handler(), sys.argv[1], recursive=True)
observer.start()
print("ready", flush=True)
observer.join()
"""
_SHELL = """
inotifywait -m -r -e close_write --format %w%f "$0" | while read -r file; do
    case $file in *-journal) sqlite3 "${file%-journal}" "PRAGMA schema_version" >/dev/null 2>&1 ;; esac
done
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=1000, help="sessions in each tree")
    parser.add_argument("--kills", type=int, default=60, help="kills for each who recovers")
    parser.add_argument("--live", type=int, default=0, help="live commits per second beside it, in the same tree")


def measure(options: argparse.Namespace) -> dict[str, object]:
    contenders: dict[str, Callable[[Path], Any]] = {
        FLOOR: _nobody,
        OURS: _service({}),
        OURS_BARE: _service({"snapshot": None}),
        SCRIPT: _watchdog,
    }
    if shutil.which("inotifywait") and shutil.which("sqlite3"):
        contenders[SHELL] = _shell
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="journal-watcher-latency-")))
        trees = {}
        for number, (name, contender) in enumerate(contenders.items()):
            tree = home / str(number) / "tree"
            for session in range(options.sessions):
                (tree / "g" / f"s{session}").mkdir(parents=True)
            stack.enter_context(contender(tree))
            if options.live:
                stack.enter_context(_live(tree, options.live / len(contenders)))
            trees[name] = tree
        reader = stack.enter_context(closing(Reader()))
        for number in range(options.kills + 3):
            for name, tree in trees.items():
                database = tree / "g" / f"s{number % options.sessions}" / "outbound.db"
                ms = kill(database, reader, by_hand=name == FLOOR)
                if number >= 3:  # the first warm things up
                    taken[name].append(ms)
    floor = taken[FLOOR]
    return {
        "sessions": options.sessions,
        "kills": options.kills,
        "live_commits_per_s": options.live,
        "results": {
            name: {
                "median_ms": round(median(values), 2),
                "p99_ms": round(_p99(values), 2),
                "median_to_floor": round(median(values) / median(floor), 2),
                "p99_to_floor": round(_p99(values) / _p99(floor), 2),
                "all_ms": [round(value, 2) for value in values],
            }
            for name, values in taken.items()
        },
    }


def table(result: dict[str, object]) -> str:
    results = result["results"]
    assert isinstance(results, dict)
    lines = [
        f"{result['sessions']} sessions, {result['kills']} kills each, {result['live_commits_per_s']} live commits/s",
        f"{'who recovers':<32}{'x floor':>9}{'p99 x':>9}{'median':>11}{'p99':>11}",
    ]
    lines += [
        f"{name:<32}{each['median_to_floor']:>9.2f}{each['p99_to_floor']:>9.2f}"
        f"{each['median_ms']:>8.2f} ms{each['p99_ms']:>8.2f} ms"
        for name, each in results.items()
    ]
    return "\n".join(lines)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


class Reader:
    """The host whose reads are measured: a process of its own (`reader`), for all who recover alike. Who recovers by
    hand would else read with all that it needs at hand, and without having to be woken."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def go_to(self, database: Path) -> None:
        """Have it be there, before a writer is."""
        assert self._asked(str(database)) == "there"

    def wait(self) -> None:
        """Have it wait for the recovery."""
        assert self._asked("") == "waits"

    def has_read(self, within_s: float) -> bool:
        """Whether it says so. It says one line at a time."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], within_s)[0])

    def read_at(self) -> float:
        """When it has read, by `time.perf_counter`."""
        return float(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _asked(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        if not self.has_read(DEADLINE_S):
            raise TimeoutError("the reader says nothing")
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def kill(database: Path, reader: Reader, *, by_hand: bool) -> float:
    """Milliseconds from the kill of a writer to the first good read of its database."""
    reader.go_to(database)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WRITER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"hot\n"
        reader.wait()
        began = time.perf_counter()
        os.kill(writer.pid, signal.SIGKILL)
        # Until it has exited nobody may recover it: to look already would take the processor from its end.
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
        if by_hand:
            _recover(database)
        if not reader.has_read(DEADLINE_S):  # missed altogether: a peer may, and it shows in its p99
            _recover(database)
        ended = reader.read_at()
        writer.wait()
    return (ended - began) * 1000


def _recover(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


@contextmanager
def _nobody(_tree: Path) -> Iterator[None]:
    yield


def _service(recovery: dict[str, object]) -> Callable[[Path], Any]:
    @contextmanager
    def running(tree: Path) -> Iterator[None]:
        settings = tree.parent / "settings.yaml"
        told = {
            "tree": {"root": str(tree), "layout": "{agent_group}/{session}"},
            "recovery": recovery,
        }
        settings.write_text(yaml.safe_dump(told), encoding="utf-8")
        log = tree.parent / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-m", "watcher", "run", "-c", str(settings)], stderr=stderr)
        try:
            _await(lambda: _has_swept(tree.parent / ".journal-watcher" / "status.json"))
            yield
        finally:
            process.terminate()
            process.wait()

    return running


@contextmanager
def _watchdog(tree: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _WATCHDOG, str(tree)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _shell(tree: Path) -> Iterator[None]:
    process = subprocess.Popen(["bash", "-c", _SHELL, str(tree)], stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"Watches established"):
            assert process.poll() is None
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def _live(tree: Path, commits_per_s: float) -> Iterator[None]:
    """Five writers that commit steadily in sessions of their own."""
    counters = tree.parent / "counters"
    counters.write_bytes(bytes(8 * 5))
    writer = Path(__file__).with_name("writer.py")
    processes = []
    try:
        for index in range(5):
            directory = tree / "g" / f"live{index}"
            directory.mkdir()
            argv = [sys.executable, "-S", str(writer), str(directory / "outbound.db"), str(counters), str(index)]
            processes.append(subprocess.Popen([*argv, str(commits_per_s / 5)]))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _has_swept(status: Path) -> bool:
    return status.exists() and json.loads(status.read_bytes())["last_sweep"] is not None


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the service did not get ready")
        time.sleep(0.01)
