"""The copies of pairs, made right before their rollbacks, in the state directory: what is kept, and what goes.

A snapshot is a directory that holds `database` and `database-journal`: SQLite can open it as it stands. Snapshots are
kept for the day when somebody doubts a recovery; the recovery itself is SQLite's own and safe without them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from watcher.look import Look, LookAgainError, Pair
from watcher.names import printable
from watcher.records.state_dir import StateDir, StateError
from watcher.settings import SnapshotSettings
from watcher.snapshot import InMemory, Snapshot, SnapshotError, SnapshotSkipped
from watcher.snapshot_files import Content, copy_file, read_file, write_file
from watcher.snapshot_index import CORRUPT, Index, Kept, Shelf
from watcher.tree import UnsafeError

__all__ = ["Snapshot", "SnapshotError", "SnapshotSkipped", "Snapshots"]

_FILES = ("database", "database-journal")
_IN_MEMORY_BYTES = 1 << 21
"""A database up to this size is copied to memory first, and to the disk when SQLite has finished."""
_FREE_SHARE = 0.05
_SESSION_SHARE = 0.25
_KEEP_CORRUPT = 3
_MOST_KEPT = 10_000
"""Of tiny pairs `max_total` holds so many that the inodes of the disk, and our memory, would be gone first."""
_OVERHEAD_BYTES = 16_384
"""What a snapshot takes on the disk beside its bytes: a directory, and two files that fill their last block in part."""
_UNFINISHED = ".unfinished"
_LEFT_BEHIND_S = 3600.0
"""An unfinished one that is older was left by a process that was killed."""


class Snapshots:
    """The snapshots of one installation. May be used by several threads; only this process prunes while it runs, and
    what another one (`recover`, by hand) adds or takes away meanwhile is met at the next start.

    They are kept by session: the directory that a layout names, or without one the topmost directory below the root,
    since a process that can make directories has as many below its own as it likes.

    Args:
        directory: where they are kept; it is made when the first one is.
    """

    def __init__(self, directory: Path, settings: SnapshotSettings) -> None:
        self._directory = os.fspath(directory)
        self._settings = settings
        self._in_memory = InMemory()
        self._lock = threading.Lock()
        self._kept: Index | None = None  # read from the disk at first use; guarded by _lock
        self._has_directory = False  # a second thread may make and check it once more
        self._count = 0  # distinguishes two snapshots of one millisecond; guarded by _lock

    def obstacle(self, look: Look) -> str | None:
        """Why the settings would allow no snapshot of this pair, whatever the disk holds; None where they do."""
        try:
            self._check_size(_size_bytes(look))
        except SnapshotSkipped as skipped:
            return str(skipped)
        return None

    def begin(self, pair: Pair, look: Look, *, at_once: bool, may_wait: bool = False) -> Snapshot:
        """Copy the pair, so that nothing which happens to it from now on is in the copy.

        Args:
            look: the pair's last.
            at_once: have it on the disk before this returns.
            may_wait: what is in memory may stay there when the pair is let go, beside hundreds of others.

        Raises:
            SnapshotSkipped: the settings allow none of its size.
            SnapshotError: the copy failed, or the disk would be too full; nothing of it is left.
        """
        assert look.database is not None
        if at_once or look.database.size_bytes > _IN_MEMORY_BYTES:
            return Snapshot(self, self._in_memory, pair, look, path=self.take(pair, look), database=b"")
        self._check_size(_size_bytes(look))
        try:
            database = read_file(pair.database_reader(), look.database.size_bytes, apart=may_wait)
        except (OSError, LookAgainError, UnsafeError) as error:
            raise self._failed(error) from error
        return Snapshot(self, self._in_memory, pair, look, path=None, database=database)

    def take(self, pair: Pair, look: Look, *, database: Content | None = None, journal_fd: int | None = None) -> str:
        """Copy the pair to the disk. No SQLite connection of this process is on its database.

        Args:
            look: the pair's last.
            database: what the database was, where it may have changed since that look.
            journal_fd: a descriptor of the journal, where the pair is held no more.

        Returns:
            The snapshot's path.

        Raises:
            SnapshotSkipped: the settings allow none of its size.
            SnapshotError: the copy failed, or the disk would be too full; nothing of it is left.
        """
        assert look.journal is not None
        assert look.database is not None
        self._check_size(_size_bytes(look))
        try:
            kept = self._begin(pair, _size_bytes(look) + _OVERHEAD_BYTES)
        except (OSError, StateError) as error:
            self._has_directory = False
            raise self._failed(error) from error
        try:
            copy = os.path.join(kept.path, "database")
            if database is None:
                copy_file(pair.database_reader(), copy, look.database.size_bytes)
            else:
                write_file(copy, database)
            journal = pair.pinned_journal.reader() if journal_fd is None else journal_fd
            copy_file(journal, os.path.join(kept.path, "database-journal"), look.journal.size_bytes)
            return self._finish(kept)
        except (OSError, LookAgainError, UnsafeError) as error:
            with self._lock:
                self._remove([kept])
            raise self._failed(error) from error

    def drop(self, path: str) -> None:
        """Forget a snapshot after which nothing was done."""
        with self._lock:
            kept = self._index().by_path.get(path)
            self._remove([] if kept is None else [kept])

    def keep_for_corrupt(self, path: str) -> str:
        """Let the snapshot of a database that came out corrupt outlive the others: the newest three of each database
        stay. Returns its new path.

        Raises:
            SnapshotError: it cannot be renamed.
        """
        with self._lock:
            try:
                os.rename(path, path + CORRUPT)
            except OSError as error:
                raise SnapshotError(f"{path}: {_words(error)}") from error
            kept = self._index().by_path.get(path)
            if kept is not None:
                self._index().rename(kept, path + CORRUPT)
            self._prune(os.path.dirname(path))
        return path + CORRUPT

    @staticmethod
    def begin_to_sync(path: str) -> None:
        """Have the system write a snapshot that :meth:`sync` comes for: several of which this is said before are in one
        transaction of the file system (three fifths of the CPU, measured on ext4). It promises nothing.
        """
        if sys.platform == "linux":  # where this advice begins to write what is dirty (mm/fadvise.c)
            for name in _FILES:
                with suppress(OSError):  # pruned meanwhile; or sync meets it
                    descriptor = os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(descriptor)

    @staticmethod
    def sync(path: str) -> None:
        """Put the snapshot on the disk. It may come after the recovery: until SQLite has finished, the journal is the
        copy that is safe.

        Raises:
            OSError: the disk fails.
        """
        for name in (*_FILES, "."):
            with suppress(FileNotFoundError):  # pruned meanwhile
                descriptor = os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _check_size(self, size_bytes: int) -> None:
        settings = self._settings
        if size_bytes > settings.max_size:
            raise SnapshotSkipped(f"{size_bytes} bytes are more than recovery.snapshot.max_size ({settings.max_size})")
        share = int(settings.max_total * _SESSION_SHARE)
        if size_bytes + _OVERHEAD_BYTES > share:
            raise SnapshotSkipped(
                f"{size_bytes} bytes are more than a quarter of recovery.snapshot.max_total ({share})"
            )

    def _begin(self, pair: Pair, size_bytes: int) -> Kept:
        """Make room for a new snapshot, and count it from now on."""
        place = pair.place
        parts = place.parts if pair.session else place.parts[:1]
        session = "/".join(parts)
        database = place.relative[len(session) :].lstrip("/")
        self._make_directory()
        with self._lock:
            home = os.path.join(self._directory, _slug(session or "."), _slug(database))
            self._make_room(size_bytes, os.path.dirname(home))
            self._count = (self._count + 1) % 1_000_000
            now = datetime.now(UTC).isoformat(timespec="microseconds")[: -len("+00:00")]
            stamp = f"{now.replace('-', '').replace(':', '')}-{os.getpid()}-{self._count:06d}"
            kept = Kept(os.path.join(home, stamp + _UNFINISHED), size_bytes, is_being_made=True)
            _make_private(kept.path, self._directory)
            self._index().add(kept)
        return kept

    def _make_directory(self) -> None:
        """The state directory is made, or checked to be ours alone, before the first copy of what is private."""
        if not self._has_directory:
            with StateDir.open(Path(self._directory).parent):
                _make_private(self._directory, os.path.dirname(self._directory))
            self._has_directory = True

    def _finish(self, kept: Kept) -> str:
        with self._lock:
            finished = kept.path.removesuffix(_UNFINISHED)
            os.rename(kept.path, finished)
            self._index().rename(kept, finished)
            kept.is_being_made = False
            self._prune(kept.database, spare=kept)
        return finished

    def _make_room(self, size_bytes: int, session: str) -> None:
        """Let the oldest go until the new one fits into `max_total`, and into the quarter of it which a session has."""
        index = self._index()
        most = self._settings.max_total
        of_session = index.of_session(session)
        self._shrink(of_session, int(most * _SESSION_SHARE) - size_bytes, int(_MOST_KEPT * _SESSION_SHARE) - 1)
        self._shrink(index.all, most - size_bytes, _MOST_KEPT - 1)
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize - size_bytes < disk.f_blocks * disk.f_frsize * _FREE_SHARE:
            raise OSError(errno.ENOSPC, f"less than {_FREE_SHARE:.0%} of the disk would stay free")

    def _shrink(self, among: Shelf, most_bytes: int, most: int) -> None:
        excess_bytes = among.size_bytes - most_bytes
        excess = len(among) - most
        victims = []
        if excess_bytes > 0 or excess > 0:
            for each in among.in_order_of_worth():
                if excess_bytes <= 0 and excess <= 0:
                    break
                victims.append(each)
                excess_bytes -= each.size_bytes
                excess -= 1
        self._remove(victims)

    def _prune(self, database: str, spare: Kept | None = None) -> None:
        """Leave the newest `keep` of a database, and the newest three of its corrupt ones.

        Args:
            spare: the one that was just made, which a clock that was set back makes look old.
        """
        of_it = list(self._index().of_database(database).in_order_of_worth())
        corrupt = [each for each in of_it if each.is_of_corrupt]
        others = [each for each in of_it if not each.is_of_corrupt]
        victims = corrupt[:-_KEEP_CORRUPT] + others[: max(0, len(others) - self._settings.keep)]
        self._remove([each for each in victims if each is not spare])

    def _remove(self, victims: list[Kept]) -> None:
        for each in victims:
            self._index().remove(each)
            shutil.rmtree(each.path, ignore_errors=True)
            for directory in (each.database, each.session):
                with suppress(OSError):  # it holds others
                    os.rmdir(directory)

    def _index(self) -> Index:
        """The snapshots there are; the caller holds the lock."""
        if self._kept is None:
            self._kept = Index()
            for each in sorted(self._on_disk(), key=lambda kept: os.path.basename(kept.path)):
                self._kept.add(each)
        return self._kept

    def _on_disk(self) -> Iterator[Kept]:
        for path in Path(self._directory).glob("*/*/*"):
            with suppress(OSError):  # another process of ours has just pruned it
                if path.name.endswith(_UNFINISHED) and time.time() - path.stat().st_mtime > _LEFT_BEHIND_S:
                    shutil.rmtree(path)
                    continue
                size_bytes = sum(file.stat().st_size for file in path.iterdir())
                yield Kept(os.fspath(path), size_bytes + _OVERHEAD_BYTES)

    def _failed(self, error: Exception) -> SnapshotError:
        return SnapshotError(f"no snapshot in {printable(self._directory)}: {_words(error)}")


def _size_bytes(look: Look) -> int:
    database_bytes = 0 if look.database is None else look.database.size_bytes
    return look.size_bytes + database_bytes


def _make_private(path: str, below: str) -> None:
    """Make a directory, and those on the way to it from `below`, for us alone."""
    with suppress(FileExistsError):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            above = os.path.dirname(path)
            if above == below:
                raise
            _make_private(above, below)
            os.mkdir(path, 0o700)


def _slug(name: str) -> str:
    """A directory name that a person recognises and no two names share, whatever the name holds."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60].lstrip('.') or '_'}-{digest}"


def _words(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
