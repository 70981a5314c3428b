"""`python -m tests.soak`: status 1 where anything was lost, or has grown by more than 5 %."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.crashlab.lab import neighbour
from tests.crashlab.oracle import Oracle
from tests.crashlab.sessions import PID_FILE, Bytes, Writer
from tests.running import Runner
from tests.small_disk import small_disk
from tests.soak.phases import Phases
from tests.soak.samples import Comparison, Sample, Sampler
from tests.writers import CrashedPair

_CYCLES = 20
"""So that each tenth of the time has whole ones."""
_MOST_WARM_UP_S = 120.0
_SESSIONS = 300


def main(
    minutes: Annotated[float, typer.Option(help="How long it takes.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; 0: a new one.")] = 0,
    plot: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("soak.png"),
) -> None:
    """Let one service live through storms, kills, faults, reloads and idle hours, and measure it."""
    console = Console()
    seed = seed or random.SystemRandom().randrange(1, 1 << 32)
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    console.print(f"seed {seed}, in {directory}", highlight=False)
    samples, phases, recoveries, complaints = _soak(directory, minutes * 60, seed, console)
    _plot(samples, phases, plot)
    shutil.rmtree(directory)
    warm_up_s = min(_MOST_WARM_UP_S, samples[-1].at_s / 10)
    compared = [Comparison.of(name, samples, warm_up_s) for name in ("memory_mib", "descriptors", "threads")]
    _print(console, compared, Comparison.of("cpu_percent", samples, warm_up_s))
    console.print(f"{recoveries} recoveries, each as SQLite's own; {plot}")
    for complaint in complaints:
        console.print(f"[bold red]wrong[/] {complaint}")
    raise typer.Exit(int(bool(complaints) or any(each.is_leak for each in compared)))


def _soak(
    directory: Path, seconds: float, seed: int, console: Console
) -> tuple[list[Sample], list[tuple[float, str]], int, list[str]]:
    runner = Runner(directory)
    runner.configure(owner={"pid_file": PID_FILE}, watch={"sweep_interval": "2s"}, log={"level": "INFO"})
    columns = (TextColumn("{task.description:8}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        state_disk = stack.enter_context(small_disk(runner.state, size_kib=64 * 1024))
        state_disk.chmod(0o700)
        stack.callback(runner.close)
        oracle = stack.enter_context(closing(Oracle()))
        crashed = CrashedPair.make(directory)
        for number in range(_SESSIONS):
            (runner.root / "quiet" / str(number)).mkdir(parents=True)
            (runner.root / "quiet" / str(number) / "outbound.db").write_bytes(crashed.recovered)
        service = runner.start(wait="started")
        neighbours = [
            stack.enter_context(closing(neighbour(runner.root, seed, unseen=unseen))) for unseen in (False, True)
        ]
        hurting = Phases(runner, service, crashed, oracle, state_disk, seed)
        sampler = Sampler(service.process.pid)
        sampler.start()
        began = time.monotonic()
        phases: list[tuple[float, str]] = []
        every = hurting.all()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=seconds)
            for number in range(_CYCLES * len(every)):
                name, run = every[number % len(every)]
                phases.append((time.monotonic() - began, name))
                progress.update(task, description=name, completed=time.monotonic() - began)
                run(began + seconds * (number + 1) / (_CYCLES * len(every)))
        samples = sampler.stop()
        complaints = [*_judge(neighbours, oracle, directory), *_end(runner, service.stop())]
        return samples, phases, hurting.recoveries, complaints


def _judge(neighbours: list[Writer], oracle: Oracle, directory: Path) -> list[str]:
    complaints = []
    for writer in neighbours:
        status = writer.end()
        verdict = oracle.recover(Bytes.of(writer.database).put(directory / "copy" / "outbound.db"))
        complaint = writer.refusal or verdict.complaint(writer.acknowledged)
        if status != 0 or complaint is not None:
            complaints.append(f"{writer.database}: {complaint or f'status {status}'}")
    return complaints


def _end(runner: Runner, status: int) -> list[str]:
    stale = [each for each in runner.json("scan")["journals"] if each["decision"] != "ignore"]
    return ([f"the service has ended with status {status}"] if status else []) + [
        f"left over: {each}" for each in stale
    ]


def _plot(samples: list[Sample], phases: list[tuple[float, str]], path: Path) -> None:
    from tests.soak.plot import plot  # only here, so that all else works without matplotlib

    plot(samples, phases, path)


def _print(console: Console, compared: list[Comparison], cpu: Comparison) -> None:
    table = Table("", "first tenth", "last tenth", "growth")
    for each in (*compared, cpu):
        told = "" if each is cpu else f"{each.growth:+.1%}"
        table.add_row(each.name, f"{each.first:.1f}", f"{each.last:.1f}", f"[red]{told}[/]" if each.is_leak else told)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
