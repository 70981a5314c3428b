"""The polls of a host program for its own Prometheus: `from watcher.prometheus import PollerCollector`.

It wants prometheus-client, so `import watcher` does not load it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from watcher.poller import Poller, Stats

__all__ = ["PollerCollector"]


@dataclass(slots=True)
class _Named:
    pollers: set[Poller[Any]] = field(default_factory=set)
    removed: Stats = field(default_factory=Stats)


class PollerCollector(Collector):
    """Tells how the polls of a host go: `journal_watcher_poller_polls_total`, `…_races_total` and `…_errors_total`, and
    as `…_streak` the longest series of races that goes on. Each poller counts under a name that the host gives; pollers
    of one name count together, so that a thousand sessions need not be a thousand time series.

    Example:
        collector = PollerCollector()
        prometheus_client.REGISTRY.register(collector)
        collector.add(poller, "outbound")
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._named: dict[str, _Named] = {}  # under _guard

    def add(self, poller: Poller[Any], name: str) -> None:
        """Tell of this poller from now on."""
        with self._guard:
            self._named.setdefault(name, _Named()).pollers.add(poller)

    def remove(self, poller: Poller[Any]) -> None:
        """The poller is not used any more; what it has counted stays in the sums."""
        with self._guard:
            for each in self._named.values():
                if poller in each.pollers:
                    each.pollers.remove(poller)
                    each.removed = _sum([each.removed, poller.stats])

    def collect(self) -> Iterator[Metric]:
        with self._guard:
            stats = {
                name: _sum([each.removed, *(poller.stats for poller in each.pollers)])
                for name, each in sorted(self._named.items())
            }
        polls = CounterMetricFamily("journal_watcher_poller_polls", "Polls that have finished.", labels=("poller",))
        races = CounterMetricFamily("journal_watcher_poller_races", "Polls that met a race.", labels=("poller",))
        errors = CounterMetricFamily("journal_watcher_poller_errors", "Polls that failed.", labels=("poller",))
        streak = GaugeMetricFamily("journal_watcher_poller_streak", "Races in a row up to now.", labels=("poller",))
        for name, each in stats.items():
            polls.add_metric((name,), each.polls)
            races.add_metric((name,), each.races)
            errors.add_metric((name,), each.errors)
            streak.add_metric((name,), each.streak)
        yield from (polls, races, errors, streak)


def _sum(stats: list[Stats]) -> Stats:
    """All counts together, and the longest streak; the first is of pollers that are gone, and has none that goes on."""
    return Stats(
        polls=sum(each.polls for each in stats),
        races=sum(each.races for each in stats),
        errors=sum(each.errors for each in stats),
        streak=max((each.streak for each in stats[1:]), default=0),
    )
