"""A file system of a few hundred KiB, to be full and to be empty again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount_point: Path, *, size_kib: int = 256, files: int = 1000) -> Iterator[Path]:
    """A tmpfs at this directory, for so much and so many files, unmounted afterwards."""
    mount_point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs wants root")
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={size_kib}k,nr_inodes={files + 1},mode=0755",
        "tmpfs",
        str(mount_point),
    ]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def fill(directory: Path) -> Path:
    """A file that takes all the space that is left in it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast
