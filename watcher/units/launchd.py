"""The unit for launchd, and the dashboard for Grafana."""

from __future__ import annotations

import json
import plistlib
from xml.sax.saxutils import escape

from watcher.units.containers import dns_label
from watcher.units.facts import Facts, UnitError
from watcher.units.template import fill

__all__ = ["grafana", "launchd"]


def launchd(facts: Facts) -> str:
    """A daemon's property list.

    Raises:
        UnitError: a character that XML does not have.
    """
    label = f"journal-watcher.{dns_label(facts.instance)}"
    told = fill(
        "launchd.plist",
        {
            "label": label,
            "argv": "\n".join(f"    <string>{escape(each)}</string>" for each in facts.argv),
            "environment": "\n".join(
                f"    <key>{escape(name)}</key>\n    <string>{escape(value)}</string>"
                for name, value in facts.environment.items()
            ),
            "user": escape(facts.user),
            "stderr": f"/var/log/{label}.log",
        },
        {"environment": bool(facts.environment), "user": facts.uid != 0},
    )
    try:
        plistlib.loads(told.encode())
    except Exception as error:
        raise UnitError(f"a path holds a character that a property list cannot: {error}") from error
    return told


def grafana(facts: Facts) -> str:
    """A dashboard of the metrics."""
    name = json.dumps(facts.instance)[1:-1]
    return fill("grafana.json", {"instance": name, "uid": f"jw-{dns_label(facts.instance)}"[:40]}, {})
