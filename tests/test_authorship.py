"""A journal is an order to overwrite a database: only from somebody who could have written it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pairs import look_at
from tests.writers import CrashedPair, journal_of
from watcher.authorship import may_have_written
from watcher.journal import JournalState
from watcher.pinned import FileIdentity

A_FILE = FileIdentity(1, 1, 1, 1, stat.S_IFREG | 0o644, 1000, 1000)
HOST, AGENT, GROUP, OTHER_GROUP = 1000, 2000, 3000, 4000


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "may"),
    [
        (HOST, GROUP, 0o644, True),
        (HOST, GROUP, 0o444, False),
        (HOST, GROUP, 0o466, False),
        (AGENT, GROUP, 0o644, False),
        (AGENT, GROUP, 0o664, True),
        (AGENT, OTHER_GROUP, 0o664, False),
        (AGENT, OTHER_GROUP, 0o666, True),
        (AGENT, OTHER_GROUP, 0o602, True),
        (0, OTHER_GROUP, 0o400, True),
    ],
)
def test_the_databases_mode_says_who_may_have_written(directory: int, uid: int, gid: int, mode: int, may: bool) -> None:
    database = A_FILE._replace(uid=HOST, gid=GROUP, mode=stat.S_IFREG | mode)
    journal = A_FILE._replace(uid=uid, gid=gid)
    assert may_have_written(journal, database, directory) is may


def test_a_group_that_a_sticky_directory_lends_to_everybody_proves_nothing(directory: int) -> None:
    database = A_FILE._replace(uid=HOST, gid=GROUP, mode=stat.S_IFREG | 0o664)
    journal = A_FILE._replace(uid=AGENT, gid=GROUP)
    os.fchmod(directory, 0o2775)
    assert may_have_written(journal, database, directory)
    os.fchmod(directory, 0o3777)
    assert not may_have_written(journal, database, directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others wants root")
def test_a_journal_of_somebody_who_may_not_write_the_database_is_unsafe(tmp_path: Path, crashed: CrashedPair) -> None:
    database = crashed.put(tmp_path / "outbound.db")
    os.chown(database, HOST, HOST)
    os.chown(journal_of(database), AGENT, AGENT)
    look = look_at(database)
    assert look.state is JournalState.UNSAFE
    assert look.detail == (
        f"its journal belongs to uid {AGENT}, who may not write the database (uid {HOST}, mode 0644)"
    )
    database.chmod(0o666)
    assert look_at(database).state is JournalState.HOT
