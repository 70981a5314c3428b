"""The hooks: programs of the user's that are told what became of a journal, so that somebody can be paged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path

from loguru import logger

from watcher.advice import in_words, is_of_machine
from watcher.names import printable
from watcher.programs import Programs
from watcher.records import log
from watcher.records.events import Event
from watcher.records.record import Outcome, Record
from watcher.records.repeats import Repeats
from watcher.settings import HooksSettings, expand, format_seconds

__all__ = ["Hooks", "programs_of", "trouble_with_program"]

_MOST_WAITING = 100
_MOST_REMEMBERED = 10_000


def programs_of(settings: HooksSettings) -> dict[Outcome, tuple[str, ...]]:
    """The argument lists that are set, by the outcome that they are for."""
    named = {
        Outcome.RECOVERED: settings.recovered,
        Outcome.HELD: settings.held,
        Outcome.FAILED: settings.failed,
        Outcome.CORRUPT: settings.corrupt,
    }
    return {outcome: argv for outcome, argv in named.items() if argv is not None}


def trouble_with_program(program: str) -> str | None:
    """Why this program cannot be run by us, as far as that can be told without running it; None: nothing is known
    against it, which goes for every name that a session has a part in."""
    if "{" in program.replace("{{", "").replace("}}", ""):
        return None
    return _trouble_with(expand(program, {}))


def _trouble_with(name: str) -> str | None:
    shown = printable(name)
    if "/" not in name:
        return None if shutil.which(name) else f"there is no program {shown} in PATH"
    if not os.path.exists(name):
        return f"there is no {shown}"
    if not os.path.isfile(name) or not os.access(name, os.X_OK):
        return f"{shown} is no program that we may run (chmod +x?)"
    return None


class Hooks:
    """Runs each program in a thread of its own, one call after another, outside the way of a recovery.

    Where calls come faster than a program takes, the first hundred wait and the rest are left out, and said. The same
    change is told once: a failed recovery that is tried again, and fails in the same way, pages nobody twice.

    Args:
        settings: the argument lists, and the time-out.
        cwd: where they run: the settings file's directory.
        instance: what this installation is called.
        counted: called with an outcome and whether its program was run to a good end, after each call.
    """

    def __init__(self, settings: HooksSettings, cwd: Path, instance: str, counted: Callable[[str, bool], None]) -> None:
        self._programs = Programs(cwd)
        self._instance = instance
        self._told = _Told()
        self._queues = {
            outcome: _Queue(outcome, argv, settings.timeout, self._programs, counted)
            for outcome, argv in programs_of(settings).items()
        }

    def start(self) -> None:
        for queue in self._queues.values():
            queue.start()

    def add(self, record: Record, change: str) -> None:
        """Something became of a journal; never waits.

        Args:
            change: the text that is the same for as long as nothing has changed.
        """
        queue = self._queues.get(record.outcome)
        if queue is not None and self._told.is_new(record, change):
            queue.add(record, {"JOURNAL_WATCHER_INSTANCE": self._instance})

    def stop(self, deadline_s: float = 2.0) -> None:
        """Make the calls that wait, for so many seconds at most; then kill what runs, and say what was left out."""
        until = time.monotonic() + deadline_s
        for queue in self._queues.values():
            queue.end()
        for queue in self._queues.values():
            queue.join(until - time.monotonic())
        self._programs.close()
        for queue in self._queues.values():
            queue.join(1.0)


class _Told:
    """Which changes were told; may be asked by any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._changes: OrderedDict[tuple[str, Outcome], bytes] = OrderedDict()  # under _guard

    def is_new(self, record: Record, change: str) -> bool:
        key = (record.database, record.outcome)
        digest = hashlib.sha256(change.encode("utf-8", "surrogatepass")).digest()
        with self._guard:
            before = self._changes.pop(key, None)
            self._changes[key] = digest
            if len(self._changes) > _MOST_REMEMBERED:
                self._changes.popitem(last=False)
        return before != digest


class _Queue:
    """The calls of one program, and the thread that makes them."""

    def __init__(
        self,
        outcome: Outcome,
        argv: tuple[str, ...],
        timeout_s: float,
        programs: Programs,
        counted: Callable[[str, bool], None],
    ) -> None:
        self._outcome = outcome
        self._argv = argv
        self._timeout_s = timeout_s
        self._programs = programs
        self._counted = counted
        self._repeats = Repeats(capacity=100)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Record, Mapping[str, str]]] = deque()  # under _changed, like the next one
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"hook-{outcome.value}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, record: Record, environment: Mapping[str, str]) -> None:
        with self._changed:
            fits = len(self._waiting) < _MOST_WAITING and not self._ending
            if fits:
                self._waiting.append((record, environment))
                self._changed.notify()
        if not fits:
            self._fail(record, "left out, for a hundred calls wait already")

    def end(self) -> None:
        """Make what waits, and nothing more."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, deadline_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline_s))

    def _run(self) -> None:
        for record, environment in iter(self._next, None):
            try:
                self._call(record, environment)
            except Exception:  # noqa: BLE001 - the top of a thread, which must go on for the next calls
                logger.exception("a hook was not run")

    def _next(self) -> tuple[Record, Mapping[str, str]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending)
            return self._waiting.popleft() if self._waiting else None

    def _call(self, record: Record, environment: Mapping[str, str]) -> None:
        if self._programs.closing.is_set():
            self._fail(record, "left out, for we are stopping")
            return
        argv = [expand(template, record.session) for template in self._argv]
        line = json.dumps(record.as_json(), allow_nan=False).encode() + b"\n"
        try:
            ended = self._programs.run(
                argv,
                timeout_s=self._timeout_s,
                environment={
                    "JOURNAL_WATCHER_DATABASE": record.database,
                    "JOURNAL_WATCHER_EVENT": self._outcome.value,
                    **environment,
                },
                stdin=line,
            )
        except OSError as error:
            self._fail(record, f"does not start: {self._why_not(argv[0], error)}")
            return
        said = f": {ended.words}" if ended.words else ""
        if ended.status is None:
            stopping = self._programs.closing.is_set()
            within = f"not through within {format_seconds(self._timeout_s)}"
            self._fail(record, f"{'we are stopping' if stopping else within}, killed{said}")
        elif ended.status != 0:
            self._fail(record, f"{ended.how}{said}")
        else:
            self._counted(self._outcome.value, True)

    def _why_not(self, name: str, error: OSError) -> str:
        if is_of_machine(error):
            return in_words(error)
        words = _trouble_with(name)
        if words is None:
            words = f"{printable(name)}: {(error.strerror or 'cannot be run').lower()}"
            if error.errno == errno.ENOENT:
                words += " (it is there, but not the program that its first line, #!, names)"
        return f"{words}; see to it, or change hooks.{self._outcome.value}"

    def _fail(self, record: Record, why: str) -> None:
        self._counted(self._outcome.value, False)
        program = printable(os.path.basename(self._argv[0]))
        left_out = self._repeats.allow(self._outcome, why, time.monotonic())
        if left_out is None:
            return
        more = f" (told {left_out} times less since)" if left_out else ""
        log.tell(
            Event.HOOK_FAILED,
            f"hooks.{self._outcome.value}: {program} for {printable(record.database)}: {why}{more}",
            database=record.database,
            hook=self._outcome.value,
        )
