"""The file of the history: how it is made, opened and moved away, and what may be wrong with it."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import apsw

from watcher.advice import remedy_of_machine
from watcher.denials import remedy_for_ours
from watcher.names import printable
from watcher.records.state_dir import StateError

__all__ = ["HistoryError", "Trouble", "connection", "make_file", "set_aside"]

_BUSY_TIMEOUT_MS = 1000
_SET_ASIDE_KEPT = 3
_EFFECTIVE = os.access in os.supports_effective_ids


class Trouble(StrEnum):
    """What is wrong with a history."""

    CORRUPT = "corrupt"
    LOCKED = "locked"
    HALF_WRITTEN = "half_written"
    NO_ACCESS = "no_access"
    FULL = "full"
    NEWER = "newer"
    FOREIGN = "foreign"
    BROKEN = "broken"


_REMEDIES = {
    Trouble.CORRUPT: "move it away, and a new one is begun",
    Trouble.LOCKED: "close the program that has it open",
    Trouble.HALF_WRITTEN: "start the service, or run this as the user that the service runs as",
    Trouble.NO_ACCESS: "see to the rights of its directory, or run as the user that the service runs as",
    Trouble.FULL: "free some space there",
    Trouble.NEWER: "upgrade journal-watcher, or set another state_dir",
    Trouble.FOREIGN: "move it away, or set another state_dir",
    Trouble.BROKEN: "see to that file system",
}
_TROUBLES = {
    apsw.SQLITE_CORRUPT: Trouble.CORRUPT,
    apsw.SQLITE_NOTADB: Trouble.CORRUPT,
    apsw.SQLITE_BUSY: Trouble.LOCKED,
    apsw.SQLITE_LOCKED: Trouble.LOCKED,
    apsw.SQLITE_FULL: Trouble.FULL,
    apsw.SQLITE_READONLY: Trouble.NO_ACCESS,
    apsw.SQLITE_CANTOPEN: Trouble.NO_ACCESS,
    apsw.SQLITE_PERM: Trouble.NO_ACCESS,
}


class HistoryError(StateError):
    """The history cannot be read or written. The message names the path and the remedy.

    Attributes:
        trouble: what is wrong, for the caller to decide what follows.
    """

    def __init__(self, path: Path, trouble: Trouble, what: str, remedy: str | None = None) -> None:
        self.trouble = trouble
        super().__init__(f"the history {printable(path)} {what}; {remedy or _REMEDIES[trouble]}")


@contextmanager
def connection(path: Path, access: int) -> Iterator[apsw.Connection]:
    """A connection to the history; closing it rolls back what was not committed.

    Args:
        path: of the database, which is there.
        access: `apsw.SQLITE_OPEN_READONLY` or `apsw.SQLITE_OPEN_READWRITE`.

    Raises:
        HistoryError: for every error of SQLite or of the file, inside the block too.
    """
    opened: apsw.Connection | None = None
    try:
        # NOFOLLOW refuses a symlink anywhere in the path, and the state directory may rightly be reached by one.
        where = os.path.join(os.path.realpath(path.parent, strict=True), path.name)
        if not stat.S_ISREG(os.lstat(where).st_mode):  # SQLite would wait for the writer of a FIFO
            raise HistoryError(path, Trouble.FOREIGN, "is no plain file")
        opened = apsw.Connection(where, flags=access | apsw.SQLITE_OPEN_NOFOLLOW)
        opened.set_busy_timeout(_BUSY_TIMEOUT_MS)
        opened.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        opened.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        opened.pragma("cell_size_check", 1)
        yield opened
    except apsw.Error as error:
        raise _of_sqlite(path, error, 0 if opened is None else opened.system_errno) from error
    except OSError as error:
        raise _of_system(path, "cannot be opened", error) from error
    except UnicodeError as error:
        raise HistoryError(path, Trouble.BROKEN, "has a path or texts that are no UTF-8") from error
    except json.JSONDecodeError as error:
        raise HistoryError(path, Trouble.CORRUPT, "holds entries that are none") from error
    finally:
        if opened is not None:
            opened.close()


def make_file(path: Path) -> None:
    """Make an empty history (0600) where there is none.

    Raises:
        HistoryError: it cannot be made.
    """
    # Only a file that is not there is opened here: closing a descriptor of one that is would drop the locks that
    # another connection of this process holds on it.
    if os.path.lexists(path):
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        raise _of_system(path, "cannot be made", error) from error


def set_aside(path: Path) -> Path:
    """Move a history out of the way (`history.db.corrupt-20261124T083137Z`). Of those moved away the newest three stay.

    Raises:
        HistoryError: it cannot be moved.
    """
    stem = f"{path.name}.corrupt-"
    aside = path.with_name(f"{stem}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    try:
        # The journal first: left behind, it could be rolled back into the new history.
        for suffix in ("-journal", ""):
            if os.path.lexists(f"{path}{suffix}"):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        earlier = sorted(each for each in path.parent.iterdir() if each.name.startswith(stem) and each.name[-1] == "Z")
        for each in earlier[:-_SET_ASIDE_KEPT]:
            Path(f"{each}-journal").unlink(missing_ok=True)
            each.unlink()
    except OSError as error:
        raise _of_system(path, "is damaged and cannot be moved away", error) from error
    return aside


def extended_code(error: BaseException | None) -> int:
    """SQLite's extended result code of an error of apsw; 0 of any other."""
    return int(getattr(error, "extendedresult", 0))


def _of_sqlite(path: Path, error: apsw.Error, system_errno: int) -> HistoryError:
    code = extended_code(error)
    if code == apsw.SQLITE_READONLY_ROLLBACK:
        return HistoryError(
            path, Trouble.HALF_WRITTEN, "was left in the middle of a write by a service that was killed"
        )
    trouble = _TROUBLES.get(code & 0xFF, Trouble.BROKEN)
    why = str(error)
    if trouble in (Trouble.NO_ACCESS, Trouble.BROKEN):
        # Where a journal cannot be made, SQLite tries to read one, and leaves the errno of that.
        if code == apsw.SQLITE_CANTOPEN and system_errno in (0, errno.ENOENT):
            system_errno = errno.ENOSPC if _has_no_room_for_a_file(path.parent) else 0
        system_errno = system_errno or _why_not(path)
        if system_errno:
            return _of_system(
                path, f"cannot be used ({why})", OSError(system_errno, os.strerror(system_errno)), trouble
            )
    return HistoryError(path, trouble, f"cannot be used: {why}")


def _why_not(path: Path) -> int:
    """The errno of what the system has against it; 0 where that is not known. SQLite leaves none of an open that has
    failed, and we do not open it (see `make_file`)."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return errno.EROFS
    except OSError as error:  # no descriptors, or no directory
        return error.errno or 0
    files = [each for each in (path, Path(f"{path}-journal")) if each.exists()]
    may_be_used = all(os.access(each, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE) for each in files)
    return 0 if may_be_used and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE) else errno.EACCES


def _has_no_room_for_a_file(directory: Path) -> bool:
    try:
        system = os.statvfs(directory)
    except OSError:  # it is gone altogether
        return False
    return system.f_files > 0 and system.f_favail == 0  # f_files: some file systems do not count them


def _of_system(path: Path, what: str, error: OSError, trouble: Trouble = Trouble.NO_ACCESS) -> HistoryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        trouble = Trouble.FULL
    remedy = remedy_of_machine(error)
    if error.errno == errno.EROFS:
        remedy = "mount it read-write, or set another state_dir"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = remedy_for_ours(error, path, Path(f"{path}-journal"))
    return HistoryError(path, trouble, f"{what}: {error.strerror}", remedy)
