"""A large tree: start to ready, memory, one sweep against find, idling, and the latency of one crash in it.

The latencies at both sizes are taken in turn, with both services running; the floor beside them is a read-write open by
this process, at once, in the small tree. The sweep is measured where a session holds its database and nothing else, and
again with the two directories beside it that `find` looks into, and the sweep need not.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median

from tests.benchmarks.latency import Reader, kill
from tests.benchmarks.trees import LAYOUT, Running, home, plant, service, session_at, wait_for
from tests.service_manager import manager
from watcher.hints.survey import Survey
from watcher.settings import TreeSettings
from watcher.tree import Tree


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=30_000, help="sessions of the large tree")
    parser.add_argument("--small", type=int, default=1_000, help="sessions of the small one")
    parser.add_argument("--memory", type=int, default=10_000, help="sessions at which the memory is read")
    parser.add_argument("--starts", type=int, default=5, help="starts of the service")
    parser.add_argument("--kills", type=int, default=40, help="crashes for the latency, in each tree")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idling")


def measure(options: argparse.Namespace) -> dict[str, object]:
    result: dict[str, object] = {"sessions": options.sessions}
    with home() as directory:
        trees = {}
        for name in ("small", "memory", "sessions"):
            trees[name] = directory / name / "tree"
            plant(trees[name], getattr(options, name))
        result |= {f"{name}_bare_sessions": value for name, value in _sweep(trees["sessions"]).items()}
        for number in range(options.sessions):  # as NanoClaw has them
            for name in ("inbox", "outbox"):
                (session_at(trees["sessions"], number) / name).mkdir()
        result |= _sweep(trees["sessions"])
        result |= _start(trees["sessions"], directory, options.starts)
        with service(trees["memory"], level="DEBUG") as running:
            _settle(running)
            result["rss_mib"] = round(running.rss_mib(), 1)
        with ExitStack() as services:
            large, small = (
                services.enter_context(service(trees[name], level="DEBUG")) for name in ("sessions", "small")
            )
            _settle(small)
            _settle(large)
            result["rss_mib_large"] = round(large.rss_mib(), 1)
            result |= _idle(large, options.idle)
            result |= _latency(trees["sessions"], trees["small"], options.kills)
    return result


def table(result: dict[str, object]) -> str:
    return "\n".join(f"{name:<28}{value}" for name, value in result.items())


def _settle(running: Running) -> None:
    wait_for(lambda: running.events("sweep"), 0.05)
    time.sleep(3)  # the watches are set, and nothing is young any more


def _start(tree: Path, directory: Path, starts: int) -> dict[str, object]:
    """Seconds from the start of the process until READY, and until the first sweep is through; without what an
    interpreter takes that does nothing, measured in turn."""
    ready, swept, nothing = [], [], []
    for number in range(starts):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        nothing.append(time.perf_counter() - began)
        socket = directory / f"start-{number}"
        socket.mkdir()
        with manager(socket) as told, service(tree, level="DEBUG", environ=told.environ) as running:
            began_at = time.time() - (time.perf_counter() - running.started)
            told.wait_for("READY=1")
            ready.append(time.perf_counter() - running.started)
            time.sleep(2)  # reading its log as it is written would disturb it
            wait_for(partial(running.events, "sweep"), 0.05)
            swept.append(datetime.fromisoformat(running.events("sweep")[0]["time"]).timestamp() - began_at)
    return {
        "interpreter_s": round(median(nothing), 3),
        "start_to_ready_s": round(median(ready) - median(nothing), 3),
        "start_to_first_sweep_s": round(median(swept) - median(nothing), 3),
    }


def _sweep(tree: Path) -> dict[str, object]:
    """One sweep that finds nothing changed, in CPU, against find on the same tree; in alternation."""
    for directory, _, _ in os.walk(tree):
        os.utime(directory, (1.6e9, 1.6e9))
    survey = Survey(Tree(TreeSettings(root=tree, layout=LAYOUT, databases=("outbound.db",))))
    list(survey.journals())
    ours, finds = [], []
    for _ in range(9):
        began = time.process_time()
        list(survey.journals())
        ours.append(time.process_time() - began)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["find", str(tree), "-name", "*-journal"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        finds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "sweep_cpu_ms": round(median(ours) * 1000, 1),
        "find_cpu_ms": round(median(finds) * 1000, 1),
        "sweep_to_find": round(median(one / other for one, other in zip(ours, finds, strict=True)), 3),
    }


def _idle(running: Running, seconds: float) -> dict[str, object]:
    sweeps = len(running.events("sweep"))
    wait_for(lambda: len(running.events("sweep")) > sweeps, 0.05)  # so that none falls into what is measured
    time.sleep(0.5)  # what comes behind a sweep: status, clock
    cpu_s, wakeups = running.cpu_s(), running.wakeups()
    time.sleep(seconds)
    return {
        "idle_cpu_percent": round((running.cpu_s() - cpu_s) / seconds * 100, 3),
        "idle_wakeups": running.wakeups() - wakeups,
    }


def _latency(large: Path, small: Path, kills: int) -> dict[str, object]:
    taken: dict[str, list[float]] = {"large": [], "small": [], "floor": []}
    with closing(Reader()) as reader:
        turns: dict[str, Callable[[int], float]] = {
            "large": lambda number: kill(session_at(large, number) / "outbound.db", reader, by_hand=False),
            "small": lambda number: kill(session_at(small, number) / "outbound.db", reader, by_hand=False),
            # Where the layout has no database.
            "floor": lambda number: kill(small / f"floor-{number}.db", reader, by_hand=True),
        }
        for number in range(kills + 2):
            for name, turn in turns.items():
                ms = turn(number)
                if number >= 2:  # the first warm things up
                    taken[name].append(ms)
    medians = {name: median(values) for name, values in taken.items()}
    return {
        **{f"latency_ms_{name}": round(value, 2) for name, value in medians.items()},
        # Within a turn: the machine may be busier in the next.
        "latency_ratio": round(median(map(truediv, taken["large"], taken["small"])), 2),
    }
