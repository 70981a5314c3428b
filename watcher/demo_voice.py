"""How the demo tells its story: on a terminal in colour, in a pipe as plain text, 80 columns or fewer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from watcher.names import printable

__all__ = ["Moment", "Numbers", "Voice", "Who", "counted"]

_WIDTH = 80
_INDENT = 2


class Who(Enum):
    """Who does what happens: a label, and its style."""

    KILL = ("", "bold red")
    FAILS = ("host", "red")
    SERVICE = ("service", "cyan")
    RECOVERED = ("service", "bold green")
    READS = ("host", "bold green")


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened: when, by `time.monotonic`."""

    at: float
    who: Who
    words: str


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is left of it all.

    Attributes:
        readable_ms: from the first kill to the first good poll.
        failed: polls that failed in between.
        commits: of the neighbours.
    """

    readable_ms: float
    failed: int
    commits: int


class Voice:
    """Prints on stdout."""

    def __init__(self) -> None:
        out = Console(highlight=False, markup=False, emoji=False)
        out.width = min(out.width, _WIDTH) if out.is_terminal else _WIDTH
        self._out = out

    def title(self, home: Path) -> None:
        self._print(Text("journal-watcher demo", "bold"), 0)
        self._say(
            "A host polls SQLite databases read-only while agents write them. An agent that is killed in the middle of"
            " a transaction leaves a hot journal behind, and every poll fails until somebody opens the database"
            " read-write. journal-watcher does that at once, but never while the writer may still live."
        )
        self._say(f"All of this is real, and happens in {printable(home)}, removed at the end.")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """On a terminal something moves meanwhile."""
        if not self._out.is_terminal or self._out.is_dumb_terminal:
            yield
            return
        with self._out.status(f"{what} ...", spinner="line", spinner_style="cyan"):
            yield

    def ordinary(self, agents: int, service_pid: int, victim: str, reads: int) -> None:
        self._head(f"1. An ordinary day: {agents} agents, a host, and the service")
        self._say(
            "Each agent is a process with a database of its own, in which it commits 25 times a second. The host reads"
            f" the one of agents/{victim} every millisecond, to miss nothing: {counted(reads, 'good poll')} so far."
            f" journal-watcher run (pid {service_pid}) watches the tree."
        )

    def before_the_kill(self, victim: str) -> None:
        self._head(f"2. agents/{victim} is killed in the middle of a transaction")
        self._say(
            "The transaction had spilled: the database file holds pages that were never committed, and the hot journal"
            " beside it what it takes to undo them."
        )

    def moments(self, moments: Sequence[Moment], since: float) -> None:
        """What happened, in its order, in milliseconds since then."""
        steps = Table.grid(padding=(0, 1))
        steps.add_column(justify="right", no_wrap=True, style="dim", min_width=8)
        steps.add_column(no_wrap=True)
        steps.add_column()
        for each in sorted(moments, key=lambda moment: moment.at):
            label, style = each.who.value
            steps.add_row(f"{(each.at - since) * 1000:.1f} ms", Text(label, style), Text(each.words, style))
        self._print(steps, 2 * _INDENT)

    def as_it_would_be(self, failed: int) -> None:
        self._say(
            f"{counted(failed, 'poll')} failed in between. Without the service all of them would, until somebody"
            " happens to open the database read-write: often hours later."
        )

    def too_quick(self) -> None:
        self._say("Its database was back before the next poll. Another one, to see that polls fail:")

    def looks_dead(self, unseen: str) -> None:
        self._head(f"3. agents/{unseen} lives, and looks just as dead")
        self._say(
            "Nobody here sees its locks, as with a guest in a virtual machine (SQLite's VFS unix-none stands for it)."
            " It has been in one transaction since before the service started. The journal is just as hot, polls fail"
            " just the same, but a rollback now would corrupt the database under its writer's hands. So the service"
            " asks for more than locks, as journal-watcher explain shows:"
        )

    def explanation(self, evidence: Sequence[tuple[str, str, str]]) -> None:
        told = Table.grid(padding=(0, 1))
        for _ in range(3):
            told.add_column()
        for probe, verdict, detail in evidence:
            if verdict != "silent":
                told.add_row(probe, Text(verdict, "bold cyan" if verdict == "alive" else ""), Text(detail))
        told.add_row("decision", Text("wait", "bold cyan"), "one that says alive outweighs all others")
        self._print(told, 2 * _INDENT)

    def left_alone(self, for_s: float, polls: int) -> None:
        self._say(
            f"The service met it {for_s:.1f} s ago and has not touched it: {counted(polls, 'poll')} later its files are"
            f" the same, byte for byte. Now it is killed, too."
        )

    def neighbours(self, number: int, commits: int) -> None:
        self._head("4. The neighbours")
        self._say(f"{number} agents beside them went on all the while: {counted(commits, 'commit')}, 0 failed, 0 lost.")

    def summary(self, numbers: Numbers) -> None:
        self._out.print()
        polls, commits = counted(numbers.failed, "poll"), counted(numbers.commits, "commit")
        words = f"Kill to readable: {numbers.readable_ms:.1f} ms; {polls} failed; {commits} beside it, 0 lost."
        self._print(Text(words, "bold green"), 0)
        self._print(Text("Next: copy settings.example.yaml to settings.yaml; run journal-watcher check."), 0)

    def not_shown(self, what: str) -> None:
        """The end where something did not come true."""
        self._out.print()
        self._print(Text("The demo has failed, for this did not come true:", "bold red"), 0)
        self._say(printable(what))

    def interrupted(self) -> None:
        self._out.print()
        self._print(Text("Interrupted. Its processes are ended, and its files removed."), 0)

    def _head(self, words: str) -> None:
        self._out.print()
        self._print(Text(words, "bold"), 0)

    def _say(self, words: str) -> None:
        self._print(Text(words), _INDENT)

    def _print(self, what: RenderableType, indent: int) -> None:
        indented = Padding(what, (0, 0, 0, indent), expand=False)
        if self._out.is_terminal:
            self._out.print(indented)
            return
        with self._out.capture() as captured:
            self._out.print(indented)
        # A table fills its cells up with blanks, which are in the way where the text is read by a program.
        self._out.out("\n".join(line.rstrip() for line in captured.get().splitlines()))


def counted(number: int, noun: str) -> str:
    """`1 poll`, `2 polls`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
