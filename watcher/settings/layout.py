"""`tree.layout`: the directories between the root and a database, and the names that it gives to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from watcher.settings.errors import UnfitError, clipped, shown
from watcher.settings.templates import pieces

__all__ = ["Layout"]

_LONGEST = 4096  # PATH_MAX of Linux


@dataclass(frozen=True, slots=True)
class _Component:
    """One directory name: `literals[0] {fields[0]} literals[1] {fields[1]} …`, one literal more than fields."""

    literals: tuple[str, ...]
    fields: tuple[str, ...]

    def values(self, part: str) -> tuple[str, ...] | None:
        """The fields' values in a directory name, each at least one character, earlier ones as short as they can be.

        One pass without backtracking: the tree's names are hostile, and the first place where a literal can stand
        leaves the most room for the rest, so nothing is missed.
        """
        if part in {"", ".", ".."} or "/" in part:
            return None
        if not self.fields:
            return () if part == self.literals[0] else None
        if self.literals == ("", ""):
            return (part,)
        first, *between, last = self.literals
        if not (part.startswith(first) and part.endswith(last)):
            return None
        start, end = len(first), len(part) - len(last)
        found = []
        for literal in between:
            at = part.find(literal, start + 1, end)
            if at < 0:
                return None
            found.append(part[start:at])
            start = at + len(literal)
        if start >= end:
            return None
        values = (*found, part[start:end])
        # A path made of a field must not climb: a directory `x..` is nobody's session.
        return None if any(value in {".", ".."} for value in values) else values


@dataclass(frozen=True, slots=True)
class Layout:
    """`{agent_group}/{session}`: one component for each directory below the root, literal text and fields in it.

    A value of a field is always a directory's name or a part of one: never empty, never with a slash,
    never `.` or `..`.
    """

    text: str
    components: tuple[_Component, ...]

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read a layout.

        Raises:
            ValueError: in plain words, what is wrong with it.
        """
        if not text or text.startswith("/") or len(text) > _LONGEST:
            raise UnfitError(
                f'expected directories below tree.root, such as "{{agent_group}}/{{session}}", got {shown(text)}'
            )
        components = tuple(_component(part) for part in text.split("/"))
        fields = [field for component in components for field in component.fields]
        for number, field in enumerate(fields):
            if field in fields[:number]:
                raise UnfitError(f"{{{clipped(field)}}} stands in it twice")
        return cls(text, components)

    def __str__(self) -> str:
        return self.text

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, from the root down."""
        return tuple(field for component in self.components for field in component.fields)

    @property
    def depth(self) -> int:
        """How many directories lie between the root and a database's name."""
        return len(self.components)

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """The fields with their values for the directories of one database; None where the layout does not fit."""
        if len(parts) != len(self.components):
            return None
        session: dict[str, str] = {}
        for component, part in zip(self.components, parts, strict=True):
            values = component.values(part)
            if values is None:
                return None
            session.update(zip(component.fields, values, strict=True))
        return session

    def match_directory(self, index: int, part: str) -> bool:
        """Whether a directory of this name can be component number `index`, counted from 0 below the root."""
        return 0 <= index < len(self.components) and self.components[index].values(part) is not None

    def literal(self, index: int) -> str | None:
        """The one name that component number `index` can have; None where it has fields."""
        component = self.components[index]
        return None if component.fields else component.literals[0]


def _component(part: str) -> _Component:
    literals = [""]
    fields: list[str] = []
    for text, is_field in pieces(part):
        if not is_field:
            literals[-1] += text
            continue
        if fields and not literals[-1]:
            raise UnfitError(
                f"nothing stands between {{{clipped(fields[-1])}}} and {{{clipped(text)}}}, so nobody can tell "
                "where the one ends"
            )
        fields.append(text)
        literals.append("")
    if not fields and not literals[0]:
        raise UnfitError("an empty directory name in it (a slash at its end, or two in a row)")
    if not fields and literals[0] in {".", ".."}:
        raise UnfitError(f"{literals[0]} in it; name the directories below tree.root")
    if any("\0" in literal for literal in literals):
        raise UnfitError("a NUL character in it, which no directory's name can hold")
    return _Component(tuple(literals), tuple(fields))
