"""The listener where the page is on: the same address and the same answers as without it, and the page.

It is one thread. The libraries that it needs are loaded when somebody asks, or when the service has had a moment for
its first sweep: no recovery waits for them.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from loguru import logger

from watcher.page.recent import Recent
from watcher.records.hosts import is_loopback
from watcher.records.listener import Routes, listening
from watcher.vitals import Vitals

if TYPE_CHECKING:
    from watcher.page.stream import Stream

__all__ = ["PageServer"]

_LOADS_AFTER_S = 3.0
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
        try:
            if self._is_to_begin():
                self._serve()
        except Exception:  # noqa: BLE001 - the top of a thread; recoveries go on without it
            logger.exception("nothing is served by HTTP any more until a restart or a reload")

    def _is_to_begin(self) -> bool:
        """Wait until somebody asks, or for a while. False where it was stopped before."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            waiting.register(self._stop_read, selectors.EVENT_READ)
            return all(key.fd != self._stop_read for key, _ in waiting.select(_LOADS_AFTER_S))

    def _serve(self) -> None:
        from watcher.page.app import App  # noqa: PLC0415 - see above
        from watcher.page.serving import serve  # noqa: PLC0415
        from watcher.page.stream import Stream  # noqa: PLC0415
        from watcher.page.view import View  # noqa: PLC0415

        view = View(self._vitals, self._recent)

        def made() -> tuple[App, Stream]:
            stream = self._stream = Stream(view)
            return App(self._routes, view, stream, self._hosts, is_loopback(self._socket), self._older), stream

        serve(self._socket, made, self._stop_read)
