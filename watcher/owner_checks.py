"""What `check` tells of the probes: the files that they look at, the user's own command, and container engines."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from watcher.checks import Check, Level
from watcher.met import O_PATH
from watcher.names import counted, printable
from watcher.owner.clock import WallClock
from watcher.owner.command import CommandProbe
from watcher.owner.heartbeat import HeartbeatProbe
from watcher.owner.pid_file import PidFileProbe
from watcher.owner.testimony import Answer, Evidence, Subject
from watcher.settings import CommandSettings, ContainerSettings, HeartbeatSettings, Settings, expand
from watcher.tree import Gone, Place, RootMissingError, Tree, UnsafeError
from watcher.writable import is_database

if TYPE_CHECKING:
    from watcher.owner.engine_check import Survey

__all__ = ["check_owners"]

_MOST_TOLD = 5
_NO_DATABASE = ("-journal", "-wal", "-shm")


def check_owners(settings: Settings) -> list[Check]:
    """Look at what the probes look at, ask the command once, and the engine that the settings name, or look for one
    that they should name."""
    owner, tree = settings.owner, Tree(settings.tree)
    found: list[Check] = []
    if owner.pid_file is not None:
        found.append(_check_pid_file(owner.pid_file, tree))
    if owner.heartbeat is not None:
        found.append(_check_heartbeat(owner.heartbeat, tree))
    if owner.command is not None:
        found.append(_check_command(owner.command, settings.file.parent, tree))
    if owner.container is not None:
        found.extend(_check_engine(settings, owner.container))
        return found
    if settings.tree.host_root is not None:
        detail = "tree.host_root has no effect: it is for the engine, and owner.container is not set"
        found.append(Check("host_root", Level.OK, detail))
    if owner.pid_file is None and owner.command is None:
        found.extend(_check_for_engine(settings))
    return found


def _check_pid_file(pattern: str, tree: Tree) -> Check:
    probe = PidFileProbe(pattern, WallClock())

    def tells(subject: Subject) -> Evidence | None:
        evidence = probe.ask(subject)
        return evidence if evidence.answer is Answer.UNKNOWN and evidence.pid is None else None

    return _files_told(
        "pid_file",
        pattern,
        tree,
        useless=tells,
        fault="without a pid, so journals there are held",
        remedy=f"let the writer write its pid into {printable(pattern)}, whole, or change owner.pid_file",
    )


def _check_heartbeat(settings: HeartbeatSettings, tree: Tree) -> Check:
    probe = HeartbeatProbe(settings)

    def tells(subject: Subject) -> Evidence | None:
        plain = stat.S_ISREG(os.lstat(_beside(subject, settings.file)).st_mode)
        return None if plain else probe.ask(subject)

    return _files_told(
        "heartbeat",
        settings.file,
        tree,
        useless=tells,
        fault="without effect",
        remedy=f"let the writer touch a plain file {printable(settings.file)}, or change owner.heartbeat.file",
    )


def _files_told(
    name: str, pattern: str, tree: Tree, *, useless: Callable[[Subject], Evidence | None], fault: str, remedy: str
) -> Check:
    """How many directories have the file of a probe, and how many of these files are of no use to it.

    Args:
        useless: the probe's word on such a file; None where it is of use.
    """
    sessions = having = 0
    faults: list[str] = []
    for subject in _subjects_if_any(tree):
        sessions += 1
        with suppress(FileNotFoundError):  # it has gone meanwhile
            if os.path.lexists(_beside(subject, pattern)):
                having += 1
                evidence = useless(subject)
                if evidence is not None:
                    faults.append(f"in {printable(os.path.dirname(subject.path))}: {evidence.detail}")
    shown = printable(pattern)
    if sessions and not having:
        key = "owner.pid_file" if name == "pid_file" else "owner.heartbeat.file"
        detail = f"none of {counted(sessions, 'directory', 'directories')} with databases has {shown}"
        return Check(name, Level.OK, f"{detail}: if a writer has run there, its file is not what {key} says")
    detail = f"{having} of {counted(sessions, 'directory', 'directories')} with databases have {shown}"
    if faults:
        return Check(name, Level.WARNING, f"{detail}; {len(faults)} of these {fault}, first {faults[0]}", remedy)
    return Check(name, Level.OK, detail)


def _beside(subject: Subject, pattern: str) -> str:
    return os.path.join(os.path.dirname(subject.path), expand(pattern, subject.session))


def _check_command(command: CommandSettings, cwd: Path, tree: Tree) -> Check:
    """Ask it about one database, as `run` would."""
    subjects = _subjects_if_any(tree)
    subject = next(subjects, None)
    unasked = "was not asked, for the tree has no database yet"
    try:
        program = expand(command.argv[0], {} if subject is None else subject.session)
    except KeyError:  # which program it is depends on the session
        return Check("command", Level.OK, f"{printable(command.argv[0])} {unasked}")
    if shutil.which(program) is None:
        detail = f"{printable(program)} is no program that we may run (uid {os.geteuid()})"
        return Check("command", Level.ERROR, detail, "mend owner.command.argv, or chmod +x it")
    if subject is None:
        return Check("command", Level.OK, f"{printable(program)} is there; it {unasked}")
    probe = CommandProbe(command, cwd)
    try:
        evidence = probe.ask(subject)
    finally:
        probe.close()
        subjects.close()
    detail = f"{evidence.detail} (asked about {printable(subject.path)})"
    if evidence.answer is not Answer.UNKNOWN:
        return Check("command", Level.OK, detail)
    remedy = (
        "let owner.command end with status 0 where the owner lives and 1 where it has exited, within"
        f" {command.timeout:g} s: until it does, journals are held"
    )
    return Check("command", Level.ERROR, detail, remedy)


def _check_for_engine(settings: Settings) -> Iterator[Check]:
    """Settings without a container section, and an engine that answers and mounts the tree: locks alone decide."""
    from watcher.owner.engine_check import default_engine_mounts  # noqa: PLC0415 - the docker SDK, only where wanted

    mounted = default_engine_mounts(settings.tree.root)
    if mounted is not None:
        yield Check(
            "engine",
            Level.WARNING,
            f"{mounted}, and no probe asks the engine: locks alone decide whether a writer has exited",
            "set owner.container (see settings.example.yaml)",
        )


def _check_engine(settings: Settings, container: ContainerSettings) -> Iterator[Check]:
    from watcher.owner import engine_check  # noqa: PLC0415 - the docker SDK, only where it is wanted
    from watcher.owner.container import ContainerProbe  # noqa: PLC0415
    from watcher.owner.engine_errors import EngineLostError  # noqa: PLC0415

    tree = settings.tree
    probe = ContainerProbe(container, host_root=tree.host_root, root=tree.root, state_dir=None)
    try:
        engine = engine_check.describe(probe)
        if not engine.reached:
            yield Check("engine", Level.ERROR, engine.detail, engine.remedy)
            return
        yield Check("engine", Level.OK, engine.detail)
        found = engine_check.survey(probe, _subjects(Tree(tree)))
    except EngineLostError as error:
        yield Check("engine", Level.ERROR, error.reason, error.remedy)
        return
    except RootMissingError:
        return  # told by the other checks
    finally:
        probe.close()
    yield _told(found)
    if found.blind:
        yield _told_blind(found, tree.host_root)


def _told(found: Survey) -> Check:
    owners = [f"{each.container} of {each.database} by {each.by}" for each in found.found]
    shown = "; ".join(owners[:_MOST_TOLD]) + (
        f"; and {len(owners) - _MOST_TOLD} more" if len(owners) > _MOST_TOLD else ""
    )
    owned = len({each.database for each in found.found})
    having, lacking = counted(owned, "database has", "databases have"), counted(found.without, "has", "have")
    detail = f"{having} a live container{f' ({shown})' if shown else ''}, {lacking} none"
    stray = [each for each in found.found if each.stray]
    if not stray:
        return Check("containers", Level.OK, detail)
    meant = f"; labels in use that look meant: {', '.join(found.meant)}" if found.meant else ""
    return Check(
        "containers",
        Level.WARNING,
        f"{detail}. {len(stray)} of them are known by their mounts alone: the labels or the name in owner.container do"
        f" not fit them, first {stray[0].container}",
        f"mend owner.container.labels or name{meant}",
    )


def _told_blind(found: Survey, host_root: Path | None) -> Check:
    detail = (
        f"of {counted(found.blind, 'database')} nobody could say that their writer has exited, and their journals would"
        f" be held: {found.hidden}, which is not to be found here and may be their directory"
    )
    otherwise = (
        "stop that container, or name it in owner.container.ignore once it is certain that it writes no database of"
        " this tree"
    )
    if host_root is not None:
        remedy = f"see that tree.host_root is the tree's path on the engine's host; where it is, {otherwise}"
        return Check("mounts", Level.WARNING, detail, remedy)
    if found.inside:
        remedy = f"set tree.host_root to the tree's path on the engine's host; where that does not help, {otherwise}"
        return Check("mounts", Level.ERROR, f"{detail}: we run in a container, without tree.host_root", remedy)
    remedy = f"where the service runs in a container, set tree.host_root; else {otherwise}"
    return Check("mounts", Level.WARNING, detail, remedy)


def _subjects_if_any(tree: Tree) -> Generator[Subject, None, None]:
    """Nothing where the tree is not there, which other checks tell."""
    with suppress(RootMissingError):
        yield from _subjects(tree)


def _subjects(tree: Tree) -> Iterator[Subject]:
    """A question about one database of each directory that has any, with a journal or without: the directory is what
    counts. Each is closed when the next one is asked for."""
    for directory, files in tree.walk():
        if not tree.holds_databases(Place(directory, "").parts):
            continue
        names = [name for name in files if tree.admits_database(name) and not name.endswith(_NO_DATABASE)]
        with suppress(Gone, UnsafeError, FileNotFoundError), _entered(tree, directory) as directory_fd:
            name = next((each for each in names if is_database(each, directory_fd)), None)
            if name is None:
                continue
            place = Place(directory, name)
            with _opened(name, directory_fd) as database_fd:
                yield Subject(
                    path=tree.path(place),
                    name=name,
                    session=tree.session(place),
                    directory_fd=directory_fd,
                    database_fd=database_fd,
                    journal_ctime_ns=time.time_ns(),
                    journal_mtime_ns=time.time_ns(),
                )


@contextmanager
def _entered(tree: Tree, directory: str) -> Iterator[int]:
    descriptor = tree.enter(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, directory_fd: int) -> Iterator[int]:
    flags = (O_PATH or os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
