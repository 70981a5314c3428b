"""What the commands print: for people, and as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from rich.live import Live
from rich.text import Text

from watcher.advice import by_hand, roll_back_command
from watcher.checks import Check, Level
from watcher.decision import Decision, Finding
from watcher.journal import JournalState
from watcher.names import counted, printable
from watcher.once import Recovered
from watcher.records.record import Outcome
from watcher.records.status import Status
from watcher.terminal import out, paragraph, table

__all__ = [
    "print_checks",
    "print_explanation",
    "print_findings",
    "print_history",
    "print_json",
    "print_recovered",
    "print_status",
    "show_status_changes",
]

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
_MOST_ADVISED = 5
_STATUS_EVERY_S = 0.5


def print_json(value: object) -> None:
    """One JSON document on one line, ASCII: whatever a name holds, it can be read."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def print_findings(findings: Sequence[Finding], root: str) -> None:
    """What `scan` has found."""
    if not findings:
        out.print(f"{printable(root)}: no journal, nothing is stale")
        return
    rows = [
        (
            each.decision.value,
            each.look.state.value,
            _size(each.look.size_bytes),
            "-" if each.judgement is None else each.judgement.verdict.value,
            printable(each.place.relative),
            each.reason,
        )
        for each in findings
    ]
    table(("DECISION", "JOURNAL", "SIZE", "OWNER", "DATABASE", "WHY"), rows, styles=_STYLES)
    _sum_up(each.decision.value for each in findings)


def print_recovered(recovered: Sequence[Recovered], root: str, *, dry_run: bool) -> None:
    """What `recover` has done."""
    if not recovered:
        out.print(f"{printable(root)}: nothing to recover")
        return
    rows = [
        (
            each.record.outcome.value,
            "-" if each.record.pages is None else str(each.record.pages),
            _took(each.record.duration_ms),
            printable(each.finding.place.relative),
            "; ".join(filter(None, (each.record.error or _verdict_of(each), *each.remarks))),
        )
        for each in recovered
    ]
    table(("OUTCOME", "PAGES", "TOOK", "DATABASE", "WHY"), rows, styles=_STYLES)
    _sum_up(each.record.outcome.value for each in recovered)
    if dry_run:
        return
    advised = [each.finding for each in recovered if each.is_stale and by_hand(each.finding)]
    for finding in advised[:_MOST_ADVISED]:
        out.print(f"\n{printable(finding.place.relative)}")
        paragraph("  By hand: ", by_hand(finding), whole=roll_back_command(finding))
    if len(advised) > _MOST_ADVISED:
        out.print(f"\n{len(advised) - _MOST_ADVISED} more: journal-watcher explain PATH says what to do by hand")


def _verdict_of(recovered: Recovered) -> str:
    owner = recovered.record.owner
    return "" if owner is None else owner.reason


def _sum_up(words: Iterable[str]) -> None:
    """A last line under a table on a terminal: how many of each."""
    counts = Counter(words)
    if out.is_terminal and counts.total() > 1:
        told = ", ".join(f"{number} {word}" for word, number in counts.most_common())
        out.print(Text(f"{counts.total()} journals: {told}", style="bold"))


def print_explanation(finding: Finding, *, as_json: bool) -> None:
    """Everything that `explain` knows."""
    if as_json:
        print_json(finding.as_json() | _only_explained(finding))
    else:
        _explain(finding)


def _only_explained(finding: Finding) -> dict[str, object]:
    """What the JSON of `explain` has beside that of `scan`."""
    contents = finding.look.contents
    header = None if contents is None or contents.header is None else contents.header.as_json()
    super_journal = None if contents is None or contents.super_journal is None else printable(contents.super_journal)
    return {"header": header, "super_journal": super_journal, "by_hand": by_hand(finding) or None}


def _explain(finding: Finding) -> None:
    look = finding.look
    out.print(Text(printable(finding.path), style="bold"))
    for name, value in finding.session.items():
        out.print(f"  {name}: {printable(value)}")
    out.print()
    about = "none" if look.journal is None and not look.detail else f"{look.state.value}, {_size(look.size_bytes)}"
    paragraph("Journal  ", f"{about}: {look.detail}" if look.detail else about)
    header = None if look.contents is None else look.contents.header
    if header is not None:
        for name, meaning in header.explained().items():
            paragraph(f"  {name:<14} ", meaning)
    if look.contents is not None and look.contents.super_journal is not None:
        paragraph(f"  {'super-journal':<14} ", printable(look.contents.super_journal))
    if look.database is not None:
        out.print(f"Database {_size(look.database.size_bytes)}, uid {look.database.uid}")
    out.print(f"\nOwner    {'not asked' if finding.judgement is None else finding.judgement.verdict.value}")
    for each in () if finding.judgement is None else finding.judgement.evidence:
        paragraph(f"  {each.probe:<10} {each.answer.value:<8} ", each.detail)
    out.print(Text.assemble("\nDecision ", (finding.decision.value, _STYLES[finding.decision.value])))
    paragraph("  because ", finding.reason)
    advice = by_hand(finding)
    if not advice and look.state is JournalState.HOT and finding.decision is Decision.RECOVER:
        advice = "Nothing: journal-watcher run, or journal-watcher recover, does it."
    if advice:
        out.print()
        paragraph("By hand  ", advice, whole=roll_back_command(finding))


def print_checks(checks: Sequence[Check]) -> None:
    """What `check` has found, and below it the remedies."""
    table(("", "CHECK", "FOUND"), [(each.level.value, each.name, each.detail) for each in checks], styles=_STYLES)
    remedies = [each for each in checks if each.remedy is not None]
    if remedies:
        out.print()
    for each in remedies:
        paragraph(f"{each.name}: ", each.remedy or "")


def _status_text(status: Status) -> Text:
    """What the service last reported, a line for each thing."""
    return Text("\n").join(Text.assemble((f"{name:<11}", "bold"), value) for name, value in _status_rows(status))


def _status_rows(status: Status) -> list[tuple[str, str]]:
    if status.since is None and not status.running:
        return [("state", "not running; no service has run with this state_dir")]
    journals, watch, engine = status.journals, status.watch, status.engine
    recoveries = ", ".join(f"{number} {outcome}" for outcome, number in sorted(status.recoveries.items()))
    missed = f", {watch.missed} missed" if watch.missed else ""
    off = "off until the tree is there" if status.running else "off"
    rows = [
        ("state", f"running, pid {status.pid}" if status.running else "not running; what follows it said last"),
        ("started", _ago(status.since)),
        ("instance", printable(status.instance or "-")),
        ("tree", printable(status.tree or "-")),
        (
            "journals",
            f"{journals.hot} hot, {journals.waiting} waiting, {journals.held} held, {journals.refused} refused",
        ),
        ("recoveries", recoveries or "none since the start"),
        ("watch", f"{watch.backend or off}, {counted(watch.directories, 'directory', 'directories')}{missed}"),
        ("last sweep", _ago(status.last_sweep)),
    ]
    if engine is not None:
        answers = "answers" if engine.get("answers") else "does not answer"
        rows.append(("engine", f"{printable(str(engine.get('address')))} {answers}"))
    return rows


def print_status(status: Status, *, as_json: bool) -> None:
    """What the service last reported."""
    if as_json:
        print_json(status.as_json())
    else:
        out.print(_status_text(status))
    sys.stdout.flush()


def show_status_changes(read: Callable[[], Status], *, as_json: bool) -> Status:
    """Go on showing the status until interrupted: in its place on a terminal, else anew at each change.

    Returns:
        The last one.
    """
    reported = read()
    try:
        if out.is_terminal and not as_json:
            with Live(_status_text(reported), console=out, auto_refresh=False) as live:
                while True:
                    time.sleep(_STATUS_EVERY_S)
                    reported = read()
                    live.update(_status_text(reported), refresh=True)
        while True:
            print_status(reported, as_json=as_json)
            before = reported
            while reported == before:
                time.sleep(_STATUS_EVERY_S)
                reported = read()
    except KeyboardInterrupt:
        return reported


def print_history(entries: Sequence[dict[str, object]], root: str, *, is_filtered: bool) -> None:
    """Past recoveries, newest first."""
    if not entries:
        out.print("no entry of the history fits" if is_filtered else "the history is empty")
        return
    prefix = printable(root).rstrip("/") + "/"
    rows = [
        (
            str(each["time"]).replace("T", " ").rstrip("Z"),
            str(each["outcome"]),
            "-" if each["pages"] is None else str(each["pages"]),
            _took(each["duration_ms"]),
            str(each["database"]).removeprefix(prefix),
            str(each["error"] or ""),
        )
        for each in entries
    ]
    table(("TIME (UTC)", "OUTCOME", "PAGES", "TOOK", "DATABASE", "WHY"), rows, styles=_STYLES)


def _size(size_bytes: int) -> str:
    """Bytes for people: `187.9 KiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _took(duration_ms: object) -> str:
    return f"{duration_ms:.1f} ms" if isinstance(duration_ms, float) and duration_ms else "-"


def _ago(moment: datetime | None) -> str:
    """How long ago it was: `3 min ago`."""
    if moment is None:
        return "never"
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for limit, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} d ago"
