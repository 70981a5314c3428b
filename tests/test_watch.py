"""Which journals the file events hint at: real files, by the source of hints that the service uses on Linux."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.watching import LAYOUT, WatchedTree, Witness, wait_until, watching
from watcher.hints.filesystem import FilesystemHints, Trouble
from watcher.settings import TreeSettings, WatchBackend
from watcher.tree import Place, RootMissingError, Tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def tree(root: Path) -> Iterator[WatchedTree]:
    """A tree without a layout."""
    with watching(root) as watched:
        yield watched


@pytest.fixture
def sessions(root: Path) -> Iterator[WatchedTree]:
    """A tree with a layout and one session."""
    (root / "g" / "s").mkdir(parents=True)
    with watching(root, LAYOUT) as watched:
        yield watched


# --- files ---


def test_a_closed_journal_is_hinted(tree: WatchedTree) -> None:
    tree.close_journal("notes.db")
    assert tree.hints_until_now() == ["notes.db"]


def test_a_journal_moved_into_place_is_hinted(tree: WatchedTree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"journal")
    elsewhere.rename(tree.root / "notes.db-journal")
    assert tree.hints_until_now() == ["notes.db"]


def test_a_journal_that_is_only_made_and_written_is_not_hinted_before_its_close(tree: WatchedTree) -> None:
    with (tree.root / "notes.db-journal").open("wb", buffering=0) as journal:
        journal.write(b"journal")
        assert tree.hints_until_now() == []
    assert tree.hints_until_now() == ["notes.db"]


def test_a_journal_opened_before_the_watch_is_hinted_at_its_close(root: Path) -> None:
    with (root / "notes.db-journal").open("wb"):
        watched = watching(root)
        tree = watched.__enter__()
        tree.hints_until_now()  # it was there when the directory got its watch: that was one
    try:
        assert tree.hints_until_now() == ["notes.db"]
    finally:
        watched.__exit__(None, None, None)


def test_a_journal_closed_and_deleted_is_not_hinted(tree: WatchedTree) -> None:
    with (tree.root / "notes.db-journal").open("wb"):
        (tree.root / "notes.db-journal").unlink()
    assert tree.hints_until_now() == []


def test_the_close_of_a_file_that_has_no_name_any_more_is_none_of_the_new_one(tree: WatchedTree) -> None:
    journal = tree.root / "notes.db-journal"
    with journal.open("wb"):
        journal.unlink()
        new = journal.open("wb")
    assert tree.hints_until_now() == []
    new.close()
    assert tree.hints_until_now() == ["notes.db"]


def test_other_files_are_not_hinted(tree: WatchedTree) -> None:
    for name in ("notes.db", "notes.db-wal", "journal", "-journal", "notes.db-journal.bak"):
        (tree.root / name).write_bytes(b"x")
    (tree.root / "directory-journal").mkdir()
    assert tree.hints_until_now() == []


def test_databases_that_no_pattern_names_are_not_hinted(root: Path) -> None:
    with watching(root, databases=("*.db", "sentinel")) as tree:
        tree.close_journal("notes.txt")
        tree.close_journal("notes.db")
        assert tree.hints_until_now() == ["notes.db"]


def test_names_that_are_no_utf8_are_hinted_as_python_spells_them(tree: WatchedTree) -> None:
    directory = os.path.join(os.fsencode(tree.root), b"caf\xe9\n")
    os.mkdir(directory)
    with open(os.path.join(directory, b"\xff.db-journal"), "wb"):
        pass
    tree.wait_for_hint("caf\udce9\n/\udcff.db")


# --- directories that are there ---


def test_journals_that_were_there_before_are_hinted(root: Path) -> None:
    for session in ("g/s1", "g/s2", "h/s1"):
        (root / session).mkdir(parents=True)
        (root / session / "outbound.db-journal").write_bytes(b"journal")
    with watching(root, LAYOUT) as tree:
        for session in ("g/s1", "g/s2", "h/s1"):
            tree.wait_for_hint(f"{session}/outbound.db")


def test_with_a_layout_only_sessions_are_looked_into(sessions: WatchedTree) -> None:
    (sessions.root / "g" / "s" / "inbox").mkdir()
    for database in ("stray.db", "g/stray.db", "g/s/inbox/stray.db", "g/s/outbound.db"):
        sessions.close_journal(database)
    assert sessions.hints_until_now("g/s") == ["g/s/outbound.db"]


def test_with_a_layout_nothing_is_watched_below_a_session(root: Path) -> None:
    (root / "g" / "s" / "inbox" / "deep").mkdir(parents=True)
    (root / "g" / "not-a-session").write_bytes(b"")
    with watching(root, LAYOUT) as tree:
        assert tree.source.directories == 3  # the root, the group, the session


def test_directories_whose_names_do_not_fit_the_layout_are_not_watched(root: Path) -> None:
    for session in ("agents-1/s", "other/s"):
        (root / session).mkdir(parents=True)
    with watching(root, "agents-{number}/{session}") as tree:
        assert tree.source.directories == 3
        (root / "agents-2" / "s").mkdir(parents=True)
        (root / "another" / "s").mkdir(parents=True)
        wait_until(lambda: tree.source.directories == 5, "the new group and its session watched")
        for database in ("agents-2/s/x.db", "another/s/x.db"):
            tree.close_journal(database)
        assert tree.hints_until_now("agents-1/s") == ["agents-2/s/x.db"]


def test_excluded_directories_are_not_entered(root: Path) -> None:
    (root / "node_modules" / "deep").mkdir(parents=True)
    with watching(root, exclude=("node_modules",)) as tree:
        (root / "kept" / "node_modules").mkdir(parents=True)
        wait_until(lambda: tree.source.directories == 2, "the kept directory watched")
        for database in ("node_modules/x.db", "node_modules/deep/x.db", "kept/node_modules/x.db"):
            tree.close_journal(database)
        assert tree.hints_until_now("kept") == []


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "before").symlink_to(outside)
    with watching(root) as tree:
        (root / "after").symlink_to(outside)
        (outside / "victim.db-journal").write_bytes(b"journal")
        (root / "made-later").mkdir()
        wait_until(lambda: tree.source.directories == 2, "the real directory watched")
        assert tree.hints_until_now() == []
        assert tree.source.missed == 0


def test_a_journal_that_is_a_link_is_hinted_when_it_is_moved_in_but_nothing_is_opened(
    tree: WatchedTree, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    (tmp_path / "link").rename(tree.root / "notes.db-journal")
    assert tree.hints_until_now() == ["notes.db"]


# --- directories that come and go ---


def test_a_journal_in_a_directory_younger_than_its_watch_is_not_lost(tree: WatchedTree) -> None:
    for number in range(300):
        directory = tree.root / f"g{number % 7}" / f"s{number}"
        directory.mkdir(parents=True)
        (directory / "outbound.db-journal").write_bytes(b"journal")
    expected = {f"g{number % 7}/s{number}/outbound.db" for number in range(300)}
    wait_until(lambda: expected <= set(tree.witness.paths), "each of them hinted")


def test_a_new_session_is_watched_when_it_has_its_layouts_depth(sessions: WatchedTree) -> None:
    (sessions.root / "h" / "s").mkdir(parents=True)
    sessions.close_journal("h/s/outbound.db")
    sessions.wait_for_hint("h/s/outbound.db")
    wait_until(lambda: sessions.source.directories == 5, "the group and its session watched")


def test_a_tree_that_is_moved_in_is_listed_and_watched(tree: WatchedTree, tmp_path: Path) -> None:
    made = tmp_path / "elsewhere" / "deep" / "deeper"
    made.mkdir(parents=True)
    (made / "old.db-journal").write_bytes(b"journal")
    (tmp_path / "elsewhere").rename(tree.root / "here")
    tree.wait_for_hint("here/deep/deeper/old.db")
    tree.close_journal("here/deep/deeper/new.db")
    tree.wait_for_hint("here/deep/deeper/new.db")


def test_a_session_renamed_while_a_writer_is_in_it_is_hinted_by_its_new_name(sessions: WatchedTree) -> None:
    session = sessions.root / "g" / "s"
    with (session / "outbound.db-journal").open("wb"):
        session.rename(sessions.root / "g" / "renamed")
        sessions.wait_for_hint("g/renamed/outbound.db")  # listed where it has appeared
        sessions.witness.hints.clear()
    sessions.wait_for_hint("g/renamed/outbound.db")
    wait_until(lambda: sessions.source.directories == 3, "one watch for it")


def test_a_group_renamed_takes_its_sessions_along(sessions: WatchedTree) -> None:
    (sessions.root / "g").rename(sessions.root / "h")
    wait_until(lambda: sessions.source.directories == 3, "all of it watched")
    sessions.close_journal("h/s/outbound.db")
    sessions.wait_for_hint("h/s/outbound.db")
    assert not [path for path in sessions.witness.paths if path.startswith("g/")]


def test_a_session_moved_into_another_group_is_hinted_there(sessions: WatchedTree) -> None:
    (sessions.root / "h").mkdir()
    (sessions.root / "g" / "s").rename(sessions.root / "h" / "t")
    sessions.close_journal("h/t/outbound.db")
    sessions.wait_for_hint("h/t/outbound.db")


def test_a_session_moved_up_to_where_groups_are_is_a_group(sessions: WatchedTree) -> None:
    (sessions.root / "g" / "s" / "t").mkdir()
    (sessions.root / "g" / "s").rename(sessions.root / "was-a-session")
    for database in ("was-a-session/outbound.db", "was-a-session/t/outbound.db"):
        sessions.close_journal(database)
    assert set(sessions.hints_until_now("was-a-session/t")) == {"was-a-session/t/outbound.db"}


def test_a_directory_moved_out_is_watched_no_more(tree: WatchedTree, tmp_path: Path) -> None:
    (tree.root / "leaving" / "deep").mkdir(parents=True)
    wait_until(lambda: tree.source.directories == 3, "both watched")
    (tree.root / "leaving").rename(tmp_path / "left")
    (tmp_path / "left" / "deep" / "x.db-journal").write_bytes(b"journal")
    assert tree.hints_until_now() == []
    wait_until(lambda: tree.source.directories == 1, "both dropped")


def test_two_directories_that_change_places_keep_their_journals_apart(sessions: WatchedTree) -> None:
    group = sessions.root / "g"
    (group / "t").mkdir()
    wait_until(lambda: sessions.source.directories == 4, "both watched")
    for _ in range(25):
        (group / "s").rename(group / "aside")
        (group / "t").rename(group / "s")
        (group / "aside").rename(group / "t")
    for session in ("s", "t"):
        sessions.close_journal(f"g/{session}/of-{session}.db")
        sessions.wait_for_hint(f"g/{session}/of-{session}.db")
    wait_until(lambda: sessions.source.directories == 4, "both watched still")


def test_a_directory_removed_and_made_again_at_once_is_watched(sessions: WatchedTree) -> None:
    session = sessions.root / "g" / "s"
    for _ in range(100):
        session.rmdir()
        session.mkdir()
    sessions.close_journal("g/s/outbound.db")
    sessions.wait_for_hint("g/s/outbound.db")
    wait_until(lambda: sessions.source.directories == 3, "one watch for it")


def test_a_directory_removed_while_somebody_is_in_it_makes_room_for_the_next_of_its_name(sessions: WatchedTree) -> None:
    session = sessions.root / "g" / "s"
    held = os.open(session, os.O_RDONLY)
    try:
        session.rmdir()
        session.mkdir()
        sessions.close_journal("g/s/outbound.db")
        sessions.wait_for_hint("g/s/outbound.db")
    finally:
        os.close(held)
    wait_until(lambda: sessions.source.directories == 3, "one watch for it")


def test_a_removed_tree_leaves_no_watch(tree: WatchedTree) -> None:
    for number in range(30):
        (tree.root / f"d{number}" / "deep").mkdir(parents=True)
    wait_until(lambda: tree.source.directories == 61, "all watched")
    for number in range(30):
        (tree.root / f"d{number}" / "deep").rmdir()
        (tree.root / f"d{number}").rmdir()
    wait_until(lambda: tree.source.directories == 1, "none left but the root")


def test_more_directories_at_once_than_are_remembered_one_by_one(root: Path) -> None:
    witness = Witness()
    with watching(root, witness=witness) as tree:
        witness.gate.clear()
        tree.close_journal("holds-it-up.db")
        assert witness.waits.wait(10)
        for number in range(500):
            (root / f"d{number}").mkdir()
            tree.close_journal(f"d{number}/x.db")
        witness.gate.set()
        expected = {f"d{number}/x.db" for number in range(500)}
        wait_until(lambda: expected <= set(witness.paths), "each of them hinted")
        wait_until(lambda: tree.source.directories == 501, "all watched")


# --- the root ---


def test_no_root_to_start_with(tmp_path: Path) -> None:
    with pytest.raises(RootMissingError), watching(tmp_path / "missing"):
        pass


def test_the_root_removed_is_told(tree: WatchedTree) -> None:
    tree.root.rmdir()
    tree.wait_for_trouble(Trouble.ROOT_GONE)


def test_the_root_moved_away_is_told(tree: WatchedTree, tmp_path: Path) -> None:
    tree.root.rename(tmp_path / "moved")
    tree.wait_for_trouble(Trouble.ROOT_GONE)
    assert tree.witness.troubles == [Trouble.ROOT_GONE]


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        if os.path.ismount(directory):
            subprocess.run(["umount", "-l", directory], check=True)


def test_the_root_unmounted_is_told_and_nothing_keeps_it_from_being_unmounted(root: Path) -> None:
    with mounted(root):
        (root / "g" / "s").mkdir(parents=True)
        with watching(root, LAYOUT) as tree:
            tree.close_journal("g/s/outbound.db")
            tree.wait_for_hint("g/s/outbound.db")
            subprocess.run(["umount", root], check=True)
            tree.wait_for_trouble(Trouble.ROOT_GONE)


def test_below_an_unmounted_directory_the_one_it_hid_is_watched(tree: WatchedTree) -> None:
    below = tree.root / "g"
    below.mkdir()
    wait_until(lambda: tree.source.directories == 2, "the directory watched")
    with mounted(below):
        (tree.root / "g").joinpath("hidden-by").mkdir()
    tree.close_journal("g/outbound.db")
    tree.wait_for_hint("g/outbound.db")


def test_where_the_mounted_one_was_watched_its_end_uncovers_the_other(root: Path) -> None:
    below = root / "g"
    below.mkdir()
    with mounted(below), watching(root) as tree:
        subprocess.run(["umount", below], check=True)
        # The count does not tell when the event was seen; a hint does.
        wait_until(lambda: bool(tree.close_journal("g/x.db")) and "g/x.db" in tree.witness.paths, "a hint in it")


# --- its life ---


def test_stopping_takes_no_second_and_may_be_done_twice(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with watching(root) as tree:
        began = time.monotonic()
        tree.source.stop()
        tree.source.stop()
        assert time.monotonic() - began < 10
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) == before


def source_that_waits(root: Path, witness: Witness) -> FilesystemHints:
    return FilesystemHints(
        Tree(TreeSettings(root=root)),
        backend=WatchBackend.NATIVE,
        hint=witness.hint,
        sweep=witness.sweep,
        poll_interval_s=1.0,
        after=threading.Event(),  # it never comes
    )


def test_the_first_watches_wait_for_what_they_are_to_wait_for_but_not_for_long(root: Path) -> None:
    (root / "g").mkdir()
    witness = Witness()
    source = source_that_waits(root, witness)
    began = time.monotonic()
    source.start()
    (root / "g" / "x.db-journal").write_bytes(b"")
    wait_until(lambda: source.ready, "the watches set")
    assert time.monotonic() - began >= 1.0
    wait_until(lambda: "g/x.db" in witness.paths, "a hint about the journal that was closed meanwhile")
    source.stop()


def test_stopping_does_not_wait_for_what_the_first_watches_wait_for(root: Path) -> None:
    source = source_that_waits(root, Witness())
    threads = threading.active_count()
    source.start()
    source.stop()
    assert threading.active_count() == threads


def test_a_callback_may_stop_it(root: Path) -> None:
    witness = Witness()
    tree = Tree(TreeSettings(root=root))
    stopped = threading.Event()

    def stop(_trouble: Trouble) -> None:
        source.stop()
        stopped.set()

    source = FilesystemHints(tree, backend=WatchBackend.NATIVE, hint=witness.hint, sweep=stop, poll_interval_s=1.0)
    source.start()
    wait_until(lambda: source.ready, "the watches set")
    root.rmdir()
    assert stopped.wait(10)
    source.stop()


def test_a_callback_that_does_not_return_does_not_keep_stop_from_returning(root: Path) -> None:
    witness = Witness()
    with watching(root, witness=witness) as tree:
        witness.gate.clear()
        tree.close_journal("x.db")
        assert witness.waits.wait(10)
        began = time.monotonic()
        tree.source.stop()
        assert time.monotonic() - began < 10
        witness.gate.set()


def test_a_hint_that_fails_is_told_and_kept(root: Path) -> None:
    class Failing(Witness):
        def hint(self, place: Place) -> None:
            raise ZeroDivisionError(place.name)

    with watching(root, witness=Failing()) as tree:
        tree.close_journal("x.db")
        tree.wait_for_trouble(Trouble.FAILED)
        assert isinstance(tree.source.failure, ZeroDivisionError)


def test_while_nothing_happens_its_threads_do_not_wake_up(sessions: WatchedTree) -> None:
    sessions.hints_until_now("g/s")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("watch-inotify")]
    assert len(threads) == 2

    def wakes() -> list[str]:
        lines = [
            line
            for thread in threads
            for line in Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines()
        ]
        return [line for line in lines if "ctxt_switches" in line]

    # It comes to rest a moment after its last hint; then it is still for as long as nothing happens.
    seen = wakes()
    for _ in range(200):
        time.sleep(0.5)
        before, seen = seen, wakes()
        if seen == before:
            return
    pytest.fail("it never came to rest")


def test_it_names_its_backend(root: Path) -> None:
    with watching(root) as tree:
        assert tree.source.backend == "inotify"
    with watching(root, also_poll=True) as tree:
        assert tree.source.backend == "inotify+polling"
    with watching(root, backend=WatchBackend.POLLING) as tree:
        assert tree.source.backend == "polling"
