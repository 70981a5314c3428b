"""The lifetime of the service: start, signals, the root's coming and going, reload, stop.

The main thread does nothing but take what the others and the signals put into its inbox, one after another, so what is
decided about the lifetime is decided in one place. It sleeps until something comes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import FrameType

from watcher.hints.sweep import Swept
from watcher.hints.trouble import Trouble
from watcher.installation import Installation
from watcher.names import printable
from watcher.owner.clock import WallClock
from watcher.records import log, status
from watcher.records.boots import earlier_boot_times, remember_boot_times
from watcher.records.events import Event
from watcher.records.history import History, HistoryError
from watcher.records.recorder import Recorder
from watcher.records.repeats import Repeats
from watcher.records.state_dir import StateDir, StateError
from watcher.settings import LogSettings, Settings, SettingsError, load_settings
from watcher.tree import RootMissingError
from watcher.version import VERSION

__all__ = ["HISTORY_NAME", "Service", "TreeTakenError", "configure_log"]

HISTORY_NAME = "history.db"
_ROOT_AGAIN_S = 0.5
_STATUS_PAUSE_S = 0.25


class TreeTakenError(Exception):
    """Another watcher holds this tree."""


class _Asked(Enum):
    STOP = "stop"
    RELOAD = "reload"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class _RootLock:
    """The root as it was when it was locked: flock(2) on the directory itself, so that a second watcher is noticed
    whatever its state directory, and by whatever link it comes."""

    descriptor: int
    device: int
    inode: int

    def is_still(self, root: Path) -> bool:
        try:
            found = os.stat(root)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)


class Service:
    """One installation's service, in the foreground.

    Args:
        settings: as they were loaded; a reload reads their file again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox: queue.SimpleQueue[_Asked | Trouble | Swept | None] = queue.SimpleQueue()
        self._repeats = Repeats(capacity=100)
        self._since = datetime.now(UTC)
        self._last_sweep: datetime | None = None
        self._status_due: float | None = None
        self._root: _RootLock | None = None
        self._missing = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            0.

        Raises:
            AlreadyRunning, TreeTakenError: another watcher holds this state directory, or this tree.
            StateError: the state directory cannot be used.
            ValueError: the log cannot be set up.
        """
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGHUP, self._signalled)
        self._open(self._settings)
        try:
            self._start()
            while self._turn():
                pass
        finally:
            self._close()
        log.tell(Event.STOPPED, f"journal-watcher for {self._settings.instance} has stopped")
        return 0

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        # SimpleQueue.put may be called from a signal's handler that has interrupted a get.
        self._inbox.put(_Asked.RELOAD if number == signal.SIGHUP else _Asked.STOP)

    # --- start and stop ---

    def _open(self, settings: Settings) -> None:
        """Take what belongs to one watcher alone: the state directory, and the tree where it is there."""
        self._state = StateDir.open(settings.state_dir)
        try:
            self._state.lock()
            self._root = _lock_root(settings.tree.root)
        except BaseException:
            self._state.close()
            raise
        self._clock = WallClock(earlier_boot_times(settings.state_dir))
        configure_log(settings.log, settings.instance)

    def _start(self) -> None:
        settings = self._settings
        self._history = Recorder(
            History(self._state.path / HISTORY_NAME, keep=settings.history.keep, max_age_s=settings.history.max_age),
            on_failed=self._history_failed,
            on_back=self._history_back,
        )
        self._installation = self._installed(settings)
        self._tell_started()
        self._history.start()
        self._installation.start()
        self._begin_to_watch()
        self._installation.begin_to_sweep()
        self._remember_clock()
        if os.geteuid() != 0:
            self._installation.check_rights()
        self._status_due = time.monotonic()

    def _installed(self, settings: Settings) -> Installation:
        return Installation(
            settings,
            self._clock,
            keep=self._history.add,
            changed=lambda: self._inbox.put(_Asked.REPORT),
            trouble=self._inbox.put,
            swept=self._inbox.put,
        )

    def _tell_started(self) -> None:
        settings = self._settings
        probes = self._installation.rooms.probes()
        log.tell(
            Event.STARTED,
            f"journal-watcher {VERSION} (pid {os.getpid()}) for {settings.instance}: watches"
            f" {printable(settings.tree.root)}, owners by {', '.join(['boot', *probes])}; state in"
            f" {printable(settings.state_dir)}",
            version=VERSION,
            pid=os.getpid(),
            tree=settings.tree.root,
        )
        if probes == ["locks"]:
            log.tell(
                Event.LOCKS_ONLY,
                "only locks tell whether a writer has exited: that is right where every writer runs on this kernel and"
                " locks its database. Where agents run in containers or virtual machines, set owner.container,"
                " owner.pid_file or owner.command",
            )

    def _close(self) -> None:
        self._installation.stop()
        left = self._history.stop()
        if left:
            log.tell(Event.STATE_FAILED, f"{left} entries of the history were not written before the end")
        if self._root is not None:
            os.close(self._root.descriptor)
            self._root = None
        self._state.close()

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
                self._report_soon()
            case Trouble():
                self._met(asked)
            case Swept():
                self._after_sweep(asked)
            case None:
                pass
        if self._missing:
            self._look_for_root()
        if self._status_due is not None and time.monotonic() >= self._status_due:
            self._report()
        return True

    def _pause(self) -> float | None:
        """How long to sleep at most, seconds; None: until something comes."""
        pauses = [_ROOT_AGAIN_S] if self._missing else []
        if self._status_due is not None:
            pauses.append(max(0.0, self._status_due - time.monotonic()))
        return min(pauses, default=None)

    def _after_sweep(self, swept: Swept) -> None:
        root = printable(self._settings.tree.root)
        if isinstance(swept.error, RootMissingError):
            self._lose_root(swept.error.strerror)
            return
        if swept.error is not None:
            message = f"the sweep of {root} ended early: {swept.error.strerror}; the next one begins anew"
            self._warn(Event.WATCH_LIMIT, message)
        elif self._root is not None and not self._root.is_still(self._settings.tree.root):
            self._lose_root("another directory has taken its place")
            return
        self._last_sweep = swept.ended
        message = f"{root}: {swept.journals} journals in {swept.duration_s * 1000:.0f} ms"
        log.tell(Event.SWEEP, message, journals=swept.journals, duration_ms=round(swept.duration_s * 1000, 1))
        self._remember_clock()
        self._report_soon()

    def _met(self, trouble: Trouble) -> None:
        watch = self._installation.watch_status()
        match trouble:
            case Trouble.OVERFLOW:
                self._warn(Event.OVERFLOW, "the kernel dropped file events; everything is looked at again now")
            case Trouble.WATCH_LIMIT:
                self._warn(
                    Event.WATCH_LIMIT,
                    f"{watch.missed} directories are not watched, for the kernel allows no more watches; the sweep"
                    " covers them. Raise fs.inotify.max_user_watches (sysctl) to have them watched",
                )
            case Trouble.UNREADABLE:
                self._warn(
                    Event.WATCH_LIMIT,
                    f"{watch.missed} directories are not watched, for uid {os.geteuid()} may not enter them; see"
                    " journal-watcher check",
                )
            case Trouble.ROOT_GONE | Trouble.FAILED:
                self._lose_root(
                    "it was removed, moved or unmounted" if trouble is Trouble.ROOT_GONE else "watch failed"
                )
                return
        self._installation.sweep.ask()
        self._report_soon()

    def _warn(self, event: Event, message: str) -> None:
        left_out = self._repeats.allow(event, message, time.monotonic())
        if left_out is not None:
            log.tell(event, message)

    # --- the root ---

    def _begin_to_watch(self) -> None:
        try:
            self._installation.watch()
        except RootMissingError as error:
            self._lose_root(error.strerror)

    def _lose_root(self, why: str | None) -> None:
        self._installation.unwatch()
        if self._root is not None:
            os.close(self._root.descriptor)
            self._root = None
        if not self._missing:
            self._missing = True
            log.tell(
                Event.ROOT_MISSING,
                f"{printable(self._settings.tree.root)}: {(why or 'not there').lower()}; waiting for it",
            )
            self._report_soon()

    def _look_for_root(self) -> None:
        """The root may be back: lock it, watch it, sweep it."""
        if self._root is None:
            self._root = _lock_root(self._settings.tree.root)
        if self._root is None:
            return
        try:
            self._installation.watch()
        except RootMissingError:
            os.close(self._root.descriptor)
            self._root = None
            return
        self._missing = False
        log.tell(Event.ROOT_BACK, f"{printable(self._settings.tree.root)} is there; everything in it is looked at now")
        self._installation.sweep.ask()
        self._report_soon()

    # --- reload ---

    def _reload(self) -> None:
        before = self._settings
        try:
            after = load_settings(before.file)
        except SettingsError as error:
            self._reject("; ".join(str(error).splitlines()))
            return
        if after == before:
            log.tell(Event.RELOADED, f"{printable(before.file)}: nothing has changed")
            return
        if (after.state_dir, after.instance) != (before.state_dir, before.instance):
            self._reject("state_dir and instance are taken at the start only; restart journal-watcher to change them")
            return
        self._replace(after)

    def _replace(self, after: Settings) -> None:
        """Put a new installation in the place of the old one. Its first sweep meets what came in between."""
        before = self._settings
        root: _RootLock | None = None
        if after.tree.root != before.tree.root:
            try:
                root = _lock_root(after.tree.root)
            except TreeTakenError as error:
                self._reject(str(error))
                return
        try:
            configure_log(after.log, after.instance)
        except (ValueError, TypeError) as error:
            if root is not None:
                os.close(root.descriptor)
            self._reject(str(error))
            return
        self._installation.stop()
        if after.tree.root != before.tree.root:
            if self._root is not None:
                os.close(self._root.descriptor)
            self._root, self._missing = root, False
        self._settings = after
        self._installation = self._installed(after)
        self._installation.start()
        if not self._missing:
            self._begin_to_watch()
        self._installation.begin_to_sweep()
        changed = ", ".join(name for name in type(after).model_fields if getattr(after, name) != getattr(before, name))
        log.tell(Event.RELOADED, f"{printable(after.file)}: new settings of {changed} hold from now on")
        self._report_soon()

    def _reject(self, why: str) -> None:
        log.tell(Event.SETTINGS_REJECTED, f"{printable(self._settings.file)}: {why}. The settings stay as they were")

    # --- records ---

    def _report_soon(self) -> None:
        if self._status_due is None:
            self._status_due = time.monotonic() + _STATUS_PAUSE_S

    def _report(self) -> None:
        self._status_due = None
        counts = self._installation.reconciler.counts()
        told = status.Status(
            pid=os.getpid(),
            since=self._since,
            instance=self._settings.instance,
            tree=os.fspath(self._settings.tree.root),
            journals=status.Journals(hot=counts.hot, waiting=counts.waiting, held=counts.held, refused=counts.refused),
            recoveries=self._installation.reports.recoveries(),
            watch=self._installation.watch_status(),
            engine=self._installation.engine_status(),
            last_sweep=self._last_sweep,
        )
        try:
            status.write(self._state, told)
        except StateError as error:
            self._warn(Event.STATE_FAILED, str(error))

    def _remember_clock(self) -> None:
        try:
            remember_boot_times(self._state, self._clock.bounds())
        except StateError as error:
            self._warn(Event.STATE_FAILED, str(error))

    def _history_failed(self, error: HistoryError, waiting: int) -> None:
        left_out = self._repeats.allow(HISTORY_NAME, str(error), time.monotonic())
        if left_out is not None:
            log.tell(Event.STATE_FAILED, f"{error} ({waiting} entries wait)")

    def _history_back(self, lost: int) -> None:
        self._repeats.forget(HISTORY_NAME)
        log.tell(Event.STATE_BACK, f"the history is written again; {lost or 'no'} entries were lost")


def configure_log(settings: LogSettings, instance: str) -> None:
    """Set the log up as the settings want it.

    Raises:
        ValueError, TypeError: loguru does not take them.
    """
    log.configure(
        level=settings.level,
        instance=instance,
        json_lines=settings.json_lines,
        file=settings.file,
        rotation=settings.rotation,
        retention=settings.retention,
        compression=settings.compression,
    )


def _lock_root(root: Path) -> _RootLock | None:
    """Take the tree; None where the root is not there.

    Raises:
        TreeTakenError: another watcher has it.
    """
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            os.close(descriptor)
            raise TreeTakenError(f"another journal-watcher holds the tree {printable(root)}") from error
        # A file system that locks no directories (NFS): the state directory's own lock has to do.
    found = os.fstat(descriptor)
    return _RootLock(descriptor, found.st_dev, found.st_ino)
