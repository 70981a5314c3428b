"""The C library's memory, kept together."""

from __future__ import annotations

import ctypes

__all__ = ["keep_together"]

_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2


def keep_together() -> None:
    """Let all threads share two arenas, where the C library is glibc. To be called before the first thread.

    By itself glibc gives each thread one of its own (up to eight for each processor), and none gives back what it had
    once: with SQLite's page cache, of 2 MB in whichever thread has a large recovery, a dozen of them held 30 MB after
    some minutes of storms, measured. Two threads that wait for one another there lose microseconds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
