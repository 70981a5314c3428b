"""What a service manager is told, read from a NOTIFY_SOCKET of our own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.service_manager import manager
from watcher.service_manager import ServiceManager, is_its_journal


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message_is_a_datagram(tmp_path: Path, abstract: bool) -> None:
    with manager(tmp_path, abstract=abstract) as listening:
        told = ServiceManager(listening.environ)
        assert told.listens
        told.ready("watching /tree")
        assert listening.receive(1) == {"READY": "1", "STATUS": "watching /tree"}
        told.stopping()
        assert listening.receive(1) == {"STOPPING": "1", "STATUS": "stopping"}
        told.keep_alive()
        assert listening.receive(1) == {"WATCHDOG": "1"}
        told.give_up()
        assert listening.receive(1) == {"WATCHDOG": "trigger"}


def test_a_reload_has_its_moment(tmp_path: Path) -> None:
    with manager(tmp_path) as listening:
        before = time.monotonic_ns() // 1000
        ServiceManager(listening.environ).reloading()
        message = listening.receive(1)
    assert message is not None
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_is_sent_when_it_changes_and_is_one_line(tmp_path: Path) -> None:
    with manager(tmp_path) as listening:
        told = ServiceManager(listening.environ)
        told.status("one")
        told.status("one")
        told.status("two\nREADY=1 \udcff" + "x" * 1000)
        assert listening.receive(1) == {"STATUS": "one"}
        message = listening.receive(1)
        assert message is not None
        assert set(message) == {"STATUS"}
        assert message["STATUS"].startswith(r"two\nREADY=1 \xffxxx")


@pytest.mark.parametrize("address", ["", "@", "/", "relative", "vsock:2:1234", "/no/such/socket"])
def test_nobody_who_listens_is_no_error(address: str) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": address})
    told.ready("x")
    told.stopping()


def test_no_service_manager_is_no_error() -> None:
    told = ServiceManager({"WATCHDOG_USEC": "1000"})
    told.keep_alive()
    assert not told.listens
    assert told.watchdog_s is None


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_where_it_names_us(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_s == watchdog_s


def test_a_stream_is_the_journals_where_the_variable_names_it(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "wb") as stream, open(tmp_path / "other", "wb") as other:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_its_journal(stream.fileno(), environ)
        assert not is_its_journal(other.fileno(), environ)
        assert not is_its_journal(stream.fileno(), {})
        assert not is_its_journal(stream.fileno(), {"JOURNAL_STREAM": "x"})
    assert not is_its_journal(10_000, environ)
