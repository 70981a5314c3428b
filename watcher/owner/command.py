"""The `command` probe: a program of the user's answers whether the owner lives.

It is exec'ed without a shell, in a session of its own, with no descriptor of ours but the pipe for its output, and
killed with its children at the time-out, at its end, and when we stop. Where we are killed ourselves, setpriv(1) of
util-linux has asked the kernel to kill it, too: PR_SET_PDEATHSIG wants code between fork and exec, and none of ours may
run there in a process with threads. Where that program is missing, it lives on to its own end, holding nothing of ours.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watcher.names import printable
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import CommandSettings, expand

__all__ = ["CommandProbe"]

_INTERVAL_S = 1.0
_MOST_OUTPUT = 4096
_MOST_DATABASES = 4096
_LONGEST_LINE = 200
_LOOK_INTERVAL_S = 0.02
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR")


@dataclass
class _Known:
    """What the command has said about one database; under its lock, which is held while the command runs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    started_at: float = float("-inf")
    evidence: Evidence | None = None


class CommandProbe:
    """Runs the command of the settings, at most once a second for each database.

    Within that second the last answer is given again; a fresh question takes it only where acting on it harms nobody
    (ALIVE or UNKNOWN) or where that run began after the question. Else it waits for the second to be over, and runs the
    command once more.

    Args:
        settings: argument list and time-out.
        cwd: where the command runs: the settings file's directory.
    """

    name = "command"

    def __init__(self, settings: CommandSettings, cwd: Path) -> None:
        self._settings = settings
        self._cwd = cwd
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # under the lock; the last one asked for at the end
        self._closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        weakref.finalize(self, _close, self._wake_read, self._wake_write)

    def ask(self, subject: Subject) -> Evidence:
        asked_at = time.monotonic()
        known = self._known_of(subject.path)
        with known.lock:
            age_s = time.monotonic() - known.started_at
            if known.evidence is not None and age_s < _INTERVAL_S:
                harmless = known.evidence.answer is not Answer.EXITED
                if not subject.fresh or harmless or known.started_at >= asked_at:
                    return known.evidence
                self._closing.wait(_INTERVAL_S - age_s)
            if self._closing.is_set():
                return Evidence(self.name, Answer.UNKNOWN, "we are stopping")
            known.started_at = time.monotonic()
            known.evidence = self._run(subject)
            return known.evidence

    def close(self) -> None:
        """Kill what runs; every question from now on is answered UNKNOWN. May be called more than once."""
        if not self._closing.is_set():
            self._closing.set()
            os.write(self._wake_write, b"x")  # never read: it wakes all who wait, now and later

    def _known_of(self, path: str) -> _Known:
        with self._lock:
            known = self._known.setdefault(path, _Known())
            self._known.move_to_end(path)
            while len(self._known) > _MOST_DATABASES:
                self._known.popitem(last=False)
            return known

    def _run(self, subject: Subject) -> Evidence:
        argv = [expand(template, subject.session) for template in self._settings.argv]
        shown = printable(os.path.basename(argv[0]))
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment = {**kept, "JOURNAL_WATCHER_DATABASE": subject.path}
        try:
            with _started(argv, self._cwd, environment) as child:
                output, ended = self._follow(child)
        except OSError as error:
            why = (error.strerror or "cannot be run").lower()
            return Evidence(self.name, Answer.UNKNOWN, f"{shown} does not start: {why}")
        words = _first_line(output)
        said = f": {words}" if words else ""
        if not ended:
            why = "we are stopping" if self._closing.is_set() else f"no answer within {self._settings.timeout:g} s"
            return Evidence(self.name, Answer.UNKNOWN, f"{shown}: {why}{said}")
        answers = {0: (Answer.ALIVE, "the owner is alive"), 1: (Answer.EXITED, "the owner has exited")}
        how = f"killed by signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        answer, meaning = answers.get(child.returncode, (Answer.UNKNOWN, "no answer"))
        return Evidence(self.name, answer, f"{shown}: {how}, {meaning}{said}")

    def _follow(self, child: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
        """Its output, up to a bound, and whether it has ended by itself within the time-out."""
        assert child.stdout is not None
        deadline = time.monotonic() + self._settings.timeout
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
                if left <= 0 or self._closing.is_set():
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
def _started(argv: list[str], cwd: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [*_tied_to_us(), *argv],
        stdin=subprocess.DEVNULL,
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
