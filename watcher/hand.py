"""A process that rolls databases back for the service: one of its crew (`crew`).

It is given what a judged job takes, the descriptors among it, and tells what came of it. It knows no tree, no owner and
no settings, decides nothing, and ends with the service. It works on one database at a time, which the kernel keeps from
growing beyond what the job allows (RLIMIT_FSIZE; Python ignores SIGXFSZ, so that the write fails).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack
from typing import Any

import apsw

from watcher.met import Gone, UnsafeError
from watcher.pinned import Pinned
from watcher.rollback import BusyError, CorruptError, Job, RollbackError, Rolled, perform
from watcher.unix_vfs import let_write

__all__ = ["READY", "main", "receive", "send"]

READY = b"ready"
_MOST_BYTES = 1 << 16
"""Of a message: a path has at most PATH_MAX bytes, and words are clipped."""
_PR_SET_PDEATHSIG = 1  # prctl(2)
_WRITE_FAILED = {apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE}
_KINDS = {"busy": BusyError, "corrupt": CorruptError, "failed": RollbackError}

_Answer = dict[str, Any]
"""JSON, and not Python's pickle: the process that sends it reads hostile files."""


def send(channel: socket.socket, job: Job, until: float) -> None:
    """Give a job to the process at the other end: its answers come in the order of the jobs.

    Args:
        until: by time.monotonic, which on Linux is the same in all processes: taken up later than that, it is busy.

    Raises:
        EOFError: that process has ended.
    """
    asked = [until, job.path, job.most_bytes, job.acts_as, job.busy_timeout_s]
    try:
        socket.send_fds(channel, [json.dumps(asked).encode()], [job.directory_fd, job.database.fd, job.journal.fd])
    except OSError as error:
        raise EOFError from error


def receive(channel: socket.socket) -> Rolled:
    """The next answer.

    Raises:
        BusyError, CorruptError, RollbackError, OSError: as :func:`watcher.rollback.perform`.
        EOFError: that process has ended; how far it came is not known.
        RuntimeError: it has met what nobody has thought of.
    """
    try:
        answer = channel.recv(_MOST_BYTES)
    except OSError as error:  # it was closed by whoever waited for the answer before
        raise EOFError from error
    if not answer:
        raise EOFError
    return _rolled(json.loads(answer))


def _rolled(answer: _Answer) -> Rolled:
    if "defect" in answer:
        raise RuntimeError(f"a process that rolls back has met {answer['defect']}")
    if "system" in answer:
        raise OSError(*answer["system"])
    if "error" in answer:
        raise _error(*answer["error"])
    pages, finished_journal, is_wal, is_left, unread = answer["rolled"]
    return Rolled(pages, finished_journal, is_wal, is_left, None if unread is None else _error(*unread))


def _error(kind: str, words: str, began: bool) -> RollbackError:
    return _KINDS[kind](words, began=began)


# --- that process ---


def main() -> None:
    """Serve one channel, until its other end is closed or the service has ended.

    Args:
        sys.argv: ends with the channel's descriptor and the service's pid.
    """
    channel = socket.socket(fileno=int(sys.argv[-2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # a terminal or systemd sends it to all: it is for the service, which ends us
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[-1]):
        return  # it has ended meanwhile
    if _bound(resource.RLIM_INFINITY):
        let_write()
    channel.send(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        channel.send(json.dumps(_answer(json.loads(message), *descriptors)).encode())


def _answer(asked: list[Any], directory_fd: int, database_fd: int, journal_fd: int) -> _Answer:
    until, path, most_bytes, *others = asked
    name = os.path.basename(path)
    try:
        with ExitStack() as closing:
            closing.callback(os.close, directory_fd)
            database = Pinned(name, "the database", directory_fd, fd=database_fd)
            closing.callback(database.close)
            journal = Pinned(f"{name}-journal", "the journal", directory_fd, fd=journal_fd)
            closing.callback(journal.close)
            if time.monotonic() > until:
                raise BusyError("it was not taken up in time; it is judged again")
            _bound(most_bytes)
            rolled = perform(Job(path, directory_fd, database, journal, most_bytes, *others))
    except RollbackError as error:
        kind, words, began = _told(error)
        if getattr(error.__cause__, "extendedresult", 0) in _WRITE_FAILED:
            words += f", or the rollback would grow the database beyond {most_bytes} bytes"
        return {"error": [kind, words, began]}
    except (Gone, UnsafeError) as error:
        return {"error": ["busy", str(error), False]}  # another look will tell
    except OSError as error:
        return {"system": [error.errno, error.strerror]}
    except Exception as error:  # noqa: BLE001 - the top of a process; the service tells it, and looks again
        return {"defect": f"{type(error).__name__}: {error}"}
    unread = None if rolled.unread is None else _told(rolled.unread)
    return {"rolled": [rolled.pages, rolled.finished_journal, rolled.is_wal, rolled.is_left, unread]}


def _bound(most_bytes: int) -> bool:
    """Keep all files of this process from growing beyond so many bytes. False where that is not for us to say (a filter
    of system calls): then SQLite asks at each write."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        soft = hard if most_bytes == resource.RLIM_INFINITY else most_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    except (OSError, ValueError):
        return False
    return True


def _told(error: RollbackError) -> tuple[str, str, bool]:
    kind = next(kind for kind, which in _KINDS.items() if isinstance(error, which))
    return kind, str(error), error.began
