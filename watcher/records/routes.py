"""Who answers by HTTP: /metrics, /livez and /healthz."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from watcher.records.listener import Request, Response, Routes
from watcher.records.metrics import Metrics, Reading
from watcher.records.tally import Tally

__all__ = ["routes"]

_SHOWS_ITSELF_WITHIN_S = 2.0


def routes(
    *, read: Callable[[], Reading], tally: Tally, turns: Callable[[float], bool], troubles: Callable[[], list[str]]
) -> Routes:
    """All of them.

    Args:
        read: the service at this moment.
        tally: what it has counted.
        turns: whether the reconciler turns; given the seconds in which it must show itself.
        troubles: why the service cannot do its job now, each in one printable line; empty where it can.
    """
    metrics = Metrics(read, tally)

    def tell_metrics(request: Request) -> Response:
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)

    def tell_alive(_: Request) -> Response:
        if turns(_SHOWS_ITSELF_WITHIN_S):
            return Response.text(HTTPStatus.OK, "ok")
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "the reconciler is hung")

    def tell_health(request: Request) -> Response:
        alive = tell_alive(request)
        if alive.status is not HTTPStatus.OK:
            return alive
        found = troubles()
        if found:
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(found))
        return alive

    return {"/metrics": tell_metrics, "/livez": tell_alive, "/healthz": tell_health}
