"""What the writers of the tests do to reads beside them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.writers import ROWS, count_read_only, crash, make_database, recover, writing, writing_unseen


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "outbound.db"
    make_database(path)
    return path


def test_an_unseen_writer_in_a_transaction_makes_every_read_race_until_it_commits(database: Path) -> None:
    with writing_unseen(database) as writer:
        writer.tell("begin")
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError) as raised:
                count_read_only(database)
            assert raised.value.sqlite_errorname == "SQLITE_READONLY_ROLLBACK"
        writer.tell("COMMIT")
        assert count_read_only(database) == ROWS


def test_a_seen_writer_in_a_transaction_that_has_spilled_locks_readers_out(database: Path) -> None:
    with writing(database) as writer:
        writer.tell("begin")
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0)) as reader,
            pytest.raises(sqlite3.OperationalError) as raised,
        ):
            reader.execute("SELECT count(*) FROM t")
        assert raised.value.sqlite_errorname == "SQLITE_BUSY"


def test_a_killed_writer_leaves_a_journal_that_only_a_read_write_open_rolls_back(database: Path) -> None:
    crash(database)
    with pytest.raises(sqlite3.OperationalError) as raised:
        count_read_only(database)
    assert raised.value.sqlite_errorname == "SQLITE_READONLY_ROLLBACK"
    recover(database)
    assert count_read_only(database) == ROWS
