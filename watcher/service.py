"""The lifetime of the service: start, signals, the root's coming and going, reload, stop.

The main thread does nothing but take what the others and the signals put into its inbox, one after another, so what is
decided about the lifetime is decided in one place. It sleeps until something comes.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from contextlib import ExitStack
from enum import Enum
from pathlib import Path

from watcher import announcements, first_signals
from watcher.advice import in_words, is_of_machine
from watcher.hints.sweep import Swept
from watcher.hints.trouble import Trouble
from watcher.installation import Installation
from watcher.kept_history import KeptHistory
from watcher.log_setup import configure_log
from watcher.memory import Spare, keep_together, pass_over, pass_over_nothing
from watcher.names import printable
from watcher.outward import Outward
from watcher.owner.clock import WallClock
from watcher.records import log
from watcher.records.boots import earlier_boot_times, remember_boot_times
from watcher.records.events import Event
from watcher.records.record import Record
from watcher.records.repeats import Repeats
from watcher.records.state_dir import StateDir, StateError
from watcher.reload import RejectedError, claim, read_again
from watcher.root_lock import RootLock
from watcher.root_presence import RootPresence
from watcher.service_manager import ServiceManager
from watcher.settings import Settings
from watcher.signals import Signals
from watcher.status_report import StatusReport
from watcher.threads import needing_threads
from watcher.tree import RootMissingError
from watcher.vitals import Vitals
from watcher.watchdog import Watchdog

__all__ = ["Service", "StartError"]

_STOPS_WITHIN_S = 3.5
_RELOADS_WITHIN_S = 1.0
"""A rollback that takes longer ends beside the new installation."""


class _Asked(Enum):
    STOP = "stop"
    RELOAD = "reload"
    REPORT = "report"
    TELL = "tell"
    SIGN = "sign"


_BY_SIGNAL = {signal.SIGHUP: _Asked.RELOAD, signal.SIGUSR1: _Asked.TELL}


class StartError(Exception):
    """The machine has not what a start takes. The message says what to do."""


class Service:
    """One installation's service, in the foreground.

    Args:
        settings: as they were loaded; a reload reads their file again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox: queue.SimpleQueue[_Asked | Trouble | Swept | None] = queue.SimpleQueue()
        self._repeats = Repeats(capacity=100)
        self._spare = Spare()
        self._failed = False
        self._manager = ServiceManager()
        self._watchdog = Watchdog(self._manager, lambda: self._inbox.put(_Asked.SIGN))
        self._vitals = Vitals(settings)
        self._history = KeptHistory()
        self._outward = Outward(self._vitals)
        self._report = StatusReport(
            self._vitals,
            self._outward,
            self._manager,
            wake=lambda: self._inbox.put(_Asked.REPORT),
            warn=self._warn,
        )
        self._root = RootPresence(self._vitals, self._warn, self._report.soon)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            0; 1 where it has ended by itself, to be started anew.

        Raises:
            AlreadyRunning, TreeTakenError: another watcher holds this state directory, or this tree.
            StateError: the state directory cannot be used.
            ValueError: the log cannot be set up.
            NoThreadError: the kernel refuses us threads.
            StartError: it refuses us something else.
        """
        keep_together()
        with ExitStack() as closing:
            with needing_threads(closing):
                self._begin(closing)
                while self._turn():
                    pass
            self._manager.stopping()
        log.tell(Event.STOPPED, f"journal-watcher for {self._settings.instance} has stopped")
        return int(self._failed)

    def _signalled(self, number: int) -> None:
        self._inbox.put(_BY_SIGNAL.get(signal.Signals(number), _Asked.STOP))

    # --- start and stop ---

    def _begin(self, closing: ExitStack) -> None:
        try:
            signals = Signals((signal.SIGTERM, signal.SIGINT, *_BY_SIGNAL), self._signalled)
            closing.callback(signals.stop)
            for number in first_signals.taken():
                self._signalled(number)
            self._open(self._settings, closing)
            signals.start()
            self._start(closing)
        except OSError as error:
            if not is_of_machine(error):
                raise
            closing.pop_all()  # what was never begun cannot be ended, and the end of the process ends the rest
            raise StartError(f"the start needs more than we have: {in_words(error)}, and start again") from error

    def _open(self, settings: Settings, closing: ExitStack) -> None:
        """Take what belongs to one watcher alone: the state directory, and the tree where it is there."""
        self._state = closing.enter_context(StateDir.open(settings.state_dir))
        self._state.lock()
        self._root.take(settings.tree.root)
        self._clock = WallClock(earlier_boot_times(settings.state_dir))
        configure_log(settings.log, settings.instance)

    def _start(self, closing: ExitStack) -> None:
        self._installation = self._installed(self._settings)
        closing.callback(self._outward.stop)
        self._outward.start(self._settings)
        announcements.started(self._settings, self._installation.rooms.probes(), self._outward.page)
        self._outward.turn()
        self._history.start(self._settings, self._state.path)
        closing.callback(self._history.stop)
        closing.callback(self._stop_installation, _STOPS_WITHIN_S)
        self._installation.start()
        self._root.begin_to_watch(self._installation)
        pass_over()
        self._installation.begin_to_sweep()
        self._remember_clock()
        self._report.begin(self._state)
        self._manager.ready(self._vitals.sentence())

    def _installed(self, settings: Settings) -> Installation:
        made = Installation(
            settings,
            self._clock,
            keep=self._keep,
            changed=self._report.has_changed,
            trouble=self._inbox.put,
            swept=self._inbox.put,
            tally=self._outward.tally,
        )
        self._vitals.now_of(made)
        return made

    def _keep(self, record: Record, change: str) -> None:
        self._outward.recorded(record, change)
        self._history.add(record, change)

    def _stop_installation(self, deadline_s: float, *, is_replaced: bool = False) -> None:
        self._installation.stop(deadline_s, is_replaced=is_replaced)

    # --- one thing after another ---

    def _turn(self) -> bool:
        """Take one thing from the inbox. False when it is to stop."""
        try:
            asked = self._inbox.get(timeout=self._pause())
        except queue.Empty:
            asked = None
        match asked:
            case _Asked.STOP:
                return False
            case _Asked.RELOAD:
                self._reload()
            case _Asked.REPORT:
                self._report.soon()
            case _Asked.TELL:
                announcements.state(self._vitals.status(), self._vitals.sentence(), self._installation.reconciler)
            case Trouble():
                self._met(asked)
            case Swept():
                self._after_sweep(asked)
            case _Asked.SIGN | None:
                pass
        if self._root.due is not None and time.monotonic() >= self._root.due:
            self._look_for_root()
        self._outward.turn()
        self._report.turn()
        self._watchdog.turn(self._installation.reconciler)
        return not self._failed

    def _pause(self) -> float | None:
        """How long to sleep at most, seconds; None: until something comes."""
        candidates = (self._root.due, self._outward.due, self._report.due, self._watchdog.due)
        dues = [due for due in candidates if due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _after_sweep(self, swept: Swept) -> None:
        if isinstance(swept.error, RootMissingError):
            self._root.lose(self._installation, in_words(swept.error))
            return
        if swept.error is not None:
            self._warn(*announcements.of_sweep(swept.error, self._settings), swept.error.errno)
        if self._root.is_replaced(self._settings.tree.root):
            self._root.lose(self._installation, "another directory has taken its place")
            return
        if self._vitals.last_sweep is None:
            self._installation.check_rights()
            self._vitals.first_sweep = swept.journals
        self._outward.tally.swept(swept.duration_s)
        self._vitals.last_sweep, self._vitals.swept = swept.ended, swept
        announcements.swept(swept, self._settings)
        self._spare.look()
        self._remember_clock()
        self._report.soon()

    def _met(self, trouble: Trouble) -> None:
        if trouble is Trouble.ROOT_GONE:
            self._root.lose(self._installation, "it was removed, moved or unmounted")
            return
        if trouble is Trouble.FAILED:
            self._root.lose(self._installation, "the watch failed", watch_failed=True)
            return
        if trouble is Trouble.OVERFLOW:
            self._outward.tally.overflowed()
        self._warn(*announcements.of_trouble(trouble, self._installation.watch_status()), trouble)
        self._installation.sweep.ask()
        self._report.soon()

    def _warn(self, event: Event, message: str, about: object = None) -> None:
        """Tell it once, then seldom.

        Args:
            about: what makes it the same, where the message has figures that change, or several things share the event.
        """
        left_out = self._repeats.allow((event, about), message if about is None else None, time.monotonic())
        if left_out is not None:
            log.tell(event, message)

    def _remember_clock(self) -> None:
        try:
            remember_boot_times(self._state, self._clock.bounds())
        except StateError as error:
            self._warn(Event.STATE_FAILED, str(error), "boot times")

    # --- the root ---

    def _look_for_root(self) -> None:
        """The root may be back: then it is swept."""
        if not self._root.look_for(self._installation):
            return
        if self._manager.listens and _is_read_only(self._settings.tree.root):
            # A unit's view of the file system was made when it started: what comes later, it may not write to.
            log.tell(Event.ROOT_MISSING, announcements.read_only(self._settings))
            self._failed = True
            return
        log.tell(Event.ROOT_BACK, f"{printable(self._settings.tree.root)} is there; everything in it is looked at now")
        self._installation.sweep.ask()
        self._report.soon()

    # --- reload ---

    def _reload(self) -> None:
        self._manager.reloading()
        try:
            self._read_settings()
        except RejectedError as error:
            where = printable(self._settings.file)
            log.tell(Event.SETTINGS_REJECTED, f"{where}: {error}; the settings stay as they were")
        self._manager.ready(self._vitals.sentence())

    def _read_settings(self) -> None:
        before = self._settings
        after = read_again(before)
        if after == before:
            log.tell(Event.RELOADED, f"{printable(before.file)}: nothing has changed")
            return
        self._replace(after, claim(after, before, self._root, self._outward))

    def _replace(self, after: Settings, root: RootLock | None) -> None:
        """Put a new installation in the place of the old one. Its first sweep meets what came in between.

        Args:
            root: the lock of its root, where that is there.
        """
        before = self._settings
        self._stop_installation(_RELOADS_WITHIN_S, is_replaced=True)
        pass_over_nothing()
        self._forget_what_was_said()
        if after.tree.root != before.tree.root:
            self._root.change_to(root)
        self._settings = after
        self._history.change(after)
        self._installation = self._installed(after)
        self._watchdog.renew()
        self._installation.start()
        if not self._vitals.root_missing:
            self._root.begin_to_watch(self._installation)
        self._installation.begin_to_sweep()
        changed = ", ".join(name for name in type(after).model_fields if getattr(after, name) != getattr(before, name))
        log.tell(Event.RELOADED, f"{printable(after.file)}: new settings of {changed} hold from now on")
        self._report.soon()

    def _forget_what_was_said(self) -> None:
        """What the old installation has met says nothing about the new one's root."""
        asked = []
        while not self._inbox.empty():
            asked.append(self._inbox.get())
        for each in asked:
            if isinstance(each, _Asked):
                self._inbox.put(each)


def _is_read_only(root: Path) -> bool:
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:  # gone again
        return False
