"""The crash lab: random writers of real databases are killed at random, and SQLite itself says what must be left.

`python -m tests.crashlab --rounds 250` runs it by hand; `tests/test_kills.py` runs the same code in CI.
"""
