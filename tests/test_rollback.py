"""SQLite's own rollback through the narrow view: the same bytes as SQLite alone, and nothing else touched."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from tests.hostile import everything_in, only_rolled_back
from tests.pairs import (
    INITIAL_PAGES,
    READERS_LOCK,
    RESERVED_LOCK,
    Bytes,
    Shape,
    holding,
    journal_with_page_1,
    left_by_sqlite,
    looker,
    wal_switch,
)
from tests.writers import CrashedPair, journal_of, make_database, writing
from watcher import narrow
from watcher.look import Look, Pair
from watcher.rollback import BusyError, CorruptError, Job, RollbackError, Rolled, perform, read_back, roll_back
from watcher.tree import Place
from watcher.unix_vfs import VFS, through

PAGE_SIZES = [512 << power for power in range(8)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


@pytest.fixture
def database(tree: Path, crashed: CrashedPair) -> Path:
    return crashed.put(tree / "outbound.db")


@contextmanager
def looked_at(database: Path) -> Iterator[tuple[Pair, Look]]:
    with looker(database.parent).pair(Place("", database.name)) as pair:
        yield pair, pair.look()


def rolled_back(database: Path) -> Rolled:
    with looked_at(database) as (pair, look):
        rolled = roll_back(Job.of(pair, look, busy_timeout_s=0.1))
        if not rolled.is_wal:
            read_back(Job.of(pair, look, busy_timeout_s=0.0))
        return rolled


def expect_what_sqlite_alone_would_leave(database: Path, scratch: Path) -> Rolled:
    left = left_by_sqlite(Bytes.of(database), scratch)
    with only_rolled_back(database.parent, database):
        rolled = rolled_back(database)
    assert database.read_bytes() == left.database
    assert left.journal is None
    assert rolled.finished_journal
    return rolled


# --- the same bytes ---


@pytest.mark.parametrize("sector_size", [0, 512, 4096, 65536])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_every_page_and_sector_size(tree: Path, tmp_path: Path, page_size: int, sector_size: int) -> None:
    database = tree / "outbound.db"
    Shape(page_size=page_size, sector_size=sector_size, rows=300).crash(database)
    rolled = expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert rolled.pages is not None
    assert rolled.pages > 0


@pytest.mark.parametrize("synchronous", ["off", "normal", "full", "extra"])
@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist"])
def test_every_journal_mode_and_synchronicity(tree: Path, tmp_path: Path, journal_mode: str, synchronous: str) -> None:
    database = tree / "outbound.db"
    Shape(journal_mode=journal_mode, synchronous=synchronous).crash(database)
    expect_what_sqlite_alone_would_leave(database, tmp_path)


def test_a_database_that_had_grown_shrinks_again(tree: Path, tmp_path: Path) -> None:
    database = tree / "outbound.db"
    Shape(during=("INSERT INTO t SELECT i + 1000, randomblob(900) FROM n LIMIT 400",)).crash(database)
    size = database.stat().st_size
    expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert database.stat().st_size < size


def test_a_database_that_was_cut_grows_again_as_far_as_its_journal_reaches(tree: Path, tmp_path: Path) -> None:
    database = tree / "outbound.db"
    smaller_pages = ("DELETE FROM t WHERE id > 10", "PRAGMA page_size = 512", "VACUUM")
    Shape(page_size=4096, during=smaller_pages, at_commit=True).crash(database)
    size = database.stat().st_size
    expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert database.stat().st_size > 10 * size


def test_a_persisted_journal_far_larger_than_its_header_explains(tree: Path, tmp_path: Path) -> None:
    database = tree / "outbound.db"
    Shape(
        journal_mode="persist",
        rows=2000,
        before=("UPDATE t SET body = randomblob(900)", "DELETE FROM t WHERE id > 5", "VACUUM"),
        during=("UPDATE t SET body = randomblob(900)", "CREATE TABLE more AS SELECT * FROM t, t AS u, t AS v"),
    ).crash(database)
    expect_what_sqlite_alone_would_leave(database, tmp_path)


def test_a_journal_that_rolls_back_no_page_is_a_rollback_all_the_same(tree: Path, tmp_path: Path) -> None:
    database = tree / "outbound.db"
    insert = "INSERT INTO u SELECT i, randomblob(900) FROM n LIMIT 300"
    Shape(before=("CREATE TABLE u (id, body)",), during=("SAVEPOINT s", insert)).crash(database)
    pair = Bytes.of(database)
    none_of_it = replace(pair, journal=pair.journal[:512]).with_journal_field(8, 0)
    none_of_it.put(database)
    rolled = expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert rolled.pages is None
    assert rolled.found_something


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_a_new_database_that_was_killed_in_its_first_transaction_becomes_empty(
    tree: Path, tmp_path: Path, page_size: int
) -> None:
    database = tree / "outbound.db"
    inserts = tuple(f"INSERT INTO u VALUES (randomblob({page_size}))" for _ in range(50))
    Shape(page_size=page_size, rows=0, during=("CREATE TABLE u (body)", *inserts)).crash(database)
    expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert database.stat().st_size == 0


def test_a_malformed_journal_is_deleted_and_the_database_stays_as_it_was(database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    journal_of(database).write_bytes(b"no journal at all" * 100)
    rolled = expect_what_sqlite_alone_would_leave(database, tmp_path)
    assert (rolled.pages, rolled.finished_journal) == (None, True)
    assert database.read_bytes() == before


@pytest.mark.parametrize("name", [b"\xff\xfe.db", b"new\nline.db", b"x" * 247, b"?q=1#f", b"file:x.db", b":memory:"])
def test_a_name_of_any_bytes_is_no_matter(tree: Path, tmp_path: Path, crashed: CrashedPair, name: bytes) -> None:
    database = crashed.put(tree / os.fsdecode(name))
    expect_what_sqlite_alone_would_leave(database, tmp_path)


# --- a switch from WAL ---


def test_a_killed_switch_from_wal_is_rolled_back_and_nothing_is_made_beside_it(tree: Path) -> None:
    database = tree / "outbound.db"
    wal_switch(database)
    assert journal_of(database).exists()
    beside = set(os.listdir(tree)) - {"outbound.db-journal"}
    rolled = rolled_back(database)
    assert rolled.is_wal
    assert rolled.found_something
    assert set(os.listdir(tree)) == beside
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


# --- others at it ---


def test_a_reader_that_stays_makes_it_busy_and_changes_nothing(database: Path) -> None:
    before = everything_in(database.parent)
    with holding(database, READERS_LOCK), looked_at(database) as (pair, look), pytest.raises(BusyError):
        roll_back(Job.of(pair, look, busy_timeout_s=0.01))
    assert everything_in(database.parent)["outbound.db"] == before["outbound.db"]
    assert rolled_back(database).found_something


def test_a_writer_in_a_transaction_that_has_spilled_makes_it_busy(tree: Path) -> None:
    database = tree / "outbound.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        with looked_at(database) as (pair, look), pytest.raises(BusyError):
            roll_back(Job.of(pair, look, busy_timeout_s=0.01))
        writer.tell("COMMIT")


def test_a_writer_in_a_transaction_that_has_not_spilled_makes_it_clean(database: Path) -> None:
    """It holds the RESERVED lock alone, and a journal is not hot then."""
    with holding(database, RESERVED_LOCK), looked_at(database) as (pair, look), only_rolled_back(database.parent):
        assert not roll_back(Job.of(pair, look, busy_timeout_s=0.01)).found_something


def test_what_another_recovery_has_done_meanwhile_is_clean(database: Path) -> None:
    with looked_at(database) as (pair, look):
        with closing(sqlite3.connect(database)) as other:
            other.execute("SELECT count(*) FROM t").fetchone()
        recovered = database.read_bytes()
        assert not roll_back(Job.of(pair, look, busy_timeout_s=0.01)).found_something
    assert database.read_bytes() == recovered


def test_a_new_journal_after_the_look_is_left_alone(database: Path, crashed: CrashedPair) -> None:
    with looked_at(database) as (pair, look):
        journal_of(database).unlink()
        journal_of(database).write_bytes(crashed.journal)
        before = everything_in(database.parent)
        assert not roll_back(Job.of(pair, look, busy_timeout_s=0.01)).found_something
    assert everything_in(database.parent) == before


def test_a_journal_that_somebody_else_deletes_meanwhile_is_rolled_back_all_the_same(
    database: Path, crashed: CrashedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a session is removed with all that is in it."""
    writes = narrow.Grant.writes

    def and_deletes(grant: narrow.Grant, descriptor: int, end: int) -> bool:
        journal_of(database).unlink(missing_ok=True)
        return writes(grant, descriptor, end)

    monkeypatch.setattr(narrow.Grant, "writes", and_deletes)
    with looked_at(database) as (pair, look):
        rolled = perform(Job.of(pair, look, busy_timeout_s=0.01))
    assert rolled.finished_journal
    assert rolled.pages
    assert rolled.unread is None
    assert rolled.found_deleted
    assert database.read_bytes() == crashed.recovered
    assert os.listdir(database.parent) == [database.name]


def test_a_new_database_after_the_look_is_left_alone_and_keeps_its_journal(database: Path) -> None:
    with looked_at(database) as (pair, look):
        other = database.with_name("other.db")
        make_database(other)
        other.rename(database)
        before = everything_in(database.parent)
        with pytest.raises(BusyError, match=r"outbound\.db was replaced"):
            roll_back(Job.of(pair, look, busy_timeout_s=0.01))
    assert everything_in(database.parent) == before


def test_a_new_journal_after_the_rollback_is_a_writers(database: Path, crashed: CrashedPair) -> None:
    with looked_at(database) as (pair, look):
        roll_back(Job.of(pair, look, busy_timeout_s=0.01))
        journal_of(database).write_bytes(crashed.journal)
        with pytest.raises(BusyError, match="a new journal has appeared"):
            read_back(Job.of(pair, look, busy_timeout_s=0.0))
    assert journal_of(database).read_bytes() == crashed.journal


# --- what is left is no database ---


def test_a_rollback_that_leaves_a_corrupt_page_1_is_told_as_that(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT count(*) FROM t").fetchone()
    page = bytearray(database.read_bytes()[:1024])
    page[16:18] = b"\x03\x03"  # no page size
    with_it = journal_with_page_1(database, bytes(page))
    journal_of(database).write_bytes(with_it)
    with looked_at(database) as (pair, look), pytest.raises(CorruptError, match="not a database"):
        roll_back(Job.of(pair, look, busy_timeout_s=0.01))
    assert not journal_of(database).exists()


def test_a_corrupt_page_1_that_the_rollback_mends_is_no_matter(database: Path, crashed: CrashedPair) -> None:
    sound = crashed.recovered[:1024]
    database.write_bytes(crashed.recovered)
    journal = journal_with_page_1(database, sound)
    database.write_bytes(sound[:16] + b"\xff" * 1008 + crashed.recovered[1024:])
    journal_of(database).write_bytes(journal)
    assert rolled_back(database).pages == 1
    assert database.read_bytes() == crashed.recovered


# --- what the view allows ---


def test_a_database_that_we_may_not_write_says_so(database: Path) -> None:
    tried = [sys.executable, "-c", _ROLL_BACK_AS, str(database.parent), "12345"]
    for above in (database.parent, *database.parent.parents[:-1]):
        if above.stat().st_mode & 0o005 != 0o005:
            above.chmod(0o755)
    said = subprocess.run(tried, check=True, capture_output=True, text=True)
    if os.geteuid() == 0:
        told = "we may not write it (uid 12345): it belongs to uid 0 and has the mode 0644: give us the right"
        assert said.stdout.startswith(f"RollbackError {told}"), said.stderr


def test_a_directory_with_the_sticky_bit_keeps_another_users_journal_and_says_so(database: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("wants to be two users")
    directory = database.parent
    for above in directory.parents[:-1]:
        above.chmod(above.stat().st_mode | 0o005)
    directory.chmod(0o1777)
    for file in (database, journal_of(database)):
        file.chmod(0o666)
    os.chown(database, 12345, 12345)
    tried = [sys.executable, "-c", _ROLL_BACK_AS, str(directory), "12345"]
    said = subprocess.run(tried, check=True, capture_output=True, text=True).stdout
    assert f"the sticky bit of {directory} (mode 1777) lets nobody delete the files of others" in said
    assert f"(chmod -t {directory}), or run journal-watcher as uid 0" in said
    directory.chmod(0o777)
    assert "pages=" in subprocess.run(tried, check=True, capture_output=True, text=True).stdout
    assert not journal_of(database).exists()


@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("which", ["database", "journal", "directory"])
def test_what_is_immutable_is_called_so_and_recovered_when_it_is_no_more(
    database: Path, crashed: CrashedPair, which: str, flag: str
) -> None:
    kept = {"database": database, "journal": journal_of(database), "directory": database.parent}[which]
    subprocess.run(["chattr", f"+{flag}", str(kept)], check=False, capture_output=True)
    try:
        shown = subprocess.run(["lsattr", "-d", str(kept)], check=False, capture_output=True, text=True)
        if flag not in shown.stdout.split(" ")[0]:
            pytest.skip("no file can be made immutable here")
        with looked_at(database) as (pair, look), pytest.raises(RollbackError) as raised:
            roll_back(Job.of(pair, look, busy_timeout_s=0.01))
        assert not isinstance(raised.value, BusyError)
        words = {
            "database": f"we may not write it (uid {os.geteuid()}): ",
            "journal": f"we may not write its journal (uid {os.geteuid()}): ",
            "directory": "the journal cannot be deleted: Operation not permitted; ",
        }[which]
        assert str(raised.value).startswith(words)
        assert f"it may be immutable or append-only (lsattr -d {kept} shows it, chattr -i -a {kept} takes" in str(
            raised.value
        )
    finally:
        subprocess.run(["chattr", "-i", "-a", str(kept)], check=True)
    assert rolled_back(database).found_something
    assert database.read_bytes() == crashed.recovered


_ROLL_BACK_AS = """
import os, pathlib, sys
from watcher.look import Looker
from watcher.rollback import Job, RollbackError, roll_back
from watcher.settings import TreeSettings
from watcher.tree import Place, Tree
looker = Looker(Tree(TreeSettings(root=pathlib.Path(sys.argv[1]))), max_journal_bytes=1 << 30)
if os.geteuid() == 0:  # now, since another user may not be able to load what is still missing
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
with looker.pair(Place("", "outbound.db")) as pair:
    try:
        print(roll_back(Job.of(pair, pair.look(), busy_timeout_s=0.01)))
    except RollbackError as error:
        print(type(error).__name__, error)
"""


def test_a_database_that_was_emptied_after_the_look_costs_no_journal(database: Path) -> None:
    """SQLite deletes a journal beside a database without a page, and has not read it (hasHotJournal of pager.c)."""
    with looked_at(database) as (pair, look):
        os.truncate(database, 0)
        with pytest.raises(RollbackError):
            roll_back(Job.of(pair, look, busy_timeout_s=0.01))
    assert journal_of(database).exists()


def test_no_other_file_is_seen_opened_or_deleted_through_the_view(database: Path, tree: Path) -> None:
    victim = tree / "victim.db"
    make_database(victim)
    with looked_at(database) as (pair, look):
        grant = narrow.Grant(pair.directory_fd, pair.path, pair.pinned_database, pair.pinned_journal)
        vfs = apsw.VFS("through", VFS)
        before = everything_in(tree)
        with through(grant):
            for other in (str(victim), "/etc/passwd", f"{grant.alias}-shm", f"/proc/self/fd/{pair.directory_fd}/x"):
                with pytest.raises(apsw.CantOpenError):
                    vfs.xAccess(other, apsw.SQLITE_ACCESS_EXISTS)
                for kind in (apsw.SQLITE_OPEN_MAIN_DB, apsw.SQLITE_OPEN_SUPER_JOURNAL, apsw.SQLITE_OPEN_TEMP_DB):
                    with pytest.raises(apsw.Error):
                        apsw.VFSFile(VFS, other, [kind | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, 0])
                with pytest.raises(apsw.IOError):
                    vfs.xDelete(other, False)
            with pytest.raises(apsw.IOError):
                vfs.xDelete(f"{grant.alias}-journal", False)  # it was never opened
            assert not vfs.xAccess(f"{grant.alias}-wal", apsw.SQLITE_ACCESS_EXISTS)
        assert look.database is not None
    assert everything_in(tree) == before


def test_a_journal_that_has_lost_its_name_is_not_opened(database: Path) -> None:
    """Its transaction was committed since SQLite has asked whether it is there."""
    with looked_at(database) as (pair, _):
        grant = narrow.Grant(pair.directory_fd, pair.path, pair.pinned_database, pair.pinned_journal)
        assert grant.sees(grant.names.journal)
        journal_of(database).unlink()
        with pytest.raises(PermissionError):
            grant.opens(grant.names.journal, os.O_RDWR)
        assert grant.was_replaced


def test_connections_that_open_and_close_in_many_threads_do_not_wait_for_each_other_for_ever(
    tree: Path, crashed: CrashedPair
) -> None:
    """apsw closes a connection with Python's lock in hand, and SQLite then takes a global one of its own."""
    script = [sys.executable, "-c", _ROLL_BACK_IN_THREADS, str(tree)]
    for number in range(200):
        (tree / str(number)).mkdir()
        crashed.put(tree / str(number) / "outbound.db")
    subprocess.run(script, check=True, timeout=60)
    assert not list(tree.glob("*/*-journal"))


_ROLL_BACK_IN_THREADS = """
import os, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from watcher.look import Looker
from watcher.rollback import Job, read_back, roll_back
from watcher.settings import TreeSettings
from watcher.tree import Place, Tree
looker = Looker(Tree(TreeSettings(root=pathlib.Path(sys.argv[1]))), max_journal_bytes=1 << 30)
def recover(directory):
    with looker.pair(Place(directory, "outbound.db")) as pair:
        look = pair.look()
        assert roll_back(Job.of(pair, look, busy_timeout_s=1.0)).found_something
        read_back(Job.of(pair, look, busy_timeout_s=0.0))
with ThreadPoolExecutor(8) as threads:
    list(threads.map(recover, os.listdir(sys.argv[1])))
"""


def test_an_ordinary_connection_of_this_process_is_as_it_always_was(tmp_path: Path) -> None:
    path = tmp_path / "ordinary.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x)")
    connection.close(True)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection(str(tmp_path / "none.db"), flags=apsw.SQLITE_OPEN_READWRITE)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_the_database_is_not_grown_beyond_what_was_granted(database: Path) -> None:
    with looked_at(database) as (pair, _):
        grant = narrow.Grant(pair.directory_fd, pair.path, pair.pinned_database, pair.pinned_journal, most_bytes=1000)
        with (
            pytest.raises(apsw.IOError),
            narrow.opened(grant, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s=0.0) as connection,
        ):
            connection.pragma("schema_version")
        assert grant.refused == "the rollback would grow the database beyond 1000 bytes"
    assert journal_of(database).exists()


def test_a_journal_that_grew_a_huge_initial_size_after_the_look_does_not_grow_the_database(
    database: Path,
) -> None:
    size = database.stat().st_size + journal_of(database).stat().st_size
    with looked_at(database) as (pair, look):
        with journal_of(database).open("r+b") as journal:
            journal.seek(INITIAL_PAGES)
            journal.write(b"\xff\xff\xff\xff")
        with pytest.raises(RollbackError, match=f"beyond {size} bytes"):
            roll_back(Job.of(pair, look, busy_timeout_s=0.01))
    assert database.stat().st_size <= size
    assert journal_of(database).exists()


class _Asked(narrow.Grant):
    """Counts what it is asked about writes.

    Args:
        at_first: called when it is asked for the first time.
    """

    def __init__(self, pair: Pair, at_first: Callable[[], object] = lambda: None) -> None:
        super().__init__(pair.directory_fd, pair.path, pair.pinned_database, pair.pinned_journal, most_bytes=1 << 30)
        self.asked = 0
        self._at_first = at_first

    def writes(self, descriptor: int, end: int) -> bool:
        self.asked += 1
        may_go_on = super().writes(descriptor, end)
        if self.asked == 1:
            self._at_first()
        return may_go_on


def roll_back_through(grant: narrow.Grant) -> int:
    narrow.read_version(grant, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s=0.0)
    assert grant.finished_journal
    assert grant.pages is not None
    assert grant.pages > 10
    return grant.pages


def test_each_rollback_is_asked_about_its_first_write_and_not_about_all(database: Path, crashed: CrashedPair) -> None:
    for _ in range(2):
        with looked_at(database) as (pair, _look):
            grant = _Asked(pair)
            roll_back_through(grant)
        assert 1 <= grant.asked <= 2  # the second: what it cuts off
        crashed.put(database)


def test_beside_another_thread_every_write_is_asked_about(database: Path, tree: Path, crashed: CrashedPair) -> None:
    """The system calls are the whole process's: what one has been allowed, the other has not."""
    other = tree / "other"
    other.mkdir()
    crashed.put(other / "outbound.db")
    is_there, may_end = threading.Event(), threading.Event()

    def look_through() -> None:
        with looked_at(other / "outbound.db") as (pair, _look), through(_Asked(pair)):
            is_there.set()
            assert may_end.wait(20)

    thread = threading.Thread(target=look_through)

    def begin() -> None:
        thread.start()
        assert is_there.wait(20)

    try:
        with looked_at(database) as (pair, _look):
            grant = _Asked(pair, at_first=begin)  # it comes when this one is at it already
            pages = roll_back_through(grant)
    finally:
        may_end.set()
        thread.join()
    assert grant.asked >= pages


def test_a_journal_keeps_its_owner_and_mode_whatever_the_databases_are(database: Path) -> None:
    """SQLite, run by root, gives a journal that it opens the owner of its database, and an empty one the mode."""
    if os.geteuid() != 0:
        pytest.skip("giving files to others wants root")
    os.chown(database, 1234, 1234)
    database.chmod(0o666)
    with looked_at(database) as (pair, look):
        grant = narrow.Grant(pair.directory_fd, pair.path, pair.pinned_database, pair.pinned_journal)
        with (
            pytest.raises(apsw.IOError),
            narrow.opened(grant, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s=0.0) as connection,
        ):
            connection.pragma("schema_version")
        assert look.journal is not None
    status = journal_of(database).stat()
    assert (status.st_uid, status.st_mode) == (0, look.journal.mode)


def test_a_journal_that_was_emptied_after_the_look_keeps_its_mode(database: Path) -> None:
    database.chmod(0o666)
    with looked_at(database) as (pair, look):
        os.truncate(journal_of(database), 0)
        assert not roll_back(Job.of(pair, look, busy_timeout_s=0.01)).found_something
    assert look.journal is not None
    assert journal_of(database).stat().st_mode == look.journal.mode


def test_nothing_is_left_open(database: Path, crashed: CrashedPair) -> None:
    rolled_back(database)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        crashed.put(database)
        rolled_back(database)
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_left_open_by_a_rollback_that_was_stopped(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(narrow.Grant, "writes", lambda grant, *_: grant.refuse("stopped"))
    with pytest.raises(RollbackError, match="stopped"):
        rolled_back(database)
    assert len(os.listdir("/proc/self/fd")) == before


# --- what others hear of it ---


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_who_watches_the_directory_hears_of_the_journal_only_that_it_is_gone(database: Path) -> None:
    from watcher.hints.inotify_events import In, Inotify

    with closing(Inotify()) as inotify:
        directory_fd = os.open(database.parent, os.O_RDONLY)
        inotify.watch(directory_fd, In.CLOSE_WRITE | In.DELETE | In.EXCL_UNLINK)
        os.close(directory_fd)
        rolled_back(database)
        heard = list(events_in(inotify.read()))
    assert heard == [(In.DELETE, journal_of(database).name), (In.CLOSE_WRITE, database.name)]


def events_in(gulp: bytes) -> Iterator[tuple[int, str]]:
    while gulp:
        _, mask, _, length = struct.unpack_from("=iIII", gulp)
        yield mask, os.fsdecode(gulp[16 : 16 + length].rstrip(b"\0"))
        gulp = gulp[16 + length :]
