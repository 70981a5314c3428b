"""Why an engine gives no usable answer, and what a person can do about it."""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import BadStatusLine

from watcher.names import printable
from watcher.tree import kind_of

__all__ = ["SILENT_REMEDY", "EngineLostError", "NoEngineError", "RefusedError", "explained", "user_name"]

SILENT_REMEDY = "look at the engine's own log, or restart it"
_OTHER_ADDRESS = "set owner.container.engine, or DOCKER_HOST, to the address of an engine"


@dataclass(eq=False)
class EngineLostError(Exception):
    """The engine gives no usable answer.

    Attributes:
        reason: what happened, in one printable line.
        remedy: what a person can do about it.
        answered: it did answer, but with an error.
        timed_out: it was silent for as long as we waited.
    """

    reason: str
    remedy: str
    answered: bool = False
    timed_out: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


class RefusedError(Exception):
    """The engine's answer is an error."""


class NoEngineError(Exception):
    """Somebody answers, and it is no container engine."""


def user_name() -> str:
    """The user that we run as, by name where it has one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def explained(error: BaseException, address: str, timeout: float) -> EngineLostError:
    """The error as a reason for a person, and its remedy."""
    chain = tuple(_chain(error))
    where = printable(address)
    path = address.removeprefix("unix://") if address.startswith("unix://") else None
    kind = None if path is None else _no_socket(path)
    if kind is not None:
        return EngineLostError(f"what is at {where} is {kind}, not the socket of an engine", _OTHER_ADDRESS)
    if any(isinstance(each, socket.gaierror) for each in chain):
        return EngineLostError(
            f"the name of the host in {where} is not known on this machine",
            "mend it in owner.container.engine or DOCKER_HOST",
        )
    cause = next((each for each in chain if isinstance(each, OSError) and each.errno is not None), None)
    if isinstance(cause, PermissionError):
        remedy = f"let {user_name()} read and write {where}"
        if path is not None:
            remedy = f"add {user_name()} to the group {_group_of(path)} that owns {where}, or run as its owner"
        return EngineLostError(f"the engine at {where} refuses {user_name()}: permission denied", remedy)
    if isinstance(cause, FileNotFoundError):
        return EngineLostError(
            f"there is no engine at {where}: the socket does not exist",
            "start the engine, or set owner.container.engine to the address of its socket",
        )
    if isinstance(cause, ConnectionRefusedError):
        return EngineLostError(f"nobody listens at {where}", "start the engine")
    if any("timeout" in type(each).__name__.lower() for each in chain):
        return EngineLostError(
            f"the engine at {where} does not answer within {timeout:g} s", SILENT_REMEDY, timed_out=True
        )
    if any(isinstance(each, (ConnectionResetError, BrokenPipeError)) for each in chain):
        return EngineLostError(f"the engine at {where} has closed the connection without an answer", SILENT_REMEDY)
    last = printable(" ".join(str(chain[0]).split()))[:300]
    if isinstance(error, NoEngineError) or any(isinstance(each, BadStatusLine) for each in chain):
        said = last if isinstance(error, NoEngineError) else "its answer is no HTTP"
        return EngineLostError(f"what listens at {where} is no container engine: {said}", _OTHER_ADDRESS)
    if address.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        return EngineLostError(
            f"{where} cannot be reached: this installation has no ssh", "pip install 'journal-watcher[ssh]'"
        )
    if type(chain[0]).__module__.startswith("paramiko"):
        return EngineLostError(
            f"no connection to {where}: {last}", f"see that {user_name()} can log in there by ssh without being asked"
        )
    if type(chain[0]).__name__ == "DockerException":  # by the SDK itself, before it has asked anybody
        return EngineLostError(f"{where} is no address of an engine: {last}", _OTHER_ADDRESS)
    if any("SSL" in type(each).__name__ or "TLS" in type(each).__name__ for each in chain):
        return EngineLostError(
            f"no safe connection to {where}: {last}", "see DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or the context's TLS"
        )
    return EngineLostError(
        f"the engine at {where} gives no usable answer: {last}",
        "look at the engine's own log",
        answered=isinstance(error, RefusedError),
    )


def _no_socket(path: str) -> str | None:
    """What is there instead of a socket, in words; None where it is one, or where there is nothing to be seen."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return None if stat.S_ISSOCK(mode) else kind_of(mode)


def _chain(error: object) -> Iterator[BaseException]:
    """The error with all that it was made from: libraries keep the cause in their arguments, or as the context."""
    seen: list[object] = []
    waiting = [error]
    while waiting and len(seen) < 50:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or any(each is other for other in seen):
            continue
        seen.append(each)
        yield each
        waiting += [*each.args, each.__cause__, each.__context__, getattr(each, "reason", None)]


def _group_of(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # a directory on the way is closed to us: whose group, we cannot tell
        return "docker"
    if not status.st_mode & stat.S_IWGRP:
        return "of its owner"
    try:
        return grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        return str(status.st_gid)
