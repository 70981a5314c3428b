"""One event as one line: for a person, or as a JSON object.

Whatever the names, messages and fields hold, a line stays one line of printable text; only the traceback of an error
takes more, and those are indented, so that nothing in them can pass for a line of ours.

Times are UTC in both forms: the same as in the history, the status and the JSON, the same on every host of a fleet, and
without the hour that local time has twice a year.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

from watcher.names import printable
from watcher.records.record import rfc3339

__all__ = ["Line", "for_journal", "human", "json_line", "one_line", "plain"]

_LONGEST_MESSAGE = 16_384
"""Characters. journald cuts a line at 48 KiB (LineMax= of journald.conf), and goes on in a second entry."""

_COLOURS = {
    "TRACE": "2",
    "DEBUG": "2",
    "INFO": "32",
    "SUCCESS": "32",
    "WARNING": "33",
    "ERROR": "31",
    "CRITICAL": "1;31",
}


_JSON = json.JSONEncoder(ensure_ascii=True, allow_nan=False)  # `json.dumps` would make one for each line
_PRIORITIES = {"TRACE": 7, "DEBUG": 7, "INFO": 6, "SUCCESS": 5, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class Line(NamedTuple):
    """What is told.

    Attributes:
        time: aware.
        database: as :func:`watcher.names.printable` shows it.
        fields: :func:`plain` makes of them what JSON has.
        error: told with its traceback.
    """

    time: datetime
    level: str
    event: str
    message: str
    database: str | None = None
    fields: Mapping[str, object] = MappingProxyType({})
    error: BaseException | None = None


def human(line: Line, *, colour: bool) -> str:
    """`2026-11-24 08:31:37.123Z INFO     recovered         outbound.db: 12 pages in 7.1 ms`, without its newline."""
    time = f"{line.time.astimezone(UTC).isoformat(' ', 'milliseconds')[:23]}Z"
    level = f"{line.level:<8}"
    if colour:
        time = f"\x1b[2m{time}\x1b[0m"
        level = f"\x1b[{_COLOURS.get(line.level, '0')}m{level}\x1b[0m"
    text = f"{time} {level} {line.event:<17} {_bounded(line.message)}"
    return text if line.error is None else "\n  ".join([text, *_traceback_of(line.error)])


def for_journal(line: Line) -> str:
    """As :func:`human` has it, each of its lines with its syslog priority in front (sd-daemon(3)), for systemd's
    journal."""
    return "\n".join(f"<{_PRIORITIES.get(line.level, 6)}>{each}" for each in human(line, colour=False).split("\n"))


def json_line(line: Line, instance: str) -> str:
    """The JSON object of one line: `time`, `level`, `event`, `instance`, `message`, `database` where there is one, then
    the fields in their order; ASCII, without a newline."""
    told: dict[str, object] = {
        "time": rfc3339(line.time),
        "level": line.level,
        "event": line.event,
        "instance": one_line(instance),
        "message": _bounded(line.message),
    }
    if line.database is not None:
        told["database"] = line.database
    for key, value in line.fields.items():
        told[key if key not in told else f"{key}_"] = plain(value)
    if line.error is not None:
        told["traceback"] = "\n".join(_traceback_of(line.error))
    return _JSON.encode(told)


def one_line(text: str) -> str:
    """The text with what is unprintable escaped as `printable` does it, but with its backslashes as they are: what is
    printable already comes back unchanged."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else printable(character) for character in text)


def plain(value: object) -> object:
    """The value as JSON has it, with each text as one printable line.

    A path is a name, and is shown as :func:`watcher.names.printable` does; a `str` is text that says something, and
    goes through :func:`one_line`. A float that is no number is None.
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return one_line(value)
        case list() | tuple() | set() | frozenset():  # before what is found out at some length
            return [plain(each) for each in value]
        case dict() | Mapping():
            return {one_line(str(key)): plain(each) for key, each in value.items()}
        case datetime():
            return rfc3339(value)
        case os.PathLike():
            return printable(os.fsdecode(value))
        case _:
            return one_line(str(value))


def _bounded(message: str) -> str:
    text = one_line(message)
    if len(text) <= _LONGEST_MESSAGE:
        return text
    return f"{text[:_LONGEST_MESSAGE]} … ({len(text) - _LONGEST_MESSAGE} characters more)"


def _traceback_of(error: BaseException | None) -> list[str]:
    if error is None:
        return []
    return [one_line(line) for line in "".join(traceback.format_exception(error)).splitlines()]
