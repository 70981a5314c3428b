"""Who may read the page.

Nobody has to log in, so the browser of an operator is what stands between us and every web site that is open in it. A
site can make that browser ask us, by our address, or by a name of its own that it points at our address (DNS
rebinding). It cannot choose what the browser says in Host, Origin and Sec-Fetch-Site, and by these it is told apart.
What can choose them (a program of this machine) needs no browser.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus

from watcher.records.hosts import Refused, is_ours, misdirected

__all__ = ["HEADERS", "refusal"]

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


def refusal(path: str, headers: Mapping[str, str], hosts: Collection[str]) -> Refused | None:
    """Why this question about the page is not answered; None where it is.

    Args:
        path: what is asked for; `/` alone may be come to from elsewhere, by a link.
        headers: by their names in lower case.
        hosts: the names of `metrics.hosts`, in lower case.
    """
    host = headers.get("host", "")
    if not is_ours(host, hosts):
        return misdirected("The page is not shown")
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
        return Refused(HTTPStatus.FORBIDDEN, "The page is not for other web sites.")
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        visits = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not (visits and path == "/"):
            return Refused(HTTPStatus.FORBIDDEN, "The page is not for other web sites.")
    return None
