"""Who may read the page, and on a loopback address anything else.

Nobody has to log in, so the browser of an operator is what stands between us and every web site that is open in it. A
site can make that browser ask us, by our address, or by a name of its own that it points at our address (DNS
rebinding). It cannot choose what the browser says in Host, Origin and Sec-Fetch-Site, and by these it is told apart.
What can choose them (a program of this machine) needs no browser.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from socket import socket

__all__ = ["HEADERS", "Refused", "is_loopback", "misdirection", "refusal"]

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""What every answer about the page carries: it runs nothing that it did not bring along, and nobody may frame it."""

_LOCAL = "localhost"
_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(?::[0-9]*)?")
"""RFC 9110, 7.2: a host, and perhaps a port of digits."""


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """Why an answer is refused, in one line for the person in front of the browser."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


def refusal(path: str, headers: Mapping[str, str], hosts: Collection[str]) -> Refused | None:
    """Why this question about the page is not answered; None where it is.

    Args:
        path: what is asked for; `/` alone may be come to from elsewhere, by a link.
        headers: by their names in lower case.
        hosts: the names of `metrics.hosts`, in lower case.
    """
    host = headers.get("host", "")
    if not _is_ours(host, hosts):
        return _misdirected("The page is not shown")
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
        return Refused(HTTPStatus.FORBIDDEN, "The page is not for other web sites.")
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        visits = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not (visits and path == "/"):
            return Refused(HTTPStatus.FORBIDDEN, "The page is not for other web sites.")
    return None


def misdirection(headers: Mapping[str, str], hosts: Collection[str]) -> Refused | None:
    """Why a question that has come to a loopback address is not answered, whatever it is about; None where it may be.

    A scraper or a probe of this machine asks by an address or as localhost, and an old one names no host. A browser
    always names one.

    Args:
        headers: by their names in lower case.
        hosts: the names of `metrics.hosts`, in lower case.
    """
    host = headers.get("host")
    return None if host is None or _is_ours(host, hosts) else _misdirected("Nothing is told")


def is_loopback(listening: socket) -> bool:
    """Whether only this machine reaches what listens there: nobody needs a name for it then."""
    address = ip_address(listening.getsockname()[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _misdirected(what: str) -> Refused:
    return Refused(
        HTTPStatus.MISDIRECTED_REQUEST,
        f"{what} under this name: add it to metrics.hosts in the settings, or use the IP address.",
    )


def _is_ours(host: str, hosts: Collection[str]) -> bool:
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
