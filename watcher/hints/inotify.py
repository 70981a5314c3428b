"""An emitter of our own on Linux: one inotify descriptor for the whole tree, and next to no work for a live writer.

A commit in DELETE mode closes the journal and deletes it some ten microseconds later; a death closes it, and no delete
follows. So a close is held back until one more read has brought no delete for it. When it is quiet that read comes
after a fraction of a millisecond; under load events are let gather for some milliseconds, and most closes meet their
delete in the same read.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

from watchdog.observers.api import EventQueue, ObservedWatch
from watchdog.utils import Seconds

from watcher.hints.emitter import HintEmitter
from watcher.hints.inotify_directories import Directories
from watcher.hints.inotify_events import GULP_BYTES, Closed, In, Inotify, sift
from watcher.hints.trouble import Sink, Trouble
from watcher.tree import Tree

__all__ = ["InotifyEmitter", "Pace"]

_LINGER_S = 0.0002
"""How long a close waits for its delete when it is quiet: about ten times what lies between the two."""
_STEPS = 64
"""Directories that are settled between two reads: under a millisecond."""
_OVERFLOW_PAUSE_S = 1.0
"""Between two rebuilds, where the queue overflows again and again."""


class Pace:
    """How long to let events gather before they are read.

    Nothing when it is quiet. Under load about as long as lets a hundred events come together, but no longer than a
    recovery can wait, and no longer than fills half a gulp: the kernel's queue must never run full meanwhile.
    """

    LONGEST_S = 0.004
    _SMOOTHED_OVER_S = 0.05
    _SECONDS_PER_BYTE_A_SECOND = 2e-8
    _SHORTEST_S = 0.0003

    def __init__(self) -> None:
        self.gather_s = 0.0
        self._bytes_per_s = 0.0
        self._last = 0.0

    def note(self, size_bytes: int, now: float) -> None:
        """A read has brought so much.

        Args:
            size_bytes: of the events.
            now: by the monotonic clock.
        """
        elapsed = max(now - self._last, 1e-6)
        self._last = now
        self._bytes_per_s += (size_bytes / elapsed - self._bytes_per_s) * min(1.0, elapsed / self._SMOOTHED_OVER_S)
        gather = min(self.LONGEST_S, self._bytes_per_s * self._SECONDS_PER_BYTE_A_SECOND)
        if size_bytes > GULP_BYTES // 2:
            gather = 0.0
        elif self._bytes_per_s:
            gather = min(gather, GULP_BYTES / 2 / self._bytes_per_s)
        self.gather_s = gather if gather >= self._SHORTEST_S else 0.0


class InotifyEmitter(HintEmitter):
    """Reads inotify, in one thread."""

    def __init__(
        self, event_queue: EventQueue, watch: ObservedWatch, *, tree: Tree, sink: Sink, **options: Any
    ) -> None:
        """
        Raises:
            OSError: there is no inotify descriptor to be had (EMFILE, ENOMEM).
        """
        super().__init__(event_queue, watch, tree=tree, sink=sink, **options)
        self.name = "watch-inotify"
        self._inotify = Inotify()
        self._watches = Directories(tree, self._inotify, sink)
        self._closed: Closed = {}
        self._turn = 0
        self._pace = Pace()
        self._overflowed = False
        self._verify_at = 0.0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def on_thread_stop(self) -> None:
        with self._wake_lock:  # the thread may have ended by itself, and closed it
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def queue_events(self, timeout: Seconds) -> None:  # noqa: ARG002 - it is a poller's; here the kernel wakes us
        """One turn: wait, read, and pass on what has outlived a turn."""
        if not self._await():
            return
        gulp = self._inotify.read()
        now = time.monotonic()
        self._turn += 1
        if gulp:
            for event in sift(gulp, self._closed, self._turn):
                if event.mask & In.Q_OVERFLOW:
                    self._overflowed = True
                else:
                    self._watches.note(event)
        self._pace.note(len(gulp), now)
        if self._closed:
            self._pass_on()
        if self._overflowed and now >= self._verify_at:
            self._overflowed = False
            self._verify_at = now + _OVERFLOW_PAUSE_S
            self._watches.verify()
            self._sink.sweep(Trouble.OVERFLOW)
        if self._watches.retry_at is not None and now >= self._watches.retry_at:
            self._watches.retry()
        if self._watches.busy:
            self._watches.work(_STEPS, now)
        self.directories = self._watches.watched
        self.missed = self._watches.missed
        self.ready = self._watches.ready

    def _await(self) -> bool:
        """Wait until there may be something to do; False where it is time to stop."""
        gather_s = self._pace.gather_s
        if not (self._closed or self._watches.busy):
            self._poll.poll(self._milliseconds_to_a_timer())
        elif not self._watches.busy:
            gather_s = max(gather_s, _LINGER_S)
        else:
            gather_s = 0.0
        if gather_s:
            time.sleep(gather_s)
        return self.should_keep_running()

    def _milliseconds_to_a_timer(self) -> float | None:
        """None, for ever, unless something is missing or has overflowed a moment ago."""
        timers = [self._watches.retry_at, self._verify_at if self._overflowed else None]
        due = min((timer for timer in timers if timer is not None), default=None)
        return None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1

    def _pass_on(self) -> None:
        survivors = [key for key, turn in self._closed.items() if turn < self._turn]
        for key in survivors:
            del self._closed[key]
            place = self._watches.place(*key)
            if place is not None:
                self._sink.hint(place)

    def _release(self) -> None:
        self._watches.close()
        self._inotify.close()
        with self._wake_lock:
            os.close(self._wake)
            self._wake = -1
