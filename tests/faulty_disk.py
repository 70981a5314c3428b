"""A disk that fails SQLite at a chosen call, or loses its power there, in this process.

The files are real, and so is SQLite: between its pager and the unix VFS each call is counted, and one of them fails.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.crashlab.sessions import Bytes
from tests.writers import journal_of
from watcher import narrow
from watcher.unix_vfs import VFS

_SECTOR_BYTES = 512


class Call(StrEnum):
    """What SQLite asks of a disk. It syncs no directory after a rollback (`pager_end_transaction`, without
    `synchronous=EXTRA`), so a deletion may be undone by a power cut."""

    READ = "read"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    SIZE = "size"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was written and not synced: it may be on the disk after a power cut, or not, or in part."""

    call: Call
    offset: int = 0
    data: bytes = b""


class _Disk:
    """Both files as they would be after a power cut, and what is under way to them."""

    def __init__(self, left: Bytes) -> None:
        self.durable = {False: left.database, True: left.journal}  # by whether it is the journal
        self.pending: dict[bool, list[Change]] = {False: [], True: []}

    def sync(self, *, is_journal: bool) -> None:
        for change in self.pending[is_journal]:
            self.durable[is_journal] = _applied(self.durable[is_journal], change)
        self.pending[is_journal].clear()

    def after_power_cut(self, chance: random.Random) -> Bytes:
        """One of the states that a disk may be in after a power cut: a file system orders nothing but by its syncs."""
        states = dict(self.durable)
        for is_journal, changes in self.pending.items():
            for change in changes:
                survives = chance.choice((change, _torn(change, chance), None))
                if survives is not None:
                    states[is_journal] = _applied(states[is_journal], survives)
        return Bytes(states[False], states[True])


class FaultyDisk:
    """Counts the calls that come for one pair, and makes them fail as planned.

    Attributes:
        trace: each call that was let through, and whether it was for the journal.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self.trace: list[tuple[Call, bool]] = []
        self._counts: Counter[Call] = Counter()
        self._fails: tuple[Call, int] | None = None
        self._dies_at: int | None = None
        self.disk = _Disk(Bytes.of(database))

    def fail(self, call: Call, number: int) -> None:
        """Let the `number`-th call of this kind (from 0) fail, and no other."""
        self._fails = (call, number)

    def cut_power(self, at: int) -> None:
        """Let the call of this number, and each after it, fail."""
        self._dies_at = at

    def arrive(self, call: Call, change: Change | None, *, is_journal: bool) -> None:
        """A call has come.

        Raises:
            apsw.IOError: it fails.
        """
        number = self._counts[call]
        self._counts[call] += 1
        if self._dies_at is not None and len(self.trace) >= self._dies_at:
            raise apsw.IOError("the power is cut")
        if self._fails == (call, number):
            raise apsw.IOError(f"{call} {number} fails")
        self.trace.append((call, is_journal))
        if call is Call.SYNC:
            self.disk.sync(is_journal=is_journal)
        elif change is not None:
            self.disk.pending[is_journal].append(change)

    def is_journal(self, name: str, directory_fd: int | None) -> bool:
        """Whether a deletion is that of the journal."""
        return name == journal_of(self._database).name and directory_fd is not None


@contextmanager
def faulty_disk(database: Path) -> Iterator[FaultyDisk]:
    """Between SQLite and the disk of this database, in this process, inside this block."""
    faulty = FaultyDisk(database)

    class File(apsw.VFSFile):
        """A file of the unix VFS, each call of which is told first."""

        def __init__(self, vfs: str, name: Any, flags: list[int]) -> None:
            super().__init__(vfs, name, flags)
            self._is_journal = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL)

        def _arrive(self, call: Call, change: Change | None = None) -> None:
            faulty.arrive(call, change, is_journal=self._is_journal)

        def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name, like the following
            self._arrive(Call.READ)
            return super().xRead(amount, offset)

        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
            self._arrive(Call.WRITE, Change(Call.WRITE, offset, bytes(data)))
            super().xWrite(data, offset)

        def xTruncate(self, size: int) -> None:  # noqa: N802
            self._arrive(Call.TRUNCATE, Change(Call.TRUNCATE, size))
            super().xTruncate(size)

        def xSync(self, flags: int) -> None:  # noqa: N802
            self._arrive(Call.SYNC)
            super().xSync(flags)

        def xFileSize(self) -> int:  # noqa: N802
            self._arrive(Call.SIZE)
            return super().xFileSize()

    unlink = os.unlink

    def delete(name: Any, *, dir_fd: int | None = None) -> None:
        if faulty.is_journal(name, dir_fd):
            try:
                faulty.arrive(Call.DELETE, Change(Call.DELETE), is_journal=True)
            except apsw.IOError as error:
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        unlink(name, dir_fd=dir_fd)

    view = VFS

    class Shim(apsw.VFS):
        """Between SQLite and its unix VFS."""

        def __init__(self) -> None:
            super().__init__("faulty-disk", view)

        def xOpen(self, name: Any, flags: list[int]) -> File:  # noqa: N802
            return File(view, name, flags)

    shim = Shim()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "VFS", "faulty-disk")
        patch.setattr(os, "unlink", delete)
        yield faulty
    shim.unregister()


def _applied(content: bytes | None, change: Change) -> bytes | None:
    if content is None or change.call is Call.DELETE:
        return None
    if change.call is Call.TRUNCATE:
        return content[: change.offset].ljust(change.offset, b"\0")
    return (
        content[: change.offset].ljust(change.offset, b"\0") + change.data + content[change.offset + len(change.data) :]
    )


def _torn(change: Change, chance: random.Random) -> Change:
    """A write of which only the first sectors have arrived."""
    sectors = len(change.data) // _SECTOR_BYTES
    if change.call is not Call.WRITE or sectors < 2:
        return change
    return Change(change.call, change.offset, change.data[: _SECTOR_BYTES * chance.randrange(1, sectors)])
