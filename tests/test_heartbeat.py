"""The heartbeat probe: real files, of every kind that an agent may leave there."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines import subject_of
from watcher.owner.heartbeat import HeartbeatProbe
from watcher.owner.testimony import Answer, Evidence
from watcher.settings import HeartbeatSettings


@pytest.fixture
def database(tmp_path: Path) -> Path:
    session = tmp_path / "group" / "session"
    session.mkdir(parents=True)
    made = session / "outbound.db"
    made.write_bytes(b"")
    return made


def ask(database: Path, file: str = ".heartbeat", max_age: float = 10.0) -> Evidence:
    probe = HeartbeatProbe(HeartbeatSettings(file=file, max_age=max_age))
    with subject_of(database, {"session": "session"}) as subject:
        return probe.ask(subject)


def touch(path: Path, age_s: float = 0.0) -> Path:
    path.touch()
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_a_file_touched_a_moment_ago_is_a_heartbeat(database: Path) -> None:
    touch(database.parent / ".heartbeat")
    assert ask(database).answer is Answer.ALIVE


def test_a_file_just_younger_than_the_limit_is_a_heartbeat(database: Path) -> None:
    touch(database.parent / ".heartbeat", age_s=50)
    assert ask(database, max_age=60).answer is Answer.ALIVE


def test_an_old_file_says_nothing(database: Path) -> None:
    touch(database.parent / ".heartbeat", age_s=11)
    evidence = ask(database, max_age=10)
    assert evidence.answer is Answer.SILENT
    assert re.search(r"\b1\d s ago", evidence.detail)


def test_a_missing_file_says_nothing(database: Path) -> None:
    assert ask(database).answer is Answer.SILENT


def test_a_time_in_the_future_says_nothing(database: Path) -> None:
    touch(database.parent / ".heartbeat", age_s=-60)
    assert ask(database).answer is Answer.SILENT


def test_a_clock_that_is_a_little_ahead_does_no_harm(database: Path) -> None:
    touch(database.parent / ".heartbeat", age_s=-0.5)
    assert ask(database).answer is Answer.ALIVE


def make_symlink(path: Path) -> None:
    path.symlink_to(touch(path.parent / "elsewhere"))


def make_socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")  # the whole path may be too long for a socket
    os.close(directory)


@pytest.mark.parametrize("make", [make_symlink, make_socket, os.mkfifo, os.mkdir], ids=lambda make: make.__name__)
def test_what_is_no_plain_file_is_no_heartbeat(database: Path, make: Callable[[Path], None]) -> None:
    make(database.parent / ".heartbeat")
    evidence = ask(database)
    assert evidence.answer is Answer.SILENT
    assert "not a plain file" in evidence.detail


def test_a_file_in_a_directory_below_is_found(database: Path) -> None:
    (database.parent / "run").mkdir()
    touch(database.parent / "run" / "session.beat")
    assert ask(database, "run/{session}.beat").answer is Answer.ALIVE


def test_a_linked_directory_is_not_followed(database: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    touch(outside / ".heartbeat")
    (database.parent / "run").symlink_to(outside)
    assert ask(database, "run/.heartbeat").answer is Answer.SILENT


def test_the_file_may_be_elsewhere_by_an_absolute_path(database: Path, tmp_path: Path) -> None:
    touch(tmp_path / "beat-session")
    assert ask(database, f"{tmp_path}/beat-{{session}}").answer is Answer.ALIVE


def test_a_name_of_the_tree_comes_out_as_one_printable_line(database: Path) -> None:
    probe = HeartbeatProbe(HeartbeatSettings(file="{session}.beat", max_age=1))
    with subject_of(database, {"session": "evil\n\x1b[31m"}) as subject:
        assert probe.ask(subject).detail.isprintable()
