"""Run a benchmark, or all whose figures are published, or draw what they have measured.

python -m tests.benchmarks latency|watch|mass|scale|page [--json] [--plot PICTURE]
python -m tests.benchmarks all [--json] [--plot PICTURE]
python -m tests.benchmarks plot FILE… [-o PICTURE]
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import watcher

NAMES = ("latency", "watch", "mass", "scale", "page")
PUBLISHED: dict[str, tuple[str, ...]] = {
    "latency": ("latency",),
    "latency beside live writers": ("latency", "--live", "500"),
    "watch": ("watch",),
    "mass": ("mass",),
    "scale": ("scale",),
}
PICTURE = Path(__file__).parents[1] / "pictures" / "benchmarks.png"

Document = dict[str, dict[str, object]]
"""What benchmarks have measured, by their names, and `machine`: what they ran on."""


class Benchmark(Protocol):
    """What the module of a benchmark offers."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def measure(self, options: argparse.Namespace) -> dict[str, object]: ...
    def table(self, result: dict[str, object]) -> str: ...


def main(arguments: Sequence[str]) -> None:
    names = argparse.ArgumentParser(prog="python -m tests.benchmarks", add_help=False)
    names.add_argument("name", choices=(*NAMES, "all", "plot"))
    # The options are the benchmark's own, and only the one that was asked for is imported.
    name = names.parse_args(arguments[:1] if arguments and not arguments[0].startswith("-") else []).name
    if name == "plot":
        _draw(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks {name}")
    parser.add_argument("--json", action="store_true", help="print what was measured as one JSON document")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw it, too (latency, watch and all)")
    document: Document = {"machine": _machine()}
    _compile()
    if name == "all":
        options = parser.parse_args(arguments[1:])
        for published, (each, *more) in PUBLISHED.items():
            print(f"{datetime.now(UTC):%H:%M:%S} {published}", file=sys.stderr)
            of_its_own = argparse.ArgumentParser()
            _module(each).add_options(of_its_own)
            document[published] = _module(each).measure(of_its_own.parse_args(more))
    else:
        parser.description = _module(name).__doc__
        _module(name).add_options(parser)
        options = parser.parse_args(arguments[1:])
        document[name] = _module(name).measure(options)
    print(json.dumps(document, indent=1) if options.json else _in_words(document))
    if options.plot is not None:
        _plot(document, options.plot)


def _compile() -> None:
    """Compile the package, as pip does where it installs one: else, where PYTHONDONTWRITEBYTECODE is set, a source tree
    is compiled at each start, which takes a quarter of it."""
    compileall.compile_dir(Path(watcher.__file__).parent, quiet=1)


def _module(name: str) -> Benchmark:
    return cast("Benchmark", import_module(f"tests.benchmarks.{name}"))


def _in_words(document: Document) -> str:
    measured = {name: result for name, result in document.items() if name != "machine"}
    return "\n\n".join(
        f"# {name}\n\n{_module(PUBLISHED.get(name, (name,))[0]).table(result)}" for name, result in measured.items()
    )


def _machine() -> dict[str, object]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _draw(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks plot")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="what --json has printed")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, metavar="PICTURE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    document: Document = {}
    for file in options.files:
        document |= json.loads(file.read_text(encoding="utf-8"))
    _plot(document, options.output)


def _plot(document: Document, picture: Path) -> None:
    from tests.benchmarks.plot import plot  # matplotlib, only where it is wanted

    plot(document, picture)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
