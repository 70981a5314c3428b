"""The history that the service keeps, by the settings of the moment, and what is said where it cannot be written."""

from __future__ import annotations

import time
from pathlib import Path

from watcher.records import log
from watcher.records.events import Event
from watcher.records.history import HISTORY_NAME, History, HistoryError
from watcher.records.record import Record
from watcher.records.recorder import Recorder
from watcher.records.repeats import Repeats
from watcher.settings import Settings

__all__ = ["KeptHistory"]

_STOPS_WITHIN_S = 1.0


class KeptHistory:
    """Started, changed and stopped by the main thread; any may add to it from the start on."""

    def __init__(self) -> None:
        self._repeats = Repeats(capacity=1)
        self._settings: Settings | None = None  # the main thread's own, like the next one
        self._directory: Path | None = None
        self._recorder: Recorder | None = None  # written by the main thread, read by any: a reload may put another here

    def start(self, settings: Settings, directory: Path) -> None:
        """Begin to write it, in this directory."""
        self._directory = directory
        self._begin(settings)

    def add(self, record: Record, change: str) -> None:
        """Something became of a journal; called from any thread, never waits."""
        assert self._recorder is not None, "nothing becomes of a journal before the start"
        self._recorder.add(record, change)

    def change(self, settings: Settings) -> None:
        """Take other settings; where they change nothing about it, it goes on."""
        assert self._settings is not None
        if _of_history(settings) != _of_history(self._settings):
            self.stop()
            self._begin(settings)

    def stop(self) -> None:
        """Write what waits, as far as that takes no longer than a moment."""
        assert self._recorder is not None
        left = self._recorder.stop(_STOPS_WITHIN_S)
        if left:
            log.tell(Event.STATE_FAILED, f"{left} entries of the history were not written before the end")

    def _begin(self, settings: Settings) -> None:
        assert self._directory is not None
        kept = settings.history
        self._settings = settings
        self._recorder = Recorder(
            History(self._directory / HISTORY_NAME, keep=kept.keep, max_age_s=kept.max_age, root=settings.tree.root),
            on_failed=self._failed,
            on_back=self._back,
            sweep_interval_s=settings.watch.sweep_interval,
        )
        self._recorder.start()

    def _failed(self, error: HistoryError, waiting: int) -> None:
        left_out = self._repeats.allow(HISTORY_NAME, str(error), time.monotonic())
        if left_out is not None:
            log.tell(Event.STATE_FAILED, f"{error} ({waiting} entries wait)")

    def _back(self, lost: int) -> None:
        self._repeats.forget(HISTORY_NAME)
        log.tell(Event.STATE_BACK, f"the history is written again; {lost or 'no'} entries were lost")


def _of_history(settings: Settings) -> tuple[object, ...]:
    """The settings that the history was begun with."""
    return settings.history, settings.tree.root, settings.watch.sweep_interval
