"""The watchers that `watch` measures, each as a process of its own: prints `ready`, and at SIGTERM
how many looks and sweeps it has asked for.

python -m tests.benchmarks.watch_subjects journal-watcher|watchdog ROOT LAYOUT
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from tests.benchmarks.trees import wait_for
from watcher.hints.filesystem import FilesystemHints, Trouble
from watcher.memory import pass_over
from watcher.settings import TreeSettings, WatchBackend
from watcher.tree import Place, Tree


class _Looks:
    def __init__(self) -> None:
        self.count = 0
        self.sweeps = 0

    def look(self, _place: Place) -> None:
        self.count += 1

    def sweep(self, _trouble: Trouble) -> None:
        self.sweeps += 1


class _Handler(FileSystemEventHandler):
    def __init__(self, looks: _Looks) -> None:
        self._looks = looks

    def on_closed(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if path.endswith("-journal"):
            self._looks.look(Place(os.path.dirname(path), os.path.basename(path)))


def main(name: str, root: str, layout: str) -> None:
    looks = _Looks()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if name == "watchdog":
        observer = Observer()
        observer.schedule(_Handler(looks), root, recursive=True)
        observer.start()
    else:
        hints = FilesystemHints(
            Tree(TreeSettings(root=Path(root), layout=layout)),
            backend=WatchBackend.NATIVE,
            hint=looks.look,
            sweep=looks.sweep,
            poll_interval_s=5.0,
        )
        hints.start()
        wait_for(lambda: hints.ready, 0.01)
        pass_over()  # as the service does
    print("ready", flush=True)
    stop.wait()
    print(looks.count, looks.sweeps, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
