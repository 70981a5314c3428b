"""What the commands print for people: rich tables on a terminal, plain columns in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from watcher.advice import by_hand
from watcher.checks import Check, Level
from watcher.decision import Decision, Finding
from watcher.journal import JournalState
from watcher.names import printable
from watcher.once import Recovered
from watcher.records.record import Outcome
from watcher.records.status import Status

__all__ = [
    "ago",
    "out",
    "print_checks",
    "print_explanation",
    "print_findings",
    "print_history",
    "print_json",
    "print_recovered",
    "print_status",
    "progress",
    "size",
    "table",
]

out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

_STYLES = {
    Decision.RECOVER.value: "bold green",
    Decision.WAIT.value: "cyan",
    Decision.HOLD.value: "bold yellow",
    Decision.REFUSE.value: "bold red",
    Decision.IGNORE.value: "dim",
    Outcome.RECOVERED.value: "bold green",
    Outcome.CLEAN.value: "green",
    Outcome.WOULD_RECOVER.value: "bold green",
    Outcome.WAITING.value: "cyan",
    Outcome.BUSY.value: "yellow",
    Outcome.HELD.value: "bold yellow",
    Outcome.REFUSED.value: "bold red",
    Outcome.FAILED.value: "bold red",
    Outcome.CORRUPT.value: "bold white on red",
    Level.OK.value: "green",
    Level.WARNING.value: "bold yellow",
    Level.ERROR.value: "bold red",
}


def print_json(value: object) -> None:
    """One JSON document on one line, ASCII: whatever a name holds, it can be read."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def size(size_bytes: int) -> str:
    """Bytes for people: `187.9 KiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def ago(moment: datetime | None) -> str:
    """How long ago it was: `3 min ago`."""
    if moment is None:
        return "never"
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for limit, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} d ago"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styled: int | None = None) -> None:
    """A table on a terminal; in a pipe, columns parted by tabs under a line of their names.

    Args:
        styled: the column whose words have a colour of their own.
    """
    if not out.is_terminal:
        for row in (columns, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        last = number == len(columns) - 1
        shown.add_column(column, overflow="fold", no_wrap=not last and number != 0, ratio=1 if last else None)
    for row in rows:
        shown.add_row(
            *(Text(cell, style=_STYLES.get(cell, "") if number == styled else "") for number, cell in enumerate(row))
        )
    Console(highlight=False).print(shown)


def print_findings(findings: Sequence[Finding], root: str) -> None:
    """What `scan` has found."""
    if not findings:
        out.print(f"{printable(root)}: no journal, nothing is stale")
        return
    rows = [
        (
            printable(each.place.relative),
            each.look.state.value,
            size(each.look.size_bytes),
            "-" if each.judgement is None else each.judgement.verdict.value,
            each.decision.value,
            each.reason,
        )
        for each in findings
    ]
    table(("DATABASE", "JOURNAL", "SIZE", "OWNER", "DECISION", "WHY"), rows, styled=4)


def print_recovered(recovered: Sequence[Recovered], root: str, *, dry_run: bool) -> None:
    """What `recover` has done."""
    if not recovered:
        out.print(f"{printable(root)}: nothing to recover")
        return
    rows = [
        (
            printable(each.finding.place.relative),
            each.record.outcome.value,
            "-" if each.record.pages is None else str(each.record.pages),
            f"{each.record.duration_ms:.1f} ms" if each.record.duration_ms else "-",
            "; ".join(filter(None, (each.record.error or _verdict_of(each), *each.remarks))),
        )
        for each in recovered
    ]
    table(("DATABASE", "OUTCOME", "PAGES", "TOOK", "WHY"), rows, styled=1)
    for each in recovered:
        if each.is_stale and not dry_run and (advice := by_hand(each.finding)):
            out.print(f"\n{printable(each.finding.place.relative)}: {advice}")


def _verdict_of(recovered: Recovered) -> str:
    owner = recovered.record.owner
    return "" if owner is None else owner.reason


def print_explanation(finding: Finding) -> None:
    """Everything that `explain` knows."""
    look = finding.look
    out.print(Text.assemble((printable(finding.path), "bold")))
    for name, value in finding.session.items():
        out.print(f"  {name}: {printable(value)}")
    out.print(f"\nJournal  {look.state.value}, {size(look.size_bytes)}{f': {look.detail}' if look.detail else ''}")
    header = None if look.contents is None else look.contents.header
    if header is not None:
        for name, meaning in header.explained().items():
            out.print(f"  {name:<14} {meaning}")
    if look.contents is not None and look.contents.super_journal is not None:
        out.print(f"  {'super-journal':<14} {printable(look.contents.super_journal)}")
    if look.database is not None:
        out.print(f"Database {size(look.database.size_bytes)}, uid {look.database.uid}")
    if finding.judgement is None:
        out.print("\nOwner    not asked")
    else:
        out.print(f"\nOwner    {finding.judgement.verdict.value}")
        for each in finding.judgement.evidence:
            out.print(f"  {each.probe:<10} {each.answer.value:<8} {each.detail}")
    style = _STYLES[finding.decision.value]
    out.print(Text.assemble("\nDecision ", (finding.decision.value, style), f": {finding.reason}"))
    advice = by_hand(finding)
    if advice:
        out.print(f"\nBy hand  {advice}")
    elif look.state is JournalState.HOT and finding.decision is Decision.RECOVER:
        out.print("\nBy hand  Nothing: journal-watcher run, or journal-watcher recover, does it.")


def print_checks(checks: Sequence[Check]) -> None:
    """What `check` has found, worst last seen first by its colour."""
    table(("", "CHECK", "FOUND"), [(each.level.value, each.name, each.detail) for each in checks], styled=0)
    for each in checks:
        if each.remedy is not None:
            out.print(Text.assemble((f"{each.name}: ", _STYLES[each.level.value]), each.remedy))


def status_rows(status: Status) -> list[tuple[str, str]]:
    """What `status` shows, line by line."""
    journals, watch = status.journals, status.watch
    recoveries = ", ".join(f"{number} {outcome}" for outcome, number in sorted(status.recoveries.items()))
    missed = f", {watch.missed} missed" if watch.missed else ""
    return [
        ("state", f"running, pid {status.pid}" if status.running else "not running"),
        ("started", ago(status.since)),
        ("instance", printable(status.instance or "-")),
        ("tree", printable(status.tree or "-")),
        (
            "journals",
            f"{journals.hot} hot, {journals.waiting} waiting, {journals.held} held, {journals.refused} refused",
        ),
        ("recoveries", recoveries or "none since the start"),
        ("watch", f"{watch.backend or 'off'}, {watch.directories} directories{missed}"),
        ("last sweep", ago(status.last_sweep)),
    ]


def print_status(status: Status) -> None:
    """What the service last reported."""
    for name, value in status_rows(status):
        out.print(Text.assemble((f"{name:<11}", "bold"), value))


def print_history(entries: Sequence[dict[str, object]], root: str) -> None:
    """Past recoveries, newest first."""
    if not entries:
        out.print("no entry in the history fits")
        return
    prefix = printable(root).rstrip("/") + "/"
    rows = [
        (
            str(each["time"]).replace("T", " ").rstrip("Z"),
            str(each["database"]).removeprefix(prefix),
            str(each["outcome"]),
            "-" if each["pages"] is None else str(each["pages"]),
            f"{each['duration_ms']} ms" if each["duration_ms"] else "-",
            str(each["error"] or ""),
        )
        for each in entries
    ]
    table(("TIME (UTC)", "DATABASE", "OUTCOME", "PAGES", "TOOK", "WHY"), rows, styled=2)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on stderr, which comes only on a terminal, and goes when all is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        bar.add_task(what, total=total)
        yield bar
