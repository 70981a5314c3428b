"""Live writers whose locks nobody sees, in long transactions, beside the running service: none may be recovered.

A writer is frozen at a random moment in a transaction that SQLite itself would take for a crash, and stays so while the
service sweeps the tree and is told, as after a death, that somebody has closed the journal. Then it goes on.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashlab.oracle import Oracle
from tests.crashlab.sessions import PID_FILE, Bytes, Plan, Writer
from tests.running import DEADLINE_S, Runner, Service, wait_until
from tests.writers import journal_of

_SWEEPS = 3


@dataclass(slots=True)
class Seen:
    """What a run has seen.

    Attributes:
        rounds: in which a live writer's journal was hot for `_SWEEPS` sweeps.
        commits: acknowledged by all writers.
        wrong: one line for each round that was.
    """

    rounds: int = 0
    commits: int = 0
    wrong: list[str] = field(default_factory=list)


def watch_live_writers(directory: Path, rounds: int, seed: int) -> Seen:
    """So many rounds, each with a writer of its own."""
    seen = Seen()
    runner = Runner(directory)
    runner.configure(owner={"pid_file": PID_FILE}, watch={"sweep_interval": "100ms"})
    with closing(runner), closing(Oracle()) as oracle:
        service = runner.start()
        for number in range(rounds):
            plan = _draw(random.Random(f"{seed}:live:{number}"))
            database = runner.root / f"round-{number}" / "outbound.db"
            complaint = _round(service, oracle, Writer(database, plan), directory / "copy" / "outbound.db", seen)
            if complaint is not None:
                seen.wrong.append(f"seed {seed}, round {number}: {complaint}; {plan}")
    return seen


def _draw(chance: random.Random) -> Plan:
    """A plan whose transactions are long, and spill at once."""
    drawn = Plan.draw(chance)
    return Plan(
        seed=drawn.seed,
        page_size=drawn.page_size,
        journal_mode=drawn.journal_mode,
        synchronous=drawn.synchronous,
        auto_vacuum=drawn.auto_vacuum,
        cache_size=1,
        rows=60,
        steps=30,
        pause_s=0.0,
        unseen=True,
    )


def _round(service: Service, oracle: Oracle, writer: Writer, copy: Path, seen: Seen) -> str | None:
    with ExitStack() as stack:
        stack.enter_context(closing(writer))
        writer.wait_ready()
        left = _freeze_when_hot(writer, oracle, copy)
        _pretend_a_death(writer.database)
        swept = len(service.events("sweep"))
        wait_until(lambda: len(service.events("sweep")) > swept + _SWEEPS)
        if Bytes.of(writer.database) != left:
            return "its files were changed while it was frozen in its transaction"
        writer.thaw()
        status = writer.end()
        seen.rounds += 1
        seen.commits += writer.acknowledged
        if status != 0:
            return f"it has ended with status {status}: {writer.refusal}"
        verdict = oracle.recover(Bytes.of(writer.database).put(copy))
        told = [each for each in service.events("recovered") if each["database"] == str(writer.database)]
        return verdict.complaint(writer.acknowledged) or (f"it was recovered: {told}" if told else None)


def _freeze_when_hot(writer: Writer, oracle: Oracle, copy: Path) -> Bytes:
    """Stop it in the middle of a transaction; what is there then, which SQLite would roll back."""
    chance = random.Random(writer.plan.seed)
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        time.sleep(chance.uniform(0, 0.1))
        writer.freeze()
        left = Bytes.of(writer.database)
        if left.journal and oracle.recover(left.put(copy)).was_hot:
            return left
        writer.thaw()
    raise AssertionError(f"no hot journal of {writer.database} within {DEADLINE_S} s")


def _pretend_a_death(database: Path) -> None:
    """What the service hears of a killed writer: somebody has closed the journal, which has not been deleted since."""
    with suppress(FileNotFoundError):  # somebody has rolled it back, which the comparison will tell
        os.close(os.open(journal_of(database), os.O_WRONLY))
