"""What is where: the page, what belongs to it, and what /metrics and the probes answer, as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from loguru import logger
from starlette.requests import Request as Asked
from starlette.responses import PlainTextResponse
from starlette.responses import Response as Answer

from watcher.page import guard
from watcher.page.stream import Stream, TooManyError
from watcher.page.view import View
from watcher.page.words import filters
from watcher.records.history import HistoryError
from watcher.records.hosts import Refused, misdirection
from watcher.records.listener import Request, Response, Routes

__all__ = ["STREAM", "App"]

STREAM = "/events"

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_MOST_ANSWERS = 2
"""At the same time, of each kind: who asks for one thing in a hundred ways keeps none of the others waiting."""
_MOST_SESSIONS = 50
_MOST_RECOVERIES = 20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")
V = TypeVar("V")


class App:
    """Made and called in the event loop.

    Args:
        routes: who answers beside the page; called in threads.
        view, stream: of the page.
        hosts: the names of `metrics.hosts`.
        is_loopback: whether it is served on this machine alone: then other names are refused beside the page, too.
        older: reads the history, the newest first; called in a thread.
    """

    def __init__(
        self,
        routes: Routes,
        view: View,
        stream: Stream,
        hosts: Collection[str],
        is_loopback: bool,
        older: Callable[[], list[dict[str, object]]],
    ) -> None:
        self._routes = routes
        self._view = view
        self._stream = stream
        self._hosts = frozenset(hosts)
        self._is_loopback = is_loopback
        self._older = older
        self._threads = {path: asyncio.Semaphore(_MOST_ANSWERS) for path in routes}
        self._under_way: dict[str, asyncio.Future[Response]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._static, self._at = _assets()
        environment = Environment(
            loader=PackageLoader("watcher.page"), autoescape=True, undefined=StrictUndefined, auto_reload=False
        )
        environment.filters.update(filters())
        self._template = environment.get_template("page.html")
        self._page: tuple[float, bytes] = (-1e9, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        asked = Asked(scope)
        try:
            answer = await self._answer(asked)
        except Refused as refused:
            answer = _text(refused.status, str(refused))
        except Exception:  # noqa: BLE001 - the top of a question; the next one has one of its own
            logger.exception("a question by HTTP was not answered")
            answer = _text(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.INTERNAL_SERVER_ERROR.phrase)
        if answer is None:
            await self._send_events(receive, send)
            return
        answer.headers.setdefault("Cache-Control", "no-store")
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        await answer(scope, receive, send)

    async def _answer(self, asked: Asked) -> Answer | None:
        """None where it is a stream that is to be sent."""
        path: str = asked.scope["path"]
        route = self._routes.get(path)
        is_page = path in {"/", STREAM} or path in self._static
        misdirected = misdirection(asked.headers, self._hosts) if self._is_loopback and not is_page else None
        if misdirected is not None:
            raise misdirected
        if route is None and not is_page:
            known = ", ".join(sorted(["/", *self._routes]))
            return _text(HTTPStatus.NOT_FOUND, f"here are {known}")
        if asked.method not in {"GET", "HEAD"}:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.METHOD_NOT_ALLOWED.phrase)
        if route is not None:
            return await self._routed(path, asked)
        refused = guard.refusal(path, asked.headers, self._hosts)
        if refused is not None:
            raise refused
        if path == "/":
            return Answer(await self._rendered(), media_type="text/html", headers=dict(guard.HEADERS))
        if path == STREAM:
            return self._events(asked)
        content, media_type = self._static[path]
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Answer(content, media_type=media_type, headers={**guard.HEADERS, **kept})

    # --- metrics and probes ---

    async def _routed(self, path: str, asked: Asked) -> Answer:
        """All who ask the same thing at the same time get the same answer: nobody can keep all threads busy."""
        accept = asked.headers.get("accept", "")
        key = f"{path} {accept}"
        under_way = self._under_way.get(key)
        if under_way is None:
            request = Request(path, dict(asked.headers))
            under_way = asyncio.ensure_future(self._ask(request))
            self._under_way[key] = under_way
            under_way.add_done_callback(lambda _: self._under_way.pop(key, None))
        told = await asyncio.shield(under_way)
        return Answer(told.body, told.status.value, {"Content-Type": told.content_type})

    async def _ask(self, request: Request) -> Response:
        async with self._threads[request.path]:
            return await self._in_thread(lambda: self._routes[request.path](request))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call it in a daemon thread: what hangs there keeps neither the loop nor the process."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def tell(settle: Callable[[V], None], value: V) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(lambda: None if done.done() else settle(value))

        def run() -> None:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - the top of a thread; it is raised where it is waited for
                tell(done.set_exception, error)
            else:
                tell(done.set_result, result)

        threading.Thread(target=run, name="http-answer", daemon=True).start()
        return await done

    # --- the page ---

    async def _rendered(self) -> bytes:
        """The page as it is read before, or without, any script; made a few times a second at the most."""
        await self._have_older()
        self._stream.refresh()
        made_at, page = self._page
        if made_at != self._stream.read_at:
            page = self._template.render(
                view=self._view,
                journals=list(self._view.journals.values()),
                recoveries=sorted(self._view.recoveries, key=lambda each: str(each["time"]), reverse=True),
                most_recoveries=_MOST_RECOVERIES,
                most_sessions=_MOST_SESSIONS,
                at=self._at,
            ).encode()
            self._page = (self._stream.read_at, page)
        return page

    async def _have_older(self) -> None:
        """Begin to read the history where nobody has, and wait for it for a moment: it may come later as well."""
        if self._view.wants_older:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_older())
            await asyncio.wait({self._reading}, timeout=0.1)

    async def _read_older(self) -> None:
        try:
            entries = await self._in_thread(self._older)
        except HistoryError as error:
            logger.warning("the page shows nothing of the history: {}", error)
            entries = []
        self._view.take_older(entries)
        self._stream.renew()

    # --- events ---

    def _events(self, asked: Asked) -> Answer | None:
        try:
            self._stream.check_room()
        except TooManyError:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "as many pages are open as may be")
        if asked.method == "HEAD":
            return Answer(media_type="text/event-stream", headers=dict(guard.HEADERS))
        return None

    async def _send_events(self, receive: Receive, send: Send) -> None:
        await self._have_older()
        sending = asyncio.create_task(self._stream_to(send))
        going = asyncio.create_task(_gone(receive))
        await asyncio.wait({sending, going}, return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, going):
            task.cancel()
        failed, _ = await asyncio.gather(sending, going, return_exceptions=True)
        if isinstance(failed, Exception) and not isinstance(failed, TooManyError):
            logger.opt(exception=failed).error("a page was not kept up to date")

    async def _stream_to(self, send: Send) -> None:
        headers = {**guard.HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        headers["X-Accel-Buffering"] = "no"  # or nginx would gather what is to be seen at once
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        async with contextlib.aclosing(self._stream.messages()) as messages:
            async for message in messages:
                await send({"type": "http.response.body", "body": message, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(status: HTTPStatus, words: str) -> Answer:
    return PlainTextResponse(f"{words}\n", status.value, headers=dict(guard.HEADERS))


def _assets() -> tuple[dict[str, tuple[bytes, str]], str]:
    """What belongs to the page, by its path, and the directory of these paths as the page names it: a proxy may show it
    below a path of its own. It is named after their content, so that a browser may keep them for good."""
    found = {
        each.name: each.read_bytes()
        for each in files("watcher.page").joinpath("static").iterdir()
        if each.name.endswith(tuple(_TYPES))
    }
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\0" + found[name])
    at = f"page/{digest.hexdigest()[:16]}"
    return {f"/{at}/{name}": (content, _TYPES[name[name.rindex(".") :]]) for name, content in found.items()}, at
