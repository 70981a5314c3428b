"""The README as a program reads it: its fenced blocks, its tables, and the words that it quotes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["README", "Block", "block", "blocks", "rows", "section"]

README = Path(__file__).parent.parent / "README.md"
_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
_CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word behind the fence; empty where there is none.
        heading: of the section that it stands in.
        number: of this block among those of its language in that section, from 1.
        line: where its text begins in the README.
    """

    language: str
    heading: str
    number: int
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.language or 'drawing'}-{self.number} of {self.heading}"


@cache
def blocks() -> tuple[Block, ...]:
    """Every fenced block, in order."""
    told = README.read_text(encoding="utf-8")
    fences = list(_FENCE.finditer(told))
    inside = [each.span() for each in fences]
    headings = [
        (match.start(), match[1])
        for match in _HEADING.finditer(told)
        if not any(begin < match.start() < end for begin, end in inside)
    ]
    found: list[Block] = []
    for fence in fences:
        heading = [words for at, words in headings if at < fence.start()][-1]
        number = 1 + sum((each.language, each.heading) == (fence[1], heading) for each in found)
        found.append(Block(fence[1], heading, number, told.count("\n", 0, fence.start(2)) + 1, fence[2]))
    return tuple(found)


def block(language: str, heading: str, number: int = 1) -> Block:
    """One block.

    Raises:
        LookupError: the README has no such block any more.
    """
    for each in blocks():
        if (each.language, each.heading, each.number) == (language, heading, number):
            return each
    raise LookupError(f"the README has no {language} block {number} in {heading!r}")


@cache
def section(heading: str) -> str:
    """The text of a section, its subsections with it, without the heading itself.

    Raises:
        LookupError: there is none.
    """
    told = README.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", told, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"the README has no section {heading!r}")
    return found[2]


def rows(heading: str) -> list[tuple[str, ...]]:
    """The rows of all tables of a section, without their heads."""
    found: list[tuple[str, ...]] = []
    lines = section(heading).splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("|") or set(line) <= set("|-: ") or not above.startswith("|"):
            continue
        found.append(tuple(cell.strip().replace(r"\|", "|") for cell in _CELLS.split(line.strip("|"))))
    return found
