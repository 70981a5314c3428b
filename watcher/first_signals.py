"""Signals that come while the service is still being loaded: a request to end is one already.

The package imports this before anything else, so it needs nothing that takes time to load.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["is_service", "listen", "taken"]

_ENDS = (signal.SIGTERM, signal.SIGINT)
_KEPT = (signal.SIGHUP, signal.SIGUSR1)

_came: list[int] = []


def is_service(argv: list[str], original: list[str]) -> bool:
    """Whether this process is `journal-watcher run`, and no other command or host program.

    Args:
        argv: `sys.argv`; while Python looks for what `-m` names, its first word is that option.
        original: `sys.orig_argv`.
    """
    if argv[1:2] != ["run"]:
        return False
    if argv[0] == "-m":
        return original[-len(argv)] in {"watcher", "-mwatcher"}
    return os.path.basename(argv[0]) == "journal-watcher"


def listen() -> None:
    """From now on SIGTERM and SIGINT end the process with status 0, and what is for the service alone is kept for it.

    :class:`watcher.signals.Signals` takes over.
    """
    for number in (*_ENDS, *_KEPT):
        signal.signal(number, _take)


def taken() -> list[int]:
    """What has come for the service; once it has taken over."""
    came = list(dict.fromkeys(_came))
    _came.clear()
    return came


def _take(number: int, _frame: FrameType | None) -> None:
    if number in _ENDS:
        os._exit(0)  # nothing has begun that would have to be ended
    _came.append(number)


if is_service(sys.argv, sys.orig_argv):
    listen()
