"""The options of the commands, and what `--help` says of each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Config",
    "DryRun",
    "ForKind",
    "Limit",
    "NoConfig",
    "OfOutcome",
    "OfSession",
    "OnPage",
    "OutcomeName",
    "Since",
    "UnitKind",
    "Watch",
]


class OutcomeName(StrEnum):
    """The outcomes that the history keeps."""

    RECOVERED = "recovered"
    FAILED = "failed"
    CORRUPT = "corrupt"
    REFUSED = "refused"
    HELD = "held"


class UnitKind(StrEnum):
    """What a unit can be for."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    GRAFANA = "grafana"


Config = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        readable=False,  # we say ourselves what is wrong with it
        metavar="FILE",
        help="The settings file. Without it $JOURNAL_WATCHER_CONFIG, then ./settings.yaml.",
    ),
]
NoConfig = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", readable=False, metavar="FILE", help="As every command takes it; the demo brings its own."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would be recovered.")]
Watch = Annotated[bool, typer.Option("--watch", metavar="", help="Go on showing it, until interrupted.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="Not older than this: 30m, 12h, 1d, or a date: 2026-11-24T08:00Z."),
]
OfSession = Annotated[
    str | None,
    typer.Option("--session", metavar="NAME", help="Of this session: the value of any field of tree.layout."),
]
OfOutcome = Annotated[
    OutcomeName | None,
    typer.Option("--outcome", metavar="OUTCOME", help="Only this one: recovered, failed, corrupt, refused or held."),
]
ForKind = Annotated[
    UnitKind | None,
    typer.Option(
        "--for",
        metavar="KIND",
        help="systemd (the default), launchd (on macOS the default), compose, kubernetes, or grafana: a dashboard.",
        show_default=False,
    ),
]
OnPage = Annotated[
    bool,
    typer.Option(
        "--page", metavar="", help="Open its page, and go on with crashes until Ctrl-C: something to look at."
    ),
]
