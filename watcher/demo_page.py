"""The demo with its page: where it is, and what there is to look at until somebody ends it."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections import deque

from watcher.demo_cast import Host, NotShownError, Writer
from watcher.demo_process import PID_FILE
from watcher.demo_stage import Stage
from watcher.demo_voice import Step, Voice
from watcher.names import counted

__all__ = ["crash_on", "free_address", "show_page"]

_AGENTS = 4
_COMMITS_PER_S = 5.0
_EVERY_S = 3.0
_LOOK_PAUSE_S = 0.02


def free_address() -> str:
    """An address of this machine alone that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def show_page(address: str, voice: Voice, deadline_s: float) -> None:
    """Wait until the page is there, open it in a browser where there is a screen for one, and say where it is.

    Raises:
        NotShownError: there is no page.
    """
    url = _url_of(address)
    until = time.monotonic() + deadline_s
    while (instead := _fault_of(url)) is not None:
        if time.monotonic() > until:
            raise NotShownError(f"{url} shows the page", instead)
        time.sleep(_LOOK_PAUSE_S)
    voice.page_is_open(url, is_shown=_open(url))


def _url_of(address: str) -> str:
    return f"http://{address}/"


def _fault_of(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - it is http, and ours
            kind = answer.headers.get_content_type()
            return None if kind == "text/html" else f"it is {kind}"
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        return str(error)


def _open(url: str) -> bool:
    """Whether a browser was asked for it. Without a screen it would be one in this very terminal, over the story."""
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # Some browsers are waited for.
    threading.Thread(target=browser.open, args=(url,), name="demo-browser", daemon=True).start()
    return True


def crash_on(stage: Stage, voice: Voice, address: str, deadline_s: float) -> int:
    """Kill one agent after another, until a signal comes; beside them something to wait for, to hold and to refuse.

    Returns:
        How many were killed, each of them recovered.

    Raises:
        NotShownError: a database did not come back.
    """
    crashes = 0
    with voice.step(f"Every {_EVERY_S:g} s another one is killed: see {_url_of(address)} (Ctrl-C ends it)") as step:
        try:
            _furnish(stage, step)
            agents = deque(
                stage.writer(f"agent-{number + 1}", commits_per_s=_COMMITS_PER_S) for number in range(_AGENTS)
            )
            while True:
                with step.waiting("until the next one"):
                    time.sleep(_EVERY_S)
                agent = agents.popleft()
                readable_ms, failed = _kill(agent, deadline_s)
                crashes += 1
                agent.close()
                agents.append(stage.writer(agent.name, commits_per_s=_COMMITS_PER_S))
                polls = counted(failed, "poll")
                step.latest(
                    f"{time.strftime('%H:%M:%S')} {agent.name} killed; readable in {readable_ms:.1f} ms, {polls} failed"
                )
        except KeyboardInterrupt:
            return crashes


def _furnish(stage: Stage, step: Step) -> None:
    """What a person is needed for, or a little patience."""
    stage.writer("patience", vfs="unix-none").interrupt()
    held = stage.writer("nobody-knows")
    held.interrupt()
    (held.database.parent / PID_FILE).write_text("no pid\n", encoding="ascii")
    held.kill()
    journal = held.journal_bytes()
    stray = stage.session("stray") / held.journal.name
    stray.write_bytes(journal)
    step.say("patience is in a long transaction, nobody can say whether nobody-knows lives, and stray has no database.")


def _kill(agent: Writer, deadline_s: float) -> tuple[float, int]:
    """As the story does it, without the story."""
    agent.interrupt()
    with Host(agent.database) as host:
        killed_at = agent.kill()
        good = host.first(
            f"the database of {agent.name} can be read again",
            lambda poll: poll.contents is not None and poll.moment > killed_at,
            deadline_s,
        )
        failed = sum(killed_at < each.moment < good.moment for each in list(host.polls))
    return (good.moment - killed_at) * 1000, failed
