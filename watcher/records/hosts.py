"""By which names we may be asked: a web site can point a name of its own at our address (DNS rebinding), and read by
the browser of whoever has it open. It cannot choose what that browser says in Host."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from socket import socket

__all__ = ["Refused", "is_loopback", "is_ours", "misdirected", "misdirection"]

_LOCAL = "localhost"
_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(?::[0-9]*)?")
"""RFC 9110, 7.2: a host, and perhaps a port of digits."""


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """Why an answer is refused, in one line for the person in front of the browser."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


def misdirection(headers: Mapping[str, str], hosts: Collection[str]) -> Refused | None:
    """Why a question that has come to a loopback address is not answered, whatever it is about; None where it may be.

    A scraper or a probe of this machine asks by an address or as localhost, and an old one names no host. A browser
    always names one.

    Args:
        headers: by their names in lower case.
        hosts: the names of `metrics.hosts`, in lower case.
    """
    host = headers.get("host")
    return None if host is None or is_ours(host, hosts) else misdirected("Nothing is told")


def is_loopback(listening: socket) -> bool:
    """Whether only this machine reaches what listens there: nobody needs a name for it then."""
    return ip_address(listening.getsockname()[0]).is_loopback


def misdirected(what: str) -> Refused:
    """The refusal of a name that is not ours, with the remedy; `what` is how it begins."""
    return Refused(
        HTTPStatus.MISDIRECTED_REQUEST,
        f"{what} under this name: add it to metrics.hosts in the settings, or use the IP address.",
    )


def is_ours(host: str, hosts: Collection[str]) -> bool:
    """Whether this Host header is an address, or a name that is ours."""
    parsed = _HOST.fullmatch(host)
    if parsed is None:
        return False
    name = parsed[1].lower().removesuffix(".")
    return _is_address(name) or name in {_LOCAL, *hosts}


def _is_address(name: str) -> bool:
    """Whether it is an IP address as URLs write it: nobody can point one of those anywhere."""
    is_bracketed = name.startswith("[") and name.endswith("]")
    try:
        return (ip_address(name[1:-1] if is_bracketed else name).version == 6) is is_bracketed
    except ValueError:
        return False
