"""The `boot` probe: a journal that is older than this boot has no living owner on this machine."""

from __future__ import annotations

import sys

from watcher.filesystem import FileSystem
from watcher.owner.clock import WallClock
from watcher.owner.testimony import Answer, Evidence

__all__ = ["BootProbe"]

_MARGIN_NS = 120 * 1_000_000_000
"""The clock of a machine that boots may be off by so much until the network has set it."""
_OF_THIS_BOOT = Evidence("boot", Answer.SILENT, "its journal is of this boot")
_FROM_ELSEWHERE = Evidence("boot", Answer.SILENT, "writers of other machines survive a boot of this one")


class BootProbe:
    """EXITED where the journal's status last changed more than two minutes before this boot, on a local file system of
    this Linux machine; else silent. A ctime cannot be set back by its writer, an mtime can (utimensat(2))."""

    name = "boot"

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock

    def testify(self, journal_ctime_ns: int, file_system: FileSystem) -> Evidence:
        """Compare the two.

        Args:
            journal_ctime_ns: of the journal, nanoseconds since the epoch.
            file_system: that of the journal.
        """
        if sys.platform != "linux" or not file_system.is_local:
            return _FROM_ELSEWHERE
        age_ns = self._clock.boot_ns() - journal_ctime_ns
        if age_ns > _MARGIN_NS:
            return Evidence(self.name, Answer.EXITED, f"its journal is {age_ns // 10**9} s older than this boot")
        return _OF_THIS_BOOT
