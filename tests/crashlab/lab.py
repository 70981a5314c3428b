"""The lab: rounds of random crashes beside live neighbours, recovered by the real thing, compared with the oracle's."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.crashlab import poller
from tests.crashlab.oracle import Oracle, Verdict
from tests.crashlab.sessions import PID_FILE, Bytes, Plan, Writer, frozen, is_finished, remove
from tests.running import DEADLINE_S, Runner, Service
from tests.writers import journal_of

KILLS_PER_ROUND = 4
_LATEST_KILL_S = 0.4
_SERVICE_KILLED = 0.15
_KEPT_ROUNDS = 20
"""Sessions of earlier rounds that stay where they are, so that the tree does not grow for ever."""
_SETTINGS = {"owner": {"pid_file": PID_FILE}, "watch": {"sweep_interval": "2s"}, "log": {"level": "INFO"}}


class Way(StrEnum):
    """How the bytes right after a kill are had, and who recovers."""

    SERVICE_STOPPED = "service, stopped for the copy"
    WRITER_STOPPED = "service, the writer stopped for the copy"
    BY_HAND = "recover PATH"
    LATE = "service, started after the kills"

    @classmethod
    def of_round(cls, number: int) -> Way:
        """Every way in its turn, so that few rounds meet them all: half of them beside a running service."""
        stopped, frozen_, by_hand, late = cls
        return (stopped, by_hand, frozen_, by_hand, stopped, by_hand, frozen_, late, stopped, by_hand)[number % 10]

    @property
    def is_beside_service(self) -> bool:
        """Whether the service runs while the writer is killed."""
        return self in {Way.SERVICE_STOPPED, Way.WRITER_STOPPED}


@dataclass(frozen=True, slots=True)
class Kill:
    """A writer that was killed, and what was there right after that.

    Attributes:
        acknowledged: its last transaction, or its predecessor's.
    """

    database: Path
    plan: Plan
    left: Bytes
    acknowledged: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Wrong:
    """A kill after which something was not as it must be."""

    round_number: int
    way: Way
    plan: Plan
    what: str

    def __str__(self) -> str:
        return f"round {self.round_number} ({self.way}): {self.what}; {asdict(self.plan)}"


@dataclass(slots=True)
class Tally:
    """What a run has seen. Counters are by journal mode."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    hot: Counter[str] = field(default_factory=Counter)
    many_headers: Counter[str] = field(default_factory=Counter)
    recovered: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    cold: Counter[str] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)
    ways: Counter[Way] = field(default_factory=Counter)
    service_kills: int = 0
    acknowledged: int = 0
    neighbours: list[Neighbour] = field(default_factory=list)
    polls: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A writer that has lived all the while.

    Attributes:
        complaint: what it was refused, or has lost.
    """

    name: str
    commits: int
    slowest_commit_ms: float
    complaint: str | None


class Lab:
    """Two trees (one with a service, one without), the oracle, and what was seen.

    Args:
        directory: for all of it; what is wrong is kept below `wrong` in it.
        seed: of all that is drawn.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.tally = Tally()
        self._seed = seed
        self._directory = directory
        self._rounds: list[tuple[Path, list[Kill]]] = []
        self._running = _installation(directory / "running")
        self._by_hand = _installation(directory / "by-hand")
        self._oracle = Oracle()
        self._service: Service | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """The service, the neighbours and a host that polls, alive within this block; judged at its end."""
        with ExitStack() as closing_:
            closing_.callback(self._oracle.close)
            closing_.callback(self._by_hand.close)
            closing_.callback(self._running.close)
            self._service = self._running.start(wait="started")
            host = closing_.enter_context(_polling(self._running.root))
            neighbours = [
                closing_.enter_context(closing(neighbour(self._running.root, self._seed, unseen=unseen)))
                for unseen in (False, True)
            ]
            yield
            for writer in neighbours:
                self._judge_neighbour(writer)
            self.tally.polls = host()
            for _, kills in self._rounds:
                self._judge_cold(kills)
            status = self._service.stop()
            assert status == 0, f"the service has ended with status {status}"

    # --- a round ---

    def run_round(self, number: int) -> None:
        """Kill four writers, let them be recovered, and compare. All but the kernel's timing comes from seed and
        number."""
        chance = random.Random(f"{self._seed}:{number}")
        way = Way.of_round(number)
        lives = chance.choice((1, 1, 2))
        runner = self._running if way.is_beside_service else self._by_hand
        place = runner.root / f"round-{number}"
        before = [0] * (KILLS_PER_ROUND // lives)
        for _ in range(lives):
            plans = [Plan.draw(chance) for _ in before]
            writers = [Writer(place / f"session-{index}" / "outbound.db", plan) for index, plan in enumerate(plans)]
            kills = self._kill_all(writers, before, way, chance)
            verdicts = self._ask_oracle(kills)
            complaint = self._let_recover(kills, verdicts, way, chance)
            for kill, verdict in zip(kills, verdicts, strict=True):
                self._judge(number, way, kill, verdict, complaint)
            before = [verdict.numbers[1] if verdict.numbers else 0 for verdict in verdicts]
        self.tally.rounds += 1
        self._rounds.append((place, kills))
        if len(self._rounds) > _KEPT_ROUNDS:
            old, its_kills = self._rounds.pop(0)
            self._judge_cold(its_kills)
            remove(old)

    def _kill_all(self, writers: list[Writer], before: list[int], way: Way, chance: random.Random) -> list[Kill]:
        try:
            for writer in writers:
                writer.wait_ready()
            moments = [chance.uniform(0, _LATEST_KILL_S) for _ in writers]
            began = time.monotonic()
            lefts: dict[int, Bytes] = {}
            for moment, index in sorted((moment, index) for index, moment in enumerate(moments)):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                lefts[index] = self._kill(writers[index], way)
            return [
                Kill(
                    writer.database,
                    writer.plan,
                    lefts[index],
                    max(before[index], writer.acknowledged),
                    writer.refusal,
                )
                for index, writer in enumerate(writers)
            ]
        finally:
            for writer in writers:
                writer.close()

    def _kill(self, writer: Writer, way: Way) -> Bytes:
        """Kill it, and take the bytes that it leaves before anybody else comes near them."""
        match way:
            case Way.SERVICE_STOPPED:
                assert self._service is not None
                with frozen(self._service.process.pid):
                    writer.kill()
                    return Bytes.of(writer.database)
            case Way.WRITER_STOPPED:
                writer.freeze()
                left = Bytes.of(writer.database)
                writer.kill()
                return left
            case Way.BY_HAND | Way.LATE:
                writer.kill()
                return Bytes.of(writer.database)

    def _ask_oracle(self, kills: list[Kill]) -> list[Verdict]:
        """Its copies stay below `oracle`, as it has left them, until the next round."""
        return [self._oracle.recover(kill.left.put(self._copy(index))) for index, kill in enumerate(kills)]

    def _copy(self, index: int) -> Path:
        return self._directory / "oracle" / str(index) / "outbound.db"

    # --- recovery ---

    def _let_recover(self, kills: list[Kill], verdicts: list[Verdict], way: Way, chance: random.Random) -> str | None:
        """What is to be complained about beside the bytes, if anything."""
        hot = [kill.database for kill, verdict in zip(kills, verdicts, strict=True) if verdict.was_hot]
        match way:
            case Way.BY_HAND:
                paths = [kill.database for kill in kills if kill.left.journal is not None]
                return self._recover_by_hand(paths) if paths else None
            case Way.LATE:
                service = self._by_hand.start(wait="started")
                _wait_finished(hot)
                status = service.stop()
                return f"the service has ended with status {status}" if status else None
            case Way.SERVICE_STOPPED | Way.WRITER_STOPPED:
                if chance.random() < _SERVICE_KILLED:
                    time.sleep(chance.uniform(0, 0.03))
                    self._kill_service()
                _wait_finished(hot)
        return None

    def _recover_by_hand(self, paths: list[Path]) -> str | None:
        done = self._by_hand.command("recover", "--json", *paths)
        if done.returncode != 0 or not {each["outcome"] for each in json.loads(done.stdout)} <= {"recovered", "clean"}:
            return f"recover: status {done.returncode}, {done.stdout}{done.stderr}"
        return None

    def _kill_service(self) -> None:
        assert self._service is not None
        self._service.kill()
        self._service = self._running.start(wait="started")
        self.tally.service_kills += 1

    # --- judgement ---

    def _judge(self, number: int, way: Way, kill: Kill, verdict: Verdict, complaint: str | None) -> None:
        mode, tally = kill.plan.journal_mode, self.tally
        tally.kills[mode] += 1
        tally.ways[way] += 1
        tally.acknowledged += kill.acknowledged
        index = int(kill.database.parent.name.rpartition("-")[2])
        expected, now = Bytes.of(self._copy(index)), Bytes.of(kill.database)
        complaint = complaint or kill.refusal or verdict.complaint(kill.acknowledged)
        if verdict.was_hot:
            tally.hot[mode] += 1
            tally.many_headers[mode] += kill.left.headers > 1
            tally.unchanged[mode] += expected.database == kill.left.database
            finished = is_finished(kill.database)
            tally.recovered[mode] += finished
            if not finished:
                complaint = f"it was not recovered within {DEADLINE_S:g} s"
            elif now.database != expected.database:
                complaint = "the recovered database is not the one that SQLite makes of it"
        else:
            tally.cold[mode] += 1
            if now != kill.left:
                complaint = "nothing was to be rolled back, and it was touched"
        if complaint is not None:
            self._condemn(Wrong(number, way, kill.plan, complaint), kill.left, expected, now)

    def _condemn(self, wrong: Wrong, left: Bytes, expected: Bytes, now: Bytes) -> None:
        kept = self._directory / "wrong" / f"{wrong.round_number}-{len(self.tally.wrong)}"
        left.put(kept / "left" / "outbound.db")
        expected.put(kept / "oracle" / "outbound.db")
        now.put(kept / "watcher" / "outbound.db")
        (kept / "plan.json").write_text(json.dumps(asdict(wrong.plan), indent=1), encoding="utf-8")
        self.tally.wrong.append(wrong)

    def _judge_cold(self, kills: list[Kill]) -> None:
        """Long after: what was not hot is still as it was."""
        for kill in kills:
            if kill.left.journal is not None and journal_of(kill.database).exists():
                assert Bytes.of(kill.database) == kill.left, f"{kill.database} was touched"

    def _judge_neighbour(self, writer: Writer) -> None:
        status = writer.end()
        verdict = self._oracle.recover(Bytes.of(writer.database).put(self._copy(0)))
        complaint = writer.refusal or verdict.complaint(writer.acknowledged)
        if complaint is None and (status != 0 or verdict.was_hot):
            complaint = f"it has ended with status {status} and a {'hot' if verdict.was_hot else 'cold'} journal"
        self.tally.neighbours.append(
            Neighbour(writer.database.parent.name, writer.acknowledged, writer.slowest_commit_ms, complaint)
        )


def _installation(directory: Path) -> Runner:
    directory.mkdir(parents=True)
    runner = Runner(directory)
    runner.configure(**_SETTINGS)
    return runner


def neighbour(root: Path, seed: int, *, unseen: bool) -> Writer:
    plan = Plan(
        seed=seed,
        page_size=4096,
        journal_mode="delete",
        synchronous="normal",
        auto_vacuum="none",
        cache_size=4,
        rows=10,
        steps=4,
        pause_s=0.02,
        busy_timeout_s=2.0,
        unseen=unseen,
    )
    return Writer(root / "neighbours" / ("unseen" if unseen else "seen") / "outbound.db", plan)


def _wait_finished(databases: list[Path]) -> None:
    """Until each of them was recovered, or the deadline has passed: the judgement will tell."""
    until = time.monotonic() + DEADLINE_S
    while not all(map(is_finished, databases)) and time.monotonic() < until:
        time.sleep(0.002)


@contextmanager
def _polling(root: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """A host that polls each database of the tree read-only. What is yielded ends it, and tells what it has met."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", poller.__file__, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None

    def end() -> dict[str, int]:
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=DEADLINE_S)
        met: dict[str, int] = json.loads(told)
        return met

    try:
        yield end
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
