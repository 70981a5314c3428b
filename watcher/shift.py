"""What one thread has the crew do: several jobs at a time, of which it learns the ends."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

from watcher import hand
from watcher.crew import Crew, Hand
from watcher.rollback import BusyError, Job, RollbackError, Rolled

__all__ = ["Shift"]

_MOST_BYTES = 16 << 20
"""A larger database is rolled back here: it takes long enough for its progress to be watched (`liveness`)."""
_TAKEN_UP_WITHIN_S = 0.1
"""After its last judgement; a job that had to wait longer is judged again."""
_SURELY_NOT_S = 0.1
"""After that time: an answer that was sent before it has come by then."""
_CHECKED_EVERY_S = 0.1
"""Not at each answer: 500 recoveries would take a twentieth longer."""

_Whose = TypeVar("_Whose")


class _Given(Generic[_Whose]):
    """A job that was given to a process.

    Attributes:
        whose: comes back with its end.
        until: by time.monotonic: it is not taken up later.
        is_told: its end has come back, whatever its answer will be.
    """

    __slots__ = ("is_told", "until", "whose")

    def __init__(self, whose: _Whose, until: float) -> None:
        self.whose = whose
        self.until = until
        self.is_told = False


class Shift(Generic[_Whose]):
    """What one thread has a crew do: several jobs at a time. Used by that thread alone."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._at_it: dict[int, tuple[Hand, deque[_Given[_Whose]]]] = {}  # by the descriptor of the channel, in order
        self._answers = select.poll()
        self._check_at = 0.0  # by time.monotonic

    def __len__(self) -> int:
        """How many jobs have not ended."""
        return sum(len(row) for _, row in self._at_it.values())

    def begin(self, job: Job, whose: _Whose) -> bool:
        """Have it done. False where it is to be done here: none is free, it is too large, or its path is too long.

        Args:
            job: was judged right now.
            whose: comes back with its end.
        """
        if job.most_bytes > _MOST_BYTES or len(job.path) > hand.LONGEST_PATH:
            return False
        helper = self._crew.take()
        if helper is None:
            return False
        until = time.monotonic() + _TAKEN_UP_WITHIN_S
        try:
            descriptor = helper.begin(job, until)
        except EOFError:
            self._crew.give_back(helper)
            return False
        if descriptor not in self._at_it:
            self._at_it[descriptor] = helper, deque()
            self._answers.register(descriptor, select.POLLIN)
        self._at_it[descriptor][1].append(_Given(whose, until))
        if job.let_go is not None:
            job.let_go()
        return True

    def ended(self, *, waits: bool = True) -> list[tuple[_Whose, Rolled | Exception]]:
        """All jobs that have ended, with what :func:`watcher.rollback.perform` would have returned or raised. A process
        that meets what nobody has thought of makes it a RuntimeError.

        Args:
            waits: until one has, where there is one.
        """
        ended: list[tuple[_Whose, Rolled | Exception]] = []
        timeout_ms: float | None = _CHECKED_EVERY_S * 1000 if waits else 0
        while not ended and self._at_it:
            answers = self._answers.poll(timeout_ms)
            for descriptor, _ in answers:
                given, outcome = self._answer(descriptor)
                if not given.is_told:
                    ended.append((given.whose, outcome))
            if time.monotonic() >= self._check_at:
                self._check_at = time.monotonic() + _CHECKED_EVERY_S
                ended += self._not_taken_up()
            if not waits:
                break
            if not answers and not any(self._waiting()):
                timeout_ms = None
        return ended

    def _answer(self, descriptor: int) -> tuple[_Given[_Whose], Rolled | Exception]:
        helper, row = self._at_it[descriptor]
        given = row.popleft()
        if not row:
            del self._at_it[descriptor]
            self._answers.unregister(descriptor)
        outcome: Rolled | Exception
        try:
            outcome = helper.receive()
        except (RollbackError, OSError, RuntimeError) as error:
            outcome = error
        self._crew.give_back(helper)
        return given, outcome

    def _waiting(self) -> Iterator[tuple[int, _Given[_Whose]]]:
        """Those that stand behind another one in the same process, with the descriptor of its channel."""
        for descriptor, (_, row) in self._at_it.items():
            if len(row) > 1:
                yield from ((descriptor, given) for given in islice(row, 1, None) if not given.is_told)

    def _not_taken_up(self) -> list[tuple[_Whose, BusyError]]:
        """Those that will not be done any more. Their process is at the job before, which a dead disk may hold for
        ever: it answers that before it takes up the next, and does not take that up after its time."""
        now = time.monotonic()
        has_answered = {descriptor for descriptor, _ in self._answers.poll(0)}  # after `now`: we may have slept between
        too_late = [
            given
            for descriptor, given in self._waiting()
            if now > given.until + _SURELY_NOT_S and descriptor not in has_answered
        ]
        for given in too_late:
            given.is_told = True
        return [(given.whose, BusyError(hand.TOO_LATE)) for given in too_late]
