"""What can go wrong with a source of file events, and where its hints go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from watcher.tree import Place

__all__ = ["Sink", "Trouble"]


class Trouble(StrEnum):
    """Something was lost, or may be: the tree must be swept.

    Attributes:
        OVERFLOW: the kernel's queue was full, and events were dropped.
        WATCH_LIMIT: directories are not watched because the user's watches have run out.
        DESCRIPTORS: the same, because no more files may be open.
        MEMORY: the same, because the kernel has no memory for them.
        INSTANCE_LIMIT: the tree is polled because the user's instances of inotify have run out.
        UNREADABLE: directories are not watched because we may not enter them.
        ROOT_GONE: the root was deleted, moved or unmounted; no hint comes any more.
        FAILED: the source's thread has ended by an error that nobody foresaw; no hint comes any more.
    """

    OVERFLOW = "overflow"
    WATCH_LIMIT = "watch_limit"
    DESCRIPTORS = "descriptors"
    MEMORY = "memory"
    INSTANCE_LIMIT = "instance_limit"
    UNREADABLE = "unreadable"
    ROOT_GONE = "root_gone"
    FAILED = "failed"

    @property
    def is_shortage(self) -> bool:
        """Whether the next directory would be missed for the same reason."""
        return self in {Trouble.WATCH_LIMIT, Trouble.DESCRIPTORS, Trouble.MEMORY}

    @property
    def ends_the_source(self) -> bool:
        """Whether the source that tells it has stopped by itself."""
        return self in {Trouble.ROOT_GONE, Trouble.FAILED}


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a source's hints and troubles go. Both are called from the source's own thread, under no lock of its."""

    hint: Callable[[Place], None]
    sweep: Callable[[Trouble], None]
