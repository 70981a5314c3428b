"""Storms: where writers commit without a pause the kernel is not asked about deletions, and nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.watching import LAYOUT, WatchedTree, wait_until, watching
from tests.writers import make_database, writing

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)

from watcher.hints.inotify_events import MUTED, RIPE, Closed, In
from watcher.hints.inotify_muting import Muting

# Two files with long names are closed by turns, which fills what is read. Nobody asks what they are.
_NOISE = """
import os, sys, time
names = [name * 200 for name in "ab"]
os.chdir(sys.argv[1])
while True:
    for name in names * 30:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    time.sleep(0.004)
"""
# What inotify sees of a commit in DELETE mode, some hundred times a second, wherever the directory is by now. Told a
# name, it closes that journal for the last time and goes on, unless it was its own.
_COMMITS = """
import os, select, sys, time

def close(name):
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=directory))

def open_directory():
    while True:
        try:
            return os.open(sys.argv[1], os.O_RDONLY)
        except FileNotFoundError:
            time.sleep(0.002)

directory = open_directory()
while True:
    try:
        close("busy.db-journal")
        os.unlink("busy.db-journal", dir_fd=directory)
        if select.select([0], [], [], 0.003)[0]:
            name = sys.stdin.readline().strip()
            close(name)
            print("closed", flush=True)
            if name == "busy.db-journal":
                sys.stdin.read()
    except FileNotFoundError:
        os.close(directory)
        directory = open_directory()
"""


class Busy:
    """A session whose writer commits again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _COMMITS, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def leave(self, name: str) -> None:
        """Close a journal that stays."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "closed\n"

    def end(self) -> None:
        with self._process as process:
            process.kill()


class Storm:
    def __init__(self, root: Path, sessions: tuple[str, ...]) -> None:
        self._noise = subprocess.Popen([sys.executable, "-S", "-c", _NOISE, root / "g" / "noise"])
        self.busy = {name: Busy(root / "g" / name) for name in sessions}

    def end(self) -> None:
        with self._noise as process:
            process.kill()
        for busy in self.busy.values():
            busy.end()


@contextmanager
def storm_over(tree: WatchedTree, *sessions: str) -> Iterator[Storm]:
    """Until the end of the body; all of these sessions are muted when it begins."""
    storm = Storm(tree.root, sessions)
    try:
        wait_until(lambda: all(is_muted(tree, f"g/{name}") for name in sessions), "the sessions muted")
        yield storm
    finally:
        storm.end()


def masks() -> dict[int, int]:
    """What the kernel is asked about each directory that this process watches, by the inode."""
    found = {}
    for descriptor in os.listdir("/proc/self/fdinfo"):
        try:
            lines = Path("/proc/self/fdinfo", descriptor).read_text().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            kind, *fields = line.split()
            if kind == "inotify":
                values = dict(field.split(":", 1) for field in fields[:4])
                found[int(values["ino"], 16)] = int(values["mask"], 16)
    return found


def is_muted(tree: WatchedTree, session: str) -> bool:
    """False, too, where it is not watched yet."""
    return not masks().get((tree.root / session).stat().st_ino, In.DELETE) & In.DELETE


def wait_for_everything_asked(tree: WatchedTree, *sessions: str) -> None:
    wait_until(lambda: not any(is_muted(tree, session) for session in sessions), "the deletions asked for")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for name in ("noise", "a", "b", "c"):
        (made / "g" / name).mkdir(parents=True)
    return made


@pytest.fixture(params=[LAYOUT, None], ids=["layout", "no-layout"])
def tree(root: Path, request: pytest.FixtureRequest) -> Iterator[WatchedTree]:
    with watching(root, request.param) as watched:
        yield watched


def test_deletions_are_asked_for_again_when_the_storm_is_over(tree: WatchedTree) -> None:
    with storm_over(tree, "a", "b"):
        assert not is_muted(tree, "g/c")
    wait_for_everything_asked(tree, "g/a", "g/b")
    tree.hints_until_now("g/c")
    commit(tree.root / "g" / "a" / "x.db-journal")
    assert tree.hints_until_now("g/a") == []


def test_live_writers_in_a_storm_cost_next_to_no_look(tree: WatchedTree) -> None:
    with storm_over(tree, "a", "b"):
        tree.hints_until_now("g/c")
        time.sleep(0.5)  # what is measured: some two hundred commits
        assert len(tree.hints_until_now("g/c")) < 10


def test_a_writer_killed_in_a_muted_directory_is_hinted(tree: WatchedTree) -> None:
    database = tree.root / "g" / "a" / "outbound.db"
    make_database(database)
    with writing(database) as writer, storm_over(tree, "a"):
        writer.tell("begin")
        tree.hints_until_now("g/c")
        writer.kill()
        tree.wait_for_hint("g/a/outbound.db")


@pytest.mark.parametrize("name", ["busy.db-journal", "other.db-journal"])
def test_a_journal_of_which_only_the_close_was_heard_is_hinted(tree: WatchedTree, name: str) -> None:
    with storm_over(tree, "a", "b") as storm:
        tree.hints_until_now("g/c")
        storm.busy["a"].leave(name)
        tree.wait_for_hint(f"g/a/{name.removesuffix('-journal')}")
        wait_for_everything_asked(tree, "g/a")


def test_a_journal_left_in_the_last_moment_of_a_storm_is_hinted(tree: WatchedTree) -> None:
    with storm_over(tree, "a", "b") as storm:
        tree.hints_until_now("g/c")
        storm.busy["a"].leave("last.db-journal")
    tree.wait_for_hint("g/a/last.db")


def test_a_muted_session_that_is_renamed_is_hinted_by_its_new_name(tree: WatchedTree) -> None:
    with storm_over(tree, "a") as storm:
        (tree.root / "g" / "a").rename(tree.root / "g" / "z")
        storm.busy["a"].leave("left.db-journal")
        tree.wait_for_hint("g/z/left.db")
    wait_for_everything_asked(tree, "g/z")


def test_a_session_made_in_the_place_of_a_muted_one_is_watched(tree: WatchedTree) -> None:
    with storm_over(tree, "a") as storm:
        (tree.root / "g" / "a").rename(tree.root / "g" / "old")
        (tree.root / "g" / "a").mkdir()
        storm.busy["a"].leave("left.db-journal")
        tree.wait_for_hint("g/old/left.db")
        tree.close_journal("g/a/new.db")
        tree.wait_for_hint("g/a/new.db")
    wait_for_everything_asked(tree, "g/a", "g/old")


def test_a_removed_session_is_forgotten(tree: WatchedTree) -> None:
    before = tree.source.directories
    with storm_over(tree, "a") as storm:
        storm.busy["a"].end()
        for file in (tree.root / "g" / "a").iterdir():
            file.unlink()
        (tree.root / "g" / "a").rmdir()
        wait_until(lambda: tree.source.directories == before - 1, "the session forgotten")
        assert tree.witness.troubles == []


def test_a_directory_removed_from_a_muted_one_is_forgotten(root: Path) -> None:
    inner = root / "g" / "a" / "inner"
    inner.mkdir()
    with watching(root) as tree:
        before = tree.source.directories
        with storm_over(tree, "a"):
            inner.rmdir()
            wait_until(lambda: tree.source.directories == before - 1, "the directory forgotten")
            inner.mkdir()
            tree.close_journal("g/a/inner/x.db")
            tree.wait_for_hint("g/a/inner/x.db")
            assert tree.source.directories == before


def test_more_journals_than_are_remembered_end_it_and_are_hinted(
    tree: WatchedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.hints.inotify_muting._MOST_HEARD", 100)
    monkeypatch.setattr("watcher.hints.inotify_muting._STILL_FOR", 1_000_000)
    names = [f"junk-{number}" for number in range(200)]
    with storm_over(tree, "a", "b"):
        for name in names:
            tree.close_journal(f"g/a/{name}")
        wait_for_everything_asked(tree, "g/a", "g/b")
        wait_until(lambda: {f"g/a/{name}" for name in names} <= set(tree.witness.paths), "each of them hinted")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_to_sessions_in_a_storm_each_journal_that_stays_is_hinted(
    tree: WatchedTree, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.hints.inotify_muting._SPARED_FOR", 0)
    chance = random.Random(seed)
    sessions = ["a", "b", "c"]
    group = tree.root / "g"

    def rename() -> None:
        new = f"{chance.choice('xyz')}{chance.randrange(100)}"
        (group / chance.choice(sessions)).rename(group / new)

    def change_places() -> None:
        one, other = chance.sample(sessions, 2)
        (group / one).rename(group / "between")
        (group / other).rename(group / one)
        (group / "between").rename(group / other)

    def make_anew() -> None:
        name = chance.choice(sessions)
        (group / name).rename(group / f"old{chance.randrange(100)}")
        (group / name).mkdir()

    steps: list[Callable[[], None]] = [rename, change_places, make_anew]
    with storm_over(tree, *sessions) as storm:
        for number in range(30):
            try:
                chance.choice(steps)()
            except OSError:  # there was none of this name, or there was one
                pass
            for name in sessions:
                (group / name).mkdir(exist_ok=True)
            storm.busy[chance.choice(sessions)].leave(f"left-{number}.db-journal")
            if chance.random() < 0.3:
                wait_until(lambda: any(is_muted(tree, f"g/{path.name}") for path in group.iterdir()), "one muted")
    left = {path.name for path in group.glob("*/left-*")}
    assert len(left) == 30
    wait_until(lambda: left <= {f"{Path(path).name}-journal" for path in tree.witness.paths}, "each of them hinted")
    wait_for_everything_asked(tree, *(f"g/{path.name}" for path in group.iterdir()))


# --- when, by the numbers of the reads ---

LOUD, CALM = 20_000, 500
WD = 7
JOURNAL = (WD, b"busy.db-journal\0")


class Asked:
    """In the place of the watches: what was asked for."""

    def __init__(self) -> None:
        self.muted: set[int] = set()
        self.times = 0

    def mute(self, wd: int) -> bool:
        self.muted.add(wd)
        self.times += 1
        return True

    def unmute(self, wd: int) -> None:
        self.muted.discard(wd)


class Reads:
    """One read after the other, with the same journal closed, and deleted where that is told."""

    def __init__(self) -> None:
        self.asked = Asked()
        self.closed: Closed = {}
        self.turn = 0
        self._muting = Muting(self.asked, self.closed)

    def __call__(self, times: int, size_bytes: int, *, commits: bool = True) -> None:
        for _ in range(times):
            self.turn += 1
            if commits and self.asked.muted:
                self.closed[JOURNAL] = self.turn
            elif commits:
                self._muting.gone.add(JOURNAL)
            self._muting.see(self.turn, size_bytes, storms=size_bytes > CALM)


def test_a_storm_must_have_lasted() -> None:
    read = Reads()
    read(7, LOUD)
    read(1, CALM)
    read(7, LOUD)
    assert not read.asked.muted
    read(1, LOUD)
    assert read.asked.muted == {WD}


def test_a_directory_that_is_heard_once_in_a_while_is_not_muted() -> None:
    read = Reads()
    for _ in range(10):
        read(7, LOUD, commits=False)
        read(1, LOUD)
    assert not read.asked.muted


def test_some_calm_reads_do_not_end_it() -> None:
    read = Reads()
    read(8, LOUD)
    read(3, CALM)
    assert read.asked.muted == {WD}
    read(1, LOUD)
    read(3, CALM)
    assert read.asked.muted == {WD}
    read(1, CALM)
    assert not read.asked.muted


def test_a_storm_that_comes_after_a_calm_is_one_like_the_first() -> None:
    read = Reads()
    for storm in (1, 2, 3):
        read(8, LOUD)
        assert read.asked.times == storm
        read(20, LOUD)
        assert read.asked.muted == {WD}
        read(4, CALM)
        assert not read.asked.muted
        read(1024, CALM, commits=False)


def test_a_writer_that_pauses_is_not_muted_again_for_a_while() -> None:
    read = Reads()
    read(8 + 1, LOUD)
    read(31, LOUD, commits=False)
    assert read.asked.muted == {WD}
    read(1, LOUD, commits=False)
    assert not read.asked.muted
    assert read.closed == {}
    read(1000, LOUD)
    assert read.asked.times == 1
    read(40, LOUD)
    assert read.asked.times == 2


def test_a_database_that_is_closed_behind_its_journal_ends_it_at_once() -> None:
    read = Reads()
    read(8 + 1, LOUD)
    read.closed[JOURNAL] = RIPE
    read(1, LOUD, commits=False)
    assert not read.asked.muted
    assert read.closed == {JOURNAL: RIPE}  # to be passed on


def test_a_close_that_was_read_before_its_directory_was_muted_is_kept() -> None:
    read = Reads()
    read(7, LOUD)
    read.closed[JOURNAL] = read.turn
    read(1, LOUD)
    assert read.closed == {JOURNAL: MUTED}
    read(32, LOUD, commits=False)
    assert not read.asked.muted


def commit(journal: Path) -> None:
    journal.write_bytes(b"journal")
    journal.unlink()
