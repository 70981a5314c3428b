"""What journal-watcher costs and how fast it is, beside peers that are measured in the same run.

    python -m tests.benchmarks NAME [--json] [--plot PICTURE]

`all` runs those whose figures the README tells, in about five minutes, on a machine that does nothing else:

    python -m tests.benchmarks all --json > all.json && python -m tests.benchmarks plot all.json

A benchmark is a module of this package with three functions: `add_options(parser)`, `measure(options)`, which returns
what `--json` prints, and `table(result)`, which makes text of it. They never fail a test run.
"""
