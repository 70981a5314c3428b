"""What an agent may write for the probes to read, and the locks it may hold: it deceives nobody but about itself."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import Host, only_rolled_back
from tests.pairs import READERS_LOCK, holding
from tests.running import Runner
from tests.writers import CrashedPair
from watcher.decision import Decision
from watcher.owner.testimony import Answer
from watcher.records.record import Outcome


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def a_link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def an_endless_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making devices wants root")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def a_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": a_socket,
    "a directory": Path.mkdir,
    "a device": an_endless_device,
    "a link to /dev/zero": a_link_to("/dev/zero"),
    "a link to a file of the host": a_link_to("/etc/passwd"),
    "a link to itself": a_link_to(".writer.pid"),
    "a dangling link": a_link_to("/nowhere"),
    "10,000 digits": text("1" * 10_000),
    "a negative number": text("-1"),
    "zero": text("0"),
    "too large a number": text("4294967296"),
    "digits of another script": text("\u0661\u0662"),
    "a number with a NUL": text("1\0"),
    "nothing": text(""),
    "a terabyte": a_huge_file,
    "deep JSON": text("{" * 500),
    "JSON of lists": text('{"pid": [1]}'),
    "JSON of a truth": text('{"pid": true}'),
    "JSON of a huge number": text('{"pid": 1e400}'),
    "JSON that is no object": text("{}"),
    "ticks of text": text('{"pid": 1, "start_ticks": "x"}'),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pid_file_says_that_nobody_lives_and_nobody_has_died(host: Host, what: str) -> None:
    host.configure(owner={"pid_file": ".writer.pid", "locks": "off"})
    database = host.crash()
    HOSTILE[what](host.root / ".writer.pid")
    with only_rolled_back(host.root):
        finding = host.find(database)
        assert finding.decision is Decision.HOLD
        assert finding.judgement is not None
        for evidence in finding.judgement.evidence:
            assert evidence.answer in {Answer.UNKNOWN, Answer.SILENT}
            assert evidence.detail.isprintable()
            assert len(evidence.detail) < 500


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_heartbeat_makes_nobody_wait(host: Host, what: str) -> None:
    host.configure(owner={"heartbeat": {"file": ".writer.pid", "max_age": "10s"}})
    database = host.crash()
    HOSTILE[what](host.root / ".writer.pid")
    began = time.monotonic()
    finding = host.find(database)
    assert time.monotonic() - began < 30  # a FIFO that is opened would wait for ever
    assert finding.decision in {Decision.RECOVER, Decision.WAIT}
    assert finding.judgement is not None
    assert all(evidence.detail.isprintable() for evidence in finding.judgement.evidence)


@pytest.mark.parametrize("offset_s", [10**9, 10**5, -(10**9)])
def test_a_heartbeat_of_the_future_or_of_long_ago_keeps_nobody_alive(host: Host, offset_s: int) -> None:
    host.configure(owner={"heartbeat": {"file": ".heartbeat", "max_age": "10s"}})
    database = host.crash()
    heartbeat = host.root / ".heartbeat"
    heartbeat.touch()
    os.utime(heartbeat, (time.time() + offset_s, time.time() + offset_s))
    assert host.find(database).decision is Decision.RECOVER


def test_a_pid_file_that_names_a_process_of_the_host_keeps_only_its_own_database(host: Host) -> None:
    host.configure(owner={"pid_file": ".writer.pid"})
    hostile, neighbour = host.crash("a/outbound.db"), host.crash("b/outbound.db")
    (hostile.parent / ".writer.pid").write_text("1", encoding="ascii")
    assert host.outcome_of(neighbour) is Outcome.RECOVERED
    assert host.find(hostile).decision in {Decision.WAIT, Decision.RECOVER}


def test_a_directory_on_the_way_to_the_pid_file_that_is_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    host.configure(owner={"pid_file": "run/writer.pid", "locks": "off"})
    database = host.crash()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "writer.pid").write_text("999999999", encoding="ascii")
    (host.root / "run").symlink_to(elsewhere, target_is_directory=True)
    assert host.find(database).decision is Decision.HOLD


# --- locks ---


def test_a_writers_lock_that_is_held_by_somebody_else_keeps_only_its_own_database(host: Host) -> None:
    hostile, neighbour = host.crash("a/outbound.db"), host.crash("b/outbound.db")
    with holding(hostile, ("F_WRLCK", 0x40000001, 1)):
        assert host.outcome_of(hostile) is Outcome.WAITING
        assert host.outcome_of(neighbour) is Outcome.RECOVERED


def test_readers_of_many_hot_databases_tie_up_no_worker(runner: Runner, crashed: CrashedPair) -> None:
    """A rollback waits for every reader; a process that reads many databases at once must not make all workers wait."""
    runner.configure(recovery={"busy_timeout": "10m", "workers": 2})
    hostile = [crashed.put(runner.root / f"hostile-{number}" / "outbound.db") for number in range(40)]
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD_MANY, *map(str, hostile)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        service = runner.start(wait=None)
        for number in range(10):
            neighbour = crashed.put(runner.root / f"neighbour-{number}" / "outbound.db")
            service.wait_for("recovered", database=neighbour)
        assert not any(service.events("recovered")[number]["database"].count("hostile") for number in range(10))
    finally:
        holder.communicate("")
    for database in hostile:
        service.wait_for("recovered", database=database)


_HOLD_MANY = """
import fcntl, os, struct, sys
for path in sys.argv[1:]:
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0x40000002, 510, 0)
    fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_SETLK, lock)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_is_taken_whenever_we_open_ties_up_no_worker(runner: Runner, crashed: CrashedPair) -> None:
    """A process sees our open by inotify, and takes a reader's lock between our question and SQLite's."""
    runner.configure(recovery={"busy_timeout": "10m", "workers": 2, "snapshot": None})
    hostile = [crashed.put(runner.root / f"hostile-{number}" / "outbound.db") for number in range(6)]
    snatcher = subprocess.Popen(
        [sys.executable, "-c", _SNATCH, *map(str, hostile)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert snatcher.stdout is not None
        assert snatcher.stdout.readline() == "ready\n"
        service = runner.start(wait=None)
        for number in range(10):
            neighbour = crashed.put(runner.root / f"neighbour-{number}" / "outbound.db")
            service.wait_for("recovered", database=neighbour)
    finally:
        snatcher.kill()
        snatcher.communicate()
    for database in hostile:
        service.wait_for("recovered", database=database)


_SNATCH = """
import ctypes, fcntl, os, struct, sys
libc = ctypes.CDLL(None)
IN_OPEN = 0x20
watch = libc.inotify_init()
files = {}
for path in sys.argv[1:]:
    descriptor = os.open(path, os.O_RDWR)
    files[libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN)] = descriptor
print("ready", flush=True)
def lock(descriptor, kind):
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, 0x40000002, 510, 0))
    except OSError:
        pass  # the rollback was faster
while True:
    data = os.read(watch, 65536)
    while data:
        number, _, _, length = struct.unpack("iIII", data[:16])
        data = data[16 + length:]
        lock(files[number], fcntl.F_UNLCK)
        lock(files[number], fcntl.F_RDLCK)
"""


def test_a_reader_that_stays_is_named(host: Host) -> None:
    host.configure(recovery={"busy_timeout": 0})
    database = host.crash()
    with holding(database, READERS_LOCK) as holder:
        record = host.recover(database)[0].record
    assert (record.outcome, record.error) == (Outcome.BUSY, f"pid {holder.pid} is reading it")
