"""The pid file probe: real processes, and every kind of thing that may lie where a pid should."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import subject_of
from tests.running import wait_until
from tests.test_owner_processes import WAITING, running, state_of
from watcher.owner.clock import WallClock, boot_time_ns
from watcher.owner.pid_file import PidFileProbe
from watcher.owner.processes import process_of
from watcher.owner.testimony import Answer, Evidence

SECOND = 10**9


@pytest.fixture
def database(tmp_path: Path) -> Path:
    session = tmp_path / "group" / "session"
    session.mkdir(parents=True)
    made = session / "outbound.db"
    made.touch()
    return made


@pytest.fixture
def pid_file(database: Path) -> Path:
    return database.parent / ".writer.pid"


def ask(database: Path, pattern: str = ".writer.pid", clock: WallClock | None = None) -> Evidence:
    probe = PidFileProbe(pattern, clock or WallClock())
    with subject_of(database, {"session": "session", "up": ".."}) as subject:
        return probe.ask(subject)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def aged(file: Path, moment_ns: int) -> Path:
    """The file, last written at this moment."""
    os.utime(file, ns=(moment_ns, moment_ns))
    return file


# --- the process ---


def test_a_process_that_runs_is_alive(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        pid_file.write_text(f"{process.pid}")
        evidence = ask(database)
        assert (evidence.answer, evidence.pid) == (Answer.ALIVE, process.pid)
        assert evidence.detail == f".writer.pid names pid {process.pid}, which runs"


def test_a_process_that_is_gone_has_exited(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        pid_file.write_text(f"{process.pid}")
        process.kill()
        process.wait()
        evidence = ask(database)
    assert (evidence.answer, evidence.pid) == (Answer.EXITED, None)


def test_a_zombie_has_exited(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        pid_file.write_text(f"{process.pid}")
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        assert ask(database).answer is Answer.EXITED


def test_a_process_that_started_up_to_two_seconds_after_the_file_is_its_writer(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        pid_file.write_text(f"{process.pid}")
        found = process_of(process.pid)
        assert found is not None
        aged(pid_file, found.started_ns - 1900 * 10**6)
        assert ask(database).answer is Answer.ALIVE


def test_a_process_that_started_later_is_another_one_with_a_reused_pid(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        pid_file.write_text(f"{process.pid}")
        found = process_of(process.pid)
        assert found is not None
        aged(pid_file, found.started_ns - 2100 * 10**6)
        evidence = ask(database)
    assert evidence.answer is Answer.EXITED
    assert "another process by now" in evidence.detail


def test_the_ticks_of_its_start_tell_a_process_from_the_next_one_of_that_pid(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        found = process_of(process.pid)
        assert found is not None
        assert found.start_ticks is not None
        pid_file.write_text(json.dumps({"pid": process.pid, "start_ticks": found.start_ticks}))
        assert ask(database).answer is Answer.ALIVE
        pid_file.write_text(json.dumps({"pid": process.pid, "start_ticks": found.start_ticks - 1}))
        assert ask(database).answer is Answer.EXITED


def test_the_ticks_count_whatever_the_file_was_written_at(database: Path, pid_file: Path) -> None:
    with running(WAITING) as process:
        found = process_of(process.pid)
        assert found is not None
        pid_file.write_text(json.dumps({"pid": process.pid, "start_ticks": found.start_ticks}))
        aged(pid_file, found.started_ns - 60 * SECOND)
        assert ask(database).answer is Answer.ALIVE


# --- the clock ---


def stepped_clock() -> WallClock:
    return WallClock((boot_time_ns() - 3600 * SECOND,))


def test_after_a_step_of_the_clock_nobody_can_say_whose_pid_it_is(database: Path, pid_file: Path) -> None:
    pid_file.write_text(f"{os.getpid()}")
    evidence = ask(database, clock=stepped_clock())
    assert (evidence.answer, evidence.pid) == (Answer.UNKNOWN, os.getpid())
    assert "the wall clock was set" in evidence.detail


def test_after_a_step_of_the_clock_the_ticks_still_tell(database: Path, pid_file: Path) -> None:
    found = process_of(os.getpid())
    assert found is not None
    assert found.start_ticks is not None
    pid_file.write_text(json.dumps({"pid": os.getpid(), "start_ticks": found.start_ticks}))
    assert ask(database, clock=stepped_clock()).answer is Answer.ALIVE
    pid_file.write_text(json.dumps({"pid": os.getpid(), "start_ticks": found.start_ticks + 1}))
    assert ask(database, clock=stepped_clock()).answer is Answer.EXITED


def test_after_a_step_of_the_clock_a_process_that_is_gone_has_exited(database: Path, pid_file: Path) -> None:
    pid_file.write_text(f"{2**22 + 1}")
    assert ask(database, clock=stepped_clock()).answer is Answer.EXITED


def test_a_file_of_the_boot_before_says_nothing(database: Path, pid_file: Path) -> None:
    pid_file.write_text(f"{os.getpid()}")
    aged(pid_file, boot_time_ns() - 3 * SECOND)
    evidence = ask(database)
    assert evidence.answer is Answer.SILENT
    assert "older than this boot" in evidence.detail


def test_a_file_of_a_boot_that_the_clock_was_set_back_in_is_not_taken_for_older(database: Path, pid_file: Path) -> None:
    pid_file.write_text(f"{2**22 + 1}")
    aged(pid_file, boot_time_ns() - 60 * SECOND)
    assert ask(database, clock=stepped_clock()).answer is Answer.EXITED


# --- what may lie there ---

PID_MAX = 2**31 - 1


@pytest.mark.parametrize(
    "content",
    ["{}", "{}\n", "  {}  \n", "\t{}\r\n", "000{}", '{{"pid": {}}}', ' {{"pid":{},"start_ticks":null,"x":[]}}\n'],
)
def test_a_pid_may_be_written_like_this(database: Path, pid_file: Path, content: str) -> None:
    pid_file.write_text(content.format(os.getpid()))
    evidence = ask(database)
    assert (evidence.answer, evidence.pid) == (Answer.ALIVE, os.getpid())


NO_PIDS = {
    "nothing": b"",
    "blanks": b" \n\t ",
    "zero": b"0",
    "negative": b"-1",
    "signed": b"+1",
    "fraction": b"1.0",
    "hexadecimal": b"0x1",
    "exponent": b"1e0",
    "underscore": b"1_0",
    "two": b"1 1",
    "two-lines": b"1\n1",
    "one-too-big": str(PID_MAX + 1).encode(),
    "10000-digits": b"1" * 10_000,
    "10000-blanks": b" " * 10_000 + b"1",
    "word": b"systemd",
    "no-ascii-digit": "١".encode(),
    "nul": b"1\0",
    "no-utf-8": b"\xff\xfe1",
    "json-number": b"[1]",
    "json-empty": b"{}",
    "json-text": b'{"pid": "1"}',
    "json-null": b'{"pid": null}',
    "json-true": b'{"pid": true}',
    "json-fraction": b'{"pid": 1.0}',
    "json-infinity": b'{"pid": Infinity}',
    "json-zero": b'{"pid": 0}',
    "json-negative": b'{"pid": -1}',
    "json-huge": b'{"pid": ' + b"9" * 400 + b"}",
    "json-10000-digits": b'{"pid": ' + b"9" * 10_000 + b"}",
    "json-list": b'{"pid": [1]}',
    "json-broken": b'{"pid": 1',
    "json-twice": b'{"pid": 1}{"pid": 1}',
    "json-no-utf-8": b'{"pid": 1, "\xff": 1}',
    "json-deep": b'{"pid":' + b"[" * 250 + b"]" * 250 + b"}",
    "json-deeper": b'{"pid":' * 100_000,
    "json-ticks-text": b'{"pid": 1, "start_ticks": "1"}',
    "json-ticks-fraction": b'{"pid": 1, "start_ticks": 1.5}',
    "json-ticks-true": b'{"pid": 1, "start_ticks": true}',
}


@pytest.mark.parametrize("content", NO_PIDS.values(), ids=NO_PIDS)
def test_what_is_no_pid_is_unknown(database: Path, pid_file: Path, content: bytes) -> None:
    pid_file.write_bytes(content)
    evidence = ask(database)
    assert (evidence.answer, evidence.pid) == (Answer.UNKNOWN, None)
    assert evidence.detail.startswith(".writer.pid: ")
    assert evidence.detail.isprintable()


def test_the_greatest_pid_is_one_that_nobody_has(database: Path, pid_file: Path) -> None:
    pid_file.write_text(str(PID_MAX))
    assert ask(database).answer is Answer.EXITED


def test_a_file_of_gigabytes_is_not_read(database: Path, pid_file: Path) -> None:
    with pid_file.open("wb") as file:
        file.truncate(2**40)
    began = time.monotonic()
    assert ask(database).answer is Answer.UNKNOWN
    assert time.monotonic() - began < 5


def make_symlink(path: Path) -> None:
    target = path.parent / "elsewhere"
    target.write_text(str(os.getpid()))
    path.symlink_to(target)


def make_dangling_symlink(path: Path) -> None:
    path.symlink_to("nowhere")


def make_socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")  # the whole path may be too long for a socket
    os.close(directory)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a device wants root")
    os.mknod(path, 0o020600, os.makedev(5, 0))  # /dev/tty


@pytest.mark.parametrize(
    "make",
    [make_symlink, make_dangling_symlink, make_socket, make_device, os.mkfifo, os.mkdir],
    ids=lambda make: make.__name__,
)
def test_what_is_no_plain_file_is_unknown_and_is_not_opened(
    database: Path, pid_file: Path, make: Callable[[Path], None]
) -> None:
    make(pid_file)
    evidence = ask(database)
    assert evidence.answer is Answer.UNKNOWN
    assert "not a plain file" in evidence.detail


# --- where it may lie ---


def test_no_file_says_nothing(database: Path) -> None:
    evidence = ask(database)
    assert (evidence.answer, evidence.detail) == (Answer.SILENT, ".writer.pid: no such file or directory")


def test_no_directory_of_it_says_nothing(database: Path) -> None:
    assert ask(database, "run/.writer.pid").answer is Answer.SILENT


def test_a_file_that_we_may_not_read_says_nothing(database: Path, pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    pid_file.chmod(0)
    probe = PidFileProbe(".writer.pid", WallClock())
    with subject_of(database) as subject, as_nobody():
        evidence = probe.ask(subject)
    assert (evidence.answer, evidence.detail) == (Answer.SILENT, ".writer.pid: permission denied")


def test_a_file_may_lie_in_a_directory_below(database: Path) -> None:
    (database.parent / "run").mkdir()
    (database.parent / "run" / "session.pid").write_text(str(os.getpid()))
    assert ask(database, "run/{session}.pid").answer is Answer.ALIVE


def test_a_linked_directory_is_not_followed(database: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / ".writer.pid").write_text(str(os.getpid()))
    (database.parent / "run").symlink_to(tmp_path / "outside")
    evidence = ask(database, "run/.writer.pid")
    assert (evidence.answer, evidence.pid) == (Answer.UNKNOWN, None)


def test_a_session_that_is_called_dot_dot_leads_nowhere(database: Path) -> None:
    (database.parent.parent / ".writer.pid").write_text(str(os.getpid()))
    evidence = ask(database, "{up}/.writer.pid")
    assert (evidence.answer, evidence.pid) == (Answer.UNKNOWN, None)


def test_an_absolute_path_is_the_operators_and_its_directories_may_be_links(database: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "session.pid").write_text(str(os.getpid()))
    (tmp_path / "link").symlink_to("run")
    assert ask(database, f"{tmp_path}/run/{{session}}.pid").answer is Answer.ALIVE
    assert ask(database, f"{tmp_path}/link/{{session}}.pid").answer is Answer.ALIVE


def test_a_name_of_the_tree_comes_out_as_one_printable_line(database: Path) -> None:
    probe = PidFileProbe("{session}.pid", WallClock())
    with subject_of(database, {"session": "evil\n\x1b[31m"}) as subject:
        assert probe.ask(subject).detail.isprintable()


@pytest.fixture
def no_descriptor_left() -> Iterator[Callable[[], None]]:
    """To be called when everything that the test needs is open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave_none() -> None:
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, before[1]))

    yield leave_none
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_that_we_have_no_descriptor_left_is_not_the_silence_of_a_writer_without_a_pid(
    database: Path, pid_file: Path, no_descriptor_left: Callable[[], None]
) -> None:
    pid_file.write_text(str(os.getpid()))
    probe = PidFileProbe(".writer.pid", WallClock())
    with subject_of(database) as subject:
        no_descriptor_left()
        evidence = probe.ask(subject)
    assert evidence.answer is Answer.UNKNOWN
    assert "too many open files" in evidence.detail


def test_no_descriptor_is_left_open(database: Path, pid_file: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for content in (b"1", b"no pid", b""):
        pid_file.write_bytes(content)
        ask(database)
        ask(database, "run/below/.writer.pid")
    assert count() == before
