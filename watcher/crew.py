"""Processes that roll databases back beside this one while many wait: after a power cut, or when an engine has died.

Python's lock lets one thread of a process compute, and most of a rollback asks Python what SQLite may do (`unix_vfs`):
four threads are slower at it than one. So while hundreds of databases wait, the rollback itself, and nothing else, is
done by a few processes (`hand`); the looks, the judgements and the words stay here. They are begun when
many wait, and ended when that is over: nothing of it costs anything while nothing happens.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import apsw
from loguru import logger

from watcher import hand
from watcher.rollback import Job, RollbackError, Rolled

__all__ = ["Crew", "Hand", "size_for"]

_HANDS_PER_WORKER, _MOST_HANDS = 2, 8
"""More than there are processors, since each of them waits for the disk most of the time: on two, eight were a sixth
faster than four, and sixteen no faster."""
_STAYS_S = 10.0
"""How long they stay when they have nothing to do."""
_BEGINS_WITHIN_S = 10.0
_ENDS_WITHIN_S = 1.0
_JOBS_IN_A_ROW = 2
"""One of them is at, and one has at hand by the time that it has ended, without waiting for a thread of the service,
which sees to several of them at once then: 500 recoveries take 7 % less time than one at a time."""
_QUICK_S = 0.05
"""Where a job takes longer, on a slow disk, none is to wait behind it: it might have to be judged again."""
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")


class Crew:
    """May be used by any thread.

    Args:
        size: how many processes.
    """

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._turn = threading.Condition()
        self._called = False  # guarded by _turn, like the next two
        self._closing = False
        self._hands: list[Hand] = []
        self._used_at = 0.0  # by time.monotonic
        self._has_warned = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Be ready to be called up."""
        if self._size:
            self._thread = threading.Thread(target=self._run, name="crew", daemon=True)
            self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """End all processes. What one of them is at, stays hot."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        if self._thread is not None:
            self._thread.join(deadline_s)

    def call_up(self) -> None:
        """Many databases wait. Never waits itself."""
        self._used_at = time.monotonic()
        if not self._called and self._thread is not None:
            with self._turn:
                self._called = True
                self._turn.notify()

    def processes(self) -> list[int]:
        """Their pids."""
        return [each.pid for each in self._hands]

    def has_free(self) -> bool:
        """Whether one of them may be given a job."""
        return any(each.has_time for each in self._hands)  # a peek: who takes one finds out

    def take(self) -> Hand | None:
        """The one that has the least to do, for one job, until :meth:`give_back`."""
        self._used_at = time.monotonic()
        with self._turn:
            helper = min((each for each in self._hands if each.has_time), key=_jobs_of, default=None)
            if helper is not None:
                helper.jobs += 1
            return helper

    def give_back(self, helper: Hand) -> None:
        """That job has ended."""
        with self._turn:
            helper.jobs -= 1
            if helper.is_lost and helper in self._hands:
                self._hands.remove(helper)
            is_over = helper not in self._hands and not helper.jobs
        if is_over:
            helper.end()
        elif helper.is_lost:
            helper.kill()  # so that what it was given beside ends, too

    # --- the thread that begins and ends them ---

    def _run(self) -> None:
        while self._is_called():
            with ExitStack() as reaping:
                self._man(reaping)
                self._stay()
                self._dismiss()

    def _is_called(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._called or self._closing)
            return not self._closing

    def _man(self, reaping: ExitStack) -> None:
        try:
            begun = _begun(self._size, reaping)
        except OSError as error:
            self._warn(f"no process could be started ({error.strerror})")
            return
        for each in begun:
            if each.is_ready():
                with self._turn:
                    self._hands.append(each)
            else:
                self._warn("a process that was started was not ready")
                each.end()

    def _warn(self, why: str) -> None:
        if not self._has_warned:  # there is nothing new in the next time
            self._has_warned = True
            logger.warning(f"{why} to recover many databases at once: it takes longer, and nothing else")

    def _stay(self) -> None:
        with self._turn:
            while not self._closing and (left_s := self._used_at + _STAYS_S - time.monotonic()) > 0:
                self._turn.wait(left_s)

    def _dismiss(self) -> None:
        """Those that are at it meanwhile are ended by whoever has their last answer."""
        with self._turn:
            dismissed, self._hands = self._hands, []
            idle = [each for each in dismissed if not each.jobs]
            self._called = False
        for each in idle:
            each.end()
        if self._closing:
            for each in dismissed:
                each.kill()


class Hand:
    """One of these processes, which does one job after the other.

    Args:
        channel: to it.

    Attributes:
        jobs: how many it has been given that have not ended.
        is_lost: it has ended, or is to end, since nobody knows what it does.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._ending = threading.Lock()
        self._pidfd = -1  # guarded by _ending: closed, its number may stand for another process
        self._since = 0.0  # by time.monotonic: at its job, or at none
        self._is_quick = False
        self.pid = 0
        self.jobs = 0
        self.is_lost = False

    @property
    def has_time(self) -> bool:
        """Whether it may be given another job."""
        return self.jobs < (_JOBS_IN_A_ROW if self._is_quick else 1)

    def is_ready(self) -> bool:
        """Wait until it is. False where it is not in time, or has ended."""
        self._channel.settimeout(_BEGINS_WITHIN_S)
        try:
            self.pid, self._pidfd = hand.await_ready(self._channel)
        except (OSError, EOFError):
            self.is_lost = True
            return False
        self._channel.settimeout(None)
        return True

    def begin(self, job: Job, until: float) -> int:
        """Have it do a job; the descriptor at which its answer comes, after those to the jobs before.

        Args:
            until: by time.monotonic: taken up later than that, it is busy.

        Raises:
            EOFError: the process has ended.
        """
        if self.jobs == 1:  # this one
            self._since = time.monotonic()
        try:
            hand.send(self._channel, job, until)
        except EOFError:
            self.is_lost = True
            raise
        return self._channel.fileno()

    def receive(self) -> Rolled:
        """Its next answer.

        Raises:
            BusyError, CorruptError, RollbackError, OSError: as :func:`watcher.rollback.perform`.
            RuntimeError: as :func:`watcher.hand.receive`.
        """
        try:
            return hand.receive(self._channel)
        except EOFError as error:
            self.is_lost = True
            raise RollbackError("the process that rolled it back has ended", began=True) from error
        except RuntimeError:
            self.is_lost = True
            raise
        finally:
            now = time.monotonic()
            self._is_quick = now - self._since < _QUICK_S
            self._since = now

    def kill(self) -> None:
        """End it, whatever it is at: its answer is its end then, also where a dead file system holds it."""
        with self._ending, suppress(OSError):  # it has ended, or was ended meanwhile
            self._channel.shutdown(socket.SHUT_RDWR)
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self) -> None:
        """Have one that nobody waits for end, or end it where it does not listen any more."""
        if self.is_lost:
            self.kill()
        with self._ending:
            self._channel.close()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1


def _jobs_of(helper: Hand) -> int:
    return helper.jobs


def _begun(count: int, reaping: ExitStack) -> list[Hand]:
    """So many processes, of which the first makes the others when it has loaded what they need.

    Args:
        reaping: waits for the first at its end.

    Raises:
        OSError: they cannot be started.
    """
    with ExitStack() as undone, ExitStack() as theirs:
        hands, fds = [], []
        for _ in range(count):
            ours, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(their)
            undone.callback(ours.close)
            hands.append(Hand(ours))
            fds.append(their.fileno())
        # Names are bytes, and both processes are to spell them alike.
        options = ["-I", "-S", "-B", f"-Xutf8={sys.flags.utf8_mode}"]
        package = Path(__file__).parent
        script, *places = (
            os.fspath(each) for each in (package / "hand_boot.py", package, Path(apsw.__file__).parents[1])
        )
        process = subprocess.Popen(
            [sys.executable, *options, script, *places, str(os.getpid()), *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=fds,
            cwd="/",
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
        )
        reaping.callback(_reap, process)
        undone.pop_all()
        return hands


def _reap(process: subprocess.Popen[bytes]) -> None:
    """It ends when those that it has made have ended. Where a dead file system holds one of them, it is ended before;
    where that holds it itself, it is left behind, and ends with us."""
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_WITHIN_S)


def size_for(workers: int) -> int:
    """How many processes are of use; none where there is one processor, or no O_PATH (not Linux).

    Args:
        workers: so many recoveries may be at the same time else.
    """
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) == 1:
        return 0
    return min(_HANDS_PER_WORKER * workers, _MOST_HANDS)
