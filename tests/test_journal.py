"""The journal's format, on real journals that real transactions left when they were killed, and on changed ones."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pairs import (
    INITIAL_PAGES,
    MAGIC,
    PAGE_SIZE,
    RECORDS,
    SECTOR_SIZE,
    Bytes,
    Shape,
    left_by_sqlite,
    look_at,
    super_trailer,
)
from tests.writers import journal_of
from watcher.journal import Contents, JournalState, is_database, read_contents, state_of

PAGE_SIZES = [512 << power for power in range(8)]


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Bytes:
    path = tmp_path_factory.mktemp("hot") / "outbound.db"
    Shape().crash(path)
    return Bytes.of(path)


def contents_of(journal: bytes, tmp_path: Path) -> Contents:
    path = tmp_path / "some-journal"
    path.write_bytes(journal)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_contents(descriptor, len(journal))
    finally:
        os.close(descriptor)


def poll(path: Path) -> str:
    """What a host's read-only poll gets: `ok`, or the name of its error."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except sqlite3.Error as error:
        return error.sqlite_errorname
    return "ok"


@pytest.mark.parametrize("sector_size", [0, 512, 4096, 65536])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_journal_of_a_killed_transaction_is_hot_and_says_what_its_writer_knew(
    tmp_path: Path, page_size: int, sector_size: int
) -> None:
    path = tmp_path / "outbound.db"
    Shape(page_size=page_size, sector_size=sector_size, rows=300).crash(path)
    look = look_at(path)
    assert look.state is JournalState.HOT, look.detail
    assert look.contents is not None
    header = look.contents.header
    assert header is not None
    assert header.page_bytes == page_size
    assert header.sector_bytes == (sector_size or 512)
    assert 0 < header.initial_pages * page_size <= path.stat().st_size
    assert poll(path) == "SQLITE_READONLY_ROLLBACK"


@pytest.mark.parametrize("synchronous", ["off", "normal", "full", "extra"])
@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist"])
def test_every_journal_mode_and_synchronicity_leaves_a_hot_one(
    tmp_path: Path, journal_mode: str, synchronous: str
) -> None:
    path = tmp_path / "outbound.db"
    Shape(journal_mode=journal_mode, synchronous=synchronous).crash(path)
    look = look_at(path)
    assert look.state is JournalState.HOT, look.detail
    assert look.contents is not None
    header = look.contents.header
    assert header is not None
    assert (header.records == 0xFFFFFFFF) == (synchronous == "off")
    assert poll(path) == "SQLITE_READONLY_ROLLBACK"


@pytest.mark.parametrize("mode", ["truncate", "persist"])
def test_what_a_finished_transaction_leaves_is_cold(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "outbound.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE t (x)")
    look = look_at(path)
    assert look.state is (JournalState.EMPTY if mode == "truncate" else JournalState.ZEROED)
    assert look.state.is_cold
    assert poll(path) == "ok"


def test_a_transaction_that_has_not_spilled_is_cold_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "outbound.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        assert look_at(path).state is JournalState.ZEROED


def test_a_persisted_journal_far_larger_than_its_header_explains_is_honest(tmp_path: Path) -> None:
    path = tmp_path / "outbound.db"
    Shape(
        journal_mode="persist",
        rows=2000,
        before=("UPDATE t SET body = randomblob(900)", "DELETE FROM t WHERE id > 5", "VACUUM"),
        during=("UPDATE t SET body = randomblob(900)", "CREATE TABLE more AS SELECT * FROM t, t AS u, t AS v"),
    ).crash(path)
    look = look_at(path)
    assert look.state is JournalState.HOT, look.detail
    assert look.database is not None
    assert look.size_bytes > 10 * look.database.size_bytes


def test_a_vacuum_killed_after_it_has_cut_the_file_grows_the_database_again(tmp_path: Path) -> None:
    path = tmp_path / "outbound.db"
    smaller_pages = ("DELETE FROM t WHERE id > 10", "PRAGMA page_size = 512", "VACUUM")
    Shape(page_size=4096, during=smaller_pages, at_commit=True).crash(path)
    pair = Bytes.of(path)
    look = look_at(path)
    assert look.state is JournalState.HOT, look.detail
    left = left_by_sqlite(pair, tmp_path)
    assert left.journal is None
    assert left.database is not None
    assert len(left.database) > 10 * len(pair.database)


def test_a_torn_last_page_is_not_filled_up_and_so_is_no_growth(hot: Bytes, tmp_path: Path) -> None:
    header_alone = hot.journal[:512]
    initial_pages = int.from_bytes(hot.journal[INITIAL_PAGES : INITIAL_PAGES + 4], "big")
    torn = Bytes(hot.database[: initial_pages * 1024 - 1000], header_alone)
    look = look_at(torn.put(tmp_path / "torn.db"))
    assert look.state is JournalState.HOT, look.detail
    assert left_by_sqlite(torn, tmp_path).database == torn.database


@pytest.mark.parametrize("initial_pages", [2**32 - 1, 2**31, 100_000])
def test_a_journal_that_would_grow_the_database_beyond_both_files_is_unsafe(
    hot: Bytes, tmp_path: Path, initial_pages: int
) -> None:
    look = look_at(hot.with_journal_field(INITIAL_PAGES, initial_pages).put(tmp_path / "outbound.db"))
    assert look.state is JournalState.UNSAFE
    assert f"to {initial_pages * 1024} bytes, more than both files hold" in look.detail


def test_a_journal_without_a_page_size_is_measured_by_the_databases_own(hot: Bytes, tmp_path: Path) -> None:
    before_3_5_8 = hot.with_journal_field(PAGE_SIZE, 0)
    assert look_at(before_3_5_8.put(tmp_path / "old.db")).state is JournalState.HOT
    assert left_by_sqlite(before_3_5_8, tmp_path) == left_by_sqlite(hot, tmp_path)
    absurd = before_3_5_8.with_journal_field(INITIAL_PAGES, 2**32 - 1)
    look = look_at(absurd.put(tmp_path / "absurd.db"))
    assert look.state is JournalState.UNSAFE
    assert str((2**32 - 1) * 1024) in look.detail


@pytest.mark.parametrize("records", [0, 1, 2**31, 2**32 - 1])
def test_an_absurd_record_count_is_hot_and_harmless(hot: Bytes, tmp_path: Path, records: int) -> None:
    pair = hot.with_journal_field(RECORDS, records)
    assert look_at(pair.put(tmp_path / "outbound.db")).state is JournalState.HOT
    left = left_by_sqlite(pair, tmp_path)
    assert left.journal is None
    assert left.database is not None
    assert len(left.database) <= len(pair.database)


@pytest.mark.parametrize(
    ("offset", "number"),
    [
        (0, 0xD9D505F8),
        (4, 0x20A163D8),
        (SECTOR_SIZE, 0),
        (SECTOR_SIZE, 31),
        (SECTOR_SIZE, 33),
        (SECTOR_SIZE, 131072),
        (SECTOR_SIZE, 2**32 - 1),
        (PAGE_SIZE, 256),
        (PAGE_SIZE, 1000),
        (PAGE_SIZE, 131072),
    ],
)
def test_a_header_that_sqlite_would_not_accept_is_malformed_and_sqlite_deletes_it(
    hot: Bytes, tmp_path: Path, offset: int, number: int
) -> None:
    pair = hot.with_journal_field(offset, number)
    assert look_at(pair.put(tmp_path / "outbound.db")).state is JournalState.MALFORMED
    left = left_by_sqlite(pair, tmp_path)
    assert left.journal is None
    assert left.database == pair.database


@pytest.mark.parametrize("sector_size", [32, 64, 1024, 65536])
def test_a_header_with_another_power_of_two_is_accepted(hot: Bytes, tmp_path: Path, sector_size: int) -> None:
    pair = hot.with_journal_field(SECTOR_SIZE, sector_size)
    assert look_at(pair.put(tmp_path / "outbound.db")).state is JournalState.HOT


@pytest.mark.parametrize(("size", "state"), [(512, JournalState.HOT), (511, JournalState.MALFORMED), (1, "malformed")])
def test_a_journal_shorter_than_a_sector_has_no_header(hot: Bytes, tmp_path: Path, size: int, state: str) -> None:
    pair = replace(hot, journal=hot.journal[:size])
    assert look_at(pair.put(tmp_path / "outbound.db")).state == state
    assert left_by_sqlite(pair, tmp_path).journal is None


def test_a_super_journals_name_is_read_as_sqlite_reads_it(hot: Bytes, tmp_path: Path) -> None:
    name = b"/etc/passwd"
    assert contents_of(hot.journal + super_trailer(name), tmp_path).super_journal == "/etc/passwd"
    cut = contents_of(hot.journal + super_trailer(b"/etc/passwd\0beyond"), tmp_path)
    assert cut.super_journal == "/etc/passwd"
    assert contents_of(hot.journal + super_trailer(b"\0hidden"), tmp_path).super_journal is None
    assert contents_of(hot.journal + super_trailer(b"x" * 4096), tmp_path).super_journal == "x" * 4096
    assert contents_of(hot.journal + super_trailer(b"x" * 4097), tmp_path).super_journal is None


def test_a_super_journals_name_counts_with_signed_and_unsigned_characters(hot: Bytes, tmp_path: Path) -> None:
    name = b"/srv/\xff\xfe"
    unsigned = hot.journal + super_trailer(name)
    signed_sum = (sum(name) - 256 * 2) & 0xFFFFFFFF
    signed = unsigned[:-12] + signed_sum.to_bytes(4, "big") + MAGIC
    for journal in (unsigned, signed):
        assert contents_of(journal, tmp_path).super_journal == os.fsdecode(name)


def test_a_super_journals_name_with_a_wrong_sum_length_or_magic_is_none(hot: Bytes, tmp_path: Path) -> None:
    good = super_trailer(b"/etc/passwd")
    for bad in (
        good[:-1] + b"x",
        good[:-12] + bytes(4) + MAGIC,
        good[:-16] + (2**32 - 1).to_bytes(4, "big") + good[-12:],
        good[:-16] + bytes(4) + good[-12:],
    ):
        assert contents_of(hot.journal + bad, tmp_path).super_journal is None


def test_reading_a_journal_that_shrinks_meanwhile_tells_less_and_raises_nothing(hot: Bytes, tmp_path: Path) -> None:
    path = tmp_path / "some-journal"
    path.write_bytes(hot.journal + super_trailer(b"/etc/passwd"))
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for left in (40, 10, 0):
            os.truncate(path, left)
            contents = read_contents(descriptor, size)
            assert contents.super_journal is None
            assert (contents.header is not None) == (left == 40)
            assert (contents.first_byte is None) == (left == 0)
    finally:
        os.close(descriptor)


def test_reading_takes_no_more_of_an_endless_journal_than_of_a_short_one(tmp_path: Path) -> None:
    path = tmp_path / "some-journal"
    path.write_bytes(MAGIC + b"\xff" * 600)
    os.truncate(path, 1 << 42)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        before = _bytes_read()
        read_contents(descriptor, 1 << 42)
        assert _bytes_read() - before < 10_000
    finally:
        os.close(descriptor)


def _bytes_read() -> int:
    told = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text(encoding="ascii").splitlines())
    return int(told["rchar"])


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_a_new_database_killed_in_its_first_transaction_begins_with_zeros_and_is_hot(
    tmp_path: Path, page_size: int, mode: str
) -> None:
    path = tmp_path / "outbound.db"
    Shape(
        page_size=page_size,
        journal_mode=mode,
        rows=0,
        during=(
            "CREATE TABLE t (x)",
            "CREATE TABLE u (body)",
            *(f"INSERT INTO u VALUES (randomblob({page_size}))" for _ in range(50)),
        ),
    ).crash(path)
    assert path.read_bytes()[:16] == bytes(16)
    look = look_at(path)
    assert look.state is JournalState.HOT, look.detail
    assert look.contents is not None
    assert look.contents.header is not None
    assert look.contents.header.initial_pages == 0
    assert left_by_sqlite(Bytes.of(path), tmp_path).database == b""


def test_a_file_of_zeros_counts_as_a_database_only_beside_a_journal_that_says_so(hot: Bytes, tmp_path: Path) -> None:
    zeros = replace(hot, database=bytes(4096))
    assert look_at(zeros.put(tmp_path / "zeros.db")).state is JournalState.FOREIGN
    new = zeros.with_journal_field(INITIAL_PAGES, 0)
    assert look_at(new.put(tmp_path / "new.db")).state is JournalState.HOT
    broken = new.with_journal_field(SECTOR_SIZE, 7)
    assert look_at(broken.put(tmp_path / "broken.db")).state is JournalState.FOREIGN


@pytest.mark.parametrize("head", [b"SQ", b"SQLite format 2\0", b"SQLite format 3", b"\0" * 15, b"Dear diary, today"])
def test_what_does_not_begin_as_a_database_is_none(hot: Bytes, tmp_path: Path, head: bytes) -> None:
    contents = contents_of(hot.journal, tmp_path)
    assert not is_database(head[:18], contents)
    assert state_of(contents, head[:18]) is JournalState.FOREIGN


def test_a_journal_without_a_database_is_an_orphan_unless_it_is_cold(hot: Bytes, tmp_path: Path) -> None:
    assert state_of(contents_of(hot.journal, tmp_path), None) is JournalState.ORPHAN
    assert state_of(contents_of(b"", tmp_path), None) is JournalState.EMPTY
    assert state_of(contents_of(bytes(600), tmp_path), None) is JournalState.ZEROED


def test_beside_a_database_of_zero_bytes_nobody_is_blocked(hot: Bytes, tmp_path: Path) -> None:
    path = replace(hot, database=b"").put(tmp_path / "outbound.db")
    assert look_at(path).blocks_nobody
    assert poll(path) == "ok"
    assert journal_of(path).exists()


def test_the_header_is_explained_field_by_field(hot: Bytes, tmp_path: Path) -> None:
    header = contents_of(hot.journal, tmp_path).header
    assert header is not None
    told = header.explained()
    assert (
        set(told)
        == set(header.as_json())
        == {
            "magic",
            "records",
            "nonce",
            "initial_pages",
            "sector_size",
            "page_size",
        }
    )
    assert told["page_size"].startswith("1024: ")
    until_end = contents_of(hot.with_journal_field(RECORDS, 0xFFFFFFFF).journal, tmp_path).header
    assert until_end is not None
    assert "as many as the file holds" in until_end.explained()["records"]
    old = contents_of(hot.with_journal_field(PAGE_SIZE, 0).journal, tmp_path).header
    assert old is not None
    assert "the database's own" in old.explained()["page_size"]
