"""The listener where the page is on: the same address and the same answers as without it, and the page.

uvicorn speaks HTTP, in one thread with an event loop of its own that sleeps while nobody asks. It trusts its clients
more than we do, so each connection is one question here, has some seconds for it, and gives way to a newer one where
there are too many; a stream of events alone may last.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

from loguru import logger
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from watcher.page.app import STREAM, App
from watcher.page.recent import Recent
from watcher.page.stream import MOST_STREAMS, Stream
from watcher.page.view import View
from watcher.records.listener import Routes, listening
from watcher.vitals import Vitals

__all__ = ["PageServer"]

_ASKS_WITHIN_S = 5.0
_TAKES_WITHIN_S = 15.0
_MOST_CONNECTIONS = 64
_MOST_HEAD = 16_384
_STOPS_WITHIN_S = 1.5
_LAST_ANSWERS_S = 0.3


class PageServer:
    """Answers GET and HEAD on one address; used like :class:`watcher.records.listener.Listener`.

    Args:
        address: `127.0.0.1:9464`, `[::1]:9464`; port 0 for any that is free.
        routes: who answers beside the page.
        vitals: the service.
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
        self._view = View(vitals, recent)
        self._hosts = hosts
        self._older = older
        self._socket = listening(address)
        self._guard = threading.Lock()
        self._stopping = False  # guarded by _guard, like the next two
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stream: Stream | None = None  # set once, by the loop's thread
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def changed(self) -> None:
        """Something may have changed that the page shows; from any thread, never waits."""
        if self._stream is not None:
            self._stream.poke()

    def stop(self) -> None:
        """Let go of the address, and end every stream; an answer under way has a moment to come to its end."""
        with self._guard:
            self._stopping = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(_STOPS_WITHIN_S)
        else:
            self._socket.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except Exception:  # noqa: BLE001 - the top of a thread; recoveries go on without it
            logger.exception("nothing is served by HTTP any more until a restart or a reload")
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        stop = asyncio.Event()
        with self._guard:
            if self._stopping:
                return
            self._loop, self._stop = asyncio.get_running_loop(), stop
        try:
            stream = self._stream = Stream(self._view)
            app = App(self._routes, self._view, stream, self._hosts, self._older)
            await _Server(_configured(app), stop, stream).serve(sockets=[self._socket])
        finally:
            with self._guard:
                self._loop = None


def _configured(app: App) -> Config:
    # What uvicorn says about malformed questions is no news: whoever has sent one was told.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    return Config(
        app=app,
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=_MOST_HEAD,
        backlog=64,
    )


class _Server(Server):
    """uvicorn's server, which looks ten times a second whether it is to end; this one is told."""

    def __init__(self, config: Config, stop: asyncio.Event, stream: Stream) -> None:
        super().__init__(config)
        self.server_state.default_headers = [(b"connection", b"close")]
        self._stop = stop
        self._stream = stream

    async def main_loop(self) -> None:
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        self._stream.close()
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=_LAST_ANSWERS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Connection(H11Protocol):
    """One question, its answer, and the end of it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.made = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_ASKS_WITHIN_S, transport.abort)
        if len(self.connections) > _MOST_CONNECTIONS + MOST_STREAMS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_asked = self.cycle is not None
        super().data_received(data)
        if self.cycle is not None and not was_asked and self._deadline is not None:
            self._deadline.cancel()
            if self.scope["path"] != STREAM:
                self._deadline = self.loop.call_later(_TAKES_WITHIN_S, self.transport.abort)

    def _make_room(self) -> None:
        """Whoever was here first without having asked anything goes first; a kubelet asks at once."""
        idle = [each for each in self.connections if isinstance(each, _Connection) and each.cycle is None]
        min(idle, key=lambda each: each.made, default=self).transport.abort()
