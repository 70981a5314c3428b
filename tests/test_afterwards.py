"""What no host waits for, done when nobody waits any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.running import wait_until
from watcher import afterwards as module
from watcher.afterwards import Afterwards


class Rush:
    """Whether recoveries are waiting."""

    def __init__(self) -> None:
        self.is_on = True

    def __call__(self) -> bool:
        return self.is_on


@pytest.fixture
def rush() -> Rush:
    return Rush()


@pytest.fixture
def afterwards(rush: Rush) -> Iterator[Afterwards]:
    made = Afterwards(rush)
    made.start()
    yield made
    rush.is_on = False
    made.stop(10)


def test_it_waits_for_the_end_of_the_rush_and_keeps_the_order(afterwards: Afterwards, rush: Rush) -> None:
    done: list[int] = []
    for number in range(20):
        afterwards.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    rush.is_on = False
    wait_until(lambda: len(done) == 20)
    assert done == list(range(20))


def test_a_rush_without_end_delays_it_for_a_while_only(afterwards: Afterwards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GIVES_WAY_S", 0.05)
    done = threading.Event()
    afterwards.do(done.set)
    assert done.wait(10)


def test_what_is_left_is_done_before_the_end(afterwards: Afterwards) -> None:
    done: list[int] = []
    for number in range(20):
        afterwards.do(lambda number=number: done.append(number))  # type: ignore[misc]
    afterwards.stop(10)
    assert done == list(range(20))


def test_where_too_much_waits_it_is_done_at_once(afterwards: Afterwards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 0)
    done: list[str] = []
    afterwards.do(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]


def test_what_comes_after_the_end_is_done_by_who_brings_it(afterwards: Afterwards) -> None:
    afterwards.stop(10)
    done: list[str] = []
    afterwards.do(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]


def test_one_that_fails_is_told_and_keeps_nothing_up(afterwards: Afterwards, rush: Rush) -> None:
    def fail() -> None:
        raise RuntimeError

    done = threading.Event()
    afterwards.do(fail)
    afterwards.do(done.set)
    rush.is_on = False
    assert done.wait(10)
