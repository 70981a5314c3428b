"""How the service is: what `status`, the metrics, the service manager and a kubelet are told."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcher import announcements
from watcher.hints.sweep import Swept
from watcher.installation import Installation
from watcher.names import printable
from watcher.records import status
from watcher.settings import Settings

if TYPE_CHECKING:  # loaded only where something is served
    from watcher.records.metrics import Reading

__all__ = ["Vitals"]


class Vitals:
    """Written by the main thread, read by any.

    Attributes:
        root_missing: the tree is waited for.
        last_sweep: when it ended.
        swept: the last sweep itself.
        first_sweep: the journals of the first sweep, until all of them were looked at.
    """

    def __init__(self, settings: Settings) -> None:
        self.root_missing = False
        self.last_sweep: datetime | None = None
        self.swept: Swept | None = None
        self.first_sweep: int | None = None
        self._settings = settings
        self._since = datetime.now(UTC)
        self._installation: Installation | None = None
        self._counted: Counter[str] = Counter()  # recoveries by outcome, of the installations before the last reload

    @property
    def installation(self) -> Installation:
        assert self._installation is not None, "nobody asks before the start"
        return self._installation

    def now_of(self, installation: Installation) -> None:
        """From now on it is this one; what the one before has counted stays counted."""
        if self._installation is not None:
            self._counted.update(self._installation.reports.recoveries())
        self._settings = installation.settings
        self._installation = installation

    def status(self) -> status.Status:
        """What `status` shows."""
        counts = self.installation.reconciler.counts()
        return status.Status(
            pid=os.getpid(),
            since=self._since,
            instance=self._settings.instance,
            tree=os.fspath(self._settings.tree.root),
            journals=status.Journals(hot=counts.hot, waiting=counts.waiting, held=counts.held, refused=counts.refused),
            recoveries=self._counted + Counter(self.installation.reports.recoveries()),
            watch=self.installation.watch_status(),
            engine=self.installation.engine_status(),
            last_sweep=self.last_sweep,
        )

    def sentence(self) -> str:
        """How it goes, in one; for the main thread."""
        if self.root_missing:
            return announcements.waiting_for_root(self._settings)
        backlog = self.installation.reconciler.backlog()
        if self.first_sweep is not None and backlog:
            return f"first sweep: {max(0, self.first_sweep - backlog)} of {self.first_sweep} journals looked at"
        self.first_sweep = None
        return announcements.sentence(self.status())

    def reading(self) -> Reading:
        """What the metrics are made of."""
        from watcher.records.metrics import Reading  # noqa: PLC0415 - loaded already by whoever asks

        now = self.status()
        return Reading(
            instance=self._settings.instance,
            journals=now.journals,
            watch=now.watch,
            outcomes=now.recoveries,
            backlog=self.installation.reconciler.backlog(),
            root_is_there=not self.root_missing,
            engine_answers=None if now.engine is None else bool(now.engine["answers"]),
            last_sweep=self.last_sweep,
        )

    def turns(self, within_s: float) -> bool:
        """Whether the reconciler turns."""
        return self.installation.reconciler.turns(within_s)

    def troubles(self) -> list[str]:
        """Why the service cannot do its job now, each in one printable line; empty where it can."""
        troubles = [announcements.waiting_for_root(self._settings)] if self.root_missing else []
        engine = self.installation.engine_status()
        if engine is not None and not engine["answers"]:
            troubles.append(f"the container engine at {printable(str(engine['address']))} does not answer")
        return troubles
