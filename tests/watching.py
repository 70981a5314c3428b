"""A watched tree, and what its watcher was told: for the tests of the file events."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from watcher.hints.filesystem import FilesystemHints, Trouble
from watcher.settings import TreeSettings, WatchBackend
from watcher.tree import Place, Tree

DEADLINE_S = 40.0
LAYOUT = "{agent_group}/{session}"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come about; on a loaded machine too."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain for {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.002)


class Witness:
    """Takes down hints and troubles. With its gate closed it keeps the observer's thread waiting in a hint."""

    def __init__(self) -> None:
        self.hints: list[Place] = []
        self.troubles: list[Trouble] = []
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()

    def hint(self, place: Place) -> None:
        self.hints.append(place)
        if not self.gate.is_set():
            self.waits.set()
            self.gate.wait()

    def sweep(self, trouble: Trouble) -> None:
        self.troubles.append(trouble)

    @property
    def paths(self) -> list[str]:
        """The hinted databases, below the root, in the order of the hints."""
        return [place.relative for place in self.hints]


class WatchedTree:
    """A root directory with its source of hints."""

    def __init__(self, root: Path, source: FilesystemHints, witness: Witness) -> None:
        self.root = root
        self.source = source
        self.witness = witness

    def close_journal(self, database: str) -> Path:
        """Make the journal of this database, below the root, and close it: as a death does."""
        journal = self.root / f"{database}-journal"
        journal.write_bytes(b"journal")
        return journal

    def wait_for_hint(self, database: str) -> None:
        wait_until(lambda: database in self.witness.paths, f"a hint about {database}")

    def wait_for_trouble(self, trouble: Trouble) -> None:
        wait_until(lambda: trouble in self.witness.troubles, f"{trouble.value} told")

    def hints_until_now(self, directory: str = "") -> list[str]:
        """What has been hinted, once everything that has happened must have been: events come in their order, so a
        journal that is closed now is hinted last. It needs a directory that holds databases."""
        sentinel = os.path.join(directory, "sentinel")
        journal = self.close_journal(sentinel)
        self.wait_for_hint(sentinel)
        journal.unlink()
        found = [path for path in self.witness.paths if path != sentinel]
        self.witness.hints.clear()
        return found


@contextmanager
def watching(
    root: Path,
    layout: str | None = None,
    *,
    databases: tuple[str, ...] = ("*",),
    exclude: tuple[str, ...] = (),
    backend: WatchBackend = WatchBackend.AUTO,
    also_poll: bool = False,
    witness: Witness | None = None,
) -> Iterator[WatchedTree]:
    """Watch a root; it is ready when the body begins."""
    told = witness or Witness()
    tree = Tree(TreeSettings(root=root, layout=layout, databases=databases, exclude=exclude))
    source = FilesystemHints(
        tree, backend=backend, hint=told.hint, sweep=told.sweep, poll_interval_s=0.02, also_poll=also_poll
    )
    source.start()
    try:
        wait_until(lambda: source.ready, "the watches set")
        yield WatchedTree(root, source, told)
    finally:
        told.gate.set()
        source.stop()
