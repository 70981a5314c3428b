"""The steps that several commands have in common: each says what is wrong, and ends its command with the status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from watcher.cli import BAD_SETTINGS
from watcher.names import printable
from watcher.settings import Settings, SettingsError, load_settings, parse_seconds
from watcher.streams import give_up_stdout, is_unread, say

if TYPE_CHECKING:  # what a command does not need, it does not load
    from watcher.installation import Rooms
    from watcher.once import Recovered
    from watcher.records.status import Status
    from watcher.tree import Place

__all__ = [
    "answering",
    "entries_of",
    "keep",
    "located",
    "reported_by",
    "rooms_of",
    "root_needed",
    "settings_of",
    "tell_shut",
]


def settings_of(config: Path | None) -> Settings:
    """The settings; ends with status 2 where they are bad."""
    try:
        return load_settings(config)
    except SettingsError as error:
        say(str(error))
        raise typer.Exit(BAD_SETTINGS) from error


def rooms_of(config: Path | None) -> Rooms:
    """The rooms of an installation, without its threads; ends with status 2 where the settings are bad."""
    settings = settings_of(config)
    from watcher.installation import Rooms
    from watcher.owner.clock import WallClock
    from watcher.records.boots import earlier_boot_times

    return Rooms(settings, WallClock(earlier_boot_times(settings.state_dir)))


@contextmanager
def answering(status: int) -> Iterator[None]:
    """A block that prints, after which the command ends with this status; also where nobody reads on."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if not is_unread(error):
            raise
        give_up_stdout()
    raise typer.Exit(status)


@contextmanager
def root_needed(status: int = 1) -> Iterator[None]:
    """A block that cannot do without the root; ends with this status where that is not there."""
    from watcher.tree import RootMissingError

    try:
        yield
    except RootMissingError as error:
        say(f"{printable(error.filename)}: {(error.strerror or 'cannot be opened').lower()} (tree.root)")
        raise typer.Exit(status) from error


def located(rooms: Rooms, path: Path) -> Place:
    """The place that a path means; ends with status 2 where it is none of this tree."""
    from watcher.tree import OutsideTreeError

    try:
        return rooms.tree.locate(os.fspath(path))
    except OutsideTreeError as error:
        say(str(error))
        raise typer.Exit(BAD_SETTINGS) from error


def tell_shut(shut: list[str]) -> None:
    """Tell of directories that were passed over."""
    if shut:
        more = f" and {len(shut) - 1} more" if len(shut) > 1 else ""
        say(f"not looked into, for uid {os.geteuid()} may not enter it: {printable(shut[0])}{more}")


def keep(settings: Settings, recovered: list[Recovered]) -> None:
    """Put them into the history, as the service would."""
    from watcher.records.history import HISTORY_NAME, KEPT, History, HistoryError
    from watcher.records.state_dir import StateDir, StateError

    kept = [each for each in recovered if each.record.outcome in KEPT]
    if not kept:
        return
    records = [(each.record, each.change) for each in kept]
    try:
        with StateDir.open(settings.state_dir) as state:
            history = History(
                state.path / HISTORY_NAME,
                keep=settings.history.keep,
                max_age_s=settings.history.max_age,
                root=settings.tree.root,
            )
            history.append(records)
    except (StateError, HistoryError) as error:
        say(f"not in the history: {error}")


def reported_by(settings: Settings) -> Status:
    """What the service last reported; ends with status 1 where that cannot be read."""
    from watcher.records import status
    from watcher.records.state_dir import StateError, StateMissing

    try:
        return status.read(settings.state_dir)
    except StateMissing:
        return status.Status()
    except StateError as error:
        say(str(error))
        raise typer.Exit(1) from error


def entries_of(
    settings: Settings, limit: int | None, since: str | None, session: str | None, outcome: str | None
) -> list[dict[str, object]]:
    """The entries of the history that are asked for, newest first, as JSON has them; ends with status 1 where it
    cannot be read, and with 2 where `since` is no moment.

    Args:
        since: a duration before now, or a date.
    """
    from watcher.records.history import HISTORY_NAME, History, HistoryError
    from watcher.records.record import Outcome

    kept = History(settings.state_dir / HISTORY_NAME, keep=settings.history.keep, max_age_s=settings.history.max_age)
    try:
        return kept.query(
            limit,
            None if since is None else _moment_of(since),
            session,
            None if outcome is None else Outcome(outcome),
            root=os.fspath(settings.tree.root),
        )
    except HistoryError as error:
        say(str(error))
        raise typer.Exit(1) from error


def _moment_of(text: str) -> datetime:
    """The moment that a duration before now, or a date, means; ends with status 2 where it is neither."""
    seconds = parse_seconds(text)
    try:
        if seconds is not None:
            return datetime.now(UTC) - timedelta(seconds=seconds)
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError) as error:
        expected = "a duration (30m, 12h, 1d) or a date (2026-11-24, 2026-11-24T08:00Z)"
        say(f"--since: expected {expected}, got {printable(text[:60])}")
        raise typer.Exit(BAD_SETTINGS) from error
