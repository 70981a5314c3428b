"""The log: events at their levels, one printable line each, and no line lost."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import pytest
from loguru import logger

from tests.running import DEADLINE_S
from tests.small_disk import fill, small_disk
from watcher.records import log
from watcher.records.log import Event, Repeats
from watcher.records.log_packing import packer

HOSTILE = "/srv/a\nb\x1b[31m\u202e\udcff {x} {} <red>%s\\/outbound.db"
HOSTILE_SHOWN = r"/srv/a\nb\x1b[31m\u202e\xff {x} {} <red>%s\\/outbound.db"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; it is ended after the test."""
    yield io.StringIO()
    log.close()


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def objects_of(stream: io.StringIO) -> list[dict[str, object]]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constant) for line in lines_of(stream)]


def events_of(stream: io.StringIO) -> list[object]:
    return [each["event"] for each in objects_of(stream)]


def test_every_event_has_the_level_that_the_interface_promises() -> None:
    promised = {
        "DEBUG": "sweep journal_found owner_alive owner_exited busy readonly_race",
        "INFO": "started stopped reloaded recovered root_back engine_back state_back http_back state",
        "WARNING": "held waiting refused engine_lost root_missing settings_rejected overflow watch_limit locks_only "
        "not_writable snapshot_skipped snapshot_failed state_failed hook_failed http_failed stale_journal",
        "ERROR": "recovery_failed verify_failed",
        "CRITICAL": "corrupt hung",
    }
    assert {event.value: event.level for event in Event} == {
        name: level for level, names in promised.items() for name in names.split()
    }


def test_a_line_for_a_person_is_aligned_and_in_utc(stream: io.StringIO) -> None:
    log.configure(level="DEBUG", instance="x", stream=stream)
    log.tell(Event.BUSY, "outbound.db: a reader holds it")
    log.tell(Event.SETTINGS_REJECTED, "settings.yaml: tree.root is missing")
    log.tell(Event.CORRUPT, "outbound.db: page 7")
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"
    for line, rest in zip(
        lines_of(stream),
        [
            "DEBUG    busy              outbound.db: a reader holds it",
            "WARNING  settings_rejected settings.yaml: tree.root is missing",
            "CRITICAL corrupt           outbound.db: page 7",
        ],
        strict=True,
    ):
        assert re.fullmatch(f"{stamp} {re.escape(rest)}", line), line


def test_in_systemds_journal_each_line_has_its_priority(stream: io.StringIO) -> None:
    log.configure(level="DEBUG", instance="x", stream=stream, journal=True, colour=True)
    for what in (Event.BUSY, Event.STARTED, Event.HELD, Event.VERIFY_FAILED, Event.CORRUPT):
        log.tell(what, "outbound.db")
    log.tell(Event.RECOVERY_FAILED, "outbound.db", exception=broken())
    lines = lines_of(stream)
    assert [line[:3] for line in lines[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert len(lines) > 7
    assert {line[:3] for line in lines[5:]} == {"<3>"}
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("instead", ["json", "file"])
def test_neither_json_nor_a_log_with_a_file_has_priorities(tmp_path: Path, stream: io.StringIO, instead: str) -> None:
    file = tmp_path / "watcher.log" if instead == "file" else None
    log.configure(level="INFO", instance="x", stream=stream, journal=True, json_lines=instead == "json", file=file)
    log.tell(Event.HELD, "outbound.db")
    log.close()
    texts = [stream.getvalue()] + ([file.read_text("utf-8")] if file is not None else [])
    assert not any(text.startswith("<") for text in texts)
    assert all("held" in text for text in texts)


def test_times_are_utc_wherever_the_host_is() -> None:
    told = subprocess.run(
        [sys.executable, "-c", TELL_TWICE], env={**os.environ, "TZ": "Asia/Kolkata"}, capture_output=True, check=True
    )
    person, machine = told.stderr.decode().splitlines()
    hour = time.strftime("%Y-%m-%d %H:", time.gmtime())
    assert person.startswith(hour), (person, hour)
    assert json.loads(machine)["time"].startswith(hour.replace(" ", "T"))


TELL_TWICE = """
from watcher.records import log
for json_lines in (False, True):
    log.configure(level="INFO", instance="x", json_lines=json_lines)
    log.tell(log.Event.STARTED, "here we are")
"""


def test_a_json_line_has_its_keys_in_order(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="nanoclaw", json_lines=True, stream=stream)
    log.tell(
        Event.RECOVERED, "outbound.db: 12 pages", database="/srv/outbound.db", pages=12, duration_ms=7.1, error=None
    )
    (told,) = objects_of(stream)
    assert list(told) == ["time", "level", "event", "instance", "message", "database", "pages", "duration_ms", "error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(told.pop("time")))
    assert list(told.values()) == [
        "INFO", "recovered", "nanoclaw", "outbound.db: 12 pages", "/srv/outbound.db", 12, 7.1, None,
    ]  # fmt: skip


def test_an_event_about_no_database_has_no_database(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    log.tell(Event.STARTED, "here we are")
    assert list(objects_of(stream)[0]) == ["time", "level", "event", "instance", "message"]


def test_json_stays_json_whatever_the_fields_hold(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    log.tell(
        Event.STARTED,
        "here we are",
        nan=float("nan"),
        endless=float("inf"),
        name=Path(HOSTILE),
        text="two\nlines \\ \udcff",
        nested={"k\n": [1, (2.5, float("-inf"))]},
        time="mine",
        odd=object,
    )
    (told,) = objects_of(stream)
    assert stream.getvalue().isascii()
    assert (told["nan"], told["endless"]) == (None, None)
    assert told["name"] == HOSTILE_SHOWN
    assert told["text"] == r"two\nlines \ \xff"
    assert told["nested"] == {r"k\n": [1, [2.5, None]]}
    assert told["time_"] == "mine"
    assert told["odd"] == "<class 'object'>"


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_hostile_name_is_one_printable_line_and_never_a_format(stream: io.StringIO, json_lines: bool) -> None:
    log.configure(level="INFO", instance=HOSTILE, json_lines=json_lines, stream=stream, colour=False)
    log.tell(Event.HELD, HOSTILE, database=HOSTILE, why=HOSTILE, path=Path(HOSTILE))
    log.event("WARNING", HOSTILE, HOSTILE)
    lines = lines_of(stream)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    as_text = HOSTILE_SHOWN.replace("\\\\", "\\")  # a message is text already: its backslash stays as it is
    if json_lines:
        told = json.loads(lines[0])
        assert (told["message"], told["why"]) == (as_text, as_text)
        assert (told["database"], told["path"]) == (HOSTILE_SHOWN, HOSTILE_SHOWN)
    else:
        assert lines[0].endswith(f"Z WARNING  held              {as_text}")


def test_an_endless_message_is_cut(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", stream=stream)
    log.tell(Event.STARTED, "a" * 1_000_000)
    assert len(stream.getvalue()) < 20_000
    assert stream.getvalue().endswith(f"a … ({1_000_000 - 16_384} characters more)\n")


def test_a_level_below_the_configured_one_is_not_told(stream: io.StringIO) -> None:
    log.configure(level="WARNING", instance="x", json_lines=True, stream=stream)
    log.tell(Event.RECOVERED, "no")
    log.tell(Event.HELD, "yes")
    assert events_of(stream) == ["held"]


def broken() -> BaseException:
    try:
        raise ValueError("first\n2026-11-24 08:31:37.123Z INFO     recovered         forged \x1b[31m")
    except ValueError as error:
        return error


def test_an_error_is_told_with_its_traceback_and_nothing_in_it_passes_for_a_line(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", stream=stream)
    log.tell(Event.RECOVERY_FAILED, "outbound.db: no", exception=broken())
    first, *rest = lines_of(stream)
    assert first.endswith("recovery_failed   outbound.db: no")
    assert any("in broken" in line for line in rest)
    assert any("forged" in line for line in rest)
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_a_traceback_in_json_is_a_text(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    log.tell(Event.RECOVERY_FAILED, "no", exception=broken())
    (told,) = objects_of(stream)
    assert "in broken" in str(told["traceback"])


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_warning_has_no_traceback(stream: io.StringIO, json_lines: bool) -> None:
    log.configure(level="INFO", instance="x", json_lines=json_lines, stream=stream)
    log.tell(Event.HELD, "outbound.db", exception=broken())
    assert len(lines_of(stream)) == 1
    assert "forged" not in stream.getvalue()


@pytest.mark.parametrize(
    ("terminal", "no_colour", "colour", "coloured"),
    [
        (True, "", None, True),
        (False, "", None, False),
        (True, "1", None, False),
        (True, "1", True, False),
        (True, "", False, False),
        (False, "", True, True),
    ],
)
def test_colours_are_for_terminals_and_never_against_no_color(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, no_colour: str, colour: bool | None, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if terminal else io.StringIO()
    log.configure(level="INFO", instance="x", stream=stream, colour=colour)
    log.tell(Event.STARTED, "here we are")
    log.close()
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_json_and_the_file_are_never_coloured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    log.configure(level="INFO", instance="x", stream=stream, colour=True, file=tmp_path / "a.log")
    log.tell(Event.STARTED, "one")
    log.configure(level="INFO", instance="x", stream=stream, colour=True, json_lines=True)
    log.tell(Event.STARTED, "two")
    log.close()
    assert "\x1b" not in (tmp_path / "a.log").read_text()
    assert lines_of(stream)[1].startswith("{")


def test_stderr_is_where_it_goes_and_nothing_else_does() -> None:
    told = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, check=True)
    assert told.stdout == b""
    events = [json.loads(line)["event"] for line in told.stderr.splitlines()]
    assert events == ["started", "log", "log", "log", "log", "stopped"]


NOISY = """
import logging, warnings
from loguru import logger
from watcher.records import log
log.configure(level="DEBUG", instance="x", json_lines=True)
log.tell(log.Event.STARTED, "here we are")
logging.getLogger("urllib3").warning("Retrying (%s)", "Retry(total=2)")
logging.getLogger("urllib3").info("not this")
logging.getLogger("urllib3").warning("%d", "arguments that do not fit")
warnings.warn("out of date")
logger.info("nor this")
logger.warning("but this")
log.tell(log.Event.STOPPED, "bye")
"""


def test_a_library_that_repeats_itself_is_told_once(stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    for attempt in range(50):
        logging.getLogger("urllib3.connectionpool").warning("Retrying %d", attempt)
    logging.getLogger("docker").error("broken")
    assert [(each["level"], each["message"]) for each in objects_of(stream)] == [
        ("WARNING", "urllib3.connectionpool: Retrying 0"),
        ("ERROR", "docker: broken"),
    ]


def test_closing_gives_the_standard_library_its_own_back(stream: io.StringIO) -> None:
    before = list(logging.getLogger().handlers)
    log.configure(level="INFO", instance="x", stream=stream)
    log.close()
    assert logging.getLogger().handlers == before
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("hear me", stacklevel=1)
    assert len(caught) == 1
    assert stream.getvalue() == ""


def test_other_sinks_of_the_host_stay(stream: io.StringIO) -> None:
    heard: list[str] = []
    handler = logger.add(lambda message: heard.append(message.record["extra"]["event"]))
    try:
        log.configure(level="WARNING", instance="x", stream=stream)
        log.tell(Event.STARTED, "here we are")
        log.close()
        logger.bind(event="mine").info("still there")
    finally:
        logger.remove(handler)
    assert heard == ["started", "mine"]
    assert stream.getvalue() == ""


def test_no_line_is_lost_or_doubled_while_the_log_is_set_up_anew(tmp_path: Path, stream: io.StringIO) -> None:
    file = tmp_path / "watcher.log"

    def configure(level: str) -> None:
        log.configure(level=level, instance="x", json_lines=True, stream=stream, file=file)

    configure("INFO")

    told: list[str] = []
    over = threading.Event()

    def tell_on(thread: int) -> None:
        number = 0
        while not over.is_set():
            log.tell(Event.HELD, f"{thread}-{number}")
            told.append(f"{thread}-{number}")
            number += 1

    threads = [threading.Thread(target=tell_on, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    turn = 0
    while turn < 20 or len(told) < 300:
        configure("DEBUG" if turn % 2 else "INFO")
        turn += 1
    over.set()
    for thread in threads:
        thread.join(10)
    log.close()
    assert sorted(str(each["message"]) for each in objects_of(stream)) == sorted(told)
    assert sorted(json.loads(line)["message"] for line in file.read_text().splitlines()) == sorted(told)


def test_setting_up_anew_closes_the_file_before(tmp_path: Path, stream: io.StringIO) -> None:
    def open_files() -> set[str]:
        found = {os.readlink(f"/dev/fd/{fd}") for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")}
        return {file for file in found if file.startswith(str(tmp_path))}

    for number in range(3):
        log.configure(level="INFO", instance="x", stream=stream, file=tmp_path / f"{number}.log")
        log.tell(Event.STARTED, "here we are")
    assert open_files() == {str(tmp_path / "2.log")}
    log.close()
    assert [file for file in open_files() if file.endswith(".log")] == []


def test_a_wrong_set_up_leaves_the_log_as_it_was(tmp_path: Path, stream: io.StringIO) -> None:
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    wrongs: list[dict[str, Any]] = [
        {"level": "LOUD"},
        {"rotation": "sometimes"},
        {"compression": "squeeze"},
        {"retention": "a bit"},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"LOUD|sometimes|squeeze|a bit"):
            log.configure(**{"level": "INFO", "instance": "x", "file": tmp_path / "a.log", **wrong})
    log.tell(Event.STARTED, "here we are")
    assert events_of(stream) == ["started"]


def test_the_file_is_rotated_kept_and_compressed(tmp_path: Path, stream: io.StringIO) -> None:
    file = tmp_path / "logs" / "watcher.log"
    log.configure(level="INFO", instance="x", stream=stream, file=file, rotation="1 KB", retention=2, compression="gz")
    for number in range(60):
        log.tell(Event.STARTED, f"line {number}")
    log.close()
    older = sorted(file.parent.glob("watcher.*.log.gz"))
    assert len(older) == 2
    assert file.stat().st_size <= 1000
    kept = b"".join(gzip.decompress(each.read_bytes()) for each in older).decode() + file.read_text()
    assert [line.split()[-1] for line in kept.splitlines()][-1] == "59"
    assert len(kept.splitlines()) == len({line.split()[-1] for line in kept.splitlines()})


def test_a_file_name_is_no_pattern_and_the_file_is_not_for_everybody(tmp_path: Path, stream: io.StringIO) -> None:
    file = tmp_path / "{time} {x}.log"
    log.configure(level="INFO", instance="x", stream=stream, file=file)
    log.tell(Event.STARTED, "here we are")
    assert file.read_text() == stream.getvalue()
    assert file.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "lzma", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip", None])
def test_an_older_file_is_not_for_everybody_either(tmp_path: Path, stream: io.StringIO, kind: str | None) -> None:
    file = tmp_path / "watcher.log"
    log.configure(level="INFO", instance="x", stream=stream, file=file, rotation="1 KB", compression=kind)
    for number in range(20):
        log.tell(Event.STARTED, f"line {number}")
    log.close()
    older = sorted(file.parent.glob(f"watcher.*.log.{kind}" if kind else "watcher.*.log"))
    assert older
    for each in older:
        assert each.stat().st_mode & 0o777 == file.stat().st_mode & 0o777 == 0o640, each.name
        assert "line" in content_of(each)
    assert sorted(each.suffix for each in tmp_path.iterdir()) == sorted([".log", *(each.suffix for each in older)])


def test_packing_takes_no_other_files_place_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    pack = packer("gz")
    for number in range(3):
        (tmp_path / "a.log").write_text(f"line {number}")
        pack(str(tmp_path / "a.log"))
    assert [content_of(tmp_path / name) for name in ("a.log.gz", "a.1.log.gz", "a.2.log.gz")] == [
        "line 0",
        "line 1",
        "line 2",
    ]
    with pytest.raises(FileNotFoundError):
        pack(str(tmp_path / "b.log"))
    assert not [*tmp_path.glob("b.*")]


def content_of(packed: Path) -> str:
    """What a rotated file says, read by the standard library."""
    if packed.suffix == ".log":
        return packed.read_text()
    if zipfile.is_zipfile(packed):
        with zipfile.ZipFile(packed) as archive:
            (name,) = archive.namelist()
            return archive.read(name).decode()
    if ".tar" in packed.suffixes:
        with tarfile.open(packed) as archive:
            (member,) = archive.getmembers()
            inside = archive.extractfile(member)
            assert inside is not None
            return inside.read().decode()
    readers = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".lzma": lzma.decompress}
    return readers[packed.suffix](packed.read_bytes()).decode()


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path, stream: io.StringIO) -> None:
    file = tmp_path / "watcher.log"
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream, file=file)
    log.tell(Event.STARTED, "here we are")
    file.rename(tmp_path / "watcher.log.1")
    log.tell(Event.STOPPED, "bye")
    assert json.loads(file.read_text())["event"] == "stopped"
    assert events_of(stream) == ["started", "stopped"]


def test_a_file_that_cannot_be_written_is_told_once_and_told_again_when_it_can(
    tmp_path: Path, stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "logs"
    directory.write_text("in the way")
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream, file=directory / "watcher.log")
    for number in range(5):
        log.tell(Event.HELD, f"line {number}")
    assert events_of(stream) == ["held", "state_failed", "held", "held", "held", "held"]
    assert re.search(
        rf"cannot write the log file {directory}/watcher.log: .+; until", str(objects_of(stream)[1]["message"])
    )
    directory.unlink()
    log.tell(Event.HELD, "line 5")
    assert events_of(stream)[-2:] == ["held", "state_back"]
    written = [json.loads(line) for line in (directory / "watcher.log").read_text().splitlines()]
    assert [each["event"] for each in written] == ["held", "state_back"]
    assert written[1]["missing"] == 5
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_costs_the_file_its_lines_and_nobody_else_anything(tmp_path: Path, stream: io.StringIO) -> None:
    with small_disk(tmp_path / "disk") as disk:
        file = disk / "watcher.log"
        log.configure(level="INFO", instance="x", json_lines=True, stream=stream, file=file, rotation="10 MB")
        log.tell(Event.STARTED, "before")
        ballast = fill(disk)
        for number in range(100):
            log.tell(Event.HELD, f"line {number} {'x' * 200}")
        assert events_of(stream).count("held") == 100
        assert events_of(stream).count("state_failed") == 1
        ballast.unlink()
        log.tell(Event.STOPPED, "after")
        assert events_of(stream)[-1] == "state_back"
        whole = [json.loads(line)["event"] for line in file.read_text().splitlines()]
        assert whole[0] == "started"
        assert whole[-2:] == ["stopped", "state_back"]
        log.close()


def test_a_log_is_ended_on_a_full_disk_too(tmp_path: Path, stream: io.StringIO) -> None:
    with small_disk(tmp_path / "disk") as disk:
        log.configure(level="INFO", instance="x", stream=stream, file=disk / "watcher.log")
        log.tell(Event.STARTED, "before")
        fill(disk)
        for number in range(50):
            log.tell(Event.HELD, f"line {number} {'x' * 200}")
        log.configure(level="INFO", instance="x", stream=stream, file=disk / "watcher.log")
        log.close()


def test_a_closed_stderr_stops_nobody_and_the_file_has_every_line(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    told = subprocess.run(
        [sys.executable, "-c", INTO_A_BROKEN_PIPE, str(tmp_path / "watcher.log")],
        stderr=write_end,
        stdout=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert told.stdout == b"alive\n"
    assert len((tmp_path / "watcher.log").read_text().splitlines()) == 3


INTO_A_BROKEN_PIPE = """
import sys
from pathlib import Path
from watcher.records import log
log.configure(level="INFO", instance="x", file=Path(sys.argv[1]))
for number in range(3):
    log.tell(log.Event.STARTED, "here we are")
print("alive", flush=True)
"""


def test_a_terminal_of_another_encoding_gets_escapes() -> None:
    told = subprocess.run(
        [sys.executable, "-c", TELL_IN_GERMAN],
        env={**os.environ, "PYTHONIOENCODING": "latin-1:strict"},
        capture_output=True,
        check=True,
    )
    assert told.stderr.decode("latin-1").endswith("started           größer \\u2713\n")


TELL_IN_GERMAN = """
from watcher.records import log
log.configure(level="INFO", instance="x")
log.tell(log.Event.STARTED, "größer ✓")
"""


@pytest.fixture
def told_at() -> Callable[[list[float]], list[int | None]]:
    repeats = Repeats()
    return lambda moments: [repeats.allow("db", "same", moment) for moment in moments]


def test_a_fault_that_lasts_is_told_at_once_then_seldom(told_at: Callable[[list[float]], list[int | None]]) -> None:
    assert told_at([0, 1, 59.9]) == [0, None, None]
    assert told_at([60, 61, 359]) == [2, None, None]
    assert told_at([360, 2159]) == [2, None]
    assert told_at([2160, 5759]) == [1, None]
    assert told_at([5760, 9359, 9360, 12960]) == [1, None, 1, 0]


def test_a_change_is_told_at_once_with_what_was_left_out() -> None:
    repeats = Repeats()
    assert [repeats.allow("db", "one", 0), repeats.allow("db", "one", 1), repeats.allow("db", "one", 2)] == [
        0,
        None,
        None,
    ]
    assert repeats.allow("db", "two", 3) == 2
    assert repeats.allow("db", "two", 62.9) is None
    assert repeats.allow("other", "one", 63) == 0


def test_a_fault_that_comes_and_goes_is_told_as_a_new_one_but_not_within_a_minute() -> None:
    repeats = Repeats()
    for moment in (0, 60, 360):
        assert repeats.allow("db", "one", moment) is not None
    repeats.ease("db", 1000)
    repeats.ease("never seen", 1000)
    assert repeats.allow("db", "one", 1059) is None
    assert repeats.allow("db", "one", 1060) == 1
    assert repeats.allow("db", "one", 1359) is None
    assert repeats.allow("db", "one", 1360) == 1


def test_a_fault_that_is_over_and_comes_back_is_told_at_once() -> None:
    repeats = Repeats()
    assert repeats.allow("db", "one", 0) == 0
    repeats.forget("db")
    repeats.forget("never seen")
    assert repeats.allow("db", "one", 1) == 0


def test_the_least_recently_asked_for_is_forgotten_first() -> None:
    repeats = Repeats(capacity=2)
    for key in ("a", "b", "a", "c"):
        repeats.allow(key, "same", 0)
    assert repeats.allow("a", "same", 1) is None
    assert repeats.allow("b", "same", 1) == 0


# --- a stream that nobody reads ---


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """A pipe that is full before long: the end that nobody reads, and the stream."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield reading, stream
        os.close(reading)


def drained(reading: int) -> list[str]:
    os.set_blocking(reading, False)
    pieces = []
    with suppress(BlockingIOError):
        while piece := os.read(reading, 65536):
            pieces.append(piece)
    return b"".join(pieces).decode().splitlines()


def test_a_stream_that_nobody_reads_holds_nobody_up(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    try:
        told = 0
        began = time.monotonic()
        while time.monotonic() - began < 1 or told < 2000:  # far more than a pipe takes
            log.tell(Event.RECOVERED, "r" * 500, number=told)
            told += 1
            assert time.monotonic() - began < DEADLINE_S
        before = [json.loads(line) for line in drained(reading) if line.endswith("}")]
        assert [line["number"] for line in before] == list(range(len(before)))
        assert len(before) < told
        log.tell(Event.RECOVERED, "read again", number=told)
        missing, last = (json.loads(line) for line in drained(reading) if line)
        assert (missing["event"], missing["missing"]) == ("state_back", told - len(before))
        assert last["number"] == told
    finally:
        log.close()


def test_a_slow_reader_loses_nothing(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    log.configure(level="INFO", instance="x", json_lines=True, stream=stream)
    lines: list[str] = []

    def read() -> None:
        with os.fdopen(os.dup(reading)) as file:
            for line in file:
                lines.append(line)
                if "last" in line:
                    return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(300):
            log.tell(Event.RECOVERED, "r" * 9000, number=number)  # in several pieces
        log.tell(Event.RECOVERED, "last")
        reader.join(DEADLINE_S)
        assert [json.loads(line).get("number") for line in lines] == [*range(300), None]
    finally:
        log.close()
