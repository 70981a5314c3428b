"""What the service last reported of itself, for `status` to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from watcher.names import parse_printable, printable
from watcher.records.record import rfc3339
from watcher.records.state_dir import StateDir, holder, read_file

__all__ = ["Journals", "Status", "Watch", "read", "write"]

_NAME = "status.json"
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Journals:
    """How many journals there are in each standing."""

    hot: int = 0
    waiting: int = 0
    held: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How the tree is watched.

    Attributes:
        backend: `native`, `polling` or both by a plus sign; None before it is known.
        directories: that are watched.
        missed: that should be, and are not.
    """

    backend: str | None = None
    directories: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The JSON of `status`. Without arguments: that of a service which has never run.

    Attributes:
        running: whether somebody holds the lock; only :func:`read` knows, it is not written.
        pid: of the service, 0 where it is outside our pid namespace.
        since: when it started, aware.
        instance, tree: names as they are; the tree's root.
        recoveries: how many since its start, by outcome.
        engine: what it knows of the container engine, as JSON has it; None where none is asked.
        last_sweep: when the last one ended, aware.
    """

    running: bool = False
    pid: int | None = None
    since: datetime | None = None
    instance: str | None = None
    tree: str | None = None
    journals: Journals = field(default_factory=Journals)
    recoveries: Mapping[str, int] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    engine: Mapping[str, object] | None = None
    last_sweep: datetime | None = None

    def as_json(self) -> dict[str, object]:
        """The object that INTERFACE.md promises, in its order."""
        journals, watch = self.journals, self.watch
        return {
            "running": self.running,
            "pid": self.pid,
            "since": None if self.since is None else rfc3339(self.since),
            "instance": None if self.instance is None else printable(self.instance),
            "tree": None if self.tree is None else printable(self.tree),
            "journals": {
                "hot": journals.hot,
                "waiting": journals.waiting,
                "held": journals.held,
                "refused": journals.refused,
            },
            "recoveries": dict(self.recoveries),
            "watch": {"backend": watch.backend, "directories": watch.directories, "missed": watch.missed},
            "engine": None if self.engine is None else dict(self.engine),
            "last_sweep": None if self.last_sweep is None else rfc3339(self.last_sweep),
        }


@cache
def _reader() -> TypeAdapter[Status]:
    """Made where a status is read: the service writes it."""
    return TypeAdapter(Status)


def write(state_dir: StateDir, status: Status) -> bool:
    """Put the status where `status` finds it, where it differs from what is there. Without fsync: after a power cut
    nobody holds the lock, and what it says is old news.

    Returns:
        Whether it was written.

    Raises:
        StateError: it cannot be written.
    """
    told = replace(status, running=False).as_json()
    data = json.dumps(told, allow_nan=False).encode() + b"\n"
    if state_dir.read(_NAME, _LONGEST) == data:
        return False
    state_dir.write_atomically(_NAME, data)
    return True


def read(state_dir: Path) -> Status:
    """What the service of this state directory last reported; whether it runs is asked of the lock, not of the file.

    Without a file, or with one that makes no sense, everything else is empty.

    Raises:
        StateMissing: there is no state directory: no service has run with these settings (`Status()` says so).
        StateError: it cannot be read.
    """
    pid = holder(state_dir)
    status = _parsed(read_file(state_dir, _NAME, _LONGEST) or b"")
    return replace(status, running=pid is not None, pid=pid or status.pid)


def _parsed(data: bytes) -> Status:
    try:
        status = _reader().validate_json(data)
    except ValidationError:
        return Status()
    return replace(
        status,
        instance=None if status.instance is None else parse_printable(status.instance),
        tree=None if status.tree is None else parse_printable(status.tree),
    )
