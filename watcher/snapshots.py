"""Copies of a pair, made right before its rollback, in the state directory.

A snapshot is a directory that holds `database` and `database-journal`: SQLite can open it as it stands. Snapshots are
kept for the day when somebody doubts a recovery; the recovery itself is SQLite's own and safe without them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from watcher.look import Look, LookAgainError, Pair
from watcher.settings import SnapshotSettings
from watcher.tree import Gone, UnsafeError

__all__ = ["SnapshotError", "SnapshotSkipped", "Snapshots"]

_FICLONE = 0x40049409  # linux/fs.h: share the other file's extents, where the file system can
_CHUNK_BYTES = 1 << 20
_FREE_SHARE = 0.05
_SESSION_SHARE = 0.25
_KEEP_CORRUPT = 3
_CORRUPT = ".corrupt"


class SnapshotError(Exception):
    """The copy could not be made. The message says why, and where."""


class SnapshotSkipped(SnapshotError):  # noqa: N818 - a rule, not a failure
    """The settings, or the space that is left, allow no copy of this size."""


@dataclass(frozen=True, slots=True, order=True)
class _Kept:
    """A snapshot on the disk; they order by age."""

    stamp: str
    path: str
    size_bytes: int

    @property
    def database(self) -> str:
        return os.path.dirname(self.path)

    @property
    def session(self) -> str:
        return os.path.dirname(self.database)

    @property
    def is_of_corrupt(self) -> bool:
        return self.path.endswith(_CORRUPT)


class Snapshots:
    """The snapshots of one installation. May be used by several threads; only this process prunes while it runs, and
    what another one (`recover`, by hand) adds or takes away meanwhile is met at the next start.

    Args:
        directory: where they are kept; it is made when the first one is.
    """

    def __init__(self, directory: Path, settings: SnapshotSettings) -> None:
        self._directory = os.fspath(directory)
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: list[_Kept] | None = None  # oldest first; read from the disk at first use; guarded by _lock
        self._count = 0  # distinguishes two snapshots of one millisecond; guarded by _lock

    def obstacle(self, look: Look) -> str | None:
        """Why the settings would allow no snapshot of this pair, whatever the disk holds; None where they do."""
        database_bytes = 0 if look.database is None else look.database.size_bytes
        try:
            self._check_size(look.size_bytes + database_bytes)
        except SnapshotSkipped as skipped:
            return str(skipped)
        return None

    def take(self, pair: Pair, look: Look) -> str:
        """Copy the pair. No SQLite connection of this process is on its database.

        Returns:
            The snapshot's path.

        Raises:
            SnapshotSkipped: it is larger than `max_size`, or than what `max_total` and the disk leave.
            SnapshotError: the copy failed; nothing of it is left.
        """
        assert look.journal is not None
        assert look.database is not None
        size_bytes = look.journal.size_bytes + look.database.size_bytes
        self._check_size(size_bytes)
        with self._lock:
            self._count = (self._count + 1) % 1_000_000
            stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}-{self._count:06d}"
        home = os.path.join(self._directory, _slug(pair.place.directory or "."), _slug(pair.place.name))
        path = os.path.join(home, stamp)
        try:
            self._make_room(size_bytes, os.path.dirname(home))
            os.makedirs(path, mode=0o700)
            with pair.database_readable() as database:
                _copy(database, os.path.join(path, "database"), look.database.size_bytes)
            with pair.pinned_journal.readable() as journal:
                _copy(journal, os.path.join(path, "database-journal"), look.journal.size_bytes)
        except (OSError, Gone, LookAgainError, UnsafeError) as error:
            shutil.rmtree(path, ignore_errors=True)
            raise SnapshotError(f"no snapshot in {self._directory}: {_words(error)}") from error
        with self._lock:
            self._index().append(_Kept(stamp, path, size_bytes))
            self._prune(home)
        return path

    def drop(self, path: str) -> None:
        """Forget a snapshot after which nothing was done."""
        with self._lock:
            self._remove([each for each in self._index() if each.path == path])

    def keep_for_corrupt(self, path: str) -> str:
        """Let the snapshot of a database that came out corrupt outlive the others: the newest three of each database
        stay. Returns its new path.

        Raises:
            SnapshotError: it cannot be renamed.
        """
        with self._lock:
            try:
                os.rename(path, path + _CORRUPT)
            except OSError as error:
                raise SnapshotError(f"{path}: {_words(error)}") from error
            index = self._index()
            index[:] = [_Kept(e.stamp, e.path + _CORRUPT, e.size_bytes) if e.path == path else e for e in index]
            self._prune(os.path.dirname(path))
        return path + _CORRUPT

    @staticmethod
    def sync(path: str) -> None:
        """Put the snapshot on the disk. It may come after the recovery: until SQLite has finished, the journal is the
        copy that is safe.

        Raises:
            OSError: the disk fails.
        """
        for name in ("database", "database-journal", "."):
            with suppress(FileNotFoundError):  # pruned meanwhile
                descriptor = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _check_size(self, size_bytes: int) -> None:
        settings = self._settings
        if size_bytes > settings.max_size:
            raise SnapshotSkipped(f"{size_bytes} bytes are more than recovery.snapshot.max_size ({settings.max_size})")
        share = int(settings.max_total * _SESSION_SHARE)
        if size_bytes > share:
            raise SnapshotSkipped(
                f"{size_bytes} bytes are more than a quarter of recovery.snapshot.max_total ({share})"
            )

    def _make_room(self, size_bytes: int, session: str) -> None:
        """Let the oldest go until the new one fits into `max_total`, and into the quarter of it which a session has."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with self._lock:
            index = self._index()
            share = int(self._settings.max_total * _SESSION_SHARE)
            self._shrink([each for each in index if each.session == session], share - size_bytes)
            self._shrink(index, self._settings.max_total - size_bytes)
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize - size_bytes < disk.f_blocks * disk.f_frsize * _FREE_SHARE:
            raise OSError(errno.ENOSPC, f"less than {_FREE_SHARE:.0%} of the disk would stay free")

    def _shrink(self, among: list[_Kept], most_bytes: int) -> None:
        excess = sum(each.size_bytes for each in among) - most_bytes
        victims = []
        for each in sorted(among, key=lambda kept: (kept.is_of_corrupt, kept.stamp)):
            if excess <= 0:
                break
            victims.append(each)
            excess -= each.size_bytes
        self._remove(victims)

    def _prune(self, database: str) -> None:
        """Leave the newest `keep` of a database, and the newest three of its corrupt ones."""
        of_it = sorted(each for each in self._index() if each.database == database)
        corrupt = [each for each in of_it if each.is_of_corrupt]
        others = [each for each in of_it if not each.is_of_corrupt]
        self._remove(corrupt[:-_KEEP_CORRUPT] + others[: max(0, len(others) - self._settings.keep)])

    def _remove(self, victims: list[_Kept]) -> None:
        if not victims:
            return
        for each in victims:
            shutil.rmtree(each.path, ignore_errors=True)
            for directory in (each.database, each.session):
                with suppress(OSError):  # it holds others
                    os.rmdir(directory)
        gone = {each.path for each in victims}
        index = self._index()
        index[:] = [each for each in index if each.path not in gone]

    def _index(self) -> list[_Kept]:
        """The snapshots there are; the caller holds the lock."""
        if self._kept is None:
            self._kept = sorted(self._read_index())
        return self._kept

    def _read_index(self) -> list[_Kept]:
        found = []
        for path in Path(self._directory).glob("*/*/*"):
            with suppress(OSError):
                size_bytes = sum(file.stat().st_size for file in path.iterdir())
                found.append(_Kept(path.name, os.fspath(path), size_bytes))
        return found


def _slug(name: str) -> str:
    """A directory name that a person recognises and no two names share, whatever the name holds."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60].lstrip('.') or '_'}-{digest}"


def _words(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _copy(source: int, path: str, size_bytes: int) -> None:
    """Copy a file of this size into a new one, by sharing its extents where the file system can."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):
            fcntl.ioctl(target, _FICLONE, source)
            return
        offset = 0
        while offset < size_bytes:
            chunk = os.pread(source, min(_CHUNK_BYTES, size_bytes - offset), offset)
            if not chunk:
                raise LookAgainError("it became shorter while it was copied")
            view = memoryview(chunk)
            while view:
                written = os.pwrite(target, view, offset)
                view, offset = view[written:], offset + written
    finally:
        os.close(target)
