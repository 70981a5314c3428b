"""Rotation, retention and compression of the log file, as loguru reads them.

loguru parses these texts when the file is opened and raises what a service must not die of: an unknown unit, an
overflow; and it takes some that hurt later (a size of nothing rotates at every line, an interval of nothing never
ends, `Mb` are bits). So a sound part of its language is accepted, and handed over as it was written.
"""

from __future__ import annotations

import re

from pydantic import PlainValidator

from watcher.settings.errors import UnfitError, listed, shown

__all__ = ["compression", "retention", "rotation"]

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SIZE = re.compile(rf"({_NUMBER}) ?([kKMGT]i?)?B")
_SIZE_PREFIXES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_DURATION_PART = re.compile(rf"({_NUMBER}) ?([a-z]+)(?:,? (?=.)|$)")
_DURATION_UNITS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "w": 604800,
    "week": 604800,
    "month": 2628000,
    "y": 31536000,
    "year": 31536000,
}
_FREQUENCIES = ("hourly", "daily", "weekly", "monthly", "yearly")
_WEEKDAY = r"monday|tuesday|wednesday|thursday|friday|saturday|sunday|w[0-6]"
_CLOCK = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?"
_MOMENT = re.compile(rf"(?:{_WEEKDAY}|{_CLOCK}|(?:{_WEEKDAY}) at {_CLOCK})", re.IGNORECASE)
_COMPRESSIONS = ("gz", "bz2", "xz", "lzma", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip")

_SMALLEST = 1000
_LARGEST = 10**15
_SHORTEST = 1.0
_TEN_YEARS = 10 * 31536000


def _size(text: str) -> float | None:
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _SIZE_PREFIXES[(match[2] or "").replace("K", "k")] if match else None


def _duration(text: str) -> float | None:
    seconds, at = 0.0, 0
    while at < len(text):
        part = _DURATION_PART.match(text, at)
        # A word may be in the plural, a letter not.
        unit = None if part is None else part[2].removesuffix("s") if len(part[2]) > 2 else part[2]
        if part is None or unit not in _DURATION_UNITS:
            return None
        seconds += float(part[1]) * _DURATION_UNITS[unit]
        at = part.end()
    return seconds if text else None


def rotation() -> PlainValidator:
    """When a new log file is begun; None: never."""
    expected = 'a size from 1 KB such as 10 MB, an interval such as 1 week, daily, a time such as "00:00", or null'

    def validate(value: object) -> str | int | None:
        sound = value is None
        if isinstance(value, int) and not isinstance(value, bool):
            sound = _SMALLEST <= value <= _LARGEST
        elif isinstance(value, str):
            size, interval = _size(value), _duration(value)
            sound = (
                (size is not None and _SMALLEST <= size <= _LARGEST)
                or (interval is not None and _SHORTEST <= interval <= _TEN_YEARS)
                or value.lower() in _FREQUENCIES
                or _MOMENT.fullmatch(value) is not None
            )
        if not sound:
            raise UnfitError(f"expected {expected}, got {shown(value)}")
        return value if isinstance(value, str | int) else None

    return PlainValidator(validate)


def retention() -> PlainValidator:
    """How many rotated files are kept, or for how long; None: all."""
    expected = "a number of files from 1 to 10000, a time such as 10 days, or null"

    def validate(value: object) -> str | int | None:
        sound = value is None
        if isinstance(value, int) and not isinstance(value, bool):
            sound = 1 <= value <= 10000
        elif isinstance(value, str):
            age = _duration(value)
            sound = age is not None and _SHORTEST <= age <= _TEN_YEARS
        if not sound:
            raise UnfitError(f"expected {expected}, got {shown(value)}")
        return value if isinstance(value, str | int) else None

    return PlainValidator(validate)


def compression() -> PlainValidator:
    """What becomes of a rotated file; None: it stays as it is."""

    def validate(value: object) -> str | None:
        if value is None or (isinstance(value, str) and value in _COMPRESSIONS):
            return value
        raise UnfitError(f"expected {listed([*_COMPRESSIONS, 'null'])}, got {shown(value)}")

    return PlainValidator(validate)
