"""One look at a pair: what it says, what it holds, and what changes under its eyes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from tests.pairs import leasing, look_at, looker
from tests.writers import CrashedPair, journal_of
from watcher.claims import Claims
from watcher.journal import JournalState
from watcher.look import LookAgainError, Pair
from watcher.owner.locks import writer_of
from watcher.pinned import Pinned
from watcher.tree import Gone, Place
from watcher.writable import is_database


@pytest.fixture
def database(tmp_path: Path, crashed: CrashedPair) -> Path:
    return crashed.put(tmp_path / "tree" / "outbound.db")


@contextmanager
def pair_of(database: Path) -> Iterator[Pair]:
    with looker(database.parent).pair(Place("", database.name)) as pair:
        yield pair


def test_a_look_says_what_is_there(database: Path, crashed: CrashedPair) -> None:
    look = look_at(database)
    assert look.state is JournalState.HOT
    assert look.detail == ""
    assert look.size_bytes == len(crashed.journal)
    assert look.database is not None
    assert look.database.size_bytes == len(crashed.database)


def test_two_looks_at_what_has_not_changed_are_equal(database: Path) -> None:
    assert look_at(database) == look_at(database)


def test_a_new_owner_of_the_same_name_makes_no_change_but_every_byte_does(database: Path) -> None:
    before = look_at(database)
    os.utime(journal_of(database), ns=(1, before.journal.mtime_ns if before.journal else 0))  # changes the ctime
    assert look_at(database) == before
    with journal_of(database).open("r+b") as journal:
        journal.write(b"\xd9")
    assert look_at(database) != before


def test_what_a_failing_close_says_keeps_nothing_from_the_next_look(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system in user space, whose flush fails: the kernel has closed the descriptor all the same."""
    before, close, failed = len(os.listdir("/proc/self/fd")), os.close, 0

    def failing(descriptor: int) -> None:
        nonlocal failed
        close(descriptor)
        failed += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pair_of(database) as pair:
        pair.look()
        patch.setattr(os, "close", failing)
        pair.let_go()
        pair.look()
        pair.__exit__(None, None, None)
        patch.undo()
        pair.directory_fd = os.open(database.parent, os.O_PATH)
    assert failed == 9
    assert len(os.listdir("/proc/self/fd")) == before
    assert look_at(database).state is JournalState.HOT


def test_the_check_of_rights_has_closed_a_database_before_others_may_have_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its close would take the locks of a rollback along."""
    close, may_have_it = Pinned.close, list[bool]()

    def closing(pinned: Pinned) -> None:
        claims = Claims()
        may_have_it.append(claims.claim(pinned.status))
        claims.release()
        close(pinned)

    monkeypatch.setattr(Pinned, "close", closing)
    directory = os.open(database.parent, os.O_PATH)
    assert is_database(database.name, directory)
    os.close(directory)
    assert may_have_it == [False]


@pytest.mark.parametrize("which", ["database", "journal"])
def test_another_file_in_its_place_is_another_look(database: Path, which: str) -> None:
    path = database if which == "database" else journal_of(database)
    before = look_at(database)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=times)
    copy.rename(path)
    assert look_at(database) != before


def test_a_journal_that_is_not_there_is_gone(database: Path) -> None:
    journal_of(database).unlink()
    with pytest.raises(Gone):
        look_at(database)


def test_a_database_that_is_not_there_leaves_an_orphan(database: Path) -> None:
    database.unlink()
    look = look_at(database)
    assert look.state is JournalState.ORPHAN
    assert look.database is None


def test_a_name_too_long_for_a_journal_has_none(tmp_path: Path) -> None:
    database = tmp_path / ("x" * 255)
    database.touch()
    with pytest.raises(Gone):
        look_at(database)


def test_many_looks_hold_no_more_open_than_one(database: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pair_of(database) as pair:
        for _ in range(5):
            pair.look()
        held = set(os.listdir("/proc/self/fd")) - before
        targets = [os.readlink(f"/proc/self/fd/{each}") for each in held if os.path.lexists(f"/proc/self/fd/{each}")]
        assert sum(target == str(database) for target in targets) == 2  # pinned, and open for reading
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_look_leaves_the_locks_of_a_connection_of_this_process_on_another_database_alone(
    tmp_path: Path, crashed: CrashedPair
) -> None:
    journal_as_database = tmp_path / "tree" / "x-journal"
    crashed.put(tmp_path / "tree" / "x")
    crashed.put(journal_as_database)
    with pair_of(journal_as_database) as at_hand:
        at_hand.look()
        with pytest.raises(LookAgainError, match="by another name"):
            look_at(tmp_path / "tree" / "x")
    assert look_at(tmp_path / "tree" / "x").state is JournalState.MALFORMED


def test_two_names_of_one_database_are_looked_at_one_after_the_other(database: Path) -> None:
    """A second bind mount of its directory would be such a name: there is but one file, and its locks are one set."""
    with pair_of(database) as pair:
        pair.look()
        with pytest.raises(LookAgainError):
            look_at(database)
    assert look_at(database).state is JournalState.HOT


def test_what_is_claimed_by_one_thread_is_free_when_it_is_released(database: Path) -> None:
    mine, other = Claims(), Claims()
    status = database.stat()
    assert mine.claim(status)
    assert mine.claim(status)
    assert not other.claim(status)
    mine.release()
    assert other.claim(status)
    other.release()


def test_a_lock_that_is_held_in_the_process_outlives_no_closed_descriptor(database: Path) -> None:
    """The fact that the claims stand on (fcntl(2)): were it otherwise, they could go."""
    connection = apsw.Connection(str(database.with_name("other.db")))
    connection.execute("CREATE TABLE t (x); BEGIN IMMEDIATE")
    asked = [sys.executable, "-c", _ASK_FOR_WRITER, str(database.with_name("other.db"))]
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout != "None\n"
    os.close(os.open(database.with_name("other.db"), os.O_RDONLY))
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == "None\n"
    connection.close(True)


_ASK_FOR_WRITER = """
import os, sys
from watcher.owner.locks import writer_of
print(writer_of(os.open(sys.argv[1], os.O_RDONLY)))
"""


def test_pinning_a_database_drops_no_lock(database: Path) -> None:
    other = database.with_name("other.db")
    connection = apsw.Connection(str(other))
    connection.execute("CREATE TABLE t (x); BEGIN IMMEDIATE")
    os.close(os.open(other, os.O_PATH))
    asked = [sys.executable, "-c", _ASK_FOR_WRITER, str(other)]
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout != "None\n"
    connection.close(True)


def test_the_writers_lock_shows_on_a_readable_descriptor(database: Path) -> None:
    with pair_of(database) as pair:
        pair.look()
        assert writer_of(pair.database_reader()) is None


def test_a_file_that_replaces_the_database_after_the_look_is_not_read(database: Path) -> None:
    with pair_of(database) as pair:
        pair.look()
        inode = database.stat().st_ino
        database.with_name("other").write_bytes(b"another file")
        database.with_name("other").rename(database)
        assert os.fstat(pair.database_reader()).st_ino == inode


@pytest.mark.parametrize("which", ["database", "journal"])
def test_a_lease_on_a_file_makes_nobody_wait(database: Path, which: str) -> None:
    """Whoever owns a file may take a lease on it: an open that conflicts waits for up to 45 s then (fcntl(2))."""
    path = database if which == "database" else journal_of(database)
    with leasing(path), pytest.raises(LookAgainError, match="cannot be opened at the moment"):
        look_at(database)
    assert look_at(database).state is JournalState.HOT


def test_a_journal_that_is_made_and_deleted_all_the_time_is_hot_gone_or_to_be_looked_at_again(
    database: Path, crashed: CrashedPair
) -> None:
    stopping = threading.Event()
    journal = journal_of(database)

    def write_and_delete() -> None:
        while not stopping.is_set():
            journal.write_bytes(crashed.journal)
            journal.unlink()

    hasty = threading.Thread(target=write_and_delete)
    hasty.start()
    met: set[object] = set()
    try:
        looks = 0
        while looks < 3000 or Gone not in met or len(met) == 1:  # and on: each thread may have to wait for long
            looks += 1
            try:
                met.add(look_at(database).state)
            except (Gone, LookAgainError) as error:
                met.add(type(error))
    finally:
        stopping.set()
        hasty.join()
    # A moment in which it has some of its bytes shows it as empty, or without its header.
    assert met <= {JournalState.HOT, JournalState.EMPTY, JournalState.MALFORMED, Gone, LookAgainError}


def test_where_we_have_no_more_descriptors_the_error_is_the_systems(database: Path) -> None:
    tried = [sys.executable, "-c", _LOOK_WITHOUT_DESCRIPTORS, str(database.parent)]
    said = subprocess.run(tried, check=True, capture_output=True, text=True)
    assert said.stdout == f"{errno.EMFILE}\n", said.stderr


_LOOK_WITHOUT_DESCRIPTORS = """
import os, pathlib, resource, sys
from watcher.look import Looker
from watcher.settings import TreeSettings
from watcher.tree import Place, Tree
looker = Looker(Tree(TreeSettings(root=pathlib.Path(sys.argv[1]))), max_journal_bytes=1 << 30)
with looker.pair(Place("", "outbound.db")) as pair:
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        print(pair.look())
    except OSError as error:
        print(error.errno)
"""
