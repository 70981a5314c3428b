"""The listener where the page is on: the same address and the same answers as without it, and the page.

It is one thread. The libraries that it needs are loaded when somebody asks, or when the service has had a moment for
its first sweep: no recovery waits for them.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from loguru import logger

from watcher.advice import in_words, is_of_machine
from watcher.page.recent import Recent
from watcher.records.hosts import is_loopback
from watcher.records.listener import Routes, listening
from watcher.records.outage import Outage
from watcher.records.repeats import Repeats
from watcher.vitals import Vitals

if TYPE_CHECKING:
    from watcher.page.stream import Stream

__all__ = ["PageServer"]

_LOADS_AFTER_S = 3.0
_AGAIN_S = 2.0
"""After something was missing, or broke."""
_DESCRIPTORS = 6
"""What the event loop, a question and a file that is loaded take at once."""
_STOPS_WITHIN_S = 1.5


class PageServer:
    """Answers GET and HEAD on one address; used like :class:`watcher.records.listener.Listener`.

    Args:
        address: `127.0.0.1:9464`, `[::1]:9464`; port 0 for any that is free.
        routes: who answers beside the page.
        vitals: the service.
        recent: what has become of journals lately.
        hosts: the names of `metrics.hosts`.
        older: reads the history, the newest first.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(
        self,
        address: str,
        routes: Routes,
        *,
        vitals: Vitals,
        recent: Recent,
        hosts: Collection[str],
        older: Callable[[], list[dict[str, object]]],
    ) -> None:
        self._routes = routes
        self._vitals = vitals
        self._recent = recent
        self._hosts = hosts
        self._older = older
        self._address = address
        self._outage = Outage()  # of the thread, like the next one
        self._repeats = Repeats(capacity=10)
        self._socket = listening(address)
        self._stop_read, self._stop_write = os.pipe()
        self._stream: Stream | None = None  # set once, by the thread
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def changed(self) -> None:
        """Something may have changed that the page shows; from any thread, never waits."""
        stream = self._stream
        if stream is not None:
            stream.poke()

    def stop(self) -> None:
        """Let go of the address, and end every stream; an answer under way has a moment to come to its end."""
        os.close(self._stop_write)
        if self._thread.ident is not None:
            self._thread.join(_STOPS_WITHIN_S)
        if not self._thread.is_alive():  # else it is left behind with what it has
            self._socket.close()
            os.close(self._stop_read)

    def _run(self) -> None:
        goes_on = self._is_to_begin()
        while goes_on:
            try:
                self._serve()
                return
            except Exception as error:  # noqa: BLE001 - the top of a thread; recoveries go on without it
                self._failed(error)
            goes_on = self._is_to_go_on(_AGAIN_S)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, OSError) and is_of_machine(error):
            self._outage.goes_on(f"{self._address} answers nobody: {in_words(error)}; whoever asks waits")
            return
        if self._repeats.allow(type(error).__name__, str(error), time.monotonic()) is not None:
            logger.opt(exception=error).error("metrics.listen: {} answers nobody; trying again", self._address)

    def _is_to_begin(self) -> bool:
        """Wait until somebody asks, or for a while. False where it was stopped before."""
        return self._is_to_go_on(_LOADS_AFTER_S, self._socket)

    def _is_to_go_on(self, pause_s: float, *also: socket.socket) -> bool:
        """Wait so long, or until one of these has something. False where it was stopped before."""
        with selectors.PollSelector() as waiting:  # which needs no descriptor of its own: there may be none
            waiting.register(self._stop_read, selectors.EVENT_READ)
            for each in also:
                waiting.register(each, selectors.EVENT_READ)
            return all(key.fd != self._stop_read for key, _ in waiting.select(pause_s))

    def _serve(self) -> None:
        self._need_descriptors()
        from watcher.page.app import App  # noqa: PLC0415 - see above
        from watcher.page.serving import serve  # noqa: PLC0415
        from watcher.page.stream import Stream  # noqa: PLC0415
        from watcher.page.view import View  # noqa: PLC0415

        view = View(self._vitals, self._recent)

        def made() -> tuple[App, Stream]:
            stream = self._stream = Stream(view)
            return App(self._routes, view, stream, self._hosts, is_loopback(self._socket), self._older), stream

        serve(self._socket, made, self._stop_read, self._outage, self._address)

    def _need_descriptors(self) -> None:
        """Raise an OSError where there are not enough: a library that is loaded by half is not loaded anew by all."""
        taken: list[int] = []
        try:
            for _ in range(_DESCRIPTORS):
                taken.append(os.dup(self._stop_read))  # noqa: PERF401 - those before the one that fails are closed
        finally:
            for descriptor in taken:
                os.close(descriptor)
