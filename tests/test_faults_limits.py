"""What the kernel refuses us for a while: descriptors, and threads."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.crashlab.sessions import Bytes
from tests.faults import AS_NOBODY, HEALS_WITHIN_S, SWEEP_S, assert_heals, configure
from tests.running import DEADLINE_S, Runner, Service, wait_until
from tests.test_faults_tree import NOBODY, give, nobodys
from tests.writers import CrashedPair

__all__ = ["nobodys"]


@contextmanager
def few_descriptors(service: Service, spare: int) -> Iterator[None]:
    """The service may open so many files more, and no others."""
    pid = service.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def no_threads(service: Service) -> Iterator[None]:
    """The service (`AS_NOBODY`) is refused new threads and processes from here on."""
    before = _most_processes(service)
    service.signal(signal.SIGUSR2)
    wait_until(lambda: _most_processes(service) != before)  # the main thread may be slow to take it
    try:
        yield
    finally:
        service.signal(signal.SIGUSR2)


def _most_processes(service: Service) -> str:
    limits = Path(f"/proc/{service.process.pid}/limits").read_text(encoding="ascii").splitlines()
    return next(line for line in limits if line.startswith("Max processes"))


@pytest.mark.parametrize("spare", [0, 1, 2, 4])
def test_without_descriptors_what_cannot_be_done_is_told_once_and_done_later(
    runner: Runner, crashed: CrashedPair, spare: int
) -> None:
    configure(runner)
    service = runner.start()
    with few_descriptors(service, spare):
        database = crashed.put(runner.root / "s1" / "outbound.db")
        # With the last of them that are spare a recovery may come through: then there is no trouble to tell.
        wait_until(lambda: troubles(service) or (spare >= 4 and service.events("recovered")))
        time.sleep(4 * SWEEP_S)  # in which nothing may be told again
        assert set(troubles(service).values()) <= {1}, troubles(service)
        assert_untouched_or_recovered(database, crashed)
    assert_heals(service, database, crashed)
    assert service.stop() == 0


def test_a_process_that_was_one_too_many_to_be_watched_is_watched_later(runner: Runner, crashed: CrashedPair) -> None:
    """A quarter of the descriptors is for them."""
    configure(runner, owner={"locks": "off", "pid_file": ".writer.pid"})
    service = runner.start()
    pid = service.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (80, before[1]))
    owners = [subprocess.Popen(["sleep", "1000"]) for _ in range(21)]
    try:
        for number, owner in enumerate(owners):
            database = runner.root / f"s{number}" / "outbound.db"
            database.parent.mkdir()
            (database.parent / ".writer.pid").write_text(str(owner.pid))
            crashed.put(database)
        wait_until(lambda: pidfds(pid) == 20)
        wait_until(lambda: runner.json("status")["journals"]["waiting"] == 21)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: pidfds(pid) == 21)
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
    wait_until(lambda: pidfds(pid) == 0)
    assert service.stop() == 0


def pidfds(pid: int) -> int:
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(each) == "anon_inode:[pidfd]"
    return count


def troubles(service: Service) -> Counter[str]:
    """What was told about descriptors, with the number of times; the name of a file may differ."""
    return Counter(
        re.sub(r"\S*/", "", each["message"])
        for each in service.events()
        if each["level"] in {"WARNING", "ERROR"} and "open file" in each["message"]
    )


def assert_untouched_or_recovered(database: Path, crashed: CrashedPair) -> None:
    either = {Bytes(crashed.database, crashed.journal), Bytes(crashed.recovered, None)}
    wait_until(lambda: Bytes.of(database) in either)  # it may be at it just now


def test_without_threads_a_root_that_is_back_is_watched_later(nobodys: Runner, crashed: CrashedPair) -> None:
    configure(nobodys)
    service = nobodys.start(argv=AS_NOBODY)
    descriptors = open_files(service)
    with no_threads(service):
        nobodys.root.rename(nobodys.root.with_name("away"))
        service.wait_for("root_missing")
        nobodys.root.mkdir()
        database = crashed.put(nobodys.root / "s1" / "outbound.db")
        give(database, NOBODY)
        assert "no thread" in service.wait_for("root_missing", count=2)["message"]
        time.sleep(4 * SWEEP_S)
        assert len(service.events("root_missing")) == 2
        assert_heals(service, database, crashed)  # by the sweep
    service.wait_for("root_back", deadline_s=HEALS_WITHIN_S)
    wait_until(lambda: open_files(service) <= descriptors)
    assert service.stop() == 0


def test_a_reload_without_threads_changes_nothing(nobodys: Runner, crashed: CrashedPair) -> None:
    configure(nobodys)
    service = nobodys.start(argv=AS_NOBODY)
    with no_threads(service):
        configure(nobodys, recovery={"workers": 2})
        service.signal(signal.SIGHUP)
        message = service.wait_for("settings_rejected")["message"]
        assert "the kernel gives us no threads for them: raise our limit of them" in message
        database = crashed.put(nobodys.root / "s1" / "outbound.db")
        give(database, NOBODY)
        service.wait_for("recovered", database=database)
    service.signal(signal.SIGHUP)
    assert "recovery" in service.wait_for("reloaded")["message"]
    assert service.stop() == 0


def test_a_start_without_threads_ends_with_what_to_do(nobodys: Runner) -> None:
    configure(nobodys)
    service = nobodys.start(argv=AS_NOBODY, environ={"NO_THREADS": "1"}, wait=None)
    assert service.process.wait(DEADLINE_S) == 1
    service.stop()
    (told,) = [line for line in service.raw if not line.startswith("{")]
    assert told.startswith("journal-watcher: the kernel gives us no more threads: raise our limit of them")


def test_without_processes_a_verification_is_told_to_be_missing(nobodys: Runner, crashed: CrashedPair) -> None:
    configure(nobodys, recovery={"verify": "quick"})
    service = nobodys.start(argv=AS_NOBODY)
    with no_threads(service):
        database = crashed.put(nobodys.root / "s1" / "outbound.db")
        give(database, NOBODY)
        assert_heals(service, database, crashed)
        assert "could not be done" in service.wait_for("verify_failed", database=database)["message"]
    assert service.stop() == 0


def open_files(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))
