"""A large tree: start to ready, memory, one sweep against find, idling, and the latency of one crash in it."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from tests.benchmarks.trees import LAYOUT, WRITER, home, plant, service, session_at, wait_for
from watcher.hints.survey import Survey
from watcher.settings import TreeSettings
from watcher.tree import Tree

POLL_S = 0.0005


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=30_000, help="sessions of the large tree")
    parser.add_argument("--small", type=int, default=1_000, help="sessions of the small one")
    parser.add_argument("--memory", type=int, default=10_000, help="sessions at which the memory is read")
    parser.add_argument("--kills", type=int, default=15, help="crashes for the latency")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idling")


def measure(options: argparse.Namespace) -> dict[str, object]:
    result: dict[str, object] = {"sessions": options.sessions}
    with home() as directory:
        trees = {}
        for name in ("small", "memory", "sessions"):
            trees[name] = directory / name / "tree"
            plant(trees[name], getattr(options, name))
        result |= _sweep(trees["sessions"])
        interpreter = median(_interpreter() for _ in range(5))
        latencies = {}
        for name, tree in trees.items():
            with service(tree, level="DEBUG") as running:
                ready = wait_for(lambda running=running: running.events("sweep"), 0.01)  # type: ignore[misc]
                if name == "sessions":
                    result["interpreter_s"] = round(interpreter, 3)
                    result["start_to_first_sweep_s"] = round(ready - running.started - interpreter, 3)
                time.sleep(3)  # the watches are set, and nothing is young any more
                if name == "memory":
                    result["rss_mib"] = round(running.rss_mib(), 1)
                    continue
                latencies[name] = median([_kill(session_at(tree, number)) for number in range(options.kills)][2:])
                if name == "sessions":
                    result |= _idle(running, options.idle)
                    result["rss_mib_large"] = round(running.rss_mib(), 1)
    result["latency_ms_small"] = round(latencies["small"], 2)
    result["latency_ms_large"] = round(latencies["sessions"], 2)
    result["latency_ratio"] = round(latencies["sessions"] / latencies["small"], 2)
    return result


def table(result: dict[str, object]) -> str:
    return "\n".join(f"{name:<28}{value}" for name, value in result.items())


def _interpreter() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def _sweep(tree: Path) -> dict[str, object]:
    """One sweep that finds nothing changed, in CPU, against find on the same tree; in alternation."""
    for directory, _, _ in os.walk(tree):
        os.utime(directory, (1.6e9, 1.6e9))
    survey = Survey(Tree(TreeSettings(root=tree, layout=LAYOUT, databases=("outbound.db",))))
    list(survey.journals())
    ours, finds = [], []
    for _ in range(5):
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
        "sweep_to_find": round(median(ours) / median(finds), 3),
    }


def _idle(running: object, seconds: float) -> dict[str, object]:
    from tests.benchmarks.trees import Running

    assert isinstance(running, Running)
    sweeps = len(running.events("sweep"))
    wait_for(lambda: len(running.events("sweep")) > sweeps, 0.05)  # so that none falls into what is measured
    time.sleep(0.5)
    cpu_s, wakeups = running.cpu_s(), running.wakeups()
    time.sleep(seconds)
    return {
        "idle_cpu_percent": round((running.cpu_s() - cpu_s) / seconds * 100, 2),
        "idle_wakeups": running.wakeups() - wakeups,
    }


def _kill(directory: Path) -> float:
    """Milliseconds from a kill to the first good read, by polls half a millisecond apart."""
    database = directory / "outbound.db"
    argv = [sys.executable, "-S", "-c", WRITER, str(database)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"hot\n"
        began = time.perf_counter()
        os.kill(writer.pid, signal.SIGKILL)
        ended = wait_for(lambda: _reads(database), POLL_S)
        writer.wait()
    return (ended - began) * 1000


def _reads(database: Path) -> bool:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        try:
            connection.execute("SELECT count(*) FROM t").fetchone()
        except sqlite3.OperationalError:
            return False
    return True
