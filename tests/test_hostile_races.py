"""What is swapped at any moment between the look and the end of the rollback leads nowhere outside the tree.

Each kind of swap is tried twice: at every single moment at which the way looks at a name or opens a file, and by a
racing process, for some rounds here and for ten thousand with JOURNAL_WATCHER_ROUNDS=10000.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hostile import Host, rounds, unchanged
from tests.pairs import Bytes, Shape
from tests.swaps import DATABASE, KINDS, exchange, racing
from tests.writers import CrashedPair
from watcher.pinned import Pinned
from watcher.records.record import Outcome

pytestmark = pytest.mark.timeout(120 + rounds(0) // 10)


@pytest.fixture
def fields(host: Host, crashed: CrashedPair, tmp_path: Path) -> Host:
    """The host with its own sessions, at the names that a link would lead to, and files that hard links lead to."""
    host.configure(tree={"layout": "{agent_group}/{session}"})
    crashed.put(tmp_path / "elsewhere" / "outbound.db")
    return host


class Moments:
    """Does something at one of the moments at which the way touches a name or opens a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> None:
        self._left = -1
        self._does = does
        for name in ("is_named", "open", "_checked"):
            monkeypatch.setattr(Pinned, name, self._around(getattr(Pinned, name)))

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """In the block it is done at the moment of this number, if it comes to that."""
        self._left = moment
        yield
        self._left = -1

    def _around(self, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self._pass()
            try:
                return original(*arguments)
            finally:
                self._pass()

        return call

    def _pass(self) -> None:
        if self._left == 0:
            self._does()
        self._left -= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_at_any_moment(
    fields: Host, crashed: CrashedPair, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    which, make = KINDS[kind]
    evil = tmp_path / "evil"
    make(fields.outside, crashed.journal, evil)
    swap = Swap(fields.root / which, evil)
    moments = Moments(monkeypatch, swap.there)
    outcomes: Counter[Outcome | None] = Counter()
    deleted = 0
    with unchanged(tmp_path / "elsewhere", but_for_links=True):
        for moment in itertools.count():
            database = fields.crash(DATABASE)
            with moments.at(moment):
                outcomes[fields.outcome_of(database)] += 1
            if not swap.was_asked:
                break
            if not swap.back():
                deleted += 1
                evil.unlink()
                make(fields.outside, crashed.journal, evil)
    assert moment > 20
    assert fields.is_recovered(database)
    assert outcomes.total() > outcomes[Outcome.RECOVERED]
    # Between the last look at a name and its deletion nothing can be put: there, the agent's own name goes, whatever it
    # stands for; never what it leads to.
    assert deleted <= 1 or kind == "journal for another"


class Swap:
    """A swap of two names, there and back."""

    def __init__(self, name: Path, evil: Path) -> None:
        self._name = name
        self._evil = evil
        self.was_asked = False
        self._was_done = False

    def there(self) -> None:
        self.was_asked = True
        self._was_done = os.path.lexists(self._name)  # its journal may be gone, rightly
        if self._was_done:
            exchange(self._name, self._evil)

    def back(self) -> bool:
        """False where what was swapped in has been deleted."""
        done = self._was_done and os.path.lexists(self._name)
        if done:
            exchange(self._name, self._evil)
        deleted = self._was_done and not done
        self.was_asked = self._was_done = False
        return not deleted


@pytest.mark.parametrize("kind", KINDS)
def test_swaps_by_a_process_that_races(fields: Host, kind: str, tmp_path: Path) -> None:
    small = tmp_path / "small.db"
    Shape(page_size=512, rows=40, during=("UPDATE t SET body = randomblob(300)",)).crash(small)
    fields.configure(tree={"layout": "{agent_group}/{session}"}, recovery={"snapshot": None, "busy_timeout": 0})
    outcomes: Counter[Outcome] = Counter()
    with unchanged(tmp_path / "elsewhere", but_for_links=True), racing(fields, Bytes.of(small), kind):
        # And on, until both have come about: which of them is rare depends on the machine.
        while outcomes.total() < rounds(100) or outcomes[Outcome.RECOVERED] in (0, outcomes.total()):
            recovered = fields.recover(fields.root / DATABASE)
            outcomes.update(each.record.outcome for each in recovered)
    print(kind, {outcome.value: count for outcome, count in outcomes.items()})
