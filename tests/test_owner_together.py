"""The probes together, as `explain` shows them and as the service acts by them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import Runner
from tests.test_owner_processes import WAITING, running
from tests.writers import ROWS, count_read_only, crash, make_database
from watcher.owner.processes import process_of

NO_SECOND_LOOK = """
from watcher import cli, reconciler
reconciler.Reconciler._look_again = lambda self, place, known, for_s, most_s: most_s
cli.main()
"""
"""The service without the slow second look, which would come after a second, and then less often."""
NO_ENGINE = {"engine": "unix:///nonexistent/docker.sock", "timeout": "1s"}


@pytest.fixture
def database(runner: Runner) -> Path:
    """With a hot journal, whose writer is gone."""
    made = runner.root / "outbound.db"
    make_database(made)
    crash(made)
    return made


def verdicts(told: dict[str, Any]) -> dict[str, str]:
    return {each["probe"]: each["verdict"] for each in told["owner"]["evidence"]}


def test_a_pid_file_that_names_a_dead_process_lets_it_be_recovered(runner: Runner, database: Path) -> None:
    runner.configure(owner={"pid_file": ".writer.pid"})
    (runner.root / ".writer.pid").write_text(str(2**22 + 1))
    told = runner.json("explain", database)
    assert verdicts(told) == {"boot": "silent", "locks": "exited", "pid_file": "exited"}
    assert told["decision"] == "recover"


def test_a_pid_file_that_holds_no_pid_holds_it_and_says_so(runner: Runner, database: Path) -> None:
    runner.configure(owner={"pid_file": ".writer.pid"})
    (runner.root / ".writer.pid").write_text("starting")
    told = runner.json("explain", database)
    assert verdicts(told)["pid_file"] == "unknown"
    assert (told["decision"], told["reason"]) == ("hold", ".writer.pid: holds no pid")
    done = runner.command("recover")
    assert (done.returncode, "held" in done.stdout) == (1, True)


def test_beside_a_container_a_pid_may_say_alive(runner: Runner, database: Path) -> None:
    runner.configure(owner={"pid_file": ".writer.pid", "container": NO_ENGINE})
    (runner.root / ".writer.pid").write_text(str(os.getpid()))
    told = runner.json("explain", database)
    assert verdicts(told)["pid_file"] == "alive"
    assert (told["owner"]["verdict"], told["decision"]) == ("alive", "wait")


def test_beside_a_container_a_pid_never_says_exited(runner: Runner, database: Path) -> None:
    """It is one of the container's own pid namespace, and here somebody else's, or nobody's."""
    runner.configure(owner={"locks": "off", "pid_file": ".writer.pid", "container": NO_ENGINE})
    (runner.root / ".writer.pid").write_text(str(2**22 + 1))
    told = runner.json("explain", database)
    assert verdicts(told) == {"boot": "silent", "pid_file": "silent", "container": "unknown"}
    assert told["decision"] == "hold"


def test_the_exit_of_the_process_that_a_pid_file_names_is_noticed_at_once(runner: Runner, database: Path) -> None:
    """Nothing happens to any file then: it is the pidfd that tells."""
    runner.configure(owner={"pid_file": ".writer.pid"}, watch={"sweep_interval": "1h"})
    with running(WAITING) as owner:
        found = process_of(owner.pid)
        assert found is not None
        text = json.dumps({"pid": owner.pid, "start_ticks": found.start_ticks})
        (runner.root / ".writer.pid").write_text(text)
        service = runner.start(argv=(sys.executable, "-c", NO_SECOND_LOOK))
        alive = service.wait_for("owner_alive", database=database)
        (pid_file,) = [each for each in alive["evidence"] if each["probe"] == "pid_file"]
        assert pid_file["detail"] == f".writer.pid names pid {owner.pid}, which runs"
        assert not service.events("recovered")
        owner.kill()
        service.wait_for("recovered", database=database)
    assert count_read_only(database) == ROWS
