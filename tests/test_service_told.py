"""What the service tells an operator: each event once, with what it means and what a person may do, in one line."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.running import DEADLINE_S, Runner, Service, wait_until
from tests.terminals import on_terminal
from tests.writers import CrashedPair, crash, journal_of, leave, make_database, reading, writing, writing_unseen

LEVELS = {
    **dict.fromkeys(["sweep", "journal_found", "owner_alive", "owner_exited", "busy"], "DEBUG"),
    **dict.fromkeys(["started", "stopped", "reloaded", "recovered", "root_back"], "INFO"),
    **dict.fromkeys(["held", "waiting", "refused", "root_missing", "settings_rejected", "locks_only"], "WARNING"),
    **dict.fromkeys(["snapshot_skipped", "snapshot_failed", "state_failed"], "WARNING"),
    "recovery_failed": "ERROR",
    "corrupt": "CRITICAL",
}


def after_more_looks(service: Service, runner: Runner) -> None:
    """Some sweeps later: whatever is said again and again has been said again."""
    sweeps = len(service.events("sweep"))
    service.wait_for("sweep", count=sweeps + 6)
    assert runner.json("status")["running"]


def test_held_is_told_once_after_hold_warning_with_what_to_do(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"}, watch={"hold_warning": "2s", "sweep_interval": "100ms"})
    database = crashed.put(runner.root / "s1" / "x.db")
    service = runner.start()
    found = service.wait_for("journal_found", database=database)
    held = service.wait_for("held", database=database)
    waited_s = (datetime.fromisoformat(held["time"]) - datetime.fromisoformat(found["time"])).total_seconds()
    assert waited_s > 0.3
    assert f"sqlite3 {database} 'PRAGMA schema_version'" in held["message"]
    assert "looking again in" in held["message"]
    assert [each["probe"] for each in held["evidence"]] == ["boot"]
    after_more_looks(service, runner)
    assert len(service.events("held")) == 1
    wait_until(lambda: runner.json("status")["journals"]["held"] == 1)
    assert service.stop() == 0
    assert [each["outcome"] for each in runner.json("history")] == ["held"]


def test_waiting_is_told_once_for_a_live_owner_that_does_nothing(runner: Runner) -> None:
    runner.configure(watch={"hold_warning": "400ms", "sweep_interval": "100ms"})
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        service = runner.start()
        line = service.wait_for("waiting", database=database)
        assert f"pid {writer.pid}" in line["message"]
        after_more_looks(service, runner)
        assert len(service.events("waiting")) == 1
        assert service.stop() == 0
        writer.tell("COMMIT")
    assert runner.json("history") == [], "waiting is no history"


def test_waiting_is_told_for_an_owner_whose_locks_nobody_sees(runner: Runner) -> None:
    runner.configure(owner={"pid_file": ".pid"}, watch={"hold_warning": "400ms", "sweep_interval": "100ms"})
    database = runner.root / "x.db"
    make_database(database)
    with writing_unseen(database) as writer:
        (runner.root / ".pid").write_text(str(writer.pid))
        writer.tell("begin")
        service = runner.start()
        assert str(writer.pid) in service.wait_for("waiting", database=database)["message"]
        assert service.stop() == 0
        writer.tell("COMMIT")


def test_waiting_is_told_for_a_reader_that_keeps_a_recovery_waiting(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(watch={"hold_warning": "400ms", "sweep_interval": "100ms"})
    database = crashed.put(runner.root / "x.db")
    with reading(database) as pid:
        service = runner.start()
        line = service.wait_for("waiting", database=database)
        assert re.search(rf"for \S+ it could not be recovered: pid {pid} is reading it", line["message"])
        after_more_looks(service, runner)
        assert len(service.events("waiting")) == 1
    service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_a_writer_that_goes_on_is_not_told_of(runner: Runner) -> None:
    runner.configure(watch={"hold_warning": "3s", "sweep_interval": "200ms"})
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        service = runner.start()
        until = time.monotonic() + 4.5
        while time.monotonic() < until:
            service.wait_for("sweep", count=len(service.events("sweep")) + 1)
            writer.tell("more")
        assert not service.events("waiting")
        assert service.stop() == 0
        writer.tell("COMMIT")


def test_refused_is_told_once_until_the_journal_changes(runner: Runner) -> None:
    runner.configure(watch={"sweep_interval": "100ms"})
    diary = runner.root / "notes"
    diary.write_text("monday")
    journal_of(diary).write_text("dear diary")
    service = runner.start()
    line = service.wait_for("refused", database=diary)
    assert line["state"] == "foreign"
    assert "it is left as it is" in line["message"]
    after_more_looks(service, runner)
    assert len(service.events("refused")) == 1
    leave(journal_of(diary), b"dear diary, today")
    service.wait_for("refused", count=2)
    assert service.stop() == 0
    again = runner.start()
    again.wait_for("refused")
    assert again.stop() == 0
    assert [each["outcome"] for each in runner.json("history")] == ["refused"] * 2, "once per change, over restarts"


def test_held_is_kept_once_over_restarts(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"}, watch={"hold_warning": "0s"})
    crashed.put(runner.root / "x.db")
    for _ in range(3):
        service = runner.start()
        service.wait_for("held")
        assert service.stop() == 0
    assert [each["outcome"] for each in runner.json("history")] == ["held"]


def test_a_failure_is_told_with_the_time_of_the_next_try_and_kept_once(runner: Runner, crashed: CrashedPair) -> None:
    if os.geteuid() != 0:
        pytest.skip("a file that even we may not write wants root")
    database = crashed.put(runner.root / "x.db")
    runner.configure(recovery={"retry": {"first": "100ms", "max": "200ms"}}, watch={"sweep_interval": "300ms"})
    locked = subprocess.run(["chattr", "+i", str(database)], check=False, capture_output=True)
    if locked.returncode != 0:
        pytest.skip("no immutable files here")
    try:
        service = runner.start()
        line = service.wait_for("recovery_failed", database=database)
        assert "trying again in" in line["message"]
        wait_until(lambda: runner.json("status")["recoveries"].get("failed", 0) > 3)
        assert len(service.events("recovery_failed")) == 1
    finally:
        subprocess.run(["chattr", "-i", str(database)], check=True)
    service.wait_for("recovered", database=database)
    assert service.stop() == 0
    assert [each["outcome"] for each in runner.json("history")] == ["recovered", "failed"]


def test_a_corrupt_database_is_critical_and_its_snapshot_is_named(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"verify": "quick"})
    database = crashed.put(runner.root / "x.db")
    damaged = bytearray(crashed.database)
    damaged[-1024 * 3 : -1024 * 2] = os.urandom(1024)  # a page that the transaction had not touched
    database.write_bytes(damaged)
    service = runner.start()
    line = service.wait_for("corrupt", database=database)
    assert Path(line["snapshot"]).is_dir()
    assert line["snapshot"] in line["message"]
    assert service.stop() == 0
    assert runner.json("history", "--outcome", "corrupt")[0]["error"]


def check_lines(raw: list[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in raw]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "event", "instance"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 300
        assert line["level"] == LEVELS[line["event"]]
        assert all(value.isprintable() for value in line.values() if isinstance(value, str))
    return lines


def test_every_line_of_a_json_log_is_an_object_on_stderr_and_in_the_file_alike(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    runner.configure(log={"file": str(tmp_path / "logs" / "service.log")})
    crashed.put(runner.root / "new\nline \x1b[31m" / os.fsdecode(b"\xff.db"))
    crashed.put(runner.root / "s1" / "x.db").unlink()
    service = runner.start()
    service.wait_for("recovered")
    service.wait_for("refused")
    assert service.stop() == 0
    lines = check_lines(service.raw)
    assert [lines[0]["event"], lines[-1]["event"]] == ["started", "stopped"]
    shown = f"{runner.root}/new\\nline \\x1b[31m/\\xff.db"
    assert {line["database"] for line in lines if line["event"] == "recovered"} == {shown}
    assert (tmp_path / "logs" / "service.log").read_text() == "".join(service.raw)


def test_a_log_file_is_rotated_and_no_line_is_lost(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "service.log"
    runner.configure(log={"file": str(log), "rotation": "2 KB", "retention": 100}, watch={"sweep_interval": "100ms"})
    service = runner.start()
    service.wait_for("sweep", count=20)
    assert service.stop() == 0
    files = sorted(log.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)
    assert len(files) > 1
    assert sorted(line for each in files for line in each.read_text().splitlines()) == sorted(
        line.strip() for line in service.raw
    )


def test_a_log_file_that_cannot_be_written_is_said_and_nothing_else_suffers(
    runner: Runner, crashed: CrashedPair, tmp_path: Path
) -> None:
    (tmp_path / "no directory").write_text("")
    runner.configure(log={"file": str(tmp_path / "no directory" / "service.log")})
    database = crashed.put(runner.root / "x.db")
    service = runner.start()
    service.wait_for("recovered", database=database)
    assert service.events()[0]["event"] == "started"
    assert "service.log" in service.wait_for("state_failed")["message"]
    assert service.stop() == 0


def test_a_human_log_is_one_printable_line_per_event(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(log={"json": False})
    crashed.put(runner.root / "new\nline \x1b[31m" / "x.db")
    service = runner.start(wait=None)
    wait_until(lambda: any("recovered" in line for line in service.raw))
    assert service.stop() == 0
    pattern = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING) +(\w+) +\S.*")
    matches = [pattern.fullmatch(line.removesuffix("\n")) for line in service.raw]
    assert all(matches)
    assert all(line.removesuffix("\n").isprintable() for line in service.raw)
    events = [match.group(2) for match in matches if match]
    assert [events[0], events[-1]] == ["started", "stopped"]
    assert "recovered" in events


def test_a_log_on_a_terminal_is_coloured_unless_it_must_not_be(runner: Runner) -> None:
    runner.configure(log={"json": False, "level": "INFO"})
    script = (
        f"{sys.executable} -m watcher run -c {runner.settings} & pid=$!;"
        f" until grep -q last_sweep {runner.state}/status.json 2>/dev/null; do sleep 0.1; done; kill $pid; wait $pid"
    )
    coloured = on_terminal(["sh", "-c", script], columns=100)
    assert coloured.status == 0
    assert "\x1b[32mINFO" in coloured.raw
    (runner.state / "status.json").unlink()
    plain = on_terminal(["sh", "-c", script], columns=100, environ={"NO_COLOR": "1"})
    assert plain.status == 0
    assert "INFO" in plain.raw
    assert "\x1b" not in plain.raw


def test_locks_only_is_said_at_the_start_where_nothing_else_decides(runner: Runner) -> None:
    service = runner.start()
    assert [each["event"] for each in service.events()[:2]] == ["started", "locks_only"]
    assert service.stop() == 0
    for owner in ({"locks": "off"}, {"locks": "off", "heartbeat": {}}):
        runner.configure(owner=owner)
        service = runner.start()
        assert "not even locks" in service.wait_for("locks_only")["message"]
        assert service.stop() == 0
    runner.configure(owner={"pid_file": ".pid"})
    service = runner.start()
    assert not service.events("locks_only")
    assert service.stop() == 0


def test_the_lines_about_one_crash_read_from_finding_to_recovery(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    service = runner.start()
    crash(database)
    service.wait_for("recovered", database=database)
    told = [each["event"] for each in service.events() if each.get("database") == str(database)]
    assert told.index("journal_found") < told.index("owner_exited") < told.index("recovered")
    line = service.events("recovered")[0]
    assert set(line) >= {"pages", "journal_size", "duration_ms", "snapshot", "evidence"}
    assert service.stop() == 0


def test_at_info_an_ordinary_day_is_silent(runner: Runner) -> None:
    runner.configure(log={"level": "INFO"}, watch={"sweep_interval": "200ms"})
    database = runner.root / "x.db"
    make_database(database)
    service = runner.start(wait="locks_only")
    with writing(database) as writer:
        for _ in range(20):
            writer.tell("begin")
            writer.tell("COMMIT")
        wait_until((runner.state / "status.json").exists)
    assert service.stop() == 0
    assert [each["event"] for each in service.events()] == ["started", "locks_only", "stopped"]


def test_a_service_whose_log_nobody_reads_recovers_and_stops(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(log={"level": "DEBUG", "json": True})
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    argv = [sys.executable, "-m", "watcher", "run", "-c", str(runner.settings)]
    with subprocess.Popen(argv, stderr=write_end) as service:
        os.close(write_end)
        databases = [crashed.put(runner.root / f"s{number}" / "x.db") for number in range(40)]
        wait_until(lambda: not any(journal_of(each).exists() for each in databases))
        service.terminate()
        assert service.wait(DEADLINE_S) == 0
    os.close(read_end)
