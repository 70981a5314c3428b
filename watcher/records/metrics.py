"""The metrics for Prometheus, made from the service's own counts when they are asked for.

This module loads prometheus-client, so it is loaded only where `metrics.listen` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from watcher.records.record import Outcome
from watcher.records.status import Journals, Watch
from watcher.records.tally import Durations, Tally
from watcher.version import VERSION

__all__ = ["Metrics", "Reading"]

_P = "journal_watcher"
_OUTCOMES = [each.value for each in Outcome if each is not Outcome.WOULD_RECOVER]
_OWN_LABELS = {"outcome", "le"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The service at one moment.

    Attributes:
        outcomes: what became of journals since the start, by outcome.
        backlog: places to be looked at now.
        engine_answers: None where no engine is asked.
        last_sweep: when it ended, aware.
    """

    instance: str
    journals: Journals
    watch: Watch
    outcomes: Mapping[str, int]
    backlog: int
    root_is_there: bool
    engine_answers: bool | None
    last_sweep: datetime | None


class Metrics:
    """Args:
    read: the service at this moment; called for each scrape, in the thread that asks.
    tally: what it has counted.
    """

    def __init__(self, read: Callable[[], Reading], tally: Tally) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Service(read, tally))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Service(Collector):
    def __init__(self, read: Callable[[], Reading], tally: Tally) -> None:
        self._read = read
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        reading = self._read()
        yield _gauge("build_info", "The version that runs.", 1, version=VERSION, installation=reading.instance)
        yield from self._counts(reading)
        yield from _now(reading)

    def _counts(self, reading: Reading) -> Iterator[Metric]:
        tally = self._tally
        yield _counter(
            "journals_found", "Journals that were found or had changed, by state.", "state", tally.found_by_state()
        )
        outcomes = dict.fromkeys(_OUTCOMES, 0) | dict(reading.outcomes)
        yield _counter("recoveries", "What became of journals, by outcome.", "outcome", outcomes)
        yield from _by_session(tally)
        yield _histogram(
            "recovery_seconds", "From the look that led to it to the end of a recovery.", tally.recovery_durations()
        )
        verdicts = CounterMetricFamily(f"{_P}_verdicts", "What the probes have said.", labels=("probe", "verdict"))
        for (probe, verdict), count in sorted(tally.verdicts().items()):
            verdicts.add_metric((probe, verdict), count)
        yield verdicts
        yield _histogram("sweep_seconds", "Sweeps of the whole tree.", tally.sweep_durations())
        yield CounterMetricFamily(
            f"{_P}_overflows", "Times that the kernel dropped file events.", value=tally.overflows
        )
        hooks = CounterMetricFamily(f"{_P}_hook_runs", "Calls of hooks.", labels=("event", "result"))
        for (event, went_well), count in sorted(tally.hooks().items()):
            hooks.add_metric((event, "ok" if went_well else "failed"), count)
        yield hooks


def _now(reading: Reading) -> Iterator[Metric]:
    journals, watch = reading.journals, reading.watch
    yield _gauge("hot_journals", "Journals that SQLite would roll back, whatever they wait for.", journals.hot)
    yield _gauge("waiting_journals", "Journals whose owner is alive.", journals.waiting)
    yield _gauge("held_journals", "Journals of which nobody can say whether the owner has exited.", journals.held)
    yield _gauge("refused_journals", "Journals that are not ours to touch.", journals.refused)
    yield _gauge("backlog", "Journals to be looked at now.", reading.backlog)
    yield _gauge("watched_directories", "Directories that are watched.", watch.directories)
    yield _gauge("missed_directories", "Directories that only the sweep covers.", watch.missed)
    yield _gauge("root_up", "Whether the tree is there.", int(reading.root_is_there))
    if reading.engine_answers is not None:
        yield _gauge("engine_up", "Whether the container engine answers.", int(reading.engine_answers))
    if reading.last_sweep is not None:
        yield _gauge(
            "last_sweep_timestamp_seconds",
            "When the last sweep ended, since the epoch.",
            reading.last_sweep.timestamp(),
        )


def _by_session(tally: Tally) -> Iterator[Metric]:
    """By the fields that the layout names. One layout holds at a time; after a reload with another one the sessions of
    both are told, each with its own labels."""
    by_labels: dict[tuple[str, ...], CounterMetricFamily] = {}
    for (session, outcome), count in sorted(tally.sessions().items()):
        labels = tuple(_label(name) for name, _ in session)
        family = by_labels.get(labels)
        if family is None:
            text = "Recoveries by session; of many sessions the first ones by name."
            family = CounterMetricFamily(f"{_P}_session_recoveries", text, labels=(*labels, "outcome"))
            by_labels[labels] = family
        family.add_metric((*(value for _, value in session), outcome), count)
    first, *others = by_labels.values() or (None,)
    if first is None:
        return
    for other in others:
        first.samples.extend(other.samples)  # one family may be told only once
    yield first


def _label(field: str) -> str:
    """The field's name as a label's: those with two underscores in front, and our own, are taken."""
    return f"field_{field.lstrip('_')}" if field.startswith("__") or field in _OWN_LABELS else field


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"{_P}_{name}", text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"{_P}_{name}", text, labels=(label,))
    for value, count in sorted(counts.items()):
        family.add_metric((value,), count)
    return family


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    cumulative, total = [], 0
    bounds: Iterable[str] = (*map(str, durations.bounds_s), "+Inf")
    for bound, count in zip(bounds, durations.counts, strict=True):
        total += count
        cumulative.append((bound, total))
    return HistogramMetricFamily(f"{_P}_{name}", text, buckets=cumulative, sum_value=durations.sum_s)
