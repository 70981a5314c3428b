"""What is looked at next: once, in fair turns, what is urgent first, what is later when it is due."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from queue import Queue

from hypothesis import given
from hypothesis import strategies as st

from watcher.agenda import MOST_PER_DIRECTORY, MOST_PER_SESSION, Agenda
from watcher.tree import Place

A, B, C = (Place(directory, "outbound.db") for directory in "abc")


def drained(agenda: Agenda) -> list[Place]:
    """What it hands out at once, each given back before the next."""
    taken = []
    while agenda.backlog():
        place = agenda.take()
        assert place is not None
        taken.append(place)
        agenda.done(place)
    return taken


def test_a_place_that_is_hinted_often_is_handed_out_once() -> None:
    agenda = Agenda(workers=2)
    for _ in range(5):
        agenda.add(A)
        agenda.add(A, urgent=False)
    assert drained(agenda) == [A]


def test_what_is_urgent_comes_before_what_a_sweep_has_found() -> None:
    agenda = Agenda(workers=2)
    agenda.add(A, urgent=False)
    agenda.add(B)
    assert drained(agenda) == [B, A]


def test_a_hint_makes_urgent_what_a_sweep_has_found() -> None:
    agenda = Agenda(workers=2)
    agenda.add(A, urgent=False)
    agenda.add(B, urgent=False)
    agenda.add(B)
    assert drained(agenda) == [B, A]


def test_a_place_in_hand_is_not_handed_out_again_until_it_is_given_back() -> None:
    agenda = Agenda(workers=4)
    agenda.add(A)
    assert agenda.take() == A
    agenda.add(A)
    agenda.add(B)
    assert agenda.take() == B
    agenda.done(A)
    assert agenda.take() == A


def test_directories_take_turns() -> None:
    agenda = Agenda(workers=4)
    flood = [Place("flood", f"{number}.db") for number in range(100)]
    for place in flood:
        agenda.add(place)
    agenda.add(A)
    agenda.add(B)
    assert {A, B} <= set(drained(agenda)[:4])


def test_a_directory_never_has_all_workers() -> None:
    agenda = Agenda(workers=4)
    for number in range(10):
        agenda.add(Place("slow", f"{number}.db"))
    taken = [agenda.take() for _ in range(3)]
    assert {each.directory for each in taken if each} == {"slow"}
    agenda.add(A)
    assert agenda.take() == A


def test_a_directory_that_had_its_share_goes_on_when_something_is_given_back() -> None:
    agenda = Agenda(workers=2)
    first, second = Place("slow", "1.db"), Place("slow", "2.db")
    agenda.add(first)
    agenda.add(second)
    assert agenda.take() == first
    taken: list[Place | None] = []
    worker = threading.Thread(target=lambda: taken.append(agenda.take()))
    worker.start()
    agenda.done(first)
    worker.join(10)
    assert taken == [second]


def test_a_session_wins_no_turn_by_directories_of_its_own() -> None:
    agenda = Agenda(4, lambda place: place.parts[0])
    for number in range(1000):
        agenda.add(Place(f"flood/{number}", "outbound.db"))
    agenda.add(A)
    agenda.add(B)
    assert {A, B} <= set(drained(agenda)[:4])


def test_a_session_never_has_all_workers_whatever_directories_it_makes() -> None:
    agenda = Agenda(4, lambda place: place.parts[0])
    for number in range(10):
        agenda.add(Place(f"slow/{number}", "outbound.db"))
    taken = [agenda.take() for _ in range(3)]
    assert len({each.directory for each in taken if each}) == 3
    agenda.add(A)
    assert agenda.take() == A
    for each in (*taken, A):
        assert each is not None
        agenda.done(each)
    assert len(drained(agenda)) == 7


def test_a_flood_of_directories_is_bounded() -> None:
    agenda = Agenda(2, lambda place: place.parts[0])
    for number in range(MOST_PER_SESSION + 500):
        agenda.add(Place(f"flood/{number}", "outbound.db"))
    assert agenda.backlog() == MOST_PER_SESSION
    agenda.add(A)
    assert agenda.backlog() == MOST_PER_SESSION + 1


def test_a_flood_in_one_directory_is_bounded() -> None:
    agenda = Agenda(workers=2)
    for number in range(3 * MOST_PER_DIRECTORY):
        agenda.add(Place("flood", f"{number}.db"))
    agenda.add(A)
    assert agenda.backlog() == MOST_PER_DIRECTORY + 1


def test_what_is_later_comes_when_it_is_due_and_the_earliest_moment_counts() -> None:
    agenda = Agenda(workers=2)
    now = time.monotonic()
    agenda.add_at(A, now + 3600)
    agenda.add_at(B, now + 0.02)
    agenda.add_at(A, now + 0.04)
    agenda.add_at(A, now + 1800)
    assert agenda.take() == B
    assert agenda.take() == A
    assert time.monotonic() >= now + 0.04


def test_what_is_due_earlier_wakes_a_worker_that_waits_for_what_is_due_later() -> None:
    agenda = Agenda(workers=2)
    agenda.add_at(A, time.monotonic() + 3600)
    taken: list[Place | None] = []
    worker = threading.Thread(target=lambda: taken.append(agenda.take()))
    worker.start()
    agenda.add_at(B, time.monotonic() + 0.01)
    worker.join(10)
    assert taken == [B]
    agenda.close()


def test_a_sweep_leaves_alone_what_is_due_anyway_but_a_hint_does_not() -> None:
    agenda = Agenda(workers=2)
    agenda.add_at(A, time.monotonic() + 3600)
    agenda.add(A, urgent=False)
    assert agenda.backlog() == 0
    agenda.add(A)
    assert drained(agenda) == [A]


def test_what_is_due_and_not_urgent_lets_pass_what_is_hinted_at() -> None:
    agenda = Agenda(workers=2)
    for number in range(20):
        agenda.add_at(Place(f"held-{number}", "x.db"), time.monotonic(), urgent=False)
    agenda.add_at(B, time.monotonic())
    agenda.add(A)
    assert {agenda.take(), agenda.take()} == {A, B}


def test_what_is_not_urgent_gets_a_turn_now_and_then_however_much_is() -> None:
    agenda = Agenda(workers=2)
    agenda.add_at(A, time.monotonic(), urgent=False)
    agenda.add(B, urgent=False)
    for number in range(100):
        agenda.add(Place(f"flood-{number}", "x.db"))
    taken = [agenda.take() for _ in range(30)]
    assert {A, B} <= set(taken)


def test_a_place_that_is_due_and_was_swept_is_looked_at_once() -> None:
    agenda = Agenda(workers=2)
    agenda.add(A, urgent=False)
    agenda.add_at(A, time.monotonic())
    assert drained(agenda) == [A]


def test_what_is_forgotten_is_not_due_any_more() -> None:
    agenda = Agenda(workers=2)
    agenda.add_at(A, time.monotonic())
    agenda.forget(A)
    agenda.add(B, urgent=False)
    assert drained(agenda) == [B]


def test_closing_lets_every_worker_go() -> None:
    agenda = Agenda(workers=3)
    workers = [threading.Thread(target=agenda.take) for _ in range(3)]
    for worker in workers:
        worker.start()
    agenda.close()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


@given(
    hints=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"), st.booleans(), st.booleans()), max_size=40)
)
def test_no_hint_is_lost_and_nothing_is_in_two_hands(hints: list[tuple[str, str, bool, bool]]) -> None:
    agenda = Agenda(workers=3)
    hinted = set()
    held: list[Place] = []
    looked_at: Counter[Place] = Counter()
    for directory, name, urgent, give_back in hints:
        place = Place(directory, name)
        agenda.add(place, urgent=urgent)
        hinted.add(place)
        if give_back and held:
            agenda.done(held.pop())
        if agenda.backlog() > len(held) and len(held) < 2:
            taken = agenda.take()
            assert taken is not None
            assert taken not in held
            looked_at[taken] += 1
            held.append(taken)
    for place in held:
        agenda.done(place)
    looked_at.update(drained(agenda))
    assert set(looked_at) == hinted


def test_an_idle_worker_shows_itself_at_once_and_a_busy_one_when_it_comes_back() -> None:
    agenda = Agenda(workers=1)
    shown = threading.Event()
    worker = threading.Thread(target=agenda.take)
    worker.start()
    agenda.sign(shown.set)
    assert shown.wait(10)
    agenda.add(A)
    worker.join(10)
    late = threading.Event()
    agenda.sign(late.set)
    assert not late.is_set()
    agenda.done(A)
    agenda.add(B)
    assert agenda.take() == B
    assert late.is_set()


class Counting(Agenda):
    """Counts how often a worker has looked for something to do. One that finds nothing waits before another call comes
    in, for it keeps the agenda's lock until it does."""

    looks = 0

    def _next_now(self) -> Place | None:
        self.looks += 1
        return super()._next_now()

    def wait_for_looks(self, number: int) -> None:
        until = time.monotonic() + 10
        while self.looks < number:
            assert time.monotonic() < until
            time.sleep(0.001)


class Crew:
    """Workers that keep what they take until they are released."""

    def __init__(self, agenda: Agenda, workers: int) -> None:
        self.taken: Queue[Place] = Queue()
        self._agenda = agenda
        self._release = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (place := self._agenda.take()) is not None:
            self.taken.put(place)
            self._release.wait()  # as a rollback that takes long
            self._agenda.done(place)

    def close(self) -> None:
        self._release.set()
        self._agenda.close()
        for thread in self._threads:
            thread.join()


def test_what_is_due_later_is_taken_in_time_though_who_waited_for_it_has_got_something_else() -> None:
    agenda = Counting(workers=3)
    with closing(Crew(agenda, 3)) as crew:
        agenda.wait_for_looks(3)
        now = time.monotonic()
        agenda.add_at(B, now + 0.3)
        agenda.add_at(C, now + 0.4)
        agenda.wait_for_looks(4)  # one was woken by that, and waits until then
        agenda.add(A)
        assert [crew.taken.get(timeout=5) for _ in range(3)] == [A, B, C]


def test_what_is_due_at_one_moment_is_taken_by_as_many_as_there_are() -> None:
    agenda = Agenda(workers=3)
    with closing(Crew(agenda, 3)) as crew:
        moment = time.monotonic() + 0.2
        for place in (A, B, C):
            agenda.add_at(place, moment)
        assert {crew.taken.get(timeout=5) for _ in range(3)} == {A, B, C}


def test_workers_that_are_idle_are_not_all_given_to_one_session() -> None:
    agenda = Counting(workers=3)
    with closing(Crew(agenda, 3)) as crew:
        agenda.wait_for_looks(3)
        for name in ("1.db", "2.db", "3.db"):
            agenda.add(Place("a", name))
        agenda.add(B)
        assert {crew.taken.get(timeout=5) for _ in range(3)} == {Place("a", "1.db"), Place("a", "2.db"), B}
        assert agenda.waiting() == 1


def test_nobody_wakes_up_for_what_is_due_later_than_what_one_keeps_the_time_for() -> None:
    agenda = Counting(workers=3)
    with closing(Crew(agenda, 3)) as crew:
        agenda.wait_for_looks(3)
        agenda.add_at(A, time.monotonic() + 0.3)
        agenda.wait_for_looks(4)
        for number in range(20):
            agenda.add_at(Place(f"{number}", "x.db"), time.monotonic() + 3600)
        assert crew.taken.get(timeout=5) == A
        agenda.wait_for_looks(4 + 2)  # it has taken that, and another one keeps the time
        assert agenda.looks == 4 + 2
