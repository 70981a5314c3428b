"""Names from the tree as one printable line, and back.

Whoever writes the tree chooses its names: they may hold newlines, terminal escapes or bytes that are no UTF-8. Every
log line, table cell, label and JSON string shows them through :func:`printable`, and a person may give such a text
back to a command, which finds the file again by :func:`parse_printable`.
"""

from __future__ import annotations

import os
import re

__all__ = ["clipped", "parse_printable", "printable"]

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = re.compile(rb"\\(\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_MOST_CHARACTERS = 300
_PLAIN = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def printable(name: str | os.PathLike[str]) -> str:
    """The name with everything that is not a printable character escaped; plain names come back unchanged.

    Args:
        name: a file name or path, undecodable bytes as surrogates (`os.fsdecode`).

    Returns:
        One line of printable text: a backslash is doubled, an undecodable byte is `\\xNN`, a control, bidirectional or
        other unprintable character is `\\n`, `\\t`, `\\r`, `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`.
    """
    text = os.fspath(name)
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode hands it over (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def clipped(text: str) -> str:
    """A message that may hold what somebody else has written, as one printable line of bounded length."""
    shown = printable(text[:_MOST_CHARACTERS])
    return shown if len(text) <= _MOST_CHARACTERS else f"{shown} …"


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
