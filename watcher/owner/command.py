"""The `command` probe: a program of the user's answers whether the owner lives."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from watcher.names import printable
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.programs import Programs
from watcher.settings import CommandSettings, expand

__all__ = ["CommandProbe"]

_INTERVAL_S = 1.0
_MOST_DATABASES = 4096


@dataclass
class _Known:
    """What the command has said about one database; under its lock, which is held while the command runs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    started_at: float = float("-inf")
    evidence: Evidence | None = None


class CommandProbe:
    """Runs the command of the settings, at most once a second for each database.

    Within that second the last answer is given again; a fresh question takes it only where acting on it harms nobody
    (ALIVE or UNKNOWN) or where that run began after the question. Else it waits for the second to be over, and runs the
    command once more.

    Args:
        settings: argument list and time-out.
        cwd: where the command runs: the settings file's directory.
    """

    name = "command"

    def __init__(self, settings: CommandSettings, cwd: Path) -> None:
        self._settings = settings
        self._programs = Programs(cwd)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # under the lock; the last one asked for at the end

    def ask(self, subject: Subject) -> Evidence:
        asked_at = time.monotonic()
        known = self._known_of(subject.path)
        with known.lock:
            age_s = time.monotonic() - known.started_at
            if known.evidence is not None and age_s < _INTERVAL_S:
                harmless = known.evidence.answer is not Answer.EXITED
                if not subject.fresh or harmless or known.started_at >= asked_at:
                    return known.evidence
                self._programs.closing.wait(_INTERVAL_S - age_s)
            if self._programs.closing.is_set():
                return Evidence(self.name, Answer.UNKNOWN, "we are stopping")
            known.started_at = time.monotonic()
            known.evidence = self._run(subject)
            return known.evidence

    def close(self) -> None:
        """Kill what runs; every question from now on is answered UNKNOWN. May be called more than once."""
        self._programs.close()

    def _known_of(self, path: str) -> _Known:
        with self._lock:
            known = self._known.setdefault(path, _Known())
            self._known.move_to_end(path)
            while len(self._known) > _MOST_DATABASES:
                self._known.popitem(last=False)
            return known

    def _run(self, subject: Subject) -> Evidence:
        argv = [expand(template, subject.session) for template in self._settings.argv]
        shown = printable(os.path.basename(argv[0]))
        timeout_s = self._settings.timeout
        try:
            ended = self._programs.run(
                argv, timeout_s=timeout_s, environment={"JOURNAL_WATCHER_DATABASE": subject.path}
            )
        except OSError as error:
            why = (error.strerror or "cannot be run").lower()
            return Evidence(self.name, Answer.UNKNOWN, f"{shown} does not start: {why}")
        said = f": {ended.words}" if ended.words else ""
        if ended.status is None:
            why = "we are stopping" if self._programs.closing.is_set() else f"no answer within {timeout_s:g} s"
            return Evidence(self.name, Answer.UNKNOWN, f"{shown}: {why}{said}")
        answers = {0: (Answer.ALIVE, "the owner is alive"), 1: (Answer.EXITED, "the owner has exited")}
        answer, meaning = answers.get(ended.status, (Answer.UNKNOWN, "no answer"))
        return Evidence(self.name, answer, f"{shown}: {ended.how}, {meaning}{said}")
