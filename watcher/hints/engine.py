"""Hints from a container engine's events: look at these journals, and look at everything after a gap.

One stream for all containers. An event is never truth: it says what to look at, and the engine is asked again then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from loguru import logger

from watcher.owner.container import ContainerProbe
from watcher.owner.engine_errors import EngineLostError

if TYPE_CHECKING:
    from watcher.owner.engine_api import EventStream

__all__ = ["Concerned", "EngineHints", "Wake"]

Concerned = Callable[[str, Mapping[str, str]], bool]
"""Whether a database (its absolute path, and its session's fields) is concerned."""

Wake = Callable[[Concerned | None, tuple[float, ...]], None]
"""Look at the concerned databases (None: at all) after each of these numbers of seconds."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_STEADY_S = 10.0
_STOP_S = 0.9
_AT_ONCE = (0.0,)
# The engine's list says `running` for 5 to 15 ms after it has sent `die`, and longer under load.
_AFTER_DEATH = (0.0, 0.005, 0.015, 0.05, 0.2)
_DELAYS: Mapping[str, tuple[float, ...]] = {
    "die": _AFTER_DEATH,
    "kill": (0.02, 0.1),  # the process ends some ms after the event, if the signal is one that ends it
    "oom": (0.02, 0.1),
    "stop": (0.0, 0.05),
}


class EngineHints:
    """A thread that follows the engine's events, and connects again for as long as it runs.

    Args:
        probe: whose engine to follow; it is told of deaths and starts.
        wake: called from the thread; must return at once.
    """

    def __init__(self, probe: ContainerProbe, wake: Wake) -> None:
        self._probe = probe
        self._wake = wake
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stream: EventStream | None = None  # under the lock
        self._thread = threading.Thread(target=self._run, name="engine-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop and join, within a second also while the engine hangs: a request that it leaves without an answer then
        ends at its own time-out, and the thread with it, without another hint."""
        self._stopping.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except EngineLostError:
                pass  # the engine has told it to whoever wants to know
            except Exception:  # noqa: BLE001 - the top of a thread, which must go on
                logger.exception("following the engine's events failed; connecting again")
            if time.monotonic() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only to keep many watchers apart
            # Asking a local socket costs nothing, and what is held waits for it.
            local = self._probe.engine.address.startswith("unix://")
            pause = _FIRST_PAUSE_S if local else min(2 * pause, _LONGEST_PAUSE_S)

    def _follow(self) -> None:
        stream = self._probe.engine.subscribe()
        with self._lock:
            self._stream = stream
        try:
            if self._stopping.is_set():
                return
            self._probe.engine.follow()
            # A container that was started with --rm and died in the gap has left no trace. Subscribed first, the list
            # after: what dies from now on is in the stream.
            self._wake(None, _AT_ONCE)
            self._learn_all()
            for batch in stream.batches():
                self._take(batch)
                if self._stopping.is_set():
                    return
        finally:
            self._probe.engine.unfollow()
            with self._lock:
                self._stream = None
            stream.close()

    def _learn_all(self) -> None:
        """Know of each container what it can write to, and its first process, before somebody has to judge by it."""
        self._probe.footprints.learn_unknown(self._probe.engine.listing(time.monotonic()))

    def _take(self, batch: list[Mapping[str, object]]) -> None:
        changed: list[str] = []
        self._probe.engine.follow()
        for event in batch:
            action, container_id, attributes, moment_ns = _parsed(event)
            if not container_id:
                continue
            self._probe.engine.deaths.note(container_id, action, moment_ns)
            if action in {"start", "restart", "update"}:
                changed.append(container_id)
                self._probe.footprints.forget_run(container_id)
            self._wake(self._concerned_by(container_id, attributes), _DELAYS.get(action, _AT_ONCE))
        for container_id in changed:
            self._probe.footprints.learn(container_id)

    def _concerned_by(self, container_id: str, attributes: Mapping[str, str]) -> Concerned:
        def concerned(path: str, session: Mapping[str, str]) -> bool:
            return self._probe.concerns(container_id, attributes, path, session)

        return concerned


def _parsed(event: Mapping[str, object]) -> tuple[str, str, Mapping[str, str], int]:
    """Action, id, labels with the name, and moment (nanoseconds since the epoch, the engine's clock)."""
    actor = event.get("Actor")
    fields: Mapping[str, object] = actor if isinstance(actor, dict) else {}
    container_id = fields.get("ID") or event.get("id")
    attributes = fields.get("Attributes")
    action = event.get("Action") or event.get("status")
    moment, seconds = event.get("timeNano"), event.get("time")
    if not isinstance(moment, int):
        moment = seconds * 1_000_000_000 if isinstance(seconds, int) else time.time_ns()
    return (
        "die" if action == "died" else action if isinstance(action, str) else "",
        container_id if isinstance(container_id, str) else "",
        {key: value for key, value in attributes.items() if isinstance(value, str)}
        if isinstance(attributes, dict)
        else {},
        moment,
    )
