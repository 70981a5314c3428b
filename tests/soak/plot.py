"""The samples as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from tests.soak.samples import Sample

_ROWS = {
    "memory_mib": "memory, MiB",
    "descriptors": "descriptors",
    "threads": "threads",
    "cpu_percent": "CPU, % of one",
}


def plot(samples: list[Sample], phases: list[tuple[float, str]], path: Path) -> None:
    """Draw the four quantities over time, one below the other.

    Args:
        phases: when each began, seconds, and its name; each has a colour of its own.
    """
    mpl.use("Agg")  # no window
    names = sorted({name for _, name in phases})
    figure, rows = plt.subplots(len(_ROWS), sharex=True, figsize=(12, 9), layout="constrained")
    ends = [began for began, _ in phases[1:]] + [samples[-1].at_s]
    for axes, (attribute, label) in zip(rows, _ROWS.items(), strict=True):
        axes.plot([each.at_s for each in samples], [getattr(each, attribute) for each in samples], linewidth=1)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        for (began, name), end in zip(phases, ends, strict=True):
            axes.axvspan(began, end, alpha=0.12, linewidth=0, color=f"C{names.index(name)}")
    handles = [Rectangle((0, 0), 1, 1, alpha=0.3, color=f"C{index}") for index in range(len(names))]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    rows[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)
