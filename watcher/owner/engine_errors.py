"""Why an engine gives no usable answer, and what a person can do about it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from watcher.names import printable

__all__ = ["EngineLostError", "RefusedError", "explained", "user_name"]


@dataclass(eq=False)
class EngineLostError(Exception):
    """The engine gives no usable answer.

    Attributes:
        reason: what happened, in one printable line.
        remedy: what a person can do about it; empty where nothing better than waiting is known.
        answered: it did answer, but with an error.
        timed_out: it was silent for as long as we waited.
    """

    reason: str
    remedy: str = ""
    answered: bool = False
    timed_out: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class RefusedError(Exception):
    """The engine's answer is an error."""


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
            f"the engine at {where} does not answer within {timeout:g} s",
            "look at the engine's own log, or restart it",
            timed_out=True,
        )
    last = printable(" ".join(str(chain[0]).split()))[:300]
    if any("SSL" in type(each).__name__ or "TLS" in type(each).__name__ for each in chain):
        return EngineLostError(
            f"no safe connection to {where}: {last}", "see DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or the context's TLS"
        )
    return EngineLostError(
        f"the engine at {where} gives no usable answer: {last}",
        "look at the engine's own log",
        answered=isinstance(error, RefusedError),
    )


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
