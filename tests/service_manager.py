"""A service manager of the tests: a NOTIFY_SOCKET, and what is sent to it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.running import DEADLINE_S


@dataclass
class Manager:
    """Attributes:
    environ: for the service.
    messages: all that came, in order, each with its moment by `time.monotonic`.
    """

    socket: socket.socket
    environ: dict[str, str]
    messages: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def receive(self, within_s: float) -> dict[str, str] | None:
        """The next message; None where none comes."""
        self.socket.settimeout(max(0.001, within_s))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return None
        message = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.messages.append((time.monotonic(), message))
        return message

    def wait_for(self, wanted: str, deadline_s: float = DEADLINE_S) -> dict[str, str]:
        """The next message with this line (`READY=1`), or with a line that begins so (`STATUS=waiting`)."""
        until = time.monotonic() + deadline_s
        while (left := until - time.monotonic()) > 0:
            message = self.receive(left)
            if message and any(f"{key}={value}".startswith(wanted) for key, value in message.items()):
                return message
        raise AssertionError(f"no {wanted} within {deadline_s} s, but {[each for _, each in self.messages]}")


@contextmanager
def manager(directory: Path, *, abstract: bool = False, watchdog_s: float | None = None) -> Iterator[Manager]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        name = f"@jw-{os.getpid()}-{time.monotonic_ns()}" if abstract else f"{directory}/notify"
        listening.bind(name.replace("@", "\0", 1))
        environ = {"NOTIFY_SOCKET": name}
        if watchdog_s is not None:
            environ["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        yield Manager(listening, environ)
