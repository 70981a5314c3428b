"""The HTTP listener, asked by a browser's library, by hand, and by those who mean it no good."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.running import wait_until
from watcher.records import listener
from watcher.records.listener import Listener, Request, Response


def broken(_: Request) -> Response:
    raise RuntimeError("a defect")


@pytest.fixture
def serving() -> Iterator[Listener]:
    release = threading.Event()
    routes = {
        "/metrics": lambda request: Response.text(HTTPStatus.OK, f"for {request.headers.get('accept', 'all')}"),
        "/healthz": lambda _: Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "waiting for /tree\udcff"),
        "/broken": broken,
        "/slow": lambda _: Response.text(HTTPStatus.OK, str(release.wait(20))),
    }
    made = Listener("127.0.0.1:0", routes)
    made.start()
    yield made
    release.set()
    made.stop()


def ask(serving: Listener, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode("utf-8")
    finally:
        connection.close()


def connected(serving: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", serving.port), timeout=10)


def said_to(serving: Listener, words: bytes) -> bytes:
    """All that comes back for these bytes."""
    with connected(serving) as client:
        client.sendall(words)
        answer = b""
        try:
            while chunk := client.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def test_it_answers_by_path(serving: Listener) -> None:
    assert ask(serving, "/metrics") == (200, "for all\n")
    assert ask(serving, "/metrics?x=1", accept="text/plain") == (200, "for text/plain\n")
    assert ask(serving, "/healthz") == (503, "waiting for /tree\\udcff\n")
    assert ask(serving, "/") == (404, "here are /broken, /healthz, /metrics, /slow\n")


def test_a_head_has_no_body(serving: Listener) -> None:
    assert ask(serving, "/metrics", "HEAD") == (200, "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_by_it(serving: Listener, method: str) -> None:
    assert ask(serving, "/metrics", method)[0] == 405


def test_a_defect_behind_it_costs_one_answer(serving: Listener) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(serving, "/broken")
    assert ask(serving, "/metrics")[0] == 200


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (b"\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics SMTP\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(200)) + b"\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: evil.example\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n .evil.example\r\n\r\n", b"421"),
        (b"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", b"421"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000, b"431"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"z" * 100_000, b"405"),
    ],
)
def test_what_is_no_question_is_refused(serving: Listener, words: bytes, status: bytes) -> None:
    assert said_to(serving, words).split(b" ")[1] == status


def test_a_client_that_says_nothing_or_one_byte_at_a_time_is_dropped(
    serving: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_WITHIN_S", 0.5)
    began = time.monotonic()
    with connected(serving) as silent, connected(serving) as slow:
        slow.settimeout(0.05)
        dropped = False
        while not dropped:
            assert time.monotonic() - began < 10
            try:
                slow.sendall(b"G")
                dropped = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                dropped = True
        assert silent.recv(1) == b""


def test_a_crowd_is_turned_away_and_takes_no_memory(serving: Listener) -> None:
    crowd = [connected(serving) for _ in range(50)]
    try:
        crowd[-1].settimeout(10)
        assert crowd[-1].recv(1) == b""
        assert threading.active_count() < 30
    finally:
        for each in crowd:
            each.close()
    wait_until(lambda: _answers(serving))


def _answers(serving: Listener) -> bool:
    try:
        return ask(serving, "/metrics")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_an_answer_that_takes_long_holds_up_no_other(serving: Listener) -> None:
    with connected(serving) as slow:
        slow.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert ask(serving, "/metrics")[0] == 200


def test_an_address_that_is_taken_is_an_error(serving: Listener) -> None:
    with pytest.raises(OSError, match="in use"):
        Listener(f"127.0.0.1:{serving.port}", {})


def test_it_lets_go_of_its_address_and_its_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    first = Listener("127.0.0.1:0", {})
    first.start()
    port = first.port
    assert ask(first, "/")[0] == 404
    first.stop()
    second = Listener(f"127.0.0.1:{port}", {})
    second.stop()
    if before:
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def has_ipv6() -> bool:
    try:
        Listener("[::1]:0", {}).stop()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "status"),
    [("127.0.0.1", 421), ("127.1.2.3", 421), *([("[::1]", 421)] if has_ipv6() else []), ("0.0.0.0", 404)],
)
def test_only_on_a_loopback_address_names_are_refused(address: str, status: int) -> None:
    made = Listener(f"{address}:0", {})
    made.start()
    host = "127.0.0.1" if address == "0.0.0.0" else address.strip("[]")
    connection = http.client.HTTPConnection(host, made.port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": "scraped.example"})
        assert connection.getresponse().status == status
    finally:
        connection.close()
        made.stop()


def test_ipv6_is_an_address_too() -> None:
    try:
        made = Listener("[::1]:0", {})
    except OSError:
        pytest.skip("this machine has no IPv6")
    made.stop()
