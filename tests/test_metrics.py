"""The metrics: what a Prometheus would read, parsed by Prometheus' own parser."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from watcher.owner.testimony import Answer, Evidence, judge
from watcher.records.listener import Request, Response
from watcher.records.metrics import Metrics, Reading
from watcher.records.record import Outcome, Record
from watcher.records.routes import routes
from watcher.records.status import Journals, Watch
from watcher.records.tally import MOST_SESSIONS, OTHERS, Tally

READING = Reading(
    instance="nanoclaw",
    journals=Journals(hot=3, waiting=1, held=2, refused=4),
    watch=Watch(backend="native", directories=12, missed=5),
    outcomes={"recovered": 7, "held": 2},
    backlog=1,
    root_is_there=True,
    engine_answers=None,
    last_sweep=datetime(2026, 11, 24, 8, 31, tzinfo=UTC),
)


def told(reading: Reading = READING, tally: Tally | None = None, accept: str = "") -> dict[str, float]:
    """Each sample by its name and labels."""
    body, content_type = Metrics(lambda: reading, tally or Tally()).render(accept)
    parse = openmetrics if "openmetrics" in content_type else plain
    samples: dict[str, float] = {}
    for family in parse(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in samples, key
            samples[key.removeprefix("journal_watcher_")] = sample.value
    return samples


def recovered(session: dict[str, str], outcome: Outcome = Outcome.RECOVERED, duration_ms: float = 7.0) -> Record:
    return Record(database="/tree/x.db", outcome=outcome, session=session, duration_ms=duration_ms)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_state_of_the_moment_is_told(accept: str) -> None:
    samples = told(accept=accept)
    assert samples["hot_journals"] == 3
    assert samples["waiting_journals"] == 1
    assert samples["held_journals"] == 2
    assert samples["refused_journals"] == 4
    assert samples["watched_directories"] == 12
    assert samples["missed_directories"] == 5
    assert samples["root_up"] == 1
    assert samples["recoveries_total{outcome=recovered}"] == 7
    assert samples["recoveries_total{outcome=failed}"] == 0
    assert samples["last_sweep_timestamp_seconds"] == READING.last_sweep.timestamp() if READING.last_sweep else False
    assert samples["process_resident_memory_bytes"] > 1e6
    assert any(name.startswith("build_info{installation=nanoclaw,") for name in samples)


def test_the_engine_is_told_of_only_where_one_is_asked() -> None:
    assert "engine_up" not in told()
    assert told(replace(READING, engine_answers=True))["engine_up"] == 1
    assert told(replace(READING, engine_answers=False, root_is_there=False))["engine_up"] == 0


def test_durations_are_histograms() -> None:
    tally = Tally()
    for duration_ms in (1.0, 7.0, 7.5, 3_600_000.0):
        tally.recorded(recovered({}, duration_ms=duration_ms))
    tally.recorded(recovered({}, Outcome.FAILED, 5.0))
    tally.swept(0.02)
    samples = told(tally=tally)
    assert samples["recovery_seconds_bucket{le=0.001}"] == 1
    assert samples["recovery_seconds_bucket{le=0.01}"] == 3
    assert samples["recovery_seconds_bucket{le=60.0}"] == 3
    assert samples["recovery_seconds_bucket{le=+Inf}"] == 4
    assert samples["recovery_seconds_count"] == 4
    assert samples["recovery_seconds_sum"] == pytest.approx(3600.0155)
    assert samples["sweep_seconds_bucket{le=0.05}"] == 1


def test_verdicts_overflows_and_hooks_are_counted() -> None:
    tally = Tally()
    tally.judged(judge((Evidence("locks", Answer.EXITED, ""), Evidence("boot", Answer.SILENT, ""))))
    tally.judged(judge((Evidence("locks", Answer.ALIVE, ""),)))
    tally.overflowed()
    tally.found("hot")
    tally.found("hot")
    tally.hooked("held", True)
    tally.hooked("held", False)
    samples = told(tally=tally)
    assert samples["verdicts_total{probe=locks,verdict=exited}"] == 1
    assert samples["verdicts_total{probe=locks,verdict=alive}"] == 1
    assert samples["verdicts_total{probe=boot,verdict=silent}"] == 1
    assert samples["overflows_total"] == 1
    assert samples["journals_found_total{state=hot}"] == 2
    assert samples["hook_runs_total{event=held,result=ok}"] == 1
    assert samples["hook_runs_total{event=held,result=failed}"] == 1


def test_sessions_are_told_by_the_fields_of_the_layout_and_by_nothing_else() -> None:
    tally = Tally()
    tally.recorded(recovered({"agent_group": "g", "session": 'a\nb\udcff"\\'}))
    tally.recorded(recovered({"agent_group": "g", "session": "s"}, Outcome.CORRUPT))
    tally.recorded(recovered({"agent_group": "g", "session": "s"}, Outcome.BUSY))
    tally.recorded(recovered({}))
    samples = {name: value for name, value in told(tally=tally).items() if name.startswith("session_recoveries")}
    assert samples == {
        r'session_recoveries_total{agent_group=g,outcome=recovered,session=a\nb\xff"\\}': 1,
        "session_recoveries_total{agent_group=g,outcome=corrupt,session=s}": 1,
    }


def test_their_number_is_bounded() -> None:
    tally = Tally()
    for number in range(3 * MOST_SESSIONS):
        tally.recorded(recovered({"session": f"s{number}"}))
    samples = {name: value for name, value in told(tally=tally).items() if name.startswith("session_recoveries")}
    assert len(samples) == MOST_SESSIONS + 1
    assert samples[f"session_recoveries_total{{outcome=recovered,session={OTHERS}}}"] == 2 * MOST_SESSIONS


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_fields_of_any_name_and_of_two_layouts_are_one_sound_family(accept: str) -> None:
    tally = Tally()
    tally.recorded(recovered({"outcome": "x", "__name__": "y", "le": "z"}))
    tally.recorded(recovered({"session": "s"}))
    samples = told(tally=tally, accept=accept)
    assert samples["session_recoveries_total{field_le=z,field_name__=y,field_outcome=x,outcome=recovered}"] == 1
    assert samples["session_recoveries_total{outcome=recovered,session=s}"] == 1


def answered(path: str, *, turns: bool = True, troubles: list[str] | None = None) -> Response:
    made = routes(read=lambda: READING, tally=Tally(), turns=lambda _: turns, troubles=lambda: troubles or [])
    return made[path](Request(path))


def test_health_names_its_reasons_and_life_does_not_ask_for_them() -> None:
    assert answered("/livez").status is HTTPStatus.OK
    assert answered("/healthz").body == b"ok\n"
    ill = answered("/healthz", troubles=["waiting for /tree", "the engine does not answer"])
    assert ill.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert ill.body == b"waiting for /tree\nthe engine does not answer\n"
    assert answered("/livez", troubles=["waiting for /tree"]).status is HTTPStatus.OK


def test_a_hung_reconciler_is_neither_alive_nor_well() -> None:
    assert answered("/livez", turns=False).status is HTTPStatus.SERVICE_UNAVAILABLE
    assert answered("/healthz", turns=False).body == b"the reconciler is hung\n"
