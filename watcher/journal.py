"""The rollback journal's format: header, trailer and state, from a descriptor and by bounded reads.

The facts are those of SQLite's file format ("The Rollback Journal", https://sqlite.org/fileformat2.html) and of its
pager (`readJournalHdr`, `readSuperJournal` and `hasHotJournal` in pager.c). Nothing here opens a path, asks for a lock
or knows whose the files are.
"""

from __future__ import annotations

import os
import struct
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "DATABASE_HEAD_BYTES",
    "EMPTY_DATABASE_BYTES",
    "Contents",
    "Header",
    "JournalState",
    "is_database",
    "read_contents",
    "state_of",
]

MAGIC = bytes.fromhex("d9d505f920a163d7")
DATABASE_MAGIC = b"SQLite format 3\x00"
DATABASE_HEAD_BYTES = 18
"""Of a database, what tells that it is one, and its page size."""
EMPTY_DATABASE_BYTES = 1
"""A database of no more bytes is empty for SQLite (`unixFileSize` in os_unix.c)."""
RECORDS_UNTIL_END = 0xFFFFFFFF
"""The record count of a journal that was written with `synchronous=OFF`: as many records as the file holds."""

_HEADER = struct.Struct(">8sIIIII")
_TRAILER = struct.Struct(">II8s")
_SMALLEST_HEADER_BYTES = 512
"""`JOURNAL_HDR_SZ` before a header is read (powersafe overwrite): in a shorter journal SQLite finds no header."""
_SECTOR_SIZES = frozenset(2**power for power in range(5, 17))
_PAGE_SIZES = frozenset(2**power for power in range(9, 17))
_DEFAULT_PAGE_BYTES = 4096
_LONGEST_SUPER_NAME_BYTES = 4096
"""More than any SQLite's `mxPathname`: a longer name is read by none."""


class JournalState(StrEnum):
    """What a journal is, from the bytes of the pair alone. What a lock says belongs to the owner's verdict."""

    EMPTY = "empty"
    ZEROED = "zeroed"
    HOT = "hot"
    MALFORMED = "malformed"
    SUPER = "super"
    FOREIGN = "foreign"
    ORPHAN = "orphan"
    UNSAFE = "unsafe"

    @property
    def is_cold(self) -> bool:
        """SQLite leaves such a journal alone, and so do we."""
        return self in {JournalState.EMPTY, JournalState.ZEROED}


class Header(NamedTuple):
    """The first header of a journal, as its writer left it; every number big-endian in the file.

    Attributes:
        records: page records that follow before the next header; 0xffffffff means until the end of the file.
        nonce: start value of the records' checksums.
        initial_pages: pages of the database before the transaction: the rollback gives it this size again.
        sector_bytes: size of the sector that the header fills.
        page_bytes: page size of the database; 0 (before SQLite 3.5.8) means that the database's own is meant.
    """

    records: int
    nonce: int
    initial_pages: int
    sector_bytes: int
    page_bytes: int

    def excessive_size(self, journal_bytes: int, database_bytes: int, database_head: bytes) -> int | None:
        """The size to which a rollback would grow the database, where that is more than both files hold; else None.

        Honest growth is a VACUUM to a smaller page size that was killed when it had cut the file: all that it cuts off
        is in its journal (`sqlite3_backup_step`). Every other transaction cuts the file after its journal is finished
        (`pager_end_transaction`). A last page that is torn is not filled up (`pager_truncate`).

        Args:
            journal_bytes, database_bytes: the files' sizes.
            database_head: the database's first 18 bytes, or all it has.
        """
        page_bytes = self.page_bytes or _page_bytes(database_head)
        initial_bytes = self.initial_pages * page_bytes
        grows = initial_bytes >= database_bytes + page_bytes
        return initial_bytes if grows and initial_bytes > database_bytes + journal_bytes else None

    def explained(self) -> dict[str, str]:
        """Each field with its value and meaning, for a person."""
        until_end = self.records == RECORDS_UNTIL_END
        return {
            "magic": f"{MAGIC.hex()}: a rollback journal",
            "records": "0xffffffff: as many as the file holds (synchronous=OFF)"
            if until_end
            else f"{self.records}: page records before the next header or the end",
            "nonce": f"{self.nonce:#010x}: start value of the records' checksums",
            "initial_pages": f"{self.initial_pages}: pages that the database had before the transaction",
            "sector_size": f"{self.sector_bytes}: bytes that this header fills",
            "page_size": f"{self.page_bytes}: bytes in a page of the database"
            if self.page_bytes
            else "0: the database's own page size (a writer before SQLite 3.5.8)",
        }

    def as_json(self) -> dict[str, object]:
        """The `header` object of `explain`."""
        return {
            "magic": MAGIC.hex(),
            "records": self.records,
            "nonce": self.nonce,
            "initial_pages": self.initial_pages,
            "sector_size": self.sector_bytes,
            "page_size": self.page_bytes,
        }


class Contents(NamedTuple):
    """What a journal's bytes say.

    Attributes:
        size_bytes: of the file, when it was read.
        first_byte: None where the file is empty (or has just become so).
        header: None where there is no valid one.
        super_journal: name of the super-journal in the trailer, as its writer spelled it (undecodable bytes as
            surrogates); None where there is none.
    """

    size_bytes: int
    first_byte: int | None
    header: Header | None
    super_journal: str | None


def read_contents(descriptor: int, size_bytes: int) -> Contents:
    """Read a journal's header and trailer: at most 28 bytes at its start and 4,112 at its end.

    A live writer may truncate or rewrite the file between two of our reads: what is missing is then not there, and the
    caller, who looks again before it acts, meets the new file.

    Args:
        descriptor: open for reading, of a plain file; its position is not used.
        size_bytes: the file's size.

    Raises:
        OSError: the file system cannot read.
    """
    head = os.pread(descriptor, _HEADER.size, 0)
    first_byte = head[0] if head else None
    super_journal = _read_super_journal(descriptor, size_bytes) if first_byte else None
    return Contents(size_bytes, first_byte, _parse_header(head, size_bytes), super_journal)


def _parse_header(head: bytes, size_bytes: int) -> Header | None:
    """The header if SQLite would accept it (`readJournalHdr`)."""
    if len(head) < _HEADER.size or size_bytes < _SMALLEST_HEADER_BYTES:
        return None
    magic, records, nonce, initial_pages, sector_bytes, page_bytes = _HEADER.unpack(head)
    if magic != MAGIC or sector_bytes not in _SECTOR_SIZES:
        return None
    if page_bytes and page_bytes not in _PAGE_SIZES:
        return None
    return Header(records, nonce, initial_pages, sector_bytes, page_bytes)


def _read_super_journal(descriptor: int, size_bytes: int) -> str | None:
    """The super-journal's name if SQLite would read one (`readSuperJournal`): name, its length, its sum, the magic.

    The sum is over C's `char`, signed on some machines and unsigned on others: a name counts if either fits, since the
    file may be opened anywhere.
    """
    if size_bytes < _TRAILER.size:
        return None
    trailer = os.pread(descriptor, _TRAILER.size, size_bytes - _TRAILER.size)
    if len(trailer) < _TRAILER.size:
        return None
    length, checksum, magic = _TRAILER.unpack(trailer)
    if magic != MAGIC or not 0 < length <= min(size_bytes - _TRAILER.size, _LONGEST_SUPER_NAME_BYTES):
        return None
    name = os.pread(descriptor, length, size_bytes - _TRAILER.size - length)
    unsigned = sum(name)
    signed = unsigned - 256 * sum(byte >= 0x80 for byte in name)
    if len(name) < length or checksum not in {unsigned & 0xFFFFFFFF, signed & 0xFFFFFFFF}:
        return None
    spelled = name.partition(b"\0")[0]
    return os.fsdecode(spelled) if spelled else None


def _page_bytes(database_head: bytes) -> int:
    """The page size that SQLite takes from a database's header, before it has read a journal (`sqlite3BtreeOpen`)."""
    if len(database_head) >= 18:
        told = int.from_bytes(database_head[16:18], "big")
        page_bytes = 65536 if told == 1 else told
        if page_bytes in _PAGE_SIZES:
            return page_bytes
    return _DEFAULT_PAGE_BYTES


def is_database(head: bytes, contents: Contents) -> bool:
    """Whether the file beside the journal is an SQLite 3 database.

    It is when it is empty, when it begins as one, or when it begins with zeros beside a journal that counts no initial
    pages: a new database, killed in its first spilled transaction (page 1 is never spilled before the commit).

    Args:
        head: the file's first 18 bytes, or all it has.
        contents: what the journal says.
    """
    if len(head) <= EMPTY_DATABASE_BYTES or head.startswith(DATABASE_MAGIC):
        return True
    new = contents.header is not None and contents.header.initial_pages == 0
    return new and head.startswith(bytes(len(DATABASE_MAGIC)))


def state_of(contents: Contents, database_head: bytes | None) -> JournalState:
    """The state of a pair of plain files.

    Args:
        contents: what the journal says.
        database_head: the database's first 18 bytes (or all it has); None where there is no such file.
    """
    if not contents.first_byte:
        return JournalState.EMPTY if contents.first_byte is None else JournalState.ZEROED
    if database_head is None:
        return JournalState.ORPHAN
    if not is_database(database_head, contents):
        return JournalState.FOREIGN
    if contents.super_journal is not None:
        return JournalState.SUPER
    return JournalState.HOT if contents.header is not None else JournalState.MALFORMED
