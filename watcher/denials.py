"""Why the system does not let us at a file, as far as its owner and mode tell, and what a person can do about it.

Owner and mode are not all: an inode may be immutable, and an access list or a security module may say otherwise. Where
they would let us, that is said, and where to look.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from enum import IntFlag
from typing import TYPE_CHECKING

from watcher.names import printable, quoted
from watcher.rights import overrides_modes

if TYPE_CHECKING:  # it is loaded by processes that only roll back
    from pathlib import Path

__all__ = [
    "Wish",
    "giving",
    "is_denial",
    "lets",
    "no_room",
    "not_deleted",
    "not_opened",
    "not_searched",
    "remedy_for_ours",
]

_DENIALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SHOW_FLAGS, _TAKE_FLAGS = ("lsattr -d", "chattr -i -a") if sys.platform == "linux" else ("ls -ldO", "chflags nouchg")
_MIB = 1 << 20


class Wish(IntFlag):
    """What somebody would do to a file, by the bits of a mode (inode(7))."""

    SEARCH = 1
    WRITE = 2
    READ = 4


def is_denial(error: OSError) -> bool:
    """Whether it is for want of rights, and not for what the file is or where it has gone."""
    return error.errno in _DENIALS


def lets(status: os.stat_result, wish: Wish, acts_as: int | None) -> bool:
    """Whether owner and mode of a file or directory let somebody do all that.

    Args:
        acts_as: this user, in no group (:mod:`watcher.rights`); None: we.
    """
    if acts_as is None and overrides_modes():
        return True
    uid = os.geteuid() if acts_as is None else acts_as
    groups = [os.getegid(), *os.getgroups()] if acts_as is None else []
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return status.st_mode >> shift & wish == wish


def giving(wish: Wish, path: str) -> str:
    """The command that gives the owner of a file or directory these rights."""
    letters = "".join(letter for bit, letter in zip((4, 2, 1), "rwx", strict=True) if wish & bit)
    return f"chmod u+{letters} {quoted(path)}"


def not_opened(
    what: str, path: str, status: os.stat_result, error: OSError, *, only_reads: bool, acts_as: int | None
) -> str:
    """SQLite was not given a file.

    Args:
        what: it is.
        error: what the system has said.
        only_reads: nothing will be written to it.
        acts_as: the user with whose rights it was tried; None: ours.
    """
    wish = Wish.READ if only_reads else Wish.READ | Wish.WRITE
    may_not = _may_not("read" if only_reads else "write", what, acts_as)
    return f"{may_not}: {_why(path, status, wish, error, acts_as)}"


def not_searched(path: str, status: os.stat_result, error: OSError, acts_as: int | None) -> str:
    """The directory of the database does not let anybody at its files."""
    return f"{_may_not('search', 'its directory', acts_as)}: {_why(path, status, Wish.SEARCH, error, acts_as)}"


def not_deleted(path: str, status: os.stat_result, journal: os.stat_result, error: OSError, acts_as: int | None) -> str:
    """The journal was rolled back, and could not be deleted: that is the directory's matter.

    Args:
        path, status: of the directory.
        journal: of the journal.
    """
    said = f"the journal cannot be deleted: {error.strerror}"
    if error.errno == errno.EPERM and _sticks(status, journal, acts_as):
        return (
            f"{said}, for the sticky bit of {printable(path)} (mode {_mode(status)}) lets nobody delete the files of"
            f" others: take it away (chmod -t {quoted(path)}), or run journal-watcher as uid {journal.st_uid}"
        )
    why = _why(path, status, Wish.WRITE | Wish.SEARCH, error, acts_as)
    return f"{said}; {_may_not('write', printable(path), acts_as)}: {why}" if is_denial(error) else f"{said}; {why}"


def remedy_for_ours(error: OSError, *paths: Path) -> str:
    """What to do where the system denies us what ought to be ours.

    Args:
        paths: files in one directory, the one that was asked for first, and any may be missing; or that directory.
    """
    us, directory = os.geteuid(), paths[0] if paths[0].is_dir() else paths[0].parent
    if error.errno == errno.EPERM:
        both = " ".join(quoted(str(each)) for each in dict.fromkeys((paths[0], directory)))
        return f"it may be immutable or append-only: {_SHOW_FLAGS} {both} shows it, {_TAKE_FLAGS} takes that away"
    for path in dict.fromkeys((directory, *paths)):
        try:
            status = path.stat()
        except OSError:  # missing, or hidden by the directory, which was asked for before
            continue
        if path == directory and status.st_uid != us:
            break
        wish = Wish.READ | Wish.WRITE | (Wish.SEARCH if path == directory else Wish(0))
        if not lets(status, wish, None):
            shown = printable(path)
            if status.st_uid != us:
                return f"{shown} belongs to uid {status.st_uid}, and should be ours: chown {us} {quoted(str(path))}"
            return f"{shown} is ours, but has the mode {_mode(status)}: {giving(wish, str(path))}"
    else:
        return "see to its access list (getfacl), or to SELinux or AppArmor"
    return "run as the user whose directory it is"


def no_room(path: str, directory_fd: int) -> str:
    """The disk was full.

    Args:
        path: of the directory that this descriptor is of.
    """
    system = os.fstatvfs(directory_fd)
    free_mib = system.f_bavail * system.f_frsize // _MIB
    # Rounded, so that a fault which lasts says the same each time, and is told once.
    free = f"{1 << free_mib.bit_length() - 1} MiB or more are" if free_mib else "less than 1 MiB is"
    or_quota = ", so it may be a quota" if free_mib else ""
    return f"the file system of {printable(path)} is full ({free} free there{or_quota}): free some space there"


def _may_not(do: str, what: str, acts_as: int | None) -> str:
    if acts_as is None:
        return f"we may not {do} {what} (uid {os.geteuid()})"
    return f"its owner may not {do} {what} (uid {acts_as}, with whose rights it is recovered)"


def _why(path: str, status: os.stat_result, wish: Wish, error: OSError, acts_as: int | None) -> str:
    owned = f"it belongs to uid {status.st_uid} and has the mode {_mode(status)}"
    uid = os.geteuid() if acts_as is None else acts_as
    match error.errno:
        case errno.EROFS:
            return "its file system is mounted read-only: mount it read-write"
        case errno.EPERM:
            return (
                f"{error.strerror}; {owned}, and it may be immutable or append-only"
                f" ({_SHOW_FLAGS} {quoted(path)} shows it, {_TAKE_FLAGS} {quoted(path)} takes that away)"
            )
        case errno.EACCES if lets(status, wish, acts_as):
            return f"{error.strerror}, although {owned}: see to its access list (getfacl), or to SELinux or AppArmor"
        case errno.EACCES if uid == status.st_uid:
            return f"{owned}: {giving(wish, path)}"
        case errno.EACCES:
            return f"{owned}: give us the right, or run journal-watcher as that user"
        case _:
            return f"see to the file system of {printable(path)}"


def _sticks(status: os.stat_result, journal: os.stat_result, acts_as: int | None) -> bool:
    """Whether the sticky bit keeps somebody from deleting a file there who is not its owner (inode(7))."""
    uid = os.geteuid() if acts_as is None else acts_as
    return bool(status.st_mode & stat.S_ISVTX) and uid not in {0, status.st_uid, journal.st_uid}


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
