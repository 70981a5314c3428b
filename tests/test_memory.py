"""What a storm took is given back when it has passed."""

from __future__ import annotations

import subprocess
import sys

import pytest

AFTER_A_STORM = """
import ctypes, psutil
from watcher.memory import Spare
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
taken = [libc.malloc(4096) for _ in range(10_000)]
for each in taken:
    ctypes.memset(each, 1, 4096)
for each in taken[:-1]:  # the last one keeps the end of the arena
    libc.free(each)
rss = psutil.Process().memory_info
spare = Spare()
sizes = [rss().rss]
for done in (5, 9, 9):
    spare.look(done)
    sizes.append(rss().rss)
print(*(size >> 20 for size in sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's")
def test_free_memory_is_given_back_when_nothing_more_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER_A_STORM], capture_output=True, text=True, check=True, timeout=60)
    storm, first, second, quiet = map(int, done.stdout.split())
    assert abs(storm - first) <= 2
    assert abs(storm - second) <= 2
    assert quiet <= storm - 30
