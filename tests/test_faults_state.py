"""The service's own files fail: the history, and the log. No recovery waits for them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.faults import AS_NOBODY, SWEEP_S, assert_heals, configure, wait_for_sweeps
from tests.running import Runner, Service, wait_until
from tests.small_disk import fill, small_disk
from tests.test_faults_tree import NOBODY, give, nobodys
from tests.writers import CrashedPair

__all__ = ["nobodys"]


def recover_some(runner: Runner, service: Service, crashed: CrashedPair, names: str) -> set[str]:
    """Each session crashes, and is recovered."""
    databases = [crashed.put(runner.root / name / "outbound.db") for name in names]
    for database in databases:
        assert_heals(service, database, crashed)
    return set(map(str, databases))


def recorded(runner: Runner) -> set[str]:
    return {each["database"] for each in runner.json("history") if each["outcome"] == "recovered"}


def with_history(runner: Runner, crashed: CrashedPair) -> Path:
    """A history that holds one recovery; nobody has it open."""
    configure(runner)
    service = runner.start()
    recover_some(runner, service, crashed, "a")
    assert service.stop() == 0
    return runner.state / "history.db"


def damage(history: Path) -> None:
    with history.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


def test_a_damaged_history_is_set_aside_and_told_once(runner: Runner, crashed: CrashedPair) -> None:
    history = with_history(runner, crashed)
    damage(history)
    service = runner.start()
    databases = recover_some(runner, service, crashed, "bcd")
    message = service.wait_for("state_failed")["message"]
    assert str(history) in message
    assert "damaged" in message
    service.wait_for("state_back")
    wait_until(lambda: recorded(runner) == databases)
    assert service.stop() == 0
    assert len(service.events("state_failed")) == 1


def test_a_locked_history_is_written_when_it_is_free(runner: Runner, crashed: CrashedPair) -> None:
    history = with_history(runner, crashed)
    service = runner.start()
    with closing(sqlite3.connect(history, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        databases = recover_some(runner, service, crashed, "bcd")
        message = service.wait_for("state_failed")["message"]
        assert str(history) in message
        assert "lock" in message
        wait_for_sweeps(service, 10)
        assert len(service.events("state_failed")) == 1, service.events("state_failed")
        somebody.execute("ROLLBACK")
    service.wait_for("state_back")
    wait_until(lambda: recorded(runner) > databases)
    assert service.stop() == 0


def test_a_history_of_a_newer_version_is_left_alone_and_told_once(runner: Runner, crashed: CrashedPair) -> None:
    history = with_history(runner, crashed)
    with closing(sqlite3.connect(history)) as somebody:
        somebody.execute("PRAGMA user_version = 1000")
    before = history.read_bytes()
    service = runner.start()
    recover_some(runner, service, crashed, "bcd")
    message = service.wait_for("state_failed")["message"]
    assert str(history) in message
    assert "newer" in message
    wait_for_sweeps(service, 10)
    assert service.stop() == 0
    assert history.read_bytes() == before
    told = [each["message"] for each in service.events("state_failed")]
    assert sum("newer" in each for each in told) == 1, told


def test_a_history_is_written_soon_after_a_fault_that_was_long(runner: Runner, crashed: CrashedPair) -> None:
    """The pause between two attempts grows, but not beyond a sweep."""
    history = with_history(runner, crashed)
    aside = history.rename(history.with_name("aside"))
    history.mkdir()
    service = runner.start()
    databases = recover_some(runner, service, crashed, "b")
    service.wait_for("state_failed")
    wait_for_sweeps(service, 20)
    history.rmdir()
    aside.rename(history)
    service.wait_for("state_back", deadline_s=SWEEP_S + 5)
    wait_until(lambda: recorded(runner) > databases)
    assert service.stop() == 0


def test_a_full_disk_under_the_log_costs_lines_and_nothing_else(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "logs", size_kib=256) as logs:
        configure(runner, log={"file": str(logs / "watcher.log")})
        service = runner.start()
        ballast = fill(logs)
        recover_some(runner, service, crashed, "abc")
        assert_told_once(service, logs)
        ballast.unlink()
        assert_logged_again(runner, service, crashed, logs / "watcher.log")
        runner.close()


def test_a_log_directory_that_is_shut_costs_lines_and_nothing_else(nobodys: Runner, crashed: CrashedPair) -> None:
    logs = nobodys.root.parent / "logs"
    logs.mkdir(mode=0o700)
    configure(nobodys, log={"file": str(logs / "watcher.log")})
    service = nobodys.start(argv=AS_NOBODY)
    database = crashed.put(nobodys.root / "a" / "outbound.db")
    give(database, NOBODY)
    assert_heals(service, database, crashed)
    assert_told_once(service, logs)
    logs.chmod(0o777)
    wait_until((logs / "watcher.log").exists)
    assert service.stop() == 0


def assert_told_once(service: Service, logs: Path) -> None:
    def told() -> list[dict[str, Any]]:
        return [each for each in service.events() if str(logs) in each["message"] and each["event"] != "started"]

    wait_until(told)
    (line,) = told()
    assert line["level"] in {"WARNING", "ERROR"}


def assert_logged_again(runner: Runner, service: Service, crashed: CrashedPair, log: Path) -> None:
    (database,) = recover_some(runner, service, crashed, "z")
    assert service.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    assert [each for each in lines if each["event"] == "recovered" and each["database"] == database]
