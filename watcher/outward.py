"""What the service shows of itself to the outside: to its service manager, by HTTP, and to the user's hooks."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from watcher.advice import in_words, is_of_machine
from watcher.announcements import page_address
from watcher.names import printable
from watcher.records.history import HISTORY_NAME, History
from watcher.records.hooks import Hooks, programs_of
from watcher.records.outage import Outage
from watcher.records.record import Record
from watcher.records.tally import Tally
from watcher.settings import Settings
from watcher.vitals import Vitals

if TYPE_CHECKING:  # loaded only where something is served
    from watcher.page.recent import Recent
    from watcher.page.server import PageServer
    from watcher.records.listener import Listener, Routes

__all__ = ["Outward"]

_HOOKS_STOP_WITHIN_S = 0.3
_LISTENS_AGAIN_S = 3.0
_REMEDIES = {
    errno.EADDRINUSE: "end the program that has it, or change metrics.listen",
    errno.EADDRNOTAVAIL: "have this machine have that address, or change metrics.listen",
    errno.EACCES: "let us have a port below 1024 (CAP_NET_BIND_SERVICE), or change metrics.listen",
}
_MOST_OLDER = 300
"""So much of the history is on the page at its start."""


class Outward:
    """The hooks and the listener of the settings of the moment. Started, changed and stopped by the main thread."""

    def __init__(self, vitals: Vitals) -> None:
        self.tally = Tally()
        self._vitals = vitals
        self._hooks: Hooks | None = None
        self._listener: Listener | PageServer | None = None
        self._page: PageServer | None = None  # the listener, where it shows the page
        self._recent: Recent | None = None  # what the page has shown, and another one goes on to show after a reload
        self._settings: Settings | None = None
        self._outage = Outage()
        self.due: float | None = None
        """When to try again to have the address, by time.monotonic; None where we have it, or want none."""

    def start(self, settings: Settings) -> None:
        """Take the settings as they are: an address that cannot be had is tried again, and costs nobody a recovery."""
        self._settings = settings
        try:
            self._listener = self._listening(settings)
        except OSError:
            self.due = time.monotonic()  # and told then, for something else is told before
        self._hooks = self._hooked(settings)

    @property
    def page(self) -> str | None:
        """Where a browser of this machine finds the page; None where nobody does."""
        return None if self._page is None or self._settings is None else page_address(self._settings)

    def turn(self) -> None:
        """Try again to have the address, where that is due."""
        if self.due is None or time.monotonic() < self.due:
            return
        assert self._settings is not None
        try:
            self._listener = self._listening(self._settings)
        except OSError as error:
            self.due = time.monotonic() + _LISTENS_AGAIN_S
            self._outage.goes_on(f"{_cannot_listen(self._settings, error)}; trying again until then")
            return
        self.due = None
        page = self.page
        where = printable(self._settings.metrics.listen or "")
        self._outage.is_over(f"listening on {where} now{f'; the page is at {page}' if page else ''}")

    def change(self, settings: Settings) -> str | None:
        """Take other settings.

        Returns:
            Why they cannot be taken: then all stays as it was.
        """
        before = self._settings
        assert before is not None
        if settings.metrics != before.metrics:
            self._stop_listening()  # first, since the new address may be a part of the old one
            try:
                self._listener = self._listening(settings)
            except OSError as error:
                self.due = time.monotonic()  # the address of before
                self.turn()
                return f"metrics.listen: {_cannot_listen(settings, error)}"
            self.due = None
            self._outage = Outage()
        if (settings.hooks, settings.file.parent) != (before.hooks, before.file.parent):
            self._stop_hooks()
            self._hooks = self._hooked(settings)
        self._settings = settings
        return None

    def stop(self) -> None:
        self._stop_listening()
        self._stop_hooks()

    def recorded(self, record: Record, change: str) -> None:
        """Something became of a journal; called from any thread, never waits."""
        self.tally.recorded(record)
        recent = self._recent
        if recent is not None:
            recent.add(record, change)
            self.changed()
        hooks = self._hooks
        if hooks is not None:
            hooks.add(record, change)

    def changed(self) -> None:
        """Something may have changed that the page shows; called from any thread, never waits."""
        page = self._page
        if page is not None:
            page.changed()

    def _listening(self, settings: Settings) -> Listener | PageServer | None:
        if settings.metrics.listen is None:
            return None
        from watcher.records.listener import Listener  # noqa: PLC0415 - and prometheus-client: only where they serve
        from watcher.records.routes import routes  # noqa: PLC0415

        how = self._vitals
        answers = routes(read=how.reading, tally=self.tally, turns=how.turns, troubles=how.troubles)
        made: Listener | PageServer
        if settings.metrics.page:
            made = self._page = self._showing(settings, settings.metrics.listen, answers)
        else:
            made = Listener(settings.metrics.listen, answers, settings.metrics.hosts)
        try:
            made.start()
        except RuntimeError as error:
            made.stop()
            self._page = None
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        return made

    def _showing(self, settings: Settings, address: str, answers: Routes) -> PageServer:
        from watcher.page.recent import Recent  # noqa: PLC0415 - and an HTTP server: only where the page is on
        from watcher.page.server import PageServer  # noqa: PLC0415

        if self._recent is None:
            self._recent = Recent()
        kept = settings.history
        history = History(settings.state_dir / HISTORY_NAME, keep=kept.keep, max_age_s=kept.max_age)
        return PageServer(
            address,
            answers,
            vitals=self._vitals,
            recent=self._recent,
            hosts=settings.metrics.hosts,
            older=lambda: history.query(_MOST_OLDER),
        )

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener = self._page = None

    def _hooked(self, settings: Settings) -> Hooks | None:
        if not programs_of(settings.hooks):
            return None
        made = Hooks(settings.hooks, settings.file.parent, settings.instance, self.tally.hooked)
        made.start()
        return made

    def _stop_hooks(self) -> None:
        if self._hooks is not None:
            self._hooks.stop(_HOOKS_STOP_WITHIN_S)
            self._hooks = None


def _cannot_listen(settings: Settings, error: OSError) -> str:
    """What, where, why, and what to do."""
    # A socket's error names the address in its words, and we have named it.
    words = in_words(OSError(error.errno, os.strerror(error.errno or 0)))
    remedy = "" if is_of_machine(error) else f"; {_REMEDIES.get(error.errno or 0, 'change metrics.listen')}"
    return f"cannot listen on {printable(settings.metrics.listen or '')}: {words}{remedy}"
