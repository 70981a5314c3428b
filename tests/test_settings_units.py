"""Durations, sizes, and the rules of the log file as loguru really takes them."""

from __future__ import annotations

import itertools
from pathlib import Path

import loguru
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from watcher.settings import LogLevel, LogSettings, format_bytes, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        ("30", 30.0),
        ("250ms", 0.25),
        ("0.1s", 0.1),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("90d", 7776000.0),
        (" 5 m ", 300.0),
    ],
)
def test_a_duration_is_read(written: object, seconds: float) -> None:
    assert parse_seconds(written) == seconds


@pytest.mark.parametrize(
    "written",
    [-1, -0.5, True, False, None, float("nan"), float("inf"), 10**400, 1e300, [5], b"5s", "", "s", "-5s", "+5s",
     "1h30m", "5 minutes", "5M", "5S", "1e3s", "٣s", "5s\n5s", ".5s", "5.s", "nan", "inf", "9" * 16],
)  # fmt: skip
def test_what_is_no_duration_is_none(written: object) -> None:
    assert parse_seconds(written) is None


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (4616, 4616),
        (1e6, 1000000),
        ("4616", 4616),
        ("1B", 1),
        ("1KiB", 1024),
        ("1kB", 1000),
        ("1KB", 1000),
        ("64MiB", 2**26),
        ("10 MB", 10**7),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_is_read(written: object, size: int) -> None:
    assert parse_bytes(written) == size


@pytest.mark.parametrize(
    "written",
    [-1, 1.5, True, None, float("nan"), float("inf"), {}, b"1", "", "MiB", "-1MiB", "64M", "64Mi", "64mib", "64MIB",
     "64Mb", "0.5B", "0.0001KiB", "1e3", "1PiB", "9" * 16],
)  # fmt: skip
def test_what_is_no_size_is_none(written: object) -> None:
    assert parse_bytes(written) is None


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_written_as_it_is_read(number: int, unit: str) -> None:
    seconds = parse_seconds(f"{number}{unit}")

    assert seconds is not None
    assert parse_seconds(format_seconds(seconds)) == seconds


@given(st.floats(0, 10**9, allow_subnormal=False).map(lambda number: round(number, 6)))
def test_any_duration_is_written_as_it_is_read(seconds: float) -> None:
    read_back = parse_seconds(format_seconds(seconds))

    assert read_back == seconds or "e" in format_seconds(seconds)


@given(st.integers(0, 10**14))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.integers())))
def test_anything_is_a_duration_a_size_or_none(value: object) -> None:
    seconds, size = parse_seconds(value), parse_bytes(value)

    assert seconds is None or 0 <= seconds < 10**12
    assert size is None or size >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (1, "1s"), (90, "90s"), (300, "5m"), (86400, "1d"), (0.0005, "0.0005s")],
)
def test_a_duration_is_written_shortly(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (4616, "4616B"), (2**26, "64MiB"), (10**7, "10MB"), (2000, "2KB")]
)
def test_a_size_is_written_shortly(size: int, text: str) -> None:
    assert format_bytes(size) == text


NUMBERS = ["1", "10", "2.5"]
SIZES = ["KB", "kB", "MB", "GB", "TB", "KiB", "kiB", "MiB", "GiB", "TiB"]
INTERVALS = ["s", "sec", "secs", "second", "seconds", "min", "mins", "minute", "minutes", "h", "hour", "hours", "d",
             "day", "days", "w", "week", "weeks", "month", "months"]  # fmt: skip
ROTATIONS = [
    *(f"{number} {unit}" for number, unit in itertools.product(NUMBERS, [*SIZES, *INTERVALS])),
    "500MB", "1500 B", 1000, 10**9,
    "1 y", "2 years", "10h", "1 month 2 weeks", "1 day, 12 hours", "3d",
    "hourly", "daily", "Weekly", "monthly", "yearly",
    "00:00", "23:59", "9:30", "12:00:30", "monday", "Sunday", "w0", "w6", "monday at 12:00", "w6 at 00:00:01",
    None,
]  # fmt: skip
RETENTIONS = [1, 10, 10000, "10 days", "1 week", "12 hours", "1 month 2 weeks", "1 y", None]
COMPRESSIONS = ["gz", "bz2", "xz", "lzma", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip", None]


def log_by(log: LogSettings, directory: Path) -> list[str]:
    """Three lines of 600 bytes, written by loguru by these rules; the files there are then, sorted."""
    sink = loguru.logger.add(
        directory / "x.log",
        rotation=log.rotation,
        retention=log.retention,
        compression=log.compression,
        level=log.level,
        catch=False,
    )
    try:
        for _ in range(3):
            loguru.logger.info("x" * 600)
    finally:
        loguru.logger.remove(sink)
    return sorted(file.name for file in directory.iterdir())


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_loguru_takes_every_rotation_that_is_accepted(tmp_path: Path, rotation: str | int | None) -> None:
    assert "x.log" in log_by(LogSettings(rotation=rotation), tmp_path)


@pytest.mark.parametrize("retention", RETENTIONS)
def test_loguru_takes_every_retention_that_is_accepted(tmp_path: Path, retention: str | int | None) -> None:
    assert "x.log" in log_by(LogSettings(rotation="1 KB", retention=retention), tmp_path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_loguru_takes_every_compression_that_is_accepted(tmp_path: Path, compression: str | None) -> None:
    rotated = [
        name for name in log_by(LogSettings(rotation="1 KB", compression=compression), tmp_path) if name != "x.log"
    ]

    assert rotated
    assert all(name.endswith(compression or ".log") for name in rotated)


@pytest.mark.parametrize("level", LogLevel)
def test_loguru_takes_every_level(tmp_path: Path, level: LogLevel) -> None:
    assert log_by(LogSettings(level=level), tmp_path) == ["x.log"]


@pytest.mark.parametrize(
    "rotation",
    ["", "5m", "10", "10 Mb", "10 mb", "0 MB", "1 B", "-5 MB", "1e3 MB", "9999999999 TB", "10 PB", "ten MB", "0 s",
     "0.0000001 s", "10 ms", "10 hs", "99 years", "sometimes", "25:00", "12:60", "12:00 PM", "w7", "someday at 12:00",
     "monday at noon", "monday at", "1 day,", "1 day x", 0, 999, 10**16, True, 1.5, [10]],
)  # fmt: skip
def test_a_rotation_that_hurts_is_refused(rotation: object) -> None:
    with pytest.raises(ValidationError, match="expected a size from 1 KB such as 10 MB"):
        LogSettings.model_validate({"rotation": rotation})


@pytest.mark.parametrize(
    "retention", ["", "10", "10 files", "0 days", "-1 day", "99 years", 0, -1, 10001, True, 1.5, [1]]
)
def test_a_retention_that_hurts_is_refused(retention: object) -> None:
    with pytest.raises(ValidationError, match="expected a number of files from 1 to 10000"):
        LogSettings.model_validate({"retention": retention})


@pytest.mark.parametrize("compression", ["", "rar", ".gz", "GZ", "zst", True, 1, ["gz"]])
def test_a_compression_that_is_none_is_refused(compression: object) -> None:
    with pytest.raises(ValidationError, match="expected gz, bz2, xz"):
        LogSettings.model_validate({"compression": compression})
