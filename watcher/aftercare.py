"""What has time: after a recovery was told its snapshot goes to the disk, and the thorough verification runs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from loguru import logger

from watcher.look import Looker
from watcher.names import printable
from watcher.records import log
from watcher.records.events import Event
from watcher.records.record import Record
from watcher.recovery import Recovery
from watcher.reports import Reports
from watcher.snapshots import Snapshots
from watcher.tree import Gone, Place, UnsafeError
from watcher.verification import Health

__all__ = ["Aftercare"]

_MOST_WAITING = 10_000
_GIVES_WAY_S, _LOOKS_S = 5.0, 0.1
_LINGERS_S = 5.0
"""For what a worker that is at its last recovery still brings, when there is nothing to come after that."""
_APART_S = 1.0
"""After all that waited was done: what comes meanwhile is done in one go, and does not wake the thread each time."""


class Aftercare:
    """One thread, so that neither a slow disk nor a hostile schema holds up a recovery.

    Args:
        busy: whether recoveries are waiting: what has waited for less than some seconds gives way to them.
    """

    def __init__(self, looker: Looker, recovery: Recovery, reports: Reports, busy: Callable[[], bool]) -> None:
        self._looker = looker
        self._recovery = recovery
        self._reports = reports
        self._busy = busy
        self._guard = threading.Lock()
        self._unsynced: list[tuple[str, str]] = []  # snapshot and its database; under _guard
        self._waiting: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._is_retired = False  # written once, like the next one
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="aftercare", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline_s: float = 1.0) -> None:
        """End the thread; what waits is left out. A verification that runs dies with the process."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(deadline_s)

    def retire(self) -> None:
        """Nothing more is recovered here, and another takes this one's place: what waits is done all the same, and then
        the thread ends. Never waits."""
        self._is_retired = True
        self._waiting.put((time.monotonic(), lambda: None))  # who waits without an end is to see it

    def add(self, place: Place, record: Record) -> None:
        """A database was recovered, or came out corrupt. Never waits: of a storm the last are left out, and said."""
        if max(self._waiting.qsize(), len(self._unsynced)) >= _MOST_WAITING:
            self._reports.unverified(place, record, "too many recoveries at once")
            return
        if self._has_ended:
            self._reports.unverified(place, record, "it took longer than a reload waits")
            return
        if record.snapshot is not None:
            self._sync_soon(record.snapshot, record.database)
        if self._recovery.verifies_thoroughly:
            self.add_task(lambda: self._verify(place, record))

    def add_task(self, task: Callable[[], None]) -> None:
        """Something else that has time. Never waits."""
        self._waiting.put((time.monotonic(), task))

    @property
    def goes_on(self) -> bool:
        """False once it is to end: a long task asks now and then."""
        return not self._stopping.is_set()

    def _run(self) -> None:
        while (waiting := self._next()) is not None and self.goes_on:
            since, task = waiting
            self._give_way(since + _GIVES_WAY_S)
            try:
                task()
            except Exception:  # noqa: BLE001 - the top of a thread, which must go on for the other places
                logger.exception("what comes after a recovery failed")
            if self._waiting.empty():
                self._stopping.wait(_APART_S)
        self._has_ended = True

    def _next(self) -> tuple[float, Callable[[], None]] | None:
        """None where nothing comes any more."""
        try:
            return self._waiting.get(timeout=_LINGERS_S if self._is_retired else None)
        except queue.Empty:
            return None

    def _give_way(self, until: float) -> None:
        """A flood that never ends delays each by the same, and not one by the other."""
        while self._busy() and time.monotonic() < until and not self._stopping.wait(_LOOKS_S):
            pass

    def _sync_soon(self, snapshot: str, database: str) -> None:
        with self._guard:
            self._unsynced.append((snapshot, database))
            is_first = len(self._unsynced) == 1
        if is_first:
            self.add_task(self._sync)

    def _sync(self) -> None:
        with self._guard:
            batch, self._unsynced = self._unsynced, []
        for snapshot, _ in batch:
            Snapshots.begin_to_sync(snapshot)
        for snapshot, database in batch:
            if not self.goes_on:
                return
            try:
                self._recovery.sync_snapshot(snapshot)
            except OSError as error:
                message = f"{printable(snapshot)} may not be on the disk: {error.strerror}"
                log.tell(Event.SNAPSHOT_FAILED, message, database=database)

    def _verify(self, place: Place, record: Record) -> None:
        try:
            with self._looker.pair(place) as pair:
                health, words = self._recovery.verify(pair, record)
        except (Gone, UnsafeError, OSError) as error:
            health, words = Health.UNKNOWN, str(error)
        if health is Health.CORRUPT:
            self._reports.condemned(place, self._recovery.condemn(record, words))
        elif health is Health.UNKNOWN:
            self._reports.unverified(place, record, words)
