"""A terminal of a given width for a command of ours."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Shown", "on_terminal"]

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_DEADLINE_S = 100.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What a terminal got, and the command's exit status."""

    raw: str
    status: int

    @property
    def text(self) -> str:
        """Without escape sequences."""
        return _ESCAPE.sub("", self.raw).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """As they stand there at the end: what a carriage return has gone back over is left out."""
        return [line.rpartition("\r")[2].rstrip() for line in self.text.split("\n")]


def on_terminal(
    argv: Sequence[str], *, columns: int, environ: Mapping[str, str] | None = None, interrupted_at: str | None = None
) -> Shown:
    """Run it with all its streams on a terminal of so many columns, to its end.

    Args:
        interrupted_at: it gets a SIGINT when it has written this.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm", **(environ or {})}
    )
    os.close(theirs)
    pieces = []
    until = time.monotonic() + _DEADLINE_S
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    piece = os.read(ours, 65_536)
                except OSError:  # EIO: the last one on the other side has gone
                    break
                if not piece:
                    break
                pieces.append(piece)
                if interrupted_at is not None and interrupted_at in b"".join(pieces).decode(errors="replace"):
                    interrupted_at = None
                    process.send_signal(signal.SIGINT)
    finally:
        os.close(ours)
    return Shown(b"".join(pieces).decode(), process.wait(_DEADLINE_S))


def command(*arguments: str) -> list[str]:
    """The argument list of a command of journal-watcher."""
    return [sys.executable, "-m", "watcher", *arguments]
