"""The stream of the log: a service must not stand still because nobody reads what it says.

A pipe whose reader has stopped, a terminal that somebody has halted and a journal that hangs all block a write for as
long as they like, and with it every thread that has something to tell. So each piece of a line waits for room first,
once for a moment and from then on not at all: lines are lost then, and counted.
"""

from __future__ import annotations

import io
import os
import select
import time
from typing import TextIO

__all__ = ["LogStream"]

_PATIENCE_S = 1.0
_AGAIN_S = 0.01
_PIECE_BYTES = select.PIPE_BUF
"""A pipe that poll(2) calls writable takes so much without blocking. (A terminal may take less.)"""


class LogStream:
    """Writes lines to a stream; owned by whoever holds the lock of the log's relay."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._stalled = False
        self._is_torn = False  # a line was begun that was not written to its end
        self._lost = 0
        try:
            self._descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
            self._descriptor = -1  # something of a test or a host, in memory
        self._room = select.poll()
        if self._descriptor >= 0:
            self._room.register(self._descriptor, select.POLLOUT)

    def write(self, text: str) -> bool:
        """Write a line, or lose it.

        Returns:
            False where it is lost because nobody reads.
        """
        try:
            encoded = f"{text}\n".encode(self._encoding, "backslashreplace")
            if self._descriptor < 0:
                self._stream.write(encoded.decode(self._encoding))
                self._stream.flush()
                return True
            return self._write_pieces(encoded)
        except (OSError, ValueError):
            # stderr is closed, or a pipe that nobody has open any more. There is no other place to say so, and the
            # service must outlive the terminal that started it.
            return True

    def take_lost(self) -> int:
        """How many lines were lost since this was last asked; 0 while there is no room for saying so."""
        if not self._lost or not self._has_room(0.0):
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def _write_pieces(self, encoded: bytes) -> bool:
        if self._is_torn:
            encoded = b"\n" + encoded
        rest = memoryview(encoded)
        until = time.monotonic() + (0.0 if self._stalled else _PATIENCE_S)
        while rest:
            piece = rest[:_PIECE_BYTES]
            if self._has_room(until - time.monotonic()) and (written := self._write_at_once(piece)):
                rest = rest[written:]
            elif time.monotonic() >= until:
                self._stalled = True
                self._lost += 1
                self._is_torn = self._is_torn or len(rest) < len(encoded)
                return False
        self._stalled = self._is_torn = False
        return True

    def _write_at_once(self, piece: memoryview) -> int:
        """How many bytes were taken."""
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # somebody has made the descriptor non-blocking, and there was less room
            time.sleep(_AGAIN_S)
            return 0

    def _has_room(self, patience_s: float) -> bool:
        return bool(self._room.poll(max(0.0, patience_s) * 1000))
