"""What journal-watcher costs and how fast it is, beside peers that are measured in the same run.

    python -m tests.benchmarks NAME [--json]

A benchmark is a module of this package with three functions: `add_options(parser)`, `measure(options)`, which returns
what `--json` prints, and `table(result)`, which makes text of it. They never fail a test run.
"""
