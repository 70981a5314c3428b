"""All keys there are, by their paths; and which one a mistyped one was meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from pydantic.fields import FieldInfo

from watcher.settings.errors import clipped, dotted, listed
from watcher.settings.models import Settings
from watcher.settings.section import Section, keys, section_of

__all__ = ["field_at", "key_paths", "unknown_key"]


def key_paths(section: type[Section] = Settings, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, sections before what is in them."""
    for key, field in keys(section).items():
        yield (*above, key)
        inner = section_of(field)
        if inner is not None:
            yield from key_paths(inner, (*above, key))


def field_at(path: tuple[str | int, ...]) -> FieldInfo | None:
    """What the key of this path is; None where there is no such key."""
    section: type[Section] | None = Settings
    field = None
    for part in path:
        field = keys(section).get(str(part)) if section is not None else None
        if field is None:
            return None
        section = section_of(field)
    return field


def unknown_key(path: tuple[str | int, ...]) -> str:
    """What to say of a key that does not exist: the nearest one, in its own section or anywhere else."""
    *above, last = path
    field = field_at(tuple(above)) if above else None
    section = Settings if not above else section_of(field) if field is not None else None
    siblings = list(keys(section)) if section is not None else []
    key = clipped(str(last)).lower().replace("-", "_")
    everywhere = {dotted(each): each for each in key_paths()}
    if "." in key and key in everywhere:
        *sections, value = everywhere[key]
        return f"unknown key; keys are nested: write {': {'.join(sections)}: {{{value}: …{'}' * len(sections)}"
    if close := get_close_matches(key, siblings, n=1):
        return f"unknown key; did you mean {dotted((*above, close[0]))}?"
    if elsewhere := [name for name, each in everywhere.items() if each[-1] == key]:
        return f"unknown key; did you mean {listed(elsewhere)}?"
    return f"unknown key; the keys here are {', '.join(siblings)}"
