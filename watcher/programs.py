"""The user's programs: the `command` probe and the hooks.

Each is exec'ed without a shell, in a session of its own, with no descriptor of ours but its standard ones, and killed
with its children at the time-out, at its end, and when we stop. Where we are killed ourselves, setpriv(1) of util-linux
has asked the kernel to kill it, too: PR_SET_PDEATHSIG wants code between fork and exec, and none of ours may run there
in a process with threads. Where setpriv is missing, it lives on to its own end, holding nothing of ours.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from watcher.names import printable

__all__ = ["Ended", "Programs"]

_MOST_OUTPUT = 4096
_LONGEST_LINE = 200
_LOOK_INTERVAL_S = 0.02
_NOT_EXECUTED = {127: errno.ENOENT, 126: errno.EACCES}
"""What setpriv(1) ends with where it cannot execute a program (EX_EXEC_ENOENT, EX_EXEC_FAILED of util-linux)."""
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        status: its exit status, or minus the signal that killed it; None where we have killed it.
        words: the first line of what it printed, on either stream, as one printable line.
    """

    status: int | None
    words: str

    @property
    def how(self) -> str:
        """`status 2`, `killed by signal 9`."""
        assert self.status is not None, "where we have killed it, the caller knows why"
        return f"killed by signal {-self.status}" if self.status < 0 else f"status {self.status}"


class Programs:
    """Runs programs until it is closed; several threads may do so at once.

    Args:
        cwd: where they run.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self.closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        weakref.finalize(self, _close, self._wake_read, self._wake_write)

    def close(self) -> None:
        """Kill what runs, and run nothing from now on. May be called more than once."""
        if not self.closing.is_set():
            self.closing.set()
            os.write(self._wake_write, b"x")  # never read: it wakes all who wait, now and later

    def run(
        self, argv: Sequence[str], *, timeout_s: float, environment: Mapping[str, str], stdin: bytes = b""
    ) -> Ended:
        """Run one to its end.

        Args:
            argv: the program and its arguments.
            timeout_s: after so many seconds it is killed.
            environment: added to the few variables of ours that a program gets.
            stdin: what it can read.

        Raises:
            OSError: it does not start.
        """
        tied = _tied_to_us()
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with _started([*tied, *argv], self._cwd, {**kept, **environment}, stdin) as child:
            output, has_ended = self._follow(child, time.monotonic() + timeout_s)
        ended = Ended(child.returncode if has_ended else None, _first_line(output))
        if tied and ended.status in _NOT_EXECUTED and ended.words.startswith("setpriv: "):
            code = _NOT_EXECUTED[ended.status]
            raise OSError(code, os.strerror(code), argv[0])
        return ended

    def _follow(self, child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
        """Its output, up to a bound, and whether it has ended by itself before the deadline."""
        assert child.stdout is not None
        pipe = child.stdout.fileno()
        os.set_blocking(pipe, False)
        output = bytearray()
        with selectors.DefaultSelector() as waiting, _exit_descriptor(child.pid) as exit_descriptor:
            waiting.register(pipe, selectors.EVENT_READ)
            waiting.register(self._wake_read, selectors.EVENT_READ)
            if exit_descriptor is not None:
                waiting.register(exit_descriptor, selectors.EVENT_READ)
            while not _has_ended(child.pid):
                left = deadline - time.monotonic()
                if left <= 0 or self.closing.is_set():
                    return bytes(output), False
                ready = waiting.select(left if exit_descriptor is not None else min(left, _LOOK_INTERVAL_S))
                if any(key.fd == pipe for key, _ in ready) and not _read(pipe, output):
                    waiting.unregister(pipe)
            while _read(pipe, output) and len(output) < _MOST_OUTPUT:
                pass  # what is left in the pipe; a child of its that holds it open is not waited for
        return bytes(output), True


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@contextlib.contextmanager
def _started(
    argv: Sequence[str], cwd: Path, environment: Mapping[str, str], stdin: bytes
) -> Iterator[subprocess.Popen[bytes]]:
    with _readable(stdin) as source:
        child = subprocess.Popen(
            argv,
            stdin=source or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        # Before it is waited for: until then nobody else can have its pid, which names its group and its session.
        _kill_session(child.pid)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[BinaryIO | None]:
    """The data as a file without a name: nobody has to wait until a program has read it, as a pipe would want."""
    if not data:
        yield None
        return
    with os.fdopen(os.memfd_create("stdin"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


@functools.cache
def _tied_to_us() -> tuple[str, ...]:
    """The beginning of an argument list whose program the kernel kills when the thread that started it ends."""
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin") if sys.platform == "linux" else None
    if setpriv is None:
        return ()
    tied = (setpriv, "--pdeathsig", "KILL", "--")
    # Another setpriv (busybox has one) may know no such option, and end with 1, which is an answer: try it first.
    tried = subprocess.run([*tied, "/bin/sh", "-c", "exit 42"], check=False, capture_output=True, timeout=10)
    return tied if tried.returncode == 42 else ()


def _has_ended(pid: int) -> bool:
    """Whether a child of ours has ended; it is left to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


@contextlib.contextmanager
def _exit_descriptor(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable once a child has ended; None where the system has no such thing."""
    if sys.platform != "linux":
        yield None
        return
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(pipe: int, output: bytearray) -> bool:
    """Take what there is, and keep as much of it as fits; False at the end, or where there is nothing now."""
    try:
        chunk = os.read(pipe, 65536)
    except BlockingIOError:
        return False
    output += chunk[: _MOST_OUTPUT - len(output)]
    return bool(chunk)


def _kill_session(leader: int) -> None:
    """Kill a process that leads a session and has not been waited for, with all of that session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM where only the zombie is left
        os.killpg(leader, signal.SIGKILL)
    if sys.platform != "linux":
        return
    for entry in os.listdir("/proc"):  # a shell with job control gives each job a group of its own
        if entry.isdigit():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if int(entry) != leader and os.getsid(int(entry)) == leader:
                    os.kill(int(entry), signal.SIGKILL)


def _first_line(output: bytes) -> str:
    text = output.decode("utf-8", "surrogateescape").strip()
    return printable(text.split("\n", 1)[0].strip()[:_LONGEST_LINE])
