"""Pictures of the page: a real service on a tree in which something of everything has happened.

python -m tests.pictures.page DIRECTORY
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.browsing import browser
from tests.running import Runner, free_port, wait_until
from tests.writers import CrashedPair, journal_of, make_database, writing
from watcher.owner.testimony import Answer, Evidence, judge
from watcher.records.history import HISTORY_NAME, History
from watcher.records.record import Outcome, Record
from watcher.records.state_dir import StateDir

__all__ = ["shoot", "stage"]

_GROUPS = ("billing", "research", "support", "triage")
_SESSIONS = 240
_DEAD = judge((Evidence("locks", Answer.EXITED, "nobody holds a writer's lock"),))


def shoot(directory: Path) -> list[Path]:
    """Make `page-light.png`, `page-dark.png` and `page-phone.png` in this directory."""
    with tempfile.TemporaryDirectory(prefix="nanoclaw-") as home, stage(Path(home)) as url:
        made = []
        with browser() as chromium:
            for name, scheme, width, height in (
                ("page-light", "light", 1280, 1130),
                ("page-dark", "dark", 1280, 1130),
                ("page-phone", "light", 390, 1400),
            ):
                page = chromium.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                    reduced_motion="reduce",
                    locale="en-GB",
                    timezone_id="UTC",
                )
                page.goto(url)
                page.wait_for_selector("#link[data-link=live]")
                page.locator("#recovery-table tbody tr").nth(9).wait_for()
                if width > 1000:
                    page.locator(".journal summary").first.click()
                    page.mouse.move(0, 0)
                    page.evaluate("document.activeElement.blur()")
                made.append(directory / f"{name}.png")
                page.screenshot(path=made[-1])
                page.close()
        return made


@contextmanager
def stage(home: Path) -> Iterator[str]:
    """A service with a page on a tree with journals of every kind; the page's address."""
    with ExitStack() as closing:
        runner = Runner(home)
        closing.callback(runner.close)
        port = free_port()
        runner.configure(
            instance="nanoclaw",
            tree={"layout": "{agent_group}/{session}", "databases": ["outbound.db"]},
            owner={"pid_file": ".writer.pid"},
            metrics={"listen": f"127.0.0.1:{port}"},
        )
        drawn = random.Random(8)
        sessions = [f"{drawn.choice(_GROUPS)}/sess-{drawn.randrange(16**8):08x}" for _ in range(_SESSIONS)]
        for session in sessions:
            (runner.root / session).mkdir(parents=True, exist_ok=True)
        pair = CrashedPair.make(home)
        _fill_history(runner, sessions, drawn)
        database = runner.root / sessions[3] / "outbound.db"
        make_database(database)
        closing.enter_context(writing(database)).tell("begin")
        _not_understood(runner.root / sessions[0], pair)
        _without_database(runner.root / sessions[1], pair)
        _linked(runner.root / sessions[2], pair)
        service = runner.start()
        for session in sessions[10:16]:
            pair.put(runner.root / session / "outbound.db")
        service.wait_for("recovered", count=6)
        wait_until(lambda: len(service.events("refused")) >= 2)
        yield f"http://127.0.0.1:{port}/"


def _not_understood(session: Path, pair: CrashedPair) -> None:
    (session / ".writer.pid").write_text("starting…\n")
    pair.put(session / "outbound.db")


def _without_database(session: Path, pair: CrashedPair) -> None:
    journal_of(session / "outbound.db").write_bytes(pair.journal)


def _linked(session: Path, pair: CrashedPair) -> None:
    (session / "outbound.db").write_bytes(pair.database)
    journal_of(session / "outbound.db").symlink_to("/var/log/syslog")


def _fill_history(runner: Runner, sessions: list[str], drawn: random.Random) -> None:
    """An hour in which now and then an agent was killed."""
    now = datetime.now(UTC)
    records = []
    for _ in range(90):
        ago_s = drawn.uniform(60, 3500)
        if drawn.random() < 0.4:
            ago_s = 1300 + drawn.uniform(0, 25)  # a host was restarted
        failed = drawn.random() < 0.03
        records.append(
            Record(
                database=str(runner.root / drawn.choice(sessions[20:]) / "outbound.db"),
                outcome=Outcome.FAILED if failed else Outcome.RECOVERED,
                time=now - timedelta(seconds=ago_s),
                pages=None if failed else drawn.randrange(2, 90),
                journal_size=4616,
                duration_ms=drawn.lognormvariate(2.0, 0.6),
                owner=_DEAD,
                error="the disk is full" if failed else None,
            )
        )
    records.sort(key=lambda each: each.time)
    with StateDir.open(runner.state):
        pass
    History(runner.state / HISTORY_NAME, keep=10_000, max_age_s=1e6).append((each, str(each.time)) for each in records)


if __name__ == "__main__":
    for picture in shoot(Path(sys.argv[1])):
        print(picture)
