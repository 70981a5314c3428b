"""When the kernel gives no more: watches, instances and descriptors that have run out, a queue that was full, and
directories that may not be entered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tests.watching import DEADLINE_S, LAYOUT, Witness, wait_until, watching
from tests.writers import STANDARD_LIBRARY_ALONE
from watcher.hints.filesystem import Trouble

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

# A watcher in a process, and so in a user namespace or under a user, of its own. It answers each line with what it
# knows; the first word of the line may be one to do.
_CHILD = """
import json, os, resource, sys
from pathlib import Path
from watcher.hints.filesystem import FilesystemHints
from watcher.settings import TreeSettings, WatchBackend
from watcher.tree import Tree

def limit(name, number):
    Path(f"/proc/sys/user/{name}").write_text(number)

def descriptors(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

hints, troubles = [], []
source = FilesystemHints(
    Tree(TreeSettings(root=Path(sys.argv[1]), layout=json.loads(sys.argv[2]))), backend=WatchBackend.NATIVE,
    hint=lambda place: hints.append(place.relative), sweep=lambda trouble: troubles.append(trouble.value),
    poll_interval_s=0.05,
)
actions = {"limit": limit, "descriptors": descriptors, "start": source.start, "tell": lambda: None}
for line in sys.stdin:
    action, *arguments = line.split()
    actions[action](*arguments)
    print(json.dumps({"directories": source.directories, "missed": source.missed, "ready": source.ready,
                      "backend": source.backend, "hints": hints, "troubles": troubles}), flush=True)
"""


_FLOOD = """
import os, sys
os.chdir(sys.argv[1])
number = 0
while True:
    open(f"{number % 20000}-journal", "w").close()
    number += 1
"""


class Child:
    """A watcher elsewhere."""

    def __init__(self, pipes: tuple[IO[str], IO[str]]) -> None:
        self._stdin, self._stdout = pipes
        self.told: dict[str, object] = {}

    def do(self, line: str) -> None:
        self._stdin.write(f"{line}\n")
        self._stdin.flush()
        answer = self._stdout.readline()
        assert answer, "the watcher has ended"
        self.told = json.loads(answer)

    def wait_for(self, **expected: object) -> None:
        def has_come() -> bool:
            self.do("tell")
            return all(self.told[key] == value for key, value in expected.items())

        try:
            wait_until(has_come, str(expected))
        except AssertionError:
            pytest.fail(f"in vain for {DEADLINE_S:.0f} s: {expected}, last told {self.told}")

    def wait_for_hint(self, database: str) -> None:
        def has_come() -> bool:
            self.do("tell")
            hints = self.told["hints"]
            return isinstance(hints, list) and database in hints

        wait_until(has_come, f"a hint about {database}")


@contextmanager
def child(root: Path, layout: str | None, *prefix: str) -> Iterator[Child]:
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _CHILD, root, json.dumps(layout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield Child((process.stdin, process.stdout))
        process.stdin.close()


@contextmanager
def child_with_limits(root: Path, layout: str | None) -> Iterator[Child]:
    """In a user namespace, which has its own `user.max_inotify_watches` and `user.max_inotify_instances`."""
    unshare = ["unshare", "--user", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    with child(root, layout, *unshare) as watcher:
        yield watcher


@pytest.fixture
def root() -> Iterator[Path]:
    """One that any user may reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        made = Path(directory) / "root"
        made.mkdir()
        yield made


def make_sessions(root: Path, number: int) -> None:
    for session in range(number):
        (root / "g" / f"s{session}").mkdir(parents=True, exist_ok=True)


# --- watches ---


def test_exhausted_watches_are_counted_told_once_and_tried_again(root: Path) -> None:
    make_sessions(root, 10)
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_watches 5")
        watcher.do("start")
        watcher.wait_for(ready=True, directories=5, missed=7, troubles=["watch_limit"])
        (root / "g" / "one-more").mkdir()
        watcher.wait_for(missed=8, troubles=["watch_limit"])
        watcher.do("limit max_inotify_watches 100")
        watcher.wait_for(directories=13, missed=0, troubles=["watch_limit"])
        (root / "g" / "s9" / "outbound.db-journal").write_bytes(b"journal")
        watcher.wait_for_hint("g/s9/outbound.db")


def test_a_journal_in_a_directory_that_was_missed_is_hinted_once_it_is_watched(root: Path) -> None:
    make_sessions(root, 10)
    for session in range(10):
        (root / "g" / f"s{session}" / "outbound.db-journal").write_bytes(b"journal")
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_watches 5")
        watcher.do("start")
        watcher.wait_for(ready=True, missed=7)
        watcher.do("limit max_inotify_watches 100")
        for session in range(10):
            watcher.wait_for_hint(f"g/s{session}/outbound.db")


def test_a_second_shortage_is_told_again(root: Path) -> None:
    make_sessions(root, 3)
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_watches 3")
        watcher.do("start")
        watcher.wait_for(ready=True, missed=2, troubles=["watch_limit"])
        watcher.do("limit max_inotify_watches 6")
        watcher.wait_for(missed=0)
        make_sessions(root, 8)
        watcher.wait_for(missed=4, directories=6, troubles=["watch_limit", "watch_limit"])


def test_not_even_the_root_can_be_watched_for_now(root: Path) -> None:
    make_sessions(root, 3)
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_watches 0")
        watcher.do("start")
        watcher.wait_for(ready=True, directories=0, missed=1, troubles=["watch_limit"])
        watcher.do("limit max_inotify_watches 100")
        watcher.wait_for(directories=5, missed=0)


def test_a_removed_directory_is_missed_no_more(root: Path) -> None:
    make_sessions(root, 4)
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_watches 3")
        watcher.do("start")
        watcher.wait_for(ready=True, missed=3)
        for session in (root / "g").iterdir():
            session.rmdir()
        watcher.wait_for(directories=2, missed=0)


def test_without_an_inotify_instance_the_tree_is_polled(root: Path) -> None:
    make_sessions(root, 1)
    with child_with_limits(root, LAYOUT) as watcher:
        watcher.do("limit max_inotify_instances 0")
        watcher.do("start")
        watcher.wait_for(ready=True, backend="polling", troubles=["instance_limit"])
        (root / "g" / "s0" / "outbound.db-journal").write_bytes(b"journal")
        watcher.wait_for_hint("g/s0/outbound.db")


def test_without_a_descriptor_the_rest_is_missed_until_there_is_one(root: Path) -> None:
    with child(root, LAYOUT) as watcher:
        watcher.do("start")
        watcher.wait_for(ready=True, directories=1)
        watcher.do("descriptors 3")
        make_sessions(root, 2)
        watcher.wait_for(missed=1, troubles=["descriptors"])
        watcher.do("descriptors 100")
        watcher.wait_for(missed=0, directories=4)


_WRITES_EVERY_50_MS = """
import os, sys, time
while True:
    os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))
    os.unlink(sys.argv[1])
    time.sleep(0.05)
"""


def test_a_writer_that_never_rests_keeps_nothing_missed(root: Path) -> None:
    make_sessions(root, 2)
    journal = root / "g" / "s0" / "outbound.db-journal"
    with child(root, LAYOUT) as watcher:
        watcher.do("start")
        watcher.wait_for(ready=True, directories=4)
        with subprocess.Popen([*STANDARD_LIBRARY_ALONE, "-c", _WRITES_EVERY_50_MS, str(journal)]) as writer:
            try:
                watcher.do("descriptors 3")
                make_sessions(root, 3)
                watcher.wait_for(missed=1, troubles=["descriptors"])
                watcher.do("descriptors 100")
                watcher.wait_for(missed=0, directories=5)
            finally:
                writer.kill()


# --- the queue ---


def events_of_kernel_queue() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def test_after_an_overflow_the_tree_is_watched_as_it_is_now(root: Path, tmp_path: Path) -> None:
    for name in ("kept", "replaced", "removed", "moved", "moved-out"):
        (root / name).mkdir()
    witness = Witness()
    with watching(root, witness=witness) as tree:
        witness.gate.clear()
        tree.close_journal("holds-it-up.db")
        assert witness.waits.wait(10)
        flood = root / "kept" / "flood-journal"
        for _ in range(events_of_kernel_queue()):
            flood.write_bytes(b"")
            flood.unlink()
        # None of this is told by the kernel any more.
        (root / "removed").rmdir()
        (root / "moved").rename(root / "kept" / "moved")
        (root / "moved-out").rename(tmp_path / "moved-out")
        (root / "replaced").rename(tmp_path / "replaced")
        (root / "replaced").mkdir()
        (root / "new" / "deep").mkdir(parents=True)
        tree.close_journal("new/deep/lost.db")
        witness.gate.set()
        tree.wait_for_trouble(Trouble.OVERFLOW)
        tree.wait_for_hint("new/deep/lost.db")
        for database in ("kept/a.db", "kept/moved/b.db", "new/deep/c.db", "replaced/d.db"):
            tree.close_journal(database)
            tree.wait_for_hint(database)
        wait_until(lambda: tree.source.directories == 6, "the root, kept, moved, new, deep, replaced")
        assert witness.troubles == [Trouble.OVERFLOW]


def test_overflows_one_after_the_other_are_told_with_pauses_and_never_lost(root: Path) -> None:
    witness = Witness()
    (root / "d").mkdir()
    with watching(root, witness=witness) as tree:
        flood = root / "d" / "flood-journal"
        for _ in range(3):
            witness.gate.clear()
            witness.waits.clear()
            tree.close_journal("holds-it-up.db")
            assert witness.waits.wait(10)
            for _ in range(events_of_kernel_queue() // 2):
                flood.write_bytes(b"")
                flood.unlink()
            witness.gate.set()
        (root / "after").mkdir()
        tree.close_journal("after/x.db")
        tree.wait_for_hint("after/x.db")
        tree.wait_for_trouble(Trouble.OVERFLOW)
        assert set(witness.troubles) == {Trouble.OVERFLOW}


def is_hinted_or_swept(witness: Witness, database: str, told: int) -> bool:
    return database in witness.paths or len(witness.troubles) > told


def test_a_flood_of_journals_in_one_session_keeps_no_other_waiting_and_no_memory(root: Path) -> None:
    make_sessions(root, 2)
    writer = subprocess.Popen([sys.executable, "-S", "-c", _FLOOD, root / "g" / "s0"])
    try:
        with watching(root, LAYOUT) as tree:
            for number in range(20):
                # Where the emitter was held up, the kernel's queue may have overflowed: that is told, and swept.
                told = len(tree.witness.troubles)
                database = f"g/s1/{number}.db"
                tree.close_journal(database)
                wait_until(partial(is_hinted_or_swept, tree.witness, database, told), f"a hint about {database}")
            emitter = next(iter(tree.source._observers[0].emitters))
            assert len(emitter._closed) < 5000  # type: ignore[attr-defined]
    finally:
        writer.kill()
        writer.wait()


# --- rights ---


def test_directories_that_may_not_be_entered_are_missed_until_they_may(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("wants to be somebody else")
    make_sessions(root, 2)
    (root / "g" / "s1").chmod(0o700)
    with child(root, LAYOUT, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") as watcher:
        watcher.do("start")
        watcher.wait_for(ready=True, directories=3, missed=1, troubles=["unreadable"])
        (root / "g" / "s1" / "outbound.db-journal").write_bytes(b"journal")
        (root / "g" / "s1").chmod(0o755)
        watcher.wait_for(directories=4, missed=0)
        watcher.wait_for_hint("g/s1/outbound.db")
