"""Trees of many sessions, hot journals by the hundred, and the service running on them; for the benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LAYOUT = "{agent_group}/{session}"
DEADLINE_S = 120.0

WRITER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size=5")
c.execute("CREATE TABLE IF NOT EXISTS t(a, b)")
if not c.execute("SELECT count(*) FROM t").fetchone()[0]:
    c.execute("BEGIN")
    c.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 500) for i in range(300)])
    c.execute("COMMIT")
c.execute("BEGIN")
c.execute("UPDATE t SET b = substr(b, 2) || 'y'")
print("hot", flush=True)
sys.stdin.read()
"""


@contextmanager
def home() -> Iterator[Path]:
    """A directory of the benchmark's own."""
    with tempfile.TemporaryDirectory(prefix="journal-watcher-bench-") as directory:
        yield Path(directory)


def plant(tree: Path, sessions: int, *, database: bytes = b"") -> None:
    """Make a tree of so many sessions in groups of a thousand, each with its database."""
    for number in range(sessions):
        directory = session_at(tree, number)
        directory.mkdir(parents=True)
        (directory / "outbound.db").write_bytes(database)


def session_at(tree: Path, number: int) -> Path:
    return tree / f"g{number // 1000}" / f"s{number}"


def crashed_pair(directory: Path) -> tuple[bytes, bytes]:
    """Database and journal of a real writer that was killed in the middle of a transaction that had spilled."""
    database = directory / "crashed.db"
    argv = [sys.executable, "-S", "-c", WRITER, str(database)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"hot\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    return database.read_bytes(), Path(f"{database}-journal").read_bytes()


@dataclass
class Running:
    """The service as a process, its log in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def events(self, name: str) -> list[dict[str, Any]]:
        written, _, _being_written = self.log.read_text().rpartition("\n")
        lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def cpu_s(self) -> float:
        """User and system, of all threads, to the nanosecond: its clock by clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def wakeups(self) -> int:
        total = 0
        for status in Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            total += int(status.read_text().split("voluntary_ctxt_switches:")[1].split()[0])
        return total


@contextmanager
def service(
    tree: Path, *, level: str = "INFO", environ: Mapping[str, str] | None = None, **sections: object
) -> Iterator[Running]:
    """The service on this tree; it is not waited for.

    Args:
        environ: for the service, beside ours.
        sections: of its settings.
    """
    settings = tree.parent / f"settings-{time.time_ns()}.yaml"
    told = {
        "tree": {"root": str(tree), "layout": LAYOUT, "databases": ["outbound.db"]},
        "state_dir": str(tree.parent / f"state-{time.time_ns()}"),
        "log": {"level": level, "json": True},
        **sections,
    }
    settings.write_text(yaml.safe_dump(told), encoding="utf-8")
    log = settings.with_suffix(".log")
    with log.open("wb") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "watcher", "run", "-c", str(settings)],
            stderr=stderr,
            env={**os.environ, **(environ or {})},
        )
    try:
        yield Running(process, log, started)
    finally:
        process.terminate()
        process.wait()


def wait_for(condition: Callable[[], object], pause_s: float = 0.002) -> float:
    """Wait for it; the moment (time.perf_counter) at which it held."""
    until = time.perf_counter() + DEADLINE_S
    while not condition():
        if time.perf_counter() > until:
            raise TimeoutError("the benchmark waited too long")
        time.sleep(pause_s)
    return time.perf_counter()
