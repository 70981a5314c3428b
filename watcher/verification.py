"""`quick_check` and `integrity_check` of a recovered database, in a child process that can be killed.

They evaluate the CHECK constraints and generated columns of a schema that an agent has written: one of those may
compute for hours, and cannot be interrupted. So they run in a process of their own, with limits of time and memory,
which is exec'ed with no descriptor but the database's directory, and ends with us.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from enum import StrEnum

import apsw

from watcher.settings import VerifyMode

__all__ = ["Health", "check"]

TIME_LIMIT_S = 120
_MEMORY_LIMIT_BYTES = 1 << 30
_MOST_MESSAGES = 5
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Health(StrEnum):
    """What came of it."""

    SOUND = "sound"
    CORRUPT = "corrupt"
    UNKNOWN = "unknown"


def check(directory_fd: int, name: str, mode: VerifyMode, *, time_limit_s: float = TIME_LIMIT_S) -> tuple[Health, str]:
    """Check a database in a child process.

    Args:
        directory_fd: checked descriptor of its directory; the child inherits it.
        name: its file name.
        mode: `quick` or `full`.
        time_limit_s: after so many seconds the child is killed.

    Returns:
        Its health, and SQLite's first messages, or why it is not known, in one line.
    """
    argv = [sys.executable, "-I", "-m", "watcher.verification", str(directory_fd), name, mode.value, str(os.getpid())]
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if key in os.environ}
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(directory_fd,),
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return Health.UNKNOWN, f"it took longer than {time_limit_s:g} s"
    try:
        health, words = json.loads(output)
        return Health(health), str(words)
    except ValueError:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        return Health.UNKNOWN, f"the process that checks it ended with {how}"


def _main() -> None:
    directory_fd, name, mode, parent = int(sys.argv[1]), sys.argv[2], VerifyMode(sys.argv[3]), int(sys.argv[4])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT_S, TIME_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    health, words = _check(directory_fd, name, mode)
    json.dump([health.value, words], sys.stdout)


def _check(directory_fd: int, name: str, mode: VerifyMode) -> tuple[Health, str]:
    from watcher.rollback import reading  # noqa: PLC0415 - the parent, which has it already, never comes here

    pragma = "integrity_check" if mode is VerifyMode.FULL else "quick_check"
    try:
        with reading(directory_fd, name) as connection:
            rows = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}({_MOST_MESSAGES})")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return Health.CORRUPT, str(error)
    except (apsw.Error, OSError, MemoryError) as error:
        return Health.UNKNOWN, f"{type(error).__name__}: {error}"
    return (Health.SOUND, "ok") if rows == ["ok"] else (Health.CORRUPT, "; ".join(rows))


if __name__ == "__main__":
    _main()
