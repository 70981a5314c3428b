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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


# --- the program for Apple's containers, with a stand-in for Apple's tool, which runs nowhere but there ---


@dataclass(frozen=True)
class AliveProgram:
    """`alive.sh` of the README, in a directory that is first on its PATH."""

    directory: Path

    def answers(self, session: str | bytes, listed: object, **environ: str) -> int:
        """Its exit status, where the tool lists this: text as it is, else as JSON; None: it fails."""
        text = listed if isinstance(listed, str) else json.dumps(listed, ensure_ascii="ascii" in environ)
        (self.directory / "listed").write_text(text, encoding="utf-8")
        tool = (
            "exit 1"
            if listed is None
            else f'[ "$*" = "list --all --format json" ] && exec /bin/cat {self.directory}/listed'
        )
        self.put("container", tool)
        path = {"PATH": f"{self.directory}:{os.environ['PATH']}"}
        argv = [self.directory / "alive.sh", session]
        return subprocess.run(argv, env=os.environ | path | environ, check=False, stderr=subprocess.DEVNULL).returncode

    def put(self, name: str, script: str) -> None:
        (self.directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.directory / name).chmod(0o755)


@pytest.fixture
def alive_program(tmp_path: Path) -> AliveProgram:
    made = AliveProgram(tmp_path)
    made.put("alive.sh", block("sh", NANOCLAW, 4).text.removeprefix("#!/bin/sh\n"))
    return made


def apples(session: str | None, *, status: object = "running", mounts: Sequence[str] = ()) -> dict[str, object]:
    """A container as Apple's tool lists it."""
    labels = {"nanoclaw-role": "agent"} | ({} if session is None else {"nanoclaw-session": session})
    shared = [{"type": {"virtiofs": {}}, "source": source, "destination": "/workspace"} for source in mounts]
    return {"status": status, "networks": [], "configuration": {"id": "x", "labels": labels, "mounts": shared}}


ODD = [
    *("s1", "a[b", "a[1]", "x*y", 'q"r', "it's", "back\\slash", "back\\", "\\n", "grüße", "日本", "😀", "a b", "$(id)"),
    *("-x", "--", ".", "^s", "s$", "a/b", "new\nline", "trailing\n", "\t", "%s", "s1\u034f", "nanoclaw-session"),
]


@pytest.mark.parametrize("session", ODD)
@pytest.mark.parametrize(
    "environ",
    [{}, {"ascii": "yes"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["utf-8", "escaped", "no locale"],
)
def test_a_live_session_of_any_name_is_alive_to_the_program(
    alive_program: AliveProgram, session: str, environ: dict[str, str]
) -> None:
    others = [apples("other"), apples(None, mounts=["/tree/main/other"])]
    assert alive_program.answers(session, [*others, apples(session)], **environ) == 0
    assert alive_program.answers(session, others, **environ) == 1


def test_the_program_knows_a_session_by_its_mount_and_as_a_mac_compares_names(alive_program: AliveProgram) -> None:
    assert alive_program.answers("s1", [apples(None, mounts=["/tree/main/s1"])]) == 0
    assert alive_program.answers("s1", [apples(None, mounts=["/tree/main/s1x"])]) == 1
    assert alive_program.answers("gru\u0308ße", [apples("GRÜSSE")]) == 0


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        ("running", 0),
        ("stopping", 0),
        ("unknown", 0),
        ("stopped", 1),
        ({"state": "stopping"}, 0),
        ({"state": "stopped"}, 1),
    ],
)
def test_what_is_about_to_stop_still_lives_to_the_program(
    alive_program: AliveProgram, status: object, answer: int
) -> None:
    assert alive_program.answers("s1", [apples("s1", status=status)]) == answer


UNEXPECTED: list[object] = [
    *(
        None,
        "",
        "[",
        "{}",
        "null",
        '"s1"',
        "[] []",
        "[]\n[",
        "[[]]",
        [None],
        [{}],
        [{"labels": {}}],
        {"containers": []},
    ),
    *([{"configuration": {}, "status": "running"}], [{"configuration": {"labels": None, "mounts": []}, "status": ""}]),
    *([apples("other"), {"id": "s1"}], [{**apples("other"), "status": {}}], json.dumps([apples("other")])[:-1]),
    [{"configuration": {"labels": {"nanoclaw-session": 1}, "mounts": []}, "status": "running"}],
]


@pytest.mark.parametrize("listed", UNEXPECTED, ids=repr)
def test_an_answer_that_is_not_understood_is_none_to_the_program(alive_program: AliveProgram, listed: object) -> None:
    assert alive_program.answers("s1", listed) == 2


def test_a_name_that_no_list_can_hold_is_no_proof_to_the_program(alive_program: AliveProgram) -> None:
    assert alive_program.answers(b"s\xff", [apples("other")]) == 2
    assert alive_program.answers("", []) == 2


@pytest.mark.parametrize("python", [None, "exit 1", "kill -9 $$", "echo broken; exit 1"])
def test_without_a_python_the_program_knows_nothing(alive_program: AliveProgram, python: str | None) -> None:
    """A Mac without the developer tools has a `python3` that fails."""
    if python is not None:
        alive_program.put("python3", python)
    assert alive_program.answers("s1", [], PATH=str(alive_program.directory)) == 2


def test_the_program_says_that_none_lives_where_none_is_listed(alive_program: AliveProgram) -> None:
    assert alive_program.answers("s1", []) == 1
