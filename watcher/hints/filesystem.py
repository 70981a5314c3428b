"""Hints from the file system: journals that were closed, moved into place, or whose directory has just appeared.

On Linux the emitter is our own (`inotify`), elsewhere watchdog's observer does the work, and where neither can see a
writer, or the settings say so, the tree is polled.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, EventEmitter, EventQueue, ObservedWatch

from watcher.hints.emitter import HintEmitter
from watcher.hints.polling import PollingEmitter
from watcher.hints.trouble import Sink, Trouble
from watcher.settings import WatchBackend
from watcher.tree import Place, Tree

if sys.platform == "linux":
    from watcher.hints.inotify import InotifyEmitter
else:
    from watchdog.observers import Observer

__all__ = ["FilesystemHints", "Trouble"]

_STOPS_WITHIN_S = 1.0


class FilesystemHints:
    """The source of hints for one tree. It is started once; after `stop`, make a new one.

        hints = FilesystemHints(tree, backend=WatchBackend.AUTO, hint=look_at, sweep=sweep, poll_interval_s=5.0)
        hints.start()

    Args:
        tree: what to watch. No symbolic link below its root is followed.
        backend: `auto` and `native`: what the system has; `polling`: look every `poll_interval_s` seconds.
        hint: called for each journal that may want a look, from a thread of ours; should return at once.
        sweep: called when something was lost or may have been, from a thread of ours; should return at once. It may
            call `stop`.
        poll_interval_s: seconds between two rounds of polling.
        also_poll: beside a native source, poll as well: for file systems that do not report every writer.
        after: what to wait for before the first watches are set, for a second at most. Whatever happens meanwhile is
            found by the listing that follows each watch.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        backend: WatchBackend,
        hint: Callable[[Place], None],
        sweep: Callable[[Trouble], None],
        poll_interval_s: float,
        also_poll: bool = False,
        after: threading.Event | None = None,
    ) -> None:
        self._tree = tree
        self._after = after
        self._sink = Sink(hint, sweep)
        self._poll_interval_s = poll_interval_s
        self._native = backend is not WatchBackend.POLLING
        self._polling = also_poll or not self._native
        self._names: list[str] = []
        self._observers: list[BaseObserver] = []
        self._sources: list[HintEmitter] = []

    def start(self) -> None:
        """Begin; returns at once, while the watches are set by a thread of ours. `ready` tells when they are.

        Raises:
            RootMissingError: the root is not there.
            OSError: we have run out of descriptors, or the kernel gives no thread. What has begun by then goes on until
                `stop`.
        """
        os.close(self._tree.open_root())
        if self._native:
            try:
                self._begin_native()
            except OSError as error:
                self._polling = True  # better late than deaf
                self._sink.sweep(_why_no_inotify(error))
        if self._polling:
            self._begin("polling", PollingEmitter)

    def stop(self) -> None:
        """End, and wait for our threads for at most a second; a callback that does not return is not waited for."""
        deadline = monotonic() + _STOPS_WITHIN_S
        if self._after is not None:
            self._after.set()
        threads: list[threading.Thread] = []
        for observer in self._observers:
            for emitter in list(observer.emitters):
                emitter.stop()
                threads.append(emitter)
        for thread in threads:
            _join(thread, deadline)
        for observer in self._observers:
            # Its own stop joins the emitters without a limit: only where they have ended.
            if not any(emitter.is_alive() for emitter in observer.emitters):
                observer.stop()
                _join(observer, deadline)

    @property
    def directories(self) -> int:
        """Directories that are watched now; where the tree is only polled, those of the last round."""
        return self._sources[0].directories if self._sources else 0

    @property
    def missed(self) -> int:
        """Directories that should be watched and are not; what lies below them is not counted."""
        return sum(source.missed for source in self._sources)

    @property
    def backend(self) -> str:
        """`inotify`, `fsevents`, `polling`, …; where two work side by side, both with a plus."""
        return "+".join(self._names)

    @property
    def ready(self) -> bool:
        """Whether the first setting of the watches is through."""
        return bool(self._observers) and all(source.ready for source in self._sources)

    @property
    def failure(self) -> Exception | None:
        """What ended a source, where it told `Trouble.FAILED`."""
        return next((source.failure for source in self._sources if source.failure is not None), None)

    def _begin(self, name: str, emitter_class: type[HintEmitter]) -> None:
        def make(event_queue: EventQueue, watch: ObservedWatch, **options: Any) -> EventEmitter:
            emitter = emitter_class(event_queue, watch, tree=self._tree, sink=self._sink, after=self._after, **options)
            self._sources.append(emitter)
            return emitter

        # watchdog asks for a class and only ever calls it.
        observer = BaseObserver(cast("type[EventEmitter]", make), timeout=self._poll_interval_s)
        observer.schedule(FileSystemEventHandler(), os.fspath(self._tree.root), recursive=True)
        self._run(name, observer)

    def _run(self, name: str, observer: BaseObserver) -> None:
        observer.name = f"watch-{name}-observer"
        try:
            observer.start()
        except RuntimeError as error:  # "can't start new thread"
            while len(self._sources) > len(self._observers):
                self._sources.pop().abandon()
            raise OSError(errno.EAGAIN, "the kernel gives us no thread to watch it with") from error
        self._names.append(name)
        self._observers.append(observer)

    if sys.platform == "linux":

        def _begin_native(self) -> None:
            self._begin("inotify", InotifyEmitter)

    else:

        def _begin_native(self) -> None:
            observer = Observer()
            handler = _Handler(self._tree, self._sink)
            observer.schedule(handler, os.fspath(self._tree.root), recursive=True)
            self._run(type(observer).__name__.removesuffix("Observer").lower(), observer)


class _Handler(FileSystemEventHandler):
    """watchdog's events as hints, where it has no close to tell: each change is one. Not tested on macOS by us.

    It is called by watchdog's dispatcher, under watchdog's lock."""

    def __init__(self, tree: Tree, sink: Sink) -> None:
        self._sink = sink
        self._tree = tree
        root = os.fspath(tree.root)
        # FSEvents tells resolved paths.
        self._roots = tuple(dict.fromkeys((os.path.abspath(root), os.path.realpath(root))))

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type == "deleted":
            if os.fsdecode(event.src_path) in self._roots:
                self._sink.sweep(Trouble.ROOT_GONE)
            return
        if event.is_directory:
            return
        path = os.fsdecode(event.dest_path or event.src_path)
        for root in self._roots:
            if path.startswith(root.rstrip("/") + "/"):
                directory, _, name = path[len(root.rstrip("/")) + 1 :].rpartition("/")
                place = self._tree.place_of_journal(directory, name)
                if place is not None:
                    self._sink.hint(place)
                return


def _why_no_inotify(error: OSError) -> Trouble:
    """inotify_init1(2) says EMFILE for both: too many instances of this user, and too many files of this process."""
    match error.errno:
        case errno.EMFILE:
            return Trouble.INSTANCE_LIMIT if _may_open_a_file() else Trouble.DESCRIPTORS
        case errno.ENFILE:
            return Trouble.DESCRIPTORS
        case errno.ENOMEM:
            return Trouble.MEMORY
        case _:
            return Trouble.WATCH_LIMIT


def _may_open_a_file() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread() and thread.is_alive():
        thread.join(max(0.0, deadline - monotonic()))
