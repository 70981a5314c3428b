"""The root's own going, as its parent sees it.

The kernel tells the end of a directory to its own watches only when nobody has it open any more (`dentry_unlink_inode`
calls `fsnotify_inoderemove` at the last reference, Linux 6.18), and the service has its root open, for the lock. The
parent's watch is told at once.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

if sys.platform == "linux":
    from watcher.hints.inotify_events import In, Inotify

__all__ = ["RootHints"]

_GATHER_S = 0.05
"""A parent where much comes and goes does not keep us busy."""


class RootHints:
    """A thread that looks at the root whenever something was removed from, or moved out of or into, the directory that
    holds it, or the one that holds the link to it. Where there is no inotify it does nothing: the sweep looks, too.

    Args:
        gone: called once, from the thread, when the path of the root leads to another directory than at the start, or
            to none. It may call `stop`.
    """

    def __init__(self, root: Path, gone: Callable[[], None]) -> None:
        self._root = root
        self._gone = gone
        self._before = _identity(root)
        self._wake: int | None = None  # guarded by _lock
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch-root", daemon=True)

    def start(self) -> None:
        """
        Raises:
            OSError: we have run out of descriptors, or the kernel gives no thread.
        """
        if sys.platform == "linux":
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._wake = wake
            try:
                self._thread.start()
            except RuntimeError as error:  # "can't start new thread"
                self._wake = None
                os.close(wake)
                raise OSError(errno.EAGAIN, "the kernel gives us no thread to watch it with") from error

    def stop(self, deadline_s: float = 1.0) -> None:
        """End the thread; once only."""
        with self._lock:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(deadline_s)

    def _run(self) -> None:
        try:
            gone = self._wait()
        except OSError:  # no inotify, or a parent that we may not read: the sweep will notice
            gone = False
        with self._lock:
            assert self._wake is not None
            os.close(self._wake)
            self._wake = None
        if gone:
            self._gone()

    if sys.platform == "linux":

        def _wait(self) -> bool:
            """Whether the root went; else `stop` was called."""
            assert self._wake is not None
            inotify = Inotify()
            try:
                for directory in {os.path.dirname(os.path.abspath(self._root)), os.path.dirname(_real(self._root))}:
                    _watch(inotify, directory)
                poll = select.poll()
                poll.register(inotify.fileno(), select.POLLIN)
                poll.register(self._wake, select.POLLIN)
                while _identity(self._root) == self._before:
                    if any(descriptor == self._wake for descriptor, _ in poll.poll()):
                        return False
                    time.sleep(_GATHER_S)
                    inotify.read()
                return True
            finally:
                inotify.close()

    else:

        def _wait(self) -> bool:
            return False


if sys.platform == "linux":

    def _watch(inotify: Inotify, directory: str) -> None:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inotify.watch(descriptor, int(In.DELETE | In.MOVED_FROM | In.MOVED_TO | In.ONLYDIR))
        finally:
            os.close(descriptor)


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
