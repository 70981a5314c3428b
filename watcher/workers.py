"""The threads that look at one place after another, and see each through to its end.

What is to be done about a place comes as steps (`reconciler`): they run until a rollback is to be done, which is done
here, by the same thread or by a process of the crew, and then on to their end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

from watcher import rollback
from watcher.agenda import Agenda
from watcher.baton import Baton
from watcher.crew import Crew
from watcher.liveness import Hands
from watcher.rollback import Job, Rolled
from watcher.shift import Shift
from watcher.tree import Place

__all__ = ["Steps", "Workers"]

Steps = Generator[Job, Rolled, None]
"""What is done about a place. A rollback fails with what :func:`watcher.rollback.perform` raises."""

_STANDS_STILL_S = 0.01
"""When the one that drives has not begun anything for so long, it waits for a disk or an engine."""

_CREW_ENDS_WITHIN_S = 0.3
"""Also where a worker has needed all the time that there was to end in."""


class Workers:
    """A few threads.

    While many wait, one of them drives: it takes one place after the other, gives each rollback to a process that is
    free, and seldom waits. That takes two thirds of the CPU time of four that wait for their processes and for Python's
    lock; so the others let it, as long as it gets on.

    Args:
        count: how many.
        agenda: where they take from.
        hands: told what they have.
        crew: does rollbacks while many wait.
        steps: what is done about a place.
        failed: told of what nobody has thought of.
    """

    def __init__(
        self,
        count: int,
        agenda: Agenda,
        hands: Hands,
        crew: Crew,
        *,
        steps: Callable[[Place], Steps],
        failed: Callable[[Place, Exception], None],
    ) -> None:
        self._agenda = agenda
        self._hands = hands
        self._crew = crew
        self._steps = steps
        self._failed = failed
        self._baton = Baton()
        self._driving = threading.Lock()
        self._driver = 0  # ident of the thread that has it; written by that thread, like the next one
        self._driven = 0  # places and outcomes, a count
        self._stood_still_at = -1  # of that count
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        self._crew.start()
        for thread in self._threads:
            thread.start()

    def stop(self, deadline_s: float) -> bool:
        """Let each end what it has in its hands. False where one is still at it after the deadline: what it does is
        SQLite's rollback, which may be ended at any moment."""
        self._agenda.close()
        until = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._crew.stop(max(_CREW_ENDS_WITHIN_S, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def drives(self) -> bool:
        """Whether the calling thread drives."""
        return self._driver == threading.get_ident()

    def _work(self) -> None:
        while True:
            self._give_way()
            place = self._agenda.take()
            if place is None:
                return
            steps, job = self._begin(place)
            if job is None:
                continue
            if self._agenda.waiting() and self._crew.has_free() and self._driving.acquire(blocking=False):
                self._drive(place, steps, job)
            else:
                self._go_on(place, steps, self._done_here(job))

    def _give_way(self) -> None:
        """Let the one that drives take what there is, as long as it gets on."""
        while self._driving.locked() and self._driven != self._stood_still_at:
            driven = self._driven
            if self._driving.acquire(timeout=_STANDS_STILL_S):
                self._driving.release()
            elif driven == self._driven:
                self._stood_still_at = driven

    def _drive(self, place: Place, steps: Steps, job: Job | None) -> None:
        """Begin with one place after the other while processes are free, and go on with each when its rollback has
        ended."""
        shift: Shift[tuple[Place, Steps]] = Shift(self._crew)
        self._driver = threading.get_ident()
        try:
            while True:
                self._driven += 1
                if job is not None and not shift.begin(job, (place, steps)):
                    self._go_on(place, steps, self._done_here(job))
                job = None
                taken = self._agenda.take_now() if self._crew.has_free() else None
                if taken is not None:
                    place = taken
                    steps, job = self._begin(place)
                elif not len(shift):
                    return
                if job is None:  # of a thousand that cannot be recovered the next one is always there
                    for (ended, its_steps), outcome in shift.ended(waits=taken is None):
                        self._go_on(ended, its_steps, outcome)
        finally:
            self._driver = 0
            self._driving.release()

    def _begin(self, place: Place) -> tuple[Steps, Job | None]:
        self._hands.take(place)
        steps = self._steps(place)
        return steps, self._advance(place, lambda: next(steps))

    def _done_here(self, job: Job) -> Rolled | Exception:
        try:
            with self._baton:
                return rollback.perform(job)
        except Exception as error:  # noqa: BLE001 - it goes to the steps, and is told where they end
            return error

    def _go_on(self, place: Place, steps: Steps, outcome: Rolled | Exception) -> None:
        if isinstance(outcome, Exception):
            error = outcome
            job = self._advance(place, lambda: steps.throw(error))
        else:
            rolled = outcome
            job = self._advance(place, lambda: steps.send(rolled))
        assert job is None, "a place is one rollback at the most"

    def _advance(self, place: Place, step: Callable[[], Job]) -> Job | None:
        """The job that is to be done before it goes on; None where it is through."""
        try:
            with self._baton:
                return step()
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the top of a thread, which must go on for the other places
            self._failed(place, error)
        self._hands.give(place)
        self._agenda.done(place)
        return None
