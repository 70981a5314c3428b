"""What each container can write to: the keys of its mounts, kept from one list of the engine to the next.

Looking at a mount's source costs some microseconds, and asking the engine for a container's first process a
millisecond, so both are remembered for as long as the container is listed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from watcher.owner.engine import Engine, Listing
from watcher.owner.engine_errors import EngineLostError
from watcher.owner.engine_model import Container, Details, Mount
from watcher.owner.init_process import InitProcess
from watcher.owner.mounts import Key, MountTable, View, ancestors, are_related, keys_of_source

__all__ = ["Footprint", "Footprints", "Index", "Unresolved"]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A writable mount of which we cannot tell what it covers.

    Attributes:
        gone: its source is not there any more under its name, on our own kernel: what was there, is still mounted.
            Else it cannot be looked at from here.
    """

    container: Container
    source: str
    gone: bool


@dataclass(slots=True)
class Footprint:
    """One container's; changed only under the lock of its :class:`Footprints`.

    Attributes:
        keys: of all that its mounts were ever seen to cover.
        unresolved: the sources that could not be looked at, with what :class:`Unresolved` calls `gone`.
        learned: the engine has been asked for it since it was last started.
        details, init: what came of that, if anything.
        since: when that was, or when it was first listed (`time.monotonic()`).
    """

    keys: set[Key] = field(default_factory=set)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    unresolved: dict[str, bool] = field(default_factory=dict)
    learned: bool = False
    details: Details | None = None
    init: InitProcess | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def known_by_kernel(self) -> bool:
        return self.init is not None and self.init.mounts is not None


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """The containers of one list by the keys of what they can write to; only those that live or were just created."""

    listing: Listing
    by_key: Mapping[Key, list[Container]]
    unresolved: tuple[Unresolved, ...]

    def covering(self, keys: Iterable[Key]) -> dict[str, Container]:
        """The containers with a mount over a directory of these keys, by id."""
        return {each.id: each for key in keys for each in self.by_key.get(key, ())}


class Footprints:
    """May be used by several threads at once.

    Args:
        engine: asked for volumes and single containers.
        view: how its paths are found here.
        mounts: whether mounts count at all.
    """

    def __init__(self, engine: Engine, view: View, *, mounts: bool) -> None:
        self.table = MountTable()
        self._engine = engine
        self._view = view
        self._mounts = mounts
        self._lock = threading.RLock()
        self._proved: set[str] = set()  # under the lock: engines of which a container was a process of ours
        self._footprints: dict[str, Footprint] = {}  # under the lock
        self._index: Index | None = None  # under the lock

    def index(self, listing: Listing) -> Index:
        """What is in this list, by keys.

        Raises:
            EngineLostError: it was asked for a volume, and does not answer.
        """
        with self._lock:
            if self._index is None or self._index.listing is not listing:
                self._index = self._indexed(listing)
            return self._index

    def of(self, container_id: str) -> Footprint:
        """What is known of a container; an empty one where nothing is."""
        with self._lock:
            return self._footprints.get(container_id) or Footprint()

    def on_our_kernel(self) -> bool | None:
        """Whether the engine's containers run on our own kernel; None where that cannot be told.

        Raises:
            EngineLostError: the engine does not answer.
        """
        ours, identity = self._engine.ours(), self._engine.identity()
        with self._lock:
            return True if identity.id in self._proved else ours

    def learn(self, container_id: str, details: Details | None = None) -> None:
        """Ask the engine for a container and find its first process, unless its details are given.

        Raises:
            EngineLostError: the engine does not answer.
        """
        asked_at = time.monotonic()
        if details is None:
            try:
                details = self._engine.inspect(container_id)
            except EngineLostError as error:
                if not error.answered:
                    raise
                details = None  # it answers for others: this one is known by its mounts' sources alone
        here = self._engine.ours() is not False
        init = InitProcess.find(container_id, details) if details is not None and here else None
        with self._lock:
            footprint = self._footprints.setdefault(container_id, Footprint())
            footprint.learned, footprint.details, footprint.init = True, details, init
            footprint.since = asked_at
            if init is not None:
                self._proved.add(self._engine.identity().id)
            if init is not None and init.mounts is not None:
                footprint.keys |= init.mounts
            self._index = None

    def learn_unknown(self, listing: Listing) -> bool:
        """Learn all live containers that can write anywhere and are not known yet; True where there were any.

        Raises:
            EngineLostError: the engine does not answer.
        """
        unknown = [each for each in listing.containers if each.live and self._worth_learning(each)]
        for container in unknown:
            self.learn(container.id)
        return bool(unknown)

    def may_cover(self, container_id: str, path: str) -> bool:
        """Whether a container may be able to write what is at a path of the tree: a guess, for hints, by text alone.
        What is not known of it speaks for it."""
        names = {above for name in self._view.foreign(path) for above in ancestors(name)}
        with self._lock:
            footprint = self._footprints.get(container_id)
            if footprint is None or footprint.unresolved:
                return True
            return any(("text", name, "") in footprint.keys for name in names)

    def serving(self, listing: Listing, directory: str) -> list[Container]:
        """The live containers whose mounts' sources are a directory, something in it, or one above it.

        Raises:
            EngineLostError: the engine does not answer.
            OSError: the directory is not there.
        """
        own = keys_of_source(directory, self._view, self.table)
        related = [
            containers
            for key, containers in self.index(listing).by_key.items()
            if any(are_related(key, each) for each in own)
        ]
        return list({each.id: each for containers in related for each in containers if each.live}.values())

    def _worth_learning(self, container: Container) -> bool:
        if self.of(container.id).learned:
            return False
        return container.mounts is None or any(mount.writable and mount.source for mount in container.mounts)

    def forget_run(self, container_id: str) -> None:
        """A container was started anew: its first process is another one now."""
        with self._lock:
            footprint = self._footprints.get(container_id)
            if footprint is not None:
                footprint.learned = False

    def _indexed(self, listing: Listing) -> Index:
        present = {each.id for each in listing.containers}
        for gone in self._footprints.keys() - present:
            if self._footprints[gone].since < listing.asked_at:  # else it is newer than this list
                del self._footprints[gone]
        by_key: dict[Key, list[Container]] = {}
        unresolved: list[Unresolved] = []
        for container in listing.containers:
            if not container.live and container.state not in {"created", "configured", "initialized"}:
                continue
            footprint = self._footprints.setdefault(container.id, Footprint())
            if self._mounts:
                self._look(container, footprint)
                if not footprint.known_by_kernel:
                    unresolved += (Unresolved(container, *each) for each in footprint.unresolved.items())
            for key in footprint.keys:
                by_key.setdefault(key, []).append(container)
        return Index(listing, by_key, tuple(unresolved))

    def _look(self, container: Container, footprint: Footprint) -> None:
        footprint.unresolved.clear()
        mounts = container.mounts
        if mounts is None:
            mounts = () if footprint.details is None else footprint.details.mounts
            if footprint.details is None and footprint.learned:
                footprint.unresolved["?"] = True
        for mount in mounts:
            if mount.writable and mount.source.startswith("/"):
                self._look_at(mount, footprint)

    def _look_at(self, mount: Mount, footprint: Footprint) -> None:
        """Add the keys of a mount; what was seen earlier stays, since a source may be replaced under a mount."""
        source, special = mount.source.rstrip("/") or "/", False
        volume = self._engine.volume(mount.volume) if mount.kind == "volume" and mount.volume else None
        if volume is not None:
            device = volume.options.get("device", "").rstrip("/")
            if volume.driver == "local" and not device:
                footprint.keys.add(("text", source, ""))  # a directory of the engine's own
                return
            if "bind" in volume.options.get("o", "").split(",") and device.startswith("/"):
                source = device
            else:
                special = True
        footprint.keys.add(("text", source, ""))
        found = closed = False
        candidates = self._view.local(source)
        for path in candidates:
            footprint.keys.update(("text", name, "") for name in self._view.foreign(path))
            try:
                status = os.stat(path)
                if footprint.seen.get(path) != (status.st_dev, status.st_ino):
                    footprint.keys |= keys_of_source(path, self._view, self.table)
                    footprint.seen[path] = (status.st_dev, status.st_ino)
                found = True
            except (FileNotFoundError, NotADirectoryError):
                pass  # under this name it is not there; another candidate may be
            except OSError:
                closed = True
        if found or (closed and not special):
            return  # what is closed to us is no part of the tree that we walk; its text says what it covers
        if candidates and self._engine.ours() is False:
            return  # a path inside the virtual machine, or on the other host
        footprint.unresolved[source] = bool(candidates)
