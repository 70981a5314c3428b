"""The README's NanoClaw section, followed from its first line to its last with a real engine, by somebody whose home is
empty."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import TestEngine
from tests.readme import block
from tests.running import wait_until
from tests.test_readme import clone, environment
from tests.writers import journal_of

pytest_plugins = ["tests.engine_fixtures"]

NANOCLAW = "NanoClaw, step by step"
LABELS = {"nanoclaw-session": "s1", "nanoclaw-group": "main", "nanoclaw-role": "agent"}
UNDER_S = 120.0


@contextmanager
def left_running(script: str, directory: Path, environ: Mapping[str, str], log: Path) -> Iterator[None]:
    """A shell that runs it, in a process group that is ended at the end."""
    with log.open("w") as file:
        argv = ["sh", "-ec", script]
        shell = subprocess.Popen(argv, cwd=directory, env=environ, stderr=file, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(30)


@pytest.mark.timeout(300)
def test_nanoclaw_step_by_step(docker_engine: TestEngine, tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed")
    repository = clone(tmp_path / "clone")
    environ = environment(tmp_path / "home") | {
        "JW": str(repository),
        "DOCKER_HOST": docker_engine.address,
        "PATH": os.environ["PATH"],
    }
    home = tmp_path / "nanoclaw"
    session = home / "data" / "v2-sessions" / "main" / "s1"
    session.mkdir(parents=True)
    try:
        docker_engine.write(session, labels=LABELS, remove=True)
        began = time.monotonic()
        install, run, kill, _ = (block("sh", NANOCLAW, number).text for number in (1, 2, 3, 4))

        checked = subprocess.run(
            ["sh", "-ec", install], cwd=home, env=environ, check=False, capture_output=True, text=True, timeout=240
        )
        assert "nanoclaw-session" in checked.stdout, checked.stdout + checked.stderr
        assert checked.returncode == 0, checked.stdout + checked.stderr
        log = tmp_path / "log"
        with left_running(run, home, environ, log):
            wait_until(lambda: "started" in log.read_text())
            assert journal_of(session / "outbound.db").exists()
            killing, history = kill.splitlines()
            subprocess.run(["sh", "-ec", killing], cwd=home, env=environ, check=True, capture_output=True)
            wait_until(lambda: "recovered" in log.read_text())
            took_s = time.monotonic() - began
            told = subprocess.run(
                ["sh", "-ec", history], cwd=home, env=environ, check=True, capture_output=True, text=True
            )
        assert re.search(r"recovered\t\d+\t[\d.]+ ms\tmain/s1/outbound\.db", told.stdout), told.stdout
        assert not journal_of(session / "outbound.db").exists()
        print(f"install to first recovery: {took_s:.1f} s")
        assert took_s < UNDER_S
    finally:
        docker_engine.clean()


@pytest.mark.parametrize(("listed", "status"), [('[{"nanoclaw-session":"s1"}]', 0), ("[]", 1), (None, 2)])
def test_the_program_for_apples_containers_answers(listed: str | None, status: int, tmp_path: Path) -> None:
    """With a stand-in for Apple's tool, which runs nowhere but there."""
    program, tool = tmp_path / "alive.sh", tmp_path / "container"
    program.write_text(block("sh", NANOCLAW, 4).text, encoding="utf-8")
    tool.write_text(f"#!/bin/sh\n{'exit 1' if listed is None else f'echo {json.dumps(listed)}'}\n", encoding="utf-8")
    for each in (program, tool):
        each.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run([program, "s1"], env=environ, check=False).returncode == status
