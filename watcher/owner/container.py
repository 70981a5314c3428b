"""The `container` probe: is a container that owns this database still there?"""

from __future__ import annotations

import fnmatch
import glob
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from watcher.names import printable
from watcher.owner.engine import LISTING_MAX_AGE_S, Engine, Listing
from watcher.owner.engine_errors import EngineLostError
from watcher.owner.engine_memory import EngineMemory
from watcher.owner.engine_model import FINAL, STOPPED, UNSTARTED, Container, Details
from watcher.owner.footprints import Footprints, Index, Unresolved
from watcher.owner.mounts import Key, View, keys_of_subject
from watcher.owner.own_container import own_container_ids
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import ContainerSettings, expand

__all__ = ["ContainerProbe", "Match", "Pattern"]

_CREATED_IS_FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the settings say a session's container looks like, with the fields of one session filled in."""

    labels: Mapping[str, str]
    name: str | None
    ignore: tuple[str, ...]

    @classmethod
    def of(cls, settings: ContainerSettings, session: Mapping[str, str]) -> Pattern:
        """A session's fields are somebody's directory names: in a shell pattern they stand for themselves."""
        literal = {field: glob.escape(value) for field, value in session.items()}
        return cls(
            labels={key: expand(template, session) for key, template in settings.labels.items()},
            name=None if settings.name is None else expand(settings.name, literal),
            ignore=tuple(expand(template, literal) for template in settings.ignore),
        )

    def matched_by(self, labels: Mapping[str, str], names: tuple[str, ...]) -> str | None:
        """By what a container of these labels and names matches; None where it does not."""
        if self.labels and all(labels.get(key) == value for key, value in self.labels.items()):
            return "its labels " + ", ".join(f"{key}={value}" for key, value in self.labels.items())
        if self.name is not None and any(fnmatch.fnmatchcase(name, self.name) for name in names):
            return f"its name, like {self.name}"
        return None

    def ignores(self, container: Container) -> bool:
        texts = (*container.names, container.id, container.id[:12])
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in self.ignore for text in texts)


@dataclass(frozen=True, slots=True)
class Match:
    """A container that is an owner of a database, and by what."""

    container: Container
    by: str

    def __str__(self) -> str:
        return (
            f"container {_called(self.container)} is {printable(self.container.state)}, found by {printable(self.by)}"
        )


def _called(container: Container) -> str:
    return f"{printable(container.name)} ({printable(container.id[:12])})"


class ContainerProbe:
    """Asks a container engine. May be used by several threads at once.

    Args:
        settings: which engine, and which containers are a session's.
        host_root: the tree as the engine names it, where that differs.
        root: the tree, absolute.
        state_dir: where to remember that an engine serves this tree; None: not beyond this run.
        on_lost: called with the reason and the remedy, once when the engine stops answering.
        on_back: called once when it answers again. Neither may ask this probe.
    """

    def __init__(
        self,
        settings: ContainerSettings,
        *,
        host_root: Path | None,
        root: Path,
        state_dir: Path | None,
        on_lost: Callable[[str, str], None] | None = None,
        on_back: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.engine = Engine(settings.engine, settings.timeout, on_lost=on_lost, on_back=on_back)
        self.view = View.of(root, host_root)
        self.footprints = Footprints(self.engine, self.view, mounts=settings.mounts)
        self._memory = EngineMemory(state_dir, root)
        self._own = own_container_ids()
        self._lock = threading.Lock()
        self._ended: dict[str, float] = {}  # under the lock: id -> time.monotonic() before the engine confirmed it

    @property
    def name(self) -> str:
        return "container"

    def ask(self, subject: Subject, *, boot_exited: bool = False) -> Evidence:
        """Testify about a database's owner.

        Args:
            boot_exited: the `boot` probe says that the journal is older than this boot, so that no engine, the right
                one or not, has a container left that wrote it.
        """
        asked_at = time.monotonic()
        try:
            listing = self.engine.listing(asked_at if subject.fresh else None)
            not_before = asked_at if subject.fresh else listing.asked_at
            evidence = self._testify(subject, listing, not_before, boot_exited)
            age_s = asked_at - listing.asked_at
            if age_s <= 0 or evidence.answer is Answer.EXITED:
                return evidence
            if evidence.answer is Answer.ALIVE and age_s <= LISTING_MAX_AGE_S:
                return evidence
            # That somebody lives is not believed of an old list: an event may have been lost. And what a list leaves
            # open, a newer one may tell: what was `created` then may have lived and died.
            return self._testify(subject, self.engine.listing(asked_at), asked_at, boot_exited)
        except EngineLostError as error:
            return Evidence(self.name, Answer.UNKNOWN, str(error))

    def _testify(self, subject: Subject, listing: Listing, not_before: float, boot_exited: bool) -> Evidence:
        pattern = Pattern.of(self.settings, subject.session)
        keys = keys_of_subject(subject, self.view, self.footprints.table) if self.settings.mounts else frozenset()
        index = self.footprints.index(listing)
        ended: list[Container] = []
        fresh: Match | None = None
        judged: set[str] = set()
        while True:
            for match in self._matches(index, pattern, keys):
                container = match.container
                if container.id in judged:
                    continue
                judged.add(container.id)
                if container.state in UNSTARTED:
                    if abs(time.time() - container.created) < _CREATED_IS_FRESH_S:
                        fresh = match
                elif self.has_ended(container, not_before):
                    ended.append(container)
                else:
                    alive = self._alive(match)
                    # Its end between the two is told to nobody who watches the process: it must not be missed here.
                    if alive.pid is not None or not self.has_ended(container, not_before):
                        return alive
                    ended.append(container)
            # Nobody by what is known so far: then it must be known of each container what it can write to.
            if not (self.settings.mounts and self.footprints.learn_unknown(listing)):
                break
            index = self.footprints.index(listing)
        if fresh is not None:
            return Evidence(self.name, Answer.UNKNOWN, f"{fresh}: it may be about to start")
        hidden = self._hidden(index, pattern, subject, not_before)
        if hidden is not None:
            return Evidence(self.name, Answer.UNKNOWN, hidden)
        return self._nobody(listing, ended, boot_exited)

    def _alive(self, match: Match) -> Evidence:
        self._memory.remember(self.engine.identity().id)
        footprint = self.footprints.of(match.container.id)
        if not footprint.learned:
            self.footprints.learn(match.container.id)
        init = self.footprints.of(match.container.id).init
        return Evidence(self.name, Answer.ALIVE, str(match), None if init is None or init.ended else init.pid)

    def _matches(self, index: Index, pattern: Pattern, keys: frozenset[Key]) -> Iterator[Match]:
        """All containers that are this session's, whatever their state: those by labels and name first."""
        for container in index.listing.containers:
            by = pattern.matched_by(container.labels, container.names)
            if by is not None and not self._left_out(container, pattern):
                yield Match(container, by)
        for container in index.covering(keys).values():
            if not self._left_out(container, pattern):
                yield Match(container, "its mount of the database's directory")

    def owners(self, subject: Subject, listing: Listing) -> list[Match]:
        """All containers of a list that are a database's owner by the settings, whatever their state.

        Raises:
            EngineLostError: the engine does not answer.
        """
        keys: frozenset[Key] = frozenset()
        if self.settings.mounts:
            self.footprints.learn_unknown(listing)
            keys = keys_of_subject(subject, self.view, self.footprints.table)
        found: dict[str, Match] = {}
        for match in self._matches(self.footprints.index(listing), Pattern.of(self.settings, subject.session), keys):
            found.setdefault(match.container.id, match)
        return list(found.values())

    def _left_out(self, container: Container, pattern: Pattern) -> bool:
        return container.id in self._own or container.id[:12] in self._own or pattern.ignores(container)

    def has_ended(self, container: Container, not_before: float) -> bool:
        """Whether a container has finally stopped: the list lags behind.

        Where the kernel says that no process of it is left, and no restart policy could start it again, it has. Else,
        where an event has told of its death or its first process has ended, the engine is asked for that one
        container. Whatever it says then, counts, since somebody may have started it again; but not against the kernel:
        Podman calls a container with the host's pids stopped as soon as its first process has ended (measured).

        Args:
            not_before: an answer from before this moment does not count (`time.monotonic()`).

        Raises:
            EngineLostError: the engine does not answer.
        """
        footprint = self.footprints.of(container.id)
        init = footprint.init
        if init is not None and init.all_ended and self._stays_down(footprint.details):
            return True
        if container.state in FINAL:
            return init is None or not init.some_left
        doubtful = container.state == STOPPED or (init is not None and init.ended)
        if not doubtful and not self.engine.deaths.noted(container.id):
            return False
        with self._lock:
            if self._ended.get(container.id, 0.0) >= not_before:
                return True
        asked_at = time.monotonic()
        details = self.engine.inspect(container.id)
        if details is None or details.finally_stopped:
            if init is not None and init.some_left:
                return False
            with self._lock:
                self._ended[container.id] = asked_at
                self._forget_old()
            return True
        if details.state == "running":
            self.engine.deaths.started(container.id, details.started_ns)
            if init is not None and details.started_ns != init.started_ns:
                self.footprints.learn(container.id, details)
        return False

    def _stays_down(self, details: Details | None) -> bool:
        """A container whose processes are plain ones of the kernel, and which its engine does not start again itself.

        A sandbox (gVisor, Kata) may write through helpers outside of the container's cgroup.
        """
        return details is not None and not details.restarts and self.engine.identity().plain_runtime(details.runtime)

    def _forget_old(self) -> None:
        if len(self._ended) > 4096:
            for container_id in sorted(self._ended, key=self._ended.__getitem__)[:2048]:
                del self._ended[container_id]

    def _hidden(self, index: Index, pattern: Pattern, subject: Subject, not_before: float) -> str | None:
        """The reason why a live container might write the database without our seeing it."""
        for each in index.unresolved:
            container = each.container
            if not container.live or self._left_out(container, pattern) or not self._might_cover(each, subject):
                continue
            if not self.has_ended(container, not_before):
                what = "is not to be found here" if each.gone else "cannot be looked at from here"
                return (
                    f"container {_called(container)} mounts {printable(each.source)} read-write, which {what} and may "
                    "be the database's directory: where this service runs in a container, set tree.host_root; else "
                    "stop that container, or name it in owner.container.ignore once it is certain that it writes no "
                    "database of this tree"
                )
        return None

    def _might_cover(self, each: Unresolved, subject: Subject) -> bool:
        """What lies outside of our view is told by its text alone; there only a namesake is suspicious."""
        if each.gone or each.source == "?":
            return True
        inside = Path(subject.path).parent.parts[len(Path(self.view.root).parts) - 1 :]
        return Path(each.source).name in inside

    def _nobody(self, listing: Listing, ended: list[Container], boot_exited: bool) -> Evidence:
        identity = self.engine.identity()
        engine = f"the {identity.kind} engine at {printable(self.engine.address)}"
        if ended:
            states = ", ".join(f"container {_called(each)} has ended" for each in ended[:3])
            detail = f"{states}; no other of {engine} is this session's"
        else:
            detail = f"no live container of {engine} is this session's (it has {len(listing.containers)})"
        if self.footprints.on_our_kernel() or boot_exited or self._memory.serves_tree(identity.id):
            return Evidence(self.name, Answer.EXITED, detail)
        return Evidence(
            self.name,
            Answer.UNKNOWN,
            f"{detail}, but that engine does not run on this kernel and none of its containers was ever seen to serve "
            "this tree: it may be the wrong one to ask",
        )

    def foreign_kernel(self, subject: Subject) -> str | None:
        """The reason why locks of this database's owner may be held where we cannot see them, as far as the engine can
        be reached: its containers run on another kernel, or one that mounts this tree has a runtime with a kernel of
        its own. None: no such reason is known."""
        try:
            identity = self.engine.identity()
            if self.footprints.on_our_kernel() is False:
                return f"{identity.kind}'s containers run on another kernel ({printable(identity.system)})"
            return self._foreign_runtime(subject)
        except EngineLostError:
            return None  # `ask` says UNKNOWN

    def _foreign_runtime(self, subject: Subject) -> str | None:
        identity = self.engine.identity()
        listing = self.engine.listing()
        self.footprints.learn_unknown(listing)
        covering = self.footprints.index(listing).covering(keys_of_subject(subject, self.view, self.footprints.table))
        for container in covering.values():
            details = self.footprints.of(container.id).details
            runtime = "" if details is None else details.runtime
            if container.live and not identity.plain_runtime(runtime):
                shown = printable(runtime or identity.default_runtime)
                return f"container {_called(container)} runs on a kernel of its own (runtime {shown})"
        return None

    def concerns(self, container_id: str, attributes: Mapping[str, str], path: str, session: Mapping[str, str]) -> bool:
        """Whether a container of which an event tells may be an owner of a database.

        Args:
            attributes: of the event: the labels, and the name under `name`.
            path: of the database, absolute.
        """
        if Pattern.of(self.settings, session).matched_by(attributes, (attributes.get("name", ""),)) is not None:
            return True
        return self.settings.mounts and self.footprints.may_cover(container_id, path)

    def close(self) -> None:
        self.engine.close()
