"""Commands whose output nobody reads on: each ends with the status that it would have had, and silently."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.running import Runner
from tests.terminals import command
from tests.writers import CrashedPair


def unread(*argv: str) -> tuple[int, str]:
    """Its status and its stderr, where the reader of its output has gone before it begins."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(write)
    return done.returncode, done.stderr


def of(runner: Runner, name: str, *arguments: str) -> list[str]:
    return command(name, "-c", str(runner.settings), *arguments)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("name", ["scan", "recover", "history", "explain"])
def test_nothing_stale_is_zero(runner: Runner, name: str, as_json: list[str]) -> None:
    paths = [str(runner.root / "x.db")] if name == "explain" else []
    (runner.root / "x.db").touch()
    assert unread(*of(runner, name, *paths, *as_json)) == (0, "")


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["scan", "--help"]], ids=" ".join)
def test_help_is_zero(argv: list[str]) -> None:
    assert unread(sys.executable, "-m", "watcher", *argv) == (0, "")


@pytest.mark.parametrize("count", [1, 100], ids=["a line", "more than a buffer"])
@pytest.mark.parametrize("name", [["scan"], ["scan", "--json"], ["recover", "--dry-run"]], ids=" ".join)
def test_something_stale_is_still_one(runner: Runner, crashed: CrashedPair, name: list[str], count: int) -> None:
    for number in range(count):
        crashed.put(runner.root / f"s{number}" / f"{'x' * 60}.db")
    assert unread(*of(runner, *name)) == (1, "")


def test_a_service_that_does_not_run_is_still_one(runner: Runner) -> None:
    assert unread(*of(runner, "status")) == (1, "")


def test_an_explanation_of_which_one_line_is_read_is_zero(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    line = '"$@" | head -1 > /dev/null; exit ${PIPESTATUS[0]}'
    argv = ["bash", "-c", line, "bash", *of(runner, "explain", str(database))]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
