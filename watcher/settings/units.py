"""Durations and sizes as people write them: `250ms`, `30s`, `5m`, `1h`, `90d`; `64MiB`, `10 MB`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

__all__ = ["format_bytes", "format_seconds", "parse_bytes", "parse_seconds"]

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_DURATION = re.compile(_NUMBER + r"[ \t]*(ms|s|m|h|d)?")
_SIZE = re.compile(_NUMBER + r"[ \t]*([kKMGT]B|[KMGT]iB|B)?")

_SECONDS = {"d": Fraction(86400), "h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
_BYTES = {
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    "kB": 1000,
    "B": 1,
}


def _number(value: object) -> Fraction | None:
    """What a number says exactly; None for what is no number (a bool is none), infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return Fraction(value) if isinstance(value, int) or math.isfinite(value) else None


def parse_seconds(value: object) -> float | None:
    """Seconds from a number of seconds, or from `250ms`, `30s`, `5m`, `1h`, `1d`. None for anything else."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        seconds = Fraction(match[1]) * _SECONDS[match[2] or "s"] if match else None
    else:
        seconds = _number(value)
    if seconds is None or not 0 <= seconds < 10**12:
        return None
    return float(seconds)


def parse_bytes(value: object) -> int | None:
    """Bytes from a whole number, or from `64MiB`, `1.5GiB`, `10 MB` (KiB MiB GiB TiB: of 1024; KB MB GB TB: of 1000).

    None for anything else, a part of a byte included.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        size = Fraction(match[1]) * _BYTES[match[2] or "B"] if match else None
    else:
        size = _number(value)
    if size is None or size < 0 or size.denominator != 1:
        return None
    return int(size)


def format_seconds(seconds: float) -> str:
    """The shortest way to write a duration that :func:`parse_seconds` reads back: `30s`, `5m`, `250ms`."""
    exact = Fraction(repr(seconds))
    for unit, length in _SECONDS.items():
        if exact and exact % length == 0:
            return f"{exact // length}{unit}"
    return f"{seconds}s" if exact else "0s"


def format_bytes(size: int) -> str:
    """The shortest exact way to write a size: `64MiB`, `10MB`, `4616B`."""
    for unit, length in sorted(_BYTES.items(), key=lambda item: -item[1]):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}B"
