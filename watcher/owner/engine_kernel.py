"""Whether an engine's containers run on our own kernel."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

from watcher.owner.engine_model import EngineIdentity

__all__ = ["runs_on_our_kernel"]

_ENGINES = {"dockerd", "podman", "systemd", "init"}  # systemd and init listen for an engine that is started on demand
_PEER = struct.Struct("3i")


def runs_on_our_kernel(identity: EngineIdentity, address: str) -> bool | None:
    """True: an engine of this machine. False: a virtual machine's or another host's. None: it cannot be told.

    True wants a local socket with an engine behind it and the same kernel release and memory: a socket that ssh or a
    desktop application forwards is just as local, and two hosts may well run the same kernel.
    """
    if sys.platform != "linux" or identity.desktop or identity.kernel != os.uname().release:
        return False
    if identity.memory_bytes != _memory_bytes():
        return False
    return True if address.startswith("unix://") and _peer_is_an_engine(address.removeprefix("unix://")) else None


def _memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _peer_is_an_engine(path: str) -> bool:
    """Whether the process that listens is an engine. Where it is outside our pid namespace, nothing says it is not."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(1.0)
        try:
            peer.connect(path)
            pid = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
            return pid == 0 or Path(f"/proc/{pid}/comm").read_text("utf-8").strip() in _ENGINES
        except OSError:
            return False
