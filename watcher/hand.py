"""A process that rolls databases back for the service: one of its crew (`crew`).

It is given what a judged job takes, the descriptors among it, and tells what came of it. It knows no tree, no owner and
no settings, decides nothing, and ends with the service. It works on one database at a time, which the kernel keeps from
growing beyond what the job allows (RLIMIT_FSIZE; Python ignores SIGXFSZ, so that the write fails).
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

import apsw

from watcher.met import SUFFIX, Gone, UnsafeError, let_go
from watcher.pinned import Pinned
from watcher.rollback import BusyError, CorruptError, Job, RollbackError, Rolled, perform
from watcher.unix_vfs import let_write

__all__ = ["LONGEST_PATH", "TOO_LATE", "await_ready", "main", "receive", "send"]

TOO_LATE = "it was not taken up in time; it is judged again"
_MOST_BYTES = 1 << 16
LONGEST_PATH = 10_000
"""In characters, of which one that is no text becomes six bytes of a message. A session may make a longer one where no
layout says how deep databases lie."""
_DESCRIPTORS = 3
_PR_SET_PDEATHSIG = 1  # prctl(2)
_WRITE_FAILED = {apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE}
_KINDS = {"busy": BusyError, "corrupt": CorruptError, "failed": RollbackError}

_Answer = dict[str, Any]
"""JSON, and not Python's pickle: the process that sends it reads hostile files."""


def send(channel: socket.socket, job: Job, until: float) -> None:
    """Give a job to the process at the other end, which does one after the other and answers each before the next.

    Args:
        job: its path is no longer than `LONGEST_PATH`.
        until: by time.monotonic, which on Linux is the same in all processes: taken up later than that, it is busy.

    Raises:
        EOFError: that process has ended.
    """
    asked = [until, job.path, job.most_bytes, job.acts_as, job.busy_timeout_s]
    try:
        socket.send_fds(channel, [json.dumps(asked).encode()], [job.directory_fd, job.database.fd, job.journal.fd])
    except OSError as error:
        raise EOFError from error


def await_ready(channel: socket.socket) -> tuple[int, int]:
    """Wait until the process at the other end is ready for its first job.

    Returns:
        Its pid, and a descriptor that stands for it (pidfd_open(2)); -1 where the kernel has none.

    Raises:
        OSError, EOFError: it is not in time, or has ended.
    """
    pid, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    if not pid:
        raise EOFError
    return int(pid), descriptors[0] if descriptors else -1


def receive(channel: socket.socket) -> Rolled:
    """The answer to the last job.

    Raises:
        BusyError, CorruptError, RollbackError, OSError: as :func:`watcher.rollback.perform`.
        EOFError: that process has ended; how far it came is not known.
        RuntimeError: it has met what nobody has thought of.
    """
    try:
        answer = channel.recv(_MOST_BYTES)
    except OSError as error:
        raise EOFError from error
    if not answer:
        raise EOFError
    try:
        return _rolled(json.loads(answer))
    except (ValueError, TypeError, KeyError) as error:
        raise RuntimeError("a process that rolls back has answered nonsense") from error


def _rolled(answer: _Answer) -> Rolled:
    if "defect" in answer:
        raise RuntimeError(f"a process that rolls back has met {answer['defect']}")
    if "system" in answer:
        raise OSError(*answer["system"])
    if "error" in answer:
        raise _error(*answer["error"])
    pages, finished_journal, is_wal, is_left, unread, found_deleted = answer["rolled"]
    error = None if unread is None else _error(*unread)
    return Rolled(pages, finished_journal, is_wal, is_left, error, found_deleted)


def _error(kind: str, words: str, began: bool) -> RollbackError:
    return _KINDS[kind](words, began=began)


# --- that process ---


def main() -> None:
    """Be as many processes as there are channels, each of which serves its own until its other end is closed. They know
    by that when the service has ended, and end what they are at before: it was judged a moment ago.

    Args:
        sys.argv: from the third on the service's pid, and the channels' descriptors.
    """
    service_pid, *channels = map(int, sys.argv[3:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal or systemd sends it to all: it is for the service, which ends us.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those made here (wait(2))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != service_pid:
        return  # it has ended meanwhile
    if _bound(resource.RLIM_INFINITY):
        let_write()
    with suppress(OSError):  # a filter of system calls; it is a wish
        # They take turns with the service's threads, and do not interrupt them (sched(7)).
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    gc.freeze()  # what is there now stays, and is not looked through in each process
    with socket.socket(fileno=_one_for_each(channels)) as channel:
        _serve(channel)
    with suppress(ChildProcessError):
        os.wait()  # for the end of those that were made here: else it were for init to see to, whoever that is


def _one_for_each(channels: list[int]) -> int:
    """The channel of this process: of the first, or of one that it has made here. Those for which the kernel gives us
    no process are closed."""
    ours, *others = channels
    while others:
        other = others.pop()
        with suppress(OSError):  # the service sees how many there are
            if os.fork() == 0:
                for each in (ours, *others):
                    os.close(each)
                return other
        os.close(other)
    return ours


def _serve(channel: socket.socket) -> None:
    _say_ready(channel)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        channel.send(json.dumps(_answer(json.loads(message), descriptors)).encode())


def _say_ready(channel: socket.socket) -> None:
    pid = os.getpid()
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # before Linux 5.3, or a filter of system calls
        channel.send(b"%d" % pid)
        return
    socket.send_fds(channel, [b"%d" % pid], [pidfd])
    os.close(pidfd)


def _answer(asked: list[Any], descriptors: list[int]) -> _Answer:
    until, path, most_bytes, *others = asked
    name = os.path.basename(path)
    try:
        with ExitStack() as closing:
            if len(descriptors) < _DESCRIPTORS:  # the kernel leaves out those for which there is no room (unix(7))
                for each in descriptors:
                    closing.callback(let_go, each)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            directory_fd, *files = descriptors
            closing.callback(let_go, directory_fd)
            database, journal = _pinned(name, directory_fd, *files)
            closing.callback(database.close)
            closing.callback(journal.close)
            if time.monotonic() > until:
                raise BusyError(TOO_LATE)
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
    return {"rolled": [*rolled[:4], unread, rolled.found_deleted]}


def _pinned(name: str, directory_fd: int, database_fd: int, journal_fd: int) -> tuple[Pinned, Pinned]:
    """Both descriptors are closed where one of the two files is nothing that we may touch."""
    try:
        database = Pinned(name, "the database", directory_fd, fd=database_fd)
    except BaseException:
        let_go(journal_fd)
        raise
    try:
        return database, Pinned(f"{name}{SUFFIX}", "the journal", directory_fd, fd=journal_fd)
    except BaseException:
        database.close()
        raise


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
