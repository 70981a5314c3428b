"""Exit watches: real processes that end, in every way and order."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.running import wait_until
from tests.test_owner_processes import FIRST_THREAD_ENDS, WAITING, running, state_of
from watcher.hints import exits as exits_module
from watcher.hints.exits import Exits
from watcher.tree import Place


class Hints:
    """The places that were hinted at, in their order."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.threads: set[str] = set()

    def __call__(self, place: Place) -> None:
        self.threads.add(threading.current_thread().name)
        self.places.append(place)


@pytest.fixture
def hints() -> Hints:
    return Hints()


@pytest.fixture
def exits(hints: Hints) -> Iterator[Exits]:
    made = Exits(hints)
    made.start()
    yield made
    made.stop()


def place(name: str) -> Place:
    return Place("group/session", f"{name}.db")


A, B, C = map(place, "abc")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_exit_of_a_process_is_a_hint_before_anybody_has_waited_for_it(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        exits.watch(process.pid, A)
        process.kill()
        wait_until(lambda: hints.places)
        assert state_of(process.pid) == "Z"
    assert hints.places == [A]
    assert hints.threads == {"exits"}


def test_it_comes_at_once(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        exits.watch(process.pid, A)
        began = time.monotonic()
        process.kill()
        wait_until(lambda: hints.places)
        assert time.monotonic() - began < 10.0  # measured: 1 ms


def test_a_process_that_ends_by_itself_is_a_hint_too(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        exits.watch(process.pid, A)
        assert process.stdin is not None
        process.stdin.close()
        wait_until(lambda: hints.places == [A])


def test_all_places_that_wait_for_a_process_are_hinted_at_once_each(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        before = descriptors()
        for each in (A, B, A, C):
            exits.watch(process.pid, each)
        assert descriptors() == before + 1
        process.kill()
        wait_until(lambda: len(hints.places) >= 3)
    assert sorted(hints.places) == [A, B, C]


def test_a_place_that_waits_for_two_processes_is_hinted_at_twice(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as one, running(WAITING) as other:
        exits.watch(one.pid, A)
        exits.watch(other.pid, A)
        one.kill()
        wait_until(lambda: hints.places == [A])
        other.kill()
        wait_until(lambda: hints.places == [A, A])


def test_a_place_that_waits_no_more_is_not_hinted_at(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        exits.watch(process.pid, A)
        exits.watch(process.pid, B)
        exits.forget(process.pid, A)
        exits.forget(process.pid, C)
        process.kill()
        wait_until(lambda: hints.places)
    assert hints.places == [B]


def test_what_nobody_waits_for_is_not_held_open(exits: Exits) -> None:
    with running(WAITING) as process:
        before = descriptors()
        for _ in range(3):
            exits.watch(process.pid, A)
            exits.watch(process.pid, B)
            exits.forget(process.pid, A)
            exits.forget(process.pid, B)
            exits.forget(process.pid, B)
        assert descriptors() == before


def test_a_process_that_has_ended_already_is_a_hint(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        process.kill()
        process.wait()
        exits.watch(process.pid, A)
        assert hints.places == [A]


def test_a_zombie_is_a_hint(exits: Exits, hints: Hints) -> None:
    with running(WAITING) as process:
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        exits.watch(process.pid, A)
        wait_until(lambda: hints.places == [A])


def test_the_end_of_its_first_thread_is_not_the_end_of_a_process(exits: Exits, hints: Hints) -> None:
    with running(FIRST_THREAD_ENDS) as process:
        wait_until(lambda: state_of(process.pid) == "Z")
        exits.watch(process.pid, A)
        with running(WAITING) as other:
            exits.watch(other.pid, B)
            other.kill()
            wait_until(lambda: hints.places)
        assert hints.places == [B]
        process.kill()
        wait_until(lambda: hints.places == [B, A])


def test_a_pid_that_is_a_thread_is_left_to_the_second_look(exits: Exits, hints: Hints) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    before = descriptors()
    assert thread.native_id is not None
    exits.watch(thread.native_id, A)
    assert (descriptors(), hints.places) == (before, [])
    ended.set()
    thread.join()


def test_no_more_than_the_limit_are_watched_at_once(
    exits: Exits, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits_module, "MOST_PROCESSES", 2)
    with running(WAITING) as one, running(WAITING) as two, running(WAITING) as three:
        before = descriptors()
        for process, waiting in ((one, A), (two, B), (three, C)):
            exits.watch(process.pid, waiting)
        assert descriptors() == before + 2
        exits.watch(two.pid, C)  # one that is watched takes any number of places
        three.kill()
        two.kill()
        wait_until(lambda: sorted(hints.places) == [B, C])
        three.wait()
        with running(WAITING) as four:  # there is room again
            exits.watch(four.pid, A)
            four.kill()
            wait_until(lambda: hints.places.count(A) == 1)


def test_the_watches_leave_descriptors_for_everything_else(exits: Exits, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        pids = [stack.enter_context(running(WAITING)).pid for _ in range(4)]
        before = descriptors()
        monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
        for pid in pids:
            exits.watch(pid, A)
        assert descriptors() == before + 2


def test_a_number_that_was_that_of_another_process_is_no_exit(exits: Exits, hints: Hints) -> None:
    """The thread is told that a descriptor is readable, and before it looks, another thread has that one closed and
    opened anew for a process that lives."""
    with running(WAITING) as process:
        exits.watch(process.pid, A)
        (descriptor,) = exits._pids
        assert exits._exited(descriptor) == set()
        process.kill()
        wait_until(lambda: hints.places == [A])
        assert exits._exited(descriptor) == set()


def test_a_hint_that_fails_does_not_end_the_watch(hints: Hints) -> None:
    def fail_at_first(place: Place) -> None:
        hints(place)
        if place == A:
            raise ValueError("a defect")

    exits = Exits(fail_at_first)
    exits.start()
    with running(WAITING) as one, running(WAITING) as other:
        exits.watch(one.pid, A)
        exits.watch(other.pid, B)
        one.kill()
        wait_until(lambda: hints.places == [A])
        other.kill()
        wait_until(lambda: hints.places == [A, B])
    exits.stop()


def test_stopping_closes_everything_and_ends_the_thread(hints: Hints) -> None:
    with running(WAITING) as one, running(WAITING) as other:
        before, threads = descriptors(), threading.active_count()
        exits = Exits(hints)
        exits.start()
        exits.watch(one.pid, A)
        exits.watch(other.pid, B)
        began = time.monotonic()
        exits.stop()
        assert time.monotonic() - began < 10.0
        assert descriptors() == before
        assert threading.active_count() <= threads


def test_before_its_start_and_after_its_end_it_does_nothing(hints: Hints) -> None:
    with running(WAITING) as process:
        exits = Exits(hints)
        exits.watch(process.pid, A)
        exits.forget(process.pid, A)
        exits.stop()
        exits.start()
        exits.watch(process.pid, B)
        exits.stop()
        exits.stop()
        exits.forget(process.pid, B)
        exits.watch(process.pid, C)
        process.kill()
        process.wait()
    assert hints.places == []


def test_many_processes_that_end_at_once_are_all_hinted_at(exits: Exits, hints: Hints) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(running(WAITING)) for _ in range(12)]
        for number, process in enumerate(processes):
            exits.watch(process.pid, place(f"{number:02d}"))
        for process in processes:
            process.kill()
        wait_until(lambda: len(hints.places) >= 12)
    assert sorted(hints.places) == [place(f"{number:02d}") for number in range(12)]
