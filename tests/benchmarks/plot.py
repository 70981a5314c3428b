"""The picture of what was measured, for the README: on no ground of its own, in colours for light and dark pages."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from tests.benchmarks import latency, watch

__all__ = ["plot"]

_INK = "#808891"  # legible on white and on GitHub's dark ground alike
_OURS, _FLOOR, _WATCHDOG, _INOTIFYWAIT = "#2da44e", "#8c959f", "#e16f24", "#a06bee"
_LATENCY = {
    latency.FLOOR: ("floor: SQLite and the disk alone", _FLOOR),
    latency.OURS_BARE: ("journal-watcher, no snapshots", _OURS),
    latency.OURS: ("journal-watcher, defaults", _OURS),
    latency.SCRIPT: ("watchdog and sqlite3, a script", _WATCHDOG),
    latency.SHELL: ("inotifywait and sqlite3, a loop", _INOTIFYWAIT),
}
_WATCH = {
    watch.OURS: ("journal-watcher", _OURS),
    watch.INOTIFYWAIT: ("inotifywait", _INOTIFYWAIT),
    watch.WATCHDOG: ("watchdog", _WATCHDOG),
}
_ABOVE: Any = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "va": "bottom"}
_BELOW: Any = {"xytext": (0, -7), "textcoords": "offset points", "ha": "center", "va": "top"}
_MISSED_MS = latency.DEADLINE_S * 1000
_LATENCIES = ("latency", "latency beside live writers")
_STYLE: dict[Any, Any] = {  # matplotlib types its keys one by one
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
}


def plot(document: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Draw the latencies, and the watch's cost, as far as the document has them."""
    latencies = [document[name] for name in _LATENCIES if name in document]
    rows = len(latencies) + ("watch" in document)
    if not rows:
        raise SystemExit("nothing to draw: it takes the JSON of latency, watch or all")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 2.35 * rows), layout=ConstrainedLayoutEngine(hspace=0.06))
        every_axes = figure.subplots(rows, squeeze=False)[:, 0]
        every = [ms for result in latencies for each in result["results"].values() for ms in each["all_ms"]]
        for axes, result in zip(every_axes, latencies, strict=False):
            _draw_latency(axes, result)
            axes.set_xlim(min(every) / 1.15, max(ms for ms in every if ms < _MISSED_MS) * 1.15)
        if "watch" in document:
            _draw_watch(every_axes[-1], document["watch"])
        drawn = BytesIO()
        figure.savefig(drawn, dpi=160, transparent=True)
    # Of a few colours, it takes a third of the space.
    Image.open(drawn).quantize(128, method=Image.Quantize.FASTOCTREE).save(picture, "PNG", optimize=True)


def _draw_latency(axes: Axes, result: Mapping[str, Any]) -> None:
    live = result["live_commits_per_s"]
    beside = f"beside {live} live commits/s" if live else "with nothing else going on"
    axes.set_title(f"From the kill to the first good read, {beside}")
    results = result["results"]
    names = [name for name in _LATENCY if name in results]
    scatter = random.Random(1)  # of points that would cover each other
    for row, name in enumerate(names):
        values, colour = results[name]["all_ms"], _LATENCY[name][1]
        shown = [value for value in values if value < _MISSED_MS]
        heights = [row + scatter.uniform(-0.22, 0.22) for _ in shown]
        axes.scatter(shown, heights, s=9, color=colour, alpha=0.55, linewidths=0)
        middle = median(values)
        axes.plot([middle, middle], [row - 0.36, row + 0.36], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.text(1.01, row, _latency_in_words(name, results[name]), transform=_beside(axes), va="center")
    _name_rows(axes, [_LATENCY[name] for name in names])
    _on_a_log_scale(axes, (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
    axes.set_xlabel("milliseconds; each point is a crash, the bar their median")


def _latency_in_words(name: str, told: Mapping[str, Any]) -> str:
    missed = sum(value >= _MISSED_MS for value in told["all_ms"])
    words = [f"{told['median_ms']:.1f} ms"]
    words += [f"{told['median_to_floor']:.1f} × floor"] if name != latency.FLOOR else []
    words += [f"{missed} missed"] if missed else []
    return ", ".join(words)


def _draw_watch(axes: Axes, result: Mapping[str, Any]) -> None:
    axes.set_title("What watching costs, for each commit of live writers")
    parts: Mapping[str, Any] = result["parts"]
    for row, rows in enumerate(parts.values()):
        axes.axhline(row, color=_INK, linewidth=0.6, alpha=0.35, zorder=0)
        for name, (label, colour) in _WATCH.items():
            if name in rows:
                cost = rows[name]["cpu_us_per_commit"]
                axes.scatter(cost, row, s=62, color=colour, linewidths=0)
                if row == len(parts) // 2:
                    place = _BELOW if name == watch.INOTIFYWAIT else _ABOVE  # neighbours may lie side by side
                    if name == watch.WATCHDOG:  # far to the right, where the ratios begin
                        place = place | {"ha": "right"}
                    axes.annotate(label, (cost, row), color=colour, **place)
        axes.text(1.01, row, _watch_in_words(rows), transform=_beside(axes), va="center")
    _name_rows(axes, [(_rate_in_words(part, rows), _INK) for part, rows in parts.items()])
    _on_a_log_scale(axes, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500))
    axes.set_xlabel("microseconds of CPU")


def _rate_in_words(part: str, rows: Mapping[str, Any]) -> str:
    if part != "full speed":
        return f"{int(part.split(maxsplit=1)[0]):,} commits/s"
    return f"full speed, {round(rows[watch.ALONE]['commits_per_s'], -3):,.0f}/s"


def _watch_in_words(rows: Mapping[str, Any]) -> str:
    ratio, told = rows[watch.OURS]["to_inotifywait"], rows[watch.WATCHDOG]["told"]
    words = [f"{ratio:.2f} × inotifywait"] if ratio is not None else []
    words += [f"watchdog loses {1 - told:.0%}"] if told < 0.95 else []
    return "\n".join(words)


def _on_a_log_scale(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _name_rows(axes: Axes, rows: Sequence[tuple[str, str]]) -> None:
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    for tick, (_, colour) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(colour)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _beside(axes: Axes) -> mpl.transforms.Transform:
    """Right of the axes, at the height of a row."""
    return axes.get_yaxis_transform()
