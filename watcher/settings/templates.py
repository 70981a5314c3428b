"""Text with the fields of `tree.layout` in it: `{session}.pid`.

Never `str.format`: its attribute access, indexing and format specifications are a language of their own, and a path
from the tree must not meet it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from watcher.settings.errors import UnfitError, clipped

__all__ = ["Piece", "check_fields", "escaped", "expand", "pieces"]

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Piece(NamedTuple):
    """A stretch of a template: literal text, or the name of a field."""

    text: str
    is_field: bool


def pieces(template: str) -> Iterator[Piece]:
    """The template taken apart; `{{` and `}}` are literal braces.

    Raises:
        UnfitError: a brace that stands alone, or braces around anything but a name.
    """
    for match in _PIECE.finditer(template):
        token, name = match[0], match[1]
        if token in {"{{", "}}"}:
            yield Piece(token[0], is_field=False)
        elif token in {"{", "}"}:
            raise UnfitError(f"a {token} that belongs to nothing; write {token}{token} for a brace that is meant")
        elif name is None:
            yield Piece(token, is_field=False)
        elif _FIELD.fullmatch(name) is None:
            raise UnfitError(
                f"{{{clipped(name)}}} is no field; a field is a name alone in braces, such as {{session}}, "
                "and {{ and }} are braces that are meant"
            )
        else:
            yield Piece(name, is_field=True)


def check_fields(template: str, fields: tuple[str, ...] | None) -> None:
    """Refuse a template that names a field which does not exist.

    Args:
        fields: those that tree.layout names; None where that is not known, and only the braces are looked at.

    Raises:
        UnfitError: with the fields that there are.
    """
    for text, is_field in pieces(template):
        if is_field and fields is not None and text not in fields:
            names = clipped(", ".join(f"{{{field}}}" for field in fields), 200) or "none"
            there_are = f"tree.layout names {names}"
            raise UnfitError(f"there is no field {{{clipped(text)}}}; {there_are}")


def expand(template: str, fields: Mapping[str, str]) -> str:
    """The template with each `{field}` replaced by its value, as it is, and `{{` and `}}` by braces.

    Raises:
        ValueError: braces that :func:`pieces` refuses.
        KeyError: a field that `fields` does not have.
    """
    return "".join(fields[text] if is_field else text for text, is_field in pieces(template))


def escaped(text: str) -> str:
    """`text` as a template that expands to itself."""
    return text.replace("{", "{{").replace("}", "}}")
