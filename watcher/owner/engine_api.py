"""One connection to a container engine, through the Docker SDK: Docker, and Podman, which serves the same API.

Importing this imports the SDK, which takes a tenth of a second: :mod:`watcher.owner.engine` does so when it connects.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Protocol

import docker
import requests
import urllib3
from docker.context import ContextAPI
from docker.errors import DockerException

from watcher.names import printable
from watcher.owner.engine_errors import EngineLostError, NoEngineError, RefusedError, explained
from watcher.owner.engine_kernel import runs_on_our_kernel
from watcher.owner.engine_model import Container, Details, EngineIdentity, Volume, parse_volumes

__all__ = ["Connection", "EventStream", "address_of"]

_LONGEST_EVENT = 1 << 20
# Podman (4.3) calls a death `died` in its filter and `die` in its answer, and knows `remove` instead of `destroy`; a
# name that an engine does not know matches nothing. `update` may change a restart policy.
_EVENTS = ("die", "died", "kill", "stop", "oom", "destroy", "remove", "pause", "unpause", "start", "restart", "update")


def address_of(engine: str) -> str:
    """Where the engine of the settings is to be found now: `docker` and `podman` depend on the environment.

    Raises:
        EngineLostError: Docker's own configuration names a context that cannot be read.
    """
    if engine == "docker":
        return os.environ.get("DOCKER_HOST") or _docker_context() or "unix:///var/run/docker.sock"
    if engine == "podman":
        return os.environ.get("CONTAINER_HOST") or f"unix://{_podman_socket()}"
    return engine


def _docker_context() -> str | None:
    try:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except (DockerException, OSError, ValueError) as error:
        raise EngineLostError(
            f"Docker's context cannot be read: {printable(str(error))}", "docker context ls"
        ) from error
    return None if context is None else context.Host


def _podman_socket() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    rootless, root = f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"
    own, other = (root, rootless) if os.geteuid() == 0 else (rootless, root)
    return own if os.path.exists(own) or not os.path.exists(other) else other


class Connection:
    """An engine that has answered once. May be used by several threads at once.

    Args:
        engine: `docker`, `podman` or an address.
        timeout: seconds for each answer.
        patience: seconds for the first one.

    Raises:
        EngineLostError: by this and by each method, when the engine gives no usable answer.
    """

    def __init__(self, engine: str, timeout: float, patience: float) -> None:
        self.address = address_of(engine)
        self.timeout = timeout
        self._api = ""
        with _Translated(self):
            self._client = self._connect(engine)
        # Proxies of the environment are not for a socket, and looking for them costs more than the rest of a request.
        self._client.trust_env = not self.address.startswith("unix://")
        with _Translated(self):
            version = self._version(patience)
            self._api = f"v{version['ApiVersion']}/"
            self.identity = EngineIdentity.parse(self._get("info", {}, timeout=patience).json(), version)
        self.ours = runs_on_our_kernel(self.identity, self.address)
        self.podman = self.identity.kind == "Podman"

    def _connect(self, engine: str) -> docker.APIClient:
        # Any version will do here: without one the SDK would ask for it at once, in whole seconds of patience.
        seconds, version = max(1, math.ceil(self.timeout)), "1.41"
        if engine == "docker":
            return docker.from_env(timeout=seconds, version=version).api
        if self.address.startswith("tcp://"):  # DOCKER_CERT_PATH and DOCKER_TLS_VERIFY count for it, too
            environment = {**os.environ, "DOCKER_HOST": self.address}
            return docker.from_env(timeout=seconds, version=version, environment=environment).api
        return docker.APIClient(base_url=self.address, timeout=seconds, version=version)

    def _version(self, patience: float) -> Mapping[str, object]:
        try:
            version = self._get("version", {}, timeout=patience, missing_is_answer=True).json()
        except requests.JSONDecodeError as error:
            raise NoEngineError("its answer is no JSON") from error
        if not isinstance(version, dict) or "ApiVersion" not in version:
            raise NoEngineError("it does not say which version it has")
        return version

    def containers(self) -> tuple[Container, ...]:
        """All containers, whatever their state."""
        with _Translated(self):
            entries = self._get("containers/json", {"all": "1"}).json()
            if not isinstance(entries, list):
                raise RefusedError("its list of containers is no list")
            return tuple(Container.parse(entry) for entry in entries)

    def inspect(self, container_id: str) -> Details | None:
        """One container; None where there is none of this id.

        Docker answers from the container itself, under its lock: where a death is being dealt with, the answer waits
        for that, while the list still says `running` (measured: 7 to 23 ms after `die`).
        """
        # libpod's answer has the OCI runtime, for which Podman's imitation of Docker says "oci" whatever it is.
        path = f"libpod/containers/{container_id}/json" if self.podman else f"containers/{container_id}/json"
        with _Translated(self):
            response = self._get(path, {}, missing_is_answer=True)
            return None if response.status_code != 200 else Details.parse(response.json())

    def volumes(self) -> Mapping[str, Volume]:
        """All named volumes."""
        with _Translated(self):
            return parse_volumes(self._get("volumes", {}).json())

    def subscribe(self, patience: float) -> EventStream:
        """The events of containers from now on. The engine has taken the subscription when this returns.

        Args:
            patience: seconds for the beginning of the answer; its events may be as far apart as they like.
        """
        filters = json.dumps({"type": ["container"], "event": list(_EVENTS)})
        with _Translated(self):
            response = self._get("events", {"filters": filters}, stream=True, timeout=patience)
            return EventStream(self, response)

    def close(self) -> None:
        self._client.close()

    def _get(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        timeout: float | None = None,
        stream: bool = False,
        missing_is_answer: bool = False,
    ) -> requests.Response:
        response = self._client.get(
            f"{self._client.base_url}/{'v4.0.0/' if path.startswith('libpod/') else self._api}{path}",
            params=query,
            stream=stream,
            timeout=self.timeout if timeout is None else timeout,
        )
        if response.status_code == 200 or (missing_is_answer and _tells_of_none(response)):
            return response
        text = "" if stream else response.text[:300].strip()
        raise RefusedError(f"it answers {response.status_code} {response.reason}{f': {text}' if text else ''}")


def _tells_of_none(response: requests.Response) -> bool:
    # Podman says 500 where a container vanishes while it looks: "… does not exist in database: no such container".
    return response.status_code == 404 or (response.status_code == 500 and "no such container" in response.text)


class EventStream:
    """Iterates over the events as parsed JSON objects, until it is closed or the engine ends it."""

    def __init__(self, connection: Connection, response: requests.Response) -> None:
        self._connection = connection
        self._response = response
        source = getattr(response.raw, "connection", None)
        self._socket: _Socket | None = None if source is None else source.sock
        if self._socket is None:
            response.close()
            raise ValueError("the engine ended its stream of events at once")
        self._socket.settimeout(None)  # an engine may have nothing to tell for days
        if connection.address.startswith("tcp://"):
            # A host that goes away says nothing either: found out within half a minute.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[Mapping[str, object]]]:
        """The events in the groups in which they arrived: Podman delivers several at once, in one chunk."""
        decode, parse, text = codecs.getincrementaldecoder("utf-8")("replace").decode, json.JSONDecoder().raw_decode, ""
        with _Translated(self._connection):
            for chunk in self._response.iter_content(None):
                text = (text + decode(chunk)).lstrip()
                batch: list[Mapping[str, object]] = []
                while text:
                    try:
                        event, end = parse(text)
                    except json.JSONDecodeError as error:
                        if len(text) > _LONGEST_EVENT:
                            raise ValueError("an event of the engine never ends") from error
                        break  # the rest of it is in the next chunk
                    text = text[end:].lstrip()
                    if isinstance(event, dict):
                        batch.append(event)
                if batch:
                    yield batch

    def close(self) -> None:
        """End the iteration in whichever thread is in it. May be called from any thread, more than once."""
        assert self._socket is not None
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake a thread that reads
        except OSError:
            pass  # it is no longer connected: there is nothing to wake
        self._response.close()


class _Socket(Protocol):
    def settimeout(self, value: float | None, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...


class _Translated:
    """Inside it, whatever the SDK, the HTTP library or the system raises comes out as EngineLostError."""

    def __init__(self, connection: Connection) -> None:
        self._address = connection.address
        self._timeout = connection.timeout

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and isinstance(error, _failures()):
            raise explained(error, self._address, self._timeout) from error


def _failures() -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = [DockerException, requests.RequestException, urllib3.exceptions.HTTPError]
    found += [OSError, ValueError, RefusedError, NoEngineError]
    paramiko = sys.modules.get("paramiko")  # the SDK's way to ssh:// addresses, where it is installed
    if paramiko is not None:
        found.append(paramiko.SSHException)
    return tuple(found)
