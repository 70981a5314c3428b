"""The engine as all journals share it: one list for those looked at in the same moment, one failure for all.

A question that is not fresh is content with a list that is a quarter of a second old. A fresh one wants a list that was
requested after the question was put: those put while a request is under way wait for it, and then share the next one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from watcher.names import printable
from watcher.owner.engine_errors import SILENT_REMEDY, EngineLostError
from watcher.owner.engine_model import Container, Details, EngineIdentity, Volume

if TYPE_CHECKING:
    from watcher.owner.engine_api import Connection, EventStream

__all__ = ["LISTING_MAX_AGE_S", "Deaths", "Engine", "Listing"]

LISTING_MAX_AGE_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 5.0
_REMEMBERED_DEATHS = 4096
_SUBSCRIBE_PATIENCE_S = 0.4
_LISTED_AGAIN = 3  # Podman's list fails where a container vanishes in the middle of it

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """All containers of the engine, whatever their state.

    Attributes:
        asked_at: when it was requested, by `time.monotonic()`: it is true of some moment after that.
    """

    containers: tuple[Container, ...]
    asked_at: float

    def live(self, container_id: str) -> bool:
        return any(each.id == container_id and each.live for each in self.containers)


class Deaths:
    """What the engine's events have said of containers' deaths. May be used by several threads at once.

    An event may come late, twice or never, and the container may have been started again since: a death that is noted
    here is a reason to ask the engine for that container, and nothing more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._died_ns: OrderedDict[str, int] = OrderedDict()  # under the lock; the engine's clock

    def note(self, container_id: str, action: str, moment_ns: int) -> None:
        """An event: `die` is noted, `start` and `restart` clear an earlier death.

        Args:
            moment_ns: as the engine has stamped it.
        """
        with self._lock:
            if action == "die":
                self._died_ns[container_id] = max(moment_ns, self._died_ns.pop(container_id, 0))
                while len(self._died_ns) > _REMEMBERED_DEATHS:
                    self._died_ns.popitem(last=False)
            elif action in {"start", "restart"} and self._died_ns.get(container_id, moment_ns) < moment_ns:
                del self._died_ns[container_id]

    def noted(self, container_id: str) -> bool:
        with self._lock:
            return container_id in self._died_ns

    def started(self, container_id: str, started_ns: int) -> None:
        """The engine says that this container runs, and since when: an earlier death is history."""
        self.note(container_id, "start", started_ns)


class Engine:
    """A container engine, connected when it is first asked. May be used by several threads at once.

    Args:
        engine: `docker`, `podman` or an address.
        timeout: seconds for each answer.
        on_lost: called with the reason and the remedy, once when the engine stops answering (or never answered).
        on_back: called once when it answers again. Neither may ask the engine anything.
    """

    def __init__(
        self,
        engine: str,
        timeout: float,
        *,
        on_lost: Callable[[str, str], None] | None = None,
        on_back: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.timeout = timeout
        self.deaths = Deaths()
        self._on_lost = on_lost
        self._on_back = on_back
        self._turn = threading.Condition()
        # All of these under `_turn`:
        self._connection: Connection | None = None
        self._address = engine  # written under `_connecting`
        self._asking = False
        self._listing: Listing | None = None
        self._outdated_at: float | None = None  # by time.monotonic: the last event; None: nobody follows them
        self._volumes: Mapping[str, Volume] = {}
        self._failure: EngineLostError | None = None
        self._failure_ends = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._silent_since: float | None = None  # by time.monotonic: the first question that was given up early
        self._connecting = threading.Lock()
        self._patience_s = _SUBSCRIBE_PATIENCE_S  # of the one thread that subscribes
        self._telling = threading.Lock()
        self._lost = False  # under `_telling`, held while the callbacks run: they come in the order of what happened

    @property
    def known_listing(self) -> Listing | None:
        """The last list, whatever its age; nobody is asked."""
        return self._listing

    def follow(self) -> None:
        """From now on, until :meth:`unfollow`, somebody hears of each event and calls this again: a list that was
        requested after the last one may be as old as it likes."""
        with self._turn:
            self._outdated_at = time.monotonic()

    def unfollow(self) -> None:
        """Nobody hears of the events any more."""
        with self._turn:
            self._outdated_at = None

    def listing(self, not_before: float | None = None) -> Listing:
        """The list of all containers.

        Args:
            not_before: it must have been requested at this moment (of `time.monotonic()`) or later; None: not more
                than LISTING_MAX_AGE_S ago, or, while somebody follows the events, after the last of them.

        Raises:
            EngineLostError: the engine does not answer, or has not answered a moment ago.
        """
        with self._turn:
            wanted = not_before
            if wanted is None:
                followed = self._outdated_at
                wanted = time.monotonic() - LISTING_MAX_AGE_S if followed is None else followed
            deadline = time.monotonic() + 2 * self.timeout  # one request that came too early for us, and ours
            while True:
                if self._listing is not None and self._listing.asked_at >= wanted and self._failure is None:
                    return self._listing
                self._raise_failure(while_asking=self._asking)
                if not self._asking:
                    break
                if not self._turn.wait(deadline - time.monotonic()):
                    raise self._silent(2 * self.timeout)
            self._asking = True
        asked_at = time.monotonic()
        listing = None
        try:
            listing = Listing(self._ask(_list), asked_at)
            return listing
        finally:
            with self._turn:
                self._asking = False
                if listing is not None:
                    self._listing = listing
                self._turn.notify_all()

    def inspect(self, container_id: str) -> Details | None:
        """One container, asked now; None where there is none of this id.

        Raises:
            EngineLostError: the engine does not answer, or has not answered a moment ago.
        """
        with self._turn:
            self._raise_failure(while_asking=False)
        return self._ask(lambda connection: connection.inspect(container_id), of_one=True)

    def identity(self) -> EngineIdentity:
        """Which engine answers, as it said when the connection was made.

        Raises:
            EngineLostError: the engine does not answer, or has not answered a moment ago.
        """
        return self._established().identity

    def ours(self) -> bool | None:
        """Whether its containers run on our own kernel, as far as that can be told from outside of them.

        Raises:
            EngineLostError: the engine does not answer, or has not answered a moment ago.
        """
        return self._established().ours

    @property
    def address(self) -> str:
        """Where it was last looked for; before that, what the settings say."""
        return self._address

    def volume(self, name: str) -> Volume | None:
        """A named volume; the engine is asked when the name is new. None where there is none of this name.

        Raises:
            EngineLostError: the engine does not answer, or has not answered a moment ago.
        """
        volumes = self._volumes
        if name not in volumes:
            with self._turn:
                self._raise_failure(while_asking=False)
            volumes = self._ask(lambda connection: connection.volumes(), of_one=True)
            with self._turn:
                self._volumes = volumes
        return volumes.get(name)

    def subscribe(self) -> EventStream:
        """The engine's events from now on; asked even right after a failure, and not for long: nothing can wake a
        thread that waits for the beginning of the stream. Who was slow is given twice as long the next time.

        Raises:
            EngineLostError: the engine does not answer. It is lost for the others, too, but where it is silent: then
                only when it has been so for the whole time-out.
        """
        patience = min(self.timeout, self._patience_s)
        stream = self._ask(lambda connection: connection.subscribe(patience), patience=patience)
        self._patience_s = _SUBSCRIBE_PATIENCE_S
        return stream

    def close(self) -> None:
        with self._turn:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _raise_failure(self, *, while_asking: bool) -> None:
        """Do not let every journal wait for a time-out of its own. Called under `_turn`."""
        if self._failure is not None and (while_asking or time.monotonic() < self._failure_ends):
            raise replace(self._failure)  # each thread its own, or their tracebacks would pile up

    def _ask(
        self, question: Callable[[Connection], _Answer], *, of_one: bool = False, patience: float | None = None
    ) -> _Answer:
        """Put a question; an error that the engine answers with is no loss of the engine where it is `of_one` thing."""
        began = time.monotonic()
        try:
            answer = question(self._connected(self.timeout if patience is None else patience))
        except EngineLostError as error:
            if error.answered and of_one:
                self._answered()
            elif patience is None or not error.timed_out or not self._may_be_slow(began):
                self._failed(error)
            raise
        self._answered()
        return answer

    def _established(self) -> Connection:
        connection = self._connection
        if connection is not None:
            return connection
        with self._turn:
            self._raise_failure(while_asking=False)
        return self._ask(lambda connection: connection)

    def _connected(self, patience: float) -> Connection:
        connection = self._connection
        if connection is not None:
            return connection
        if not self._connecting.acquire(timeout=patience):
            raise self._silent(patience, timed_out=True)
        try:
            if self._connection is None:
                # The SDK takes a tenth of a second to import: only who asks an engine pays for it.
                from watcher.owner.engine_api import Connection, address_of  # noqa: PLC0415

                self._address = address_of(self.engine)
                self._connection = Connection(self.engine, self.timeout, patience)
            return self._connection
        finally:
            self._connecting.release()

    def _silent(self, seconds: float, *, timed_out: bool = False) -> EngineLostError:
        reason = f"the engine at {printable(self._address)} has not answered within {seconds:g} s"
        return EngineLostError(reason, SILENT_REMEDY, timed_out=timed_out)

    def _may_be_slow(self, began: float) -> bool:
        """A question that began then was given up before the engine's time was over."""
        with self._turn:
            if self._silent_since is None:
                self._silent_since = began
            self._patience_s = min(2 * self._patience_s, self.timeout)
            return time.monotonic() - self._silent_since < self.timeout

    def _failed(self, error: EngineLostError) -> None:
        with self._telling:
            with self._turn:
                self._connection = None  # another engine may answer next time: it is to say who it is
                self._failure = error
                self._failure_ends = time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            if not self._lost:
                self._lost = True
                if self._on_lost is not None:
                    self._on_lost(error.reason, error.remedy)

    def _answered(self) -> None:
        if self._failure is None and self._silent_since is None:
            return
        with self._telling:
            with self._turn:
                self._silent_since = None
                self._failure = None
                self._pause_s = _FIRST_PAUSE_S
            if self._lost:
                self._lost = False
                if self._on_back is not None:
                    self._on_back()


def _list(connection: Connection) -> tuple[Container, ...]:
    for _ in range(_LISTED_AGAIN):
        try:
            return connection.containers()
        except EngineLostError as error:
            if not error.answered:
                raise
    return connection.containers()
