"""Templates of units: text with `@{name}` in it, and lines that are there only where something holds.

@?metrics ports:        this line only where `metrics` is true, without its mark
@!metrics …             this line only where it is not
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

__all__ = ["fill"]

_CONDITION = re.compile(r"^@([?!])([a-z_]+) ?(.*)$")


class _Template(Template):
    delimiter = "@"
    idpattern = "[a-z_]+"
    braceidpattern = "[a-z_]+"


def fill(name: str, values: Mapping[str, str], flags: Mapping[str, bool]) -> str:
    """The template of this name with its values filled in.

    Args:
        values: finished text, escaped as the template's language wants it.
        flags: what holds.

    Raises:
        KeyError: the template names what is not there.
    """
    text = files("watcher.units").joinpath("templates", name).read_text("utf-8")
    lines = []
    for line in text.splitlines():
        condition = _CONDITION.match(line)
        if condition is None:
            lines.append(line)
        elif flags[condition[2]] is (condition[1] == "?"):
            lines.append(condition[3])
    return _Template("\n".join(lines) + "\n").substitute(values)
