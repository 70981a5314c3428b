"""Commands by processes that are forked from one that has loaded the package: to load it takes ten times as long as
what most commands do then.

Each is a process of its own, with its arguments, environment, directory and streams, and ends as the interpreter ends.
What a command is from its first instruction on, is seen where a test gives it an environment of its own, or starts it
by itself: `tests.running` has those executed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

__all__ = ["Prepared"]

_SOURCE = Path(__file__).parent.parent
_COMMAND = _SOURCE / "watcher" / "__main__.py"
_LOADED = (
    "watcher.checks",
    "watcher.cli",
    "watcher.console",
    "watcher.installation",
    "watcher.once",
    "watcher.owner_checks",
    "watcher.records.history",
    "watcher.records.status",
    "watcher.terminal",
)
_REQUEST_BYTES = 1 << 17


class Prepared:
    """A process that has loaded the package, and waits for commands to run. It ends when nobody holds its socket."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-m", "tests.prepared", str(theirs.fileno())]
            self._process = subprocess.Popen(argv, cwd=_SOURCE, pass_fds=[theirs.fileno()], start_new_session=True)

    def run(self, argv: Sequence[str], cwd: Path | None, deadline_s: float) -> subprocess.CompletedProcess[str] | None:
        """Run a command to its end, as `subprocess.run` would with its output captured as text.

        Returns:
            None where another thread's command runs.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time; it is killed.
        """
        if not self._turn.acquire(blocking=False):
            return None
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                status = self._ask(argv, cwd or Path.cwd(), (out.fileno(), err.fileno()), deadline_s)
            finally:
                self._turn.release()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(list(argv), status, out.read(), err.read())

    def _ask(self, argv: Sequence[str], cwd: Path, streams: Sequence[int], deadline_s: float) -> int:
        request = {"argv": argv, "cwd": str(cwd), "environ": dict(os.environ), "umask": _umask()}
        self._asked.settimeout(deadline_s)
        socket.send_fds(self._asked, [json.dumps(request).encode()], list(streams))
        try:
            return int(self._asked.recv(16))
        except TimeoutError:
            self.close()
            self._start()
            raise subprocess.TimeoutExpired(list(argv), deadline_s) from None

    def close(self) -> None:
        """Kill it, and the command that it runs."""
        self._asked.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _serve(asked: socket.socket) -> None:
    """Run what comes; a process of its own comes back from here as the command that it is to be."""
    while True:
        request, streams, _, _ = socket.recv_fds(asked, _REQUEST_BYTES, 2)
        if not request:
            os._exit(0)
        if (pid := os.fork()) == 0:
            asked.close()
            _become(json.loads(request), streams)
            return
        for descriptor in streams:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        asked.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, object], streams: Sequence[int]) -> None:
    for number, descriptor in enumerate(streams, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    argv, environ, umask = request["argv"], request["environ"], request["umask"]
    assert isinstance(argv, list)
    assert isinstance(environ, dict)
    assert isinstance(umask, int)
    sys.argv[:] = [str(_COMMAND), *argv]
    os.environ.clear()
    os.environ.update(environ)
    os.umask(umask)
    os.chdir(str(request["cwd"]))


def _load() -> None:
    for name in _LOADED:
        import_module(name)
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork takes no other thread along"


if __name__ == "__main__":
    from watcher.cli import main

    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    main()
