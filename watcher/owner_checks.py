"""What `check` tells of the probes that ask others: container engines, and the user's own command."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from watcher.checks import Check, Level
from watcher.names import printable
from watcher.owner.testimony import Subject
from watcher.settings import ContainerSettings, Settings
from watcher.tree import O_PATH, Gone, Place, RootMissingError, Tree, UnsafeError

if TYPE_CHECKING:
    from watcher.owner.engine_check import Survey

__all__ = ["check_owners"]

_MOST_TOLD = 5
_NO_DATABASE = ("-journal", "-wal", "-shm")


def check_owners(settings: Settings) -> list[Check]:
    """Ask the engine that the settings name, or look for one that they should name; and look at the command."""
    found = list(_check_command(settings))
    if settings.owner.container is not None:
        found.extend(_check_engine(settings, settings.owner.container))
    elif settings.owner.pid_file is None and settings.owner.command is None:
        found.extend(_check_for_engine(settings))
    return found


def _check_command(settings: Settings) -> Iterator[Check]:
    if settings.owner.command is None:
        return
    program = settings.owner.command.argv[0]
    if shutil.which(program) is None:
        detail = f"{printable(program)} is no program that we may run (uid {os.geteuid()})"
        yield Check("command", Level.ERROR, detail, "mend owner.command.argv, or chmod +x it")
    else:
        yield Check("command", Level.OK, f"{printable(program)} is there")


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


def _told(found: Survey) -> Check:
    owners = [f"{each.container} of {each.database} by {each.by}" for each in found.found]
    shown = "; ".join(owners[:_MOST_TOLD]) + (
        f"; and {len(owners) - _MOST_TOLD} more" if len(owners) > _MOST_TOLD else ""
    )
    owned = len({each.database for each in found.found})
    detail = f"{owned} databases have a live container{f' ({shown})' if shown else ''}, {found.without} have none"
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


def _subjects(tree: Tree) -> Iterator[Subject]:
    """A question about each database of the tree, whether it has a journal or not."""
    for directory, files in tree.walk():
        if not tree.holds_databases(Place(directory, "").parts):
            continue
        names = [name for name in files if tree.admits_database(name) and not name.endswith(_NO_DATABASE)]
        for name in names[:1]:  # the directory is what counts
            place = Place(directory, name)
            with suppress(Gone, UnsafeError, FileNotFoundError), _opened(tree, place) as (directory_fd, database_fd):
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
def _opened(tree: Tree, place: Place) -> Iterator[tuple[int, int]]:
    directory_fd = tree.enter(place.directory)
    try:
        flags = (O_PATH or os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        database_fd = os.open(place.name, flags, dir_fd=directory_fd)
        try:
            yield directory_fd, database_fd
        finally:
            os.close(database_fd)
    finally:
        os.close(directory_fd)
