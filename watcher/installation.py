"""One installation at work: hints -> reconciler -> look -> judge -> act -> record, put together from its settings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from watcher.aftercare import Aftercare
from watcher.afterwards import Afterwards
from watcher.crew import Crew, size_for
from watcher.decision import Examiner
from watcher.filesystem import file_system_of
from watcher.hints.filesystem import FilesystemHints
from watcher.hints.root import RootHints
from watcher.hints.survey import Survey
from watcher.hints.sweep import Sweep, Swept
from watcher.hints.trouble import Trouble
from watcher.liveness import patience_s
from watcher.look import Look, Looker, Pair
from watcher.owner.clock import WallClock
from watcher.owner.owner import Owner
from watcher.owner.testimony import Judgement
from watcher.reconciler import Reconciler
from watcher.records import log
from watcher.records.events import Event
from watcher.records.record import Record
from watcher.records.status import Watch
from watcher.records.tally import Tally
from watcher.recovery import Recovery
from watcher.reports import Reports
from watcher.settings import LocksMode, Settings, WatchBackend
from watcher.snapshots import Snapshots
from watcher.tree import RootMissingError, Tree
from watcher.writable import unwritable

if TYPE_CHECKING:
    from watcher.hints.engine import EngineHints
    from watcher.owner.container import ContainerProbe

__all__ = ["Installation", "Rooms"]

_POLLS_PER_SWEEP = 6
_AFTERWARDS_S = 0.5
"""What is still to be told, and to be entered in the history, has so long at the stop, also where a worker hangs."""


class Rooms:
    """The rooms that `run` and the commands share: those that look, judge and act; no threads.

    Args:
        thorough: ask every probe, for a person who wants to know; the service stops asking where the owner lives.
        on_lost, on_back: called when the container engine stops answering (reason, remedy), and when it does again.
        judged: called with each judgement, from any thread.
    """

    def __init__(
        self,
        settings: Settings,
        clock: WallClock,
        *,
        thorough: bool = True,
        on_lost: Callable[[str, str], None] | None = None,
        on_back: Callable[[], None] | None = None,
        judged: Callable[[Judgement], None] | None = None,
    ) -> None:
        self._judged = judged
        self.settings = settings
        self.tree = Tree(settings.tree)
        self.looker = Looker(self.tree, max_journal_bytes=settings.recovery.max_journal_size)
        self.container = _container_probe(settings, on_lost, on_back)
        self.owner = Owner(settings, clock, container=self.container, thorough=thorough)
        kept = settings.recovery.snapshot
        snapshots = None if kept is None else Snapshots(Path(settings.state_dir) / "snapshots", kept)
        self.recovery = Recovery(settings.recovery, self._judge_afresh, snapshots)
        self.examiner = Examiner(self.looker, self._judge, self.recovery.obstacle)

    def _judge(self, pair: Pair, look: Look) -> Judgement:
        return self._told(self.owner.judge(pair, look, fresh=False))

    def _judge_afresh(self, pair: Pair, look: Look) -> Judgement:
        return self._told(self.owner.judge(pair, look, fresh=True))

    def _told(self, judgement: Judgement) -> Judgement:
        if self._judged is not None:
            self._judged(judgement)
        return judgement

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


def _container_probe(
    settings: Settings, on_lost: Callable[[str, str], None] | None, on_back: Callable[[], None] | None
) -> ContainerProbe | None:
    if settings.owner.container is None:
        return None
    from watcher.owner.container import ContainerProbe  # noqa: PLC0415 - the docker SDK, only where it is wanted

    return ContainerProbe(
        settings.owner.container,
        host_root=settings.tree.host_root,
        root=settings.tree.root,
        state_dir=settings.state_dir,
        on_lost=on_lost,
        on_back=on_back,
    )


class Installation:
    """The rooms with their threads.

    Args:
        keep: takes records for the history.
        changed: the counts, or the state of the watch, may have changed. Called from any thread, must not wait.
        trouble: something was or may have been missed. The same.
        swept: a sweep has ended. The same.
        tally: counts what is found and judged.
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
        tally: Tally,
    ) -> None:
        self.settings = settings
        self.rooms = Rooms(
            settings,
            clock,
            thorough=False,
            on_lost=self._engine_lost,
            on_back=self._engine_back,
            judged=tally.judged,
        )
        self._is_stopping = False
        self._engine_answers = True  # written by whichever thread has asked the engine
        self._changed = changed
        self.reports = Reports(keep, tally.found, self.rooms.tree.session_of)
        self._survey = survey = Survey(self.rooms.tree)
        self._aftercare = Aftercare(
            self.rooms.looker, self.rooms.recovery, self.reports, busy=lambda: self.reconciler.backlog() > 0
        )
        self._afterwards = Afterwards(busy=self._is_rush)
        self.reconciler = Reconciler(
            self.rooms.looker,
            self.rooms.examiner,
            self.rooms.recovery,
            self.reports,
            recovery_settings=settings.recovery,
            watch_settings=settings.watch,
            patience_s=patience_s(settings),
            done=self._aftercare.add,
            changed=changed,
            cold=survey.note_cold,
            later=self._afterwards.do,
            crew=Crew(size=size_for(settings.recovery.workers)),
        )
        self._engine = self._engine_hints()
        self._trouble = trouble
        self._swept = swept
        self._files: FilesystemHints | None = None
        self._root: RootHints | None = None
        self._first_sweep = threading.Event()  # set when it is through, or nobody is to wait for it any more
        self.sweep = Sweep(
            survey,
            interval_s=settings.watch.sweep_interval,
            hint=self.reconciler.hint_of_sweep,
            swept=self._after_sweep,
        )

    def start(self) -> None:
        """Start everything but the watch, which wants the root: :meth:`watch`."""
        self._aftercare.start()
        self._afterwards.start()
        self.reconciler.start()
        if self._engine is not None:
            self._engine.start()

    def begin_to_sweep(self) -> None:
        """Start the sweeps, the first one at once; after the watch, so that nothing falls between the two."""
        self.sweep.start()

    def _is_rush(self) -> bool:
        return self.reconciler.is_rush()

    def check_rights(self) -> None:
        """Look, when there is time, for databases that we could not write, and warn of them."""
        self._aftercare.add_task(self._warn_of_rights)

    def _warn_of_rights(self) -> None:
        try:
            found = unwritable(self.rooms.tree, lambda: self._aftercare.goes_on and not self._is_stopping)
        except OSError:
            return  # told by the sweep
        if found.any:
            log.tell(Event.NOT_WRITABLE, f"{found.told()}; those cannot be recovered, see journal-watcher check")

    def stop(self, deadline_s: float, *, is_replaced: bool = False) -> bool:
        """End every thread, and leave behind what takes longer than that: a dead file system may hold any of them.

        Args:
            is_replaced: by another installation, in this process, which goes on: what comes after a recovery is done.

        Returns:
            False where a worker is still at a journal: what it does is SQLite's rollback, which may end at any moment.
        """
        until = time.monotonic() + deadline_s
        self._is_stopping = True

        def left_s() -> float:
            return max(0.0, until - time.monotonic())

        self.sweep.stop(min(1.0, left_s()))
        self.unwatch()
        if self._engine is not None:
            self._engine.stop()
        self.rooms.owner.close()  # first, so that no worker waits for a program or an engine that hangs
        ended = self.reconciler.stop(max(0.0, left_s() - _AFTERWARDS_S))
        self._afterwards.stop(max(_AFTERWARDS_S, left_s()))
        if is_replaced:
            self._aftercare.retire()
        else:
            self._aftercare.stop(min(1.0, left_s()))
        return ended

    def watch(self) -> None:
        """Begin to watch the tree.

        Raises:
            RootMissingError: the root is not there.
            OSError: we have run out of descriptors or threads. `unwatch` ends what has begun.
        """
        tree, settings = self.rooms.tree, self.settings.watch
        root = tree.open_root()
        try:
            is_local = file_system_of(root).is_local
        finally:
            os.close(root)
        goes = threading.Semaphore(1)  # the root's own watch and its parent's may both tell its end: once is enough

        def trouble(what: Trouble) -> None:
            if what is not Trouble.ROOT_GONE or goes.acquire(blocking=False):
                self._trouble(what)

        files = FilesystemHints(
            tree,
            backend=settings.backend,
            hint=self.reconciler.hint,
            sweep=trouble,
            poll_interval_s=settings.sweep_interval / _POLLS_PER_SWEEP,
            also_poll=settings.backend is WatchBackend.AUTO and not is_local,
            # In turn, not at once: both would wait for the interpreter's lock most of the time, and what is hot at the
            # start is found by the sweep.
            after=self._first_sweep,
        )
        self._files = files
        files.start()
        self._root = RootHints(tree.root, lambda: trouble(Trouble.ROOT_GONE))
        self._root.start()

    def unwatch(self) -> None:
        """Stop to watch the tree."""
        if self._root is not None:
            self._root.stop()
            self._root = None
        if self._files is not None:
            self._files.stop()
            self._files = None

    def watch_status(self) -> Watch:
        """How the tree is watched now."""
        files = self._files
        if files is None:
            return Watch()
        return Watch(backend=files.backend, directories=files.directories, missed=files.missed)

    def sessions(self) -> Iterator[str]:
        """The directories in which databases may lie, as the last sweep has met them; nothing is looked at for it."""
        return self._survey.sessions()

    @property
    def is_watching(self) -> bool:
        """Whether every watch is set, as far as it can be; True also where nothing is to be watched now."""
        return self._files is None or self._files.ready

    def engine_status(self) -> dict[str, object] | None:
        """Which container engine is asked, and whether it answers; None where none is."""
        probe = self.rooms.container
        return None if probe is None else {"address": probe.engine.address, "answers": self._engine_answers}

    def _engine_hints(self) -> EngineHints | None:
        if self.rooms.container is None:
            return None
        from watcher.hints.engine import EngineHints  # noqa: PLC0415 - as in _container_probe

        return EngineHints(self.rooms.container, self.reconciler.wake)

    def _engine_lost(self, reason: str, remedy: str) -> None:
        self._engine_answers = False
        log.tell(
            Event.ENGINE_LOST,
            f"{reason}; hot journals are held until it answers: {remedy}",
            remedy=remedy,
        )
        self._changed()

    def _engine_back(self) -> None:
        self._engine_answers = True
        log.tell(Event.ENGINE_BACK, "the container engine answers again; what was held is looked at now")
        self.reconciler.wake()
        self._changed()

    def _after_sweep(self, swept: Swept) -> None:
        self._first_sweep.set()
        if not isinstance(swept.error, RootMissingError):
            self.reconciler.look_at_all_known()
        self._swept(swept)
