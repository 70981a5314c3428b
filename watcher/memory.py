"""The C library's memory, kept together, and Python's, looked through seldom."""

from __future__ import annotations

import ctypes
import gc
import os

__all__ = ["Spare", "keep_together", "pass_over", "pass_over_nothing"]

_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2
_COLLECTS_AFTER = 5_000
"""So many objects more than before. Python's own 700 cost a tenth of the CPU time of a hundred recoveries a second."""
_GROWN_BYTES = 4 << 20


def keep_together() -> None:
    """Let all threads share two arenas, where the C library is glibc. To be called before the first thread.

    By itself glibc gives each thread one of its own (up to eight for each processor), and none gives back what it had
    once: with SQLite's page cache, of 2 MB in whichever thread has a large recovery, a dozen of them held 30 MB after
    some minutes of storms, measured. Two threads that wait for one another there lose microseconds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def pass_over() -> None:
    """Have the collector of cycles pass over what there is by now, for good, and come less often. To be called when
    everything has started: a look through all of that costs as much as some tens of recoveries."""
    gc.freeze()
    gc.set_threshold(_COLLECTS_AFTER)


def pass_over_nothing() -> None:
    """Have it look at all of that again: much of it is given up now."""
    gc.unfreeze()


class Spare:
    """Memory that a storm has left behind, given back to the system. By itself glibc does it only at the end of an
    arena, where anything small that is still in use prevents it."""

    def __init__(self) -> None:
        self._least_bytes = _resident_bytes()  # since it was given back

    def look(self) -> None:
        """To be called now and then: where we have grown, free memory is given back, in less than a millisecond."""
        resident_bytes = _resident_bytes()
        if resident_bytes >= self._least_bytes + _GROWN_BYTES:
            malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if malloc_trim is not None:
                malloc_trim(0)
            self._least_bytes = _resident_bytes()  # what is left is in use
        else:
            self._least_bytes = min(self._least_bytes, resident_bytes)


def _resident_bytes() -> int:
    """What we have of the machine's memory (proc_pid_statm(5)); 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
