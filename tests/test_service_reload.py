"""SIGHUP: new settings take effect, bad ones change nothing, and no hint is lost on the way."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.running import Runner, Service, wait_until
from tests.writers import ROWS, CrashedPair, count_read_only, crash, journal_of, make_database, writing

REJECTED = "; the settings stay as they were"


def reload(service: Service) -> dict[str, object]:
    count = len(service.events("reloaded"))
    service.signal(signal.SIGHUP)
    return service.wait_for("reloaded", count=count + 1)


def rejected(service: Service) -> str:
    count = len(service.events("settings_rejected"))
    service.signal(signal.SIGHUP)
    line = service.wait_for("settings_rejected", count=count + 1)
    assert line["level"] == "WARNING"
    assert line["message"].endswith(REJECTED)
    return str(line["message"])


def test_unchanged_settings_change_nothing(runner: Runner) -> None:
    service = runner.start()
    assert "nothing has changed" in str(reload(service)["message"])
    assert service.stop() == 0


def test_the_probes_change(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"}, watch={"hold_warning": "0s"})
    service = runner.start()
    database = crashed.put(runner.root / "x.db")
    service.wait_for("held", database=database)
    runner.configure(owner={"locks": "auto"})
    assert "owner" in str(reload(service)["message"])
    service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_verifications_that_wait_are_done(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"verify": "quick"})
    databases = [crashed.put(runner.root / f"s{number}" / "x.db") for number in range(8)]
    for database in databases:
        contents = bytearray(crashed.database)
        for page in range(len(contents) // 1024 - 40, len(contents) // 1024):  # which the journal does not hold
            contents[page * 1024] = 0xFF
        database.write_bytes(contents)
    service = runner.start(wait=None)
    service.wait_for("recovered", count=len(databases))
    runner.configure(recovery={"verify": "quick", "workers": 3})
    reload(service)
    service.wait_for("corrupt", count=len(databases))
    assert service.stop() == 0


def test_the_tree_changes(runner: Runner, crashed: CrashedPair, tmp_path: Path) -> None:
    service = runner.start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    runner.configure(tree={"root": str(elsewhere), "databases": ["out*.db"]})
    reload(service)
    left, ours = crashed.put(elsewhere / "inbound.db"), crashed.put(elsewhere / "s1" / "outbound.db")
    before = crashed.put(runner.root / "outbound.db")
    service.wait_for("recovered", database=ours)
    second = Runner.__new__(Runner)
    second.__dict__.update(runner.__dict__, settings=tmp_path / "second.yaml", state=tmp_path / "second-state")
    second.configure(tree={"root": str(elsewhere)})
    assert second.command("run").returncode == 3, "the new tree is ours"
    second.configure()
    other = second.start()
    other.wait_for("recovered", database=before)
    assert other.stop() == 0, "the old one is free"
    assert service.stop() == 0
    assert journal_of(left).exists()


def test_a_tree_that_another_watcher_holds_is_rejected(runner: Runner, tmp_path: Path, crashed: CrashedPair) -> None:
    second = Runner.__new__(Runner)
    taken = tmp_path / "taken"
    taken.mkdir()
    second.__dict__.update(runner.__dict__, settings=tmp_path / "second.yaml", state=tmp_path / "second-state")
    second.configure(tree={"root": str(taken)})
    other = second.start()
    service = runner.start()
    runner.configure(tree={"root": str(taken)})
    assert f"another journal-watcher holds the tree {taken}" in rejected(service)
    service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    assert service.stop() == 0
    assert other.stop() == 0


def test_another_spelling_of_the_same_root_is_no_other_watcher(runner: Runner, tmp_path: Path) -> None:
    service = runner.start()
    (tmp_path / "link").symlink_to(runner.root)
    runner.configure(tree={"root": str(tmp_path / "link")})
    reload(service)
    database = runner.root / "x.db"
    make_database(database)
    crash(database)
    service.wait_for("recovered", database=tmp_path / "link" / "x.db")
    assert service.stop() == 0


def test_a_missing_new_root_is_waited_for(runner: Runner, tmp_path: Path, crashed: CrashedPair) -> None:
    service = runner.start()
    runner.configure(tree={"root": str(tmp_path / "later")})
    reload(service)
    service.wait_for("root_missing")
    database = crashed.put(tmp_path / "later" / "x.db")
    service.wait_for("root_back")
    service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_snapshots_and_limits_change(runner: Runner, crashed: CrashedPair) -> None:
    service = runner.start()
    database = runner.root / "x.db"
    crashed.put(database)
    assert service.wait_for("recovered", count=1)["snapshot"]
    runner.configure(recovery={"snapshot": None})
    reload(service)
    crashed.put(database)
    assert service.wait_for("recovered", count=2)["snapshot"] is None
    runner.configure(recovery={"max_journal_size": 1024})
    reload(service)
    crashed.put(database)
    assert "recovery.max_journal_size" in service.wait_for("refused", database=database)["message"]
    assert service.stop() == 0


def test_the_watch_changes(runner: Runner) -> None:
    service = runner.start()
    wait_until(lambda: runner.json("status")["watch"]["backend"] == "inotify" or sys.platform != "linux")
    runner.configure(watch={"backend": "polling", "sweep_interval": "600ms"})
    sweeps = len(service.events("sweep"))
    reload(service)
    service.wait_for("sweep", count=sweeps + 3)
    wait_until(lambda: runner.json("status")["watch"]["backend"] == "polling")
    assert service.stop() == 0


def test_the_history_changes(runner: Runner, crashed: CrashedPair) -> None:
    service = runner.start()
    for number in range(4):
        service.wait_for("recovered", database=crashed.put(runner.root / f"{number}.db"))
    wait_until(lambda: len(runner.json("history")) == 4)
    runner.configure(history={"keep": 2})
    reload(service)
    service.wait_for("recovered", database=crashed.put(runner.root / "4.db"))
    wait_until(lambda: [Path(each["database"]).name for each in runner.json("history")] == ["4.db", "3.db"])
    assert service.stop() == 0


def test_the_log_changes(runner: Runner, tmp_path: Path) -> None:
    service = runner.start()
    runner.configure(log={"level": "INFO", "file": str(tmp_path / "service.log")})
    reload(service)
    sweeps = len(service.events("sweep"))
    runner.configure(log={"level": "INFO", "file": str(tmp_path / "service.log"), "json": False})
    service.signal(signal.SIGHUP)
    wait_until(lambda: any("reloaded" in line and not line.startswith("{") for line in service.raw))
    assert len(service.events("sweep")) == sweeps, "a sweep is told at DEBUG only"
    assert service.stop() == 0
    assert "stopped" in service.raw[-1]
    assert not service.raw[-1].startswith("{")
    assert (tmp_path / "service.log").read_text().splitlines()[-1] == service.raw[-1].strip()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tree: {root: [}", "line 1"),
        ("", "tree.root: this key is required"),
        ("tree: {root: tree}\nwatch: {sweep_intervall: 1s}\n", "did you mean watch.sweep_interval?"),
        ("\0", "a control character"),
        (None, "there is no such file"),
    ],
)
def test_a_bad_file_leaves_the_settings_as_they_were(
    runner: Runner, crashed: CrashedPair, text: str | None, word: str
) -> None:
    service = runner.start()
    if text is None:
        runner.settings.unlink()
    else:
        runner.settings.write_text(text)
    message = rejected(service)
    assert word in message
    assert str(runner.settings) in message
    assert message.count(str(runner.settings)) == 1
    service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    runner.configure()
    reload(service)
    service.wait_for("recovered", database=crashed.put(runner.root / "y.db"))
    assert service.stop() == 0


@pytest.mark.parametrize("changed", [{"instance": "another"}, {"state_dir": "another"}])
def test_who_it_is_does_not_change_while_it_runs(runner: Runner, changed: dict[str, str]) -> None:
    service = runner.start()
    settings = json.loads(json.dumps({"tree": {"root": str(runner.root)}, "log": {"json": True}})) | {
        "state_dir": str(runner.state)
    }
    runner.settings.write_text(json.dumps(settings | changed))
    assert "state_dir and instance are taken at the start only" in rejected(service)
    assert service.stop() == 0


def test_counts_go_on_over_a_reload(runner: Runner, crashed: CrashedPair) -> None:
    service = runner.start()
    service.wait_for("recovered", database=crashed.put(runner.root / "x.db"))
    runner.configure(watch={"sweep_interval": "10s"})
    reload(service)
    service.wait_for("recovered", database=crashed.put(runner.root / "y.db"))
    wait_until(lambda: runner.json("status")["recoveries"] == {"recovered": 2})
    assert service.stop() == 0


def test_a_live_writer_is_waited_for_over_a_reload(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        service = runner.start()
        service.wait_for("owner_alive")
        runner.configure(recovery={"workers": 1})
        reload(service)
        service.wait_for("owner_alive", count=2)
        writer.kill()
        service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_no_crash_is_missed_while_settings_are_reloaded_again_and_again(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(watch={"sweep_interval": "1h"})
    service = runner.start()
    databases = [runner.root / f"s{number:03}" / "x.db" for number in range(60)]
    stop = threading.Event()

    def reload_again_and_again() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # Written in one step: half a file would be rejected, which is another test's business.
            draft = runner.settings.with_name("draft.yaml")
            draft.write_text(json.dumps(_settings(runner, workers=1 + number % 4)))
            draft.replace(runner.settings)
            count = len(service.events("reloaded"))
            service.signal(signal.SIGHUP)
            service.wait_for("reloaded", count=count + 1)

    def _settings(runner: Runner, workers: int) -> dict[str, object]:
        return {
            "tree": {"root": str(runner.root)},
            "state_dir": str(runner.state),
            "log": {"json": True, "level": "DEBUG"},
            "watch": {"sweep_interval": "1h"},
            "recovery": {"workers": workers},
        }

    reloading = threading.Thread(target=reload_again_and_again)
    reloading.start()
    try:
        for number, database in enumerate(databases):
            crashed.put(database)
            if number % 6 == 5:
                service.wait_for("reloaded", count=number // 6 + 1)
        for database in databases:
            service.wait_for("recovered", database=database)
    finally:
        stop.set()
        reloading.join()
    assert service.stop() == 0
    assert all(database.read_bytes() == crashed.recovered for database in databases)
    assert not service.events("settings_rejected")
    told = [each["database"] for each in service.events("recovered")]
    assert sorted(told) == sorted(map(str, databases)), "each one once"
    with closing(sqlite3.connect(runner.state / "history.db")) as connection:
        assert connection.execute("SELECT count(*) FROM history").fetchone() == (len(databases),)


def test_real_crashes_are_recovered_while_settings_are_reloaded(runner: Runner) -> None:
    service = runner.start()
    for round_ in range(5):
        database = runner.root / f"{round_}.db"
        make_database(database)
        with writing(database) as writer:
            writer.tell("begin")
            runner.configure(recovery={"workers": 1 + round_ % 4})
            service.signal(signal.SIGHUP)
            writer.kill()
        service.wait_for("recovered", database=database)
        assert count_read_only(database) == ROWS
    assert service.stop() == 0


def test_the_settings_file_may_be_replaced_by_a_rename(runner: Runner) -> None:
    service = runner.start()
    replacement = runner.settings.with_name("new.yaml")
    shutil.copy(runner.settings, replacement)
    replacement.write_text(replacement.read_text() + "recovery: {workers: 2}\n")
    replacement.replace(runner.settings)
    assert "recovery" in str(reload(service)["message"])
    assert service.stop() == 0


def test_a_reload_leaves_no_descriptor_or_thread_behind(runner: Runner) -> None:
    service = runner.start()
    process = Path(f"/proc/{service.process.pid}")
    if not process.exists():
        pytest.skip("counting descriptors wants /proc")

    def counts() -> tuple[int, int]:
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    def is_watching() -> bool:
        return bool(json.loads((runner.state / "status.json").read_text())["watch"]["directories"])

    most = (0, 0)
    for number in range(8):
        runner.configure(recovery={"workers": 4}, watch={"sweep_interval": f"{number + 20}s"})
        sweeps = len(service.events("sweep"))
        reload(service)
        service.wait_for("sweep", count=sweeps + 1)
        wait_until(is_watching)
        if number < 4:
            most = max(most, counts())
    wait_until(lambda: all(now <= then for now, then in zip(counts(), most, strict=True)))
    assert service.stop() == 0


def test_environment_overrides_hold_over_a_reload(runner: Runner, crashed: CrashedPair) -> None:
    service = runner.start(environ={"JOURNAL_WATCHER__TREE__DATABASES": '["only.db"]'})
    runner.configure(watch={"sweep_interval": "10s"})
    reload(service)
    left = crashed.put(runner.root / "x.db")
    service.wait_for("recovered", database=crashed.put(runner.root / "only.db"))
    assert service.stop() == 0
    assert journal_of(left).exists()


def test_a_reload_while_a_command_hangs_does_not_wait_for_it(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"command": {"argv": ["sleep", "600"], "timeout": "10m"}, "locks": "off"})
    database = crashed.put(runner.root / "x.db")
    service = runner.start()
    wait_until(lambda: subprocess.run(["pgrep", "-P", str(service.process.pid)], check=False).returncode == 0)
    runner.configure()
    reload(service)
    service.wait_for("recovered", database=database)
    assert service.stop() == 0
