"""One process by its pid: live, dead, a zombie, hidden, and of a strange name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.running import wait_until
from watcher.owner import elsewhere
from watcher.owner.processes import process_of


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said `ready`, and is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


WAITING = "print('ready', flush=True); input()"


def state_of(pid: int) -> str:
    """As /proc has it: R, S, Z, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_runs_tells_when_it_started() -> None:
    before = time.time_ns()
    with running(WAITING) as process:
        found = process_of(process.pid)
        assert found is not None
        assert found.start_ticks is not None
        # A tick is 10 ms, and counts from its beginning.
        assert before - 20_000_000 <= found.started_ns <= time.time_ns()
        assert abs(found.started_ns / 1e9 - psutil.Process(process.pid).create_time()) < 1.5


def test_the_start_of_a_process_stays_what_it_is() -> None:
    assert process_of(os.getpid()) is not None
    ticks = {found.start_ticks for _ in range(100) if (found := process_of(os.getpid()))}
    assert len(ticks) == 1


def test_a_process_that_was_waited_for_is_none() -> None:
    with running(WAITING) as process:
        process.kill()
        process.wait()
        assert process_of(process.pid) is None


def test_a_zombie_is_none() -> None:
    with running(WAITING) as process:
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        assert process_of(process.pid) is None


def test_a_stopped_process_lives() -> None:
    with running("import os, signal; print('ready', flush=True); os.kill(os.getpid(), signal.SIGSTOP)") as process:
        wait_until(lambda: state_of(process.pid) == "T")
        assert process_of(process.pid) is not None


FIRST_THREAD_ENDS = """
import ctypes, platform, threading
threading.Thread(target=input).start()
print("ready", flush=True)
exit_of_a_thread = {"x86_64": 60, "aarch64": 93}[platform.machine()]
ctypes.CDLL(None).syscall(exit_of_a_thread, 0)
"""


@pytest.mark.skipif(os.uname().machine not in {"x86_64", "aarch64"}, reason="the number of exit(2) is not known here")
def test_a_process_whose_first_thread_has_ended_looks_like_a_zombie_and_lives() -> None:
    with running(FIRST_THREAD_ENDS) as process:
        wait_until(lambda: state_of(process.pid) == "Z")
        assert process_of(process.pid) is not None
        process.kill()
        wait_until(lambda: process_of(process.pid) is None)


@pytest.mark.parametrize("name", [") Z 1 (", "a b) S", "(((", "\\n) X", "é"])
def test_the_name_of_a_process_cannot_pass_for_its_state(name: str) -> None:
    renamed = f"import pathlib; pathlib.Path('/proc/self/comm').write_text('{name}'); {WAITING}"
    with running(renamed) as process:
        found = process_of(process.pid)
        assert found is not None
        assert abs(found.started_ns / 1e9 - psutil.Process(process.pid).create_time()) < 1.5


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31 - 1])
def test_a_pid_that_nobody_can_have_is_none(pid: int) -> None:
    assert process_of(pid) is None
    assert elsewhere.started_ns(pid) is None


def test_what_other_systems_tell_is_the_same() -> None:
    with running(WAITING) as process:
        found, told_ns = process_of(process.pid), elsewhere.started_ns(process.pid)
        assert found is not None
        assert told_ns is not None
        assert abs(found.started_ns - told_ns) < 1.5e9
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        assert elsewhere.started_ns(process.pid) is None


HIDDEN = """
import os, sys
from watcher.owner.processes import process_of
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
for pid in (int(sys.argv[1]), 2**22 + 1, os.getpid()):
    try:
        print(process_of(pid) is not None)
    except PermissionError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a /proc wants root")
@pytest.mark.parametrize("hidepid", [1, 2])
def test_a_process_that_proc_hides_is_not_taken_for_dead(hidepid: int) -> None:
    with running(WAITING) as process:
        script = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", HIDDEN, str(process.pid)],
            check=False,
            capture_output=True,
            text=True,
        )
        if "mount:" in done.stderr:
            pytest.skip(f"no /proc can be mounted here: {done.stderr.strip()}")
        assert done.stdout.splitlines() == [f"/proc tells us nothing of pid {process.pid}", "False", "True"], (
            done.stderr
        )
