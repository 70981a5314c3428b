"""The benchmarks never fail a test run; that they can be asked for, and drawn, is tested here."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.benchmarks import latency, watch
from tests.benchmarks.__main__ import NAMES, PUBLISHED

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)


def measured() -> dict[str, object]:
    """What `all --json` prints, as far as the plot wants it."""
    chance = random.Random(1)
    names = (latency.FLOOR, latency.OURS, latency.OURS_BARE, latency.SCRIPT, latency.SHELL)
    values = {name: [chance.lognormvariate(1, 0.5) for _ in range(60)] for name in names}
    values[latency.SHELL][7] = latency.DEADLINE_S * 1000 + 3
    results = {name: {"median_ms": 3.0, "median_to_floor": 1.5, "all_ms": each} for name, each in values.items()}
    rows = {
        name: {"cpu_us_per_commit": cost, "commits_per_s": 70_123.4, "to_inotifywait": 0.5, "told": 0.03}
        for name, cost in ((watch.ALONE, None), (watch.OURS, 0.5), (watch.INOTIFYWAIT, 1.0), (watch.WATCHDOG, 80.0))
    }
    return {
        "latency": {"live_commits_per_s": 0, "results": results},
        "latency beside live writers": {"live_commits_per_s": 500, "results": results},
        "watch": {"parts": {"500 commits/s": rows, "10000 commits/s": rows, "full speed": rows}},
    }


def draw(picture: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.benchmarks", "plot", *map(str, files), "-o", str(picture)]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def test_what_was_measured_is_drawn_in_less_than_a_hundred_kilobytes(tmp_path: Path) -> None:
    for name, result in measured().items():
        (tmp_path / f"{name}.json").write_text(json.dumps({name: result}))
    picture = tmp_path / "benchmarks.png"
    assert draw(picture, *tmp_path.glob("*.json")).returncode == 0
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert len(drawn) < 100_000


def test_a_latency_alone_is_drawn(tmp_path: Path) -> None:
    file, picture = tmp_path / "one.json", tmp_path / "one.png"
    file.write_text(json.dumps({"latency": measured()["latency"]}))
    assert draw(picture, file).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_where_there_is_nothing_to_draw_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "mass.json"
    file.write_text('{"mass": {}}')
    told = draw(tmp_path / "none.png", file)
    assert told.returncode == 1
    assert "nothing to draw" in told.stderr


@pytest.mark.parametrize("options", PUBLISHED.values(), ids=" ".join)
def test_what_is_published_can_be_asked_for(options: tuple[str, ...]) -> None:
    name, *more = options
    assert name in NAMES
    parser = argparse.ArgumentParser()
    import_module(f"tests.benchmarks.{name}").add_options(parser)
    parser.parse_args(more)


def test_a_watcher_that_has_lost_half_of_the_commits_has_cost_twice_as_much_for_each() -> None:
    turn = watch.Phase(cpu_s=1.0, commits=1000, seconds=1.0, told_of=1100, looks=550)
    assert turn.seen(watch.WATCHDOG) == 500
    assert turn.seen(watch.OURS) == 1000
