"""The main job under random crashes: what is recovered equals what SQLite makes of it, and who lives is left alone.

The same code takes more by options: `pytest tests/test_kills.py --kills 300 --live-rounds 100 --seed 5`; by hand, and
without an end, it is `python -m tests.crashlab`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashlab.lab import KILLS_PER_ROUND, Lab
from tests.crashlab.live import watch_live_writers


def test_random_kills_are_recovered_as_sqlite_would(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    kills: int = pytestconfig.getoption("kills")
    lab = Lab(tmp_path, pytestconfig.getoption("seed"))
    with lab.open():
        for number in range(-(-kills // KILLS_PER_ROUND)):
            lab.run_round(number)
    tally = lab.tally
    assert not tally.wrong, "\n".join(map(str, tally.wrong))
    assert not [each for each in tally.neighbours if each.complaint]
    assert tally.kills.total() >= kills
    assert tally.recovered.total() == tally.hot.total() > kills / 4
    assert tally.many_headers.total() > 0
    assert tally.acknowledged > 0
    assert all(each.commits for each in tally.neighbours)


def test_a_live_writer_whose_locks_nobody_sees_is_never_recovered(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    rounds: int = pytestconfig.getoption("live_rounds")
    seen = watch_live_writers(tmp_path, rounds, pytestconfig.getoption("seed"))
    assert not seen.wrong, "\n".join(seen.wrong)
    assert seen.rounds == rounds
    assert seen.commits >= rounds
