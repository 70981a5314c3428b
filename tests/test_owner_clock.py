"""The clocks: the time of the boot, and a wall clock that is set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from watcher.owner import elsewhere
from watcher.owner.clock import STEP_NS, WallClock, boot_time_ns

BOOT = 1_700_000_000 * 10**9
SECOND = 10**9


class Measured:
    """A clock that shows what it is told to."""

    def __init__(self) -> None:
        self.boot_ns = BOOT

    def __call__(self) -> int:
        return self.boot_ns


@pytest.fixture
def measured() -> Measured:
    return Measured()


# --- the time of the boot ---


def test_the_boot_time_is_the_kernels() -> None:
    # /proc/stat has it in whole seconds, rounded down.
    assert abs(boot_time_ns() - elsewhere.boot_time_ns()) < 1.5e9


def test_the_boot_time_stays_what_it_is() -> None:
    readings = [boot_time_ns() for _ in range(2000)]
    assert max(readings) - min(readings) < SECOND / 20


READINGS = """
import time
from watcher.owner.clock import boot_time_ns
print("ready", flush=True)
until = time.monotonic() + 0.8
readings = [boot_time_ns()]
while time.monotonic() < until:
    readings.append(boot_time_ns())
print(max(readings) - min(readings))
"""


def test_a_process_that_is_put_to_sleep_between_two_readings_sees_no_step() -> None:
    """A paused machine, a laptop that is closed: here SIGSTOP."""
    with subprocess.Popen([sys.executable, "-c", READINGS], stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == "ready\n"
        pidfd = os.pidfd_open(reading.pid)
        for _ in range(30):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            time.sleep(0.02)  # what is measured is whether this shows
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            time.sleep(0.002)
        spread_ns = int(reading.stdout.read())
        os.close(pidfd)
    assert spread_ns < 15_000_000


IN_A_NAMESPACE = """
import json, os, time
from watcher.owner.clock import boot_time_ns
from watcher.owner.processes import process_of
process = process_of(os.getpid())
print(json.dumps([boot_time_ns(), process.started_ns, time.time_ns()]))
"""


def test_a_time_namespace_is_no_step_between_the_clock_and_the_starts_of_processes() -> None:
    """A container's CLOCK_BOOTTIME may have an offset (time_namespaces(7)), and /proc follows it."""
    unshared = ["unshare", "--time", "--fork", "--boottime", "1000000", sys.executable, "-c", IN_A_NAMESPACE]
    done = subprocess.run(unshared, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no time namespace can be made here: {done.stderr.strip()}")
    boot, started, now = json.loads(done.stdout)
    assert abs(boot_time_ns() - boot - 1_000_000 * SECOND) < SECOND
    assert 0 <= now - started < 20 * SECOND


# --- steps ---


def test_a_clock_that_was_never_set_has_not_stepped(measured: Measured) -> None:
    clock = WallClock(measure=measured)
    assert not clock.has_stepped()
    assert clock.boot_ns() == BOOT


@pytest.mark.parametrize("by", [3600 * SECOND, -3600 * SECOND, STEP_NS + 1, -STEP_NS - 1])
def test_a_step_is_noticed_in_either_direction(measured: Measured, by: int) -> None:
    clock = WallClock(measure=measured)
    measured.boot_ns += by
    assert clock.has_stepped()


@pytest.mark.parametrize("by", [STEP_NS, -STEP_NS, 3_000_000])
def test_what_disturbs_no_comparison_is_no_step(measured: Measured, by: int) -> None:
    clock = WallClock(measure=measured)
    measured.boot_ns += by
    assert not clock.has_stepped()


def test_a_step_that_was_taken_back_is_remembered(measured: Measured) -> None:
    clock = WallClock(measure=measured)
    measured.boot_ns += 60 * SECOND
    assert clock.has_stepped()
    measured.boot_ns = BOOT
    assert clock.has_stepped()


def test_many_small_steps_make_a_big_one(measured: Measured) -> None:
    clock = WallClock(measure=measured)
    for _ in range(4):
        measured.boot_ns += SECOND // 2
        stepped = clock.has_stepped()
    assert stepped


def test_a_step_between_two_runs_is_noticed(measured: Measured) -> None:
    assert WallClock((BOOT - 60 * SECOND,), measure=measured).has_stepped()
    assert not WallClock((BOOT, BOOT + 1000), measure=measured).has_stepped()


def test_the_boot_time_to_compare_with_is_the_earliest_that_was_seen(measured: Measured) -> None:
    clock = WallClock((BOOT - SECOND,), measure=measured)
    measured.boot_ns = BOOT - 3600 * SECOND
    assert clock.boot_ns() == BOOT - 3600 * SECOND
    measured.boot_ns = BOOT + 3600 * SECOND
    assert clock.boot_ns() == BOOT - 3600 * SECOND
    assert clock.bounds() == (BOOT - 3600 * SECOND, BOOT + 3600 * SECOND)
