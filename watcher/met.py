"""What may be met in the tree, and what is said of it; for the rooms that open files by a name or a descriptor.

It stands apart from `tree`, so that a process which only rolls back loads neither the settings nor what they need.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

__all__ = ["O_PATH", "SUFFIX", "Gone", "UnsafeError", "kind_of", "let_go"]

SUFFIX = "-journal"
"""What SQLite appends to a database's name for its rollback journal."""
O_PATH: int = getattr(os, "O_PATH", 0)
"""0 where the system has no such thing (not Linux)."""


class Gone(Exception):  # noqa: N818 - the normal course of things, not an error
    """What was to be looked at is not there (any more)."""


class UnsafeError(Exception):
    """What is there is nothing that we may touch (DESIGN.md, section 6). The message says what it is."""


def let_go(descriptor: int) -> None:
    """Close a descriptor by which nothing of ours was written. It is closed whatever close(2) says (its BUGS section),
    and what a file system in user space says of a flush is about the writes of others: nobody here could do anything
    about it, and what comes after the close must not be left out."""
    with suppress(OSError):
        os.close(descriptor)


def kind_of(mode: int) -> str:
    """What a file of this `st_mode` is, in words."""
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFREG: "a plain file",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "a file of an unknown kind")
