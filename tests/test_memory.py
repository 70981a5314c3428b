"""What a storm took is given back when it has passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AFTER_A_STORM = """
import ctypes, psutil, sys
from watcher.memory import Spare
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
spare = Spare()
rss = psutil.Process().memory_info
for pages in map(int, sys.argv[1:]):
    taken = [libc.malloc(4096) for _ in range(pages)]
    for each in taken:
        ctypes.memset(each, 1, 4096)
    for each in taken[:-1]:  # the last one keeps the end of the arena
        libc.free(each)
    before = rss().rss
    spare.look()
    print(before - rss().rss >> 12, end=" ")
"""
STORM, BREEZE = 10_000, 500


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's")
def test_free_memory_is_given_back_where_there_is_much_of_it() -> None:
    argv = [sys.executable, "-c", AFTER_A_STORM, str(STORM), str(BREEZE), str(STORM)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    first, little, second = map(int, done.stdout.split())
    assert first > 0.9 * STORM
    assert little < 0.5 * BREEZE
    assert second > 0.9 * STORM


COPIES = """
import os, psutil, sys
from watcher.snapshot_files import read_file
source, apart = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2] == "apart"
size_bytes = os.fstat(source).st_size
content = os.pread(source, size_bytes, 0)
rss = psutil.Process().memory_info
before = rss().rss
copies = [(read_file(source, size_bytes, apart=apart), bytearray(5000)) for _ in range(300)]
assert all(copy[:] == content for copy, _ in copies)
between = [beside for _, beside in copies]  # such as is not given up with the copies
del copies
print(rss().rss - before >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it counts as Linux does")
@pytest.mark.parametrize(("kept", "most_mib"), [("apart", 5), ("on the heap", None)])
def test_copies_that_waited_apart_leave_nothing_behind(tmp_path: Path, kept: str, most_mib: int | None) -> None:
    source = tmp_path / "database"
    source.write_bytes(os.urandom(100_000))
    argv = [sys.executable, "-c", COPIES, str(source), kept]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    if most_mib is not None:
        assert int(done.stdout) <= most_mib
    else:  # as it is else, or the test would see nothing
        assert int(done.stdout) > 20
