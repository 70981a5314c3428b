"""HTTP that nobody can be answered by for a while: told once, with what to do, and over by itself."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from tests.running import Runner, Service, free_port, wait_until

HEALS_WITHIN_S = 20.0
"""A sweep and five seconds are promised, of a machine that has time."""

pytestmark = pytest.mark.parametrize("page", [True, False], ids=["page", "metrics"])


@pytest.fixture
def port() -> int:
    return free_port()


def ask(port: int, path: str, timeout_s: float = 10.0) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def answers(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return ask(port, "/livez") == ask(port, "/metrics") == 200
    return False


@contextmanager
def no_descriptors(service: Service) -> Iterator[None]:
    """It may open nothing more, and then as much as before."""
    pid = service.process.pid
    subprocess.run(["prlimit", "--pid", str(pid), "--nofile=3:"], check=True)  # whatever it closes meanwhile
    yield
    if service.process.poll() is None:
        subprocess.run(["prlimit", "--pid", str(pid), "--nofile=1024:"], check=True)


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Another program has the port."""
    with closing(socket.create_server(("127.0.0.1", port))):
        yield


@pytest.mark.parametrize("was_asked", [True, False], ids=["asked", "new"])
def test_without_descriptors_it_answers_later(runner: Runner, port: int, *, page: bool, was_asked: bool) -> None:
    runner.configure(metrics={"listen": f"127.0.0.1:{port}", "page": page}, watch={"sweep_interval": "1h"})
    service = runner.start()
    if was_asked:
        wait_until(lambda: answers(port))
    with no_descriptors(service):
        for _ in range(3):
            with pytest.raises((OSError, http.client.HTTPException)):
                ask(port, "/livez", timeout_s=0.5)
        failed = service.wait_for("http_failed")
        assert failed["level"] == "WARNING"
        assert failed["message"] == (
            f"metrics.listen: 127.0.0.1:{port} answers nobody: Too many open files; raise our limit of open files"
            " (ulimit -n, in a unit LimitNOFILE=); whoever asks waits"
        )
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port, "/livez", timeout_s=2.5)
    wait_until(lambda: answers(port), HEALS_WITHIN_S)
    assert service.wait_for("http_back")["message"] == f"metrics.listen: 127.0.0.1:{port} answers again"
    assert service.stop() == 0
    assert len(service.events("http_failed")) == len(service.events("http_back")) == 1
    assert not service.events("log")
    assert not [line for line in service.raw if not line.startswith("{")]


def test_it_ends_at_once_while_there_are_no_descriptors(runner: Runner, port: int, *, page: bool) -> None:
    runner.configure(metrics={"listen": f"127.0.0.1:{port}", "page": page})
    service = runner.start()
    with no_descriptors(service):
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port, "/livez", timeout_s=0.5)
        service.wait_for("http_failed")
        assert service.stop() == 0


def test_a_port_that_is_free_again_is_taken(runner: Runner, port: int, *, page: bool) -> None:
    runner.configure(metrics={"listen": f"127.0.0.1:{port}", "page": page}, watch={"sweep_interval": "1h"})
    with taken(port):
        service = runner.start()
        started = service.events()[0]
        assert (started["event"], started["page"]) == ("started", None)
        assert str(port) not in started["message"]
        failed = service.wait_for("http_failed")
        assert failed["level"] == "WARNING"
        assert failed["message"] == (
            f"metrics.listen: cannot listen on 127.0.0.1:{port}: Address already in use; end the program that has it,"
            " or change metrics.listen; trying again until then"
        )
    wait_until(lambda: answers(port), HEALS_WITHIN_S)
    back = service.wait_for("http_back")
    assert f"metrics.listen: listening on 127.0.0.1:{port} now" in back["message"]
    assert (f"http://127.0.0.1:{port}/" in back["message"]) is page
    assert service.stop() == 0
    assert len(service.events("http_failed")) == 1


def test_a_port_that_is_still_taken_keeps_no_other_setting_from_holding(
    runner: Runner, port: int, *, page: bool
) -> None:
    metrics = {"listen": f"127.0.0.1:{port}", "page": page}
    runner.configure(metrics=metrics)
    with taken(port):
        service = runner.start()
        service.wait_for("http_failed")
        runner.configure(metrics=metrics, watch={"hold_warning": "5m"})
        service.signal(signal.SIGHUP)
        assert "new settings of watch" in service.wait_for("reloaded")["message"]
    service.wait_for("http_back", deadline_s=HEALS_WITHIN_S)
    assert answers(port)


def test_an_address_that_is_lost_in_a_reload_is_had_again(runner: Runner, port: int, *, page: bool) -> None:
    other = free_port()
    with taken(port):
        runner.configure(metrics={"listen": f"127.0.0.1:{port}", "page": page})
        service = runner.start()
        with taken(other):
            runner.configure(metrics={"listen": f"127.0.0.1:{other}", "page": page})
            service.signal(signal.SIGHUP)
            service.wait_for("settings_rejected")
    service.wait_for("http_back", deadline_s=HEALS_WITHIN_S)
    assert answers(port)
