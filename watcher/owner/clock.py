"""The clocks: when this machine booted, and whether somebody has set its wall clock since.

File times and pid files are stamped with the wall clock, and the kernel counts from the boot. The difference of the two
is the time of the boot, and it changes when and only when the wall clock is set: a slewed clock slews both
(CLOCK_BOOTTIME, clock_gettime(2)).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

if sys.platform != "linux":
    from watcher.owner import elsewhere

__all__ = ["STEP_NS", "WallClock", "boot_time_ns"]

STEP_NS = 1_000_000_000
"""A smaller change of the wall clock disturbs no comparison here."""


_READING_NS = 1_000_000
"""Two clocks cannot be read at once; between two readings that lie so close together no step is made up."""
_MOST_READINGS = 20


def boot_time_ns() -> int:
    """When this machine booted, by the wall clock of now: nanoseconds since the epoch."""
    if sys.platform != "linux":
        return elsewhere.boot_time_ns()
    # A process that is put to sleep between the two readings (by the scheduler, SIGSTOP, a paused or suspended machine)
    # would see a clock that has stepped by as much. So the reading that took the shortest counts.
    shortest, boot_ns = sys.maxsize, 0
    for _ in range(_MOST_READINGS):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if after - before < shortest:
            shortest, boot_ns = after - before, wall - (before + after) // 2
        if shortest < _READING_NS:
            break
    return boot_ns


class WallClock:
    """Remembers the time of the boot as it was when this object was made (and `earlier`, by an earlier run of this same
    boot), to notice when the wall clock steps. May be asked by any thread.

    Args:
        earlier: boot times, in nanoseconds since the epoch, that earlier runs have seen since this boot.
        measure: the clock; another one in tests.
    """

    def __init__(self, earlier: tuple[int, ...] = (), measure: Callable[[], int] = boot_time_ns) -> None:
        self._measure = measure
        self._lock = threading.Lock()
        seen = (*earlier, measure())
        self._least = min(seen)  # changed under _lock, like the next one, and only to lie further apart
        self._most = max(seen)

    def bounds(self) -> tuple[int, int]:
        """The least and the greatest boot time that the wall clock has shown so far, this moment included."""
        now = self._measure()
        if not self._least <= now <= self._most:
            with self._lock:
                self._least = min(self._least, now)
                self._most = max(self._most, now)
        return self._least, self._most

    def boot_ns(self) -> int:
        """The boot time that is safe to compare with: no file that is older than it was made since the boot, as far as
        we have seen the clock."""
        return self.bounds()[0]

    def has_stepped(self) -> bool:
        """Whether the wall clock has been set since this was made: no start of a process can be compared with the time
        of a file that was written before."""
        least, most = self.bounds()
        return most - least > STEP_NS
