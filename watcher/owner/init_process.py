"""The first process of a container, where it is a process of our own kernel, and the cgroup of all of them.

An engine says that a container has ended some 30 ms after the kernel has ended its processes, and answers nothing about
it while it is dealing with that. The kernel tells at once: a pidfd of the first process, which no other process that
gets the same pid can be taken for, and the container's cgroup, in which every process of it is counted.
"""

from __future__ import annotations

import os
import re
import resource
import select
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watcher.owner.engine_model import Details
from watcher.owner.mounts import Key, keys_of_mountinfo

__all__ = ["InitProcess"]

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, eq=False)
class InitProcess:
    """A container's first process, proved to be its: while the pidfd was open and the process ran, its cgroup named the
    container.

    Attributes:
        pid: in our own pid namespace.
        started_ns: when the engine says that it has started this run of the container.
        mounts: the `place` keys of what it can write to; None where we may not read them.
        cgroup: the container's, as a directory; None where it cannot be found from here.
    """

    pid: int
    started_ns: int
    mounts: frozenset[Key] | None
    cgroup: Path | None
    pidfd: int

    @property
    def ended(self) -> bool:
        """It is gone, or a zombie: its files are closed."""
        waiting = select.poll()
        waiting.register(self.pidfd, select.POLLIN)
        return bool(waiting.poll(0))

    @property
    def all_ended(self) -> bool:
        """No process of the container is left, and none has been started since. False where that cannot be told."""
        return self.ended and self.cgroup is not None and not _populated(self.cgroup)

    @property
    def some_left(self) -> bool:
        """A process of the container is left, or was started since. False where that cannot be told."""
        return not self.ended or (self.cgroup is not None and _populated(self.cgroup))

    @classmethod
    def find(cls, container_id: str, details: Details) -> InitProcess | None:
        """The process that the engine names, if it is one of ours and still runs; None else: the pid of an engine in a
        virtual machine, on another host or outside our pid namespace is somebody else's here. None, too, where as many
        as we may hold are held already: of the others the engine tells."""
        if sys.platform != "linux" or details.pid <= 0 or len(_held) >= _most_held():
            return None
        try:
            pidfd = os.pidfd_open(details.pid)
        except OSError:  # there is none of this pid, or no pidfd on this kernel
            return None
        try:
            paths = _cgroup_paths(details.pid, container_id)
            mounts = _mounts_of(details.pid)
            cgroup = next((each for each in _directories(paths) if details.pid in _pids(each)), None)
        except BaseException:
            os.close(pidfd)
            raise
        found = cls(details.pid, details.started_ns, mounts, cgroup, pidfd)
        weakref.finalize(found, os.close, pidfd)  # others may be asking it while it is replaced
        _held.add(found)
        # Had it ended before we read its cgroup, another process of that pid might have been read.
        return None if not paths or found.ended else found


_held: weakref.WeakSet[InitProcess] = weakref.WeakSet()


def _most_held() -> int:
    """How many pidfds may be open at once: they must not take the descriptors that a recovery needs."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def _cgroup_paths(pid: int, container_id: str) -> dict[str, str]:
    """The cgroups of a process that name the container, up to that name: controllers (empty: cgroup v2) to path."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    named = re.compile(rf"^\d+:([^:]*):(/.*{re.escape(container_id)}[^/]*)")
    return {match[1]: match[2] for line in lines if (match := named.match(line))}


def _directories(paths: dict[str, str]) -> Iterator[Path]:
    """Where the cgroups of these paths may be mounted; the caller sees whether the process is really in one."""
    for controllers, path in paths.items():
        places = [controllers.removeprefix("name=")] if controllers else ["", "unified"]
        yield from (_CGROUPS / place / path.lstrip("/") for place in places)


def _pids(cgroup: Path) -> set[int]:
    """All processes of a cgroup and of those below it; empty where there is none."""
    found: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        try:
            found.update(map(int, Path(directory, "cgroup.procs").read_text("ascii").split()))
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was removed this moment: there was nobody in it
        except OSError:  # EOPNOTSUPP: a threaded cgroup lists its processes above it
            continue
    return found


def _populated(cgroup: Path) -> bool:
    """Whether any process is left in a cgroup that was seen to be the container's."""
    try:
        events = (cgroup / "cgroup.events").read_text("ascii")  # cgroup v2: counts those below it, too
    except FileNotFoundError:
        return bool(_pids(cgroup))
    except OSError:  # ENODEV: it was removed while we read, and must not be taken for empty until it is gone
        return True
    return "populated 0" not in events


def _mounts_of(pid: int) -> frozenset[Key] | None:
    try:
        return keys_of_mountinfo(Path(f"/proc/{pid}/mountinfo").read_bytes())
    except OSError:  # another user's process: ptrace(2), PTRACE_MODE_READ
        return None
