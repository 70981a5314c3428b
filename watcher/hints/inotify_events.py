"""The raw side of inotify: its system calls, and what is kept of a gulp of events while they are still bytes.

The facts are those of inotify(7) and of the kernel's `fs/notify/inotify`. A live writer's commit in DELETE mode is a
close of its journal and then a delete: the two cancel here, before an object is made for either.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from enum import IntFlag
from functools import lru_cache
from struct import Struct, iter_unpack
from typing import NamedTuple

__all__ = [
    "GULP_BYTES",
    "LARGEST_EVENT_BYTES",
    "MUTED",
    "RIPE",
    "Closed",
    "DirectoryEvent",
    "In",
    "Inotify",
    "Journal",
    "is_deletion",
    "is_lone_journal",
    "sift",
]

GULP_BYTES = 64 * 1024
"""One read: up to a thousand events. A buffer from 128 KiB on is one that malloc(3) maps and unmaps each time."""

LARGEST_EVENT_BYTES = 16 + 256
"""With a name of NAME_MAX. A gulp that had no room for one more may have left events behind."""


class In(IntFlag):
    """Masks of inotify(7)."""

    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x01000000
    EXCL_UNLINK = 0x04000000
    ISDIR = 0x40000000


class DirectoryEvent(NamedTuple):
    """An event that may change which directories there are. `wd` is -1 for a full queue."""

    wd: int
    mask: int
    name: bytes


Journal = tuple[int, bytes]
"""A journal as the kernel names it: the watch, and the name padded with NULs."""

Closed = dict[Journal, int]
"""Journals that were closed or moved into place and not deleted since, with the number of the gulp that told it first,
or `RIPE`, or `MUTED`."""

RIPE = -1
"""In the place of that number: its delete is not waited for. Its database was closed, too, or nothing came for long."""

MUTED = -2
"""In the place of that number: its delete would not be told."""

_HEADER = Struct("=iIII")
_HEADER_BYTES = _HEADER.size
_LENGTH_LOW, _LENGTH_HIGH = (12, 13) if sys.byteorder == "little" else (15, 14)
_EVENTS_IN_A_BLOCK = 4
_BLOCKS_AT_ONCE = 16
"""A multiple of so many blocks is taken apart at once: then there are few different numbers of them."""
_FEW_BYTES = 256
"""Up to so many, some five events, it is cheaper to walk through a gulp."""
_SUFFIX = b"-journal"
_ENDS_AS_JOURNAL = _SUFFIX + b"\0"
_PADDED_TO = _HEADER_BYTES
"""The kernel pads a name to a multiple of the event's own size (`round_event_name_len` in inotify_user.c)."""

# Plain numbers: an IntFlag's operators would cost more than all the rest of the loop.
_CLOSED = int(In.CLOSE_WRITE)
_CLOSED_OR_MOVED_IN = int(In.CLOSE_WRITE | In.MOVED_TO)
_DELETED_OR_MOVED_OUT = int(In.DELETE | In.MOVED_FROM)
_BEYOND_FILES = int(In.DELETE_SELF)
"""From this bit on a mask tells of a directory, of the watch or of the queue."""

_NOTHING, _JOURNAL_CLOSED, _DATABASE_CLOSED, _GONE, _OF_DIRECTORY = range(5)
"""What an event tells: a journal, or another file, was closed or moved into place; a file is gone; see `sift`."""
_told: dict[bytes, tuple[int, Journal]] = {}
"""The same of events that have come: with the journal that it is about. A memory of what bytes mean: after a reload two
threads may be at it for a moment, and do each other no harm."""
_MOST_TOLD = 1024


def sift(gulp: bytes, closed: Closed, turn: int, gone: set[Journal] | None = None) -> list[DirectoryEvent]:
    """Keep what matters of a gulp: the journals in `closed`, everything about directories in the list returned.

    Busy writers say the same again and again, byte for byte. Of events that are alike only the last one counts: a
    journal is closed or gone by what came last, and a directory is gone to see once.

    Args:
        gulp: whole events, as read(2) gives them.
        closed: brought up to date in place.
        turn: the number of this gulp; `RIPE` where nothing has followed it for long.
        gone: gets the journals that were closed and deleted.
    """
    about_directories: list[DirectoryEvent] = []
    for event in _last_of_each(gulp):
        kind, key = _told.get(event) or _tells(event)
        if kind == _JOURNAL_CLOSED:
            if closed.get(key, RIPE) < 0:
                closed[key] = turn
        elif kind == _OF_DIRECTORY:
            wd, mask, _, _ = _HEADER.unpack_from(event)
            about_directories.append(DirectoryEvent(wd, mask, event[_HEADER_BYTES:].rstrip(b"\0")))
        elif closed:
            if kind == _GONE:
                if closed.pop(key, None) is not None and gone is not None:
                    gone.add(key)
            elif kind == _DATABASE_CLOSED and key in closed:
                # Behind its journal, which was not deleted in between: no live writer does that in DELETE mode, and
                # each one that dies does (the kernel lets go of its files in the opposite order of their opening).
                closed[key] = RIPE
    return about_directories


def is_lone_journal(gulp: bytes) -> bool:
    """Whether a gulp is a single event, about a journal."""
    return len(gulp) == _size_at(gulp, 0) and _ENDS_AS_JOURNAL in gulp


def is_deletion(event: bytes) -> bool:
    """Whether it tells that a file is gone."""
    return bool(_HEADER.unpack_from(event)[1] & _DELETED_OR_MOVED_OUT)


def _tells(event: bytes) -> tuple[int, Journal]:
    """What an event tells, and of which journal; remembered, for the next one will be alike."""
    wd, mask, _, _ = _HEADER.unpack_from(event)
    name = event[_HEADER_BYTES:]
    if mask >= _BEYOND_FILES:
        return _OF_DIRECTORY, (wd, name)
    if mask & _CLOSED_OR_MOVED_IN:
        # A name holds no NUL and is padded with at least one (`copy_event_to_user`), always with as many.
        is_journal = _ENDS_AS_JOURNAL in name
        tells = (_JOURNAL_CLOSED, (wd, name)) if is_journal else (_DATABASE_CLOSED, (wd, _journal_of(name)))
    else:
        tells = (_GONE if mask & _DELETED_OR_MOVED_OUT else _NOTHING), (wd, name)
    if len(_told) >= _MOST_TOLD:
        _told.clear()
    _told[event] = tells
    return tells


def _journal_of(database: bytes) -> bytes:
    """A journal's name from its database's, both padded."""
    name = database.rstrip(b"\0") + _SUFFIX
    return name.ljust((len(name) // _PADDED_TO + 1) * _PADDED_TO, b"\0")


def _last_of_each(gulp: bytes) -> Iterable[bytes]:
    """The events that differ, in the order in which each of them came last."""
    if len(gulp) > _FEW_BYTES:
        size = _size_at(gulp, 0)
        number, rest = divmod(len(gulp), size)
        low, high = gulp[_LENGTH_LOW::size], gulp[_LENGTH_HIGH::size]
        if not rest and low == low[:1] * number and high == high[:1] * number:
            # All are as long as the first (so, one after the other, these bytes were their lengths): it is done in C.
            return _last_of_equal_size(gulp, size)
    last: dict[bytes, None] = {}
    start, end = 0, len(gulp)
    while start < end:
        behind = start + _HEADER_BYTES + (gulp[start + _LENGTH_LOW] | gulp[start + _LENGTH_HIGH] << 8)
        event = gulp[start:behind]
        last.pop(event, None)
        last[event] = None
        start = behind
    return last


def _last_of_equal_size(gulp: bytes, size: int) -> Iterable[bytes]:
    """The same by two steps, where the events are of one size: few blocks of some events differ, and few events in
    those. An event stood last in a block that stood last itself, so the blocks may be taken in that order."""
    block = size * _EVENTS_IN_A_BLOCK
    number = len(gulp) // block // _BLOCKS_AT_ONCE * _BLOCKS_AT_ONCE
    blocks = _last_of(_pieces(block, number).unpack_from(gulp))
    events = b"".join([*blocks, gulp[number * block :]])
    return _last_of([event for (event,) in iter_unpack(f"{size}s", events)])


def _last_of(pieces: Sequence[bytes]) -> Iterable[bytes]:
    """Those that differ, in the order in which each of them came last."""
    return reversed(dict.fromkeys(reversed(pieces)))


@lru_cache(maxsize=32)
def _pieces(size: int, number: int) -> Struct:
    return Struct(f"{size}s" * number)


def _size_at(gulp: bytes, start: int) -> int:
    """The length of a name with its padding takes two of the four bytes: NAME_MAX is 255."""
    return _HEADER_BYTES + (gulp[start + _LENGTH_LOW] | gulp[start + _LENGTH_HIGH] << 8)


_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One inotify descriptor, non-blocking. Used by one thread."""

    def __init__(self) -> None:
        """
        Raises:
            OSError: EMFILE where `fs.inotify.max_user_instances` or our descriptors are used up; ENOMEM.
        """
        self._descriptor: int = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        return self._descriptor

    def watch(self, directory_fd: int, mask: int) -> int:
        """Watch a directory, by a descriptor that was walked to: no name is resolved a second time.

        Returns:
            The watch's number: the same for the same inode, for as long as its watch lives.

        Raises:
            OSError: ENOSPC where `fs.inotify.max_user_watches` is reached; ENOMEM; EACCES.
        """
        return _checked(_libc.inotify_add_watch(self._descriptor, b"/proc/self/fd/%d" % directory_fd, mask))

    def forget(self, wd: int) -> None:
        """Remove a watch. The kernel may have removed it with its directory: then there is nothing to do."""
        _libc.inotify_rm_watch(self._descriptor, wd)

    def read(self) -> bytes:
        """At most a gulp of whole events; nothing where there are none."""
        try:
            return os.read(self._descriptor, GULP_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._descriptor)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
