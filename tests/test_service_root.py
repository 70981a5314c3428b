"""run while its root is missing, comes, goes, and is another one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import Runner, wait_until
from tests.small_disk import small_disk
from tests.writers import CrashedPair, crash, journal_of, make_database

_HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_missing_root_is_waited_for(runner: Runner, crashed: CrashedPair) -> None:
    runner.root.rmdir()
    service = runner.start(wait="root_missing")
    assert [each["event"] for each in service.events()[:1]] == ["started"]
    assert service.wait_for("root_missing")["level"] == "WARNING"
    assert runner.json("status")["running"]
    wait_until(lambda: "off until the tree is there" in runner.command("status").stdout)
    assert runner.json("check")["level"] == "warning"
    database = crashed.put(runner.root / "s1" / "x.db")
    assert service.wait_for("root_back")["level"] == "INFO"
    service.wait_for("recovered", database=database)
    live = runner.root / "s2" / "y.db"
    live.parent.mkdir()
    make_database(live)
    crash(live)
    service.wait_for("recovered", database=live)
    assert service.stop() == 0
    assert (len(service.events("root_missing")), len(service.events("root_back"))) == (1, 1)


def test_a_root_that_is_a_file_is_no_root(runner: Runner, crashed: CrashedPair) -> None:
    runner.root.rmdir()
    runner.root.write_text("a file")
    service = runner.start(wait="root_missing")
    assert "not a directory" in service.wait_for("root_missing")["message"]
    runner.root.unlink()
    service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    assert service.stop() == 0


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_root_that_goes_and_comes_back_is_watched_again(
    runner: Runner, crashed: CrashedPair, tmp_path: Path, how: str
) -> None:
    runner.configure(watch={"sweep_interval": "1h"})
    (runner.root / "s1").mkdir()
    service = runner.start()
    for round_ in (1, 2):
        if how == "removed":
            shutil.rmtree(runner.root)
        else:
            runner.root.rename(tmp_path / f"away-{round_}")
        service.wait_for("root_missing", count=round_)
        runner.root.mkdir()
        database = crashed.put(runner.root / "s1" / "x.db")
        service.wait_for("root_back", count=round_)
        service.wait_for("recovered", database=database, count=round_)
    assert service.stop() == 0


def test_another_directory_in_its_place_is_noticed_and_taken(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    runner.configure(watch={"sweep_interval": "1h"})
    service = runner.start()
    crashed.put(tmp_path / "next" / "s1" / "x.db")
    away = tmp_path / "away"
    runner.root.rename(away)
    (tmp_path / "next").rename(runner.root)
    service.wait_for("root_back")
    service.wait_for("recovered", database=runner.root / "s1" / "x.db")
    left = crashed.put(away / "y.db")
    service.wait_for("recovered", database=crashed.put(runner.root / "z.db"))
    assert runner.command("run").returncode == 3
    assert service.stop() == 0
    assert journal_of(left).exists()


def test_a_root_behind_a_link_that_is_turned_is_noticed_by_the_sweep(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(runner.root)
    runner.configure(tree={"root": str(link)}, watch={"sweep_interval": "200ms"})
    service = runner.start()
    crashed.put(tmp_path / "next" / "x.db")
    (tmp_path / "turned").symlink_to(tmp_path / "next")
    (tmp_path / "turned").replace(link)
    service.wait_for("root_missing")
    service.wait_for("root_back")
    service.wait_for("recovered", database=link / "x.db")
    assert service.stop() == 0


def test_what_is_mounted_over_the_root_is_found_by_the_sweep(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(watch={"sweep_interval": "200ms"})
    runner.root.rmdir()
    with small_disk(runner.root, size_kib=8192):
        service = runner.start()
        service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    service.wait_for("root_missing")
    service.wait_for("recovered", database=crashed.put(runner.root / "y.db"))
    assert service.stop() == 0


def test_a_root_that_another_watcher_has_taken_meanwhile_is_waited_for(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    runner.root.rmdir()
    service = runner.start(wait="root_missing")
    other = tmp_path / "other"
    other.mkdir()
    with holding(other) as process:
        other.rename(runner.root)
        line = service.wait_for("root_missing", count=2)
        assert "another journal-watcher holds the tree" in line["message"]
        assert not service.events("root_back")
        process.kill()
        service.wait_for("root_back")
    service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    assert service.stop() == 0


@contextmanager
def holding(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has locked a directory as a watcher locks its root."""
    argv = [sys.executable, "-c", _HOLD, str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_large_tree_is_swept_and_watched(runner: Runner, crashed: CrashedPair) -> None:
    for number in range(1500):
        (runner.root / f"group-{number % 7}" / f"session-{number:04}").mkdir(parents=True)
    database = crashed.put(runner.root / "group-6" / "session-1497" / "x.db")
    service = runner.start()
    service.wait_for("recovered", database=database)
    wait_until(lambda: runner.json("status")["watch"]["directories"] == 1508)
    service.wait_for("recovered", database=crashed.put(runner.root / "group-0" / "new" / "deep" / "x.db"))
    assert service.stop() == 0
