"""An emitter of our own on Linux: one inotify descriptor for the whole tree, and next to no work for a live writer.

A commit in DELETE mode closes the journal and deletes it some ten microseconds later; a death closes it, and no delete
follows. So a close is held back until one more read has brought no delete for it: a fraction of a millisecond when it
is quiet. Under load events are let gather for some milliseconds, and most closes meet their delete in the same read. In
a storm the deletes are left out, see `inotify_muting`.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

from watchdog.observers.api import EventQueue, ObservedWatch

from watcher.hints.emitter import HintEmitter
from watcher.hints.inotify_directories import Directories
from watcher.hints.inotify_events import (
    GULP_BYTES,
    LARGEST_EVENT_BYTES,
    MUTED,
    RIPE,
    Closed,
    DirectoryEvent,
    In,
    Inotify,
    is_deletion,
    is_lone_journal,
    sift,
)
from watcher.hints.inotify_muting import Muting
from watcher.hints.trouble import Sink, Trouble
from watcher.tree import Tree

__all__ = ["InotifyEmitter"]

_LINGER_S = 0.0002
"""How long a close waits for its delete when it is quiet: about ten times what lies between the two."""
_ALONE_MS = 1
"""How long one that was read alone waits for whatever comes next: the least that poll(2) can."""
_OURS_S = 0.001
"""How long a delete that was read alone waits. It is most likely our own recovery's: the close of the database follows
within a third of that, and to be woken up for it, too, would take the processor from who waits for the database."""
_GATHER_S = 0.004
"""How long events are let gather under load. A timer costs as much CPU as to be woken up, so it pays only where it
brings several commits together."""
_BUSY_WAKES, _BUSY_WITHIN_S = 32, 0.045
"""Being woken up so often within such a time is load: some 700 commits a second."""
_BUSY_BYTES, _QUIET_BYTES = 2048, 200
"""A read that brings so much is load, too; one that brings so little, after events were let gather, ends it."""
_STORM_S, _STORM_BYTES = 0.012, 2560
"""A read that brings so much, some 6,000 commits a second, is a storm: to read seldom is cheaper then, and who waits
for the processor among such writers waits as long anyway. Of ten times as many the kernel's queue holds a hundred
milliseconds."""
_CONTENDED_S, _CONTENDED_PAUSE_S = 0.001, 2.0
"""To yield the processor and get it back only after so long: others want it, and for a while we keep it."""
_TIMED = 8
"""Of so many times that we yield one is timed: to look at the clock costs as much as the yielding."""
_MOST_SPENT = 1024
"""Gulps that are remembered to have left nothing. A writer says the same at each commit, byte for byte."""
_STEPS = 64
"""Directories that are settled between two reads: under a millisecond."""
_OVERFLOW_PAUSE_S = 1.0
"""Between two rebuilds, where the queue overflows again and again."""
_DUE_MS = 1.0
"""Added to each timer, so that it is over when poll(2) comes back, which takes whole milliseconds."""


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
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._inotify = Inotify()
        except OSError:
            os.close(self._wake)
            raise
        self._watches = Directories(tree, self._inotify, sink)
        self._closed: Closed = {}
        self._muting = Muting(self._watches, self._closed)
        self._turn = 0
        self._gathers = False
        self._storms = False
        self._is_full = False
        self._spent: set[bytes] = set()
        self._yields_from = 0.0
        self._overflowed = False
        self._verify_at = 0.0
        self._wake_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def on_thread_stop(self) -> None:
        with self._wake_lock:  # the thread may have ended by itself, and closed it
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def queue_events(self, timeout: float) -> None:  # noqa: ARG002 - it is a poller's; here the kernel wakes us
        """One turn: wait, read, and pass on what has outlived a turn."""
        watches = self._watches
        self._turn += 1
        if self._closed or self._gathers or self._muting or watches.busy:
            self._pause()
            gulp = self._inotify.read()
            about_directories = sift(gulp, self._closed, self._turn, self._muting.gone)
            self._gathers = self._is_full or len(gulp) >= (_QUIET_BYTES if self._gathers else _BUSY_BYTES)
            self._storms = len(gulp) >= _STORM_BYTES
            self._is_full = len(gulp) > GULP_BYTES - LARGEST_EVENT_BYTES
            self._muting.see(self._turn, len(gulp), storms=self._storms)
        else:
            about_directories = self._rest()
        if not self.should_keep_running():
            return
        for event in about_directories:
            if event.mask & In.Q_OVERFLOW:
                self._overflowed = True
            else:
                watches.note(event)
        if self._closed:
            self._pass_on()
        self._see_to_directories(time.monotonic())

    def _rest(self) -> list[DirectoryEvent]:
        """Read while there is nothing to do but that: no event about a directory, no close without its delete.
        What is read here meets no close from before, so alike gulps come to the same.

        This is all that a commit costs when it is quiet, and each line of it shows: between two commits the processor
        has forgotten our code and data, and a wake-up costs it more than the work.
        """
        poll, give_way, read = self._poll.poll, os.sched_yield, os.read
        descriptor, closed, turn, spent = self._inotify.fileno(), self._closed, self._turn, self._spent
        wakes, since = 0, time.monotonic()
        timeout_ms, yields = self._milliseconds_to_a_timer(since), since >= self._yields_from
        while True:
            if timeout_ms is not None:  # whoever writes without a pause keeps no timer from its moment
                timeout_ms = self._milliseconds_to_a_timer(time.monotonic())
                if timeout_ms is None or timeout_ms <= _DUE_MS:
                    return []
            poll(timeout_ms)
            if yields:  # our waking up may have interrupted the writer between its close and its delete
                if (wakes + 1) % _TIMED:
                    give_way()
                else:
                    yields = self._give_way()
            try:
                gulp = read(descriptor, GULP_BYTES)
            except BlockingIOError:  # it was `stop`, or the timer
                return []
            number = turn
            if gulp not in spent and is_lone_journal(gulp):
                number, gulp = self._with_what_follows(gulp)
            if gulp not in spent:
                about_directories = sift(gulp, closed, number)
                self._gathers = len(gulp) >= _BUSY_BYTES
                if about_directories or self._gathers:
                    return about_directories
                if closed:
                    self._pass_on()
                    if closed:
                        return []
                else:
                    if len(spent) >= _MOST_SPENT:
                        spent.clear()
                    spent.add(gulp)
            wakes += 1
            if wakes == _BUSY_WAKES:
                now = time.monotonic()
                if now - since < _BUSY_WITHIN_S:
                    self._gathers = True
                    return []
                wakes, since, yields = 0, now, now >= self._yields_from

    def _with_what_follows(self, event: bytes) -> tuple[int, bytes]:
        """A close without its delete, or without the close of its database, which makes it a death: to wait here for
        whichever comes is cheaper than a turn for the two. Or a delete without its close.

        Returns:
            The number for `sift`, and the event with what has come behind it.
        """
        if is_deletion(event):
            time.sleep(_OURS_S)
        elif not self._poll.poll(_ALONE_MS):
            return RIPE, event
        return self._turn, event + self._inotify.read()

    def _give_way(self) -> bool:
        """Yield the processor, and say whether to do so again."""
        before = time.monotonic()
        os.sched_yield()
        now = time.monotonic()
        if now - before > _CONTENDED_S:
            self._yields_from = now + _CONTENDED_PAUSE_S
            return False
        return True

    def _milliseconds_to_a_timer(self, now: float) -> float | None:
        """None, for ever, unless something is missing or an overflow was answered a moment ago."""
        timers = [self._watches.retry_at, self._verify_at if self._overflowed else None]
        due = min((timer for timer in timers if timer is not None), default=None)
        return None if due is None else max(0.0, due - now) * 1000 + _DUE_MS

    def _pause(self) -> None:
        """Let events gather, or a close's delete come; not while there is other work, or the queue is filling up."""
        if not (self._watches.busy or self._is_full):
            time.sleep(_STORM_S if self._storms else _GATHER_S if self._gathers else _LINGER_S)

    def _see_to_directories(self, now: float) -> None:
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

    def _pass_on(self) -> None:
        survivors = [key for key, turn in self._closed.items() if MUTED < turn < self._turn]
        for key in survivors:
            del self._closed[key]
            place = self._watches.place(key)
            if place is not None:
                self._sink.hint(place)

    def _release(self) -> None:
        self._watches.close()
        self._inotify.close()
        with self._wake_lock:
            os.close(self._wake)
            self._wake = -1
