"""The log file: loguru's own file sink, with its rotation and retention, but with errors that are told.

loguru's way with a file that cannot be written is either a traceback of twenty lines on stderr for every line that is
lost (`catch=True`), or the error in the face of whoever logs (`catch=False`). So the sink is added with `catch=False`
and a filter that lets nothing through but finished lines from here, and here the error is caught.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    import loguru

__all__ = ["LogFile", "is_for_file"]

_FOR_FILE = "_for_log_file"


def is_for_file(record: loguru.Record) -> bool:
    """Whether this is a finished line on its way to the file, and nobody else's business."""
    return _FOR_FILE in record["extra"]


@dataclass(slots=True, kw_only=True)
class LogFile:
    """One log file; owned by whoever holds the lock of the log's relay.

    Attributes:
        path: a path, not a pattern; made with mode 0640 where it is missing, its directory too.
        rotation, retention: as loguru has them.
        compression: see :func:`watcher.records.log_packing.packer`.
    """

    path: Path
    rotation: str | int | timedelta | None = None
    retention: str | int | timedelta | None = None
    compression: str | None = None
    _handler_id: int = field(default=-1, init=False)

    def open(self) -> None:
        """Hand the file to loguru. It is opened at the first line, so that an error is met at a line like any other.

        Raises:
            ValueError, TypeError: a rotation or retention that loguru does not know, or another compression.
        """
        self._handler_id = logger.add(
            str(self.path.absolute()).replace("{", "{{").replace("}", "}}"),  # to loguru a path is a format
            level=0,
            format="{message}",
            filter=lambda record: record["extra"].get(_FOR_FILE) is self,  # at a reload there are two for a moment
            colorize=False,
            catch=False,
            rotation=self.rotation,
            retention=self.retention,
            compression=None if self.compression is None else _packer(self.compression),
            delay=True,
            watch=True,  # opened anew where somebody has moved or removed it
            encoding="utf-8",
            opener=_open,
        )

    def write(self, text: str) -> None:
        """Add one line; may be called from within a sink of loguru whose own filter turns `is_for_file` away.

        Raises:
            OSError: it cannot be written. The next line tries again.
        """
        try:
            self._hand_over(text)
        except ValueError:  # closed: an error came from close(2) itself, and loguru holds on to the closed file
            self.close()
            self.open()
            self._hand_over(text)

    def close(self) -> None:
        """Flush and close it. What cannot be flushed is lost here: it was told when it was written."""
        try:
            logger.remove(self._handler_id)
        except (OSError, ValueError):  # loguru has forgotten the sink before it closes the file
            pass

    def _hand_over(self, text: str) -> None:
        logger.bind(**{_FOR_FILE: self}).opt(raw=True).log("INFO", f"{text}\n")


def _packer(kind: str) -> Callable[[str], None]:
    from watcher.records.log_packing import packer  # noqa: PLC0415 - the archives, only where they are wanted

    return packer(kind)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)  # O_NONBLOCK: a FIFO must not hold us up
