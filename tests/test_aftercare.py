"""What has time gives way to recoveries, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.hostile import Host
from tests.running import wait_until
from watcher import aftercare
from watcher.aftercare import Aftercare
from watcher.records.record import Outcome, Record
from watcher.reports import Reports
from watcher.snapshots import Snapshots
from watcher.tree import Place


@contextmanager
def at_work(host: Host, busy: Callable[[], bool]) -> Iterator[Aftercare]:
    reports = Reports(lambda _record, _change: None, lambda _state: None, host.rooms.tree.session_of)
    made = Aftercare(host.rooms.looker, host.rooms.recovery, reports, busy)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_it_begins_when_no_journal_waits_any_more(host: Host) -> None:
    quiet, done, moments = threading.Event(), threading.Event(), list[bool]()

    def task() -> None:
        moments.append(quiet.is_set())
        done.set()

    asked = 0

    def busy() -> bool:
        nonlocal asked
        asked += 1
        return not quiet.is_set()

    with at_work(host, busy) as care:
        care.add_task(task)
        wait_until(lambda: asked > 1)
        quiet.set()
        assert done.wait(10)
    assert moments == [True]


def test_a_flood_that_never_ends_delays_all_of_it_by_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftercare, "_GIVES_WAY_S", 1.0)
    done = threading.Semaphore(0)
    with at_work(host, lambda: True) as care:
        began = time.monotonic()
        for _ in range(20):
            care.add_task(done.release)
        for _ in range(20):
            assert done.acquire(timeout=10)
        took = time.monotonic() - began
    assert 1.0 <= took < 10.0


def test_what_comes_one_by_one_is_done_in_one_go(host: Host) -> None:
    done, apart = list[float](), threading.Event()
    with at_work(host, lambda: False) as care:
        began = time.monotonic()
        care.add_task(lambda: done.append(time.monotonic()))
        wait_until(lambda: done)
        for _ in range(20):
            care.add_task(lambda: done.append(time.monotonic()))
            apart.wait(0.005)
        wait_until(lambda: len(done) == 21)
    assert min(done[1:]) - began >= aftercare._APART_S


def test_snapshots_that_wait_go_to_the_disk_together(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, told = threading.Event(), list[tuple[str, str]]()
    monkeypatch.setattr(Snapshots, "begin_to_sync", lambda path: told.append(("begun", path)))
    monkeypatch.setattr(host.rooms.recovery, "sync_snapshot", lambda path: told.append(("synced", path)))
    with at_work(host, lambda: not quiet.is_set()) as care:
        for number in range(3):
            made = Record(database="/tree/a.db", outcome=Outcome.RECOVERED, snapshot=f"/snapshots/{number}")
            care.add(Place("", "a.db"), made)
        quiet.set()
        wait_until(lambda: len(told) == 6)
    assert told == [(what, f"/snapshots/{number}") for what in ("begun", "synced") for number in range(3)]


def test_what_waits_is_done_though_another_takes_its_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftercare, "_LINGERS_S", 0.2)
    before, done, quiet = set(threading.enumerate()), threading.Semaphore(0), threading.Event()
    with at_work(host, lambda: not quiet.is_set()) as care:
        (thread,) = set(threading.enumerate()) - before
        for _ in range(3):
            care.add_task(done.release)
        care.retire()
        care.add_task(done.release)  # by a worker that was at its last
        quiet.set()
        for _ in range(4):
            assert done.acquire(timeout=10)
        thread.join(10)
        assert not thread.is_alive()


def test_it_ends_at_once_whatever_it_gives_way_to(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftercare, "_GIVES_WAY_S", 60.0)
    with at_work(host, lambda: True) as care:
        care.add_task(lambda: None)
        began = time.monotonic()
    assert time.monotonic() - began < 10.0
