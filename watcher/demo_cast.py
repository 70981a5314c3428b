"""Who plays in the demo, beside the service: writers in processes of their own, and a host that polls.

What does not come in time, or ends when it should not, is a :class:`NotShownError`.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from watcher import demo_process
from watcher.journal import MAGIC

__all__ = [
    "ROLLBACK",
    "STOPS_WITHIN_S",
    "Contents",
    "Host",
    "NotShownError",
    "Poll",
    "Writer",
    "contents_of",
    "end",
    "started",
]

ROLLBACK = 776
"""SQLITE_READONLY_ROLLBACK (https://www.sqlite.org/rescode.html)."""
STOPS_WITHIN_S = 5.0
_POLL_PAUSE_S = 0.001
_LOOK_PAUSE_S = 0.002

T = TypeVar("T")


class NotShownError(Exception):
    """What the demo is to show did not come true.

    Args:
        what: the sentence that is not true.
        instead: what is.
    """

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(f"{what} ({instead})" if instead else what)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a read-only connection finds in a writer's database."""

    commits: int
    last: int
    interrupted: int


def contents_of(database: Path, *, thorough: bool = False) -> Contents:
    """Read a database as a host does: read-only, and without waiting for a lock.

    Args:
        thorough: have SQLite check all of it.

    Raises:
        sqlite3.Error: as SQLite has it.
        NotShownError: SQLite finds it corrupt.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        if thorough and (found := connection.execute("PRAGMA integrity_check(1)").fetchone()) != ("ok",):
            raise NotShownError(f"{database} is whole", f"SQLite says {found[0]}")
        query = "SELECT count(*), coalesce(max(step), 0), coalesce(sum(note <> 'done'), 0) FROM work"
        return Contents(*connection.execute(query).fetchone())


class Writer:
    """A writer in a process of its own.

    Args:
        database: which it makes, in a directory that is there.
        vfs: SQLite's name of it: `unix`, or `unix-none` for one whose locks nobody sees.
    """

    def __init__(self, database: Path, vfs: str, commits_per_s: float) -> None:
        self.database = database
        self.journal = database.with_name(f"{database.name}-journal")
        self.commits = 0
        self.errors: list[str] = []
        self._process = started("write", database, vfs, commits_per_s, stdout=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        """Of its session."""
        return self.database.parent.name

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def tell(self, word: str) -> None:
        """Tell it a word, and take its answer: what it has committed until now, and what has failed.

        Raises:
            NotShownError: it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # there is no answer either
        answer = self._process.stdout.readline()
        told: dict[str, Any] = json.loads(answer) if answer else {"failed": "it has ended by itself"}
        if "failed" in told:
            raise NotShownError(f"the writer of {self.name} goes on", told["failed"])
        self.commits, self.errors = told["commits"], told["errors"]

    def interrupt(self) -> None:
        """Have it stand still in the middle of a transaction that has spilled: pages that were never committed are in
        the database, and a synced journal, which SQLite holds for hot, lies beside it.

        Raises:
            NotShownError: that is not what came of it.
        """
        self.tell("interrupt")
        if self.commits == 0 or not self.journal_bytes().startswith(MAGIC):
            raise NotShownError(f"{self.journal} is hot after some commits", f"{self.commits} commits")

    def journal_bytes(self) -> bytes:
        """The journal; empty where there is none."""
        try:
            return self.journal.read_bytes()
        except FileNotFoundError:
            return b""

    def files(self) -> tuple[object, ...]:
        """Something that is the same for as long as neither of its files has changed. (A database is not opened for
        that: to close it again would drop the locks of this process's other connections, fcntl(2).)"""
        status = self.database.stat()
        return (status.st_ino, status.st_size, status.st_mtime_ns, self.journal_bytes())

    def kill(self) -> float:
        """SIGKILL.

        Returns:
            The moment before, by `time.monotonic`. It is a zombie then, until :meth:`close`.
        """
        moment = time.monotonic()
        self._process.kill()
        return moment

    def close(self) -> None:
        """End it, by the end of its stdin."""
        end(self._process)


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll: when it had ended, and what it read, or SQLite's error code and words."""

    moment: float
    contents: Contents | None
    code: int | None = None
    words: str = ""


@dataclass
class Host:
    """A host program that polls one database read-only, again and again, in a thread.

    A real one polls every second, say. This one does it every millisecond, to show what happens between.
    """

    database: Path
    polls: list[Poll] = field(default_factory=list)  # the thread appends; others look at what is there
    _hurried: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Host:
        self._thread = threading.Thread(target=self._run, name="demo-host", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOPS_WITHIN_S)

    def hurry(self) -> None:
        """From now on it polls without a pause: what comes may be over within two milliseconds."""
        self._hurried.set()

    def first(self, what: str, wanted: Callable[[Poll], bool], deadline_s: float) -> Poll:
        """Wait for the first poll that is wanted.

        Raises:
            NotShownError: there was none.
        """
        seen = 0

        def look() -> Poll | None:
            nonlocal seen
            fresh = self.polls[seen:]
            seen += len(fresh)
            return next(filter(wanted, fresh), None)

        return _wait_for(what, look, deadline_s)

    def _run(self) -> None:
        while not self._stopping.wait(0.0 if self._hurried.is_set() else _POLL_PAUSE_S):
            try:
                contents = contents_of(self.database)
            except sqlite3.Error as error:
                code, words = error.sqlite_errorcode, str(error)
                self.polls.append(Poll(time.monotonic(), None, code, words))
            else:
                self.polls.append(Poll(time.monotonic(), contents))


def _wait_for(what: str, look: Callable[[], T | None], deadline_s: float) -> T:
    """Look until there is something to see.

    Raises:
        NotShownError: not before the deadline.
    """
    until = time.monotonic() + deadline_s
    while (seen := look()) is None:
        if time.monotonic() > until:
            raise NotShownError(what, f"not within {deadline_s:g} s")
        time.sleep(_LOOK_PAUSE_S)
    return seen


def started(role: str, *arguments: object, stdout: int | None = None) -> subprocess.Popen[str]:
    """One of :mod:`watcher.demo_process`. In a session of its own: a Ctrl-C is for the demo alone, which then ends the
    others."""
    argv = [sys.executable, "-I", "-S", str(Path(demo_process.__file__)), role, *map(str, arguments)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=stdout, text=True, start_new_session=True)


def end(process: subprocess.Popen[str], ask: Callable[[], object] = lambda: None) -> None:
    """Have a process of ours end, by the end of its stdin and what else it is asked by, and wait for it; one that does
    not is killed."""
    try:
        ask()
        if process.stdin is not None:
            process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
