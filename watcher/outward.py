"""What the service shows of itself to the outside: to its service manager, by HTTP, and to the user's hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcher.names import printable
from watcher.records import log
from watcher.records.events import Event
from watcher.records.history import HISTORY_NAME, History
from watcher.records.hooks import Hooks, programs_of
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

    def start(self, settings: Settings) -> None:
        """Take the settings as they are: an address that cannot be had is told, and costs nobody a recovery."""
        self._settings = settings
        try:
            self._listener = self._listening(settings)
        except OSError as error:
            message = f"{_cannot_listen(settings, error)}; nothing is served until a restart or a reload"
            log.tell(Event.SETTINGS_REJECTED, message)
        self._hooks = self._hooked(settings)

    def change(self, settings: Settings) -> str | None:
        """Take other settings.

        Returns:
            Why they cannot be taken: then all stays as it was.
        """
        before = self._settings
        assert before is not None
        if settings.metrics != before.metrics or (self._listener is None and settings.metrics.listen is not None):
            self._stop_listening()  # first, since the new address may be a part of the old one
            try:
                self._listener = self._listening(settings)
            except OSError as error:
                self._listen_again(before)
                return _cannot_listen(settings, error)
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
        made.start()
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

    def _listen_again(self, before: Settings) -> None:
        try:
            self._listener = self._listening(before)
        except OSError as error:
            log.tell(Event.SETTINGS_REJECTED, f"{_cannot_listen(before, error)} again; nothing is served")

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
    return f"metrics.listen: cannot listen on {printable(settings.metrics.listen or '')}: {error.strerror}"
