"""From a file and the environment to settings, or to all that is wrong with them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from watcher.names import printable
from watcher.settings.document import parse, read_text
from watcher.settings.environment import Override, merge, overrides
from watcher.settings.errors import EMPTY, Problem, SettingsError, UnfitError, dotted, listed, shown
from watcher.settings.layout import Layout
from watcher.settings.models import Settings
from watcher.settings.places import Surroundings, surroundings, walked
from watcher.settings.schema import field_at, unknown_key
from watcher.settings.section import is_optional, keys, section_of
from watcher.settings.values import text_value

__all__ = ["load_settings"]

_NAMED_BY = "JOURNAL_WATCHER_CONFIG"
_USUAL = "settings.yaml"


def load_settings(path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check the settings of one installation.

    Args:
        path: the settings file; None for the one that $JOURNAL_WATCHER_CONFIG names, or ./settings.yaml.
        environ: where overrides are looked for.

    Raises:
        SettingsError: with every problem at once.
    """
    named = os.fspath(path) if path is not None else environ.get(_NAMED_BY) or _USUAL
    file = printable(named)
    changes, problems = overrides(environ)
    try:
        data, faults = parse(read_text(named))
        if data is EMPTY or data is None:
            data = {}
        if not isinstance(data, dict):
            raise UnfitError(f"expected keys, such as tree: and below it root:, got {shown(data)}")
    except UnfitError as error:
        raise SettingsError(file, [Problem("", str(error)), *problems]) from None
    problems = [*faults, *problems]
    if "file" in data:  # a field of the model, which only we may set
        del data["file"]
        problems.append(Problem("file", unknown_key(("file",))))
    merged = merge(data, changes)
    if merged.get("tree", EMPTY) is EMPTY:
        merged["tree"] = {}

    own = walked(Path(named) if os.path.isabs(named) else Path.cwd() / named)
    around = _with_tree(surroundings(own.parent, environ), merged["tree"])
    try:
        settings = Settings.model_validate({**merged, "file": own}, context=around)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise SettingsError(file, [*problems, *(_problem(each, changes) for each in found)]) from None
    if problems:
        raise SettingsError(file, problems)
    return settings


def _with_tree(around: Surroundings, tree: object) -> Surroundings:
    """What the rest is checked against, taken from the tree section before it is validated: so that a mistake there
    does not hide those in other sections. What is not sound stays unknown, and is reported by its own validation."""
    if not isinstance(tree, dict):
        return around
    root, layout = tree.get("root"), tree.get("layout")
    try:
        fields = Layout.parse(layout).fields if isinstance(layout, str) else () if layout in (None, EMPTY) else None
    except UnfitError:
        fields = None
    try:
        return dataclasses.replace(around, fields=fields, root=around.path(text_value(root, "a path")))
    except UnfitError:
        return dataclasses.replace(around, fields=fields)


def _problem(error: ErrorDetails, changes: list[Override]) -> Problem:
    """One of pydantic's errors in words of ours."""
    path = error["loc"]
    is_key = path[-1:] == ("[key]",)
    path = path[:-1] if is_key else path
    cause = error.get("ctx", {}).get("error")
    related = cause.related if isinstance(cause, UnfitError) else ()
    if error["type"] == "missing":
        message = "this key is required"
    elif error["type"] == "extra_forbidden":
        message = unknown_key(path)
    elif error["type"] in {"model_type", "model_attributes_type"}:
        message = f"expected {_section_in_words(path)}, got {shown(error['input'])}"
    elif isinstance(cause, UnfitError):
        message = f"in its key: {cause}" if is_key else str(cause)
    else:
        raise AssertionError(f"pydantic's {error['type']} has no words of ours")
    return Problem(dotted(path), message, _variable(path, related, changes))


def _section_in_words(path: tuple[str | int, ...]) -> str:
    field = field_at(path)
    section = section_of(field) if field is not None else None
    assert field is not None, "pydantic wants a model only where there is one"
    assert section is not None, "pydantic wants a model only where there is one"
    words = [f"keys below it ({', '.join(keys(section))})"]
    if not any(each.is_required() for each in keys(section).values()):
        words.append("{} for their defaults")
    if is_optional(field):
        words.append("null for none")
    return listed(words)


def _variable(path: tuple[str | int, ...], related: tuple[str, ...], changes: list[Override]) -> str | None:
    """The variable that a wrong value came from: its own, else one inside it, else that of what it contradicts."""
    own = [each for each in changes if path[: len(each.path)] == each.path]
    inside = [each for each in changes if each.path[: len(path)] == path]
    others = [each for each in changes if dotted(each.path) in related]
    deciding = own[-1:] or inside[-1:] or others[-1:]
    return deciding[0].variable if deciding else None
