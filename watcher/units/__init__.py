"""`journal-watcher unit`: what runs this installation, ready to use.

    print(unit_of(Kind.SYSTEMD, settings))

The templates are data of the package; a Containerfile is beside them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path

from watcher.names import printable
from watcher.settings import Settings
from watcher.units.containers import compose, kubernetes
from watcher.units.facts import UnitError, facts_of
from watcher.units.launchd import grafana, launchd
from watcher.units.rights import closed_to
from watcher.units.systemd import systemd

__all__ = ["Kind", "UnitError", "remarks_on", "unit_of", "usual_kind"]


class Kind(StrEnum):
    """For what."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    GRAFANA = "grafana"


_MAKERS = {
    Kind.SYSTEMD: systemd,
    Kind.LAUNCHD: launchd,
    Kind.COMPOSE: compose,
    Kind.KUBERNETES: kubernetes,
    Kind.GRAFANA: grafana,
}


def usual_kind() -> Kind:
    """What starts services on this system."""
    return Kind.LAUNCHD if sys.platform == "darwin" else Kind.SYSTEMD


def unit_of(kind: Kind, settings: Settings) -> str:
    """The unit of this installation.

    Raises:
        UnitError: it cannot be told in such a unit.
        OSError: the settings file can no longer be read.
    """
    return _MAKERS[kind](facts_of(settings))


def remarks_on(kind: Kind, settings: Settings) -> list[str]:
    """What would keep the service from working as the user that the unit names, each in a line."""
    if kind not in {Kind.SYSTEMD, Kind.LAUNCHD}:
        return []
    facts = facts_of(settings)
    return [
        f"{facts.user} runs the service, as the owner of {printable(facts.tree)}, but may not reach {printable(path)}:"
        " see to its rights, or install journal-watcher and its settings elsewhere"
        for path in closed_to(facts.uid, facts.gid, [facts.settings_file, *map(Path, facts.argv[:1])])
    ]
