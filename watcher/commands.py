"""The commands. Each reads the settings, asks the rooms, prints, and ends with the status of INTERFACE.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from watcher.cli import BAD_SETTINGS, serve
from watcher.names import printable
from watcher.options import (
    AsJson,
    Config,
    DryRun,
    ForKind,
    Limit,
    NoConfig,
    OfOutcome,
    OfSession,
    OnPage,
    Since,
    Watch,
)
from watcher.settings import SettingsError, load_settings
from watcher.steps import (
    answering,
    entries_of,
    keep,
    located,
    reported_by,
    rooms_of,
    root_needed,
    settings_of,
    tell_shut,
)
from watcher.streams import say
from watcher.version import VERSION

if TYPE_CHECKING:  # what a command does not need, it does not load
    from watcher.decision import Finding
    from watcher.once import Recovered

__all__ = ["app"]

_PANELS = {
    "To begin with": ("demo", "check"),
    "The service": ("run", "status", "history", "unit"),
    "By hand, or from cron": ("scan", "explain", "recover"),
}
_PANEL = {name: panel for panel, names in _PANELS.items() for name in names}


class _Grouped(typer.core.TyperGroup):
    """The commands in the order in which somebody new wants them."""

    def list_commands(self, ctx: object) -> list[str]:
        del ctx
        return list(_PANEL)


app = typer.Typer(
    name="journal-watcher",
    cls=_Grouped,
    help="Recovers SQLite databases whose writer was killed in the middle of a transaction. New here? `journal-watcher"
    " demo` shows it at work. Then: a settings.yaml with `tree: {root: YOUR/TREE}`, `check`, and `run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _complete_path(ctx: typer.Context, _param: object, incomplete: str) -> list[str]:
    from watcher.completion import databases

    config = ctx.params.get("config")
    return databases(config if isinstance(config, Path) else None, incomplete)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"journal-watcher {VERSION}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    del version


@app.command(rich_help_panel=_PANEL["run"])
def run(config: Config = None) -> None:
    """Run the service in the foreground, until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    serve(config)


@app.command(rich_help_panel=_PANEL["scan"])
def scan(config: Config = None, as_json: AsJson = False) -> None:
    """Look at every journal once, changing nothing: its state, its owner, and what `run` would do."""
    rooms = rooms_of(config)
    from watcher import console, once
    from watcher.terminal import progress

    root = os.fspath(rooms.tree.root)
    shut: list[str] = []
    findings: list[Finding] = []
    with root_needed(), progress("looking") as bar:
        places = sorted(rooms.tree.journals(shut.append))
        bar.expect(len(places))
        for finding in once.scan(rooms, places):
            findings.append(finding)
            bar.step()
    hold_warning_s = rooms.settings.watch.hold_warning
    with answering(int(bool(shut) or any(once.is_stale(each, hold_warning_s) for each in findings))):
        if as_json:
            console.print_json({"tree": printable(root), "journals": [each.as_json() for each in findings]})
        else:
            console.print_findings(findings, root)
        tell_shut(shut)


@app.command(rich_help_panel=_PANEL["recover"])
def recover(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            readable=False,
            shell_complete=_complete_path,
            help="Databases or their journals; none: the whole tree.",
        ),
    ] = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Decide as `run` does, once, recover what is stale, and exit: for cron, and by hand."""
    rooms = rooms_of(config)
    from watcher import console, once
    from watcher.terminal import progress

    root = os.fspath(rooms.tree.root)
    shut: list[str] = []
    with root_needed(), progress("recovering") as bar:
        named = dict.fromkeys(located(rooms, path) for path in paths or ())
        places = list(named) if paths else sorted(rooms.tree.journals(shut.append))
        bar.expect(len(places))
        ended: list[Recovered] = []

        def done(each: Recovered | None) -> None:
            bar.step()
            if each is not None:
                ended.append(each)

        try:
            recovered = once.recover_all(rooms, places, dry_run=dry_run, done=done)
        finally:
            if not dry_run:
                keep(rooms.settings, ended)
    with answering(int(bool(shut) or any(each.is_stale for each in recovered))):
        if as_json:
            console.print_json([each.record.as_json() for each in recovered])
        else:
            console.print_recovered(recovered, root, dry_run=dry_run)
        tell_shut(shut)


@app.command(rich_help_panel=_PANEL["explain"])
def explain(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", readable=False, shell_complete=_complete_path, help="A database, or its journal."
        ),
    ],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Tell everything about one database: its journal, what each probe says, the decision, what you may do by hand."""
    rooms = rooms_of(config)
    from watcher import console, once

    with root_needed(BAD_SETTINGS):
        finding = once.explain(rooms, located(rooms, path))
    console.print_explanation(finding, as_json=as_json)


@app.command(rich_help_panel=_PANEL["check"])
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Check the settings and this machine: rights, probes, watches, SQLite; with a remedy for each fault."""
    from watcher import console
    from watcher.checks import Check, Level, run_checks, worst
    from watcher.owner_checks import check_owners

    try:
        settings = load_settings(config)
    except SettingsError as error:
        if not as_json:
            say(str(error))
        else:
            checks = [Check("settings", Level.ERROR, line, "mend the settings") for line in str(error).splitlines()]
            console.print_json({"level": Level.ERROR.value, "checks": [each.as_json() for each in checks]})
        raise typer.Exit(BAD_SETTINGS) from error
    checks = [*run_checks(settings), *check_owners(settings)]
    level = worst(checks)
    with answering({Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}[level]):
        if as_json:
            console.print_json({"level": level.value, "checks": [each.as_json() for each in checks]})
        else:
            console.print_checks(checks)


@app.command(rich_help_panel=_PANEL["status"])
def status(config: Config = None, watch: Watch = False, as_json: AsJson = False) -> None:
    """Show what the running service last reported."""
    settings = settings_of(config)
    from watcher import console

    if watch:
        reported = console.show_status_changes(lambda: reported_by(settings), as_json=as_json)
        raise typer.Exit(0 if reported.running else 1)
    reported = reported_by(settings)
    with answering(0 if reported.running else 1):
        console.print_status(reported, as_json=as_json)


@app.command(rich_help_panel=_PANEL["history"])
def history(
    config: Config = None,
    limit: Limit = None,
    since: Since = None,
    session: OfSession = None,
    outcome: OfOutcome = None,
    as_json: AsJson = False,
) -> None:
    """Show past recoveries, newest first."""
    settings = settings_of(config)
    from watcher import console

    entries = entries_of(settings, limit, since, session, None if outcome is None else outcome.value)
    if as_json:
        console.print_json(entries)
    else:
        is_filtered = any(each is not None for each in (since, session, outcome))
        console.print_history(entries, os.fspath(settings.tree.root), is_filtered=is_filtered)


@app.command(rich_help_panel=_PANEL["unit"])
def unit(config: Config = None, kind: ForKind = None) -> None:
    """Print what runs this installation, ready to use: a unit of systemd, or of something else."""
    settings = settings_of(config)
    from watcher.units import Kind, UnitError, remarks_on, unit_of, usual_kind

    wanted = usual_kind() if kind is None else Kind(kind.value)
    try:
        told = unit_of(wanted, settings)
    except (UnitError, OSError) as error:
        say(str(error))
        raise typer.Exit(BAD_SETTINGS) from error
    sys.stdout.write(told)
    for remark in remarks_on(wanted, settings):
        say(remark)


@app.command(rich_help_panel=_PANEL["demo"])
def demo(config: NoConfig = None, page: OnPage = False) -> None:
    """Crash real writers in a temporary tree, and watch the real service find and recover them, step by step."""
    del config
    from watcher.demo import play

    with answering(1):  # a story that is cut off has not come to its end
        raise typer.Exit(play(page=page))
