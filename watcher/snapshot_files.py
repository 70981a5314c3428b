"""How a file gets into a snapshot: read to memory and written from there, or copied from a descriptor."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

from watcher.look import LookAgainError

__all__ = ["Content", "copy_file", "read_file", "write_file"]

Content = bytes | mmap.mmap

_FICLONE = 0x40049409  # linux/fs.h: share the other file's extents, where the file system can
_CHUNK_BYTES = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_APART = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)


def read_file(source: int, size_bytes: int, *, apart: bool) -> Content:
    """Read the first so many bytes of a file.

    Args:
        source: a descriptor of it; its offset stays where it is.
        apart: many such are kept at a time. Each gets pages of its own, which go back to the system with it; the heap
            keeps what hundreds of them have taken. The heap has warm pages, and takes a tenth of the time for one.

    Raises:
        LookAgainError: it became shorter.
        OSError: the file system fails, or there is no memory.
    """
    content: Content
    if apart and size_bytes:
        content = mmap.mmap(-1, size_bytes, flags=_APART)
        read_bytes = os.preadv(source, [content], 0)
    else:
        content = os.pread(source, size_bytes, 0)
        read_bytes = len(content)
    if read_bytes < size_bytes:
        raise LookAgainError("it became shorter while it was copied")
    return content


def write_file(path: str, content: Content) -> None:
    """Write a new file, for us alone.

    Raises:
        OSError: the disk fails, or is full.
    """
    target = os.open(path, _NEW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(target, view) :]
    finally:
        os.close(target)


def copy_file(source: int, path: str, size_bytes: int) -> None:
    """Copy a file of this size into a new one, for us alone, by sharing its extents where the file system can.

    Args:
        source: a descriptor of it; its offset stays where it is.

    Raises:
        LookAgainError: it became shorter, or was changed.
        OSError: the disk fails, or is full.
    """
    target = os.open(path, _NEW, 0o600)
    try:
        if _shares_extents(target, source):
            # It copies the whole of a file that may have grown since it was judged.
            if os.fstat(target).st_size != size_bytes:
                raise LookAgainError("it was changed while it was copied")
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


def _shares_extents(target: int, source: int) -> bool:
    with suppress(OSError):  # another file system, or one that cannot
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False
