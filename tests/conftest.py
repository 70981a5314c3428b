"""What all tests share. Importing the rollback configures SQLite's log, which must come before any connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import watcher.rollback  # noqa: F401 - see above
from tests.hostile import Host, unchanged
from tests.running import Runner
from tests.writers import CrashedPair


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("journal-watcher", "runs that are short unless told otherwise")
    group.addoption("--seed", type=int, default=1, help="of all that is drawn at random")
    group.addoption("--kills", type=int, default=40, help="writers that are killed at random")
    group.addoption("--live-rounds", type=int, default=10, help="live writers that must be left alone")
    group.addoption("--service-kills", type=int, default=12, help="kills of the service in large recoveries")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A tree and its settings, with the means to run the real service and the real commands on it."""
    made = Runner(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> CrashedPair:
    """What a killed writer has left behind, to be put wherever a test wants it."""
    return CrashedPair.make(tmp_path_factory.mktemp("crashed"))


@pytest.fixture
def host(tmp_path: Path, crashed: CrashedPair) -> Iterator[Host]:
    """A tree that agents write, on a host whose own files must be at the end what they were at the beginning."""
    made = Host(tmp_path, crashed)
    with unchanged(made.outside):
        yield made


def pytest_itemcollected(item: pytest.Item) -> None:
    """The tests of container engines share theirs, hang it and restart it: one worker runs them, one after another."""
    if "container" in item.path.stem or item.path.stem == "test_systemd":
        item.add_marker(pytest.mark.xdist_group("engines"))
