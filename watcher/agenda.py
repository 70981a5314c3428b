"""What to look at now and what to look at later: sets with fair turns, and a heap.

A place is in it once, however often it is hinted; it is in one worker's hands at a time, and a hint that comes
meanwhile makes it due again. Every session gets its turn, and in it every directory: a session that floods its own
directory, or makes as many as it can below it, delays only itself.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from watcher.tree import Place

__all__ = ["MOST_PER_DIRECTORY", "MOST_PER_SESSION", "Agenda"]

MOST_PER_DIRECTORY = 1000
"""More places of one directory are not kept: the next sweep finds what is left of them."""
MOST_PER_SESSION = 20_000
"""Nor more places of one session, in whatever directories of its."""
_BACKGROUND_TURN = 8
"""Each so many-th place is one that is not urgent, however many are."""


_NEVER = (math.inf, False)


class _Session:
    """Its places by directory; directories take turns."""

    def __init__(self) -> None:
        # Plain dicts: most directories have one place, a flood has 20,000, and an OrderedDict takes twice as much.
        self._directories: OrderedDict[str, dict[Place, None]] = OrderedDict()
        self.count = 0

    def add(self, place: Place) -> bool:
        places = self._directories.setdefault(place.directory, {})
        if place in places:
            return True
        if len(places) >= MOST_PER_DIRECTORY:
            return False
        if self.count >= MOST_PER_SESSION:
            if not places:
                del self._directories[place.directory]
            return False
        places[place] = None
        self.count += 1
        return True

    def discard(self, place: Place) -> None:
        places = self._directories.get(place.directory)
        if places is not None and place in places:
            del places[place]
            self.count -= 1
            if not places:
                del self._directories[place.directory]

    def take(self) -> Place:
        directory, places = next(iter(self._directories.items()))
        place = next(iter(places))
        del places[place]
        self.count -= 1
        if places:
            self._directories.move_to_end(directory)
        else:
            del self._directories[directory]
        return place


class _Turns:
    """Places by session; sessions take turns.

    Args:
        session_of: whose turn is the place's.
    """

    def __init__(self, session_of: Callable[[Place], str]) -> None:
        self._session_of = session_of
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._count = 0

    def add(self, place: Place) -> bool:
        whose = self._session_of(place)
        session = self._sessions.get(whose)
        if session is None:
            session = self._sessions[whose] = _Session()
        before = session.count
        added = session.add(place)
        self._count += session.count - before
        return added

    def discard(self, place: Place) -> None:
        if not self._count:
            return
        whose = self._session_of(place)
        session = self._sessions.get(whose)
        if session is not None:
            before = session.count
            session.discard(place)
            self._count += session.count - before
            if not session.count:
                del self._sessions[whose]

    def take(self, in_hand: dict[str, int], most_in_hand: int) -> Place | None:
        """The first place of the first session that has not its full share of the workers already."""
        for whose, session in self._sessions.items():
            if in_hand.get(whose, 0) < most_in_hand:
                place = session.take()
                self._count -= 1
                if session.count:
                    self._sessions.move_to_end(whose)
                else:
                    del self._sessions[whose]
                return place
        return None

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def __len__(self) -> int:
        return self._count


class _Waiter:
    """A worker that waits.

    Attributes:
        lock: released to wake it.
        until: when it wakes up by itself, by `time.monotonic`; infinite: never.
        place: what it is woken for, in its hands already; None: it is to look for itself.
    """

    __slots__ = ("lock", "place", "until")

    def __init__(self, until: float) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.until = until
        self.place: Place | None = None


class Agenda:
    """Shared by the threads that hint and the workers that look; everything below is guarded by `_turn`.

    Of the workers that wait the last to come is woken: what it needs is the least forgotten by the processor. One of
    them keeps the time for all, and is woken for something else only where no other waits.

    Args:
        workers: how many take from it: one session never has all of them, unless there is but one.
        session_of: the session of a place, which takes turns with the others; the default: its directory.
    """

    def __init__(self, workers: int, session_of: Callable[[Place], str] = lambda place: place.directory) -> None:
        self._turn = threading.Lock()
        self._idle: list[_Waiter] = []
        self._timekeeper: _Waiter | None = None  # the one of them that wakes up when something is due
        self._session_of = session_of
        self._urgent = _Turns(session_of)
        self._background = _Turns(session_of)
        self._later: list[tuple[float, Place]] = []  # a heap; entries that `_due` does not confirm are void
        self._due: dict[Place, tuple[float, bool]] = {}  # when, and whether it is urgent then
        self._taken = 0
        self._held: dict[Place, bool | None] = {}  # in a worker's hands; True or False: hinted meanwhile, (not) urgent
        self._held_in: dict[str, int] = {}
        self._most_in_hand = max(1, workers - 1)
        self._signs: list[Callable[[], None]] = []
        self._closed = False

    def add(self, place: Place, *, urgent: bool = True) -> None:
        """Look at it now; what is urgent comes before what a sweep has found."""
        with self._turn:
            if place in self._held:
                self._held[place] = urgent or bool(self._held[place])
                return
            self._enqueue(place, urgent=urgent)

    def add_at(self, place: Place, moment: float, *, urgent: bool = True) -> None:
        """Look at it at this moment of `time.monotonic`, or earlier where it is due earlier. What is not urgent then
        lets pass what is, as a sweep's places do."""
        with self._turn:
            if moment < self._due.get(place, _NEVER)[0]:
                self._due[place] = (moment, urgent)
                heapq.heappush(self._later, (moment, place))
                if moment < self._time_is_kept_until():
                    self._wake_one()

    def sign(self, show: Callable[[], None]) -> None:
        """Have the next worker that comes for a place (at once, where one is idle) call `show` first, which must not
        wait: the sign that it lives."""
        with self._turn:
            self._signs.append(show)
            self._wake_one()

    def take(self) -> Place | None:
        """Wait for the next place to look at, which is in the caller's hands then until :meth:`done`. None when the
        agenda is closed."""
        with self._turn:
            while not self._closed:
                place = self._next_now() or self._wait()
                if place is not None:
                    # What was due with it is for others, and one of them keeps the time in our place.
                    if self._urgent or self._background or (self._later and self._timekeeper is None):
                        self._wake_one()
                    return place
            return None

    def take_now(self) -> Place | None:
        """The next place to look at, as :meth:`take` gives it; None where there is none at the moment."""
        with self._turn:
            return None if self._closed else self._next_now()

    def done(self, place: Place) -> None:
        """The caller is through with it."""
        with self._turn:
            hinted = self._held.pop(place)
            whose = self._session_of(place)
            left = self._held_in[whose] - 1
            if left:
                self._held_in[whose] = left
            else:
                del self._held_in[whose]
            if hinted is not None:
                self._enqueue(place, urgent=hinted)
            elif left + 1 >= self._most_in_hand and (self._urgent or self._background):
                self._wake_one()  # its session may have waited for this

    def forget(self, place: Place) -> None:
        """Nothing is due for it any more; a hint that has come stands."""
        with self._turn:
            self._due.pop(place, None)

    def close(self) -> None:
        """Let every worker go."""
        with self._turn:
            self._closed = True
            while self._idle:
                self._wake_one()

    def waiting(self) -> int:
        """How many places wait for a worker."""
        return len(self._urgent) + len(self._background)  # a peek: as below

    def is_pressed(self) -> bool:
        """Whether something urgent waits for its turn."""
        return bool(self._urgent)  # a peek: nobody minds if it is a moment old

    def backlog(self) -> int:
        """How many places are to be looked at now, those in a worker's hands included."""
        with self._turn:
            return len(self._urgent) + len(self._background) + len(self._held)

    def _wait(self) -> Place | None:
        """Let go of `_turn` until somebody wakes us, or something is due; the place that we were woken for, if any."""
        due = self._next_due()
        waiter = _Waiter(due if due < self._time_is_kept_until() else math.inf)
        if waiter.until < math.inf:
            self._timekeeper = waiter
        self._idle.append(waiter)
        self._turn.release()
        try:
            left_s = max(0.0, waiter.until - time.monotonic())
            waiter.lock.acquire(timeout=left_s if left_s < threading.TIMEOUT_MAX else -1.0)
        finally:
            self._turn.acquire()
            if waiter in self._idle:  # nobody has woken us
                self._idle.remove(waiter)
            if self._timekeeper is waiter:
                self._timekeeper = None
        return waiter.place

    def _wake_one(self, place: Place | None = None) -> None:
        if self._idle:
            is_keeper = self._idle[-1] is self._timekeeper
            waiter = self._idle.pop(-2 if is_keeper and len(self._idle) > 1 else -1)
            waiter.place = place
            waiter.lock.release()

    def _enqueue(self, place: Place, *, urgent: bool) -> None:
        if urgent:
            self._background.discard(place)
            if self._idle and not self._urgent and self._may_have(self._session_of(place)):
                self._due.pop(place, None)
                self._hold(place)
                self._wake_one(place)
                return
            added = self._urgent.add(place)
        else:
            added = place not in self._due and self._background.add(place)
        if added:
            self._due.pop(place, None)
            self._wake_one()

    def _next_now(self) -> Place | None:
        while self._signs:
            self._signs.pop()()
        self._move_due()
        return self._next()

    def _next(self) -> Place | None:
        in_order = (self._urgent, self._background)
        for turns in in_order if (self._taken + 1) % _BACKGROUND_TURN else reversed(in_order):
            place = turns.take(self._held_in, self._most_in_hand)
            if place is not None:
                self._taken += 1
                self._urgent.discard(place)
                self._background.discard(place)
                self._hold(place)
                return place
        return None

    def _may_have(self, whose: str) -> bool:
        return self._held_in.get(whose, 0) < self._most_in_hand

    def _hold(self, place: Place) -> None:
        self._held[place] = None
        whose = self._session_of(place)
        self._held_in[whose] = self._held_in.get(whose, 0) + 1

    def _move_due(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            moment, place = heapq.heappop(self._later)
            due_at, urgent = self._due.get(place, _NEVER)
            if due_at != moment:
                continue
            del self._due[place]
            if place in self._held:
                self._held[place] = urgent or bool(self._held[place])
            else:
                (self._urgent if urgent else self._background).add(place)

    def _time_is_kept_until(self) -> float:
        return self._timekeeper.until if self._timekeeper is not None else math.inf

    def _next_due(self) -> float:
        while self._later and self._due.get(self._later[0][1], _NEVER)[0] != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else math.inf
