"""What is wrong with settings, told to a person: the place, what was expected, what stands there (never at length)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from watcher.names import printable

__all__ = ["EMPTY", "NotWritten", "Problem", "SettingsError", "UnfitError", "clipped", "dotted", "listed", "shown"]

_ECHOED = 60
_PRINTED_PROBLEMS = 40


class NotWritten(Enum):
    """A key with nothing after it: as if it were not there, and not the same as `null`, which switches off."""

    EMPTY = "nothing"


EMPTY = NotWritten.EMPTY


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: the key's whole dotted path; empty where the file as a whole is meant.
        message: what was expected, and what is there, in one printable line.
        variable: the environment variable that it came from; None where it came from the file.
    """

    path: str
    message: str
    variable: str | None = None


class SettingsError(Exception):
    """The settings cannot be used. Its text has one line for each problem, beginning with the file or the variable.

    Attributes:
        file: the settings file as it was named, printable.
        problems: all that is wrong, not only the first.
    """

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = list(problems)
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        lines = [
            ": ".join(part for part in (each.variable or self.file, each.path, each.message) if part)
            for each in self.problems[:_PRINTED_PROBLEMS]
        ]
        if len(self.problems) > _PRINTED_PROBLEMS:
            lines.append(f"{self.file}: and {len(self.problems) - _PRINTED_PROBLEMS} more")
        return "\n".join(lines)


class UnfitError(ValueError):
    """A value that cannot be used; the text says what was expected. pydantic wants a ValueError, and collects them.

    Attributes:
        related: dotted paths of other keys that it contradicts.
    """

    def __init__(self, message: str, *, related: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.related = related


def clipped(text: str, length: int = _ECHOED) -> str:
    """The beginning of `text` as one printable line of at most `length` characters and an ellipsis."""
    # Cut first: a hostile text may have a million characters, each of which prints as ten.
    line = printable(text[: length + 1])
    return line if len(line) <= length else line[:length] + "…"


def shown(value: object) -> str:
    """A value as it may be echoed: a bounded, printable word or two, and never the inside of a list or a mapping."""
    match value:
        case None:
            return "null"
        case NotWritten():
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
        case float():
            return str(value)
        case str():
            return f'"{clipped(value)}"' if value else "an empty text"
        case os.PathLike():
            return f'"{clipped(os.fsdecode(value))}"'
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def dotted(parts: Sequence[str | int]) -> str:
    """The path of a key for a person: `tree.databases[1]`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (clipped(part) or '""')
    return text


def listed(words: Sequence[str], conjunction: str = "or") -> str:
    """`a, b or c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
