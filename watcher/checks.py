"""Is this machine, with these settings, able to do what the service is for? What `check` tells."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

import apsw

from watcher.filesystem import file_system_of
from watcher.names import counted, printable
from watcher.records.hooks import programs_of, trouble_with_program
from watcher.records.state_dir import StateError, StateMissing, holder, inspect
from watcher.settings import LocksMode, Settings
from watcher.tree import SUFFIX, Gone, Place, RootMissingError, Tree, UnsafeError
from watcher.writable import Unwritable, is_database, unwritable, user_of

__all__ = ["Check", "Level", "run_checks", "worst"]

_LEAST_SQLITE = (3, 54, 0)
_SET_A_PROBE = (
    "set owner.pid_file, owner.container or owner.command: without one, no journal is recovered that is newer than the"
    " last start of this machine"
)
_EFFECTIVE = os.access in os.supports_effective_ids
_MOST_OPENED = 1000
"""Files of a directory that are looked into: one that is full of others is no session."""
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked. `remedy` is None where all is well."""

    name: str
    level: Level
    detail: str
    remedy: str | None = None

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "level": self.level.value, "detail": self.detail, "remedy": self.remedy}


def worst(checks: list[Check]) -> Level:
    """The level of the whole."""
    levels = {each.level for each in checks}
    return next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)


def run_checks(settings: Settings) -> list[Check]:
    """All checks, in the order in which a person would look. They change nothing."""
    tree = Tree(settings.tree)
    checks = [Check("settings", Level.OK, f"{printable(settings.file)} is valid"), _check_sqlite()]
    checks.append(_check_state_dir(settings))
    checks.extend(_check_log(settings))
    checks.extend(_check_hooks(settings))
    checks.extend(_check_listening(settings))
    try:
        root = tree.open_root()
    except RootMissingError as error:
        is_there = os.path.lexists(settings.tree.root)
        remedy = "see to its rights" if is_there else "create or mount it; run waits for it"
        if error.errno == errno.ENOTDIR:
            remedy = "name the directory that holds the sessions (tree.root)"
        level = Level.ERROR if is_there else Level.WARNING
        checks.append(Check("root", level, f"{printable(settings.tree.root)}: {error.strerror}", remedy))
        return checks
    try:
        file_system = file_system_of(root)
    finally:
        os.close(root)
    found = unwritable(tree)
    databases = counted(found.databases_seen, "database")
    directories = counted(found.directories_seen, "directory", "directories")
    detail = f"{printable(settings.tree.root)}: {databases} in {directories}"
    checks.append(Check("root", Level.OK, detail))
    checks.extend(_check_elsewhere(settings, has_any=found.databases_seen > 0))
    if found.shut:
        checks.append(_told_shut(found.shut))
    checks.append(_check_rights(found))
    checks.append(_check_locks(settings, file_system.name, is_local=file_system.is_local))
    checks.append(_check_watches(tree))
    return checks


def _check_sqlite() -> Check:
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) >= _LEAST_SQLITE:
        return Check("sqlite", Level.OK, f"SQLite {version}")
    return Check("sqlite", Level.ERROR, f"SQLite {version} is too old", "pip install 'apsw>=3.54'")


def _check_state_dir(settings: Settings) -> Check:
    path = settings.state_dir
    shown = printable(path)
    try:
        pid = inspect(path)
    except StateMissing:
        parent = next(each for each in path.parents if os.path.exists(each))
        if os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
            return Check("state_dir", Level.OK, f"{shown} will be made")
        return Check(
            "state_dir", Level.ERROR, f"{shown} cannot be made by us in {printable(parent)}", "set another state_dir"
        )
    except StateError as error:
        return Check("state_dir", Level.ERROR, str(error), "mend that, or set another state_dir")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
        remedy = "mount it read-write, or set another state_dir" if _is_read_only(str(path)) else "run as its owner"
        return Check("state_dir", Level.ERROR, f"{shown} may not be written by us", remedy)
    running = "no service runs" if pid is None else f"the service runs (pid {pid})"
    return Check("state_dir", Level.OK, f"{shown}; {running}")


def _check_log(settings: Settings) -> Iterator[Check]:
    path = settings.log.file
    if path is None:
        return
    shown, wish = printable(path), os.W_OK
    if os.path.lexists(path):
        is_fit, what = not os.path.isdir(path), path
    else:  # it is made, and its directory, too
        what = next(each for each in path.parents if os.path.lexists(each))
        is_fit, wish = os.path.isdir(what), os.W_OK | os.X_OK
    if not is_fit:
        wanted = "a directory is in its place" if what == path else f"{printable(what)} is no directory"
        yield Check("log", Level.ERROR, f"{shown}: {wanted}", "set another log.file")
    elif not os.access(what, wish, effective_ids=_EFFECTIVE):
        yield Check(
            "log", Level.ERROR, f"{shown} cannot be written by us", "set another log.file, or see to its rights"
        )
    else:
        yield Check("log", Level.OK, f"{shown} may be written by us")


def _check_elsewhere(settings: Settings, *, has_any: bool) -> Iterator[Check]:
    """Databases below the root that the settings leave out, though no pattern of tree.exclude does: all of them where
    nothing else is there, else those alone beside which a journal lies."""
    tree = Tree(settings.tree)
    bare = Tree(settings.tree.model_copy(update={"layout": None, "databases": ("*",)}))
    count, first = 0, ""
    for directory, files in bare.walk():
        names = set(files)
        candidates = [name for name in files if name + SUFFIX in names or not (has_any or name.endswith(SUFFIX))]
        for name in candidates[:_MOST_OPENED]:
            if tree.holds_databases(Place(directory, name).parts) and tree.admits_database(name):
                continue
            with suppress(Gone, UnsafeError, OSError):
                if _is_database(bare, directory, name):
                    count += 1
                    first = first or Place(directory, name).relative
    if not count:
        return
    are = "lies" if count == 1 else "lie"
    where = f"{are} below the root where {_rules_of(settings)} have none, first {printable(first)}"
    if has_any:  # an agent may have databases of its own, at which no host looks
        yield Check("tree", Level.OK, f"{counted(count, 'database')} with a journal {where}")
    else:
        yield Check(
            "tree",
            Level.WARNING,
            f"{counted(count, 'database')} {where}",
            "nothing looks after them: let tree.layout and tree.databases fit, or name them in tree.exclude",
        )


def _is_database(tree: Tree, directory: str, name: str) -> bool:
    descriptor = tree.enter(directory)
    try:
        # What we may not read is no database here: there it would be taken for one.
        may_be = os.access(name, os.R_OK, dir_fd=descriptor, effective_ids=_EFFECTIVE)
        return may_be and os.stat(name, dir_fd=descriptor).st_size > 0 and is_database(name, descriptor)
    finally:
        os.close(descriptor)


def _rules_of(settings: Settings) -> str:
    tree = settings.tree
    databases = f"tree.databases ({', '.join(map(printable, tree.databases))})"
    return databases if tree.layout is None else f"tree.layout ({printable(str(tree.layout))}) and {databases}"


def _told_shut(shut: list[str]) -> Check:
    count = counted(len(shut), "directory", "directories")
    detail = f"{count} may not be entered by us (uid {os.geteuid()}), first {printable(shut[0])}"
    return Check(
        "readable", Level.WARNING, detail, "let us in, or, where no session lies in there, name it in tree.exclude"
    )


def _check_hooks(settings: Settings) -> Iterator[Check]:
    for outcome, argv in programs_of(settings.hooks).items():
        name = f"hooks.{outcome.value}"
        trouble = trouble_with_program(argv[0])
        if trouble is None:
            yield Check(name, Level.OK, f"runs {printable(argv[0])}")
        else:
            yield Check(name, Level.ERROR, trouble, f"see to it, or change {name}")


def _check_listening(settings: Settings) -> Iterator[Check]:
    listen = settings.metrics.listen
    if listen is None:
        return
    host, _, port = listen.rpartition(":")
    everybody = "" if ip_address(host.strip("[]")).is_loopback else "; whoever reaches this address may read it"
    try:
        running = holder(settings.state_dir) is not None
    except StateError:
        running = False
    if running:  # it has the address itself
        yield Check("metrics", Level.OK, f"the service listens on {listen}{everybody}")
        return
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        detail = f"cannot listen on {listen}: {error.strerror}"
        remedy = "end the program that has it, or change metrics.listen"
        if error.errno == errno.EADDRNOTAVAIL:
            remedy = "change metrics.listen to an address of this machine"
        yield Check("metrics", Level.ERROR, detail, remedy)
    else:
        yield Check("metrics", Level.OK, f"{listen} is free{everybody}")


def _check_rights(found: Unwritable) -> Check:
    if not found.any:
        return Check("writable", Level.OK, f"{counted(found.databases_seen, 'database')} may be written by us")
    who = user_of(found.owners.most_common(1)[0][0])
    if found.example is not None and _is_read_only(found.example):
        remedy = "mount that file system read-write: as it is, SQLite can roll nothing back there"
    elif found.gift is not None:
        remedy = found.gift + (f", and so for {found.gifts - 1} more" if found.gifts > 1 else "")
    else:
        remedy = f"run journal-watcher as {who}, or as a user who may write them and their directories"
    return Check("writable", Level.ERROR, found.told(), remedy)


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:  # it has gone meanwhile
        return False


def _check_locks(settings: Settings, file_system: str, *, is_local: bool) -> Check:
    """What locks can tell there. Whether they stand alone is what `run` says as `locks_only`."""
    owner = settings.owner
    others = any(each is not None for each in (owner.pid_file, owner.container, owner.command))
    none = "no other probe is set"
    if owner.heartbeat is not None:
        none = "a heartbeat only tells that a writer lives, never that it has exited"
    if owner.locks is LocksMode.OFF:
        detail = "locks are not asked (owner.locks: off)"
        if others:
            return Check("locks", Level.OK, detail)
        return Check("locks", Level.ERROR, f"{detail}, and {none}", _SET_A_PROBE)
    if owner.locks is LocksMode.TRUST and not is_local:
        return Check(
            "locks",
            Level.WARNING,
            f"owner.locks: trust on {file_system}: a writer elsewhere whose locks do not show here would be taken for"
            " dead, and its database corrupted",
            "be certain that every writer's locks are seen here, or set owner.locks: auto",
        )
    if is_local:
        alone = "" if others else "; only they tell whether a writer has exited"
        if alone and owner.heartbeat is not None:
            alone = "; only they tell that a writer has exited, the heartbeat that it lives"
        return Check("locks", Level.OK, f"{file_system}: locks are this kernel's own{alone}")
    detail = f"{file_system}: locks of writers elsewhere do not show"
    if others:
        return Check("locks", Level.OK, f"{detail}, so they only say alive")
    return Check("locks", Level.ERROR, f"{detail}, and {none}", _SET_A_PROBE)


def _check_watches(tree: Tree) -> Check:
    links: list[str] = []
    directories = sum(1 for _ in tree.walk(links=links.append))
    shown = counted(directories, "directory", "directories")
    if links:
        are = "is" if len(links) == 1 else "are"
        shown += f"; {counted(len(links), 'link')} where the layout has directories {are} not followed, first "
        shown += printable(links[0])
    if sys.platform != "linux":
        return Check("watch", Level.OK, shown)
    limit = int(_WATCHES.read_text(encoding="ascii"))
    detail = f"{shown}; fs.inotify.max_user_watches is {limit}"
    if directories * 10 > limit * 9:
        remedy = f"sysctl fs.inotify.max_user_watches={max(2 * directories, 8192)}"
        return Check("watch", Level.WARNING, f"{detail}: what is not watched is met by the sweep only", remedy)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < 256:
        return Check("watch", Level.WARNING, f"only {files} descriptors may be open", "ulimit -n 1024")
    return Check("watch", Level.OK, detail)
