"""run: its start, its end, and who may not start beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.crashlab.sessions import Bytes
from tests.running import DEADLINE_S, WITHOUT_PRIVILEGES, Runner, Service, free_port, wait_until
from tests.writers import CrashedPair, journal_of, recover

STOPS_WITHIN_S = 15.0
"""Five seconds are promised, of a machine that has time; what is waited for here lasts a minute at least."""


def stops(service: Service, number: int = signal.SIGTERM) -> float:
    """Send the signal; how long the service took to end, with status 0."""
    began = time.monotonic()
    service.signal(number)
    assert service.process.wait(DEADLINE_S) == 0
    took_s = time.monotonic() - began
    service.stop()  # to the end of its log
    return took_s


def large_crash(database: Path, pages: int) -> None:
    """A killed transaction that has journalled so many pages of 4 KiB."""
    writer = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA synchronous = OFF')\n"
        "c.execute('CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)')\n"
        "c.execute('BEGIN')\n"
        "c.executemany('INSERT INTO t VALUES (?, zeroblob(4000))', ((n,) for n in range(int(sys.argv[2]))))\n"
        "c.execute('COMMIT')\n"
        "c.execute('PRAGMA cache_size = 10')\n"
        "c.execute('BEGIN')\n"
        "c.execute('UPDATE t SET body = randomblob(4000)')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", writer, str(database), str(pages)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert journal_of(database).stat().st_size > pages * 4096


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_status_zero_when_asked_to(runner: Runner, number: int) -> None:
    service = runner.start()
    assert stops(service, number) < STOPS_WITHIN_S
    assert service.wait_for("stopped") == service.events()[-1]


def test_its_first_line_says_what_it_watches(runner: Runner) -> None:
    runner.configure(instance="nanoclaw")
    service = runner.start()
    first = service.events()[0]
    assert (first["event"], first["level"], first["instance"]) == ("started", "INFO", "nanoclaw")
    assert first["tree"] == str(runner.root)
    assert first["pid"] == service.process.pid
    for word in (str(runner.root), str(runner.state), "locks"):
        assert word in first["message"]


def test_a_second_signal_does_no_harm(runner: Runner) -> None:
    service = runner.start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        service.signal(number)
    assert service.process.wait(20) == 0


def test_it_ends_in_time_while_a_large_database_is_recovered(runner: Runner, tmp_path: Path) -> None:
    runner.configure(recovery={"snapshot": None})
    database = runner.root / "large.db"
    large_crash(database, 20_000)
    left = Bytes.of(database)
    oracle = left.put(tmp_path / "oracle.db")
    recover(oracle)
    service = in_the_middle(runner, database, left)
    assert stops(service) < STOPS_WITHIN_S
    again = runner.start()
    wait_until(lambda: not journal_of(database).exists())
    assert database.read_bytes() == oracle.read_bytes()
    assert again.stop() == 0


def in_the_middle(runner: Runner, database: Path, left: Bytes) -> Service:
    """A service that has begun to write this database: once more from the crash on, where it was through before that
    was seen."""
    for _ in range(20):
        left.put(database)
        service = _writing(runner, database)
        if journal_of(database).exists():
            return service
        assert service.stop() == 0
    pytest.fail("it was through each time")


def _writing(runner: Runner, database: Path) -> Service:
    """A service that has begun to write this database, or has even been through."""
    before = database.stat().st_mtime_ns
    service = runner.start(wait=None)
    wait_until(lambda: database.stat().st_mtime_ns != before or not journal_of(database).exists())
    return service


def test_killed_in_the_middle_of_a_recovery_it_loses_nothing(runner: Runner, tmp_path: Path) -> None:
    database = runner.root / "large.db"
    large_crash(database, 20_000)
    left = Bytes.of(database)
    oracle = left.put(tmp_path / "oracle.db")
    recover(oracle)
    in_the_middle(runner, database, left).kill()
    for _ in range(2):
        _writing(runner, database).kill()
    service = runner.start()
    wait_until(lambda: not journal_of(database).exists())
    assert database.read_bytes() == oracle.read_bytes()
    assert service.stop() == 0


def test_it_ends_in_time_while_a_command_hangs(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"command": {"argv": ["sleep", "600"], "timeout": "10m"}})
    for number in range(8):
        crashed.put(runner.root / f"s{number}" / "x.db")
    service = runner.start(wait="sweep")

    def children() -> list[str]:
        found = subprocess.run(["pgrep", "-P", str(service.process.pid)], capture_output=True, text=True, check=False)
        return found.stdout.split()

    hanging = wait_until(children)
    assert stops(service) < STOPS_WITHIN_S
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in hanging))
    assert not [each for each in service.events() if each["level"] == "ERROR"]


def test_it_ends_in_time_while_the_engine_hangs(runner: Runner, crashed: CrashedPair, tmp_path: Path) -> None:
    address = tmp_path / "engine.sock"
    with closing(socket.socket(socket.AF_UNIX)) as engine:
        engine.bind(str(address))
        engine.listen()  # and that is all it ever does
        runner.configure(owner={"container": {"engine": f"unix://{address}", "timeout": "1m"}})
        for number in range(8):
            crashed.put(runner.root / f"s{number}" / "x.db")
        service = runner.start(wait="sweep")
        assert stops(service) < STOPS_WITHIN_S
    assert not [each for each in service.events() if each["level"] == "ERROR"]
    assert not service.events("recovered")


def test_its_state_is_whole_after_it_was_stopped_at_any_moment(runner: Runner, crashed: CrashedPair) -> None:
    for round_ in range(4):
        for number in range(40):
            crashed.put(runner.root / f"s{number:02}" / "x.db")
        service = runner.start(wait="started")
        service.wait_for("recovered", count=1 + 3 * round_)
        assert stops(service) < STOPS_WITHIN_S
        told = len(service.events("recovered"))
        status = json.loads((runner.state / "status.json").read_text())
        assert status["pid"] == service.process.pid
        with closing(sqlite3.connect(runner.state / "history.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (kept,) = connection.execute("SELECT count(*) FROM history WHERE outcome = 'recovered'").fetchone()
        assert kept == told
        (runner.state / "history.db").unlink()
        assert not [each for each in os.listdir(runner.state) if "unfinished" in each]


def test_a_second_service_on_the_same_state_is_turned_away(runner: Runner) -> None:
    first = runner.start()
    done = runner.command("run")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"journal-watcher: another journal-watcher is running here (pid {first.process.pid})\n"
    assert first.stop() == 0


@pytest.mark.parametrize("spelled", ["itself", "by_a_link", "with_dots"])
def test_a_second_service_on_the_same_tree_is_turned_away(runner: Runner, tmp_path: Path, spelled: str) -> None:
    first = runner.start()
    (tmp_path / "link").symlink_to(runner.root)
    root = {"itself": runner.root, "by_a_link": tmp_path / "link", "with_dots": tmp_path / "state" / ".." / "tree"}
    second = Runner.__new__(Runner)
    second.__dict__.update(runner.__dict__, settings=tmp_path / "second.yaml", state=tmp_path / "second-state")
    second.configure(tree={"root": str(root[spelled])})
    done = second.command("run")
    assert (done.returncode, done.stdout) == (3, "")
    assert "another journal-watcher holds the tree" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert first.stop() == 0
    service = second.start()
    assert service.stop() == 0, "the tree is free again"


def test_a_killed_service_leaves_no_lock_behind(runner: Runner) -> None:
    runner.start().kill()
    assert runner.start().stop() == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tree: {root: tree}\nrecovry: {}\n", "did you mean recovery?"),
        ("tree: [", "line 1"),
        ("", "tree.root: this key is required"),
        ("tree: {root: tree}\nstate_dir: tree/state\n", "state_dir"),
    ],
)
def test_bad_settings_are_status_two(runner: Runner, text: str, word: str) -> None:
    runner.settings.write_text(text)
    done = runner.command("run")
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert all(line.startswith("journal-watcher: ") for line in done.stderr.splitlines())


def test_a_missing_settings_file_says_how_to_make_one(runner: Runner) -> None:
    runner.settings.unlink()
    done = runner.command("run")
    assert done.returncode == 2
    assert f"{runner.settings}: there is no such file" in done.stderr
    example = done.stderr.strip().rpartition("one line: ")[2]
    runner.settings.write_text(example.replace("/where/the/sessions/are", str(runner.root)))
    assert runner.command("check").returncode == 0


def test_a_state_dir_of_somebody_else_is_status_one(runner: Runner) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory to another user wants root")
    runner.state.mkdir(mode=0o700)
    os.chown(runner.state, 65_534, 65_534)
    done = runner.command("run")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{runner.state} belongs to uid 65534" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_state_dir_that_cannot_be_made_is_status_one(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runner.state = tmp_path / "file" / "state"
    runner.configure()
    done = runner.command("run")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot use {runner.state} as state directory" in done.stderr


@pytest.mark.parametrize("descriptors", [8, 11, 12])
def test_a_start_with_too_few_descriptors_ends_with_what_to_do(runner: Runner, descriptors: int) -> None:
    runner.configure(metrics={"listen": f"127.0.0.1:{free_port()}"})
    argv = ("prlimit", f"--nofile={descriptors}", sys.executable, "-m", "watcher")
    service = runner.start(argv=argv, wait=None)
    assert service.process.wait(DEADLINE_S) == 1
    service.stop()
    (told,) = [line for line in service.raw if not line.startswith("{")]
    assert told == (
        "journal-watcher: the start needs more than we have: Too many open files; raise our limit of open files"
        " (ulimit -n, in a unit LimitNOFILE=), and start again\n"
    )


def test_a_closed_stderr_is_no_reason_to_fail(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(log={"file": str(runner.settings.parent / "service.log")})
    database = crashed.put(runner.root / "x.db")
    argv = ["sh", "-c", 'exec "$@" 2>&- 1>&- 0<&-', "sh", sys.executable, "-m", "watcher", "run"]
    with subprocess.Popen([*argv, "-c", str(runner.settings)]) as process:
        wait_until(lambda: not journal_of(database).exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert database.read_bytes() == crashed.recovered
    lines = (runner.settings.parent / "service.log").read_text().splitlines()
    assert [json.loads(lines[0])["event"], json.loads(lines[-1])["event"]] == ["started", "stopped"]


def test_a_terminal_that_has_gone_does_not_end_it(runner: Runner, crashed: CrashedPair) -> None:
    ours, theirs = os.pipe()
    argv = [sys.executable, "-m", "watcher", "run", "-c", str(runner.settings)]
    with subprocess.Popen(argv, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 1)
        os.close(ours)
        database = crashed.put(runner.root / "x.db")
        wait_until(lambda: not journal_of(database).exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_it_is_quiet_while_nothing_happens(runner: Runner) -> None:
    for number in range(20):
        (runner.root / f"s{number}").mkdir()
    service = runner.start()
    wait_until(lambda: (runner.state / "status.json").exists() and b'"last_sweep": "' in _status(runner))

    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{service.process.pid}/task").iterdir():
            words = (task / "status").read_text().split()
            total += int(words[words.index("voluntary_ctxt_switches:") + 1])
        return total

    def wake_ups_within(seconds: float) -> int:
        before = switches()
        time.sleep(seconds)  # what is measured
        return switches() - before

    # Between two sweeps no thread wakes up; and when the first one is over, nobody can tell from outside.
    wait_until(lambda: wake_ups_within(3) <= 2)
    assert service.stop() == 0


def _status(runner: Runner) -> bytes:
    return (runner.state / "status.json").read_bytes()


def test_rights_are_told_once_at_the_start(runner: Runner, crashed: CrashedPair) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to another user wants root")
    database = crashed.put(runner.root / "s1" / "x.db")
    for path in (database.parent, database, journal_of(database)):
        os.chown(path, 65_534, 65_534)
    argv = (*WITHOUT_PRIVILEGES, sys.executable, "-m", "watcher")
    service = runner.start(argv=argv)
    line = service.wait_for("not_writable")
    assert line["level"] == "WARNING"
    assert "1 of 1 databases and 1 of 1 directories may not be written by us" in line["message"]
    assert "65534" in line["message"]
    service.wait_for("recovery_failed", database=database)
    assert service.stop() == 0
    assert len(service.events("not_writable")) == 1
