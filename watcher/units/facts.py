"""What a unit has to know of an installation: its paths, whose it is, what it must reach."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from watcher.liveness import patience_s
from watcher.records.hooks import programs_of
from watcher.settings import Settings, VerifyMode

__all__ = ["Facts", "UnitError", "facts_of"]

_OVERRIDES = "JOURNAL_WATCHER__"
_OF_THE_ENGINE = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "CONTAINER_HOST")
_LEAST_WATCHDOG_S = 30
_FIRST_PORT_OF_ANYBODY = 1024
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - whether something of ours lies there


class UnitError(Exception):
    """This installation cannot be told in that unit. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """An installation as its settings and this machine have it.

    Attributes:
        settings_file, tree, state_dir: absolute.
        log_dir: of the log file; None where there is none.
        argv: of the command `run`.
        uid, gid: of the tree's owner; of the nearest directory above it, where it is not there.
        engine_address: None where no engine is asked.
        engine_socket: the file, where it is a local one.
        engine_gid: the group that may talk to it, where that is not the tree's owner anyway.
        environment: what the settings were changed by, and where the engine was named.
        runs_programs: a hook, or the command probe.
        listens_on: host and port of the metrics.
        watchdog_s: within so many seconds the service shows that it is not hung.
        verifies: in a child process.
    """

    instance: str
    settings_file: Path
    settings_text: str
    tree: Path
    state_dir: Path
    log_dir: Path | None
    argv: tuple[str, ...]
    uid: int
    gid: int
    engine_address: str | None
    engine_socket: Path | None
    engine_gid: int | None
    environment: Mapping[str, str]
    runs_programs: bool
    listens_on: tuple[str, str] | None
    watchdog_s: int
    verifies: bool
    needed: tuple[Path, ...]

    @property
    def user(self) -> str:
        """Name, or number where nobody is called so."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def needs_network(self) -> bool:
        remote = self.engine_address is not None and self.engine_socket is None
        return remote or self.runs_programs or self.listens_on is not None

    @property
    def wants_a_low_port(self) -> bool:
        """Whether it listens where only a process with CAP_NET_BIND_SERVICE may (ip(7))."""
        return self.listens_on is not None and int(self.listens_on[1]) < _FIRST_PORT_OF_ANYBODY

    def needs_one_below(self, *places: Path) -> bool:
        """Whether something that the service needs lies in one of these directories."""
        return any(each.is_relative_to(place) for each in self.needed for place in places)

    @property
    def needs_homes(self) -> bool:
        return self.needs_one_below(*_HOMES)

    @property
    def needs_temporary(self) -> bool:
        return self.needs_one_below(*_TEMPORARY)


def facts_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> Facts:
    """What can be found out now.

    Raises:
        UnitError: a name that is no UTF-8, which none of the units can hold.
    """
    owner = _existing(settings.tree.root).stat()
    address, socket = _engine(settings)
    environment = {
        name: value for name, value in environ.items() if name.upper().startswith(_OVERRIDES) or name in _OF_THE_ENGINE
    }
    if settings.owner.container is None:
        environment = {name: value for name, value in environment.items() if name not in _OF_THE_ENGINE}
    elif settings.owner.container.engine == "podman" and address is not None:
        environment.setdefault("CONTAINER_HOST", address)  # else it would be looked for as another user
    facts = Facts(
        instance=settings.instance,
        settings_file=settings.file,
        settings_text=settings.file.read_text("utf-8"),
        tree=settings.tree.root,
        state_dir=settings.state_dir,
        log_dir=None if settings.log.file is None else settings.log.file.parent,
        argv=(*_command(), "run", "-c", os.fspath(settings.file)),
        uid=owner.st_uid,
        gid=_group_of(owner.st_uid, owner.st_gid),
        engine_address=address,
        engine_socket=socket,
        engine_gid=_group_for(socket, owner.st_uid, owner.st_gid),
        environment=environment,
        runs_programs=settings.owner.command is not None or bool(programs_of(settings.hooks)),
        listens_on=_listens_on(settings),
        watchdog_s=max(_LEAST_WATCHDOG_S, round(3 * patience_s(settings))),
        verifies=settings.recovery.verify is not VerifyMode.READ,
        needed=tuple(dict.fromkeys(_needed(settings, socket))),
    )
    for text in (
        facts.settings_file,
        facts.tree,
        facts.state_dir,
        facts.log_dir or "",
        *facts.argv,
        *environment.values(),
    ):
        try:
            os.fspath(text).encode("utf-8")
        except UnicodeEncodeError:
            raise UnitError(f"{os.fspath(text)!a} is no UTF-8, and no unit can hold it") from None
    return facts


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _group_of(uid: int, gid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return gid


def _group_for(socket: Path | None, uid: int, gid: int) -> int | None:
    if socket is None:
        return None
    try:
        found = socket.stat()
    except OSError:  # not there: its usual group, where this machine has it
        try:
            return grp.getgrnam("docker").gr_gid if socket.name == "docker.sock" and uid != 0 else None
        except KeyError:
            return None
    may_already = uid in {0, found.st_uid} or found.st_gid == gid or found.st_mode & stat.S_IWOTH
    return None if may_already or not found.st_mode & stat.S_IWGRP or found.st_gid == 0 else found.st_gid


def _engine(settings: Settings) -> tuple[str | None, Path | None]:
    """Its address, and its socket where it is a local one."""
    if settings.owner.container is None:
        return None, None
    from watcher.owner.engine_api import address_of  # noqa: PLC0415 - the docker SDK, only where it is wanted
    from watcher.owner.engine_errors import EngineLostError  # noqa: PLC0415

    try:
        address = address_of(settings.owner.container.engine)
    except EngineLostError as error:
        raise UnitError(f"{error.reason}; {error.remedy}") from error
    return address, Path(address.removeprefix("unix://")) if address.startswith("unix://") else None


def _listens_on(settings: Settings) -> tuple[str, str] | None:
    if settings.metrics.listen is None:
        return None
    host, _, port = settings.metrics.listen.rpartition(":")
    return host.strip("[]"), port


def _command() -> tuple[str, ...]:
    """How this very installation of the package is called."""
    script = Path(sys.executable).with_name("journal-watcher")
    # -P: nothing in the directory that it is called from is taken for a module.
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-P", "-m", "watcher")


def _needed(settings: Settings, socket: Path | None) -> Iterator[Path]:
    """All that the service opens or runs, by name and by where that leads."""
    named = [settings.file, settings.tree.root, settings.state_dir, Path(sys.executable), Path(sys.prefix)]
    named += [Path(sys.base_prefix), Path(__file__)]
    named += [each for each in (settings.log.file, socket) if each is not None]
    owner = settings.owner
    programs = [*programs_of(settings.hooks).values(), *([owner.command.argv] if owner.command is not None else [])]
    named += [Path(argv[0]) for argv in programs]
    named += [Path(each) for each in (owner.pid_file, owner.heartbeat and owner.heartbeat.file) if each]
    for path in named:
        if path.is_absolute():
            yield path
            yield Path(os.path.realpath(path))
