"""Which file system it is, and whether its locks are this kernel's own: real mounts of all kinds that can be had."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.small_disk import small_disk
from watcher import filesystem
from watcher.filesystem import FileSystem, file_system_of


def file_system(path: Path | str) -> FileSystem:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return file_system_of(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def mounted(target: Path, *arguments: str | Path) -> Iterator[Path]:
    """Something mounted there, by mount(8), for as long as the block lasts."""
    target.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting wants root")
    done = subprocess.run(["mount", *map(str, arguments), str(target)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"not to be mounted here: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def test_the_tests_own_file_system_is_called_as_the_kernel_calls_it(tmp_path: Path) -> None:
    argv = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(tmp_path)]
    fstype = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    found = file_system(tmp_path)
    assert found.name == {"ext2": "ext4", "ext3": "ext4"}.get(fstype, fstype) or not found.is_local


def test_a_file_and_a_descriptor_that_only_stands_for_it_tell_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pinned = os.open(tmp_path / "file", os.O_PATH)
    assert file_system_of(pinned) == file_system(tmp_path / "file") == file_system(tmp_path)
    os.close(pinned)


def test_a_tmpfs_is_local(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        assert file_system(disk) == FileSystem("tmpfs", is_local=True)


def test_an_overlay_is_local(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        for name in ("lower", "upper", "work"):
            (disk / name).mkdir()
        options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        with mounted(tmp_path / "merged", "-t", "overlay", "-o", options, "overlay") as merged:
            assert file_system(merged) == FileSystem("overlay", is_local=True)


def test_a_bind_mount_is_what_it_is_bound_to(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, mounted(tmp_path / "bound", "--bind", disk) as bound:
        assert file_system(bound).name == "tmpfs"


def test_what_is_not_known_is_not_local() -> None:
    assert file_system("/proc") == FileSystem("of unknown type 0x9fa0", is_local=False)


def test_a_descriptor_that_is_not_open_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_system_of(descriptor)


# --- FUSE, of which virtiofs is a part ---

# The kernel's protocol, as far as an empty directory needs it (linux/fuse.h).
_FUSE = """
import ctypes, os, struct, sys
INIT, GETATTR, OPENDIR, RELEASEDIR, STATFS, FORGET, DESTROY = 26, 3, 27, 29, 17, 2, 38
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"tiny", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
attributes = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
answers = {
    INIT: struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 1, 1, 65536, 1, 0, 0, *[0] * 8),
    GETATTR: struct.pack("<Q2I", 1, 0, 0) + attributes,
    OPENDIR: struct.pack("<Q2I", 0, 0, 0),
    STATFS: struct.pack("<5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7),
    RELEASEDIR: b"",
}
while True:
    try:
        request = os.read(fuse, 1 << 20)
    except OSError:  # ENODEV: it was unmounted
        break
    length, code, unique = struct.unpack_from("<2IQ", request)
    if code not in (FORGET, DESTROY):
        answer = answers.get(code)
        error = 0 if answer is not None else -38
        answer = answer or b""
        os.write(fuse, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
"""


@contextmanager
def fuse(target: Path) -> Iterator[Path]:
    """An empty file system in user space."""
    target.mkdir()
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("no FUSE here")
    with subprocess.Popen([sys.executable, "-c", _FUSE, str(target)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            if server.stdout.readline() != "mounted\n":
                pytest.skip("no FUSE can be mounted here")
            yield target
        finally:
            subprocess.run(["umount", "--lazy", str(target)], check=False, capture_output=True)
            server.kill()


def test_fuse_is_not_local(tmp_path: Path) -> None:
    with fuse(tmp_path / "fuse") as directory:
        assert file_system(directory) == FileSystem("fuse or virtiofs", is_local=False)


# --- the numbers of those that cannot be mounted here ---

HEADER = Path("/usr/include/linux/magic.h")
BY_MACRO = {
    "EXT4_SUPER_MAGIC": ("ext4", True),
    "XFS_SUPER_MAGIC": ("xfs", True),
    "BTRFS_SUPER_MAGIC": ("btrfs", True),
    "F2FS_SUPER_MAGIC": ("f2fs", True),
    "TMPFS_MAGIC": ("tmpfs", True),
    "RAMFS_MAGIC": ("ramfs", True),
    "OVERLAYFS_SUPER_MAGIC": ("overlay", True),
    "NILFS_SUPER_MAGIC": ("nilfs2", True),
    "NFS_SUPER_MAGIC": ("nfs", False),
    "CIFS_SUPER_MAGIC": ("cifs", False),
    "SMB2_SUPER_MAGIC": ("smb", False),
    "V9FS_MAGIC": ("9p", False),
    "FUSE_SUPER_MAGIC": ("fuse or virtiofs", False),
    "CEPH_SUPER_MAGIC": ("ceph", False),
    "OCFS2_SUPER_MAGIC": ("ocfs2", False),
    "AFS_SUPER_MAGIC": ("afs", False),
    "AFS_FS_MAGIC": ("afs", False),
    "ECRYPTFS_SUPER_MAGIC": ("of unknown type 0xf15f", False),
    "HOSTFS_SUPER_MAGIC": ("of unknown type 0xc0ffee", False),
}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], FileSystem]:
    """What would be said of a file system with this number: only what `fstatfs` writes is made up."""

    def told(magic: int) -> FileSystem:
        def fstatfs(_descriptor: int, buffer: ctypes.Array[ctypes.c_long]) -> int:
            struct.pack_into("l", buffer, 0, magic)
            return 0

        monkeypatch.setattr(filesystem, "_fstatfs", fstatfs)
        return file_system_of(0)

    return told


@pytest.mark.parametrize(("macro", "expected"), BY_MACRO.items(), ids=BY_MACRO)
def test_the_numbers_are_those_of_the_kernel(
    macro: str, expected: tuple[str, bool], pretend: Callable[[int], FileSystem]
) -> None:
    if not HEADER.exists():
        pytest.skip(f"no {HEADER} here")
    found = re.search(rf"^#define {macro}\s+(0x[0-9a-fA-F]+)", HEADER.read_text(), re.MULTILINE)
    assert found is not None
    name, is_local = expected
    assert pretend(int(found[1], 16)) == FileSystem(name, is_local)
