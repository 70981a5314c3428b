"""Disks that are read-only or full: the database's, and the one that the state is on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import (
    assert_heals,
    assert_untouched,
    configure,
    remount,
    told_once,
    wait_for_sweeps,
    wait_for_tries,
)
from tests.running import Runner, wait_until
from tests.small_disk import fill, small_disk
from tests.writers import CrashedPair, journal_of

_BLOCK_BYTES = 4096


@pytest.fixture
def disk(runner: Runner) -> Iterator[Path]:
    """The tree on a disk of its own."""
    runner.root.rmdir()
    with small_disk(runner.root, size_kib=4096) as mounted:
        yield mounted
        runner.close()


@pytest.fixture
def state_disk(runner: Runner) -> Iterator[Path]:
    """The state on a disk of its own, which the tree is not on."""
    with small_disk(runner.state, size_kib=2048) as mounted:
        mounted.chmod(0o700)
        yield mounted
        runner.close()


def test_a_read_only_file_system_is_waited_out(runner: Runner, disk: Path, crashed: CrashedPair) -> None:
    configure(runner)
    database = crashed.put(disk / "s1" / "outbound.db")
    remount(disk, "ro")
    service = runner.start()
    service.wait_for("recovery_failed", database=database)
    wait_for_tries(runner, "failed")
    message = told_once(service, "recovery_failed", database)["message"]
    assert "s1/outbound.db" in message
    assert "mounted read-only: mount it read-write" in message
    assert_untouched(database, crashed)
    remount(disk, "rw")
    assert_heals(service, database, crashed)
    assert service.stop() == 0


def test_a_full_disk_under_the_database_is_waited_out(runner: Runner, disk: Path, crashed: CrashedPair) -> None:
    configure(runner)
    holed = replace(crashed, database=with_holes(crashed))
    database = holed.put(disk / "s1" / "outbound.db")
    dig_holes(database)
    ballast = fill(disk)
    service = runner.start()
    service.wait_for("recovery_failed", database=database)
    wait_for_tries(runner, "failed")
    message = told_once(service, "recovery_failed", database)["message"]
    assert "s1/outbound.db" in message
    assert f"the file system of {database.parent} is full (less than 1 MiB is free there): free some space" in message
    assert journal_of(database).read_bytes() == crashed.journal
    ballast.unlink()
    assert_heals(service, database, crashed)
    assert service.stop() == 0


def with_holes(crashed: CrashedPair) -> bytes:
    """Its database with zeros in the blocks that the rollback will write."""
    blocks = bytearray(crashed.database)
    for start in range(0, len(blocks), _BLOCK_BYTES):
        block = slice(start, start + _BLOCK_BYTES)
        pages = range(start, start + _BLOCK_BYTES, 1024)
        if all(crashed.database[page : page + 1024] != crashed.recovered[page : page + 1024] for page in pages):
            blocks[block] = bytes(_BLOCK_BYTES)
    assert blocks != crashed.database
    return bytes(blocks)


def dig_holes(database: Path) -> None:
    """Give the blocks of zeros back to the file system: writing them takes space again."""
    subprocess.run(["fallocate", "--dig-holes", str(database)], check=True)


def test_a_full_disk_under_the_state_stops_no_recovery(runner: Runner, state_disk: Path, crashed: CrashedPair) -> None:
    configure(runner)
    service = runner.start()
    ballast = fill(state_disk)
    databases = [crashed.put(runner.root / f"s{number}" / "outbound.db") for number in range(3)]
    for database in databases:
        assert_heals(service, database, crashed)
    (no_snapshot,) = service.events("snapshot_failed")
    assert str(state_disk) in no_snapshot["message"]

    def times_told(file: str) -> int:
        told = [each["message"] for each in service.events("state_failed")]
        return sum(str(state_disk / file) in message for message in told)

    files = ("history.db", "status.json", "boot.json")
    wait_until(lambda: all(map(times_told, files)))
    wait_for_sweeps(service)
    assert [times_told(file) for file in files] == [1, 1, 1]
    ballast.unlink()
    service.wait_for("state_back")
    wait_until(lambda: {each["database"] for each in runner.json("history")} >= set(map(str, databases)))
    kept = runner.json("history")
    assert {each["database"] for each in kept if each["outcome"] == "recovered"} == set(map(str, databases))
    assert service.stop() == 0


def test_a_snapshot_that_is_required_and_has_no_room_is_waited_for(
    runner: Runner, state_disk: Path, crashed: CrashedPair
) -> None:
    configure(runner, recovery={"snapshot": {"required": True}})
    service = runner.start()
    ballast = fill(state_disk)
    database = crashed.put(runner.root / "s1" / "outbound.db")
    service.wait_for("recovery_failed", database=database)
    wait_for_sweeps(service)
    assert "snapshot" in told_once(service, "recovery_failed", database)["message"]
    assert_untouched(database, crashed)
    ballast.unlink()
    assert_heals(service, database, crashed)
    assert service.stop() == 0
