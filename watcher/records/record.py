"""What is remembered of one decision about one journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from watcher.names import printable
from watcher.owner.testimony import Judgement

__all__ = ["Outcome", "Record", "rfc3339"]


class Outcome(StrEnum):
    """What became of a journal that was looked at in order to recover its database."""

    RECOVERED = "recovered"
    CLEAN = "clean"
    BUSY = "busy"
    WAITING = "waiting"
    HELD = "held"
    REFUSED = "refused"
    FAILED = "failed"
    CORRUPT = "corrupt"
    WOULD_RECOVER = "would_recover"


def rfc3339(moment: datetime) -> str:
    """The moment in UTC with milliseconds: `2026-11-24T08:31:37.123Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry of `recover --json` and of the history.

    Attributes:
        database: absolute path of the database, as the file system has it (undecodable bytes as surrogates).
        pages: pages that SQLite says it rolled back; None where it said nothing.
        journal_size: bytes.
        duration_ms: from the look that led to it to its end, milliseconds.
        snapshot: path of the copy that was made before, if any.
        owner: the last judgement; None where nobody was asked.
        error: why it is not `recovered`, in one line; None where there is nothing to say.
        session: the fields of `tree.layout`; for searching, not part of the JSON.
    """

    database: str
    outcome: Outcome
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    pages: int | None = None
    journal_size: int = 0
    duration_ms: float = 0.0
    snapshot: str | None = None
    owner: Judgement | None = None
    error: str | None = None
    session: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The object that INTERFACE.md promises, in its order."""
        return {
            "time": rfc3339(self.time),
            "database": printable(self.database),
            "outcome": self.outcome.value,
            "pages": self.pages,
            "journal_size": self.journal_size,
            "duration_ms": round(self.duration_ms, 1),
            "snapshot": None if self.snapshot is None else printable(self.snapshot),
            "owner": None if self.owner is None else self.owner.as_json(),
            "error": self.error,
        }
