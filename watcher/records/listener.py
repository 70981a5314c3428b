"""A small HTTP server for the few who ask how we are: Prometheus, a kubelet, a person.

Whatever a client does, it costs us little: a few connections at once, a few seconds and kilobytes for each, one answer
and the end of it. No thread wakes up while nobody asks. Nothing that a client sends is kept or logged.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from loguru import logger

from watcher.advice import in_words, is_of_machine
from watcher.records.hosts import is_loopback, misdirection
from watcher.records.outage import Outage

__all__ = ["Listener", "Request", "Response", "Routes", "listening"]

_MOST_AT_ONCE = 8
_WITHIN_S = 5.0
_AGAIN_S = 0.5
"""Where the machine has nothing to answer with."""
_MOST_HEAD = 8192
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks; `headers` by their names in lower case."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, status: HTTPStatus, words: str) -> Response:
        return cls(status, f"{words}\n".encode("utf-8", "backslashreplace"))


Routes = Mapping[str, Callable[[Request], Response]]
"""Who answers, by path. They are called by several threads at once, and within some seconds have an answer."""


class _RefusedError(Exception):
    """A request that nobody is asked about; its answer."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.answer = Response.text(status, status.phrase)


def listening(address: str) -> socket.socket:
    """A socket that listens there, and does not block.

    Args:
        address: `127.0.0.1:9464`, `[::1]:9464`; port 0 for any that is free.

    Raises:
        OSError: the address cannot be had.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    made = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=16)
    made.setblocking(False)
    return made


class Listener:
    """Answers GET and HEAD on one address.

    Args:
        address: `127.0.0.1:9464`, `[::1]:9464`; port 0 for any that is free.
        routes: who answers.
        hosts: the names of `metrics.hosts`.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, address: str, routes: Routes, hosts: Collection[str] = ()) -> None:
        self._routes = routes
        self._address = address
        self._outage = Outage()  # of the thread
        self._socket = listening(address)
        self._hosts = frozenset(hosts) if is_loopback(self._socket) else None
        self._wake_read, self._wake_write = os.pipe()
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let go of the address. An answer under way is given to its end by its own thread."""
        os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        with selectors.PollSelector() as waiting:  # which needs no descriptor of its own: there may be none
            waiting.register(self._socket, selectors.EVENT_READ)
            waiting.register(self._wake_read, selectors.EVENT_READ)
            while all(key.fd != self._wake_read for key, _ in waiting.select()):
                try:
                    connection, _ = self._socket.accept()
                except BlockingIOError:
                    continue  # the client has thought better of it
                except OSError as error:
                    if not is_of_machine(error):
                        time.sleep(0.05)  # a connection that was broken off, as a rule
                        continue
                    self._outage.goes_on(f"{self._address} answers nobody: {in_words(error)}; whoever asks waits")
                    waiting.unregister(self._socket)
                    waiting.select(_AGAIN_S)
                    waiting.register(self._socket, selectors.EVENT_READ)
                    continue
                self._outage.is_over(f"{self._address} answers again")
                self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        if not self._free.acquire(blocking=False):
            connection.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connection,), name="http-answer", daemon=True).start()
        except RuntimeError:  # no more threads to be had
            connection.close()
            self._free.release()

    def _serve(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + _WITHIN_S
        try:
            with contextlib.closing(connection):
                _answer(connection, self._routes, self._hosts, deadline)
        except OSError:
            pass  # the client has gone, or is too slow: there is nobody to tell
        except Exception:  # noqa: BLE001 - the top of a thread; the next question has one of its own
            logger.exception("a question by HTTP was not answered")
        finally:
            self._free.release()


def _answer(connection: socket.socket, routes: Routes, hosts: Collection[str] | None, deadline: float) -> None:
    """Read one question and answer it; it may name any host where `hosts` is None."""
    is_head = False
    try:
        method, request = _parsed(_read_head(connection, deadline))
        is_head = method == "HEAD"
        refused = None if hosts is None else misdirection(request.headers, hosts)
        response = _respond(method, request, routes) if refused is None else Response.text(refused.status, str(refused))
    except _RefusedError as error:
        response = error.answer
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.sendall(head.encode("ascii") + (b"" if is_head else response.body))
    # A close with something unread resets the connection, and the client might lose the answer by that.
    connection.shutdown(socket.SHUT_WR)
    while deadline > time.monotonic() and connection.recv(4096):
        pass


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    head = bytearray()
    while (end := head.find(_END_OF_HEAD)) < 0:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if len(head) > _MOST_HEAD:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        connection.settimeout(left)
        chunk = connection.recv(4096)
        if not chunk:
            raise ConnectionResetError
        head += chunk
    return bytes(head[: end + len(_END_OF_HEAD)])


def _parsed(head: bytes) -> tuple[str, Request]:
    first, _, rest = head.partition(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not parts[1].startswith(b"/"):
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    try:
        method, path = parts[0].decode("ascii"), parts[1].partition(b"?")[0].decode("ascii")
        headers = http.client.parse_headers(io.BytesIO(rest))
    except (UnicodeDecodeError, http.client.HTTPException):
        raise _RefusedError(HTTPStatus.BAD_REQUEST) from None
    if len(headers.get_all("host", [])) > 1:  # RFC 9112, 3.2
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    return method, Request(path, {name.lower(): value for name, value in headers.items()})


def _respond(method: str, request: Request, routes: Routes) -> Response:
    route = routes.get(request.path)
    if route is None:
        return Response.text(HTTPStatus.NOT_FOUND, f"here are {', '.join(sorted(routes))}")
    if method not in {"GET", "HEAD"}:
        raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED)
    return route(request)
