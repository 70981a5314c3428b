"""What is to be done about a journal: the decision table of DESIGN.md, section 4, and the looks that lead to it.

In one field we do not follow the table: a journal that names a super-journal is what each commit over several
databases looks like for a moment, and where its owner is alive there is nothing to refuse. INTERFACE.md has it so: "A
journal whose owner is alive is neither stale nor held".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from watcher.journal import JournalState
from watcher.look import Look, LookAgainError, Looker, Pair
from watcher.names import printable
from watcher.owner.testimony import Judgement, Verdict
from watcher.tree import Place, UnsafeError

__all__ = ["Decision", "Examiner", "Finding", "decide"]

_MOST_LOOKS = 4
_OWNER_DECIDES = frozenset({JournalState.HOT, JournalState.MALFORMED})
_OWNER_IS_ASKED = _OWNER_DECIDES | {JournalState.SUPER}


class Decision(StrEnum):
    """What `run` would do."""

    IGNORE = "ignore"
    WAIT = "wait"
    RECOVER = "recover"
    HOLD = "hold"
    REFUSE = "refuse"


_BY_VERDICT = {
    Verdict.ALIVE: Decision.WAIT,
    Verdict.EXITED: Decision.RECOVER,
    Verdict.UNKNOWN: Decision.HOLD,
}


def decide(look: Look, verdict: Verdict | None) -> Decision:
    """The decision table.

    Args:
        look: at the pair.
        verdict: about its owner; None where nobody was asked, which a hot, malformed or super journal does not allow.
    """
    if look.blocks_nobody:
        return Decision.IGNORE
    if look.state in _OWNER_DECIDES:
        assert verdict is not None
        return _BY_VERDICT[verdict]
    if look.state.is_cold:
        return Decision.IGNORE
    return Decision.WAIT if look.state is JournalState.SUPER and verdict is Verdict.ALIVE else Decision.REFUSE


class Finding(NamedTuple):
    """A journal that was examined.

    Attributes:
        path: of the database, absolute, as the file system has it.
        session: the fields of the layout.
        judgement: None where nobody was asked.
        told: the reason, where another one than the look and the judgement give.
        blocked: who keeps the recovery waiting, where it was asked.
    """

    look: Look
    path: str
    session: Mapping[str, str]
    judgement: Judgement | None
    decision: Decision
    told: str | None = None
    blocked: str | None = None

    @property
    def place(self) -> Place:
        return self.look.place

    @property
    def reason(self) -> str:
        """Of the decision, in one printable line."""
        return _reason(self.look, self.judgement) if self.told is None else self.told

    def as_json(self) -> dict[str, object]:
        """The entry of `scan` that INTERFACE.md promises, in its order."""
        return {
            "database": printable(self.path),
            "journal": printable(os.path.join(os.path.dirname(self.path), self.place.journal_name)),
            "session": {name: printable(value) for name, value in self.session.items()},
            "state": self.look.state.value,
            "size": self.look.size_bytes,
            "owner": None if self.judgement is None else self.judgement.as_json(),
            "decision": self.decision.value,
            "reason": self.reason,
        }

    def change(self) -> str:
        """A text that is the same for as long as nothing has changed: which journal, in which version, and why."""
        journal = self.look.journal
        version = () if journal is None else (journal.device, journal.inode, journal.size_bytes, journal.mtime_ns)
        return json.dumps([self.decision.value, self.look.detail, *version])


class Examiner:
    """Looks, asks about the owner, and decides; it does nothing else.

    Args:
        judge: asks about the owner of a pair; its answers may be a moment old.
        obstacle: why a pair of this look would not be recovered although its owner has exited, or None.
    """

    def __init__(
        self,
        looker: Looker,
        judge: Callable[[Pair, Look], Judgement],
        obstacle: Callable[[Look], str | None],
    ) -> None:
        self._looker = looker
        self._judge = judge
        self._obstacle = obstacle

    def examine_place(self, place: Place) -> Finding:
        """Examine a place and hold nothing afterwards.

        Raises:
            Gone, RootMissingError, LookAgainError, OSError: as :meth:`Looker.pair` and :meth:`examine`.
        """
        try:
            with self._looker.pair(place) as pair:
                return self.examine(pair)
        except UnsafeError as error:
            return self.unreachable(place, str(error))

    def unreachable(self, place: Place, why: str) -> Finding:
        """The finding about a place whose directory cannot be reached safely."""
        look = Look(place, JournalState.UNSAFE, why)
        tree = self._looker.tree
        return Finding(look, tree.path(place), tree.session(place), None, decide(look, None))

    def examine(self, pair: Pair, *, looks_again: bool = True) -> Finding:
        """Examine a pair. The locks are asked before the look that counts: asked after it, a writer that commits in
        between would be taken for dead.

        Args:
            looks_again: False leaves that look out for a pair to be recovered: for who recovers it at once, and looks
                again after the last judgement anyway.

        Raises:
            Gone: there is no journal.
            LookAgainError: it changes so fast that nothing can be said: somebody writes it.
            OSError: the file system fails, or we have run out of descriptors.
        """
        look = pair.look()
        for _ in range(_MOST_LOOKS):
            if look.state not in _OWNER_IS_ASKED or look.blocks_nobody:
                return self._finding(pair, look, None)
            judgement = self._judge(pair, look)
            if not looks_again:
                finding = self._finding(pair, look, judgement)
                if finding.decision is Decision.RECOVER:
                    return finding
            again = pair.look()
            if again == look:
                return self._finding(pair, look, judgement)
            look = again
        raise LookAgainError("it changes from one look to the next")

    def _finding(self, pair: Pair, look: Look, judgement: Judgement | None) -> Finding:
        decision = decide(look, None if judgement is None else judgement.verdict)
        if decision is Decision.RECOVER:
            obstacle = self._obstacle(look)
            if obstacle is not None:
                return Finding(look, pair.path, pair.session, judgement, Decision.REFUSE, obstacle)
        elif decision is Decision.REFUSE:
            judgement = None  # whatever becomes of its owner
        return Finding(look, pair.path, pair.session, judgement, decision)


def _reason(look: Look, judgement: Judgement | None) -> str:
    if judgement is not None:
        return judgement.reason
    if look.state is JournalState.EMPTY:
        return "the journal is empty: nothing to roll back"
    if look.state is JournalState.ZEROED:
        return "the journal's header is zeroed: nothing to roll back"
    if look.blocks_nobody:
        return "the database is empty: SQLite reads it whatever the journal holds"
    return look.detail
