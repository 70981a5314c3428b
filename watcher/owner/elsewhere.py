"""What psutil tells of a process and of the boot, for systems other than Linux; there nothing loads it."""

from __future__ import annotations

import psutil

__all__ = ["boot_time_ns", "started_ns"]


def boot_time_ns() -> int:
    """When this machine booted, by its wall clock: nanoseconds since the epoch."""
    return int(psutil.boot_time() * 1e9)


def started_ns(pid: int) -> int | None:
    """When the process of this pid has started, by the wall clock: nanoseconds since the epoch; None where there is
    none, or only a zombie.

    Raises:
        PermissionError: it runs, and the system tells us no more of it.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return int(process.create_time() * 1e9)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(f"the system tells us nothing of pid {pid}") from error
