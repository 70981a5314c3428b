"""What a single value may be: each kind is a pydantic validator that says in plain words what it expected.

Pydantic does the structure (sections, unknown keys, defaults, all errors at once); its own words never reach a person.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import cast

from pydantic import BeforeValidator, PlainValidator

from watcher.settings.errors import UnfitError, clipped, listed, shown
from watcher.settings.units import format_bytes, format_seconds, parse_bytes, parse_seconds

__all__ = ["choice", "duration", "flag", "mapping", "one_line", "size", "text_list", "text_value", "whole_number"]

LONGEST = 4096  # PATH_MAX of Linux


def text_value(value: object, expected: str) -> str:
    """A text that any system call takes."""
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if not isinstance(value, str):
        hint = ""
        if isinstance(value, bool | int | float):
            hint = "; put it in quotes"
        elif isinstance(value, Mapping):
            hint = '; a text that begins with a brace needs quotes: "{session}"'
        raise UnfitError(f"expected {expected}, got {shown(value)}{hint}")
    if not value:
        raise UnfitError(f"expected {expected}, got {shown(value)}")
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        raise UnfitError(f"expected {expected}, got {shown(value)}, which has no UTF-8 form") from None
    if b"\0" in encoded:
        raise UnfitError(f"expected {expected}, got {shown(value)}, with a NUL character in it")
    if len(encoded) >= LONGEST:
        raise UnfitError(f"expected {expected}, got {len(encoded)} bytes; {LONGEST - 1} are possible")
    return value


def flag() -> PlainValidator:
    """true or false, and nothing that only looks like it."""

    def validate(value: object) -> bool:
        if not isinstance(value, bool):
            raise UnfitError(f"expected true or false, got {shown(value)}")
        return value

    return PlainValidator(validate)


def whole_number(low: int, high: int) -> PlainValidator:
    """A whole number within bounds, both included."""

    def validate(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UnfitError(f"expected a whole number from {low} to {high}, got {shown(value)}")
        return value

    return PlainValidator(validate)


def duration(low: float, high: float, *, automatic: bool = False) -> PlainValidator:
    """Seconds within bounds, both included; with `automatic` also `auto`, which becomes None."""
    expected = f"a duration from {format_seconds(low)} to {format_seconds(high)}, such as 250ms, 30s, 5m, 1h or 2d"

    def validate(value: object) -> float | None:
        if automatic and (value is None or value == "auto"):
            return None
        seconds = parse_seconds(value)
        if seconds is None or not low <= seconds <= high:
            raise UnfitError(f"expected {'auto or ' if automatic else ''}{expected}, got {shown(value)}")
        return seconds

    return PlainValidator(validate)


def size(low: int, high: int) -> PlainValidator:
    """Bytes within bounds, both included."""

    def validate(value: object) -> int:
        number = parse_bytes(value)
        if number is None or not low <= number <= high:
            raise UnfitError(
                f"expected a size from {format_bytes(low)} to {format_bytes(high)}, such as 500KiB, 64MiB or 2GB, "
                f"got {shown(value)}"
            )
        return number

    return PlainValidator(validate)


def choice(words: type[StrEnum], normalise: Callable[[str], str] = str) -> BeforeValidator:
    """One of the words of an enumeration."""

    def validate(value: object) -> StrEnum:
        for word in words:
            if isinstance(value, str) and normalise(value) == word:
                return word
        raise UnfitError(f"expected {listed(list(words))}, got {shown(value)}")

    return BeforeValidator(validate)


def one_line(longest: int) -> PlainValidator:
    """A short printable line."""
    expected = f"a printable line of at most {longest} characters"

    def validate(value: object) -> str:
        line = text_value(value, expected)
        if len(line) > longest or not line.isprintable() or line != line.strip():
            raise UnfitError(f"expected {expected} without spaces around it, got {shown(line)}")
        return line

    return PlainValidator(validate)


def text_list(example: str) -> BeforeValidator:
    """A list, whose entries are validated one by one. A text alone is refused, and its list is shown."""

    def validate(value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple(value)
        hint = f'; write ["{clipped(value)}"]' if isinstance(value, str) and value else ""
        raise UnfitError(f"expected a list, such as {example}, got {shown(value)}{hint}")

    return BeforeValidator(validate)


def mapping(example: str) -> BeforeValidator:
    """A mapping of a user's own keys."""

    def validate(value: object) -> object:
        if isinstance(value, Mapping):
            return value
        raise UnfitError(f"expected a mapping, such as {example}, got {shown(value)}")

    return BeforeValidator(validate)
