"""Whether the reconciler turns: workers that are idle, busy, slow, reading, or hung for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import wait_until
from tests.test_settings import load
from watcher.liveness import Hands, patience_s
from watcher.tree import Place

A, B = Place("a", "outbound.db"), Place("b", "outbound.db")


@contextmanager
def working(hands: Hands, place: Place, work: Callable[[], object]) -> Iterator[None]:
    """A worker that has the place in its hands and repeats its work."""
    stop = threading.Event()

    def run() -> None:
        hands.take(place)
        while not stop.is_set():
            work()
        hands.give(place)

    thread = threading.Thread(target=run, name="worker-x")
    before = len(hands.held())
    thread.start()
    try:
        wait_until(lambda: len(hands.held()) > before)
        yield
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def hung() -> Iterator[Callable[[], object]]:
    """Work that waits for something that does not come."""
    released = threading.Event()
    yield lambda: released.wait(0.5)
    released.set()


def test_empty_hands_that_show_no_sign_do_not_go_on() -> None:
    assert not Hands(patience_s=10.0).goes_on()


def test_a_look_that_has_just_begun_goes_on(hung: Callable[[], object]) -> None:
    hands = Hands(patience_s=1000.0)
    with working(hands, A, hung):
        assert hands.goes_on()
        (held,) = hands.held()
        assert (held.place, held.worker) == (A, "worker-x")
    assert hands.held() == []


def test_a_look_that_lasts_too_long_and_moves_nothing_is_hung(hung: Callable[[], object]) -> None:
    hands = Hands(patience_s=0.0)
    with working(hands, A, hung):
        assert not hands.goes_on()


def test_one_that_lasts_long_but_reads_and_writes_goes_on(tmp_path: Path, hung: Callable[[], object]) -> None:
    hands = Hands(patience_s=0.0)
    descriptor = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    try:
        with working(hands, A, hung), working(hands, B, lambda: os.pwrite(descriptor, b"x" * 512, 0)):
            assert hands.goes_on()
    finally:
        os.close(descriptor)


def test_an_endless_loop_that_moves_nothing_is_hung() -> None:
    hands = Hands(patience_s=0.0)
    with working(hands, A, lambda: sum(range(1000))):
        assert not hands.goes_on()


def test_the_patience_holds_all_time_outs_of_the_settings(tmp_path: Path) -> None:
    assert patience_s(load(tmp_path, "tree: {root: x}")) == 7.0
    text = "tree: {root: x}\nrecovery: {busy_timeout: 5m}\nowner: {command: {argv: [a], timeout: 1m}, container: {}}"
    assert patience_s(load(tmp_path, text)) > 300 + 2 * 60 + 2 * 2
