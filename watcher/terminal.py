"""How text is laid out for people: tables, running text and progress on a terminal; plain lines in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = ["Bar", "err", "out", "paragraph", "progress", "table"]

# With NO_COLOR no escape code is written at all: rich alone would keep bold and dim.
_COLOURS: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, color_system=_COLOURS)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, color_system=_COLOURS)

_GAP = 2
_INDENT = 4
_LEAST_SENTENCE = 38
"""Columns that sentences want beside the others; where there are fewer, they get lines of their own."""
_NARROWEST = 20
_WIDEST = 100
"""Columns of running text."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styles: dict[str, str]) -> None:
    """A table whose last column holds sentences, and the one before it names, which may be long.

    On a terminal the sentences are wrapped beside the other columns, or, where those leave them no room, below; nothing
    else is wrapped. In a pipe the columns are parted by tabs, under a line of their names.

    Args:
        styles: of cells, by their whole text.
    """
    lines = [columns, *rows]
    if not out.is_terminal:
        for line in lines:
            sys.stdout.write("\t".join(line) + "\n")  # rich would turn the tabs into spaces
        return
    *widths, widest = (max(map(cell_len, column)) for column in zip(*lines, strict=True))
    left = sum(widths) + _GAP * len(widths)
    beside = out.width - left >= min(widest, _LEAST_SENTENCE)
    for number, (*cells, sentence) in enumerate(lines):
        shown = Text(style="bold" if number == 0 else "")
        for cell, width in zip(cells, widths, strict=True):
            shown.append(cell, styles.get(cell, ""))
            shown.append(" " * (width + _GAP - cell_len(cell)))
        if beside:
            first, *more = _wrapped(sentence, out.width - left)
            shown.append(first)
        else:
            more = [] if number == 0 else _wrapped(sentence, out.width - _INDENT)
        shown.rstrip()
        out.print(shown)
        for part in filter(None, more):
            out.print(" " * (left if beside else _INDENT) + part)


def paragraph(head: str, text: str, *, whole: str = "") -> None:
    """Running text behind a word or two: on a terminal it is wrapped, and stays to the right of them.

    Args:
        whole: a part of the text, a command, that stands on a line of its own there, so that it can be copied.
    """
    words, found, rest = text.partition(whole) if whole else (text, "", "")
    if not (found and out.is_terminal):
        _hanging(head, text)
        return
    _hanging(head, words.rstrip())
    below = " " * cell_len(head)
    out.print(f"{below}  {whole}")
    if rest := rest.lstrip(". "):
        _hanging(below, rest)


def _hanging(head: str, text: str) -> None:
    left = cell_len(head)
    first, *more = _wrapped(text, min(out.width, _WIDEST) - left) if out.is_terminal else [text]
    out.print(head + first)
    for line in more:
        out.print(" " * left + line)


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of that many columns; a single empty one where there is no text."""
    return [line.plain.rstrip() for line in Text(text).wrap(out, max(width, _NARROWEST))] or [""]


class Bar:
    """A progress bar; any thread may step it."""

    def __init__(self, bar: Progress, what: str) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=None)

    def expect(self, steps: int) -> None:
        """How many steps there are, once that is known."""
        self._bar.update(self._task, total=steps)

    def step(self) -> None:
        self._bar.advance(self._task)


@contextmanager
def progress(what: str) -> Iterator[Bar]:
    """A progress bar on stderr, which comes only on a terminal that may be painted, and goes when all is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not (err.is_terminal and _COLOURS)) as bar:
        yield Bar(bar, what)
