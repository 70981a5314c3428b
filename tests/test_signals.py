"""Signals reach us whatever the main thread is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import DEADLINE_S, Runner
from watcher.first_signals import is_service

BUSY = """
import hashlib, os, signal
from watcher.signals import Signals
signals = Signals([signal.SIGTERM, signal.SIGHUP], lambda number: os._exit(100 + number))
{before}
signals.start()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # for half an hour, and no handler of Python's is called meanwhile
"""


def exit_status(*sent: int, before: str = "") -> int:
    argv = [sys.executable, "-c", BUSY.format(before=before)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if sent:
                assert process.stdout.readline() == b"ready\n"
            for number in sent:
                process.send_signal(number)
            return process.wait(20)
        finally:
            process.kill()


def test_a_signal_is_told_while_the_main_thread_listens_to_nothing() -> None:
    assert exit_status(signal.SIGTERM) == 100 + signal.SIGTERM


def test_a_signal_that_came_before_the_start_is_told() -> None:
    assert exit_status(before="os.kill(os.getpid(), signal.SIGHUP)") == 100 + signal.SIGHUP


def test_other_signals_are_none_of_it() -> None:
    before = "signal.signal(signal.SIGUSR1, lambda number, frame: None)"
    assert exit_status(signal.SIGUSR1, signal.SIGTERM, before=before) == 100 + signal.SIGTERM


HELD_UP = """
import signal, sys
print("loading", flush=True)
sys.stdin.readline()
sys.path.remove({directory!r})
del sys.modules["loguru"]
import loguru
"""


class Loading:
    """A command that waits in the first import that takes time, until it is let go."""

    def __init__(self, directory: Path, *argv: str) -> None:
        (directory / "loguru.py").write_text(HELD_UP.format(directory=str(directory)))
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(directory)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"loading\n"

    def ends(self, *numbers: int) -> tuple[int, bytes]:
        """Send these signals, and let it go on; its status and what it has said to a person."""
        for number in numbers:
            self.process.send_signal(number)
        _, told = self.process.communicate(b"\n", timeout=DEADLINE_S)
        return self.process.returncode, told


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Callable[..., Loading]]:
    begun: list[Loading] = []

    def load(*argv: str) -> Loading:
        begun.append(Loading(tmp_path, *argv))
        return begun[-1]

    yield load
    for each in begun:
        each.process.kill()
        each.process.communicate()


MODULE = (sys.executable, "-m", "watcher")
SCRIPT = (sys.executable, str(Path(sys.executable).with_name("journal-watcher")))


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_still_loading_ends_with_status_zero(
    loading: Callable[..., Loading], command: tuple[str, ...], number: int
) -> None:
    assert loading(*command, "run").ends(number) == (0, b"")


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
def test_what_is_for_the_service_alone_does_not_end_it_while_it_loads(
    loading: Callable[..., Loading], command: tuple[str, ...], tmp_path: Path
) -> None:
    status, told = loading(*command, "run", "-c", str(tmp_path / "none.yaml")).ends(signal.SIGHUP, signal.SIGUSR1)
    assert status == 2
    assert b"there is no such file" in told


def test_a_reload_that_is_asked_for_while_it_loads_is_done(loading: Callable[..., Loading], runner: Runner) -> None:
    service = loading(*MODULE, "run", "-c", str(runner.settings))
    service.process.send_signal(signal.SIGHUP)
    assert service.process.stdin is not None
    service.process.stdin.write(b"\n")
    service.process.stdin.flush()
    assert service.process.stderr is not None
    assert any(b'"event": "reloaded"' in line for line in service.process.stderr)
    assert service.ends(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_commands_are_ended_by_signals_as_ever(loading: Callable[..., Loading], number: int) -> None:
    assert loading(*MODULE, "scan").ends(number)[0] == -number


@pytest.mark.parametrize(
    ("argv", "original", "is_it"),
    [
        (["/x/bin/journal-watcher", "run"], ["python", "/x/bin/journal-watcher", "run"], True),
        (["-m", "run", "-c", "x"], ["python", "-I", "-m", "watcher", "run", "-c", "x"], True),
        (["-m", "run"], ["python", "-mwatcher", "run"], True),
        (["-m", "run"], ["python", "-m", "host", "run"], False),
        (["/x/bin/journal-watcher", "scan", "run"], ["python", "/x/bin/journal-watcher", "scan", "run"], False),
        (["host", "run"], ["python", "host", "run"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_only_run_takes_signals_early(argv: list[str], original: list[str], is_it: bool) -> None:
    assert is_service(argv, original) is is_it
