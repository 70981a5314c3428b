"""Whether other settings can be had, which a reload asks before it stops anything.

Where they cannot, all is as it was: what was taken for them is given back.
"""

from __future__ import annotations

from watcher.log_setup import configure_log
from watcher.outward import Outward
from watcher.root_lock import RootLock, TreeTakenError
from watcher.root_presence import RootPresence
from watcher.settings import Settings, SettingsError, load_settings
from watcher.threads import REMEDY, may_have_threads

__all__ = ["RejectedError", "claim", "read_again"]

_THREADS_BESIDE_WORKERS = 14
"""At most so many, with a listener, an engine and hooks."""


class RejectedError(Exception):
    """The settings stay as they were. The message says why."""


def read_again(before: Settings) -> Settings:
    """The settings as their file has them now.

    Raises:
        RejectedError: they are bad, or differ in what only a start can take.
    """
    try:
        after = load_settings(before.file)
    except SettingsError as error:
        lines = str(error).splitlines()
        raise RejectedError("; ".join(line.removeprefix(f"{error.file}: ") for line in lines)) from error
    if (after.state_dir, after.instance) != (before.state_dir, before.instance):
        raise RejectedError(
            "state_dir and instance are taken at the start only; restart journal-watcher to change them"
        )
    return after


def claim(after: Settings, before: Settings, root: RootPresence, outward: Outward) -> RootLock | None:
    """Take what other settings need and may be refused: threads, the root, the log, and what is shown to the outside.

    Returns:
        The lock of their root, for :meth:`RootPresence.change_to`; None where that root is not there.

    Raises:
        RejectedError: one of them cannot be had; all is as it was.
    """
    # What is stopped for a reload cannot be put back where threads are refused: so it is tried before.
    if not may_have_threads(after.recovery.workers + _THREADS_BESIDE_WORKERS):
        raise RejectedError(f"the kernel gives us no threads for them: {REMEDY}, and reload again")
    try:
        lock = root.lock_for(after.tree.root, before.tree.root)
    except TreeTakenError as error:
        raise RejectedError(str(error)) from error
    try:
        configure_log(after.log, after.instance)
    except (ValueError, TypeError) as error:
        root.give_up(lock)
        raise RejectedError(str(error)) from error
    why_not = outward.change(after)
    if why_not is not None:
        root.give_up(lock)
        configure_log(before.log, before.instance)
        raise RejectedError(why_not)
    return lock
