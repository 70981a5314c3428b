"""The thread that writes the history, so that no recovery waits for a disk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from watcher.names import printable
from watcher.records import log
from watcher.records.history import KEPT, History
from watcher.records.history_file import HistoryError, Trouble
from watcher.records.record import Record

__all__ = ["Recorder"]

_BATCH = 500
"""Records per transaction: a mass recovery costs one commit for so many, and not one for each."""
_APART_S, _MOST_APART_S = 0.2, 1.0
"""Between two commits: each costs a millisecond or two of CPU, the disk, and the interpreter's lock, which recoveries
want, too. So the first record after a quiet time is written at once, and those that follow share a commit; where they
do not end, the time doubles."""
_LONGEST_PAUSE_S = 30.0


class Recorder:
    """Takes records from any thread and appends them to the history in batches, in a thread of its own.

    While the history cannot be written, the newest `backlog` records are kept and tried again with growing pauses. A
    corrupt history is set aside, and a new one begun.

    Args:
        history: from now on this thread's.
        on_failed: called in the recorder's thread for each attempt that failed, with the error and the number of
            records that wait; for the event `state_failed`, with `Repeats`.
        on_back: called when it works again, with the number of records that were lost meanwhile; for `state_back`.
        backlog: how many records wait at most.
        first_pause_s: between the first two attempts, seconds.
        sweep_interval_s: the pauses grow to it at most, seconds: once the fault is gone, that is noticed with the next
            sweep at the latest.
    """

    def __init__(
        self,
        history: History,
        *,
        on_failed: Callable[[HistoryError, int], None],
        on_back: Callable[[int], None],
        backlog: int = 10_000,
        first_pause_s: float = 1.0,
        sweep_interval_s: float = _LONGEST_PAUSE_S,
    ) -> None:
        self._history = history
        self._on_failed = on_failed
        self._on_back = on_back
        self._backlog = backlog
        self._longest_pause_s = min(sweep_interval_s, _LONGEST_PAUSE_S)
        self._first_pause_s = min(first_pause_s, self._longest_pause_s)
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)  # something waits, or it is to stop
        self._waiting: deque[tuple[Record, str]] = deque()  # under _guard, as are the next two
        self._in_hand = 0
        self._lost = 0
        self._pause_s = 0.0  # the thread's own, like the next two; 0 while all is well
        self._next_due = 0.0  # by time.monotonic
        self._apart_s = _APART_S
        # A daemon, since a disk that hangs must not keep the process: stop() waits for it, but not for ever.
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Start the thread. Once only."""
        self._thread.start()

    def add(self, record: Record, change: str) -> None:
        """Hand a record over; it never waits. For `change` see :meth:`History.append`."""
        if record.outcome not in KEPT:
            return
        with self._guard:
            self._waiting.append((record, change))
            if len(self._waiting) > self._backlog:
                self._drop_oldest()
            if len(self._waiting) == 1:  # it is awake for the others, or sleeps until they may be written
                self._changed.notify()

    def stop(self, deadline_s: float = 3.0) -> int:
        """Write what waits, in one last attempt, and end the thread.

        Returns:
            How many records were not written within the deadline (seconds).
        """
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(deadline_s)
        with self._changed:
            return len(self._waiting) + self._in_hand

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except Exception as error:  # noqa: BLE001 - the top of a thread: a defect of ours costs one batch, not all
                with self._changed:
                    failed, self._in_hand = self._in_hand, 0
                    self._lost += failed
                message = f"{failed} records are not in the history: {type(error).__name__}: {error}"
                log.event("ERROR", "internal_error", message, exception=error)

    def _turn(self) -> bool:
        """Write one batch. False: it is over."""
        batch = self._next_batch()
        if not batch:
            return False
        try:
            mended = self._append(batch)
        except HistoryError as error:
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s) if self._pause_s else self._first_pause_s
            waiting, over = self._put_back(batch)
            self._on_failed(error, waiting)
            return not over
        self._next_due = time.monotonic() + self._apart_s
        with self._changed:
            self._in_hand = 0
            lost = self._lost
            if mended or self._pause_s:
                self._lost = 0
        if mended or self._pause_s:
            self._pause_s = 0.0
            self._on_back(lost)
        return True

    def _append(self, batch: list[tuple[Record, str]]) -> bool:
        """Whether a corrupt history had to be set aside for it."""
        try:
            self._history.append(batch)
        except HistoryError as error:
            if error.trouble is not Trouble.CORRUPT:
                raise
            aside = printable(self._history.set_aside())
            self._on_failed(
                HistoryError(
                    self._history.path, Trouble.CORRUPT, f"was damaged, and is now {aside}", "a new one is begun"
                ),
                len(batch),
            )
            self._history.append(batch)
            return True
        return False

    def _next_batch(self) -> list[tuple[Record, str]]:
        """The next records, after the pause; none where it is over."""
        if self._pause_s:
            self._stopping.wait(self._pause_s)
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
        left_s = self._next_due - time.monotonic()
        if left_s > 0:
            self._apart_s = min(2 * self._apart_s, _MOST_APART_S)
            self._stopping.wait(left_s)
        else:
            self._apart_s = _APART_S
        with self._changed:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._in_hand = len(batch)
            return batch

    def _put_back(self, batch: list[tuple[Record, str]]) -> tuple[int, bool]:
        with self._changed:
            self._waiting.extendleft(reversed(batch))
            self._in_hand = 0
            self._drop_oldest()
            return len(self._waiting), self._stopping.is_set()

    def _drop_oldest(self) -> None:
        while len(self._waiting) > self._backlog:
            self._waiting.popleft()
            self._lost += 1
