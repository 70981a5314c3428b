"""The collector of a host's pollers, read by Prometheus' own parser."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.writers import make_database, writing_unseen
from watcher import RACED, Poller
from watcher.prometheus import PollerCollector


def told(collector: PollerCollector) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (sample.name.removeprefix("journal_watcher_poller_"), sample.labels["poller"]): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def count(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    return number


def test_polls_races_and_errors_of_one_name_are_told_together(tmp_path: Path) -> None:
    database = tmp_path / "outbound.db"
    make_database(database)
    sound, failing = Poller(database, count), Poller(tmp_path / "missing" / "x.db", count)
    collector = PollerCollector()
    collector.add(sound, "outbound")
    collector.add(failing, "outbound")
    collector.add(Poller(database, count), "inbound")
    sound.poll()
    with pytest.raises(sqlite3.OperationalError):
        failing.poll()
    with writing_unseen(database) as writer:
        writer.tell("begin")
        assert sound.poll() is RACED
    samples = told(collector)
    assert samples["polls_total", "outbound"] == 3
    assert samples["races_total", "outbound"] == 1
    assert samples["errors_total", "outbound"] == 1
    assert samples["streak", "outbound"] == 1
    assert samples["polls_total", "inbound"] == 0


def test_what_a_removed_poller_has_counted_stays(tmp_path: Path) -> None:
    database = tmp_path / "outbound.db"
    make_database(database)
    collector = PollerCollector()
    for _ in range(2):
        poller = Poller(database, count)
        collector.add(poller, "outbound")
        poller.poll()
        collector.remove(poller)
    assert told(collector)["polls_total", "outbound"] == 2
    assert told(collector)["streak", "outbound"] == 0


def test_a_host_that_does_not_want_it_does_not_load_it() -> None:
    program = "import sys, watcher; sys.exit(any(name.startswith('prometheus') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
