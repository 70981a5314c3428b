"""HTTP by uvicorn, with its manners mended for a service: an event loop in whatever thread this is, that sleeps while
nobody asks.

uvicorn trusts its clients more than we do. Here each connection is one question, has some seconds for it, and gives way
to a newer one where there are too many; a stream of events alone may last.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from itertools import count
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from watcher.advice import in_words, is_of_machine
from watcher.page.app import STREAM, App
from watcher.page.stream import MOST_STREAMS, Stream
from watcher.records.outage import Outage

__all__ = ["serve"]

_ASKS_WITHIN_S = 5.0
_TAKES_WITHIN_S = 20.0
_MOST_CONNECTIONS = 64
_MOST_HEAD = 16_384
_LAST_ANSWERS_S = 0.3


def serve(
    listening: socket.socket, made: Callable[[], tuple[App, Stream]], until: int, outage: Outage, address: str
) -> None:
    """Answer until it is told to stop.

    Args:
        listening: where; it is closed at the end.
        made: makes the application and its streams; called in the event loop.
        until: a descriptor; what can be read from it, or its end, is the sign to stop.
        outage: is told where nobody can be answered.
        address: for that.
    """

    def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and is_of_machine(error):  # asyncio tries again in a second
            outage.goes_on(f"{address} answers nobody: {in_words(error)}; whoever asks waits")
        else:
            loop.default_exception_handler(context)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(failed)
        app, stream = made()
        config = _configured(app, lambda: outage.is_over(f"{address} answers again"))
        await _Server(config, stream, until).serve(sockets=[listening])

    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(run())


class _Loop(asyncio.SelectorEventLoop):
    """One that could not be made, for want of descriptors, does not complain on stderr of what it never had."""

    def __del__(self) -> None:
        pass  # asyncio.Runner closes it


class _Config(Config):
    """uvicorn's, with something of ours.

    Attributes:
        connected: called for each connection.
    """

    connected: Callable[[], None]


def _configured(app: App, connected: Callable[[], None]) -> _Config:
    # What uvicorn says about malformed questions is no news: whoever has sent one was told.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    config = _Config(
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
    config.connected = connected
    return config


class _Server(Server):
    """uvicorn's server, which looks ten times a second whether it is to end; this one is told."""

    def __init__(self, config: Config, stream: Stream, until: int) -> None:
        super().__init__(config)
        self.server_state.default_headers = [(b"connection", b"close")]
        self._stream = stream
        self._until = until

    async def main_loop(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._until, stop.set)
        try:
            await stop.wait()
        finally:
            loop.remove_reader(self._until)

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


_numbers = count()


class _Connection(H11Protocol):
    """One question, its answer, and the end of it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.number = next(_numbers)
        self.is_stream = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        assert isinstance(self.config, _Config)
        self.config.connected()
        self._give(_ASKS_WITHIN_S)
        if len(self.connections) > _MOST_CONNECTIONS + MOST_STREAMS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_asked = self.cycle is not None
        super().data_received(data)
        if self.cycle is not None and not was_asked:
            self.is_stream = self.scope["path"] == STREAM
            self._give(None if self.is_stream else _TAKES_WITHIN_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.is_stream:
            self._give(_TAKES_WITHIN_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.is_stream:
            self._give(None)

    def _give(self, seconds: float | None) -> None:
        """So much time from now on; None: as long as it likes."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _make_room(self) -> None:
        """Whoever has not asked anything yet goes first, and then who has been here longest: a kubelet asks at once,
        and has its answer."""
        others = [each for each in self.connections if isinstance(each, _Connection) and each is not self]
        short = [each for each in others if not each.is_stream]
        min(short, key=lambda each: (each.cycle is not None, each.number), default=self).transport.abort()
