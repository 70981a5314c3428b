"""The log as the settings want it."""

from __future__ import annotations

from watcher.records import log
from watcher.service_manager import is_its_journal
from watcher.settings import LogSettings

__all__ = ["configure_log"]


def configure_log(settings: LogSettings, instance: str) -> None:
    """Set the log up as the settings want it.

    Raises:
        ValueError, TypeError: loguru does not take them.
    """
    log.configure(
        level=settings.level,
        instance=instance,
        json_lines=settings.json_lines,
        file=settings.file,
        rotation=settings.rotation,
        retention=settings.retention,
        compression=settings.compression,
        journal=is_its_journal(2),
    )
