"""One installation at work: hints -> reconciler -> look -> judge -> act -> record, put together from its settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from watcher.aftercare import Aftercare
from watcher.checks import unwritable
from watcher.decision import Examiner
from watcher.filesystem import file_system_of
from watcher.hints.filesystem import FilesystemHints
from watcher.hints.sweep import Sweep, Swept
from watcher.hints.trouble import Trouble
from watcher.look import Look, Looker, Pair
from watcher.owner.clock import WallClock
from watcher.owner.owner import Owner
from watcher.owner.testimony import Judgement
from watcher.reconciler import Reconciler
from watcher.records import log
from watcher.records.events import Event
from watcher.records.record import Record
from watcher.records.status import Watch
from watcher.recovery import Recovery
from watcher.reports import Reports
from watcher.settings import LocksMode, Settings, WatchBackend
from watcher.snapshots import Snapshots
from watcher.tree import RootMissingError, Tree

__all__ = ["Installation", "Rooms"]

_POLLS_PER_SWEEP = 6


class Rooms:
    """The rooms that `run` and the commands share: those that look, judge and act; no threads."""

    def __init__(self, settings: Settings, clock: WallClock) -> None:
        self.settings = settings
        self.tree = Tree(settings.tree)
        self.looker = Looker(self.tree, max_journal_bytes=settings.recovery.max_journal_size)
        self.owner = Owner(settings.owner, clock)
        kept = settings.recovery.snapshot
        snapshots = None if kept is None else Snapshots(Path(settings.state_dir) / "snapshots", kept)
        self.recovery = Recovery(settings.recovery, self._judge_afresh, snapshots)
        self.examiner = Examiner(self.looker, self._judge, self.recovery.obstacle)

    def _judge(self, pair: Pair, look: Look) -> Judgement:
        return self.owner.judge(pair, look, fresh=False)

    def _judge_afresh(self, pair: Pair, look: Look) -> Judgement:
        return self.owner.judge(pair, look, fresh=True)

    def probes(self) -> list[str]:
        """The names of the probes that the settings ask for, `boot` left out, which is always asked."""
        owner = self.settings.owner
        named = {
            "locks": owner.locks is not LocksMode.OFF,
            "pid_file": owner.pid_file is not None,
            "container": owner.container is not None,
            "heartbeat": owner.heartbeat is not None,
            "command": owner.command is not None,
        }
        return [name for name, is_set in named.items() if is_set]


class Installation:
    """The rooms with their threads.

    Args:
        keep: takes records for the history.
        changed: the counts, or the state of the watch, may have changed. Called from any thread, must not wait.
        trouble: something was or may have been missed. The same.
        swept: a sweep has ended. The same.
    """

    def __init__(
        self,
        settings: Settings,
        clock: WallClock,
        *,
        keep: Callable[[Record, str], None],
        changed: Callable[[], None],
        trouble: Callable[[Trouble], None],
        swept: Callable[[Swept], None],
    ) -> None:
        self.settings = settings
        self.rooms = Rooms(settings, clock)
        self.reports = Reports(keep)
        self._aftercare = Aftercare(self.rooms.looker, self.rooms.recovery, self.reports)
        self.reconciler = Reconciler(
            self.rooms.looker,
            self.rooms.examiner,
            self.rooms.recovery,
            self.reports,
            recovery_settings=settings.recovery,
            watch_settings=settings.watch,
            done=self._aftercare.add,
            changed=changed,
        )
        self._trouble = trouble
        self._swept = swept
        self._files: FilesystemHints | None = None
        self.sweep = Sweep(
            self.rooms.tree,
            interval_s=settings.watch.sweep_interval,
            hint=self.reconciler.hint_of_sweep,
            swept=self._after_sweep,
        )

    def start(self) -> None:
        """Start everything but the watch, which wants the root: :meth:`watch`."""
        self._aftercare.start()
        self.reconciler.start()

    def begin_to_sweep(self) -> None:
        """Start the sweeps, the first one at once; after the watch, so that nothing falls between the two."""
        self.sweep.start()

    def check_rights(self) -> None:
        """Look, when there is time, for databases that we could not write, and warn of them."""
        self._aftercare.add_task(self._warn_of_rights)

    def _warn_of_rights(self) -> None:
        try:
            found = unwritable(self.rooms.tree, lambda: self._aftercare.goes_on)
        except RootMissingError:
            return  # told by the sweep
        if found.any:
            log.tell(Event.NOT_WRITABLE, f"{found.told()}; those cannot be recovered, see journal-watcher check")

    def stop(self) -> bool:
        """End every thread. False where one did not end in time."""
        self.sweep.stop()
        self.unwatch()
        ended = self.reconciler.stop()
        self._aftercare.stop()
        return ended

    def watch(self) -> None:
        """Begin to watch the tree.

        Raises:
            RootMissingError: the root is not there.
        """
        tree, settings = self.rooms.tree, self.settings.watch
        root = tree.open_root()
        try:
            is_local = file_system_of(root).is_local
        finally:
            os.close(root)
        files = FilesystemHints(
            tree,
            backend=settings.backend,
            hint=self.reconciler.hint,
            sweep=self._trouble,
            poll_interval_s=settings.sweep_interval / _POLLS_PER_SWEEP,
            also_poll=settings.backend is WatchBackend.AUTO and not is_local,
        )
        files.start()
        self._files = files

    def unwatch(self) -> None:
        """Stop to watch the tree."""
        if self._files is not None:
            self._files.stop()
            self._files = None

    def watch_status(self) -> Watch:
        """How the tree is watched now."""
        files = self._files
        if files is None:
            return Watch()
        return Watch(backend=files.backend, directories=files.directories, missed=files.missed)

    def _after_sweep(self, swept: Swept) -> None:
        if not isinstance(swept.error, RootMissingError):
            self.reconciler.look_at_all_known()
        self._swept(swept)
