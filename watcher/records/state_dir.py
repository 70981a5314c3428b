"""The state directory: a private place for the lock, the history, the status and the snapshots.

It belongs to us alone: what lies in it is trusted, so whoever could write it could make us report, keep or restore
what they like. Only the service makes it; `status` and `history` read it, and leave no trace.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from watcher.advice import remedy_of_machine
from watcher.denials import remedy_for_ours
from watcher.names import printable
from watcher.records.lock import LOCK_NAME, AlreadyRunning, Lock, holder_of

__all__ = ["AlreadyRunning", "StateDir", "StateError", "StateMissing", "holder", "inspect", "read_file", "trouble_with"]

_MIGRATIONS: tuple[Callable[[int], None], ...] = ()
"""What makes layout 2 of layout 1, layout 3 of that, and so on: each is given the directory's descriptor, and may have
been broken off in the middle before. What was once released never changes."""

_VERSION = "version"
_LONGEST_VERSION = 64
_UNFINISHED = ".unfinished-"


class StateError(Exception):
    """The state directory, or a file in it, cannot be used. The message names the path and the remedy."""


class StateMissing(StateError):  # noqa: N818 - it is a StateError, and reads as one
    """There is no state directory: no service has run with these settings."""


@dataclass(slots=True)
class StateDir:
    """The state directory of a service, open and checked.

    Attributes:
        path: as it was given, made absolute.
        fd: descriptor of the directory itself; what is done through it cannot be led elsewhere by a rename.
    """

    path: Path
    fd: int
    _lock: Lock | None = field(default=None, init=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the directory (0700) if need be, open it and check that it is ours alone.

        A symlink is followed: a state directory kept elsewhere is legitimate, and its target is what is checked.

        Raises:
            StateError: it cannot be made or opened, somebody else owns or can write it, or it was written by a newer
                journal-watcher.
        """
        path = path.absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = _make(path)
            fd = _open_directory(path)
        except OSError as error:
            remedy = remedy_of_machine(error)
            remedy = remedy or "make it a directory of the user that runs journal-watcher, or set another state_dir"
            raise StateError(f"cannot use {printable(path)} as state directory: {error.strerror}; {remedy}") from error
        directory = cls(path, fd)
        try:
            if made:
                os.fchmod(fd, 0o700)  # whatever the umask took away
            _check_ours(path, os.fstat(fd))
            directory._check_layout()
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Give the lock back, where we hold it, and close the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self) -> None:
        """Take the lock for the life of this process, and clear away what a crashed predecessor left half-written.

        The clearing waits for the lock, since before it the unfinished files may be those of a living service.

        Raises:
            AlreadyRunning: another service holds it.
            StateError: the lock cannot be asked for (no rights, no space, a file system without locks).
        """
        try:
            self._lock = Lock.take(self.fd)
            self._migrate()
            for name in os.listdir(self.fd):
                if name.startswith(_UNFINISHED):
                    _unlink_if_there(name, self.fd)
        except OSError as error:
            raise trouble_with(self.path / LOCK_NAME, error) from error

    def write_atomically(self, name: str, data: bytes, *, fsync: bool = False) -> None:
        """Replace the file `name` (0600) by `data`: a reader sees the old bytes or the new ones, whole.

        Args:
            name: a plain name inside the directory.
            data: the whole content.
            fsync: make it outlive a power cut also.

        Raises:
            StateError: it cannot be written; the old file stays as it was.
        """
        assert name not in ("", ".", "..", LOCK_NAME), name
        assert "/" not in name, name
        unfinished = f"{_UNFINISHED}{name}.{secrets.token_hex(4)}"
        try:
            try:
                _write(unfinished, data, os.O_EXCL, self.fd, fsync=fsync)
                os.rename(unfinished, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            except BaseException:
                _unlink_if_there(unfinished, self.fd)
                raise
            if fsync:
                os.fsync(self.fd)
        except OSError as error:
            raise trouble_with(self.path / name, error) from error

    def read(self, name: str, limit: int) -> bytes | None:
        """The first `limit` bytes of the file `name`; None where there is none.

        Raises:
            StateError: it cannot be read, or is no plain file.
        """
        try:
            return _read(name, limit, self.fd)
        except OSError as error:
            raise trouble_with(self.path / name, error) from error

    def _migrate(self) -> None:
        """Bring an older directory to the layout of this program; under the lock."""
        layout = int(self.read(_VERSION, _LONGEST_VERSION) or _layout())
        for step, migrate in enumerate(_MIGRATIONS[layout - 1 :], layout + 1):
            migrate(self.fd)
            self.write_atomically(_VERSION, f"{step}\n".encode(), fsync=True)

    def _check_layout(self) -> None:
        text = self.read(_VERSION, _LONGEST_VERSION)
        _check_version(self.path, text)
        if not text:
            try:
                _write(_VERSION, f"{_layout()}\n".encode(), os.O_TRUNC, self.fd, fsync=False)
            except OSError as error:
                raise trouble_with(self.path / _VERSION, error) from error


def _layout() -> int:
    """The layout that this program knows."""
    return len(_MIGRATIONS) + 1


def holder(path: Path) -> int | None:
    """The pid of the service that holds the lock of this state directory; None where nobody does.

    Returns:
        The pid as our pid namespace numbers it, 0 for a process outside it.

    Raises:
        StateMissing: there is no such directory.
        StateError: the lock may not be read.
    """
    with _reading(path) as directory_fd:
        try:
            return holder_of(directory_fd)
        except OSError as error:
            raise trouble_with(path / LOCK_NAME, error) from error


def inspect(path: Path) -> int | None:
    """Whether the service may use this state directory; nothing is changed or made.

    Returns:
        As :func:`holder`.

    Raises:
        StateMissing: there is no such directory.
        StateError: as :meth:`StateDir.open`.
    """
    with _reading(path) as directory_fd:
        _check_ours(path, os.fstat(directory_fd))
    _check_version(path, read_file(path, _VERSION, _LONGEST_VERSION))
    return holder(path)


def read_file(path: Path, name: str, limit: int) -> bytes | None:
    """The first `limit` bytes of a file in the state directory, for a command beside the service.

    Returns:
        None where there is no such file.

    Raises:
        StateMissing: there is no such directory.
        StateError: it cannot be read, or is no plain file.
    """
    with _reading(path) as directory_fd:
        try:
            return _read(name, limit, directory_fd)
        except OSError as error:
            raise trouble_with(path / name, error) from error


def trouble_with(path: Path, error: OSError) -> StateError:
    """What went wrong with a file of the state directory, as an error that names the remedy."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "free some space there"
        case errno.EROFS:
            remedy = "mount it read-write, or set another state_dir"
        case errno.EACCES | errno.EPERM:
            remedy = remedy_for_ours(error, path)
        case errno.ENOENT:
            remedy = "somebody has removed the directory: restart journal-watcher"
        case errno.ELOOP:
            remedy = "it must not be a symlink: remove it"
        case _:
            remedy = remedy_of_machine(error) or "see to that file system, or set another state_dir"
    return StateError(f"cannot use {printable(path)}: {error.strerror}; {remedy}")


def _check_ours(path: Path, found: os.stat_result) -> None:
    us, owner, where = os.geteuid(), found.st_uid, printable(path)
    if owner not in (us, 0):
        raise StateError(
            f"the state directory {where} belongs to uid {owner}, and we run as uid {us}: "
            f"run journal-watcher as uid {owner}, or `chown {us} {where}`, or set another state_dir"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateError(
            f"the state directory {where} (mode {stat.S_IMODE(found.st_mode):04o}) can be written by others: "
            f"`chmod 700 {where}`, or set another state_dir"
        )


def _check_version(path: Path, text: bytes | None) -> None:
    where = printable(path)
    if not text:
        return  # none yet, or a crash right after its creation
    if not text.strip().isdigit():
        raise StateError(
            f"{where}/{_VERSION} does not hold a version: if {where} is a state directory of journal-watcher, "
            "remove that file, else set another state_dir"
        )
    if int(text) > _layout():
        raise StateError(
            f"the state directory {where} was written by a newer journal-watcher (layout {int(text)}, this one "
            f"knows {_layout()}): upgrade journal-watcher, or set another state_dir"
        )


@contextmanager
def _reading(path: Path) -> Iterator[int]:
    try:
        directory_fd = _open_directory(path)
    except FileNotFoundError as error:
        raise StateMissing(f"no state directory {printable(path)}: `run` has not made it yet") from error
    except OSError as error:
        raise trouble_with(path, error) from error
    try:
        yield directory_fd
    finally:
        os.close(directory_fd)


def _make(path: Path) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    return True


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _read(name: str, limit: int, directory_fd: int) -> bytes | None:
    # O_NONBLOCK: a FIFO of that name must not hold us up.
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _write(name: str, data: bytes, how: int, directory_fd: int, *, fsync: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | how
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory_fd), "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        if fsync:
            os.fsync(file.fileno())


def _unlink_if_there(name: str, directory_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=directory_fd)
    except FileNotFoundError:
        pass
