"""The page: what it costs in memory and at the start, its first paint, the way of a crash to it, and the service's CPU
with it open in a browser while sessions crash. The load is journals of one page, 4616 bytes, in databases of 53 KB."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.trees import WRITER, Running, home, plant, service, session_at, wait_for
from tests.browsing import browser, why_no_browser
from tests.running import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETTLES_S = 5.0
SMALL_WRITER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA synchronous = off")  # hot from its first page on
c.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
c.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 200) for i in range(200)])
c.execute("BEGIN")
c.execute("UPDATE t SET b = 'y' WHERE a = 3")
print("hot", flush=True)
sys.stdin.read()
"""
SEEN = """name => { window.seen = new Promise(resolve => {
    const isThere = () => [...document.querySelectorAll('#recovery-table tbody .name')]
        .some(each => each.textContent.startsWith(name));
    new MutationObserver((_, observer) => {
        if (!isThere()) return;
        observer.disconnect();
        requestAnimationFrame(() => resolve(Date.now()));
    }).observe(document.body, {subtree: true, childList: true});
}) }"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=1_000, help="sessions of the tree")
    parser.add_argument("--rate", type=float, default=10.0, help="crashes a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load in each measurement")
    parser.add_argument("--rounds", type=int, default=7, help="of what is measured several times")


def measure(options: argparse.Namespace) -> dict[str, object]:
    why_not = why_no_browser()
    if why_not is not None:
        raise SystemExit(why_not)
    result: dict[str, object] = {"sessions": options.sessions, "rate": options.rate}
    with home() as directory:
        tree = directory / "tree"
        database, journal = _small_crash(directory / "small.db")
        plant(tree, options.sessions, database=database)
        for name, metrics in _ways():
            result[f"start_ms_{name}"] = round(median(_start(tree, metrics) for _ in range(options.rounds)))
            with _settled(tree, metrics) as running:
                result[f"rss_mib_{name}"] = round(running.rss_mib(), 1)
                result[f"cpu_percent_{name}"] = _loaded(running, tree, journal, options)
        port = free_port()
        with _settled(tree, {"listen": f"127.0.0.1:{port}"}) as running, browser() as chromium:
            address = f"http://127.0.0.1:{port}/"
            result["first_paint_ms"] = round(median(_first_paint(chromium, address) for _ in range(options.rounds)), 1)
            page = _opened(chromium, address)
            result["crash_to_page_ms"] = [_crash(page, tree, number) for number in range(options.rounds)]
            result["rss_mib_open"] = round(running.rss_mib(), 1)
            result |= _open_and_not(running, page, address, tree, journal, options)
    return result


def table(result: dict[str, object]) -> str:
    return "\n".join(f"{name:<28}{value}" for name, value in result.items())


def _ways() -> Iterator[tuple[str, dict[str, object]]]:
    yield "nothing_served", {}
    yield "metrics", {"listen": f"127.0.0.1:{free_port()}", "page": False}
    yield "page", {"listen": f"127.0.0.1:{free_port()}"}


def _small_crash(path: Path) -> tuple[bytes, bytes]:
    argv = [sys.executable, "-S", "-c", SMALL_WRITER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"hot\n"
        writer.kill()
        writer.wait()
    return path.read_bytes(), path.with_name(f"{path.name}-journal").read_bytes()


def _open_and_not(
    running: Running, page: Page, address: str, tree: Path, journal: bytes, options: argparse.Namespace
) -> dict[str, object]:
    """The same load on the same service, with the page open and without it, in turns."""
    idle = _idle(running, 5.0)
    opened, closed = [], []
    for _ in range(2):
        opened.append(_loaded(running, tree, journal, options))
        page.goto("about:blank")
        closed.append(_loaded(running, tree, journal, options))
        page.goto(address)
        page.wait_for_selector("#link[data-link=live]")
    return {
        "idle_cpu_percent_open": idle,
        "cpu_percent_open": round(sum(opened) / 2, 2),
        "cpu_percent_closed": round(sum(closed) / 2, 2),
        "page_adds_cpu_percent": round((sum(opened) - sum(closed)) / 2, 2),
    }


@contextmanager
def _settled(tree: Path, metrics: dict[str, object]) -> Iterator[Running]:
    with service(tree, metrics=metrics) as running:
        wait_for(lambda: running.events("started"), 0.01)
        time.sleep(SETTLES_S)  # the first sweep is through, the watches are set, and nothing is young any more
        yield running


def _start(tree: Path, metrics: dict[str, object]) -> float:
    """From the start of the process to the end of the first sweep."""
    with service(tree, level="DEBUG", metrics=metrics) as running:
        return (wait_for(lambda: running.events("sweep"), 0.001) - running.started) * 1000


def _loaded(running: Running, tree: Path, journal: bytes, options: argparse.Namespace) -> float:
    """CPU of the service, percent of a core, while so many sessions a second are found crashed and recovered."""
    before = len(running.events("recovered"))
    ended = threading.Event()

    def crash() -> None:
        due, number = time.monotonic(), 0
        while not ended.wait(max(0.0, due - time.monotonic())):
            (session_at(tree, number % options.sessions) / "outbound.db-journal").write_bytes(journal)
            number += 1
            due += 1 / options.rate

    load = threading.Thread(target=crash)
    load.start()
    time.sleep(1)  # the first of them are dearer
    percent = _idle(running, options.seconds)
    ended.set()
    load.join()
    recovered = len(running.events("recovered")) - before
    if recovered < options.seconds * options.rate * 0.9:
        raise RuntimeError(f"only {recovered} recoveries: this is no load of {options.rate} a second")
    return percent


def _idle(running: Running, seconds: float) -> float:
    """CPU of the service for so long, percent of a core."""
    began, cpu_s = time.monotonic(), _cpu_s(running)
    time.sleep(seconds)
    return round((_cpu_s(running) - cpu_s) / (time.monotonic() - began) * 100, 2)


def _cpu_s(running: Running) -> float:
    """What all threads have run: the scheduler's own nanoseconds, where /proc/PID/stat counts ticks."""
    tasks = Path(f"/proc/{running.process.pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def _opened(chromium: Browser, address: str) -> Page:
    page = chromium.new_page()
    page.goto(address)
    page.wait_for_selector("#link[data-link=live]")
    return page


def _first_paint(chromium: Browser, address: str) -> float:
    page = chromium.new_page()
    page.goto(address)
    page.wait_for_selector("#link[data-link=live]")
    told = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return float(told)


def _crash(page: Page, tree: Path, number: int) -> float:
    """Milliseconds from the kill of a writer to the frame in which its recovery is on the page."""
    directory = session_at(tree, number)
    page.evaluate(SEEN, f"g0/s{number}/")
    argv = [sys.executable, "-S", "-c", WRITER, str(directory / "outbound.db")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"hot\n"
        time.sleep(1)  # what the page was told of the living writer is over
        killed = time.time()
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    return round(float(page.evaluate("window.seen")) - killed * 1000, 1)
