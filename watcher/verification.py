"""`quick_check` and `integrity_check` of a recovered database, in a child process that can be killed.

They parse a schema that an agent has written, and compute its generated columns and indexed expressions: one of those
may take hours, and cannot be interrupted. So they run in a process of their own, with limits of time and memory, which
is exec'ed with no descriptor but the database's directory, gives up root before it parses anything, and ends with us.
(CHECK constraints are not among it: a read-only connection does not parse them, `sqlite3AddCheckConstraint`.)
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from enum import StrEnum

import apsw

from watcher.names import clipped
from watcher.settings import VerifyMode

__all__ = ["Health", "check"]

TIME_LIMIT_S = 120.0
_MEMORY_LIMIT_BYTES = 1 << 30
_MOST_MESSAGES = 5
_MOST_OUTPUT_BYTES = 1 << 16
_NOBODY = 65534
"""The overflow uid and gid of Linux, to whom nothing belongs; elsewhere they are as good as any."""
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_NO_NEW_PRIVS = 38


class Health(StrEnum):
    """What came of it."""

    SOUND = "sound"
    CORRUPT = "corrupt"
    UNKNOWN = "unknown"


def check(directory_fd: int, path: str, mode: VerifyMode, *, time_limit_s: float = TIME_LIMIT_S) -> tuple[Health, str]:
    """Check a database in a child process.

    Args:
        directory_fd: checked descriptor of its directory; the child inherits it.
        path: its path; it is opened by its name in that directory.
        mode: `quick` or `full`.
        time_limit_s: after so many seconds the child is killed.

    Returns:
        Its health, and SQLite's first messages, or why it is not known, in one line.
    """
    asked = json.dumps([directory_fd, os.fsencode(path).hex(), mode.value, os.getpid(), math.ceil(time_limit_s)])
    environment = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL") if key in os.environ}
    with subprocess.Popen(
        [sys.executable, "-I", "-B", "-m", "watcher.verification", asked],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(directory_fd,),
        env=environment,
        start_new_session=True,
    ) as child:
        output = _output(child, time.monotonic() + time_limit_s)
        child.kill()
    if output is None:
        return Health.UNKNOWN, f"it took longer than {time_limit_s:g} s"
    try:
        health, words = json.loads(output)
        return Health(health), clipped(str(words))
    except (ValueError, TypeError):
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        return Health.UNKNOWN, f"the process that checks it ended with {how}"


def _output(child: subprocess.Popen[bytes], until: float) -> bytes | None:
    """What the child says until it ends, as far as anybody wants to read it; None where it does not end in time.

    It has read a hostile file: were it taken over, it must not make us remember gigabytes.
    """
    assert child.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(said) < _MOST_OUTPUT_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            chunk = os.read(child.stdout.fileno(), 4096)
            if not chunk:
                break
            said += chunk
    try:
        child.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    return said


def _main() -> None:
    directory_fd, path, mode, parent, time_limit_s = json.loads(sys.argv[1])
    if not _dies_with(parent):
        return
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (time_limit_s + 1, time_limit_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    health, words = _check(directory_fd, os.fsdecode(bytes.fromhex(path)), VerifyMode(mode), parent)
    json.dump([health.value, words[:1000]], sys.stdout)


def _dies_with(parent: int) -> bool:
    """Let the kernel kill us when our parent ends (Linux). False where it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def _check(directory_fd: int, path: str, mode: VerifyMode, parent: int) -> tuple[Health, str]:
    from watcher.pinned import Pinned  # noqa: PLC0415 - the parent, which has them already, never comes here
    from watcher.rollback import reading  # noqa: PLC0415 - as above
    from watcher.tree import Gone, UnsafeError  # noqa: PLC0415 - as above

    pragma = "integrity_check" if mode is VerifyMode.FULL else "quick_check"
    try:
        database = Pinned(os.path.basename(path), "the database", directory_fd)
        with reading(database, directory_fd, path) as connection:
            # The lock is taken here, and the journal looked for: what comes needs no right to any file.
            connection.execute("BEGIN")
            connection.pragma("schema_version")
            _become_nobody()
            if not _dies_with(parent):  # again: the kernel forgets it when a process changes its user
                return Health.UNKNOWN, "the service has ended"
            rows = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}({_MOST_MESSAGES})")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return Health.CORRUPT, str(error)
    except (apsw.Error, Gone, UnsafeError, OSError, MemoryError) as error:
        return Health.UNKNOWN, f"{type(error).__name__}: {error}"
    return (Health.SOUND, "ok") if rows == ["ok"] else (Health.CORRUPT, "; ".join(rows))


def _become_nobody() -> None:
    """Where we are root: give that up for good, before the schema is parsed.

    Raises:
        OSError: the system refuses; then nothing is parsed.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


if __name__ == "__main__":
    _main()
