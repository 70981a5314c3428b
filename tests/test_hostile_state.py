"""What the service keeps is its own: nobody else may read it, and where others could write it, it does not run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.running import Runner
from tests.writers import CrashedPair, journal_of


def test_everything_it_keeps_is_private_whatever_the_umask_is(runner: Runner, crashed: CrashedPair) -> None:
    before = os.umask(0)
    try:
        foreign = crashed.put(runner.root / "s2" / "diary")
        foreign.write_bytes(b"Dear diary")
        service = runner.start()
        database = crashed.put(runner.root / "s1" / "outbound.db")
        service.wait_for("recovered", database=database)
        service.wait_for("refused", database=foreign)
        assert service.stop() == 0
        crashed.put(runner.root / "s3" / "outbound.db")
        assert runner.command("recover").returncode == 1  # the diary is still there
    finally:
        os.umask(before)
    kept = [runner.state, *runner.state.rglob("*")]
    names = {path.name for path in kept}
    assert {"database", "database-journal", "history.db", "status.json"} <= names, names
    for path in kept:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path} is {mode:04o}"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_state_directory_that_others_can_write_is_refused(runner: Runner, crashed: CrashedPair, mode: int) -> None:
    runner.state.mkdir()
    runner.state.chmod(mode)
    database = crashed.put(runner.root / "outbound.db")
    done = runner.command("run")
    assert done.returncode != 0
    assert "can be written by others" in done.stderr
    assert journal_of(database).exists()
    # Only a copy goes there: where it must not, the recovery goes on without.
    assert runner.command("recover").returncode == 0
    assert list(runner.state.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others wants root")
def test_a_state_directory_of_somebody_else_is_refused(runner: Runner) -> None:
    runner.state.mkdir(mode=0o700)
    os.chown(runner.state, 12345, 12345)
    done = runner.command("run")
    assert done.returncode != 0
    assert "belongs to uid 12345" in done.stderr


def test_a_state_directory_inside_the_tree_is_refused(runner: Runner, tmp_path: Path) -> None:
    for inside in (runner.root / "state", tmp_path / "tree" / "a" / ".." / "state"):
        runner.state = inside
        runner.configure()
        done = runner.command("run")
        assert done.returncode == 2
        assert not inside.exists()
