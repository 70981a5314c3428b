"""recover: the service's decision, once; each outcome, its status, and what is left of the files."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.running import Runner
from tests.small_disk import small_disk
from tests.writers import (
    ROWS,
    CrashedPair,
    count_read_only,
    journal_of,
    make_database,
    reading,
    writing,
    writing_unseen,
)

ENTRY = ["time", "database", "outcome", "pages", "journal_size", "duration_ms", "snapshot", "owner", "error"]


@pytest.fixture
def somebody_else() -> int:
    """Another user's uid, to give files to."""
    if os.geteuid() != 0:
        pytest.skip("giving files to another user wants root")
    return 65_534


def test_a_stale_database_is_recovered_as_sqlite_would(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "s1" / "outbound.db")
    before = datetime.now(UTC)
    done = runner.command("recover", "--json")
    (entry,) = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(entry) == ENTRY
    assert (entry["database"], entry["outcome"], entry["error"]) == (str(database), "recovered", None)
    assert entry["pages"] > 0
    assert entry["journal_size"] == len(crashed.journal)
    assert 0 < entry["duration_ms"] < 60_000
    assert entry["owner"]["verdict"] == "exited"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
    assert abs(datetime.fromisoformat(entry["time"]) - before) < timedelta(minutes=1)
    assert database.read_bytes() == crashed.recovered
    assert not journal_of(database).exists()
    snapshot = Path(entry["snapshot"])
    assert (snapshot / "database").read_bytes() == crashed.database
    assert (snapshot / "database-journal").read_bytes() == crashed.journal


def test_what_was_recovered_is_in_the_history_as_it_was_told(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "a.db")
    told = runner.json("recover")
    assert runner.json("history") == told


def test_nothing_to_do_is_an_empty_list_and_status_zero(runner: Runner) -> None:
    make_database(runner.root / "x.db")
    done = runner.command("recover", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    done = runner.command("recover")
    assert (done.returncode, done.stdout) == (0, f"{runner.root}: nothing to recover\n")
    assert not runner.state.exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "a.db")
    done = runner.command("recover", "--dry-run", "--json")
    (entry,) = json.loads(done.stdout)
    assert done.returncode == 1
    assert list(entry) == ENTRY
    assert (entry["outcome"], entry["pages"], entry["snapshot"]) == ("would_recover", None, None)
    assert (database.read_bytes(), journal_of(database).read_bytes()) == (crashed.database, crashed.journal)
    assert not runner.state.exists()


def test_a_live_writer_is_waited_for_and_that_is_no_failure(runner: Runner) -> None:
    database = runner.root / "a.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        for more in ([], ["--dry-run"]):
            done = runner.command("recover", "--json", *more)
            (entry,) = json.loads(done.stdout)
            assert (done.returncode, entry["outcome"], entry["owner"]["verdict"]) == (0, "waiting", "alive")
        writer.tell("COMMIT")
    assert runner.json("history") == []


def test_a_live_writer_whose_journal_outlasts_hold_warning_is_stale(runner: Runner) -> None:
    runner.configure(watch={"hold_warning": "0s"})
    database = runner.root / "a.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        done = runner.command("recover", "--json")
        assert (done.returncode, json.loads(done.stdout)[0]["outcome"]) == (1, "waiting")
        writer.tell("COMMIT")


def test_a_writer_whose_locks_nobody_sees_lives_by_its_pid_file(runner: Runner) -> None:
    runner.configure(owner={"pid_file": ".writer.pid"})
    database = runner.root / "a.db"
    make_database(database)
    with writing_unseen(database) as writer:
        (runner.root / ".writer.pid").write_text(str(writer.pid))
        writer.tell("begin")
        assert [each["outcome"] for each in runner.json("recover")] == ["waiting"]
        writer.tell("COMMIT")


def test_what_nobody_can_know_is_held(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"})
    database = crashed.put(runner.root / "a.db")
    done = runner.command("recover", "--json")
    (entry,) = json.loads(done.stdout)
    assert (done.returncode, entry["outcome"], entry["owner"]["verdict"]) == (1, "held", "unknown")
    assert entry["error"]
    assert database.read_bytes() == crashed.database
    done = runner.command("recover")
    assert f"sqlite3 {database} 'PRAGMA schema_version'" in done.stdout
    assert [each["outcome"] for each in runner.json("history")] == ["held"], "twice the same is one entry"


def test_what_is_not_ours_is_refused_and_stays(runner: Runner) -> None:
    diary = runner.root / "notes"
    diary.write_text("monday")
    journal_of(diary).write_text("dear diary")
    done = runner.command("recover", "--json")
    (entry,) = json.loads(done.stdout)
    assert (done.returncode, entry["outcome"], entry["owner"]) == (1, "refused", None)
    assert journal_of(diary).read_text() == "dear diary"


def test_a_reader_that_stays_makes_it_busy(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"busy_timeout": "200ms"})
    database = crashed.put(runner.root / "a.db")
    with reading(database) as pid:
        done = runner.command("recover", "--json")
        (entry,) = json.loads(done.stdout)
        assert (done.returncode, entry["outcome"]) == (1, "busy")
        assert entry["owner"]["verdict"] == "exited", "it was asked before the lock was met"
        assert str(pid) in entry["error"]
        assert database.read_bytes() == crashed.database
    assert [each["outcome"] for each in runner.json("recover")] == ["recovered"]
    assert [each["outcome"] for each in runner.json("history")] == ["recovered"]


def test_a_reader_that_goes_is_waited_for(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"busy_timeout": "30s"})
    database = crashed.put(runner.root / "a.db")
    with reading(database):
        argv = [sys.executable, "-m", "watcher", "recover", "-c", str(runner.settings), "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            os.kill(_pid_of_reader(database), 9)
            assert process.stdout is not None
            assert [each["outcome"] for each in json.loads(process.stdout.read())] == ["recovered"]
        assert process.returncode == 0


def _pid_of_reader(database: Path) -> int:
    """As the kernel names the holder of a lock (fcntl(2), F_GETLK)."""
    with closing(os.fdopen(os.open(database, os.O_RDWR), "rb")) as file:
        question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0x40000002, 510, 0)
        return int(struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, question))[4])


def test_what_belongs_to_another_user_has_failed(runner: Runner, crashed: CrashedPair, somebody_else: int) -> None:
    database = crashed.put(runner.root / "a.db")
    for path in (database, journal_of(database)):
        os.chown(path, somebody_else, somebody_else)
    done = runner.command("recover", "--json", unprivileged=True)
    (entry,) = json.loads(done.stdout)
    assert (done.returncode, entry["outcome"]) == (1, "failed")
    assert "we may not write it" in entry["error"]
    assert database.read_bytes() == crashed.database
    assert journal_of(database).read_bytes() == crashed.journal


def test_what_may_not_even_be_read_is_refused(runner: Runner, crashed: CrashedPair, somebody_else: int) -> None:
    database = crashed.put(runner.root / "a.db")
    for path in (database, journal_of(database)):
        os.chown(path, somebody_else, somebody_else)
    database.chmod(0o600)
    for path in (database, journal_of(database)):
        done = runner.command("recover", path, "--json", unprivileged=True)
        assert (done.returncode, [each["outcome"] for each in json.loads(done.stdout)]) == (1, ["refused"])
        assert runner.command("explain", path, unprivileged=True).returncode == 0


def test_a_read_only_mount_makes_it_fail(runner: Runner, crashed: CrashedPair) -> None:
    with small_disk(runner.root / "disk", size_kib=8192) as disk:
        database = crashed.put(disk / "a.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = runner.command("recover", "--json")
        (entry,) = json.loads(done.stdout)
        assert (done.returncode, entry["outcome"]) == (1, "failed")
        assert entry["error"]
        assert database.read_bytes() == crashed.database
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert [each["outcome"] for each in runner.json("recover")] == ["recovered"]


def test_a_shut_directory_is_said_and_is_no_success(runner: Runner, crashed: CrashedPair, somebody_else: int) -> None:
    shut = crashed.put(runner.root / "shut" / "a.db").parent
    os.chown(shut, somebody_else, somebody_else)
    shut.chmod(0o700)
    for command in ("scan", "recover"):
        done = runner.command(command, unprivileged=True)
        assert done.returncode == 1
        assert done.stderr == "journal-watcher: not looked into, for uid 0 may not enter it: shut\n"
    for command in ("explain", "recover"):
        done = runner.command(command, "shut/a.db", unprivileged=True)
        assert (done.returncode, done.stderr) == (2, "journal-watcher: shut/a.db: uid 0 may not enter its directory\n")
    runner.configure(tree={"exclude": ["shut"]})
    for command in ("scan", "recover"):
        done = runner.command(command, unprivileged=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_whole_tree_is_done_in_the_order_of_its_names(runner: Runner, crashed: CrashedPair) -> None:
    names = [f"s{number:02}" for number in range(20)]
    for name in names:
        crashed.put(runner.root / name / "x.db")
    (runner.root / "s07" / "x.db").unlink()
    done = runner.command("recover", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert [Path(each["database"]).parent.name for each in told] == names
    assert {each["database"] for each in told if each["outcome"] != "recovered"} == {f"{runner.root}/s07/x.db"}
    assert runner.command("recover", "s03/x.db").returncode == 0


def test_only_the_paths_that_are_named_are_done(runner: Runner, crashed: CrashedPair) -> None:
    for name in "abc":
        crashed.put(runner.root / name / "x.db")
    done = runner.command("recover", "--json", "c/x.db", "a/x.db-journal", runner.root / "c" / "x.db")
    assert [Path(each["database"]).parent.name for each in json.loads(done.stdout)] == ["c", "a"]
    assert journal_of(runner.root / "b" / "x.db").exists()


def test_no_database_is_recovered_twice_beside_a_running_service(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(watch={"sweep_interval": "100ms"})
    service = runner.start()
    names = [f"s{number:02}" for number in range(30)]
    for name in names:
        (runner.root / name).mkdir()
    argv = [sys.executable, "-m", "watcher", "recover", "-c", str(runner.settings), "--json"]
    for name in names:
        crashed.put(runner.root / name / "x.db")
    with closing_all([subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]) as commands:
        told = [entry for each in commands for entry in json.loads(each.communicate(timeout=60)[0])]
    assert {entry["outcome"] for entry in told} <= {"recovered", "clean", "busy"}
    by_hand = [entry["database"] for entry in told if entry["outcome"] == "recovered"]
    for name in names:
        path = f"{runner.root}/{name}/x.db"
        if path not in by_hand:
            service.wait_for("recovered", database=path)
        assert Path(path).read_bytes() == crashed.recovered
        assert count_read_only(Path(path)) == ROWS
    assert service.stop() == 0
    by_service = [each["database"] for each in service.events("recovered")]
    assert sorted(by_hand + by_service) == [f"{runner.root}/{name}/x.db" for name in names]


@contextmanager
def closing_all(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    try:
        yield processes
    finally:
        for each in processes:
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
