"""What the service says about itself, its watch and its sweeps; what it says about journals is in `reports`."""

from __future__ import annotations

import os

from watcher.hints.sweep import Swept
from watcher.hints.trouble import Trouble
from watcher.names import printable
from watcher.records import log
from watcher.records.events import Event
from watcher.records.status import Watch
from watcher.settings import Settings
from watcher.version import VERSION

__all__ = ["of_trouble", "started", "swept"]


def started(settings: Settings, probes: list[str]) -> None:
    """The first line, and right behind it a word about settings that are seldom meant.

    Args:
        probes: names of the probes that the settings ask for, `boot` left out.
    """
    log.tell(
        Event.STARTED,
        f"journal-watcher {VERSION} (pid {os.getpid()}) for {settings.instance}: watches"
        f" {printable(settings.tree.root)}, owners by {', '.join(['boot', *probes])}; state in"
        f" {printable(settings.state_dir)}",
        version=VERSION,
        pid=os.getpid(),
        tree=settings.tree.root,
    )
    if probes == ["locks"]:
        log.tell(
            Event.LOCKS_ONLY,
            "only locks tell whether a writer has exited: that is right where every writer runs on this kernel and"
            " locks its database. Where agents run in containers or virtual machines, set owner.container,"
            " owner.pid_file or owner.command",
        )


def swept(sweep: Swept, settings: Settings) -> None:
    """A sweep that went through the tree."""
    log.tell(
        Event.SWEEP,
        f"{printable(settings.tree.root)}: {sweep.journals} journals in {sweep.duration_s * 1000:.0f} ms",
        journals=sweep.journals,
        duration_ms=round(sweep.duration_s * 1000, 1),
    )


def of_trouble(trouble: Trouble, watch: Watch) -> tuple[Event, str]:
    """The event and the message of a trouble that leaves the watch at work."""
    match trouble:
        case Trouble.OVERFLOW:
            return Event.OVERFLOW, "the kernel dropped file events; everything is looked at again now"
        case Trouble.UNREADABLE:
            return (
                Event.WATCH_LIMIT,
                (
                    f"{watch.missed} directories are not watched, for uid {os.geteuid()} may not enter them; see"
                    " journal-watcher check"
                ),
            )
        case _:
            return (
                Event.WATCH_LIMIT,
                (
                    f"{watch.missed} directories are not watched, for the kernel allows no more watches; the sweep"
                    " covers them. Raise fs.inotify.max_user_watches (sysctl) to have them watched"
                ),
            )
