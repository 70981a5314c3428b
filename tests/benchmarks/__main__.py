"""Run one benchmark: `python -m tests.benchmarks latency|watch|mass|scale|page [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

NAMES = ("latency", "watch", "mass", "scale", "page")


class Benchmark(Protocol):
    """What the module of a benchmark offers."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def measure(self, options: argparse.Namespace) -> dict[str, object]: ...
    def table(self, result: dict[str, object]) -> str: ...


def main(arguments: Sequence[str]) -> None:
    there = [name for name in NAMES if find_spec(f"tests.benchmarks.{name}")]
    names = argparse.ArgumentParser(prog="python -m tests.benchmarks", add_help=False)
    names.add_argument("name", choices=there, help="which benchmark")
    # The options are the benchmark's own, and only the one that was asked for is imported.
    wanted = names.parse_args(arguments[:1] if arguments and not arguments[0].startswith("-") else [])
    benchmark = cast("Benchmark", import_module(f"tests.benchmarks.{wanted.name}"))
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks {wanted.name}", description=benchmark.__doc__)
    parser.add_argument("--json", action="store_true", help="print what was measured as one JSON document")
    benchmark.add_options(parser)
    options = parser.parse_args(arguments[1:])
    result = benchmark.measure(options)
    print(json.dumps(result, indent=2) if options.json else benchmark.table(result))


if __name__ == "__main__":
    main(sys.argv[1:])
