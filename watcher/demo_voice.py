"""How the demo tells its story: on a terminal in steps that tick while they happen, in a pipe as plain text."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from watcher.demo_cast import ROLLBACK, Host
from watcher.names import counted, printable

__all__ = ["Moment", "Numbers", "Step", "Voice", "Who"]

_PIPE_WIDTH = 80
_WIDEST = 100
_INDENT = 2
_REPLAY_S = 1.6
"""What happens in some milliseconds is shown again for so long: nobody could have seen it."""
_FRAME_S = 0.05
_LEAST_S = 0.15
"""For each of its moments: to be seen at all."""
_LAST_S = 0.6
_LATE_S = 1.0
"""And so long the display may keep a moment waiting."""
_NEWEST = 8


class Who(Enum):
    """Who does what happens: a label, and its style."""

    KILL = ("kill", "bold red")
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
    """Prints on stdout. A terminal gets colours (not with NO_COLOR) and movement, and at the end the same text."""

    def __init__(self) -> None:
        out = self._out = _console()
        self.moves = out.is_terminal and not out.is_dumb_terminal
        self._steps = 0
        unicode = out.encoding.startswith("utf")
        self.good, self.bad, self.dot, self.spinner = ("✓", "✗", "●", "dots") if unicode else ("+", "x", "*", "line")

    def title(self, home: Path) -> None:
        self.print(Text("journal-watcher demo", "bold"), 0)
        self.say(
            "An agent that is killed while it writes its SQLite database leaves a hot journal, and every read-only poll"
            " fails from then on. See it happen, and end."
        )
        self.say(f"All of it is real, and in {printable(home)}, which is removed at the end.")

    @contextmanager
    def step(self, words: str) -> Iterator[Step]:
        """A part of the story, under way until the block ends."""
        self._steps += 1
        self._out.print()
        if not self.moves:
            self.print(Text(f"{self._steps}. {words}"), 0)
            yield Step(self, words)
            return
        step = Step(self, words)
        with Live(console=self._out, refresh_per_second=1 / _FRAME_S, get_renderable=step.shown):
            try:
                yield step
            except BaseException:
                step.ends(self.bad, "bold red")
                raise
            step.ends(self.good, "bold green")

    def summary(self, numbers: Numbers) -> None:
        self._out.print()
        polls, commits = counted(numbers.failed, "poll"), counted(numbers.commits, "commit")
        words = f"Kill to readable: {numbers.readable_ms:.1f} ms; {polls} failed; {commits} beside it, 0 lost."
        self.print(Text(words, "bold green"), 0)

    def what_next(self, *, has_seen_page: bool) -> None:
        if not has_seen_page:
            self.print(Text("To look around: journal-watcher demo --page"), 0)
        self.print(Text("Next: echo 'tree: {root: YOUR/TREE}' > settings.yaml; journal-watcher check"), 0)

    def page_is_open(self, address: str, *, is_shown: bool) -> None:
        where = "in your browser" if is_shown else "open it in a browser"
        self._out.print()
        self.print(Text.assemble("The page: ", (address, "bold cyan"), f" ({where})"), 0)

    def crashes_of(self, crashes: int) -> None:
        """The end of a demo with its page."""
        self._out.print()
        words = f"{counted(crashes, 'more crash', 'more crashes')}, each recovered."
        self.print(Text(f"{words} Its processes are ended, and its files removed."), 0)

    def not_shown(self, what: str) -> None:
        """The end where something did not come true."""
        self._out.print()
        self.print(Text("The demo has failed, for this did not come true:", "bold red"), 0)
        self.say(printable(what))

    def interrupted(self) -> None:
        self._out = _console()  # the other one may have been interrupted, too, and would keep all that it is given
        self._out.print()
        self.print(Text("Interrupted. Its processes are ended, and its files removed."), 0)

    def say(self, words: str) -> None:
        self.print(Text(words), _INDENT)

    def print(self, what: RenderableType, indent: int) -> None:
        indented = Padding(what, (0, 0, 0, indent), expand=False)
        if self._out.is_terminal:
            self._out.print(indented)
            return
        with self._out.capture() as captured:
            self._out.print(indented)
        # A table fills its cells up with blanks, which are in the way where the text is read by a program.
        self._out.out("\n".join(line.rstrip() for line in captured.get().splitlines()))


class Step:
    """A part of the story. Its parts are the story-teller's thread's; the live display's thread only shows them, each
    as it stands."""

    def __init__(self, voice: Voice, words: str) -> None:
        self._voice = voice
        self._words = words
        self._parts: tuple[RenderableType, ...] = ()
        self._below: RenderableType | None = None
        self._sign: RenderableType = Spinner(voice.spinner, style="cyan")
        self._frames = 0

    def shown(self) -> RenderableType:
        """As it stands, with what moves."""
        self._frames += 1
        title = Table.grid(padding=(0, 1))
        title.add_row(self._sign, Text(self._words, "bold"))
        below = () if self._below is None else (self._below,)
        return Group(title, *(Padding(each, (0, 0, 0, _INDENT), expand=False) for each in (*self._parts, *below)))

    def ends(self, sign: str, style: str) -> None:
        self._below = None
        self._sign = Text(sign, style)

    def say(self, words: str) -> None:
        self._tell(Text(words))

    def latest(self, words: str) -> None:
        """One more of many: a terminal keeps the newest of them."""
        self._tell(Text(words))
        self._parts = (*self._parts[:1], *self._parts[1:][-_NEWEST:])

    @contextmanager
    def waiting(self, what: str, host: Host | None = None) -> Iterator[None]:
        """On a terminal it is said meanwhile, with what the host's polls come to."""
        self._below = _Waiting(self._voice, what, host)
        try:
            yield
        finally:
            self._below = None

    def explanation(self, evidence: Sequence[tuple[str, str, str]]) -> None:
        told = Table.grid(padding=(0, 1))
        for _ in range(3):
            told.add_column()
        for probe, verdict, detail in evidence:
            if verdict != "silent":
                told.add_row(probe, Text(verdict, "bold cyan" if verdict == "alive" else ""), Text(detail))
        told.add_row("decision", Text("wait", "bold cyan"), "one that says alive outweighs all others")
        self._tell(Padding(told, (0, 0, 0, _INDENT), expand=False))

    def moments(self, moments: Sequence[Moment], since: float) -> None:
        """What happened, in its order, in milliseconds since then. On a terminal it is replayed, much slower."""
        ordered = sorted(moments, key=lambda moment: moment.at)
        if self._voice.moves:
            self._replay(ordered, since)
        self._tell(Padding(_timetable(ordered, since), (0, 0, 0, _INDENT), expand=False))

    def _replay(self, ordered: Sequence[Moment], since: float) -> None:
        slower = max(1, round(_REPLAY_S / max(ordered[-1].at - since, 1e-3), -1))
        for number, moment in enumerate(ordered, start=1):
            seen, to_next = ordered[:number], ordered[min(number, len(ordered) - 1)].at - moment.at
            lasts = max(to_next * slower, _LEAST_S if to_next else _LAST_S)
            until, frame = time.monotonic() + lasts, self._frames + 1
            # The display's thread alone draws: a signal in the midst of it would leave the cursor where it is not.
            while (left := until - time.monotonic()) > 0 or (self._frames <= frame and left > -_LATE_S):
                now = moment.at + to_next * (1 - max(0.0, left) / lasts) - since
                clock = Text(f"{now * 1000:.1f} ms after the kill ({slower:.0f} times slower)", "dim")
                table = Padding(_timetable(seen, since), (0, 0, 0, _INDENT), expand=False)
                self._below = Group(table, Text(), _state(self._voice, seen), clock)
                time.sleep(min(max(left, _FRAME_S / 10), _FRAME_S))
        self._below = None

    def _tell(self, part: RenderableType) -> None:
        if self._voice.moves:
            self._parts += (part,)
        else:
            self._voice.print(part, _INDENT)


class _Waiting:
    """What is waited for, and for how long; and what the host's polls come to, as they stand."""

    def __init__(self, voice: Voice, what: str, host: Host | None) -> None:
        self._voice, self._what, self._host = voice, what, host
        self._began = time.monotonic()

    def __rich__(self) -> RenderableType:
        words = Text(f"{self._what} ... {time.monotonic() - self._began:.1f} s", "dim")
        polls = [] if self._host is None else self._host.polls
        last = next((each for each in reversed(polls) if each.contents or each.code == ROLLBACK), None)
        if last is None:
            return words
        if last.contents is None:
            told = Text(f"{self._voice.bad} the host's poll: {last.code} {last.words}", "bold red")
        else:
            told = Text(f"{self._voice.dot} the host's poll reads {counted(last.contents.commits, 'commit')}", "green")
        return Group(Text(), told.append(f" ({counted(len(polls), 'poll')})", "dim"), words)


def _console() -> Console:
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    out = Console(highlight=False, markup=False, emoji=False, color_system=colours)
    out.width = min(out.width, _WIDEST) if out.is_terminal else _PIPE_WIDTH
    return out


def _state(voice: Voice, seen: Sequence[Moment]) -> Text:
    """What the host's poll comes to, by then."""
    last = next((each for each in reversed(seen) if each.who in {Who.FAILS, Who.READS}), None)
    if last is None:
        return Text(f"{voice.dot} the host's poll reads", "green")
    if last.who is Who.READS:
        return Text(f"{voice.good} the host's poll reads again", "bold green")
    return Text(f"{voice.bad} the host's poll: {last.words}", "bold red")


def _timetable(ordered: Sequence[Moment], since: float) -> Table:
    steps = Table.grid(padding=(0, 1))
    steps.add_column(justify="right", no_wrap=True, style="dim", min_width=8)
    steps.add_column(no_wrap=True, min_width=7)
    steps.add_column()
    for each in ordered:
        label, style = each.who.value
        steps.add_row(f"{(each.at - since) * 1000:.1f} ms", Text(label, style), Text(each.words, style))
    return steps
