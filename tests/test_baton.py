"""The workers compute one at a time, unless one of them takes long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.running import wait_until
from watcher import baton as module
from watcher.baton import Baton


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_one_computes_at_a_time() -> None:
    baton = Baton()
    at_it, most = 0, 0

    def compute(_: int) -> None:
        nonlocal at_it, most
        with baton:
            at_it += 1
            most = max(most, at_it)
            time.sleep(0.001)  # lets another one run, if that is not kept from it
            at_it -= 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(compute, range(40)))
    assert most == 1


def test_who_does_not_get_it_goes_on_without_and_takes_nothing_away() -> None:
    baton = Baton()
    ended = threading.Event()
    with baton:

        def other() -> None:
            with baton:
                pass
            ended.set()

        thread = threading.Thread(target=other)
        thread.start()
        assert ended.wait(10)
        thread.join()
        assert baton._lock.locked(), "the other one had nothing to give back"
    assert not baton._lock.locked()


def test_it_is_passed_on_also_by_who_fails() -> None:
    baton = Baton()
    with pytest.raises(RuntimeError), baton:
        raise RuntimeError
    wait_until(lambda: not baton._lock.locked())
