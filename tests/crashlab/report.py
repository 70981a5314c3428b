"""What the lab has seen, as a person reads it."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.crashlab.lab import Tally
from tests.crashlab.sessions import JOURNAL_MODES


def print_tally(console: Console, tally: Tally) -> None:
    """The table, and what is wrong."""
    table = Table(title=f"{tally.kills.total()} kills in {tally.rounds} rounds", title_justify="left")
    table.add_column("journal_mode")
    for mode in (*JOURNAL_MODES, "all"):
        table.add_column(mode, justify="right")
    wrong = Counter(each.plan.journal_mode for each in tally.wrong)
    rows = {
        "kills": tally.kills,
        "hot journals": tally.hot,
        "… with several headers": tally.many_headers,
        "… recovered": tally.recovered,
        "… which changed no byte": tally.unchanged,
        "nothing to roll back": tally.cold,
        "wrong": wrong,
    }
    for name, counts in rows.items():
        table.add_row(name, *(str(counts[mode]) for mode in JOURNAL_MODES), str(counts.total()))
    console.print(table)
    console.print("recovered by " + "; ".join(f"{way}: {count}" for way, count in tally.ways.most_common()))
    console.print(f"transactions acknowledged: {tally.acknowledged}; kills of the service: {tally.service_kills}")
    for neighbour in tally.neighbours:
        console.print(
            f"live neighbour, {neighbour.name}: {neighbour.commits} commits, the slowest"
            f" {neighbour.slowest_commit_ms:.0f} ms: {neighbour.complaint or 'none lost or refused'}"
        )
    if tally.polls:
        console.print("host's polls: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.polls.items())))
    for each in tally.wrong:
        console.print(f"[bold red]wrong[/] {each}", highlight=False)
