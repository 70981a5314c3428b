"""Many crashes at once: hundreds of hot journals are there when the service starts, as after a power cut.

Peers: `find | xargs -P2 sqlite3`, which asks nobody, and four warm threads of apsw in this process, which ask nobody
either, and know the paths beforehand. The service is timed from its own start, that of the interpreter included, and
once more from its first line on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median

import apsw

from tests.benchmarks.trees import crashed_pair, home, plant, service, session_at, wait_for

OURS = "journal-watcher"
OURS_BARE = "journal-watcher, no snapshots"
XARGS = "find | xargs -P2 sqlite3"
THREADS = "four warm threads of apsw"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journals", type=int, default=500, help="hot journals")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")


def measure(options: argparse.Namespace) -> dict[str, object]:
    taken: dict[str, list[float]] = {}
    with home() as directory:
        database, journal = crashed_pair(directory)
        tree = directory / "tree"
        plant(tree, options.journals)
        databases = [session_at(tree, number) / "outbound.db" for number in range(options.journals)]

        def crash() -> None:
            for each in databases:
                each.write_bytes(database)
                Path(f"{each}-journal").write_bytes(journal)
            subprocess.run(["sync", "-f", str(tree)], check=True)

        runs: dict[str, Callable[[], dict[str, float]]] = {
            OURS: lambda: _ours(tree, databases, {}),
            OURS_BARE: lambda: _ours(tree, databases, {"snapshot": None}),
            THREADS: lambda: {THREADS: _threads(databases)},
        }
        if shutil.which("sqlite3"):
            runs[XARGS] = lambda: {XARGS: _xargs(tree)}
        for _ in range(options.rounds):
            for run in runs.values():
                crash()
                for name, seconds in run().items():
                    taken.setdefault(name, []).append(seconds)
                left = [each for each in databases if Path(f"{each}-journal").exists()]
                assert not left, f"{len(left)} are still hot"
    base = median(taken[XARGS]) if XARGS in taken else median(taken[THREADS])
    results = {
        name: {"median_s": round(median(values), 3), "to_xargs": round(median(values) / base, 2)}
        for name, values in taken.items()
    }
    return {"journals": options.journals, "rounds": options.rounds, "results": results}


def table(result: dict[str, object]) -> str:
    results = result["results"]
    assert isinstance(results, dict)
    lines = [f"{result['journals']} hot journals", f"{'who recovers':<44}{'x xargs':>9}{'median':>10}"]
    lines += [f"{name:<44}{each['to_xargs']:>9.2f}{each['median_s']:>8.3f} s" for name, each in results.items()]
    return "\n".join(lines)


def _ours(tree: Path, databases: list[Path], recovery: dict[str, object]) -> dict[str, float]:
    name = OURS_BARE if recovery else OURS
    journals = [Path(f"{each}-journal") for each in databases]
    with service(tree, recovery=recovery) as running:
        ended = wait_for(lambda: not _any_exists(journals))
        ended_wall = time.time()
        wait_for(lambda: len(running.events("recovered")) == len(databases), 0.02)
        first = datetime.fromisoformat(running.events("started")[0]["time"]).timestamp()
    return {name: ended - running.started, f"{name}, from its first line": ended_wall - first}


def _any_exists(journals: list[Path]) -> bool:
    while journals and not journals[-1].exists():
        journals.pop()
    return bool(journals)


def _xargs(tree: Path) -> float:
    began = time.perf_counter()
    hot = f"find '{tree}' -name '*-journal' -printf '%h/outbound.db\\0'"
    command = f"{hot} | xargs -0 -P2 -I@ sqlite3 @ 'PRAGMA schema_version'"
    subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _threads(databases: list[Path]) -> float:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: None, range(4)))
        began = time.perf_counter()
        list(threads.map(_recover, databases))
        return time.perf_counter() - began


def _recover(database: Path) -> None:
    connection = apsw.Connection(str(database))
    connection.pragma("schema_version")
    connection.close()
