"""The log of the service: loguru, told in events.

    log.configure(level="INFO", instance="nanoclaw")
    log.tell(Event.RECOVERED, "outbound.db: 12 pages in 7.1 ms", database=path, pages=12)

Every line goes to stderr; with `file` also there, rotated, kept and compressed by loguru. A log file that cannot be
written (no rights, a full disk) never reaches the caller: stderr has every line anyway, one `state_failed` there says
so and says it again seldom, each line tries the file anew, and `state_back` says when it works and what is missing.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from watcher.names import printable
from watcher.records.events import Event
from watcher.records.lines import Line, for_journal, human, json_line, one_line, plain
from watcher.records.log_file import LogFile, is_for_file
from watcher.records.log_stream import LogStream
from watcher.records.repeats import Repeats

if TYPE_CHECKING:
    import loguru

__all__ = ["Event", "Repeats", "close", "configure", "event", "tell", "tells"]

FOREIGN = "log"
"""The event of a line that is not ours: a warning of a library."""


def tell(
    what: Event,
    message: str,
    /,
    *,
    database: str | None = None,
    exception: BaseException | None = None,
    **fields: object,
) -> None:
    """Tell an event at the level that INTERFACE.md gives it.

    Args:
        what: the event.
        message: for the person at three in the morning; names in it through `printable`. It is never a format.
        database: path of the database it is about, as the file system has it.
        exception, fields: see :func:`event`.
    """
    event(what.level, what, message, database=database, exception=exception, **fields)


def event(
    level: str,
    name: str,
    message: str,
    /,
    *,
    database: str | None = None,
    exception: BaseException | None = None,
    **fields: object,
) -> None:
    """Tell one event through loguru, with the extras `event`, `database` and the fields. It never raises for what a
    sink of ours does.

    Args:
        level: name of a loguru level.
        name: what an operator may match.
        message: one line; names in it through `printable`. It is never a format.
        database: path of the database it is about, as the file system has it.
        exception: told with its traceback where the level is ERROR or above.
        fields: more for JSON lines. A `Path` is a name, and is escaped as every name is; a `str` is text.
    """
    extra = {key: plain(value) for key, value in fields.items()}
    extra["event"] = str(name)
    if database is not None:
        extra["database"] = printable(database)
    # Without arguments loguru takes the message as it is: no braces, and without opt(colors=True) no tags.
    logger.opt(exception=exception).bind(**extra).log(level, one_line(message))


def tells(what: Event) -> bool:
    """Whether a line of this event would be told: for messages that cost something to make."""
    return _relay.takes(_number_of(what.level))


def configure(
    *,
    level: str,
    instance: str,
    json_lines: bool = False,
    file: Path | None = None,
    rotation: str | int | timedelta | None = None,
    retention: str | int | timedelta | None = None,
    compression: str | None = None,
    stream: TextIO | None = None,
    colour: bool | None = None,
    journal: bool = False,
) -> None:
    """Set the log up, or anew: no line is lost or doubled by it. Not from a signal's handler, which may have
    interrupted a line.

    Args:
        level: the lowest level that is told.
        instance: for JSON lines.
        json_lines: one JSON object per line, on stderr and in the file.
        file: also there (mode 0640); a path, not a pattern.
        rotation, retention, compression: as loguru has them.
        stream: instead of the stderr of this moment.
        colour: None where the stream is a terminal; never where NO_COLOR is set.
        journal: the stream is systemd's journal: lines for people begin with their priority there, where no file is
            set, which would be the place for people to look.

    Raises:
        ValueError, TypeError: no such level, or a rotation, retention or compression that loguru does not know; the
            log stays as it was.
    """
    stream = stream or sys.stderr
    level_no = _number_of(level)
    _relay.attach()
    log_file = None
    if file is not None:
        log_file = LogFile(path=file, rotation=rotation, retention=retention, compression=compression)
        log_file.open()
    if colour is None:
        colour = stream.isatty() and os.environ.get("TERM") != "dumb"
    _relay.switch(
        _Outputs(
            level_no=level_no,
            instance=instance,
            json_lines=json_lines,
            stream=LogStream(stream),
            colour=colour and not os.environ.get("NO_COLOR"),
            journal=journal and log_file is None,
            file=log_file,
        )
    )
    logger.enable("watcher")


def close() -> None:
    """End what :func:`configure` set up: the file is flushed and closed, and the package is silent again."""
    logger.disable("watcher")
    _relay.detach()
    _relay.switch(None)


@dataclass(frozen=True, slots=True)
class _Outputs:
    level_no: int
    instance: str
    json_lines: bool
    stream: LogStream
    colour: bool
    journal: bool
    file: LogFile | None


class _Relay:
    """The one sink that loguru hands our lines to. It is added once and stays, since loguru drops a line that is on its
    way to a sink which is removed in that moment; what changes at a reload is where it writes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._outputs: _Outputs | None = None  # under _guard, but for the peeks of `_wants` and `takes`
        self._missing_in_file = 0  # under _guard
        self._repeats = Repeats(capacity=100)
        self._handler_id: int | None = None  # of the thread that configures
        self._libraries = _Libraries()

    def takes(self, level_no: int) -> bool:
        outputs = self._outputs
        return outputs is not None and level_no >= outputs.level_no

    def attach(self) -> None:
        if self._handler_id is not None:
            return
        try:
            # loguru's own handler, which would tell everything a second time. It has made none where stderr was closed,
            # and the number is free then: so before ours, and before any log file.
            logger.remove(0)
        except ValueError:
            pass  # there was none, or the host has removed it already
        self._handler_id = logger.add(
            self._take,
            level=0,
            format="{message}",
            filter=self._wants,
            colorize=False,
            backtrace=False,
            diagnose=False,
            catch=True,
        )
        logging.getLogger().addHandler(self._libraries)
        logging.captureWarnings(capture=True)

    def detach(self) -> None:
        if self._handler_id is None:
            return
        logging.captureWarnings(capture=False)
        logging.getLogger().removeHandler(self._libraries)
        logger.remove(self._handler_id)
        self._handler_id = None

    def switch(self, outputs: _Outputs | None) -> None:
        with self._guard:
            before, self._outputs = self._outputs, outputs
            if before is not None and before.file is not None:
                before.file.close()
                if outputs is None or outputs.file is None or outputs.file.path != before.file.path:
                    self._missing_in_file = 0

    def _wants(self, record: loguru.Record) -> bool:
        outputs = self._outputs
        if outputs is None or is_for_file(record):
            return False
        lowest = outputs.level_no
        if "event" not in record["extra"]:
            lowest = max(lowest, logging.WARNING)
        return record["level"].no >= lowest

    def _take(self, message: loguru.Message) -> None:
        line = _line_of(message.record)
        with self._guard:
            if self._outputs is None:
                return
            if lost := self._outputs.stream.take_lost():
                words = f"nobody has read this stream for a while; {lost} lines are missing in it"
                self._tell(replace(self._outputs, file=None), Event.STATE_BACK, words, missing=lost)
            self._write(self._outputs, line)

    def _write(self, outputs: _Outputs, line: Line) -> None:
        if outputs.json_lines:
            text = json_line(line, outputs.instance)
            outputs.stream.write(text)
        else:
            text = human(line, colour=False)
            if outputs.journal:
                outputs.stream.write(for_journal(line))
            else:
                outputs.stream.write(human(line, colour=True) if outputs.colour else text)
        if outputs.file is not None:
            self._write_to_file(outputs, outputs.file, text)

    def _write_to_file(self, outputs: _Outputs, file: LogFile, text: str) -> None:
        where = printable(file.path)
        try:
            file.write(text)
        except OSError as error:
            self._missing_in_file += 1
            if (left_out := self._repeats.allow(where, error.errno, time.monotonic())) is not None:
                message = (
                    f"cannot write the log file {where}: {error.strerror}; "
                    "until that is mended its lines are on stderr only"
                )
                self._tell(replace(outputs, file=None), Event.STATE_FAILED, message, left_out=left_out)
        else:
            if self._missing_in_file:
                missing, self._missing_in_file = self._missing_in_file, 0
                self._repeats.forget(where)
                message = f"the log file {where} is written again; {missing} lines are missing in it"
                self._tell(outputs, Event.STATE_BACK, message, missing=missing)

    def _tell(self, outputs: _Outputs, what: Event, message: str, **fields: object) -> None:
        """A line of the relay's own, past loguru, where it is already."""
        if _number_of(what.level) >= outputs.level_no:
            now = datetime.now(UTC)
            self._write(outputs, Line(time=now, level=what.level, event=what.value, message=message, fields=fields))


class _Libraries(logging.Handler):
    """What libraries log by the standard library, at WARNING and above, each text once and then seldom. Without it
    Python writes those to stderr as they are, between our JSON lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._repeats = Repeats(capacity=200)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their own format
            text = str(record.msg)
        left_out = self._repeats.allow((record.name, str(record.msg)[:200]), None, time.monotonic())
        if left_out is None:
            return
        error = record.exc_info[1] if record.exc_info else None
        level = "WARNING" if record.levelno < logging.ERROR else "ERROR"
        event(level, FOREIGN, f"{record.name}: {text}", exception=error, left_out=left_out)


_relay = _Relay()


def _line_of(record: loguru.Record) -> Line:
    fields = dict(record["extra"])
    name, database = fields.pop("event", FOREIGN), fields.pop("database", None)
    error = record["exception"].value if record["exception"] and record["level"].no >= logging.ERROR else None
    return Line(
        time=record["time"],
        level=record["level"].name,
        event=one_line(str(name)),
        message=record["message"],
        database=None if database is None else one_line(str(database)),
        fields=fields,
        error=error,
    )


@cache
def _number_of(level: str) -> int:
    """loguru's number of a level.

    Raises:
        ValueError: it knows no such level.
    """
    return logger.level(level).no
