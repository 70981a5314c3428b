"""The container that we run in ourselves, if we do: it is no owner."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

__all__ = ["own_container_ids"]

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# An engine mounts these over the container's own files, from a directory that is named after the container.
_GIVEN_FILES = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"}
_MARKS = ("/.dockerenv", "/run/.containerenv")


def own_container_ids() -> frozenset[str]:
    """The id of our own container: from our cgroup and our mounts, where they name one; else our host name, where we
    are in a container and it is the beginning of an id. Empty on a host."""
    named = {found[-1] for line in _lines("/proc/self/cgroup") if (found := _ID.findall(line))}
    for line in _lines("/proc/self/mountinfo"):
        fields = line.split(" ")
        if len(fields) > 5 and fields[4] in _GIVEN_FILES and (found := _ID.findall(fields[3])):
            named.add(found[-1])
    if not named and any(os.path.exists(mark) for mark in _MARKS):
        name = socket.gethostname()
        if re.fullmatch(r"[0-9a-f]{12}", name):
            named.add(name)
    return frozenset(named)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:  # no Linux
        return []
