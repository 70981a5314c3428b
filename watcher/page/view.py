"""What the page shows, made of what the service knows anyway: nothing is looked at for it, and no lock is held for
longer than a copy takes.

All names are texts of :func:`watcher.names.printable`, and all texts are of bounded length.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from watcher.advice import by_hand
from watcher.decision import Decision, Finding
from watcher.hints.sweep import Swept
from watcher.names import printable
from watcher.page.recent import MOST, Recent
from watcher.page.words import headline, standing, why
from watcher.records.record import rfc3339
from watcher.tree import Place
from watcher.version import VERSION
from watcher.vitals import Vitals

__all__ = ["Change", "Row", "View"]

MOST_JOURNALS = 1000
MOST_SESSIONS = 20_000
_MOST_SESSIONS_TEXT = 2_000_000
_LONGEST = 2000

Row = dict[str, object]
"""An object of JSON."""

_URGENCY = {Decision.HOLD: 0, Decision.REFUSE: 1, Decision.RECOVER: 2, Decision.WAIT: 3, Decision.IGNORE: 4}
"""What wants a person comes first."""


@dataclass(slots=True)
class Change:
    """What is new since the one before; what is None or empty has not changed.

    Attributes:
        service: how the service is, as a whole.
        journals: by their databases' paths below the root; those that are new or have changed.
        gone: paths of those that are no more.
        recoveries: what has become of journals, the newest first.
        sessions: all of them, where they have changed.
    """

    service: Row | None = None
    journals: dict[str, Row] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    recoveries: list[Row] = field(default_factory=list)
    sessions: list[str] | None = None

    def __bool__(self) -> bool:
        return bool(self.service or self.journals or self.gone or self.recoveries or self.sessions is not None)

    def as_json(self) -> Row:
        told: Row = {"now": time.time()}
        for name in ("service", "journals", "gone", "recoveries", "sessions"):
            value = getattr(self, name)
            if value or (name == "sessions" and value is not None):
                told[name] = value
        return told


class View:
    """The page's content, brought up to date by :meth:`advance`; for one thread.

    Attributes:
        service, journals, recoveries, sessions: what is shown now, as in :class:`Change`; `journals` by urgency.
    """

    def __init__(self, vitals: Vitals, recent: Recent) -> None:
        self.service: Row = {}
        self.journals: dict[str, Row] = {}
        self.recoveries: list[Row] = []
        self.sessions: list[str] = []
        self._vitals = vitals
        self._recent = recent
        self._epoch = time.time() - time.monotonic()
        self._known: dict[Place, tuple[Finding, float, str | None, Row]] = {}
        self._number = 0
        self._older: list[Row] | None = None
        self._swept: Swept | None = None
        self._sessions_total = 0

    @property
    def wants_older(self) -> bool:
        """Whether nobody has read the history yet."""
        return self._older is None

    def take_older(self, entries: list[dict[str, object]]) -> None:
        """What the history holds, the newest first, as `history --json` has it."""
        self._older = [self._recovery(-1 - number, entry) for number, entry in enumerate(entries[:MOST])]

    def all(self) -> Change:
        """Everything, for who has nothing yet."""
        return Change(self.service, self.journals, [], self.recoveries, self.sessions)

    def advance(self) -> Change:
        """Read the service anew; what is new."""
        change = Change()
        self._advance_journals(change)
        self._advance_recoveries(change)
        self._advance_sessions(change)
        service = self._service()
        if service != self.service:
            self.service = change.service = service
        return change

    # --- journals ---

    def _advance_journals(self, change: Change) -> None:
        now = time.monotonic()
        known = self._vitals.installation.reconciler.known()
        known.sort(key=lambda each: (_URGENCY[each[0].decision], -each[1]))
        before, self._known = self._known, {}
        shown: dict[str, Row] = {}
        for finding, for_s in known[:MOST_JOURNALS]:
            obstacle = self._recent.obstacle(finding.path) if finding.decision is Decision.RECOVER else None
            since = now - for_s
            was = before.get(finding.place)
            if was is not None and abs(was[1] - since) < 0.5:
                since = was[1]  # the two clocks were not read at the same moment: it has not moved
            if was is not None and was[1] == since and was[2] == obstacle and was[0] == finding:
                row = was[3]
            else:
                row = self._journal(finding, since, obstacle)
            self._known[finding.place] = (finding, since, obstacle, row)
            shown[printable(finding.place.relative)] = row
        change.journals = {key: row for key, row in shown.items() if self.journals.get(key) != row}
        change.gone = [key for key in self.journals if key not in shown]
        self.journals = shown

    def _journal(self, finding: Finding, since: float, obstacle: str | None) -> Row:
        told = finding.as_json()
        return {
            "session": printable(finding.place.directory),
            "name": printable(finding.place.name),
            "fields": told["session"],
            "path": told["database"],
            "state": told["state"],
            "size": told["size"],
            "owner": _clipped(told["owner"]),
            "decision": told["decision"],
            "standing": standing(finding, obstacle),
            "why": _clipped(why(finding, obstacle)),
            "since": round(self._epoch + since, 1),
            "by_hand": _clipped(by_hand(finding)),
        }

    # --- recoveries ---

    def _advance_recoveries(self, change: Change) -> None:
        fresh = []
        for number, record in self._recent.since(self._number):
            fresh.append(self._recovery(number, record.as_json()))
            self._number = number
        fresh.reverse()
        if self._older:
            seen = {_identity(each) for each in (*fresh, *self.recoveries)}
            older = [each for each in self._older if _identity(each) not in seen]
            self._older = []
            change.recoveries = fresh + older  # the reader sorts by time
            self.recoveries = (fresh + self.recoveries + older)[:MOST]
        elif fresh:
            change.recoveries = fresh
            self.recoveries = (fresh + self.recoveries)[:MOST]

    def _recovery(self, number: int, told: Mapping[str, object]) -> Row:
        path = str(told["database"])
        root = printable(os.path.join(self._vitals.installation.rooms.tree.root, ""))
        directory, _, name = path.removeprefix(root).rpartition("/")
        return {
            "id": number,
            "time": told["time"],
            "session": directory,
            "name": name,
            "outcome": told["outcome"],
            "pages": told["pages"],
            "size": told["journal_size"],
            "duration_ms": told["duration_ms"],
            "snapshot": told["snapshot"],
            "owner": _clipped(told["owner"]),
            "error": _clipped(told["error"]),
        }

    # --- sessions and service ---

    def _advance_sessions(self, change: Change) -> None:
        if self._swept is self._vitals.swept:
            return
        self._swept = self._vitals.swept
        found: list[str] = []
        total = text = 0
        for directory in self._vitals.installation.sessions():
            total += 1
            if len(found) < MOST_SESSIONS and text < _MOST_SESSIONS_TEXT:
                found.append(printable(directory))
                text += len(found[-1])
        found.sort()
        self._sessions_total = total
        if found != self.sessions:
            self.sessions = change.sessions = found

    def _service(self) -> Row:
        vitals = self._vitals
        now = vitals.status()
        status = now.as_json()
        troubles = [str(_clipped(each)) for each in vitals.troubles()]
        swept = vitals.swept
        sweep: Row | None = None
        if swept is not None:
            sweep = {
                "ended": rfc3339(swept.ended),
                "duration_ms": round(swept.duration_s * 1000, 1),
                "journals": swept.journals,
            }
        return {
            "headline": headline(
                now.journals, sessions=self._sessions_total, is_swept=swept is not None, troubles=troubles
            ),
            "instance": status["instance"],
            "tree": status["tree"],
            "version": VERSION,
            "pid": status["pid"],
            "since": status["since"],
            "counts": status["journals"],
            "outcomes": status["recoveries"],
            "watch": {**_mapping(status["watch"]), "ready": vitals.installation.is_watching},
            "engine": _clipped(status["engine"]),
            "sweep": sweep,
            "sweep_interval_s": vitals.installation.settings.watch.sweep_interval,
            "backlog": vitals.installation.reconciler.backlog(),
            "sessions": self._sessions_total,
            "troubles": troubles,
        }


def _identity(row: Row) -> tuple[object, ...]:
    return (row["time"], row["session"], row["name"], row["outcome"])


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _clipped(value: object) -> object:
    """The value with every text in it printable and of bounded length."""
    if isinstance(value, str):
        shown = value if value.isprintable() else printable(value)
        return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"
    if isinstance(value, dict):
        return {key: _clipped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_clipped(each) for each in value]
    return value
