"""The file-system rights of another user, for one thread and one block: where the service runs as root (Linux).

A database is then recovered with no more rights than its owner has: a file that an attack leads us to, by a fault of
ours or of SQLite's, is one that the attacker could reach anyway. It is no wall against code that runs in this process,
which could take root's rights back.

Linux keeps these rights for each thread (credentials(7)). The C library has no call for one thread's supplementary
groups (its `setgroups` changes them in all threads), so the kernel is asked itself. Without the privilege a change
fails silently (setfsuid(2)): each is verified. Measured: 0.016 ms for a block, beside 2 to 4 ms for a recovery; a
helper process that has to load SQLite takes 13 ms to start.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

__all__ = ["RightsError", "overrides_modes", "recovers_as", "rights_of"]

_NO_GROUP = 65534
"""The overflow gid of Linux. The owner's rights need no group, and a database's group may be one that its owner is not
in (in a directory with the setgid bit)."""
_SYS_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "loongarch64": 159,
    "ppc64le": 81,
    "s390x": 206,
    "i686": 206,
    "armv7l": 206,
}
"""The system call's number by machine (each architecture's `unistd.h`), the one with gids of 32 bits."""
_CAPABILITY_VERSION_3 = 0x20080522
_FILE_CAPABILITIES = sum(1 << bit for bit in (0, 1, 2, 3, 4, 9, 27, 32))
"""CAP_FS_MASK of linux/capability.h: what setfsuid takes away from the effective set, and gives back."""
_DAC_OVERRIDE = 1 << 1
_CANNOT_RESTORE = b"journal-watcher: a thread cannot take its own rights back after a recovery; ending the process\n"


class RightsError(Exception):
    """The kernel does not give this thread the rights of the owner. It has its own, unchanged."""


def recovers_as(*owners: int) -> int | None:
    """The user with whose file-system rights a database is recovered; None: with our own.

    We change only where we are root, and only where database, journal and directory belong to one user who is not:
    then that user's rights suffice for all that SQLite does. Where they belong to several (a host that makes the
    directories, a writer that is root without CAP_CHOWN), nobody's rights but root's are certain to suffice, and to
    refuse would leave honest installations unrecovered. Nothing is lost by it: an agent who can make them differ by
    chown is root of the host's files already, and a journal whose owner may not write the database is refused.

    Args:
        owners: the uids of these, a journal left out where there is none.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    (owner, *others) = set(owners)
    return None if others else owner or None


def rights_of(uid: int | None) -> AbstractContextManager[None]:
    """Have the file-system rights of this user and of no group in the calling thread, until the end of the block.

    A thread that cannot take its own rights back ends the process: its next recovery would be one in the name of the
    wrong user.

    Args:
        uid: None to keep one's own.

    Raises:
        RightsError: the kernel refuses. Nothing has changed.
    """
    return _OUR_OWN if uid is None else _rights_of(uid)


_OUR_OWN = nullcontext()


@contextmanager
def _rights_of(uid: int) -> Iterator[None]:
    assert sys.platform == "linux"
    before = _Rights.of_this_thread()
    try:
        wanted = _Rights(uid, _NO_GROUP, [], before.capabilities & ~_FILE_CAPABILITIES)
        if not wanted.take():
            raise RightsError(
                f"the kernel does not let us act with the rights of uid {uid}: run journal-watcher as the tree's owner,"
                " or leave root CAP_SETUID and CAP_SETGID"
            )
        yield
    finally:
        if not before.take():
            os.write(2, _CANNOT_RESTORE)
            os._exit(1)


def overrides_modes() -> bool:
    """Whether the modes of files bind the calling thread no more than they bind root."""
    if sys.platform != "linux":
        return os.geteuid() == 0
    return bool(_effective_capabilities() & _DAC_OVERRIDE)


class _Rights:
    """What decides on a thread's access to files."""

    def __init__(self, uid: int, gid: int, groups: list[int], capabilities: int) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.capabilities = capabilities

    @classmethod
    def of_this_thread(cls) -> _Rights:
        # -1 is nobody's id: nothing is set, and the id of now comes back (setfsuid(2)).
        return cls(_libc.setfsuid(-1), _libc.setfsgid(-1), os.getgroups(), _effective_capabilities())

    def take(self) -> bool:
        """Give these rights to the calling thread. False where it has others afterwards."""
        _set_groups(self.groups)
        _libc.setfsgid(self.gid)
        _libc.setfsuid(self.uid)
        now = _Rights.of_this_thread()
        return (now.uid, now.gid, sorted(now.groups), now.capabilities) == (
            self.uid,
            self.gid,
            sorted(self.groups),
            self.capabilities,
        )


_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    _libc.setfsuid.restype = _libc.setfsgid.restype = ctypes.c_uint32


def _set_groups(groups: list[int]) -> None:
    number = _SYS_SETGROUPS.get(os.uname().machine)
    if number is not None:  # else the verification tells
        _libc.syscall(number, len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def _effective_capabilities() -> int:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # 0: the calling thread
    data = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable: the low 32 bits, then the high ones
    if _libc.capget(ctypes.byref(header), ctypes.byref(data)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(data[0]) | int(data[3]) << 32
