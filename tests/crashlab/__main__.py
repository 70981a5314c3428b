"""`python -m tests.crashlab`: crash writers until told otherwise; status 1 where anything was wrong."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.crashlab.lab import KILLS_PER_ROUND, Lab
from tests.crashlab.report import print_tally


def main(
    rounds: Annotated[int, typer.Option(help=f"How many rounds, of {KILLS_PER_ROUND} kills each.")] = 75,
    seconds: Annotated[float, typer.Option(help="Begin no round after so long; 0: no limit.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; 0: a new one.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first round: to repeat one, with --rounds 1.")] = 0,
) -> None:
    """Kill writers at random, let them be recovered, and compare with what SQLite makes of a copy."""
    console = Console()
    seed = seed or random.SystemRandom().randrange(1, 1 << 32)
    directory = Path(tempfile.mkdtemp(prefix="crashlab-"))
    console.print(f"seed {seed}, in {directory}", highlight=False)
    lab = Lab(directory, seed)
    until = time.monotonic() + seconds if seconds else float("inf")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with lab.open(), Progress(*columns, console=console) as progress:
        task = progress.add_task("rounds", total=rounds)
        for number in range(first, first + rounds):
            if time.monotonic() > until:
                break
            lab.run_round(number)
            progress.update(task, advance=1, description=f"rounds, {len(lab.tally.wrong)} wrong")
    print_tally(console, lab.tally)
    is_wrong = bool(lab.tally.wrong) or any(each.complaint for each in lab.tally.neighbours)
    for round_number in sorted({each.round_number for each in lab.tally.wrong}):
        console.print(f"again: python -m tests.crashlab --seed {seed} --first {round_number} --rounds 1")
    if is_wrong:
        console.print(f"evidence: {directory}/wrong")
    else:
        shutil.rmtree(directory)
    raise typer.Exit(int(is_wrong))


if __name__ == "__main__":
    typer.run(main)
