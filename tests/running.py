"""The real service and the real commands, in processes of their own, on a tree of the test's."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.prepared import Prepared

DEADLINE_S = 40.0
"""Far more than anything here takes on a machine with other things to do."""


WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")

T = TypeVar("T")


def wait_until(what: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Ask until the answer is true."""
    until = time.monotonic() + deadline_s
    while not (answer := what()):
        assert time.monotonic() < until, f"not within {deadline_s} s"
        time.sleep(0.002)
    return answer


_PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that is given to nobody else: neither by another worker, nor by
    the kernel to a connection (those are above 32768, ip_local_port_range in ip(7))."""
    while True:
        port = next(_PORTS)
        with closing(socket.socket()) as asked, suppress(OSError):
            asked.bind(("127.0.0.1", port))
            return port


class Service:
    """`journal-watcher run`, its log as JSON lines."""

    def __init__(self, settings: Path, environ: Mapping[str, str], argv: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*(argv or (sys.executable, "-m", "watcher")), "run", "-c", str(settings)],
            stderr=subprocess.PIPE,
            env={**os.environ, **environ},
            text=True,
        )
        self._changed = threading.Condition()
        self._lines: list[dict[str, Any]] = []  # guarded by _changed, like the next one
        self._ended = False
        self.raw: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.raw.append(line)
                if line.startswith("{"):
                    self._lines.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log lines so far, of one event or all."""
        with self._changed:
            return [each for each in self._lines if name in {None, each["event"]}]

    def wait_for(
        self, name: str, *, database: Path | str | None = None, count: int = 1, deadline_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Wait for the `count`-th line of an event (about a database, where one is named), and return it."""

        def found() -> list[dict[str, Any]]:
            wanted = None if database is None else str(database)
            return [
                each
                for each in self._lines
                if each["event"] == name and (wanted is None or each.get("database") == wanted)
            ]

        with self._changed:
            came = self._changed.wait_for(lambda: len(found()) >= count or self._ended, deadline_s)
            told = "".join(self.raw[-30:])
            assert came, f"no {name} within {deadline_s} s:\n{told}"
            assert len(found()) >= count, f"the service has ended without {name}:\n{told}"
            return found()[count - 1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, deadline_s: float = DEADLINE_S) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        return status

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stderr is not None:
            self.process.stderr.close()


class Runner:
    """A directory with a tree and a settings file.

    Attributes:
        root: the tree.
        settings: the settings file; written by :meth:`configure`.
        state: the state directory.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory / "tree"
        self.root.mkdir()
        self.settings = directory / "settings.yaml"
        self.state = directory / "state"
        self._services: list[Service] = []
        self.configure()

    def configure(self, **sections: object) -> None:
        """Write the settings: log as JSON at DEBUG, no layout, and what the test wants otherwise."""
        tree = {"root": str(self.root)} | _mapping(sections.pop("tree", {}))
        log = {"level": "DEBUG", "json": True} | _mapping(sections.pop("log", {}))
        told = {"state_dir": str(self.state), "tree": tree, "log": log} | sections
        self.settings.write_text(yaml.safe_dump(told), encoding="utf-8")

    def start(
        self, *, environ: Mapping[str, str] | None = None, wait: str | None = "sweep", argv: tuple[str, ...] = ()
    ) -> Service:
        """Start the service, and wait for its first line of this event."""
        service = Service(self.settings, environ or {}, argv)
        self._services.append(service)
        if wait is not None:
            service.wait_for(wait)
        return service

    def command(
        self,
        *arguments: str | Path,
        environ: Mapping[str, str] | None = None,
        deadline_s: float = 60.0,
        unprivileged: bool = False,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of journal-watcher with these settings to its end.

        Args:
            unprivileged: without root's power over files of others: they are then as shut to it as to any user.
        """
        name, *rest = map(str, arguments)
        argv = [name, "-c", str(self.settings), *rest]
        if environ is None and not unprivileged and sys.platform == "linux":
            done = _prepared().run(argv, cwd, deadline_s)
            if done is not None:
                return done
        return subprocess.run(
            [*(WITHOUT_PRIVILEGES if unprivileged else ()), sys.executable, "-m", "watcher", *argv],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
            env={**os.environ, **(environ or {})},
            cwd=cwd,
        )

    def json(self, *arguments: str | Path, unprivileged: bool = False) -> Any:
        """Run a command with --json; what it prints."""
        done = self.command(*arguments, "--json", unprivileged=unprivileged)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        for service in self._services:
            service.close()


@cache
def _prepared() -> Prepared:
    """One for all tests of a worker."""
    return Prepared()


def _mapping(section: object) -> dict[str, object]:
    assert isinstance(section, dict)
    return section
