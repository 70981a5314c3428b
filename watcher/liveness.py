"""Whether the reconciler turns: what a service manager's watchdog, /livez and a person want to know.

A worker that comes for its next place shows that it lives; an idle one can be asked to, and does at once. Where all of
them have their hands full it depends on what they do there. A look is over within the time-outs of the settings. The
rollback of a huge journal on a slow disk is not, and to kill it would only make it begin anew; but it reads and writes,
and a thread that does so is not hung.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from watcher.settings import Settings
from watcher.tree import Place

__all__ = ["Hands", "Held", "patience_s"]

_SAMPLES = 8
_BETWEEN_SAMPLES_S = 0.025
_MOST_QUESTIONS_TO_AN_ENGINE = 6
_MARGIN_S = 5.0


def patience_s(settings: Settings) -> float:
    """How long one look may last, seconds, with all its time-outs one after another, reading and writing apart."""
    owner = settings.owner
    asked = 0.0
    if owner.container is not None:
        asked += _MOST_QUESTIONS_TO_AN_ENGINE * owner.container.timeout
    if owner.command is not None:
        asked += 2 * (owner.command.timeout + 1.0)  # it is asked again before a rollback, a second later at the most
    return _MARGIN_S + asked + settings.recovery.busy_timeout


class Held(NamedTuple):
    """A place in a worker's hands: which worker's, and since when by `time.monotonic`."""

    place: Place
    worker: str
    thread_id: int
    since: float


class _Worker(threading.local):
    """The calling thread, found out once."""

    def __init__(self) -> None:
        self.name = threading.current_thread().name
        self.thread_id = threading.get_native_id()


class Hands:
    """What each worker has in its hands.

    Args:
        patience_s: a look that lasts longer is suspicious.
        beside: the pids of processes that do the workers' work.
    """

    def __init__(self, patience_s: float, beside: Callable[[], list[int]] = list) -> None:
        self._patience_s = patience_s
        self._beside = beside
        self._worker = _Worker()
        self._held: dict[Place, Held] = {}  # a place is in one worker's hands at a time

    def take(self, place: Place) -> None:
        """The calling worker begins with a place."""
        worker = self._worker
        self._held[place] = Held(place, worker.name, worker.thread_id, time.monotonic())

    def give(self, place: Place) -> None:
        """The calling worker is through with it."""
        del self._held[place]

    def held(self) -> list[Held]:
        """All that is in hand, the longest first."""
        return sorted(self._held.values(), key=lambda each: each.since)

    def goes_on(self) -> bool:
        """Whether a worker that has its hands full gets on: it has not had the place for long, or reads and writes.
        False where all are empty. It looks for a fifth of a second at the most."""
        held = self.held()
        if held and time.monotonic() - held[-1].since <= self._patience_s:
            return True
        if sys.platform != "linux":  # nobody tells there, and to be told off wrongly is the worse
            return bool(held)
        tasks = [f"/proc/self/task/{each.thread_id}" for each in held] + [f"/proc/{pid}" for pid in self._beside()]
        before = {task: _bytes_moved(task) for task in tasks}
        for _ in range(_SAMPLES if held else 0):
            if any(_waits_for_disk(task) or _bytes_moved(task) != moved for task, moved in before.items()):
                return True
            time.sleep(_BETWEEN_SAMPLES_S)
        return False


def _bytes_moved(task: str) -> tuple[str, ...]:
    """What the kernel counts of the reading and writing of a thread or process (proc(5)).

    Args:
        task: its directory in /proc.
    """
    try:
        return tuple(Path(f"{task}/io").read_text("ascii").splitlines()[:6])
    except OSError:  # it has ended, or this kernel does not count
        return ()


def _waits_for_disk(task: str) -> bool:
    """Whether it is in an uninterruptible sleep: nobody could end it now anyway."""
    try:
        stat = Path(f"{task}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] == ["D"]
