"""The events that operators may match in the log, with the level that each is told at (INTERFACE.md, "Log lines")."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["Event"]


class Event(StrEnum):
    """What a log line tells.

    Attributes:
        level: the name of its level, as loguru has it.
    """

    level: str

    def __new__(cls, name: str, level: str) -> Self:
        event = str.__new__(cls, name)
        event._value_ = name
        event.level = level
        return event

    SWEEP = "sweep", "DEBUG"
    JOURNAL_FOUND = "journal_found", "DEBUG"
    OWNER_ALIVE = "owner_alive", "DEBUG"
    OWNER_EXITED = "owner_exited", "DEBUG"
    BUSY = "busy", "DEBUG"
    READONLY_RACE = "readonly_race", "DEBUG"

    STARTED = "started", "INFO"
    STOPPED = "stopped", "INFO"
    RELOADED = "reloaded", "INFO"
    RECOVERED = "recovered", "INFO"
    ROOT_BACK = "root_back", "INFO"
    ENGINE_BACK = "engine_back", "INFO"
    STATE_BACK = "state_back", "INFO"
    HTTP_BACK = "http_back", "INFO"
    STATE = "state", "INFO"

    HELD = "held", "WARNING"
    WAITING = "waiting", "WARNING"
    REFUSED = "refused", "WARNING"
    ENGINE_LOST = "engine_lost", "WARNING"
    ROOT_MISSING = "root_missing", "WARNING"
    SETTINGS_REJECTED = "settings_rejected", "WARNING"
    OVERFLOW = "overflow", "WARNING"
    WATCH_LIMIT = "watch_limit", "WARNING"
    LOCKS_ONLY = "locks_only", "WARNING"
    NOT_WRITABLE = "not_writable", "WARNING"
    SNAPSHOT_SKIPPED = "snapshot_skipped", "WARNING"
    SNAPSHOT_FAILED = "snapshot_failed", "WARNING"
    STATE_FAILED = "state_failed", "WARNING"
    HOOK_FAILED = "hook_failed", "WARNING"
    HTTP_FAILED = "http_failed", "WARNING"
    STALE_JOURNAL = "stale_journal", "WARNING"

    RECOVERY_FAILED = "recovery_failed", "ERROR"
    VERIFY_FAILED = "verify_failed", "ERROR"

    CORRUPT = "corrupt", "CRITICAL"
    HUNG = "hung", "CRITICAL"
