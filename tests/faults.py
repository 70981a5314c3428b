"""What every fault has to end in: one message, nothing lost, and a recovery on its own once the fault has gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.crashlab.sessions import Bytes
from tests.running import Runner, Service, wait_until
from tests.writers import CrashedPair, journal_of

SWEEP_S = 0.4
HEALS_WITHIN_S = SWEEP_S + 10.0
"""Five seconds are promised, of a machine that has time; the sweep of a service that is not told otherwise takes 30."""
TRIES = 4
"""As many as a fault lasts at least, where it is tried again and again."""

_AS_NOBODY = """
import codecs, importlib, os, pkgutil, resource, signal
import watcher
for encoding in ("ascii", "idna", "latin-1"):
    codecs.lookup(encoding)
for module in pkgutil.walk_packages(watcher.__path__, "watcher."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from watcher.cli import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
before = resource.getrlimit(resource.RLIMIT_NPROC)
def toggle(_number, _frame):
    now = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, before[1]) if now == before else before)
signal.signal(signal.SIGUSR2, toggle)
if "NO_THREADS" in os.environ:
    toggle(0, None)
main()
"""
AS_NOBODY = (sys.executable, "-c", _AS_NOBODY)
"""The service as a user without any privilege, wherever Python and the tests lie: they are loaded before. SIGUSR2 lets
the kernel refuse it new threads and processes, and a second one grants them again."""


def configure(runner: Runner, **sections: object) -> None:
    """Settings with which a fault is met often, and its end is noticed by the sweep alone at the latest."""
    retry = {"first": "50ms", "max": "200ms"}
    recovery = {"retry": retry} | _mapping(sections.pop("recovery", {}))
    watch = {"sweep_interval": f"{SWEEP_S}s"} | _mapping(sections.pop("watch", {}))
    runner.configure(recovery=recovery, watch=watch, **sections)


def wait_for_tries(runner: Runner, outcome: str, tries: int = TRIES) -> None:
    """Until recoveries of this outcome were tried so often."""
    wait_until(lambda: runner.json("status")["recoveries"].get(outcome, 0) >= tries)


def wait_for_sweeps(service: Service, sweeps: int = 2) -> None:
    """Until everything that is known has been looked at so often."""
    swept = len(service.events("sweep"))
    service.wait_for("sweep", count=swept + sweeps + 1)


def told_once(service: Service, event: str, database: Path) -> dict[str, Any]:
    """The one line of this event about a database. What it says is for a person: what, where, and what comes next."""
    line, *more = [each for each in service.events(event) if each.get("database") == str(database)]
    assert not more, more
    return line


def assert_untouched(database: Path, crashed: CrashedPair) -> None:
    """Both files are as the crash has left them."""
    assert Bytes.of(database) == Bytes(crashed.database, crashed.journal)


def assert_heals(service: Service, database: Path, crashed: CrashedPair, *, count: int = 1) -> None:
    """The fault has gone just now: it is recovered in time, and nothing is missing."""
    service.wait_for("recovered", database=database, count=count, deadline_s=HEALS_WITHIN_S)
    assert not journal_of(database).exists()
    assert database.read_bytes() == crashed.recovered


def remount(mount_point: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(mount_point)], check=True)


def _mapping(section: object) -> dict[str, object]:
    assert isinstance(section, dict)
    return section
