"""The page as it is served: what is where, who may read it, what it shows, and what it costs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.running import Runner, Service, free_port, wait_until
from tests.writers import CrashedPair, crash, make_database, writing, writing_unseen
from watcher.hints.inotify_events import Inotify
from watcher.page.recent import MOST, Recent
from watcher.page.words import headline
from watcher.records.record import Outcome, Record
from watcher.records.status import Journals

IN_OPEN = 0x20
"""inotify(7); the same for a file and for a directory that is listed."""
HOSTILE = "<script>alert(1)</script>\"'&\n\u202egpj.exe"


class Answer:
    """What was answered."""

    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in named)
        for name, value in named.items():
            connection.putheader(name, value)
        connection.endheaders()
        told = connection.getresponse()
        return Answer(told.status, {name.lower(): value for name, value in told.getheaders()}, told.read().decode())
    finally:
        connection.close()


class Events:
    """A page that is open, as the service sees it: an EventSource by hand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._lines = self._socket.makefile("rb")
        self.status = int(self._lines.readline().split()[1])
        while self._lines.readline().strip():
            pass

    def next(self) -> tuple[str, Any]:
        """The next event, its name and its data."""
        name, data = "", ""
        while True:
            line = self._lines.readline()
            if not line:
                raise EOFError
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                data = text.removeprefix("data: ")
            elif name and not text.startswith(("retry", ":")) and len(text) <= 2:
                return name, json.loads(data) if data else None

    def until(self, key: str, what: Any = None) -> Any:
        """Read on until a change tells of this; what it tells."""
        while True:
            _, data = self.next()
            if data and key in data and (what is None or what(data[key])):
                return data[key]

    def ended(self) -> bool:
        """Whether the service has ended it."""
        try:
            while True:
                self.next()
        except (EOFError, ConnectionResetError):
            return True

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextmanager
def opened(port: int) -> Iterator[Events]:
    with closing(Events(port)) as events:
        yield events


@pytest.fixture
def port() -> int:
    return free_port()


def served(runner: Runner, port: int, **sections: Any) -> Service:
    metrics = {"listen": f"127.0.0.1:{port}"} | sections.pop("metrics", {})
    runner.configure(metrics=metrics, tree={"layout": "{agent_group}/{session}"} | sections.pop("tree", {}), **sections)
    service = runner.start()
    if metrics.get("page", True):
        wait_until(lambda: "The tree is being looked at for the first time." not in ask(port, "/").body)
    return service


def database_in(runner: Runner, session: str = "g/s") -> Path:
    database = runner.root / session / "outbound.db"
    database.parent.mkdir(parents=True)
    make_database(database)
    return database


# --- what is where ---


def test_the_page_is_where_the_metrics_are_and_they_stay_what_they_were(runner: Runner, port: int) -> None:
    service = served(runner, port)
    assert service.events("started")[0]["page"] == f"http://127.0.0.1:{port}/"
    page = ask(port, "/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "journal_watcher_hot_journals 0.0" in ask(port, "/metrics").body
    assert (ask(port, "/livez").status, ask(port, "/livez").body) == (200, "ok\n")
    assert ask(port, "/healthz?x=1").body == "ok\n"
    assert ask(port, "/metrics", Accept="application/openmetrics-text").body.endswith("# EOF\n")
    assert ask(port, "/nowhere").status == 404
    assert ask(port, "/nowhere").body == "here are /, /healthz, /livez, /metrics\n"


# --- who may ask at all ---


def said_to(port: int, words: bytes) -> bytes:
    """The first line of what comes back for these bytes."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
        client.sendall(words)
        return client.makefile("rb").readline()


@pytest.mark.parametrize("page", [True, False])
def test_on_a_loopback_address_no_name_that_somebody_points_here_is_answered(
    runner: Runner, port: int, page: bool
) -> None:
    served(runner, port, metrics={"page": page, "hosts": ["watcher.lan"]})
    for path in ("/metrics", "/livez", "/healthz", "/nowhere"):
        for method in ("GET", "HEAD", "POST"):
            told = ask(port, path, method, Host="evil.example", Origin="http://evil.example")
            assert told.status == 421, (path, method)
            assert "/livez" not in told.body
        assert "metrics.hosts" in ask(port, path, Host="[::1].evil.example").body
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:80", "watcher.lan", "10.1.2.3"):
        assert ask(port, "/metrics", Host=host).status == 200, host
    for path in ("/metrics", "/livez", "/healthz"):
        assert said_to(port, f"GET {path} HTTP/1.0\r\n\r\n".encode()).split()[1] == b"200", path


@pytest.mark.parametrize("page", [True, False])
def test_elsewhere_a_scraper_may_use_any_name_and_a_browser_still_may_not(
    runner: Runner, port: int, page: bool
) -> None:
    runner.configure(metrics={"listen": f"0.0.0.0:{port}", "page": page})
    runner.start()
    for path in ("/metrics", "/livez", "/healthz"):
        assert ask(port, path, Host="journal-watcher.monitoring.svc").status == 200, path
    assert ask(port, "/", Host="journal-watcher.monitoring.svc").status == (421 if page else 404)


@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/livez"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(looked_at: int, path: str, method: str) -> None:
    assert ask(looked_at, path, method).status == 405


@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/livez"])
def test_a_head_has_no_body(looked_at: int, path: str) -> None:
    told = ask(looked_at, path, "HEAD")
    assert (told.status, told.body) == (200, "")


def test_everything_that_the_page_needs_comes_with_it(looked_at: int) -> None:
    page = ask(looked_at, "/").body
    named = [each.split('"')[0] for marker in ('src="', 'href="') for each in page.split(marker)[1:]]
    assert len(named) >= 3
    for path in named:
        if not path.startswith("#"):
            asset = ask(looked_at, f"/{path}")
            assert asset.status == 200, path
            assert "immutable" in asset.headers["cache-control"]
    assert "//" not in page.replace("<!doctype", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize("path", ["/page/../page.py", "/page/%2e%2e/app.py", "//etc/passwd", "/page/0000/page.js"])
def test_nothing_else_can_be_read(looked_at: int, path: str) -> None:
    assert ask(looked_at, path).status == 404


# --- who may read it ---


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service with a page, for questions that change nothing; its port."""
    with ExitStack() as closing_:
        runner = Runner(tmp_path_factory.mktemp("looked-at"))
        closing_.callback(runner.close)
        port = free_port()
        served(runner, port, metrics={"hosts": ["watcher.lan"]})
        yield port


def test_no_script_but_its_own_runs_in_it_and_nobody_may_frame_or_embed_it(looked_at: int) -> None:
    for path in ("/", "/events"):
        told = ask(looked_at, path, "HEAD").headers
        policy = told["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert told["cross-origin-resource-policy"] == "same-origin"
        assert told["cross-origin-opener-policy"] == "same-origin"
        assert told["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in told)
    page = ask(looked_at, "/").body
    assert "<script>" not in page
    assert " style=" not in page
    assert " onclick" not in page


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost:1",
        "LOCALHOST",
        "[::1]:9464",
        "10.1.2.3",
        "watcher.lan",
        "Watcher.LAN.:8",
    ],
)
def test_it_is_shown_under_addresses_and_the_names_that_were_allowed(looked_at: int, host: str) -> None:
    assert ask(looked_at, "/", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "[evil.example]",
            "127.1",
            "1",
            "::1",
        ),
        *("[::1].evil.example", "[::1]evil.example:80", "127.0.0.1:19466:evil", "127.0.0.1:evil", "localhost:-1"),
        *("::1", "[::1", "[127.0.0.1]", "x@127.0.0.1", "[::1]]", "[[::1]]", ":80"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/events"])
def test_a_name_that_somebody_points_here_is_refused_with_the_remedy(looked_at: int, host: str, path: str) -> None:
    told = ask(looked_at, path, Host=host)
    assert told.status == 421
    assert "metrics.hosts" in told.body
    assert "tree" not in told.body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_another_origin_is_refused(looked_at: int, origin: str) -> None:
    assert ask(looked_at, "/events", "HEAD", Origin=origin).status == 403
    assert ask(looked_at, "/", Origin=origin).status == 403


def test_its_own_origin_is_none_of_those(looked_at: int) -> None:
    assert ask(looked_at, "/events", "HEAD", Origin=f"http://127.0.0.1:{looked_at}").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_to_it_and_do_nothing_else(looked_at: int, site: str) -> None:
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(looked_at, "/", **link).status == 200
    assert ask(looked_at, "/events", **link).status == 403
    assert ask(looked_at, "/", **link | {"Sec_Fetch_Dest": "iframe"}).status == 403
    assert ask(looked_at, "/", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="script").status == 403
    assert ask(looked_at, "/", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200


def test_many_connections_that_ask_nothing_keep_no_kubelet_waiting(looked_at: int) -> None:
    # After 5 s those who say nothing would be dropped anyway; a machine that is held up gets another try.
    assert any(answered_beside_a_crowd_within(looked_at) < 4.5 for _ in range(3))


def answered_beside_a_crowd_within(looked_at: int) -> float:
    with ExitStack() as crowd:
        for _ in range(150):
            crowd.enter_context(closing(socket.create_connection(("127.0.0.1", looked_at), timeout=10)))
        began = time.monotonic()
        for _ in range(5):
            assert ask(looked_at, "/livez").status == 200
        return time.monotonic() - began


def test_pages_beyond_the_most_are_turned_away_and_the_rest_goes_on(looked_at: int) -> None:
    from watcher.page.stream import MOST_STREAMS

    with ExitStack() as pages:
        for _ in range(MOST_STREAMS):
            assert pages.enter_context(opened(looked_at)).next()[0] == "all"
        assert ask(looked_at, "/events").status == 503
        assert ask(looked_at, "/livez").status == 200
        assert ask(looked_at, "/").status == 200
    wait_until(lambda: ask(looked_at, "/events", "HEAD").status == 200)


def test_one_that_never_takes_what_it_is_sent_keeps_no_other_waiting(runner: Runner, port: int) -> None:
    for number in range(300):
        (runner.root / f"{'g' * 200}" / f"{number}{'s' * 200}").mkdir(parents=True)
    served(runner, port)
    with closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with opened(port) as page:
            assert len(page.next()[1]["sessions"]) == 300
            assert ask(port, "/livez").status == 200


def test_connections_that_take_no_answer_give_way_to_a_kubelet(looked_at: int) -> None:
    with ExitStack() as crowd:
        for _ in range(150):
            deaf = crowd.enter_context(closing(socket.create_connection(("127.0.0.1", looked_at), timeout=10)))
            deaf.sendall(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert ask(looked_at, "/livez").status == 200


def test_what_is_no_question_is_refused(looked_at: int) -> None:
    for words in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET / SMTP\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000):
        with closing(socket.create_connection(("127.0.0.1", looked_at), timeout=10)) as client:
            client.sendall(words)
            assert client.recv(12) == b"HTTP/1.1 400"


def test_a_client_that_says_nothing_or_takes_no_answer_is_dropped(looked_at: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", looked_at), timeout=60)) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert silent.recv(1) == b""


# --- what it shows ---


def test_a_crash_is_on_the_page_at_once_and_so_is_its_recovery(runner: Runner, port: int) -> None:
    database = database_in(runner)
    served(runner, port)
    with opened(port) as page:
        name, before = page.next()
        assert name == "all"
        assert before["service"]["headline"] == "Nothing is hot. 1 session is watched."
        assert before["sessions"] == ["g/s"]
        crash(database)
        began = time.monotonic()
        (recovery,) = page.until("recoveries")
        assert time.monotonic() - began < 15  # a sweep comes after 30
        assert (recovery["session"], recovery["name"], recovery["outcome"]) == ("g/s", "outbound.db", "recovered")
        assert recovery["pages"] > 0
        assert recovery["duration_ms"] > 0
    assert "g/s/" in ask(port, "/").body


def test_a_living_writer_is_named_until_it_ends(runner: Runner, port: int) -> None:
    database = database_in(runner)
    with writing(database) as writer:
        writer.tell("begin")
        served(runner, port)
        with opened(port) as page:
            row = page.until("journals", lambda rows: rows["g/s/outbound.db"]["standing"] == "waiting")[
                "g/s/outbound.db"
            ]
            assert str(writer.pid) in row["why"]
            assert {each["probe"]: each["verdict"] for each in row["owner"]["evidence"]}["locks"] == "alive"
            writer.kill()
            assert page.until("gone") == ["g/s/outbound.db"]


def test_what_is_held_or_refused_is_told_with_its_reason_and_what_to_do(
    runner: Runner, port: int, crashed: CrashedPair
) -> None:
    crashed.put(runner.root / "g" / "held" / "outbound.db")
    orphan = runner.root / "g" / "orphan" / "outbound.db-journal"
    orphan.parent.mkdir()
    orphan.write_bytes(crashed.journal)
    served(runner, port, owner={"locks": "off"})
    with opened(port) as page:
        first = page.next()[1]
        rows = first.get("journals", {})
        while len(rows) < 2:
            rows |= page.until("journals")
    assert rows["g/held/outbound.db"]["standing"] == "held"
    assert rows["g/held/outbound.db"]["why"].startswith("Nobody can say whether its writer has exited")
    assert "PRAGMA schema_version" in rows["g/held/outbound.db"]["by_hand"]
    assert rows["g/orphan/outbound.db"]["standing"] == "refused"
    wait_until(lambda: "1 held and 1 refused: these journals want a person." in ask(port, "/").body)
    text = unescape(ask(port, "/").body)
    assert text.index('data-standing="held"') < text.index('data-standing="refused"')
    assert "there is no database beside the journal" in text


def test_a_verdict_that_changes_is_on_the_page(runner: Runner, port: int) -> None:
    database = database_in(runner)
    with writing_unseen(database) as writer:
        pid_file = database.with_name(".writer.pid")
        pid_file.write_text("nonsense")
        writer.tell("begin")
        served(runner, port, owner={"locks": "off", "pid_file": ".writer.pid"})
        with opened(port) as page:
            page.until("journals", lambda rows: rows["g/s/outbound.db"]["standing"] == "held")
            pid_file.write_text(str(writer.pid))
            rows = page.until("journals", lambda rows: rows["g/s/outbound.db"]["standing"] == "waiting")
            assert str(writer.pid) in rows["g/s/outbound.db"]["why"]
            page.until("service", lambda told: told["counts"]["waiting"] == 1 and told["counts"]["held"] == 0)


def test_what_was_recovered_before_the_start_is_there_too(runner: Runner, port: int) -> None:
    database = database_in(runner)
    first = served(runner, port)
    crash(database)
    first.wait_for("recovered")
    assert first.stop() == 0
    runner.start()
    with opened(port) as page:
        first = page.next()[1]
        (recovery,) = first.get("recoveries") or page.until("recoveries")
        assert (recovery["session"], recovery["outcome"]) == ("g/s", "recovered")
    assert ask(port, "/").body.count('data-standing="recovered"') == 1


def test_a_root_that_is_missing_is_the_headline(runner: Runner, port: int) -> None:
    runner.root.rmdir()
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"})
    runner.start(wait="root_missing")
    with opened(port) as page:
        assert page.next()[1]["service"]["headline"] == f"Waiting for {runner.root}."
        runner.root.mkdir()
        page.until("service", lambda told: told["headline"].startswith("Nothing is hot."))


def test_hostile_names_are_text_and_one_line(runner: Runner, port: int) -> None:
    database = database_in(runner, f"g/{HOSTILE.replace('/', '_')}")
    service = served(runner, port)
    crash(database)
    service.wait_for("recovered")
    page = ask(port, "/").body
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert r"&lt;script&gt;alert(1)&lt;_script&gt;&#34;&#39;&amp;\n\u202egpj.exe" in page
    with opened(port) as events:
        (session,) = events.next()[1]["sessions"]
        assert session == "g/" + r"""<script>alert(1)<_script>"'&\n\u202egpj.exe"""


def test_many_sessions_are_bounded_on_the_page_and_all_of_them_counted(runner: Runner, port: int) -> None:
    for number in range(1500):
        (runner.root / "g" / f"s{number}").mkdir(parents=True)
    served(runner, port)
    wait_until(lambda: "The first 50 of 1,500" in ask(port, "/").body)
    page = ask(port, "/").body
    assert len(page) < 40_000
    with opened(port) as events:
        assert len(events.next()[1]["sessions"]) == 1500


def record(outcome: Outcome, number: int = 0, error: str | None = None) -> Record:
    return Record(database=f"/tree/{number}.db", outcome=outcome, error=error)


def test_what_is_remembered_of_the_past_is_bounded_and_told_once() -> None:
    recent = Recent()
    for number in range(3 * MOST):
        recent.add(record(Outcome.RECOVERED, number), "")
        recent.add(record(Outcome.BUSY, number, "a reader holds it"), "")
        recent.add(record(Outcome.FAILED, 0, "the disk is full"), "the same")
    told = recent.since(0)
    assert len(told) == MOST
    assert [each.outcome for _, each in told].count(Outcome.FAILED) <= 1
    assert recent.since(told[-1][0]) == []
    assert recent.obstacle("/tree/0.db") == "the disk is full"
    recent.add(record(Outcome.RECOVERED, 0), "later")
    assert recent.obstacle("/tree/0.db") is None
    assert len(recent.since(told[-1][0])) == 1


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Journals(), "Nothing is hot. 1,200 sessions are watched."),
        (Journals(hot=1), "1 journal is hot, and being recovered."),
        (Journals(hot=4, waiting=1), "3 journals are hot, and being recovered."),
        (Journals(hot=2, waiting=2), "2 waiting for their writers to end; nothing else is hot."),
        (Journals(hot=1, held=1), "1 held: this journal wants a person."),
        (Journals(hot=5, held=2, refused=3), "2 held and 3 refused: these journals want a person."),
    ],
)
def test_the_headline_says_how_it_goes(counts: Journals, words: str) -> None:
    assert headline(counts, sessions=1200, is_swept=True, troubles=[]) == words
    assert headline(counts, sessions=1200, is_swept=True, troubles=["waiting for /tree"]) == "Waiting for /tree."


# --- what it costs, and how it ends ---


def test_nothing_in_the_tree_is_opened_for_the_page(runner: Runner, port: int) -> None:
    database = database_in(runner)
    served(runner, port, watch={"sweep_interval": "1h"})
    opens = Inotify()
    with ExitStack() as closing_:
        closing_.callback(opens.close)
        for directory in (runner.root, database.parent.parent, database.parent):
            descriptor = os.open(directory, os.O_RDONLY)
            closing_.callback(os.close, descriptor)
            opens.watch(descriptor, IN_OPEN)
        with opened(port) as page:
            page.next()
            wait_until(lambda: _is_quiet(opens))
            for _ in range(5):
                assert ask(port, "/").status == 200
        assert opens.read() == b""
        database.read_bytes()
        assert opens.read() != b""


def _is_quiet(opens: Inotify) -> bool:
    """Whether what the service opens at its start is over."""
    opens.read()
    time.sleep(1.0)
    return opens.read() == b""


def test_an_open_page_of_a_quiet_service_costs_nothing(runner: Runner, port: int) -> None:
    service = served(runner, port, watch={"sweep_interval": "1h"})
    with opened(port) as page:
        page.next()
        wait_until(lambda: _switches_within(1.5, service) < 15)


def test_without_a_page_nothing_wakes_up(runner: Runner, port: int) -> None:
    service = served(runner, port, watch={"sweep_interval": "1h"})
    assert ask(port, "/").status == 200
    wait_until(lambda: _switches_within(1.5, service) < 5)


def _switches(service: Service) -> int:
    tasks = Path(f"/proc/{service.process.pid}/task").glob("*/status")
    return sum(int(each.read_text().split("voluntary_ctxt_switches:")[1].split()[0]) for each in tasks)


def _switches_within(seconds: float, service: Service) -> int:
    before = _switches(service)
    time.sleep(seconds)  # what is measured
    return _switches(service) - before


def test_it_needs_little_memory_with_everything_on(runner: Runner, port: int) -> None:
    for number in range(1000):
        (runner.root / "g" / f"s{number}").mkdir(parents=True)
    service = served(runner, port)
    with opened(port) as page:
        page.next()
        assert ask(port, "/").status == ask(port, "/metrics").status == 200
        status = Path(f"/proc/{service.process.pid}/status").read_text()
    (rss,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
    assert rss < 80 * 1024


def test_without_the_page_there_is_none_and_its_libraries_are_not_loaded(runner: Runner, port: int) -> None:
    service = served(runner, port, metrics={"page": False})
    assert service.events("started")[0]["page"] is None
    assert ask(port, "/").status == 404
    assert ask(port, "/livez").status == 200
    program = (
        "import sys, watcher.service, watcher.records.routes, watcher.records.listener;"
        "sys.exit(any(each.split('.')[0] in ('uvicorn', 'starlette', 'jinja2') or each.startswith('watcher.page')"
        " for each in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_service_ends_at_once_with_pages_open(runner: Runner, port: int) -> None:
    service = served(runner, port)
    with opened(port) as page, opened(port) as other:
        page.next()
        other.next()
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 15
        assert page.ended()
        assert other.ended()
    assert not service.events("log")


def test_a_reload_changes_what_is_shown_to_whom(runner: Runner, port: int) -> None:
    service = served(runner, port, metrics={"hosts": ["one.lan"]})
    database = database_in(runner)
    crash(database)
    service.wait_for("recovered")
    assert ask(port, "/", Host="two.lan").status == 421
    runner.configure(metrics={"listen": f"127.0.0.1:{port}", "hosts": ["two.lan"]}, tree={"layout": "{a}/{b}"})
    with opened(port) as page:
        page.next()
        service.signal(signal.SIGHUP)
        assert page.ended()
    service.wait_for("reloaded")
    assert ask(port, "/", Host="two.lan").status == 200
    assert ask(port, "/", Host="one.lan").status == 421
    with opened(port) as page:
        first = page.next()[1]
        recoveries = first.get("recoveries") or page.until("recoveries")
        assert [each["session"] for each in recoveries] == ["g/s"]
    runner.configure(metrics={"listen": f"127.0.0.1:{port}", "page": False})
    service.signal(signal.SIGHUP)
    service.wait_for("reloaded", count=2)
    assert ask(port, "/").status == 404
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"})
    service.signal(signal.SIGHUP)
    service.wait_for("reloaded", count=3)
    assert ask(port, "/").status == 200


def test_an_open_page_follows_a_reload_of_other_settings(runner: Runner, port: int) -> None:
    service = served(runner, port)
    other = runner.root.parent / "other"
    (other / "g" / "elsewhere").mkdir(parents=True)
    with opened(port) as page:
        assert page.next()[1]["service"]["tree"] == str(runner.root)
        runner.configure(
            metrics={"listen": f"127.0.0.1:{port}"}, tree={"root": str(other), "layout": "{agent_group}/{session}"}
        )
        service.signal(signal.SIGHUP)
        page.until("sessions", lambda sessions: sessions == ["g/elsewhere"])


def test_an_address_that_is_taken_is_told_as_without_a_page(runner: Runner) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        runner.configure(metrics={"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        service = runner.start()
        assert "cannot listen on" in service.wait_for("http_failed")["message"]
