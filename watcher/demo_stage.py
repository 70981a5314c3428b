"""The demo's stage: a temporary tree with the real service on it, and how it is cleared, whatever ends the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from watcher.demo_cast import STOPS_WITHIN_S, NotShownError, Writer, end, started
from watcher.demo_process import PID_FILE
from watcher.names import printable

__all__ = ["Line", "Service", "Stage", "setting"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the service's log, and when it was told, by `time.monotonic`: a millisecond late at the most."""

    moment: float
    told: dict[str, Any]

    @property
    def event(self) -> str:
        return str(self.told["event"])

    @property
    def words(self) -> str:
        """Its message, without the database's name in front."""
        return str(self.told["message"]).partition(": ")[2] or str(self.told["message"])


class Service:
    """`journal-watcher run`, its log read as JSON lines.

    Args:
        command: what `journal-watcher` is here, as the beginning of an argument list.
    """

    def __init__(self, command: Sequence[str], settings: Path) -> None:
        self._process = subprocess.Popen(
            [*command, "run", "-c", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
            **_surroundings(),
        )
        self._changed = threading.Condition()
        self._lines: list[Line] = []  # guarded by _changed, like the next two
        self._other: list[str] = []
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="demo-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def about(self, database: Path) -> list[Line]:
        """Its lines about a database so far."""
        with self._changed:
            return [each for each in self._lines if each.told.get("database") == printable(database)]

    def wait_for(self, event: str, database: Path | None, deadline_s: float, *, after: float = 0.0) -> Line:
        """Wait for a line of this event, about this database where one is given.

        Args:
            after: a moment by `time.monotonic`; no line that was told before.

        Raises:
            NotShownError: it did not come, or the service has ended.
        """

        def found() -> Line | None:
            wanted = (
                each
                for each in self._lines
                if each.event == event
                and each.moment > after
                and (database is None or each.told.get("database") == printable(database))
            )
            return next(wanted, None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, deadline_s)
            line = found()
            if line is not None:
                return line
            told = self._other[-3:] or [each.told["message"] for each in self._lines[-3:]]
            ended = self._ended
        instead = f"not within {deadline_s:g} s"
        if ended:
            instead = f"it has ended with status {self._process.wait(STOPS_WITHIN_S)}"
        last = f"its last words: {' / '.join(told)}" if told else "it has said nothing"
        about = "" if database is None else f" of {database.parent.name}"
        raise NotShownError(f"the service tells {event}{about}", f"{instead}; {last}")

    def close(self) -> None:
        """SIGTERM, and its end."""
        end(self._process, self._process.terminate)
        self._reader.join(STOPS_WITHIN_S)
        if self._process.stderr is not None and not self._reader.is_alive():
            self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            line = _line(text, time.monotonic())
            with self._changed:
                if line is not None:
                    self._lines.append(line)
                elif text.strip():
                    self._other.append(text.strip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _line(text: str, read_at: float) -> Line | None:
    try:
        told = json.loads(text)
        age_s = time.time() - datetime.fromisoformat(told["time"]).timestamp()
    except (ValueError, TypeError, KeyError):
        return None
    # Its time is in whole milliseconds, and we may have been late to read it.
    return Line(min(read_at, time.monotonic() - age_s + 0.001), told) if {"event", "message"} <= told.keys() else None


class Stage:
    """The tree and all who play in it. Use :func:`setting`, which clears everything away.

    Attributes:
        home: the temporary directory.
    """

    def __init__(self, home: Path, command: Sequence[str], curtain: ExitStack) -> None:
        self.home = home
        self._command = command
        self._curtain = curtain
        self._settings = home / "settings.yaml"
        (home / "tree").mkdir()

    def writer(self, session: str, *, vfs: str = "unix", commits_per_s: float = 25.0) -> Writer:
        """A session with its writer, at work: a new one, or one whose writer has gone."""
        writer = Writer(self.session(session) / "outbound.db", vfs, commits_per_s)
        self._curtain.callback(writer.close)
        return writer

    def session(self, name: str) -> Path:
        """Its directory."""
        directory = self.home / "tree" / "agents" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def service(self, address: str | None = None) -> Service:
        """The service on this tree, and a guard that ends it where the demo itself is killed.

        Args:
            address: where it serves its page.
        """
        settings = {
            "instance": "demo",
            "state_dir": str(self.home / "state"),
            "tree": {
                "root": str(self.home / "tree"),
                "layout": "{agent_group}/{session}",
                "databases": ["outbound.db"],
            },
            "owner": {"pid_file": PID_FILE},
            "watch": {"sweep_interval": "5s"},
            "metrics": {"listen": address},
            "log": {"level": "DEBUG", "json": True},
        }
        self._settings.write_text(yaml.safe_dump(settings), encoding="utf-8")
        service = Service(self._command, self._settings)
        self._curtain.callback(service.close)
        guard = started("guard", self.home, service.pid)
        self._curtain.callback(end, guard, lambda: _dismiss(guard))
        return service

    def explain(self, database: Path, deadline_s: float) -> dict[str, Any]:
        """What `journal-watcher explain` says of a database.

        Raises:
            NotShownError: it says nothing.
        """
        argv = [*self._command, "explain", "--json", "-c", str(self._settings), str(database)]
        try:
            done = subprocess.run(
                argv, check=False, capture_output=True, text=True, timeout=deadline_s, **_surroundings()
            )
            told = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise NotShownError("journal-watcher explain answers", f"not within {deadline_s:g} s") from error
        except ValueError as error:
            words = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise NotShownError("journal-watcher explain answers", words) from error
        if not isinstance(told, dict):
            raise NotShownError("journal-watcher explain answers", done.stdout[:200])
        return told


@contextmanager
def setting(command: Sequence[str]) -> Iterator[Stage]:
    """A stage in a temporary directory. At the end every process is ended and everything removed; SIGINT, SIGTERM and
    SIGHUP lead there, too, and do not disturb it then.

    Raises:
        KeyboardInterrupt: there was such a signal.
        OSError: no temporary directory can be made, or no process started.
    """
    with _ending_by_signals() as leave_alone, ExitStack() as curtain:
        home = curtain.enter_context(tempfile.TemporaryDirectory(prefix="journal-watcher-demo-"))
        try:
            yield Stage(Path(home).resolve(), command, curtain)
        finally:
            leave_alone()


@contextmanager
def _ending_by_signals() -> Iterator[Callable[[], None]]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise KeyboardInterrupt, and any later one do nothing. In the main
    thread only (signal(7))."""
    is_ending = False

    def leave_alone() -> None:
        nonlocal is_ending
        is_ending = True

    def interrupt(_number: int, _frame: object) -> None:
        if not is_ending:
            leave_alone()
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ignored = {number for number, handler in before.items() if handler is signal.SIG_IGN}  # nohup(1), or in background
    for number in before.keys() - ignored:
        signal.signal(number, interrupt)
    try:
        yield leave_alone
    finally:
        for number in before.keys() - ignored:
            signal.signal(number, before[number])


def _surroundings() -> dict[str, Any]:
    """For `journal-watcher` in a process of its own: it finds this package, whatever directory we were started from,
    and takes its settings from our file alone."""
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("JOURNAL_WATCHER")}
    return {"cwd": Path(__file__).resolve().parents[1], "env": environ}


def _dismiss(guard: subprocess.Popen[str]) -> None:
    assert guard.stdin is not None
    guard.stdin.write("all is well\n")
