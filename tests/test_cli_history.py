"""status and history: what the service has reported, for programs and for people."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import Runner, wait_until
from tests.writers import CrashedPair, make_database, writing

STATUS = [
    "running",
    "pid",
    "since",
    "instance",
    "tree",
    "journals",
    "recoveries",
    "watch",
    "engine",
    "last_sweep",
]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ENTRY = ["time", "database", "outcome", "pages", "journal_size", "duration_ms", "snapshot", "owner", "error"]


def test_before_the_first_run_nothing_runs(runner: Runner) -> None:
    done = runner.command("status", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, list(told), told["running"], told["pid"]) == (1, STATUS, False, None)
    done = runner.command("status")
    assert done.returncode == 1
    assert "not running" in done.stdout
    assert not runner.state.exists()
    assert runner.json("history") == []
    assert runner.command("history").stdout == "the history is empty\n"
    assert not runner.state.exists()


def test_a_running_service_is_reported(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(instance="nanoclaw")
    crashed.put(runner.root / "s1" / "stale.db")
    crashed.put(runner.root / "s2" / "refused.db").unlink()
    live = runner.root / "s3" / "live.db"
    live.parent.mkdir()
    make_database(live)
    with writing(live) as writer:
        writer.tell("begin")
        service = runner.start()
        service.wait_for("recovered")
        service.wait_for("refused")
        service.wait_for("owner_alive")

        def reported() -> dict[str, Any]:
            told: dict[str, Any] = runner.json("status")
            settled = told["journals"] == {"hot": 1, "waiting": 1, "held": 0, "refused": 1}  # a moment after the line
            return told if settled and told["last_sweep"] else {}

        told = wait_until(reported)
        assert list(told) == STATUS
        assert (told["running"], told["pid"]) == (True, service.process.pid)
        assert (told["instance"], told["tree"]) == ("nanoclaw", str(runner.root))
        assert RFC3339.fullmatch(told["since"])
        assert RFC3339.fullmatch(told["last_sweep"])
        assert told["journals"] == {"hot": 1, "waiting": 1, "held": 0, "refused": 1}
        assert told["recoveries"] == {"recovered": 1, "refused": 1}
        assert list(told["watch"]) == ["backend", "directories", "missed"]
        assert (told["watch"]["directories"], told["watch"]["missed"]) == (4, 0)
        assert told["engine"] is None
        done = runner.command("status")
        assert done.returncode == 0
        assert f"running, pid {service.process.pid}" in done.stdout
        assert "1 hot, 1 waiting, 0 held, 1 refused" in done.stdout
        assert service.stop() == 0
    told = runner.json("status")
    assert (told["running"], told["recoveries"]) == (False, {"recovered": 1, "refused": 1})
    done = runner.command("status")
    assert done.returncode == 1
    assert "not running" in done.stdout


def test_a_killed_service_does_not_run(runner: Runner) -> None:
    service = runner.start()
    assert runner.json("status")["running"]
    service.kill()
    assert not runner.json("status")["running"]
    assert runner.command("status").returncode == 1


def test_a_status_file_that_makes_no_sense_is_an_empty_status(runner: Runner) -> None:
    runner.start().stop()
    for content in (b"", b"{", b"[]", b'{"pid": "x"}', b"\0" * 100, b"[" * 60_000):
        (runner.state / "status.json").write_bytes(content)
        done = runner.command("status", "--json")
        assert (done.returncode, done.stderr) == (1, "")
        assert list(json.loads(done.stdout)) == STATUS


def test_watching_prints_a_line_for_each_change_until_interrupted(runner: Runner) -> None:
    service = runner.start()
    argv = [sys.executable, "-m", "watcher", "status", "--watch", "--json", "-c", str(runner.settings)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["running"]
        assert service.stop() == 0
        while json.loads(process.stdout.readline())["running"]:
            pass
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (1, "", "")


def test_the_newest_recovery_comes_first_and_every_filter_narrows(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(tree={"layout": "{agent_group}/{session}"})
    for place in ("cats/s1", "cats/s2"):
        crashed.put(runner.root / place / "x.db")
        assert [each["outcome"] for each in runner.json("recover")] == ["recovered"]
    crashed.put(runner.root / "dogs" / "s1" / "x.db")
    crashed.put(runner.root / "dogs" / "s3" / "x.db").unlink()
    assert [each["outcome"] for each in runner.json("recover")] == ["recovered", "refused"]

    def found(*filters: str) -> list[str]:
        entries = runner.json("history", *filters)
        assert all(list(each) == ENTRY for each in entries)
        return [str(Path(each["database"]).parent.relative_to(runner.root)) for each in entries]

    everything = found()
    assert sorted(everything[:2]) == ["dogs/s1", "dogs/s3"]
    assert everything[2:] == ["cats/s2", "cats/s1"]
    assert found("--limit", "2") == everything[:2]
    assert found("--session", "s1") == ["dogs/s1", "cats/s1"]
    assert found("--outcome", "refused") == ["dogs/s3"]
    assert found("--outcome", "recovered", "--session", "dogs") == ["dogs/s1"]
    assert found("--since", "1d") == everything
    assert found("--since", "2026-01-01") == everything
    assert found("--since", "2099-01-01T00:00Z") == []
    times = [each["time"] for each in runner.json("history")]
    assert times == sorted(times, reverse=True)
    assert runner.command("history", "--session", "nobody").stdout == "no entry of the history fits\n"
    header, *lines = runner.command("history").stdout.splitlines()
    assert header == "TIME (UTC)\tOUTCOME\tPAGES\tTOOK\tDATABASE\tWHY"
    assert [line.split("\t")[4] for line in lines] == [f"{place}/x.db" for place in everything]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "yesterday"],
        ["--since", "-1d"],
        ["--since", "99999999999d"],
        ["--limit", "0"],
        ["--outcome", "clean"],
    ],
)
def test_a_filter_that_makes_no_sense_is_status_two(runner: Runner, arguments: list[str]) -> None:
    done = runner.command("history", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[0].strip("-") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_history_is_said(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "x.db")
    runner.json("recover")
    (runner.state / "history.db").write_bytes(b"SQLite format 3\0" + os.urandom(9000))
    done = runner.command("history")
    assert (done.returncode, done.stdout) == (1, "")
    assert str(runner.state / "history.db") in done.stderr
    assert "Traceback" not in done.stderr
