"""What `check` tells of containers: which engine answers, and which containers the settings would find."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from watcher.names import printable
from watcher.owner.container import ContainerProbe, Pattern
from watcher.owner.engine import Engine, Listing
from watcher.owner.engine_errors import EngineLostError, user_name
from watcher.owner.engine_model import Container
from watcher.owner.footprints import Footprints
from watcher.owner.mounts import View
from watcher.owner.own_container import own_container_ids
from watcher.owner.testimony import Subject

__all__ = ["EngineDescription", "Found", "Survey", "default_engine_mounts", "describe", "survey"]

_MOST_LABELS = 10
_DEFAULT_ENGINE_S = 2.0
"""Podman's list has been seen to take almost a second, on a machine with much to do."""


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """The engine in words.

    Attributes:
        reached: it answers.
        detail: which one and as which user, or why it does not answer, in one printable line.
        remedy: what to do about that; empty where it answers.
    """

    reached: bool
    detail: str
    remedy: str


def describe(probe: ContainerProbe) -> EngineDescription:
    """Which engine the probe reaches, and as whom."""
    engine = probe.engine
    try:
        identity, ours, count = engine.identity(), engine.ours(), len(engine.listing().containers)
    except EngineLostError as error:
        return EngineDescription(reached=False, detail=f"{error.reason} (as {user_name()})", remedy=error.remedy)
    where = {True: "on this kernel", False: f"on another kernel ({printable(identity.system)})", None: "somewhere"}[
        ours
    ]
    version, address = printable(identity.version), printable(engine.address)
    detail = f"{identity.kind} {version} at {address} as {user_name()}: {count} containers, {where}"
    return EngineDescription(reached=True, detail=detail, remedy="")


@dataclass(frozen=True, slots=True)
class Found:
    """A live container that is an owner of a database, and by what; `stray` where only its mount tells, though the
    settings name labels or a name: those do not fit it."""

    database: str
    container: str
    by: str
    stray: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What the settings find at this moment.

    Attributes:
        found: each pair of a database and a live container that is its owner.
        without: how many of the databases have none.
        meant: labels of live containers whose value is one of a session's fields, as lines for the settings:
            `nanoclaw-session: "{session}"`; the most frequent first.
        blind: of how many databases nobody could say that the writer has exited, for a live container that is not
            known as an owner may write them: its mount is not to be found here.
        hidden: the first such container and mount, in words.
        inside: we run in a container of the engine ourselves.
    """

    found: tuple[Found, ...]
    without: int
    meant: tuple[str, ...]
    blind: int
    hidden: str | None
    inside: bool


def survey(probe: ContainerProbe, subjects: Iterable[Subject]) -> Survey:
    """Match all sessions with all live containers.

    Args:
        subjects: taken one after the other; each may be closed when the next one is asked for.

    Raises:
        EngineLostError: the engine does not answer.
    """
    listing = probe.engine.listing()
    live = [each for each in listing.containers if each.live]
    own = own_container_ids()
    found: list[Found] = []
    hidden: list[str] = []
    without = 0
    meant: dict[str, int] = {}
    for subject in subjects:
        pattern = Pattern.of(probe.settings, subject.session)
        owners = [match for match in probe.owners(subject, listing) if match.container.live]
        for match in owners:
            fits = pattern.matched_by(match.container.labels, match.container.names) is not None
            stray = not fits and (bool(pattern.labels) or pattern.name is not None)
            found.append(Found(printable(subject.path), _called(match.container), printable(match.by), stray))
        without += not owners
        _note_labels(meant, live, subject.session)
        known = {match.container.id for match in owners} | own
        hidden += itertools.islice(_hidden(probe, listing, subject, known), 1)
    ranked = sorted(meant, key=lambda line: (-meant[line], line))
    return Survey(
        tuple(found), without, tuple(ranked[:_MOST_LABELS]), len(hidden), next(iter(hidden), None), inside=bool(own)
    )


def _hidden(probe: ContainerProbe, listing: Listing, subject: Subject, known: Set[str]) -> Iterator[str]:
    """The mounts that keep a database's journal held, whatever becomes of its own container: as the probe has it."""
    pattern = Pattern.of(probe.settings, subject.session)
    names = Path(subject.path).parent.parts[len(Path(probe.view.root).parts) - 1 :]
    for each in probe.footprints.index(listing).unresolved:
        container = each.container
        if not container.live or pattern.ignores(container) or not (each.gone or Path(each.source).name in names):
            continue
        if container.id not in known and container.id[:12] not in known:
            yield f"container {_called(container)} mounts {printable(each.source)} read-write"


def _called(container: Container) -> str:
    return f"{printable(container.name)} ({printable(container.id[:12])})"


def _note_labels(meant: dict[str, int], live: list[Container], session: Mapping[str, str]) -> None:
    fields = {value: name for name, value in session.items() if value}
    for container in live:
        for key, value in container.labels.items():
            if value in fields:
                line = f'{printable(key)}: "{{{fields[value]}}}"'
                meant[line] = meant.get(line, 0) + 1


def default_engine_mounts(root: Path) -> str | None:
    """Why settings without a container section look wrong: a container of an engine of this machine writes to the tree.

    Quick, and None where no engine's socket is there or none answers: nobody has asked for one.

    Args:
        root: the tree.
    """
    if not root.is_dir():
        return None
    for address in _local_sockets():
        engine = Engine(address, _DEFAULT_ENGINE_S)
        try:
            footprints = Footprints(engine, View.of(root, None), mounts=True)
            listing = engine.listing()
            serving = footprints.serving(listing, os.fspath(root))
        except EngineLostError:
            continue
        finally:
            engine.close()
        own = own_container_ids()
        for container in serving:
            if container.id not in own and container.id[:12] not in own:
                where = f"the engine at {printable(address)}"
                return f"container {_called(container)} of {where} has the tree mounted read-write"
    return None


def _local_sockets() -> list[str]:
    """The sockets of engines where they usually are, those that exist and that we may use."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    home = os.environ.get("HOME", "")
    named = [os.environ.get(name, "") for name in ("DOCKER_HOST", "CONTAINER_HOST")]
    usual = ["/var/run/docker.sock", f"{runtime}/docker.sock", f"{home}/.docker/run/docker.sock"]
    usual += [f"{home}/.docker/desktop/docker.sock", f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"]
    paths = [each.removeprefix("unix://") for each in named if each.startswith("unix://")] + usual
    real = dict.fromkeys(os.path.realpath(path) for path in paths)
    return [f"unix://{path}" for path in real if os.access(path, os.R_OK | os.W_OK)]
