"""Settings from the environment: `JOURNAL_WATCHER__TREE__ROOT=/srv/x` overrides `tree.root`.

Not pydantic-settings: its source reads os.environ alone, passes over variables that name no key, stops at the first
value that it cannot decode, reads complex values without a bound, and forgets which variable a value came from; here a
misspelt variable is an error, and every error of a value names its variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from watcher.names import printable
from watcher.settings.document import parse
from watcher.settings.errors import EMPTY, Problem, UnfitError, clipped, dotted
from watcher.settings.schema import field_at, key_paths, unknown_key
from watcher.settings.section import section_of, wants_text

__all__ = ["PREFIX", "Override", "merge", "overrides"]

PREFIX = "JOURNAL_WATCHER__"
_SEPARATOR = "__"


@dataclass(frozen=True, slots=True)
class Override:
    """One variable: the key that it sets, and the value as the file would give it."""

    variable: str
    path: tuple[str, ...]
    value: object


def overrides(environ: Mapping[str, str]) -> tuple[list[Override], list[Problem]]:
    """What the environment sets, sections before keys in them; and the variables that cannot be used.

    Names are read without regard to case, and an empty variable counts as not set. A key that wants a text takes the
    variable as it is (or `null`); any other value is read as YAML, of which JSON is a part.
    """
    found: dict[tuple[str, ...], Override] = {}
    problems = []
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX):
            continue
        variable, text = printable(name), environ[name]
        path = tuple(name[len(PREFIX) :].lower().split(_SEPARATOR))
        field = field_at(path)
        if field is None:
            problems.append(Problem(dotted(path), _unknown(path), variable))
        elif path in found:
            problems.append(Problem(dotted(path), f"already set by {found[path].variable}", variable))
        elif text and wants_text(field):
            found[path] = Override(variable, path, None if text == "null" else text)
        elif text:
            try:
                value, faults = parse(text)
            except UnfitError as error:
                problems.append(Problem(dotted(path), str(error), variable))
                continue
            for fault in faults:
                inside = ".".join(part for part in (dotted(path), fault.path) if part)
                problems.append(Problem(inside, fault.message, variable))
            if value is not EMPTY:
                found[path] = Override(variable, path, value)
    return sorted(found.values(), key=lambda each: len(each.path)), problems


def _unknown(path: tuple[str, ...]) -> str:
    there_are = {_SEPARATOR.join(each).upper(): each for each in key_paths()}
    close = get_close_matches(clipped(_SEPARATOR.join(path)).upper(), there_are, n=1)
    return f"unknown key; did you mean {PREFIX}{close[0]}?" if close else unknown_key(_known_down_to(path))


def _known_down_to(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path as far as its last key that stands in a section there is."""
    while len(path) > 1 and ((field := field_at(path[:-1])) is None or section_of(field) is None):
        path = path[:-1]
    return path


def merge(data: dict[str, object], changes: list[Override]) -> dict[str, object]:
    """The data with the overrides in their places; a section that is not there, or switched off, is begun.

    A section that is no mapping is left as it is, for the error that it deserves.
    """
    merged = dict(data)
    for change in changes:
        place = merged
        for key in change.path[:-1]:
            inner = place.get(key)
            if inner is None or inner is EMPTY:
                inner = {}
            if not isinstance(inner, dict):
                break
            place[key] = place = dict(inner)
        else:
            place[change.path[-1]] = change.value
    return merged
