"""What an agent can swap for what: a pair, and what is exchanged with one of its names in a single system call."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hostile import Host
from tests.pairs import Bytes, super_trailer

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path | str, other: Path | str) -> None:
    """Let two names change places, at once (renameat2(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(one))


Make = Callable[[Path, bytes, Path], object]
"""Makes what takes a name's place: told where the host's own files are, the bytes of a hot journal, and where to."""


def _link(target: str) -> Make:
    return lambda outside, _, path: path.symlink_to(outside / target)


def _hard_link(target: str) -> Make:
    return lambda outside, _, path: os.link(outside.parent / "elsewhere" / target, path)


def _fifo(_outside: Path, _journal: bytes, path: Path) -> None:
    os.mkfifo(path)


def _other_journal(_outside: Path, journal: bytes, path: Path) -> None:
    path.write_bytes(journal)


def _super_journal(outside: Path, journal: bytes, path: Path) -> None:
    path.write_bytes(journal + super_trailer(os.fsencode(outside / "victim-mj0123459AB")))


DATABASE, JOURNAL, SESSION, PARENT = "g/s/outbound.db", "g/s/outbound.db-journal", "g/s", "g"
KINDS: dict[str, tuple[str, Make]] = {
    "database for a link": (DATABASE, _link("outbound.db")),
    "journal for a link": (JOURNAL, _link("outbound.db-journal")),
    "session directory for a link": (SESSION, _link(".")),
    "directory above for a link": (PARENT, _link("sessions")),
    "database for a hard link": (DATABASE, _hard_link("outbound.db")),
    "journal for a hard link": (JOURNAL, _hard_link("outbound.db-journal")),
    "database for a FIFO": (DATABASE, _fifo),
    "journal for a FIFO": (JOURNAL, _fifo),
    "journal for another": (JOURNAL, _other_journal),
    "journal for one with a super-journal": (JOURNAL, _super_journal),
}
"""What is swapped, by its name below the root, and for what."""


@contextmanager
def racing(host: Host, pair: Bytes, kind: str) -> Iterator[None]:
    """A process that puts a crashed pair down, swaps, and swaps back, again and again, at uneven moments."""
    staging = host.outside.parent / "staging"
    pair.put(staging / "good" / "g" / "s" / "outbound.db")
    asked = json.dumps([kind, os.fspath(staging), os.fspath(host.root), os.fspath(host.outside)])
    racer = subprocess.Popen(
        [sys.executable, "-c", _RACER, asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "racing\n"
        yield
        assert racer.poll() is None, "the racer has ended"
    finally:
        racer.kill()
        racer.communicate()
        shutil.rmtree(staging)


# The pair is made anew where it was recovered: as a whole beside the tree, then put into its place. What was swapped in
# is made anew where its name was deleted, as it may be in the moment after the last look at that name.
_RACER = """
import itertools, json, os, pathlib, random, shutil, sys, time
sys.path.insert(0, os.getcwd())
from tests.swaps import KINDS, exchange
kind, staging, root, outside = json.loads(sys.argv[1])
which, make = KINDS[kind]
name, place, evil = os.path.join(root, which), os.path.join(root, "g"), os.path.join(staging, "evil")
journal = pathlib.Path(staging, "good", "g", "s", "outbound.db-journal").read_bytes()

def make_evil():
    if os.path.lexists(evil):
        shutil.rmtree(evil) if os.path.isdir(evil) and not os.path.islink(evil) else os.unlink(evil)
    make(pathlib.Path(outside), journal, pathlib.Path(evil))

def pause(*choices):
    until = time.perf_counter() + random.choice(choices)
    while time.perf_counter() < until:
        pass

make_evil()
for count in itertools.count():
    fresh = os.path.join(staging, str(count))
    shutil.copytree(os.path.join(staging, "good", "g"), fresh)
    if count:
        exchange(fresh, place)
        shutil.rmtree(fresh, ignore_errors=True)  # a recovery may just be deleting a journal in it
    else:
        os.rename(fresh, place)
        print("racing", flush=True)
    for _ in range(random.randint(0, 3)):
        pause(0, 0.0002, 0.001, 0.003)
        try:
            exchange(name, evil)
        except FileNotFoundError:
            break  # recovered
        pause(0, 0.0001, 0.0005)
        try:
            exchange(name, evil)
        except FileNotFoundError:
            make_evil()
            break
    pause(0, 0, 0.001)
"""
