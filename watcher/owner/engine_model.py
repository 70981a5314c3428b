"""What a container engine says, as values: read from its JSON, whichever of Docker and Podman has written it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "FINAL",
    "UNSTARTED",
    "Container",
    "Details",
    "EngineIdentity",
    "Mount",
    "Volume",
    "parse_time_ns",
    "parse_volumes",
]

FINAL = frozenset({"exited", "dead", "removing"})
"""The states in which no process of the container is left; Docker shows `removing` only of one that does not run."""

STOPPED = "stopped"
"""Podman's state between the end of the first process and its own cleaning up, which ends those that are left in a
container without a pid namespace of its own (measured: 70 ms)."""

UNSTARTED = frozenset({"created", "configured", "initialized"})
"""The states before a container's first process. A container that has run is never in them again."""

_PLAIN_RUNTIMES = re.compile(r"(^|[/.])(runc|crun)(\.v\d+)?$")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def parse_time_ns(text: object) -> int:
    """Nanoseconds since the epoch of an engine's RFC 3339 time; 0 for its zero time and for what is no time.

    Nine digits of a second, which `datetime` would cut to six, are kept: a death and the start after it may lie
    within one microsecond of each other only in theory, but they are compared.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", _text(text))
    if match is None or match[1].startswith("0001-"):
        return 0
    try:
        seconds = int(datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp())
    except (ValueError, OverflowError):
        return 0
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container, as its engine lists it.

    Attributes:
        kind: `bind`, `volume`, `tmpfs`, … (the engine's `Type`).
        source: the path as it was given, in the engine's view; symlinks in it are not resolved.
        volume: the volume's name, where it is one.
        driver: the volume's driver; empty for other mounts, and where Podman leaves it out.
    """

    kind: str
    source: str
    destination: str
    writable: bool
    volume: str = ""
    driver: str = ""

    @classmethod
    def parse(cls, value: object) -> Mount:
        fields = _object(value)
        return cls(
            kind=_text(fields.get("Type")),
            source=_text(fields.get("Source")),
            destination=_text(fields.get("Destination")),
            writable=fields.get("RW") is not False,  # what is not said to be read-only may write
            volume=_text(fields.get("Name")),
            driver=_text(fields.get("Driver")),
        )


@dataclass(frozen=True, slots=True)
class Container:
    """One entry of the engine's list.

    Attributes:
        names: without the leading slash; the first is the one that it is called by.
        mounts: None where the list does not tell (old Podman).
        created: when it was created, seconds since the epoch, by the engine's clock.
    """

    id: str
    names: tuple[str, ...]
    state: str
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...] | None
    created: float

    @property
    def live(self) -> bool:
        """It runs, is paused, restarting or stopping: whatever is neither before its start nor finally stopped."""
        return self.state not in FINAL and self.state not in UNSTARTED

    @property
    def name(self) -> str:
        return self.names[0] if self.names else self.id[:12]

    @classmethod
    def parse(cls, value: object) -> Container:
        """Raises ValueError for what is no entry of a list of containers."""
        fields = _object(value)
        identity = _text(fields.get("Id"))
        if not identity:
            raise ValueError("a container without an id in the engine's list")
        mounts = fields.get("Mounts")
        created = fields.get("Created")
        return cls(
            id=identity,
            names=tuple(_text(name).removeprefix("/") for name in _list(fields.get("Names")) if _text(name)),
            state=_text(fields.get("State")).lower(),
            labels={key: _text(text) for key, text in _object(fields.get("Labels")).items()},
            mounts=tuple(Mount.parse(mount) for mount in mounts) if isinstance(mounts, list) else None,
            created=float(created) if isinstance(created, int | float) else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Details:
    """What the engine tells of one container when it is asked for that one.

    Attributes:
        pid: of its first process, in the pid namespace of the engine's machine; 0 when it does not run.
        started_ns: when it was last started, nanoseconds since the epoch, by the engine's clock.
        restarts: a restart policy may start it again.
        own_pids: it has a pid namespace of its own: with its first process the kernel ends all others.
        runtime: as the engine names it, e.g. `runc` or `io.containerd.runsc.v1`; empty: the engine's default.
    """

    state: str
    pid: int
    started_ns: int
    restarts: bool
    own_pids: bool
    runtime: str
    mounts: tuple[Mount, ...]

    @property
    def finally_stopped(self) -> bool:
        return self.state in FINAL or (self.state == STOPPED and self.own_pids)

    @classmethod
    def parse(cls, value: object) -> Details:
        """From Docker's inspect, or from libpod's: they agree in all of this but the runtime."""
        fields = _object(value)
        state, host = _object(fields.get("State")), _object(fields.get("HostConfig"))
        if not state:
            raise ValueError("the engine describes a container without a state")
        pid = state.get("Pid")
        return cls(
            state=_text(state.get("Status")).lower(),
            pid=pid if isinstance(pid, int) else 0,
            started_ns=parse_time_ns(state.get("StartedAt")),
            restarts=_text(_object(host.get("RestartPolicy")).get("Name")) not in {"", "no"},
            own_pids=_text(host.get("PidMode")) in {"", "private"},
            runtime=_text(fields.get("OCIRuntime")) or _text(host.get("Runtime")),
            mounts=tuple(Mount.parse(mount) for mount in _list(fields.get("Mounts"))),
        )


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume: `options` are the `local` driver's (`type`, `o`, `device`), empty for a plain directory."""

    driver: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, value: object) -> Volume:
        fields = _object(value)
        options = {key: _text(text) for key, text in _object(fields.get("Options")).items()}
        return cls(driver=_text(fields.get("Driver")) or "local", options=options)


def parse_volumes(value: object) -> Mapping[str, Volume]:
    """All named volumes of the engine's answer, by name."""
    entries = [_object(entry) for entry in _list(_object(value).get("Volumes"))]
    return {_text(entry.get("Name")): Volume.parse(entry) for entry in entries}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Which engine answers.

    Attributes:
        id: stays the same while the engine keeps its data. Podman makes up a new `ID` for each answer, so there it is
            its host's name with its storage's path.
        kernel: release of the kernel that its containers run on.
        memory_bytes: of the machine that it runs on.
    """

    id: str
    kind: str
    version: str
    kernel: str
    system: str
    memory_bytes: int
    default_runtime: str

    @property
    def desktop(self) -> bool:
        return self.system == "Docker Desktop"

    def plain_runtime(self, runtime: str) -> bool:
        """Whether containers of this runtime are plain processes of the engine's kernel: those of runc and crun are;
        those of gVisor, Kata and whatever nobody knows are not."""
        return _PLAIN_RUNTIMES.search(runtime or self.default_runtime) is not None

    @classmethod
    def parse(cls, info: object, version: object) -> EngineIdentity:
        fields = _object(info)
        components = [_text(_object(each).get("Name")) for each in _list(_object(version).get("Components"))]
        podman = any(name.startswith("Podman") for name in components)
        place = f"{_text(fields.get('Name'))}:{_text(fields.get('DockerRootDir'))}"
        memory = fields.get("MemTotal")
        return cls(
            id=f"podman:{place}" if podman else _text(fields.get("ID")) or f"docker:{place}",
            kind="Podman" if podman else "Docker",
            version=_text(fields.get("ServerVersion")) or _text(_object(version).get("Version")),
            kernel=_text(fields.get("KernelVersion")),
            system=_text(fields.get("OperatingSystem")),
            memory_bytes=memory if isinstance(memory, int) else 0,
            default_runtime=_text(fields.get("DefaultRuntime")),
        )
