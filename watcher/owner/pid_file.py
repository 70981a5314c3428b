"""The `pid_file` probe: the writer has left its pid beside the database, or elsewhere.

The file lies where agents write, so it may be anything: it is reached like everything else in the tree, read to a few
bytes, and believed only as far as a live process bears it out.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from watcher.met import O_PATH
from watcher.names import printable
from watcher.owner.clock import WallClock
from watcher.owner.processes import process_of
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import expand
from watcher.tree import kind_of

__all__ = ["PidFileProbe"]

_MAX_BYTES = 512
_MAX_PID = 2**31 - 1
_TOLERANCE_NS = 2_000_000_000
"""A pid file is written a moment after its process starts; file and start are stamped by different clocks."""

_PASS_THROUGH = (O_PATH or os.O_RDONLY) | os.O_DIRECTORY

_NO_FILE = {errno.ENOENT, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
"""There is none, or none for us. Whatever else keeps us from reading it (no descriptor left, a disk that fails) says
nothing about the writer, and must not pass for the silence of a writer that leaves no pid."""


@dataclass(frozen=True, slots=True)
class _Written:
    pid: int
    start_ticks: int | None
    mtime_ns: int


class _NoPidFileError(Exception):
    """There is no such file, or we may not read it."""


class _NoPidError(Exception):
    """What is there is no pid, or cannot be told."""


class PidFileProbe:
    """Asks for the process that the pid file names; pids are those of our own pid namespace.

    Args:
        pattern: of `owner.pid_file`: relative to the database's directory, or absolute.
    """

    name = "pid_file"

    def __init__(self, pattern: str, clock: WallClock) -> None:
        self._pattern = pattern
        self._clock = clock

    def ask(self, subject: Subject) -> Evidence:
        path = expand(self._pattern, subject.session)
        shown = printable(path)
        try:
            written = _read(path, subject.directory_fd)
        except _NoPidFileError as error:
            return Evidence(self.name, Answer.SILENT, f"{shown}: {error}")
        except _NoPidError as error:
            return Evidence(self.name, Answer.UNKNOWN, f"{shown}: {error}")
        if written.mtime_ns < self._clock.boot_ns() - _TOLERANCE_NS:
            return Evidence(self.name, Answer.SILENT, f"{shown} is older than this boot")
        return self._judge(written, shown)

    def _judge(self, written: _Written, shown: str) -> Evidence:
        pid = written.pid
        try:
            process = process_of(pid)
        except PermissionError as error:
            return Evidence(self.name, Answer.UNKNOWN, f"{shown} names pid {pid}: {error}", pid)
        if process is None:
            return Evidence(self.name, Answer.EXITED, f"{shown} names pid {pid}, which has exited")
        alive = Evidence(self.name, Answer.ALIVE, f"{shown} names pid {pid}, which runs", pid)
        reused = Evidence(self.name, Answer.EXITED, f"{shown} names pid {pid}, which is another process by now")
        if written.start_ticks is not None and process.start_ticks is not None:
            return alive if process.start_ticks == written.start_ticks else reused
        if self._clock.has_stepped():
            why = "runs, but the wall clock was set since: nobody can say whether it is the writer"
            return Evidence(self.name, Answer.UNKNOWN, f"{shown} names pid {pid}, which {why}", pid)
        return alive if process.started_ns <= written.mtime_ns + _TOLERANCE_NS else reused


def _read(path: str, directory_fd: int) -> _Written:
    """Read and parse a pid file without ever blocking, and without following a link below the root."""
    try:
        with ExitStack() as opened:
            return _read_in(path, directory_fd, opened)
    except OSError as error:
        why = (error.strerror or "cannot be read").lower()
        if error.errno in _NO_FILE:
            raise _NoPidFileError(why) from error
        raise _NoPidError(why) from error


def _read_in(path: str, directory_fd: int, opened: ExitStack) -> _Written:
    def enter(name: str, flags: int, at: int) -> int:
        descriptor = os.open(name, flags | os.O_CLOEXEC, dir_fd=at)
        opened.callback(os.close, descriptor)
        return descriptor

    directory, _, name = path.rpartition("/")
    at = directory_fd
    if path.startswith("/"):
        at = enter(directory or "/", _PASS_THROUGH, at)
    else:
        for part in directory.split("/") if directory else ():
            if part == "..":  # a session called so; the settings allow none
                raise _NoPidError("above the database's directory")
            at = enter(part, _PASS_THROUGH | os.O_NOFOLLOW, at)
    if O_PATH:  # it is looked at before it is opened: a device or a FIFO notices nothing
        pinned = enter(name, O_PATH | os.O_NOFOLLOW, at)
        _require_plain(os.fstat(pinned))
        descriptor = enter(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK, at)
    else:
        _require_plain(os.stat(name, dir_fd=at, follow_symlinks=False))
        descriptor = enter(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, at)
    status = os.fstat(descriptor)
    _require_plain(status)
    pid, start_ticks = _parse(os.read(descriptor, _MAX_BYTES + 1))
    return _Written(pid, start_ticks, status.st_mtime_ns)


def _require_plain(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _NoPidError(f"{kind_of(status.st_mode)}, not a plain file")


def _parse(content: bytes) -> tuple[int, int | None]:
    if len(content) > _MAX_BYTES:
        raise _NoPidError(f"longer than {_MAX_BYTES} bytes, so no pid")
    text = content.strip()
    start_ticks: object = None
    pid: object = None
    if text.startswith(b"{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _NoPidError("neither a pid nor JSON") from error
        pid, start_ticks = parsed.get("pid"), parsed.get("start_ticks")
    elif text.isdigit() and len(text) <= len(str(_MAX_PID)):
        pid = int(text)
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= _MAX_PID:
        raise _NoPidError("holds no pid")
    if start_ticks is not None and (not isinstance(start_ticks, int) or isinstance(start_ticks, bool)):
        raise _NoPidError("its start_ticks is no number")
    return pid, start_ticks
