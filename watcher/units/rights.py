"""Whether another user could read a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["closed_to"]


def closed_to(uid: int, gid: int, files: Iterable[Path]) -> Iterator[Path]:
    """For each file that this user could not read: that file, or the first directory on the way that shuts it out. By
    mode bits alone; what an access list says on top is not asked."""
    if uid == 0:
        return
    for file in files:
        real = Path(os.path.realpath(file))
        for place in (*reversed(real.parents), real):
            try:
                found = place.stat()
            except OSError:
                yield place
                break
            wanted = stat.S_IROTH if place == real else stat.S_IXOTH
            shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
            if not found.st_mode & (wanted << shift):
                yield place
                break
