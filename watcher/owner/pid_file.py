"""The `pid_file` probe: the writer has left its pid beside the database, or elsewhere.

The file lies where agents write, so it may be anything: it is reached like everything else in the tree, read to a few
bytes, and believed only as far as a live process bears it out.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass

from watcher.names import printable
from watcher.owner.clock import WallClock
from watcher.owner.processes import process_of
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import expand

__all__ = ["PidFileProbe"]

_MAX_BYTES = 512
_MAX_PID = 2**31 - 1
_TOLERANCE_NS = 2_000_000_000
"""A pid file is written a moment after its process starts; file and start are stamped by different clocks."""


@dataclass(frozen=True, slots=True)
class _Written:
    pid: int
    start_ticks: int | None
    mtime_ns: int


class _NoPidFileError(Exception):
    """There is no such file, or we may not read it."""


class _NoPidError(Exception):
    """What is there is no pid."""


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
    *directories, name = path.split("/") if not os.path.isabs(path) else (os.path.dirname(path), os.path.basename(path))
    below = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if os.path.isabs(path) else os.O_NOFOLLOW)
    opened: list[int] = []
    at = directory_fd
    try:
        for directory in directories:
            at = os.open(directory, below, dir_fd=at)
            opened.append(at)
        kind = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISREG(kind.st_mode):
            raise _NoPidError("not a plain file")
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        opened.append(descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _NoPidError("not a plain file")
        content = os.read(descriptor, _MAX_BYTES + 1)
    except OSError as error:
        raise _NoPidFileError((error.strerror or "cannot be read").lower()) from error
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)
    pid, start_ticks = _parse(content)
    return _Written(pid, start_ticks, status.st_mtime_ns)


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
