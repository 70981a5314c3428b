"""The status: what the service last said, and whether there is one."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.small_disk import fill, small_disk
from tests.test_state_dir import running_service
from watcher.records import status
from watcher.records.state_dir import StateDir, StateError, StateMissing
from watcher.records.status import Journals, Status, Watch

SAID = Status(
    pid=4711,
    since=datetime(2026, 11, 24, 8, 31, 37, 123_000, tzinfo=UTC),
    instance="nano\nclaw",
    tree="/srv/a\udcff\\x",
    journals=Journals(hot=1, waiting=2, held=3, refused=4),
    recoveries={"recovered": 7, "failed": 1},
    watch=Watch(backend="native", directories=1000, missed=2),
    engine={"reachable": True, "name": "docker"},
    last_sweep=datetime(2026, 11, 24, 8, 32, 7, 5_000, tzinfo=UTC),
)
NEVER_SAID = {
    "running": False,
    "pid": None,
    "since": None,
    "instance": None,
    "tree": None,
    "journals": {"hot": 0, "waiting": 0, "held": 0, "refused": 0},
    "recoveries": {},
    "watch": {"backend": None, "directories": 0, "missed": 0},
    "engine": None,
    "last_sweep": None,
}


def write(state: Path, said: Status = SAID) -> bool:
    with StateDir.open(state) as directory:
        return status.write(directory, said)


def test_the_json_is_the_promised_one() -> None:
    assert SAID.as_json() == {
        "running": False,
        "pid": 4711,
        "since": "2026-11-24T08:31:37.123Z",
        "instance": r"nano\nclaw",
        "tree": r"/srv/a\xff\\x",
        "journals": {"hot": 1, "waiting": 2, "held": 3, "refused": 4},
        "recoveries": {"recovered": 7, "failed": 1},
        "watch": {"backend": "native", "directories": 1000, "missed": 2},
        "engine": {"reachable": True, "name": "docker"},
        "last_sweep": "2026-11-24T08:32:07.005Z",
    }
    assert list(SAID.as_json()) == list(NEVER_SAID)
    assert Status().as_json() == NEVER_SAID


def test_what_a_running_service_said_is_read_to_the_letter(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as service:
        write(tmp_path / "state")
        told = status.read(tmp_path / "state")
        assert told.as_json() == {**SAID.as_json(), "running": True, "pid": service.pid}
        assert (told.instance, told.tree) == (SAID.instance, SAID.tree)


def test_a_killed_service_does_not_run_whatever_its_file_says(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as service:
        write(tmp_path / "state")
        service.send_signal(signal.SIGKILL)
        service.wait(10)
        assert status.read(tmp_path / "state").as_json() == {**SAID.as_json(), "running": False}


def test_the_service_may_read_its_own_status_and_keeps_its_lock(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.lock()
        status.write(state, SAID)
        for _ in range(2):
            told = status.read(state.path)
            assert (told.running, told.pid) == (True, os.getpid())


def test_only_a_change_is_written(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert write(state)
    inode = (state / "status.json").stat().st_ino
    assert not write(state)
    assert (state / "status.json").stat().st_ino == inode
    assert write(state, Status(pid=1))
    (state / "status.json").unlink()
    assert write(state, Status(pid=1))


GARBAGE = {
    "nothing": b"",
    "half a file": json.dumps(SAID.as_json()).encode()[:-40],
    "no JSON": b"\0" * 100,
    "no UTF-8": b'{"pid": 1, "tree": "\xff"}',
    "another JSON": b"[1, 2, 3]",
    "other types": b'{"pid": "many", "journals": 7}',
    "a deep one": b"[" * 60_000,
    "an endless one": b'{"pid": 1, "instance": "' + b"x" * 10_000_000 + b'"}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_of_a_file_that_makes_no_sense_only_the_lock_speaks(tmp_path: Path, name: str) -> None:
    with running_service(tmp_path / "state") as service:
        (tmp_path / "state" / "status.json").write_bytes(GARBAGE[name])
        assert status.read(tmp_path / "state").as_json() == {**NEVER_SAID, "running": True, "pid": service.pid}


def test_a_service_that_has_said_nothing_yet_runs(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as service:
        assert status.read(tmp_path / "state").as_json() == {**NEVER_SAID, "running": True, "pid": service.pid}


def test_a_file_of_an_older_service_lacks_what_it_did_not_know(tmp_path: Path) -> None:
    write(tmp_path / "state")
    (tmp_path / "state" / "status.json").write_text('{"tree": "/srv", "journals": {"hot": 1}, "gone": 1}')
    told = status.read(tmp_path / "state")
    assert (told.tree, told.journals, told.watch) == ("/srv", Journals(hot=1), Watch())


def test_where_no_service_ever_ran_that_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StateMissing, match="`run` has not made it yet"):
        status.read(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_status_and_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        write(disk / "state")
        with StateDir.open(disk / "state") as state:
            ballast = fill(disk)
            with pytest.raises(StateError, match=r"status\.json: No space left on device"):
                status.write(state, Status(pid=1))
            assert status.read(state.path).pid == SAID.pid
            ballast.unlink()
            assert status.write(state, Status(pid=1))


def test_a_number_that_is_none_is_refused_where_it_is_said(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state, pytest.raises(ValueError, match="JSON"):
        status.write(state, Status(engine={"lag_s": float("nan")}))
