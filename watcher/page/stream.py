"""Keeps the open pages up to date: what has changed is read once for all of them, a few times a second at the most,
and not at all where no page is open."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator

from loguru import logger

from watcher.page.view import Change, View

__all__ = ["MOST_STREAMS", "Stream", "TooManyError"]

MOST_STREAMS = 16
_PAUSE_S = 0.25
_SHARE = 20
"""To read everything anew takes at most one part in so many of a core."""
_LOOK_S = 2.0
"""What the probes say about a journal that waits or is held may change, and nobody tells."""
_PING_S = 15.0
_MOST_WAITING = 20


class TooManyError(Exception):
    """As many pages are open as may be."""


class _Reader:
    """One open page: what is still to be sent to it. None stands for everything anew."""

    def __init__(self) -> None:
        self.waiting: list[bytes | None] = [None]
        self.is_over = False
        self.wake = asyncio.Event()

    def offer(self, message: bytes) -> None:
        if self.waiting and self.waiting[-1] is None:
            return  # all of it is to be sent anyway
        self.waiting.append(message)
        if len(self.waiting) > _MOST_WAITING:  # its reader is slow: what is kept for it is bounded
            self.waiting = [None]
        self.wake.set()


class Stream:
    """The server-sent events (HTML, 9.2). All of it is the event loop's, but for :meth:`poke`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._loop = asyncio.get_running_loop()
        self._readers: set[_Reader] = set()
        self._changed = asyncio.Event()
        self._closing = False
        self._guard = threading.Lock()
        self._poked = True  # guarded by _guard: the loop knows already, or nobody wants to know
        self.read_at = -1e9  # by the loop's clock
        self._pause_s = _PAUSE_S
        self._pump: asyncio.Task[None] | None = None
        self._all: bytes | None = None  # everything as a message, until something changes

    def poke(self) -> None:
        """Something may have changed; from any thread, never waits."""
        with self._guard:
            if self._poked:
                return
            self._poked = True
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop has just ended
            pass

    def refresh(self) -> None:
        """Read the service anew, where that was not done a moment ago."""
        if self._loop.time() - self.read_at >= self._pause_s:
            self._advance()

    def renew(self) -> None:
        """Read it anew, and tell what has changed."""
        self._advance()

    def close(self) -> None:
        """End every stream."""
        self._closing = True
        self._changed.set()
        self._end_all()

    def _end_all(self) -> None:
        for reader in self._readers:
            reader.is_over = True
            reader.wake.set()

    def check_room(self) -> None:
        """Raises:
        TooManyError: no page more can be kept up to date.
        """
        if len(self._readers) >= MOST_STREAMS:
            raise TooManyError

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """What is sent to one page, until it goes or we end.

        Raises:
            TooManyError: as :meth:`check_room`.
        """
        self.check_room()
        reader = _Reader()
        self._readers.add(reader)
        if self._pump is None or self._pump.done():
            self._pump = self._loop.create_task(self._keep_up())
        try:
            yield b"retry: 1000\n\n"
            while not reader.is_over:
                if reader.waiting:
                    message = reader.waiting.pop(0)
                    yield self._everything() if message is None else message
                else:
                    reader.wake.clear()
                    await reader.wake.wait()
        finally:
            self._readers.discard(reader)
            if not self._readers:
                self._changed.set()

    def _everything(self) -> bytes:
        self.refresh()
        if self._all is None:
            self._all = _event("all", self._view.all())
        return self._all

    async def _keep_up(self) -> None:
        try:
            await self._follow()
        except Exception:  # noqa: BLE001 - the top of a task; whoever listens comes back for another one
            logger.exception("the page was not kept up to date")
            self._end_all()
        finally:
            with self._guard:
                self._poked = True

    async def _follow(self) -> None:
        """Read and send for as long as somebody listens."""
        quiet_s = 0.0
        self._changed.set()  # nobody has told us so far
        while self._readers and not self._closing:
            wait_s = _LOOK_S if self._view.journals else _PING_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                quiet_s += wait_s
            left_s = self.read_at + self._pause_s - self._loop.time()
            if left_s > 0:
                await asyncio.sleep(left_s)
            with self._guard:  # before it is read: what changes from now on is told again
                self._poked = False
            self._changed.clear()
            if self._advance():
                quiet_s = 0.0
            elif quiet_s >= _PING_S:
                self._send(b"event: ping\ndata: \n\n")
                quiet_s = 0.0

    def _advance(self) -> bool:
        """Read the service anew, and send what has changed. False where nothing has."""
        began = self._loop.time()
        change = self._view.advance()
        if change:
            self._all = None
            self._send(_event("change", change))
        self.read_at = self._loop.time()
        self._pause_s = max(_PAUSE_S, _SHARE * (self.read_at - began))
        return bool(change)

    def _send(self, message: bytes) -> None:
        for reader in self._readers:
            reader.offer(message)


def _event(name: str, change: Change) -> bytes:
    data = json.dumps(change.as_json(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode("ascii")
