"""What a service goes through: storms, kills, faults, reloads and idle hours, in turn."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.crashlab.oracle import Oracle
from tests.crashlab.sessions import Bytes, Plan, Writer, frozen, is_finished
from tests.running import Runner, Service, wait_until
from tests.small_disk import fill
from tests.writers import CrashedPair

_STORM = 40
_KILLS = 4
_PAUSE_S = 0.3


class Phases:
    """The means by which a service is kept busy, and hurt.

    Args:
        state_disk: the small disk that its state is on.

    Attributes:
        recoveries: so many were compared with what SQLite makes of the same crash.
    """

    def __init__(
        self, runner: Runner, service: Service, crashed: CrashedPair, oracle: Oracle, state_disk: Path, seed: int
    ) -> None:
        self.recoveries = 0
        self._runner = runner
        self._service = service
        self._crashed = crashed
        self._oracle = oracle
        self._state_disk = state_disk
        self._chance = random.Random(seed)
        self._settings = runner.settings.read_text(encoding="utf-8")
        self._reloads = 0

    def all(self) -> list[tuple[str, Callable[[float], None]]]:
        """Each with its name; called with the moment (of `time.monotonic`) until which it is to last."""
        return [
            ("storm", self._storm),
            ("kills", self._kill),
            ("faults", self._fault),
            ("reload", self._reload),
            ("idle", self._idle),
        ]

    def _storm(self, until: float) -> None:
        """Many sessions crash at once; they are removed afterwards."""
        while time.monotonic() < until:
            self._crash_and_compare("storm", _STORM)
            shutil.rmtree(self._runner.root / "storm")
            time.sleep(_PAUSE_S)

    def _crash_and_compare(self, group: str, number: int) -> None:
        put = [self._crashed.put(self._runner.root / group / str(each) / "outbound.db") for each in range(number)]
        wait_until(lambda: all(map(is_finished, put)), 60)
        assert all(database.read_bytes() == self._crashed.recovered for database in put)
        self.recoveries += number

    def _kill(self, until: float) -> None:
        """Random writers are killed at random."""
        while time.monotonic() < until:
            group = self._runner.root / "kills"
            writers = [Writer(group / str(number) / "outbound.db", Plan.draw(self._chance)) for number in range(_KILLS)]
            for writer in writers:
                with closing(writer):
                    self._kill_and_compare(writer)
            shutil.rmtree(group)

    def _kill_and_compare(self, writer: Writer) -> None:
        writer.wait_ready()
        time.sleep(self._chance.uniform(0, 0.1))
        writer.freeze()
        left = Bytes.of(writer.database)
        writer.kill()
        copy = left.put(self._runner.settings.with_name("copy") / "outbound.db")
        verdict = self._oracle.recover(copy)
        complaint = verdict.complaint(writer.acknowledged)
        assert complaint is None, complaint
        if verdict.was_hot:
            wait_until(lambda: is_finished(writer.database))
            assert writer.database.read_bytes() == copy.read_bytes()
            self.recoveries += 1

    def _fault(self, until: float) -> None:
        """One fault after another, each with crashes in it and after it."""
        faults: list[Callable[[], None]] = [
            self._full_state_disk,
            self._few_descriptors,
            self._locked_history,
            self._stopped_service,
        ]
        while time.monotonic() < until:
            for fault in faults:
                fault()
                self._crash_and_compare("faults", 5)
                shutil.rmtree(self._runner.root / "faults")

    def _full_state_disk(self) -> None:
        ballast = fill(self._state_disk)
        self._crash_and_compare("full", 5)
        ballast.unlink()
        shutil.rmtree(self._runner.root / "full")

    def _few_descriptors(self) -> None:
        pid = self._service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 2, before[1]))
        put = [self._crashed.put(self._runner.root / "few" / str(each) / "outbound.db") for each in range(5)]
        time.sleep(_PAUSE_S)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: all(map(is_finished, put)))
        shutil.rmtree(self._runner.root / "few")

    def _locked_history(self) -> None:
        with closing(sqlite3.connect(self._runner.state / "history.db", isolation_level=None, timeout=10)) as somebody:
            somebody.execute("BEGIN EXCLUSIVE")
            self._crash_and_compare("locked", 5)
            somebody.execute("ROLLBACK")
        shutil.rmtree(self._runner.root / "locked")

    def _stopped_service(self) -> None:
        with frozen(self._service.process.pid):
            self._crashed.put(self._runner.root / "stopped" / "outbound.db")
            time.sleep(_PAUSE_S)
        wait_until(lambda: is_finished(self._runner.root / "stopped" / "outbound.db"))
        shutil.rmtree(self._runner.root / "stopped")

    def _reload(self, until: float) -> None:
        """The settings change, and change back."""
        while time.monotonic() < until:
            for text in (self._settings + "history: {keep: 5000}\n", self._settings):
                self._runner.settings.write_text(text, encoding="utf-8")
                self._reloads += 1
                self._service.signal(signal.SIGHUP)
                self._service.wait_for("reloaded", count=self._reloads)
                self._crash_and_compare("reload", 3)
                shutil.rmtree(self._runner.root / "reload")
            time.sleep(_PAUSE_S)

    @staticmethod
    def _idle(until: float) -> None:
        """Nothing crashes."""
        time.sleep(max(0.0, until - time.monotonic()))
