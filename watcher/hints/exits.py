"""The exit of a process as a hint: one thread waits on the pidfds of all owners that a journal waits for.

A pidfd becomes readable when its process has become a zombie, not when that is reaped (pidfd_open(2)): its locks and
files are gone by then. Where there are no pidfds (macOS), the reconciler's slow second look carries it.
"""

from __future__ import annotations

import os
import resource
import select
import threading
from collections.abc import Callable

from loguru import logger

from watcher.tree import Place

__all__ = ["Exits"]

MOST_PROCESSES = 1000
"""More are not watched at once; they are looked at again slowly, like all that wait."""


def _most_processes() -> int:
    """Nor may they take the descriptors that a recovery needs."""
    return min(MOST_PROCESSES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class Exits:
    """Watches processes and hints at the places that wait for them.

    Args:
        hint: called from this object's thread with each place whose process has exited.
    """

    def __init__(self, hint: Callable[[Place], None]) -> None:
        self._hint = hint
        self._lock = threading.Lock()
        self._descriptors: dict[int, int] = {}  # pid -> pidfd; guarded by _lock, like the next two
        self._pids: dict[int, int] = {}  # pidfd -> pid
        self._places: dict[int, set[Place]] = {}  # pid -> places
        self._thread: threading.Thread | None = None
        self._epoll: select.epoll | None = None
        self._wake: tuple[int, int] | None = None

    def start(self) -> None:
        """Begin to watch; does nothing where there are no pidfds."""
        if not hasattr(os, "pidfd_open") or not hasattr(select, "epoll"):
            return
        self._epoll = select.epoll()
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake[0], select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and let go of all processes."""
        if self._thread is None or self._epoll is None or self._wake is None:
            return
        os.write(self._wake[1], b"\0")
        self._thread.join()
        self._thread = None
        with self._lock:
            for descriptor in (*self._pids, *self._wake):
                os.close(descriptor)
            self._epoll.close()
            self._epoll = self._wake = None
            self._descriptors.clear()
            self._pids.clear()
            self._places.clear()

    def watch(self, pid: int, place: Place) -> bool:
        """Hint at this place when the process exits: at once where it already has.

        Returns:
            False where it cannot be watched now: a pid of another namespace, one too many, or no descriptor to be had.
            The slow second look stands for it, and may try again.
        """
        with self._lock:
            if self._epoll is None:
                return False
            if pid in self._descriptors:
                self._places[pid].add(place)
                return True
            if len(self._descriptors) >= _most_processes():
                return False
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                gone = True
            except OSError:
                return False
            else:
                gone = False
                try:
                    self._epoll.register(descriptor, select.EPOLLIN)
                except OSError:  # fs.epoll.max_user_watches, or memory
                    os.close(descriptor)
                    return False
                self._descriptors[pid] = descriptor
                self._pids[descriptor] = pid
                self._places[pid] = {place}
        if gone:
            self._hint(place)
        return True

    def forget(self, pid: int, place: Place) -> None:
        """The place waits for this process no more."""
        with self._lock:
            places = self._places.get(pid)
            if places is not None:
                places.discard(place)
                if not places:
                    self._let_go(pid)

    def _let_go(self, pid: int) -> None:
        assert self._epoll is not None
        descriptor = self._descriptors.pop(pid)
        del self._pids[descriptor], self._places[pid]
        self._epoll.unregister(descriptor)
        os.close(descriptor)

    def _run(self) -> None:
        assert self._epoll is not None
        assert self._wake is not None
        while True:
            ready = [descriptor for descriptor, _ in self._epoll.poll()]
            if self._wake[0] in ready:
                return
            for descriptor in ready:
                for place in self._exited(descriptor):
                    try:
                        self._hint(place)
                    except Exception:  # noqa: BLE001 - the top of a thread, which must go on for the other places
                        logger.exception("a hint of an exit failed")

    def _exited(self, descriptor: int) -> set[Place]:
        with self._lock:
            pid = self._pids.get(descriptor)
            # Forgotten meanwhile; and its number may be that of another process's by now.
            if pid is None or not _has_exited(descriptor):
                return set()
            places = self._places[pid]
            self._let_go(pid)
            return places


def _has_exited(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
