"""The `heartbeat` probe: the writer touches a file for as long as it lives.

The file lies where agents write, so it may be anything: it is reached like everything else in the tree, looked at and
never opened.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from watcher.names import printable
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import HeartbeatSettings, expand

__all__ = ["HeartbeatProbe"]

_TOLERANCE_S = 1.0
"""How far ahead of our clock a file's time may be: more is no heartbeat, but a clock or a person that set it."""

_ENTER = (os.O_PATH if sys.platform == "linux" else os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class HeartbeatProbe:
    """Says ALIVE where the file was touched within `max_age`, and nothing else."""

    name = "heartbeat"

    def __init__(self, settings: HeartbeatSettings) -> None:
        self._settings = settings

    def ask(self, subject: Subject) -> Evidence:
        path = expand(self._settings.file, subject.session)
        shown = printable(path)
        try:
            status = _look(path, subject.directory_fd)
        except OSError as error:
            return self._silent(f"{shown}: {(error.strerror or 'cannot be looked at').lower()}")
        if not stat.S_ISREG(status.st_mode):
            return self._silent(f"{shown} is not a plain file, so no heartbeat")
        age_s = time.time() - status.st_mtime
        if age_s < -_TOLERANCE_S:
            return self._silent(f"{shown} was touched in the future, so its time says nothing")
        if age_s > self._settings.max_age:
            return self._silent(f"{shown} was last touched {age_s:.0f} s ago")
        return Evidence(self.name, Answer.ALIVE, f"{shown} was touched {max(age_s, 0.0):.1f} s ago")

    def _silent(self, detail: str) -> Evidence:
        return Evidence(self.name, Answer.SILENT, detail)


def _look(path: str, directory_fd: int) -> os.stat_result:
    """`lstat` of a file, reached from the database's directory without following a link below the root."""
    if os.path.isabs(path):
        return os.lstat(path)
    *directories, name = path.split("/")
    opened: list[int] = []
    at = directory_fd
    try:
        for directory in directories:
            at = os.open(directory, _ENTER | os.O_NOFOLLOW, dir_fd=at)
            opened.append(at)
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)
