"""Hints by looking again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watching import LAYOUT, WatchedTree, wait_until, watching
from watcher.hints.filesystem import Trouble
from watcher.settings import WatchBackend


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "g" / "s").mkdir(parents=True)
    return made


@pytest.fixture
def tree(root: Path) -> Iterator[WatchedTree]:
    with watching(root, LAYOUT, backend=WatchBackend.POLLING) as watched:
        yield watched


def rounds_pass(tree: WatchedTree, number: int = 3) -> None:
    """Each new journal is hinted a round after the one before it."""
    for count in range(number):
        tree.close_journal(f"g/s/round-{count}")
        tree.wait_for_hint(f"g/s/round-{count}")
        (tree.root / "g" / "s" / f"round-{count}-journal").unlink()


def test_a_journal_that_appears_is_hinted_once(tree: WatchedTree) -> None:
    tree.close_journal("g/s/outbound.db")
    tree.wait_for_hint("g/s/outbound.db")
    rounds_pass(tree)
    assert tree.witness.paths.count("g/s/outbound.db") == 1


def test_a_journal_that_changes_is_hinted_again(tree: WatchedTree) -> None:
    journal = tree.close_journal("g/s/outbound.db")
    tree.wait_for_hint("g/s/outbound.db")
    with journal.open("ab") as file:
        file.write(b"more")
    wait_until(lambda: tree.witness.paths.count("g/s/outbound.db") == 2, "a second hint")


def test_another_journal_of_the_same_name_is_hinted_again(tree: WatchedTree) -> None:
    journal = tree.close_journal("g/s/outbound.db")
    tree.wait_for_hint("g/s/outbound.db")
    before = journal.stat()
    new = journal.with_name("new")
    new.write_bytes(b"journal")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(journal)
    wait_until(lambda: tree.witness.paths.count("g/s/outbound.db") == 2, "a second hint")


def test_journals_that_were_there_before_are_hinted(root: Path) -> None:
    (root / "g" / "s" / "outbound.db-journal").write_bytes(b"journal")
    with watching(root, LAYOUT, backend=WatchBackend.POLLING) as tree:
        tree.wait_for_hint("g/s/outbound.db")
        assert tree.source.directories == 3


def test_links_are_not_followed(tree: WatchedTree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.db-journal").write_bytes(b"journal")
    (tree.root / "g" / "linked").symlink_to(outside)
    rounds_pass(tree)
    assert "g/linked/victim.db" not in tree.witness.paths


def test_the_root_removed_is_told_once(tree: WatchedTree) -> None:
    (tree.root / "g" / "s").rmdir()
    (tree.root / "g").rmdir()
    tree.root.rmdir()
    tree.wait_for_trouble(Trouble.ROOT_GONE)
    tree.source.stop()
    assert tree.witness.troubles == [Trouble.ROOT_GONE]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="inotify is Linux's")
def test_beside_inotify_both_hint(root: Path) -> None:
    with watching(root, LAYOUT, also_poll=True) as tree:
        journal = root / "g" / "s" / "outbound.db-journal"
        with journal.open("wb", buffering=0) as file:
            file.write(b"journal")
            tree.wait_for_hint("g/s/outbound.db")  # by polling: it is not closed
            tree.witness.hints.clear()
        tree.wait_for_hint("g/s/outbound.db")  # by its close
