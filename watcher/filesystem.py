"""Which file system a descriptor is on, and whether its locks and its change times are this kernel's own."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import NamedTuple

__all__ = ["FileSystem", "file_system_of"]


class FileSystem(NamedTuple):
    """A file system by its name; `is_local` where its locks are this kernel's and no write arrives from elsewhere."""

    name: str
    is_local: bool


# `f_type` of statfs(2); the numbers are those of linux/magic.h and of each file system's own source. Only where a lock
# of any other process is a lock in this kernel may its absence count as testimony. (Not ecryptfs: its files may lie on
# any other file system, to which it does not hand locks on.)
_LOCAL = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    0xCA451A4E: "bcachefs",
    0x3153464A: "jfs",
    0x3434: "nilfs2",
}
_ELSEWHERE = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb",
    0x01021997: "9p",
    0x65735546: "fuse or virtiofs",
    0x00C36400: "ceph",
    0x786F4256: "vboxsf",
    0xBACBACBC: "vmhgfs",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x5346414F: "afs",
    0x6B414653: "afs",
}
_KNOWN = {magic: FileSystem(name, is_local=True) for magic, name in _LOCAL.items()}
_KNOWN |= {magic: FileSystem(name, is_local=False) for magic, name in _ELSEWHERE.items()}

if sys.platform == "linux":
    _fstatfs = ctypes.CDLL(None, use_errno=True).fstatfs
    # struct statfs begins with f_type, a long (an unsigned int on s390); 256 bytes hold the struct everywhere.
    _Statfs = ctypes.c_long * 32

    def file_system_of(descriptor: int) -> FileSystem:
        """The file system of an open file or directory.

        Raises:
            OSError: `fstatfs` fails.
        """
        buffer = _Statfs()
        if _fstatfs(descriptor, buffer) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        magic = buffer[0] & 0xFFFFFFFF
        return _KNOWN.get(magic) or FileSystem(f"of unknown type {magic:#x}", is_local=False)

else:

    def file_system_of(descriptor: int) -> FileSystem:
        """Not Linux: nothing is known of the file system, so nothing is taken for local.

        Raises:
            OSError: the descriptor is not open.
        """
        os.fstat(descriptor)
        return FileSystem(sys.platform, is_local=False)
