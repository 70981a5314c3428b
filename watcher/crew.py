"""Processes that roll databases back beside this one while many wait: after a power cut, or when an engine has died.

Python's lock lets one thread of a process compute, and most of a rollback asks Python what SQLite may do (`unix_vfs`):
four threads are slower at it than one. So while hundreds of databases wait, the rollback itself, and nothing else, is
done by a few processes (`hand`); the looks, the judgements and the words stay here. They are begun when
many wait, and ended when that is over: nothing of it costs anything while nothing happens.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import apsw
from loguru import logger

from watcher import hand, rollback
from watcher.baton import Baton
from watcher.rollback import BusyError, Job, RollbackError, Rolled

__all__ = ["Crew"]

_MOST_HANDS = 4
_STAYS_S = 10.0
"""How long they stay when they have nothing to do."""
_BEGINS_WITHIN_S = 10.0
_ENDS_WITHIN_S = 1.0
_MOST_BYTES = 16 << 20
"""A larger database is rolled back here: it takes long enough for its progress to be watched (`liveness`)."""
_WAITS_S = 0.02
"""For a hand that is free. Where all are held up by a disk, what does not lie on it goes on here."""
_JOBS = 2
"""That one has at a time: it goes on with the second when we have not yet heard of the first."""
_TAKEN_UP_WITHIN_S = 0.1
"""After its last judgement; a job that had to wait longer is judged again."""
_BEHIND_ANOTHER_S = 1.0
"""How long a job waits for the one before it, until that one's process is given up."""
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")


class Crew:
    """May be used by any thread.

    Args:
        size: how many processes at most; none where there is one processor, or no O_PATH (not Linux).
        baton: passed on by a thread that waits for another process.
    """

    def __init__(self, baton: Baton, *, size: int | None = None) -> None:
        self._size = _processors() if size is None else size
        self._baton = baton
        self._turn = threading.Condition()
        self._called = False  # guarded by _turn, like the next two
        self._closing = False
        self._hands: list[_Hand] = []  # all that may be used
        self._free: queue.SimpleQueue[_Hand] = queue.SimpleQueue()
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

    def perform(self, job: Job) -> Rolled:
        """As :func:`watcher.rollback.perform`, by another process where one is to be had.

        Raises:
            BusyError, CorruptError, RollbackError, OSError: as there.
        """
        if not self._hands or job.most_bytes > _MOST_BYTES:
            return rollback.perform(job)
        with self._baton.passed_on():
            judged_at = time.monotonic()
            try:
                helper = self._take()
            except queue.Empty:
                return rollback.perform(job)
            try:
                return helper.perform(job, judged_at + _TAKEN_UP_WITHIN_S)
            finally:
                self._used_at = time.monotonic()
                self._give_back(helper)

    def processes(self) -> list[int]:
        """Their pids."""
        return [each.pid for each in self._hands]

    def _take(self) -> _Hand:
        while True:
            helper = self._free.get(timeout=_WAITS_S)
            with self._turn:
                helper.free -= 1
                if helper in self._hands:
                    return helper
            self._give_back(helper)  # it was lost, or dismissed

    def _give_back(self, helper: _Hand) -> None:
        with self._turn:
            helper.free += 1
            is_up = helper in self._hands
            if is_up and helper.is_lost:
                self._hands.remove(helper)
                is_up = False
            is_idle = helper.free == _JOBS
        if is_up:
            self._free.put(helper)
        elif is_idle:
            helper.end()

    # --- the thread that begins and ends them ---

    def _run(self) -> None:
        while self._is_called():
            self._man()
            self._stay()
            self._dismiss()

    def _is_called(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._called or self._closing)
            return not self._closing

    def _man(self) -> None:
        begun: list[_Hand] = []
        try:
            begun.extend(_Hand() for _ in range(self._size))  # those before one that fails are in it
        except OSError as error:
            self._warn(f"no process could be started ({error.strerror})")
        for each in begun:
            if each.is_ready():
                with self._turn:
                    self._hands.append(each)
            else:
                self._warn("a process that was started was not ready")
                each.end()
        for each in self._hands * _JOBS:
            self._free.put(each)

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
            self._called = False
            idle = [each for each in dismissed if each.free == _JOBS]
        for each in idle:
            each.end()
        if self._closing:
            for each in dismissed:
                each.kill()


class _Hand:
    """One of these processes.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Names are bytes, and both processes are to spell them alike.
        options = ["-I", "-S", "-B", f"-Xutf8={sys.flags.utf8_mode}"]
        package = Path(__file__).parent
        places = [os.fspath(package), os.fspath(Path(apsw.__file__).parents[1])]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        *options,
                        os.fspath(package / "hand_boot.py"),
                        *places,
                        str(theirs.fileno()),
                        str(os.getpid()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                )
            except BaseException:
                ours.close()
                raise
        self._channel = ours
        self.pid = self._process.pid
        self.is_lost = False
        self.free = _JOBS  # jobs that it may be given; guarded by the crew's _turn
        self._sending = threading.Lock()
        self._last = threading.Lock()  # held by whoever waits for the last answer; guarded by _sending

    def is_ready(self) -> bool:
        """Wait until it is. False where it is not in time, or has ended."""
        self._channel.settimeout(_BEGINS_WITHIN_S)
        try:
            return self._channel.recv(len(hand.READY)) == hand.READY
        except OSError:
            return False
        finally:
            self._channel.settimeout(None)

    def perform(self, job: Job, until: float) -> Rolled:
        """
        Args:
            until: by time.monotonic: taken up later than that, it is busy.

        Raises:
            BusyError, CorruptError, RollbackError, OSError: as :func:`watcher.rollback.perform`.
        """
        turn = threading.Lock()
        turn.acquire()
        try:
            with self._sending:
                before, self._last = self._last, turn
                hand.send(self._channel, job, until)
            if not before.acquire(timeout=_BEHIND_ANOTHER_S):
                self.is_lost = True
                self.kill()
                raise BusyError("the process that was to roll it back is held up by another database")
            return hand.receive(self._channel)
        except EOFError as error:
            self.is_lost = True
            raise RollbackError(f"the process that rolled it back has ended ({self._how()})", began=True) from error
        finally:
            turn.release()

    def _how(self) -> str:
        try:
            status = self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            return "it does not say how"
        return f"signal {-status}" if status < 0 else f"status {status}"

    def kill(self) -> None:
        """End it, whatever it is at: its answer is its end then."""
        self._process.kill()

    def end(self) -> None:
        """End one that nobody waits for. Where a dead file system holds it, it is left behind: it ends with us."""
        self._channel.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)


def _processors() -> int:
    if sys.platform != "linux":
        return 0
    usable = len(os.sched_getaffinity(0))
    return 0 if usable < 2 else min(usable, _MOST_HANDS)
