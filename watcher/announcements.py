"""What the service says about itself, its watch and its sweeps; what it says about journals is in `reports`."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import ip_address

from watcher.advice import in_words
from watcher.hints.survey import UnreadError
from watcher.hints.sweep import Swept
from watcher.hints.trouble import Trouble
from watcher.names import counted, printable
from watcher.reconciler import Reconciler
from watcher.records import log
from watcher.records.events import Event
from watcher.records.status import Status, Watch
from watcher.settings import Settings
from watcher.version import VERSION

__all__ = [
    "of_sweep",
    "of_trouble",
    "page_address",
    "read_only",
    "sentence",
    "started",
    "state",
    "swept",
    "waiting_for_root",
]

_MOST_JOURNALS = 100
_SHORTAGES = {
    Trouble.WATCH_LIMIT: (
        "the kernel allows no more watches",
        "Raise fs.inotify.max_user_watches (sysctl) to have them watched",
    ),
    Trouble.DESCRIPTORS: (
        "we may open no more files",
        "Raise our limit of them (ulimit -n, in a unit LimitNOFILE=) to have them watched",
    ),
    Trouble.MEMORY: ("the kernel has no memory for more watches", "Give the machine more memory to have them watched"),
}
"""Why, and what to do."""


def started(settings: Settings, probes: list[str], page: str | None) -> None:
    """The first line, and right behind it a word about settings that are seldom meant.

    Args:
        probes: names of the probes that the settings ask for, `boot` left out.
        page: where it is served.
    """
    log.tell(
        Event.STARTED,
        f"journal-watcher {VERSION} (pid {os.getpid()}) for {settings.instance}: watches"
        f" {printable(settings.tree.root)}, owners by {', '.join(['boot', *probes])}; state in"
        f" {printable(settings.state_dir)}{f'; the page is at {page}' if page else ''}",
        version=VERSION,
        pid=os.getpid(),
        tree=settings.tree.root,
        page=page,
    )
    if probes == ["locks"]:
        log.tell(
            Event.LOCKS_ONLY,
            "only locks tell whether a writer has exited: that is right where every writer runs on this kernel and"
            " locks its database. Where agents run in containers or virtual machines, set owner.container,"
            " owner.pid_file or owner.command",
        )
    elif set(probes) <= {"heartbeat"}:  # which only tells that a writer lives
        log.tell(
            Event.LOCKS_ONLY,
            "no probe can tell whether a writer has exited, not even locks (owner.locks: off): each journal that is"
            " newer than the last start of this machine is held. Set owner.container, owner.pid_file or owner.command",
        )


def page_address(settings: Settings) -> str | None:
    """Where a browser of this machine finds the page; None where there is none."""
    listen = settings.metrics.listen
    if listen is None or not settings.metrics.page:
        return None
    host, _, port = listen.rpartition(":")
    if ip_address(host.strip("[]")).is_unspecified:
        host = "[::1]" if host.startswith("[") else "127.0.0.1"
    return f"http://{host}:{port}/"


def swept(sweep: Swept, settings: Settings) -> None:
    """A sweep that went through the tree."""
    log.tell(
        Event.SWEEP,
        f"{printable(settings.tree.root)}: {sweep.journals} journals in {sweep.duration_s * 1000:.0f} ms",
        journals=sweep.journals,
        duration_ms=round(sweep.duration_s * 1000, 1),
    )


def of_sweep(error: OSError, settings: Settings) -> tuple[Event, str]:
    """The event and the message of a sweep that has not seen the whole tree."""
    sweep = f"the sweep of {printable(settings.tree.root)}"
    words = in_words(error)
    if isinstance(error, UnreadError):
        message = f"{sweep} could not read {printable(error.filename)}: {words}; the next one tries again"
    else:
        message = f"{sweep} ended early: {words}; the next one begins anew"
    return Event.WATCH_LIMIT, message


def waiting_for_root(settings: Settings) -> str:
    return f"waiting for {printable(settings.tree.root)}"


def read_only(settings: Settings) -> str:
    """The root has come back where we may not write."""
    return (
        f"{printable(settings.tree.root)} is there, but read-only in the view of the file system that we were started"
        " with: ending, to be started anew by the service manager with a fresh one"
    )


def sentence(status: Status) -> str:
    """How it goes, in one."""
    journals, watch = status.journals, status.watch
    missed = f" ({watch.missed} missed)" if watch.missed else ""
    engine = "; the container engine does not answer" if status.engine and not status.engine.get("answers") else ""
    known = f"{journals.hot} hot, {journals.waiting} waiting, {journals.held} held, {journals.refused} refused"
    recovered = status.recoveries.get("recovered", 0)
    where = printable(status.tree or "")
    directories = counted(watch.directories, "directory", "directories")
    return f"watching {directories} of {where}{missed}: {known}; {recovered} recovered{engine}"


def state(status: Status, words: str, reconciler: Reconciler) -> None:
    """All of it, once: a line for the whole, one for each journal that is known, and one for each worker at work."""
    log.tell(Event.STATE, words, backlog=reconciler.backlog(), status=replace(status, running=True).as_json())
    known = reconciler.known()
    for finding, for_s in known[:_MOST_JOURNALS]:
        log.tell(
            Event.STATE,
            f"{printable(finding.place.relative)}: {finding.decision.value} for {for_s:.0f} s: {finding.reason}",
            database=finding.path,
            decision=finding.decision.value,
            for_s=round(for_s, 1),
        )
    if len(known) > _MOST_JOURNALS:
        log.tell(Event.STATE, f"and {len(known) - _MOST_JOURNALS} journals more: see journal-watcher scan")
    for held in reconciler.held():
        log.tell(Event.STATE, f"{held.worker} is at {printable(held.place.relative)}")


def of_trouble(trouble: Trouble, watch: Watch) -> tuple[Event, str]:
    """The event and the message of a trouble that leaves the watch at work."""
    unwatched = counted(watch.missed, "directory is", "directories are")
    match trouble:
        case Trouble.OVERFLOW:
            return Event.OVERFLOW, "the kernel dropped file events; everything is looked at again now"
        case Trouble.UNREADABLE:
            return (
                Event.WATCH_LIMIT,
                (f"{unwatched} not watched, for uid {os.geteuid()} may not enter; see journal-watcher check"),
            )
        case Trouble.INSTANCE_LIMIT:
            return (
                Event.WATCH_LIMIT,
                (
                    "the tree is polled, for the kernel gives this user no more instances of inotify. Raise"
                    " fs.inotify.max_user_instances (sysctl) and restart journal-watcher to have it watched"
                ),
            )
        case _:
            what = unwatched if watch.missed else "the tree is"
            why, remedy = _SHORTAGES.get(trouble, _SHORTAGES[Trouble.WATCH_LIMIT])
            return Event.WATCH_LIMIT, f"{what} not watched, for {why}; the sweep covers them. {remedy}"
