"""What all tests share. Importing the rollback configures SQLite's log, which must come before any connection."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

import watcher.rollback  # noqa: F401 - see above
from tests.hostile import Host, unchanged
from tests.running import Runner
from tests.writers import CrashedPair

# What a shell starts in the background ignores SIGINT, and all that we start would, too (execve(2)).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


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
    """The tests of an engine share it, hang it and restart it: one worker runs them, one after another."""
    group = _engine_of(item)
    if group is not None:
        item.add_marker(pytest.mark.xdist_group(group))


def _engine_of(item: pytest.Item) -> str | None:
    if item.path.stem == "test_systemd":
        return "systemd"
    assert isinstance(item, pytest.Function)
    if "container" in item.path.stem and hasattr(item, "callspec"):
        for name in ("engine", "kind"):
            if isinstance(kind := item.callspec.params.get(name), str):
                return kind
    return next((kind for kind in ("docker", "podman") if f"{kind}_engine" in item.fixturenames), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may skip, because all that the tests want is there, one that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("JW_TEST_NOTHING_SKIPS") and isinstance(report.longrepr, tuple):
        report.outcome, report.longrepr = "failed", f"it skips, and here nothing may: {report.longrepr[2]}"
    return report
