"""One process by its pid: does it run, and since when?"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from watcher.owner.clock import boot_time_ns

if sys.platform != "linux":
    from watcher.owner import elsewhere

__all__ = ["Process", "process_of"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs.

    Attributes:
        start_ticks: its start in clock ticks after the boot (proc(5), field 22 of /proc/PID/stat); None where the
            system does not count so.
        started_ns: its start by the wall clock of now, in nanoseconds since the epoch.
    """

    start_ticks: int | None
    started_ns: int


def process_of(pid: int) -> Process | None:
    """The process of this pid in our own pid namespace; None where there is none, or only a zombie: it has let go of
    its locks and files, and waits for nothing but its parent. (A process whose first thread alone has ended looks like
    one, and lives: its other threads hold locks and files.)

    Raises:
        PermissionError: it runs, and the system tells us no more of it.
    """
    if sys.platform != "linux":
        started_ns = elsewhere.started_ns(pid)
        return None if started_ns is None else Process(None, started_ns)
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            line = stat.read(4096)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        if _exists(pid):  # /proc is mounted with hidepid
            raise PermissionError(f"/proc tells us nothing of pid {pid}") from None
        return None
    # The second field is the command in parentheses, and may itself hold anything: count from the last parenthesis.
    fields = line.rpartition(b")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    if state in {b"X", b"x"} or (state == b"Z" and threads <= 1):
        return None
    return Process(ticks, boot_time_ns() + ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK")))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
