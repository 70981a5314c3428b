"""The demo, as a terminal of 96 columns is left with it: of its later steps the first line alone, for it is long."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.terminals import command, on_terminal

__all__ = ["draw"]

COLUMNS = 96
_WHOLE = 2

_THEME = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)
# What rich writes between the pictures of its live display, and nothing else.
_MOVES = re.compile(r"\x1b\[(\d*)([A-Ka-kl])|\x1b\[\?\d+[hl]|\r|\n")


def draw(directory: Path) -> Path:
    """Play the demo, and draw it.

    Returns:
        The picture, an SVG without any outside resource.
    """
    shown = on_terminal(command("demo"), columns=COLUMNS, environ={"TERM": "xterm-256color", "LINES": "60"})
    assert shown.status == 0, shown.text
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in shortened(screen(shown.raw)):
        console.print(Text.from_ansi(line))
    made = console.export_svg(title="journal-watcher demo", theme=_THEME)
    # The fonts of its own that it names come from elsewhere; every system has one for terminals.
    made = re.sub(r"@font-face \{.*?\}\s*", "", made, flags=re.DOTALL)
    made = re.sub(r"font-family: (?:Fira Code|arial)", "font-family: ui-monospace, Menlo, Consolas", made)
    file = directory / "demo.svg"
    file.write_text("\n".join(line.rstrip() for line in made.splitlines()) + "\n", encoding="utf-8")
    return file


def shortened(lines: list[str]) -> list[str]:
    """The first two steps are kept whole; of the others what is left out is an ellipsis."""
    kept: list[str] = []
    steps = 0
    for line in lines:
        steps += "✓" in line
        if steps <= _WHOLE or not line.startswith("  "):
            kept.append(line.rstrip())
        elif "✓" in kept[-1]:
            kept.append("  …")
    return kept


def screen(raw: str) -> list[str]:
    """The lines that a terminal shows at the end, with their colours."""
    lines = [""]
    row, at = 0, 0
    for move in _MOVES.finditer(raw):
        lines[row] += raw[at : move.start()]
        at = move.end()
        if move[0] == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif move[2] == "A":
            row = max(0, row - int(move[1] or 1))
        elif move[2] == "K":
            lines[row] = ""
    lines[row] += raw[at:]
    return lines
