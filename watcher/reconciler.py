"""What happens to a journal: from a hint that it may want a look to its recovery, or to the reason why not.

A hint is a place, and says nothing else: not what was seen, nor by whom. Each look starts from the file system, and
what is remembered of a place serves only to wait the right time and not to say the same thing twice. So a hint may come
late, double or not at all: the next one, at the latest the sweep's, leads to the same end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from watcher.agenda import Agenda
from watcher.crew import Crew
from watcher.decision import Decision, Examiner, Finding
from watcher.hints.exits import Exits
from watcher.liveness import Hands, Held
from watcher.look import FileIdentity, LookAgainError, Looker, Pair
from watcher.records.record import Outcome, Record
from watcher.recovery import Attempt, Recovery
from watcher.remembered import Counts, Known, News, Remembered
from watcher.reports import Reports
from watcher.settings import RecoverySettings, WatchSettings
from watcher.tree import Gone, Place, RootMissingError, UnsafeError
from watcher.workers import Steps, Workers

__all__ = ["Reconciler"]

_SOON_S = 0.005
"""For what changes under our eyes, or is busy for a moment; doubled at each turn."""
_BUSY_MOST_S = 1.0
_WAIT_MOST_S = 5.0
_HOLD_MOST_S = 10.0
_MANY = 64
"""So many that wait are helped more by another process than by the time that it takes to begin."""
_ROW = 4
"""Recoveries without another outcome in between, or others without a recovery: it goes on like that."""


class Reconciler:
    """Looks at what it is hinted at, with a few workers.

    Args:
        looker, examiner, recovery, reports: the rooms it leads through.
        patience_s: how long a look may last before one wonders (:func:`watcher.liveness.patience_s`).
        done: called by a worker with each recovered database, for what may come after: verification, sync.
        changed: called by a worker when the counts may have changed.
        cold: called by a worker with each journal that holds nothing to roll back.
        later: takes what can be done when fewer wait; it is done at the latest when the service stops.
        crew: does rollbacks while many wait.
    """

    def __init__(
        self,
        looker: Looker,
        examiner: Examiner,
        recovery: Recovery,
        reports: Reports,
        *,
        recovery_settings: RecoverySettings,
        watch_settings: WatchSettings,
        patience_s: float,
        done: Callable[[Place, Record], None],
        changed: Callable[[], None],
        cold: Callable[[Place, FileIdentity], None],
        later: Callable[[Callable[[], None]], None],
        crew: Crew,
    ) -> None:
        self._looker = looker
        self._examiner = examiner
        self._recovery = recovery
        self._reports = reports
        self._retry = recovery_settings.retry
        self._watch = watch_settings
        self._done = done
        self._changed = changed
        self._cold = cold
        self._later = later
        self._crew = crew
        self._agenda = Agenda(recovery_settings.workers, looker.tree.session_of)
        self._in_a_row = 0  # recoveries; a count that any worker may miss by one, like the next
        self._in_vain = 0  # the other outcomes since the last one
        self._hands = Hands(patience_s, crew.processes)
        self._exits = Exits(self.hint)
        self._remembered = Remembered(looker.tree.session_of)
        self._workers = Workers(
            recovery_settings.workers, self._agenda, self._hands, crew, steps=self._reconcile, failed=self._failed
        )

    # --- hints ---

    def hint(self, place: Place) -> None:
        """Look at this place now."""
        self._agenda.add(place)

    def hint_of_sweep(self, place: Place) -> None:
        """Look at this place after all that is urgent, unless another look is due anyway."""
        self._agenda.add(place, urgent=False)

    def wake(
        self, concerns: Callable[[str, Mapping[str, str]], bool] | None = None, delays_s: tuple[float, ...] = (0.0,)
    ) -> None:
        """Look again at what waits or is held, because something may have changed for it.

        Args:
            concerns: told a database's path and session fields, says whether it may; None: all of them.
            delays_s: when to look, from now, seconds, in order.
        """
        now = time.monotonic()
        for known in self._remembered.all():
            finding = known.finding
            if finding.decision is Decision.REFUSE:
                continue
            if concerns is None or concerns(finding.path, finding.session):
                self._remembered.begin_series(known, tuple(now + delay_s for delay_s in delays_s[1:]))
                if delays_s[0] > 0:
                    self._agenda.add_at(finding.place, now + delays_s[0])
                else:
                    self._agenda.add(finding.place)

    def look_at_all_known(self) -> None:
        """After a sweep, which does not meet a journal that is gone: what is remembered is looked at, too."""
        for place in self._remembered.places():
            self._agenda.add(place, urgent=False)

    def counts(self) -> Counts:
        """What is known now."""
        return self._remembered.counts()

    def is_rush(self) -> bool:
        """Whether many databases are being recovered, one after the other."""
        return self._is_rush(1)

    def backlog(self) -> int:
        """How many places are to be looked at now."""
        return self._agenda.backlog()

    def known(self) -> list[tuple[Finding, float]]:
        """What is waited for, held or refused now, with the seconds since it has been seen so."""
        return self._remembered.findings()

    # --- signs of life ---

    def sign(self, show: Callable[[], None]) -> None:
        """Have `show` called by the next worker that is free, at once where one is idle."""
        self._agenda.sign(show)

    def goes_on(self) -> bool:
        """Whether a worker with its hands full gets on; for when no sign comes."""
        return self._hands.goes_on()

    def held(self) -> list[Held]:
        """What the workers have in their hands."""
        return self._hands.held()

    def turns(self, within_s: float) -> bool:
        """Whether a worker shows itself within so many seconds, or gets on with what it has in its hands."""
        shown = threading.Event()
        self.sign(shown.set)
        return shown.wait(within_s) or self.goes_on()

    # --- life ---

    def start(self) -> None:
        self._exits.start()
        self._workers.start()

    def stop(self, deadline_s: float = 3.0) -> bool:
        """Let each worker end what it has in its hands. False where one is still at it after the deadline: what it
        does is SQLite's rollback, which may be ended at any moment."""
        ended = self._workers.stop(deadline_s)
        self._exits.stop()
        return ended

    def _failed(self, place: Place, error: Exception) -> None:
        self._reports.defect(place, self._looker.tree.path(place), error)
        self._agenda.add_at(place, time.monotonic() + self._retry.first)

    # --- what happens to a journal ---

    def _reconcile(self, place: Place) -> Steps:
        since = time.monotonic()
        try:
            with self._looker.pair(place) as pair:
                finding = self._examiner.examine(pair, looks_again=False)
                known = self._remember(finding)
                yield from self._follow(pair, finding, known, since)
        except Gone:
            self._forget(place)
        except LookAgainError as error:
            self._look_again_soon(place, error)
        except UnsafeError as error:
            finding = self._examiner.unreachable(place, str(error))
            self._refuse(finding, self._remember(finding))
        except RootMissingError:
            self._forget(place)  # the service waits for the root, and sweeps when it is back

    def _follow(self, pair: Pair, finding: Finding, known: Known, since: float) -> Steps:
        match finding.decision:
            case Decision.RECOVER:  # first, as all that comes before a rollback
                yield from self._recover(pair, finding, known, since)
            case Decision.IGNORE:
                self._forget(finding.place)
                if finding.look.journal is not None and finding.look.state.is_cold:
                    self._cold(finding.place, finding.look.journal)
            case Decision.WAIT:
                self._wait(finding, known)
            case Decision.HOLD:
                self._hold(finding, known)
            case Decision.REFUSE:
                self._refuse(finding, known)

    def _wait(self, finding: Finding, known: Known) -> None:
        """The owner is alive: its exit is a hint, and a slow second look stands behind that."""
        assert finding.judgement is not None
        pids = frozenset(each.pid for each in finding.judgement.evidence if each.pid is not None)
        for pid in known.watched - pids:
            self._exits.forget(pid, finding.place)
        # One that cannot be watched now may be at the next look.
        known.watched = frozenset(pid for pid in pids if pid in known.watched or self._exits.watch(pid, finding.place))
        for_s = time.monotonic() - known.since
        if for_s >= self._watch.hold_warning:
            self._reports.waiting(finding, for_s)
        self._look_again(finding.place, known, for_s, _WAIT_MOST_S)

    def _hold(self, finding: Finding, known: Known) -> None:
        """Nobody knows: nothing is done, and after a while a person is told."""
        for_s = time.monotonic() - known.since
        again_s = self._look_again(finding.place, known, for_s, min(_HOLD_MOST_S, self._watch.sweep_interval))
        if for_s >= self._watch.hold_warning:
            self._reports.held(finding, for_s, again_s)

    def _look_again(self, place: Place, known: Known, for_s: float, most_s: float) -> float:
        """In a second, then less often; but just when `hold_warning` is over."""
        again_s = min(float(2 ** min(known.looks, 10)), most_s)
        left_s = self._watch.hold_warning - for_s
        if left_s > 0:
            again_s = min(again_s, left_s)
        now = time.monotonic()
        moment = self._remembered.next_of_series(known, now)
        urgent = moment is not None and moment - now < again_s
        if moment is not None and urgent:
            again_s = moment - now
        self._agenda.add_at(place, now + again_s, urgent=urgent)
        return again_s

    def _refuse(self, finding: Finding, known: Known) -> None:
        """Not ours to touch: told once, and met again at each sweep."""
        if known.looks == 0 or known.is_untold:
            known.is_untold = not self._reports.refused(finding, is_new=known.looks == 0)

    def _recover(self, pair: Pair, finding: Finding, known: Known, since: float) -> Steps:
        if time.monotonic() < known.not_before:
            # What SQLite has written before it failed comes back as a hint, and as a change of the database.
            self._agenda.add_at(finding.place, known.not_before, urgent=False)
            return
        if self._agenda.waiting() >= _MANY and self._in_vain < _ROW:
            self._crew.call_up()
        hurried = self._workers.drives() or self._is_rush(_MANY)
        still_for_s = time.monotonic() - known.since
        attempt = yield from self._recovery.steps(
            pair,
            finding.look,
            since=since,
            still_for_s=still_for_s,
            patient=not self._agenda.is_pressed(),
            hurried=hurried,
        )
        if attempt.record.outcome is Outcome.RECOVERED:
            self._in_a_row, self._in_vain = self._in_a_row + 1, 0
        else:
            self._in_a_row, self._in_vain = 0, self._in_vain + 1
        if hurried and attempt.record.outcome is Outcome.RECOVERED:
            self._forget(finding.place)
            self._later(lambda: self._conclude(finding, attempt))
            return
        again_s = self._pause(attempt, known)
        self._reports.attempted(finding, attempt, again_s)
        if again_s is not None:
            if attempt.record.outcome is Outcome.BUSY and still_for_s >= self._watch.hold_warning:
                self._reports.blocked(finding, attempt.record, still_for_s)
            self._agenda.add_at(finding.place, time.monotonic() + again_s, urgent=False)
        if again_s is not None or attempt.record.outcome is Outcome.REFUSED:
            self._changed()
            return
        self._forget(finding.place)
        if attempt.record.outcome in {Outcome.RECOVERED, Outcome.CORRUPT}:
            self._done(finding.place, attempt.record)

    def _is_rush(self, waiting: int) -> bool:
        """Whether one recovery comes after the other, and at least so many places still wait. A thousand that cannot be
        recovered, and wait to be looked at again, are none."""
        return self._in_a_row >= _ROW and self._agenda.waiting() >= waiting

    def _conclude(self, finding: Finding, attempt: Attempt) -> None:
        """The words, for a recovery that others did not have to wait for."""
        attempt = self._recovery.conclude(attempt)
        self._reports.attempted(finding, attempt, None)
        self._done(finding.place, attempt.record)
        self._changed()

    def _pause(self, attempt: Attempt, known: Known) -> float | None:
        """When to look again after this attempt, from now in seconds; None where it is over."""
        match attempt.record.outcome:
            case Outcome.FAILED:
                known.failures += 1
                growing = self._retry.first * 2.0 ** min(known.failures - 1, 20)
                # Not less often than the sweep: when the fault has gone, nobody tells us.
                pause_s = min(growing, self._retry.max, max(self._watch.sweep_interval, self._retry.first))
                known.not_before = time.monotonic() + pause_s
                return pause_s
            case Outcome.BUSY | Outcome.WAITING | Outcome.HELD | Outcome.CLEAN:
                # Somebody is at it, or the last judgement was another: the whole way once more.
                busy = min(_SOON_S * 2.0 ** min(known.looks, 10), _BUSY_MOST_S)
                return busy if attempt.again_in_s is None else max(attempt.again_in_s, busy)
            case _:
                return None

    def _look_again_soon(self, place: Place, error: LookAgainError) -> None:
        """It changes under our eyes, which ends in a moment; or somebody keeps it from us, for as long as he likes."""
        looks, for_s = self._remembered.look_again(place)
        most_s = _BUSY_MOST_S
        if for_s >= self._watch.hold_warning:
            self._reports.unseen(place, self._looker.tree.path(place), str(error), for_s)
            most_s = _HOLD_MOST_S
        self._agenda.add_at(place, time.monotonic() + min(_SOON_S * 2.0 ** min(looks, 20), most_s), urgent=looks < _ROW)

    # --- what is remembered ---

    def _remember(self, finding: Finding) -> Known:
        known, news = self._remembered.note(finding)
        if news is not News.NONE and finding.decision is not Decision.IGNORE:
            self._reports.found(finding)
            # To be recovered: when it is through. Now it would cost time.
            if news is News.COUNTS and finding.decision is not Decision.RECOVER:
                self._changed()
        return known

    def _forget(self, place: Place) -> None:
        self._agenda.forget(place)
        known = self._remembered.forget(place)
        if known is not None:
            for pid in known.watched:
                self._exits.forget(pid, place)
            self._changed()
