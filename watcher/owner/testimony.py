"""What the probes say about a database's owner, and what follows from it.

The owner is the process (or the container) that was writing the database when its journal was made. A probe gives one
piece of evidence about it, and never guesses; :func:`judge` combines the evidence into a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

__all__ = ["Answer", "Evidence", "Judgement", "Probe", "Subject", "Verdict", "judge"]


class Verdict(StrEnum):
    """Whether the owner has exited."""

    ALIVE = "alive"
    EXITED = "exited"
    UNKNOWN = "unknown"


class Answer(StrEnum):
    """What one probe says. UNKNOWN: it should know, but could not find out. SILENT: it has nothing to say."""

    ALIVE = "alive"
    EXITED = "exited"
    UNKNOWN = "unknown"
    SILENT = "silent"


class Evidence(NamedTuple):
    """One probe's testimony.

    Attributes:
        probe: the probe's name: `locks`, `boot`, `pid_file`, `container`, `heartbeat` or `command`.
        answer: what it says.
        detail: why, in one printable line for a person.
        pid: the process (in our own pid namespace) whose exit would change the answer, where the probe knows it.
    """

    probe: str
    answer: Answer
    detail: str
    pid: int | None = None


class Judgement(NamedTuple):
    """The verdict with the evidence it rests on."""

    verdict: Verdict
    evidence: tuple[Evidence, ...]

    @property
    def reason(self) -> str:
        """The details of the evidence that decided, in one line."""
        decisive = [each.detail for each in self.evidence if each.answer == self.verdict.value]
        if decisive:
            return "; ".join(decisive)
        silent = "; ".join(each.detail for each in self.evidence if each.probe != "boot")
        return f"no probe can tell: {silent}" if silent else "no probe can tell"

    def as_json(self) -> dict[str, object]:
        """The `owner` object of INTERFACE.md."""
        return {
            "verdict": self.verdict.value,
            "evidence": [
                {"probe": each.probe, "verdict": each.answer.value, "detail": each.detail} for each in self.evidence
            ],
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """What a probe is asked about: one database, reached through checked descriptors.

    Attributes:
        path: the database's absolute path, for messages and for patterns; never opened by it.
        name: the database's file name inside its directory.
        session: the fields of `tree.layout` with their values for this database.
        directory_fd: descriptor of the database's directory, walked to from the root without following a symlink;
            borrowed: a probe does not close it.
        database_fd: descriptor of the database itself (O_PATH on Linux: no lock is lost when it is closed); borrowed.
        journal_ctime_ns, journal_mtime_ns: of the journal, nanoseconds since the epoch.
        fresh: True right before a rollback: no answer that was cached before this question may be used.
    """

    path: str
    name: str
    session: Mapping[str, str]
    directory_fd: int
    database_fd: int
    journal_ctime_ns: int
    journal_mtime_ns: int
    fresh: bool = False


class Probe(Protocol):
    """One way to find out about the owner. `ask` is called from several threads at once and never raises for what the
    tree, a process or an engine does: that is an answer (UNKNOWN or SILENT, with the reason in its detail)."""

    @property
    def name(self) -> str: ...

    def ask(self, subject: Subject) -> Evidence: ...


_BY_WEIGHT = (
    (Answer.ALIVE, Verdict.ALIVE),
    (Answer.UNKNOWN, Verdict.UNKNOWN),
    (Answer.EXITED, Verdict.EXITED),
)
_STRONGER_THAN_HEARTBEAT = ("container", "pid_file", "command")


def judge(evidence: tuple[Evidence, ...]) -> Judgement:
    """Combine the evidence: any ALIVE means alive; else any UNKNOWN unknown; else any EXITED exited; else unknown.

    A heartbeat is heard only where no container, pid file or command says EXITED: an agent that was just killed
    touched it a moment ago.
    """
    heard = set()
    for each in evidence:
        if each.probe != "heartbeat" or not _outranks_heartbeat(evidence):
            heard.add(each.answer)
    for answer, verdict in _BY_WEIGHT:
        if answer in heard:
            return Judgement(verdict, evidence)
    return Judgement(Verdict.UNKNOWN, evidence)


def _outranks_heartbeat(evidence: tuple[Evidence, ...]) -> bool:
    return any(each.answer is Answer.EXITED and each.probe in _STRONGER_THAN_HEARTBEAT for each in evidence)
