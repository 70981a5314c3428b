"""Whether a mount covers a directory, by identity: text does not tell.

An engine names a mount's source as it was given: through a symlink, through a named volume that is bound to the
directory, or by a path that the directory no longer has. So both sides are turned into keys, and a mount covers a
directory when one of its keys is one of the directory's:

- `inode`: (st_dev, st_ino) of the source, against those of the directory and of all that is above it.
- `place`: a device with a path inside that file system, from mountinfo, against the directory's own and the paths above
  it. This finds a directory that is mounted in several places, and it is what the container's own mountinfo tells.
- `text`: the path, for an engine whose paths do not exist here.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watcher.owner.testimony import Subject

__all__ = [
    "Key",
    "MountTable",
    "View",
    "ancestors",
    "are_related",
    "keys_of_mountinfo",
    "keys_of_source",
    "keys_of_subject",
]

Key = tuple[str, str | int, str | int]

_O_PATH = os.O_PATH if sys.platform == "linux" else os.O_RDONLY | os.O_NONBLOCK
_OCTAL = re.compile(rb"\\([0-7]{3})")
_DEEPEST = 512
# Where Docker Desktop's virtual machine has the host's files.
_GUEST_PREFIXES = ("/host_mnt", "/run/desktop/mnt/host")


def ancestors(path: str) -> Iterator[str]:
    """An absolute path and all above it: `/a/b`, `/a`, `/`."""
    while True:
        yield path
        if path in {"/", ""}:
            return
        path = path.rpartition("/")[0] or "/"


@dataclass(frozen=True, slots=True)
class View:
    """How the engine's paths are found here.

    Attributes:
        root: the tree, absolute.
        host_root: the same directory as the engine names it, where that differs.
        real_root: the tree without symlinks.
    """

    root: str
    host_root: str | None
    real_root: str

    @classmethod
    def of(cls, root: Path, host_root: Path | None) -> View:
        return cls(str(root), None if host_root is None else str(host_root), os.path.realpath(root))

    def local(self, source: str) -> tuple[str, ...]:
        """Where a mount's source may be found here; nothing where it cannot be looked at from here."""
        if self.host_root is not None:
            inside = _below(source, self.host_root.rstrip("/") or "/")
            return () if inside is None else ((self.root.rstrip("/") + inside) or "/",)
        for prefix in _GUEST_PREFIXES:
            if source.startswith(prefix + "/"):
                rest = source[len(prefix) :]
                return rest, "/mnt" + rest, source
        return (source,)

    def foreign(self, path: str) -> tuple[str, ...]:
        """The names that the engine may have for a path of ours."""
        inside = _below(path, self.root.rstrip("/") or "/")
        if inside is None:
            return (path,)
        if self.host_root is not None:
            return ((self.host_root.rstrip("/") + inside) or "/",)
        real = (self.real_root.rstrip("/") + inside) or "/"
        return (path,) if real == path else (path, real)


class MountTable:
    """Our own mountinfo, read again when the kernel says that it has changed. Empty where there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mounts: dict[bytes, tuple[str, str, str]] = {}  # under the lock: mount id -> device, root, mount point
        self._file = open("/proc/self/mountinfo", "rb", buffering=0) if sys.platform == "linux" else None  # noqa: SIM115 - it stays open: poll(2) on it tells of changes (proc(5))
        self._changed = select.poll() if self._file is not None else None
        if self._changed is not None and self._file is not None:
            self._changed.register(self._file, select.POLLPRI | select.POLLERR)
            self._read()

    def place_of(self, descriptor: int) -> tuple[str, str] | None:
        """The device and the path inside its file system of an open file; None where that cannot be told."""
        if self._file is None:
            return None
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as information:
                mount_id = information.read(4096).partition(b"mnt_id:\t")[2].partition(b"\n")[0]
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return None
        with self._lock:
            if self._changed is not None and self._changed.poll(0):
                self._read()
            mount = self._mounts.get(mount_id)
        if mount is None:
            return None
        device, root, point = mount
        inside = _below(path, point)
        return None if inside is None else (device, (root.rstrip("/") + inside).rstrip("/") or "/")

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        lines = self._file.readall() or b""
        self._mounts = {fields[0]: mount for fields, mount in _mounts(lines)}


def _below(path: str, point: str) -> str | None:
    if point == "/":
        return path
    if path == point or path.startswith(point + "/"):
        return path[len(point) :]
    return None


def _mounts(mountinfo: bytes) -> Iterator[tuple[list[bytes], tuple[str, str, str]]]:
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        if len(fields) > 5:
            yield fields, (os.fsdecode(fields[2]), _unescaped(fields[3]), _unescaped(fields[4]))


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), field))


def are_related(key: Key, other: Key) -> bool:
    """Whether what one key stands for is the same as the other's, above it or below it, as far as they tell."""
    if key[0] != other[0] or key[0] == "inode":
        return key == other
    if key[0] == "place" and key[1] != other[1]:
        return False  # another device
    path, other_path = (str(each[2] if each[0] == "place" else each[1]) for each in (key, other))
    return _below(path, other_path) is not None or _below(other_path, path) is not None


def keys_of_mountinfo(mountinfo: bytes) -> frozenset[Key]:
    """The `place` of each mount that may be written through, from a process's /proc/PID/mountinfo."""
    writable = (
        (device, root) for fields, (device, root, _) in _mounts(mountinfo) if b"ro" not in fields[5].split(b",")
    )
    return frozenset(("place", device, root.rstrip("/") or "/") for device, root in writable)


def keys_of_source(path: str, view: View, table: MountTable) -> frozenset[Key]:
    """The keys of a mount's source.

    Args:
        path: as it is found here; symlinks in it are followed, as the engine has followed them.

    Raises:
        OSError: it is not there, or closed to us.
    """
    descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        place = table.place_of(descriptor)
    finally:
        os.close(descriptor)
    keys: set[Key] = {("text", name, "") for name in view.foreign(os.path.realpath(path))}
    keys.add(("inode", status.st_dev, status.st_ino))
    if place is not None:
        keys.add(("place", *place))
    return frozenset(keys)


def keys_of_subject(subject: Subject, view: View, table: MountTable) -> frozenset[Key]:
    """The keys of the database's directory, of all that is above it, and of the database itself: whoever mounts one of
    them can write it.

    Raises:
        OSError: we have run out of descriptors or memory.
    """
    status = os.fstat(subject.database_fd)
    keys: set[Key] = {("inode", status.st_dev, status.st_ino)}
    keys.update(("inode", *each) for each in _inodes_above(subject.directory_fd))
    place = table.place_of(subject.directory_fd)
    if place is not None:
        device, inside = place
        keys.update(("place", device, path) for path in ancestors(inside))
        keys.add(("place", device, f"{inside.rstrip('/')}/{subject.name}"))
    keys.update(("text", each, "") for name in view.foreign(subject.path) for each in ancestors(name))
    return frozenset(keys)


def _inodes_above(descriptor: int) -> Iterator[tuple[int, int]]:
    status = os.fstat(descriptor)
    way = ""
    for _ in range(_DEEPEST):
        yield status.st_dev, status.st_ino
        way += "../"
        try:
            above = os.stat(way, dir_fd=descriptor)
        except PermissionError:  # we came in by a path, but may not climb out: place and text know the rest
            return
        if (above.st_dev, above.st_ino) == (status.st_dev, status.st_ino):
            return
        status = above
