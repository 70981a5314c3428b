"""What systemd, or another service manager with its protocol, is told: sd_notify(3), a datagram per message.

The protocol is a page long and stable, so it is written here: a library for it would be no shorter than its use.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping

from watcher.records.lines import one_line

__all__ = ["ServiceManager", "is_its_journal"]

_SEND_TIMEOUT_S = 1.0
_LONGEST_STATUS = 400


class ServiceManager:
    """Who has started us, if it wants to be told. Without one every method does nothing.

    Args:
        environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up.

    Attributes:
        watchdog_s: seconds within which :meth:`keep_alive` must come again; None where nobody waits for it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@name" is Linux's abstract name "\0name"; what begins with neither (vsock:…) is not for us.
        self._address = os.fsencode(address) if address[:1] in {"/", "@"} and len(address) > 1 else b""
        if self._address.startswith(b"@"):
            self._address = b"\0" + self._address[1:]
        self._status = ""
        self.watchdog_s = _watchdog_s(environ) if self._address else None

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """We do what we are for; after a start, and after a reload."""
        self._status = status
        self._send("READY=1", f"STATUS={_in_short(status)}")

    def status(self, status: str) -> None:
        """In one sentence, how it goes; sent where it is another one than before."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={_in_short(status)}")

    def reloading(self) -> None:
        """The settings are read again; :meth:`ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping")

    def keep_alive(self) -> None:
        """We are not hung."""
        self._send("WATCHDOG=1")

    def give_up(self) -> None:
        """We are hung, and want to be started anew: the manager need not wait for its own time-out."""
        self._send("WATCHDOG=trigger")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as to:
                to.settimeout(_SEND_TIMEOUT_S)  # its queue is full while it has other things to do
                to.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError:
            # The manager is being replaced, or gone, and cannot be told; the next message tries again. A log line here
            # would come with each of them, and nobody could act on it.
            pass


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    wanted, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (wanted.isascii() and wanted.isdigit()) or int(wanted) == 0:
        return None
    if whose and whose != str(os.getpid()):  # it waits for another process, and we have inherited its environment
        return None
    return int(wanted) / 1e6


def _in_short(status: str) -> str:
    return one_line(status)[:_LONGEST_STATUS]


def is_its_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to this descriptor goes to systemd's journal: JOURNAL_STREAM names its device and inode
    (systemd.exec(5)), and a child that has redirected its stderr inherits the variable all the same."""
    named = environ.get("JOURNAL_STREAM", "")
    if not named or sys.platform != "linux":
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}"
