"""A command that is forked from a process that has loaded the package does what one that is executed does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.prepared import Prepared
from tests.running import Runner
from tests.writers import CrashedPair

if sys.platform != "linux":
    pytest.skip("it is for Linux", allow_module_level=True)


@pytest.fixture
def prepared() -> Iterator[Prepared]:
    made = Prepared()
    yield made
    made.close()


@pytest.mark.parametrize("words", [("scan",), ("scan", "--json"), ("explain", "s1/x.db"), ("scan", "--nonsense")])
def test_it_says_the_same_and_ends_with_the_same_status(
    prepared: Prepared, runner: Runner, crashed: CrashedPair, words: tuple[str, ...]
) -> None:
    crashed.put(runner.root / "s1" / "x.db")
    argv = [words[0], "-c", str(runner.settings), *words[1:]]
    executed = subprocess.run(
        [sys.executable, "-m", "watcher", *argv], capture_output=True, text=True, check=False, timeout=60
    )
    forked = prepared.run(argv, None, 60.0)
    assert forked is not None
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        executed.returncode,
        executed.stdout,
        executed.stderr,
    )


def test_each_is_a_process_of_its_own_in_the_directory_that_it_is_given(prepared: Prepared, runner: Runner) -> None:
    for directory, status in ((runner.root.parent, 0), (runner.root, 2)):  # there are no settings in the tree
        forked = prepared.run(["scan"], directory, 60.0)
        assert forked is not None
        assert forked.returncode == status, forked.stderr


def test_one_that_does_not_end_is_killed_and_the_next_one_runs(prepared: Prepared, runner: Runner) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        prepared.run(["status", "--watch", "-c", str(runner.settings)], None, 2.0)
    forked = prepared.run(["scan", "-c", str(runner.settings)], None, 60.0)
    assert forked is not None
    assert forked.returncode == 0, forked.stderr
