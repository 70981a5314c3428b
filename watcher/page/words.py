"""The page's words: how a journal stands and why, how the service does, and figures for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from watcher.decision import Decision, Finding
from watcher.records.status import Journals

__all__ = ["filters", "headline", "standing", "why"]

_STANDINGS = {
    Decision.HOLD: "held",
    Decision.REFUSE: "refused",
    Decision.RECOVER: "hot",
    Decision.WAIT: "waiting",
    Decision.IGNORE: "cold",
}


def standing(finding: Finding, obstacle: str | None) -> str:
    """One word for how a journal stands: `held`, `refused`, `stuck` (an attempt at it did not come through), `hot` (it
    is recovered now) or `waiting`."""
    return "stuck" if finding.decision is Decision.RECOVER and obstacle else _STANDINGS[finding.decision]


def why(finding: Finding, obstacle: str | None) -> str:
    """Why nothing happens to it, or what does."""
    reason = finding.reason.rstrip(".")
    match finding.decision:
        case Decision.HOLD:
            return (
                f"Nobody can say whether its writer has exited: {reason}. It is looked at again every few seconds, and"
                " recovered as soon as the answer is yes."
            )
        case Decision.WAIT:
            return f"Its writer lives: {reason}. It is recovered as soon as that ends."
        case Decision.REFUSE:
            return f"It is not ours to touch: {reason}. It is left as it is."
        case Decision.RECOVER if obstacle:
            return (
                f"Its writer has exited ({reason}), but the last attempt came to nothing: {obstacle.rstrip('.')}."
                " Nothing is lost, and it is tried again."
            )
        case _:
            return f"Its writer has exited: {reason}. It is recovered now."


def headline(counts: Journals, *, sessions: int, is_swept: bool, troubles: list[str]) -> str:
    """How it goes, in one sentence."""
    if troubles:
        return f"{troubles[0][:1].upper()}{troubles[0][1:]}."
    wanting = [f"{number} {word}" for number, word in ((counts.held, "held"), (counts.refused, "refused")) if number]
    if wanting:
        one = counts.held + counts.refused == 1
        return f"{' and '.join(wanting)}: {'this journal wants' if one else 'these journals want'} a person."
    if counts.hot > counts.waiting:
        number = counts.hot - counts.waiting
        return f"{number} {'journal is' if number == 1 else 'journals are'} hot, and being recovered."
    if counts.waiting:
        whose = "its writer" if counts.waiting == 1 else "their writers"
        return f"{counts.waiting} waiting for {whose} to end; nothing else is hot."
    if not is_swept:
        return "The tree is being looked at for the first time."
    return f"Nothing is hot. {sessions:,} {'session is' if sessions == 1 else 'sessions are'} watched."


# --- figures ---


def _took(ms: float) -> str:
    """A duration of a recovery."""
    if ms < 1000:
        return f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 60_000 else _span(ms / 1000)


def _span(seconds: float) -> str:
    """For how long: two units at the most."""
    whole = max(0, int(seconds))
    for size, unit, below, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {name}" if rest and whole // size < 10 else f"{whole // size} {unit}"
    return f"{whole} s"


def _since(epoch: float) -> str:
    return _span(time.time() - epoch)


def _clock(moment: str) -> str:
    """A moment of RFC 3339 as a time of day, with its date where that is another one."""
    return datetime.fromisoformat(moment).strftime("%d %b %H:%M:%S")


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"


def filters() -> Mapping[str, Callable[..., str]]:
    """For the template."""
    return {"took": _took, "since": _since, "clock": _clock, "size": _size}
