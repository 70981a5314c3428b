"""The service as its operator meets it: a service manager, a Prometheus, a pager, a signal."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running import DEADLINE_S, Runner, Service, free_port, wait_until
from tests.service_manager import Manager, manager
from tests.test_command import script
from tests.writers import crash, make_database, writing, writing_unseen

HUNG = """
import sys, threading
from watcher import cli, reconciler
original = reconciler.Reconciler._reconcile
def hang(self, place):
    original(self, place)
    if place.name == "hang.db":
        threading.Event().wait()
reconciler.Reconciler._reconcile = hang
cli.main()
"""
"""The service with a fault in it: a worker that has looked at `hang.db` never comes back."""


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scrape(port: int) -> dict[str, float]:
    status, text = ask(port, "/metrics")
    assert status == 200
    return {
        " ".join([sample.name.removeprefix("journal_watcher_"), *sorted(sample.labels.values())]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def database_in(runner: Runner, name: str = "outbound.db") -> Path:
    database = runner.root / name
    make_database(database)
    return database


# --- the service manager ---


def test_it_is_ready_says_how_it_goes_reloads_and_stops(runner: Runner, tmp_path: Path) -> None:
    with manager(tmp_path) as listening:
        service = runner.start(environ=listening.environ)
        listening.wait_for("READY=1")
        crash(database_in(runner))
        wait_until(lambda: "1 recovered" in listening.wait_for("STATUS=watching")["STATUS"])
        service.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC" in listening.wait_for("RELOADING=1")
        listening.wait_for("READY=1")
        assert service.stop() == 0
        listening.wait_for("STOPPING=1")


def test_a_missing_root_keeps_nothing_from_being_ready(runner: Runner, tmp_path: Path) -> None:
    runner.root.rmdir()
    with manager(tmp_path) as listening:
        runner.start(environ=listening.environ, wait="root_missing")
        assert listening.wait_for("READY=1")["STATUS"] == f"waiting for {runner.root}"
        runner.root.mkdir()
        listening.wait_for("STATUS=watching")


def test_settings_that_are_rejected_end_a_reload_too(runner: Runner, tmp_path: Path) -> None:
    with manager(tmp_path) as listening:
        service = runner.start(environ=listening.environ)
        listening.wait_for("READY=1")
        runner.settings.write_text("nonsense: 1")
        service.signal(signal.SIGHUP)
        listening.wait_for("RELOADING=1")
        listening.wait_for("READY=1")
        service.wait_for("settings_rejected")


def test_the_watchdog_is_told_that_we_live_and_nothing_else_wakes_us(runner: Runner, tmp_path: Path) -> None:
    runner.configure(watch={"sweep_interval": "1h"})
    with manager(tmp_path, watchdog_s=1.5) as listening:
        service = runner.start(environ=listening.environ)
        ready = listening.wait_for("READY=1")
        if not ready["STATUS"].startswith("watching 1 directory"):  # after this nothing changes any more
            listening.wait_for("STATUS=watching 1 directory")
        listening.wait_for("WATCHDOG=1")
        woken = wakings(service)
        told = [sorted(listening.receive(DEADLINE_S) or ()) for _ in range(5)]
        assert told.count(["STATUS"]) <= 1, "the first one may come late"
        assert told.count(["WATCHDOG"]) + told.count(["STATUS"]) == 5
        if woken is not None:
            assert (wakings(service) or 0) - woken < 60  # main thread and one worker, twice a turn at the most


def wakings(service: Service) -> int | None:
    """How often the threads of the service have been woken so far; None where nobody counts."""
    tasks = Path(f"/proc/{service.process.pid}/task")
    if not tasks.exists():
        return None
    lines = [line for task in tasks.iterdir() for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def has_stopped(service: Service) -> bool:
    """Whether every thread of it has: each stops on its way out of the kernel."""
    return {each["State"] for each in statuses(service)} == {"T"}


def statuses(service: Service) -> list[dict[str, str]]:
    """The first word of each line of `status` of each of its threads (proc(5))."""
    texts = [each.read_text() for each in Path(f"/proc/{service.process.pid}/task").glob("*/status")]
    return [{name: value.split()[0] for name, value in re.findall(r"(?m)^(\w+):\t *(\S.*)$", text)} for text in texts]


def hung(runner: Runner, listening: Manager, workers: int) -> Service:
    """The service with all its workers hung."""
    runner.configure(recovery={"workers": workers, "busy_timeout": 0})
    for number in range(workers):
        (runner.root / str(number)).mkdir()
        (runner.root / str(number) / "hang.db").touch()
        (runner.root / str(number) / "hang.db-journal").touch()
    return runner.start(environ=listening.environ, argv=(sys.executable, "-c", HUNG), wait="started")


def test_a_hung_reconciler_is_noticed_told_and_given_up(runner: Runner, tmp_path: Path) -> None:
    with manager(tmp_path, watchdog_s=3.0) as listening:
        service = hung(runner, listening, workers=2)
        listening.wait_for("WATCHDOG=trigger")
        line = service.wait_for("hung")
        assert line["level"] == "CRITICAL"
        assert "worker-0 is at" in line["message"]
        assert "hang.db for" in line["message"]
        lived = [moment for moment, message in listening.messages if message.get("WATCHDOG") == "1"]
        # One each second for as long as a look may last, which is five; and the second worker may begin late.
        assert len(lived) <= 2 + 5 + 5
        service.signal(signal.SIGABRT)  # what systemd does then
        assert service.process.wait(20) == -signal.SIGABRT
        wait_until(lambda: "in _reconcile" in "".join(service.raw) or "in hang" in "".join(service.raw))


def test_one_hung_worker_among_others_is_no_hung_reconciler(runner: Runner, tmp_path: Path) -> None:
    runner.configure(recovery={"workers": 2})
    (runner.root / "hang.db").touch()
    (runner.root / "hang.db-journal").touch()
    with manager(tmp_path, watchdog_s=0.9) as listening:
        service = runner.start(environ=listening.environ, argv=(sys.executable, "-c", HUNG))
        for _ in range(6):
            listening.wait_for("WATCHDOG=1")
        assert not service.events("hung")


def test_a_stopped_process_says_nothing(runner: Runner, tmp_path: Path) -> None:
    with manager(tmp_path, watchdog_s=0.6) as listening:
        service = runner.start(environ=listening.environ)
        listening.wait_for("WATCHDOG=1")
        service.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: has_stopped(service))
            while listening.receive(0.1) is not None:
                pass
            assert listening.receive(1.5) is None
        finally:
            service.signal(signal.SIGCONT)
        listening.wait_for("WATCHDOG=1")


# --- what it serves ---


def test_a_scrape_tells_of_what_has_happened(runner: Runner) -> None:
    port = free_port()
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"}, tree={"layout": "{session}"})
    (runner.root / "s1").mkdir()
    database = database_in(runner, "s1/outbound.db")
    service = runner.start()
    crash(database)
    service.wait_for("recovered", database=database)
    exactly = {
        "recoveries_total recovered": 1,
        "session_recoveries_total recovered s1": 1,
        "recovery_seconds_count": 1,
        "watched_directories": 2,
        "root_up": 1,
    }
    least = {"journals_found_total hot": 1, "verdicts_total exited locks": 2, "sweep_seconds_count": 1}
    samples: dict[str, float] = {}

    def are_told() -> bool:
        samples.update(scrape(port))
        return exactly.items() <= samples.items() and all(samples.get(name, 0) >= least[name] for name in least)

    try:
        wait_until(are_told)
    finally:
        print(samples)
    assert "engine_up" not in samples
    assert ask(port, "/livez") == (200, "ok\n")
    assert ask(port, "/healthz") == (200, "ok\n")


def test_without_a_root_or_an_engine_it_lives_and_is_not_well(runner: Runner) -> None:
    port = free_port()
    nobody = {"engine": f"unix://{runner.root}.sock", "timeout": "100ms"}
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"}, owner={"container": nobody})
    runner.root.rmdir()
    runner.start(wait="engine_lost")
    both = f"waiting for {runner.root}\nthe container engine at unix://{runner.root}.sock does not answer\n"
    wait_until(lambda: ask(port, "/healthz") == (503, both))
    assert ask(port, "/livez") == (200, "ok\n")
    wait_until(lambda: {"root_up": 0, "engine_up": 0}.items() <= scrape(port).items())


def test_a_hung_reconciler_does_not_live(runner: Runner, tmp_path: Path) -> None:
    port = free_port()
    with manager(tmp_path) as listening:
        listening.environ["JOURNAL_WATCHER__METRICS__LISTEN"] = f"127.0.0.1:{port}"
        service = hung(runner, listening, workers=1)
        listening.wait_for("READY=1")
        wait_until(lambda: ask(port, "/livez") == (503, "the reconciler is hung\n"), 40)
        assert ask(port, "/healthz")[0] == 503
        assert ask(port, "/metrics")[0] == 200
        service.kill()


def test_a_reload_changes_the_address_and_keeps_the_counts(runner: Runner) -> None:
    before, after = free_port(), free_port()
    runner.configure(metrics={"listen": f"127.0.0.1:{before}"})
    database = database_in(runner)
    service = runner.start()
    crash(database)
    service.wait_for("recovered")
    runner.configure(metrics={"listen": f"127.0.0.1:{after}"})
    service.signal(signal.SIGHUP)
    service.wait_for("reloaded")
    wait_until(lambda: scrape(after)["recoveries_total recovered"] == 1)
    with pytest.raises(ConnectionRefusedError):
        ask(before, "/metrics")
    runner.configure()
    service.signal(signal.SIGHUP)
    service.wait_for("reloaded", count=2)
    with pytest.raises(ConnectionRefusedError):
        ask(after, "/metrics")


def test_an_address_that_is_taken_costs_no_recovery_and_is_rejected_at_a_reload(runner: Runner) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        runner.configure(metrics={"listen": taken})
        (check,) = [each for each in runner.json("check")["checks"] if each["name"] == "metrics"]
        assert check["level"] == "error"
        service = runner.start()
        assert f"cannot listen on {taken}" in service.wait_for("http_failed")["message"]
        database = database_in(runner)
        crash(database)
        service.wait_for("recovered")
        port = free_port()
        runner.configure(metrics={"listen": f"127.0.0.1:{port}"})
        service.signal(signal.SIGHUP)
        service.wait_for("reloaded")
        assert ask(port, "/livez")[0] == 200
        runner.configure(metrics={"listen": taken}, watch={"hold_warning": "5m"})
        service.signal(signal.SIGHUP)
        service.wait_for("settings_rejected")
        assert ask(port, "/livez")[0] == 200


def test_prometheus_is_not_even_loaded_where_nothing_is_served(runner: Runner) -> None:
    runner.configure(hooks={"held": ["true"]})
    service = runner.start()
    maps = Path(f"/proc/{service.process.pid}/maps")
    if maps.exists():
        assert "prometheus" not in maps.read_text()
    program = "import sys, watcher.service; sys.exit(any(each.startswith('prometheus') for each in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- hooks ---


def told_to(hook: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in hook.read_text().splitlines()] if hook.exists() else []


def test_hooks_are_told_what_history_tells(runner: Runner, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script(tmp_path, f"cat >> {told}")
    runner.configure(
        owner={"locks": "off", "pid_file": ".writer.pid"},
        watch={"hold_warning": "100ms"},
        hooks={"recovered": ["./alive.sh"], "held": ["./alive.sh"]},
    )
    levels = {each["name"]: each["level"] for each in runner.json("check")["checks"]}
    assert (levels["hooks.recovered"], levels["hooks.held"]) == ("ok", "ok")
    database = database_in(runner)
    crash(database)
    runner.start()
    wait_until(lambda: told_to(told))
    with writing_unseen(runner.root / "outbound.db") as writer:
        dead = writer.pid
    (runner.root / ".writer.pid").write_text(str(dead))
    wait_until(lambda: len(told_to(told)) == 2)
    held, recovered = told_to(told)
    assert (held["outcome"], recovered["outcome"]) == ("held", "recovered")
    wait_until(lambda: runner.json("history") == [recovered, held])


def test_a_hook_that_fails_is_a_warning_and_check_knows_one_that_cannot_run(runner: Runner) -> None:
    runner.configure(hooks={"recovered": ["./missing.sh"]})
    (check,) = [each for each in runner.json("check")["checks"] if each["name"] == "hooks.recovered"]
    assert check["level"] == "error"
    assert "there is no" in check["detail"]
    database = database_in(runner)
    service = runner.start()
    crash(database)
    assert service.wait_for("hook_failed", database=database)["level"] == "WARNING"
    assert service.events("recovered")


def test_a_reload_changes_the_hooks(runner: Runner, tmp_path: Path) -> None:
    told = tmp_path / "told"
    database = database_in(runner)
    service = runner.start()
    runner.configure(hooks={"recovered": ["sh", "-c", f"cat >> {told}"]})
    service.signal(signal.SIGHUP)
    service.wait_for("reloaded")
    crash(database)
    wait_until(lambda: told_to(told))


# --- the log ---


def test_sigusr1_tells_the_whole_state_once(runner: Runner) -> None:
    database = database_in(runner)
    with writing(database) as writer:
        writer.tell("begin")
        service = runner.start()
        service.wait_for("owner_alive")
        wait_until(lambda: runner.json("status")["journals"]["waiting"] == 1)
        service.signal(signal.SIGUSR1)
        service.wait_for("state", database=database)
        whole, journal, *_at_work = service.events("state")
        assert whole["level"] == "INFO"
        assert whole["status"]["journals"]["waiting"] == 1
        assert whole["message"].startswith("watching 1 directory of")
        assert journal["decision"] == "wait"
        assert f"pid {writer.pid} holds the writer's lock" in journal["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no journal")
def test_started_by_systemd_its_lines_have_priorities(runner: Runner, tmp_path: Path) -> None:
    runner.configure(log={"json": False})
    stream = tmp_path / "journal"
    with open(stream, "wb") as stderr:
        found = os.fstat(stderr.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "watcher", "run", "-c", str(runner.settings)], stderr=stderr, env=environ
        )
    try:
        wait_until(lambda: "sweep" in stream.read_text())
    finally:
        process.terminate()
        process.wait(20)
    lines = stream.read_text().splitlines()
    assert all(line[0] == "<" and line[2] == ">" for line in lines)
    assert "<6>" in {line[:3] for line in lines if " started " in line}


# --- upgrades ---


def test_a_state_directory_of_a_newer_program_is_refused_in_plain_words(runner: Runner) -> None:
    runner.start().stop()
    (runner.state / "version").write_text("99\n")
    done = runner.command("run")
    assert done.returncode == 1
    assert f"the state directory {runner.state} was written by a newer journal-watcher (layout 99" in done.stderr
    assert "upgrade journal-watcher, or set another state_dir" in done.stderr
