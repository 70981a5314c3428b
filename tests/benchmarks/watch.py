"""What it costs to watch live writers: CPU per commit, and what is left of the writers' own speed.

Real writers commit in DELETE mode (synchronous=off, so that the file events and not the disk set the pace), at given
rates and at full speed. The watchers take turns beside the same writers: our emitter, inotifywait (in C, from
inotify-tools) and watchdog's default observer, each in a process of its own, and nobody. A watcher that cannot keep up
loses events: `told` is the share of the commits that it has told of, and its cost is counted for each of those, or it
would be the cheaper the more it lost. Ours tells of none while all is well: `looks` counts the exceptions, and
`overflows` how often it lost events and had the tree swept instead. What the kernel does at the reading end is in the
cost; what it does at the other end is what the writers lose of their speed.
"""

from __future__ import annotations

import argparse
import mmap
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

LAYOUT = "{agent_group}/{session}"
INOTIFYWAIT = "inotifywait"
OURS = "journal-watcher"
WATCHDOG = "watchdog"
ALONE = "nobody"
WRITER = Path(__file__).with_name("writer.py")

Watcher = subprocess.Popen[str]


@dataclass(frozen=True)
class Phase:
    """One watcher's turn.

    Attributes:
        cpu_s: what the watcher's process has used.
        commits: what the writers have done meanwhile.
        seconds: how long it was.
        told_of: the commits that the watcher could have told of, from its start to its end.
        looks, overflows: what it has told.
    """

    cpu_s: float
    commits: int
    seconds: float
    told_of: int
    looks: int = 0
    overflows: int = 0

    def seen(self, name: str) -> float:
        """The commits that this watcher has kept up with; at least one."""
        told = 1.0 if name in {OURS, ALONE} else min(1.0, self.looks / max(self.told_of, 1))
        return max(1.0, self.commits * told)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--writers", type=int, default=20, help="writing processes, one session each")
    parser.add_argument(
        "--rates",
        type=int,
        nargs="+",
        default=[500, 10_000, 0],
        help="commits per second of all writers; 0: full speed",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each watcher, of which the median is taken")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one turn")


def measure(options: argparse.Namespace) -> dict[str, object]:
    watchers: dict[str, Callable[[Path], Watcher]] = {OURS: _ours, WATCHDOG: _watchdog}
    if shutil.which(INOTIFYWAIT):
        watchers[INOTIFYWAIT] = _inotifywait
    parts = {}
    with tempfile.TemporaryDirectory(prefix="journal-watcher-bench-") as directory:
        root = Path(directory) / "tree"
        sessions = [root / f"group-{number % 4}" / f"session-{number}" for number in range(options.writers)]
        for session in sessions:
            session.mkdir(parents=True)
        for rate in options.rates:
            with _writing(sessions, rate / options.writers) as writers:
                phases: dict[str, list[Phase]] = {name: [] for name in (ALONE, *watchers)}
                for _ in range(options.rounds):
                    for name, turns in phases.items():
                        turns.append(_turn(writers, options.seconds, watchers.get(name), root))
            parts[f"{rate} commits/s" if rate else "full speed"] = _summary(phases)
    return {"writers": options.writers, "rounds": options.rounds, "parts": parts}


def table(result: dict[str, object]) -> str:
    parts: Any = result["parts"]
    lines = []
    for part, rows in parts.items():
        lines.append(f"\n{result['writers']} writers, {part}; medians of {result['rounds']} turns")
        lines.append(
            f"  {'watcher':<16}{'x inotifywait':>14}{'x watchdog':>12}{'us of CPU/commit':>18}"
            f"{'commits/s':>11}{'x alone':>9}{'told':>7}{'looks':>7}{'overflows':>10}"
        )
        lines.extend(
            f"  {name:<16}{_shown(row['to_inotifywait'], 2):>14}{_shown(row['to_watchdog'], 3):>12}"
            f"{_shown(row['cpu_us_per_commit'], 2):>18}{row['commits_per_s']:>11.0f}{row['to_alone']:>9.2f}"
            f"{_shown(row['told'], 2):>7}{_shown(row['looks'], 0):>7}{_shown(row['overflows'], 0):>10}"
            for name, row in rows.items()
        )
    return "\n".join(lines)


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _summary(phases: dict[str, list[Phase]]) -> dict[str, dict[str, float | None]]:
    # A ratio is taken within a round: the machine may be faster in the next.
    cost = {name: [turn.cpu_s / turn.seen(name) for turn in turns] for name, turns in phases.items()}
    speed = {name: [turn.commits / turn.seconds for turn in turns] for name, turns in phases.items()}

    def ratio(of: list[float], to: list[float] | None) -> float | None:
        return median(one / other for one, other in zip(of, to, strict=True)) if to is not None else None

    rows: dict[str, dict[str, float | None]] = {}
    for name, turns in phases.items():
        watches = name != ALONE
        told = sum(turn.looks for turn in turns) / max(sum(turn.told_of for turn in turns), 1)
        rows[name] = {
            "to_inotifywait": ratio(cost[name], cost.get(INOTIFYWAIT)) if watches else None,
            "to_watchdog": ratio(cost[name], cost[WATCHDOG]) if watches else None,
            "cpu_us_per_commit": 1e6 * median(cost[name]) if watches else None,
            "commits_per_s": median(speed[name]),
            "to_alone": ratio(speed[name], speed[ALONE]),
            "told": told if watches and name != OURS else None,
            "looks": sum(turn.looks for turn in turns) if name == OURS else None,
            "overflows": sum(turn.overflows for turn in turns) if name == OURS else None,
        }
    return rows


# --- the writers and the watchers ---


class _Writers:
    """Processes that stand still until they are let go on."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], counters: memoryview) -> None:
        self._processes = processes
        self._counters = counters
        _wait_for(lambda: all(counters))
        self._signal(signal.SIGSTOP)

    @property
    def commits(self) -> int:
        return sum(self._counters)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)


@contextmanager
def _writing(sessions: list[Path], commits_per_s: float) -> Iterator[_Writers]:
    """One writing process in each session."""
    with tempfile.NamedTemporaryFile() as file, ExitStack() as ended:
        file.truncate(8 * len(sessions))
        processes = []
        for index, session in enumerate(sessions):
            arguments = [str(session / "outbound.db"), file.name, str(index), str(commits_per_s)]
            process = subprocess.Popen([sys.executable, "-S", WRITER, *arguments])
            ended.callback(process.wait)
            ended.callback(process.kill)
            processes.append(process)
        yield _Writers(processes, memoryview(mmap.mmap(file.fileno(), 0)).cast("Q"))


def _turn(writers: _Writers, seconds: float, watch: Callable[[Path], Watcher] | None, root: Path) -> Phase:
    watcher = watch(root) if watch is not None else None
    first = writers.commits
    try:
        with writers.at_work():
            time.sleep(0.1)  # what the start has stirred up is no part of it
            before = writers.commits, _cpu_s(watcher), time.monotonic()
            time.sleep(seconds)
            after = writers.commits, _cpu_s(watcher), time.monotonic()
        time.sleep(0.05)  # for what is still in the watcher's queue
    finally:
        looks, overflows = _farewell(watcher) if watcher is not None else (0, 0)
    return Phase(
        cpu_s=after[1] - before[1],
        commits=after[0] - before[0],
        seconds=after[2] - before[2],
        told_of=writers.commits - first,
        looks=looks,
        overflows=overflows,
    )


def _farewell(watcher: Watcher) -> tuple[int, int]:
    """End it, and hear what it has told: our subjects in two numbers, inotifywait in a line for each event."""
    watcher.terminate()
    watcher.wait()
    assert watcher.stdout is not None
    with watcher.stdout as told:
        if isinstance(watcher.args, list) and INOTIFYWAIT in watcher.args:
            told.seek(0)
            return sum("-journal" in line for line in told), 0
        looks, overflows = told.read().split()
        return int(looks), int(overflows)


def _cpu_s(process: Watcher | None) -> float:
    """All CPU time that a process has used, user and system, to the nanosecond: its clock by clock_getcpuclockid(3)."""
    return time.clock_gettime(~process.pid << 3 | 2) if process is not None else 0.0


def _ours(root: Path) -> Watcher:
    return _subject(OURS, root)


def _watchdog(root: Path) -> Watcher:
    return _subject(WATCHDOG, root)


def _subject(name: str, root: Path) -> Watcher:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.watch_subjects", name, root, LAYOUT], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"{name} did not start")
    return process


def _inotifywait(root: Path) -> Watcher:
    """In C, told what a recovery would want to know."""
    lines = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is read, and closed, when the process has ended
    process = subprocess.Popen(
        [INOTIFYWAIT, "-m", "-r", "-e", "close_write,moved_to", root], stdout=lines, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as told:
        while "Watches established" not in told.readline():
            if process.poll() is not None:
                raise RuntimeError("inotifywait did not start")
    process.stdout = lines
    return process


def _wait_for(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the writers did not start")
        time.sleep(0.01)
