"""Names from the tree as one printable line, and back.

Whoever writes the tree chooses its names: they may hold newlines, terminal escapes or bytes that are no UTF-8. Every
log line, table cell, label and JSON string shows them through :func:`printable`, and a person may give such a text
back to a command, which finds the file again by :func:`parse_printable`.
"""

from __future__ import annotations

import os
import re
from os import fspath

__all__ = ["clipped", "counted", "parse_printable", "printable", "quoted", "shown_word"]

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = re.compile(rb"\\(\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_MOST_CHARACTERS = 300
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800\U00016fe4\U0001d159]"
)
"""Letters that `str.isprintable` lets through, with nothing to be seen of them: Default_Ignorable_Code_Point of the
Unicode Character Database (DerivedCoreProperties.txt, 14.0), and three that are blank by their glyph: BRAILLE
PATTERN BLANK, KHITAN SMALL SCRIPT FILLER and MUSICAL SYMBOL NULL NOTEHEAD."""
_PLAIN = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def printable(name: str | os.PathLike[str]) -> str:
    """The name with everything that is not a printable character escaped; plain names come back unchanged.

    Args:
        name: a file name or path, undecodable bytes as surrogates (`os.fsdecode`).

    Returns:
        One line of printable text: a backslash is doubled, an undecodable byte is `\\xNN`, a control, bidirectional,
        invisible or other unprintable character is `\\n`, `\\t`, `\\r`, `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`.
    """
    text = fspath(name)
    if text.isprintable() and "\\" not in text and (text.isascii() or _INVISIBLE.search(text) is None):
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and _INVISIBLE.match(character) is None:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode hands it over (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def clipped(text: str, most: int = _MOST_CHARACTERS) -> str:
    """What somebody else has written, as one printable line: at most so many characters, and ` …` where more is left
    out."""
    shown = ""
    for character in text[: most + 1]:
        more = _escape(character)
        if len(shown) + len(more) > most:
            return f"{shown} …"
        shown += more
    return shown


def quoted(path: str) -> str:
    """The path as one printable word of a shell: plain, or in bash's and zsh's `$'…'` quotes."""
    shown = printable(path)
    if shown == path:
        return path if _is_plain(path) else _in_quotes(path)
    return "$'" + shown.replace("'", "\\'") + "'"


def shown_word(path: str) -> str:
    """What :func:`printable` shows of the path, as one word of any shell."""
    return _in_quotes(printable(path))


def _is_plain(path: str) -> bool:
    return bool(path) and not path.startswith("-") and all(each.isalnum() or each in "/._-+,@%:=" for each in path)


def _in_quotes(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def parse_printable(text: str) -> str:
    """The name that :func:`printable` has shown as `text`. What is no escape of its stands for itself."""

    def plain(match: re.Match[bytes]) -> bytes:
        escape = match.group(1)
        if escape in _PLAIN:
            return _PLAIN[escape]
        code = int(escape[1:], 16)
        if code == 0:  # in no name, so no escape of ours
            return match.group()
        if escape[:1] == b"x":
            return bytes([code])
        try:
            return chr(code).encode()
        except (ValueError, OverflowError):  # no character
            return match.group()

    return os.fsdecode(_ESCAPED.sub(plain, os.fsencode(text)))


def counted(number: int, noun: str, nouns: str = "") -> str:
    """`1 poll`, `2 polls`; `nouns` where an s makes no plural of it."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"
