"""Which paths are ours, how they are reached, and what a walk meets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import watcher.hints.survey as survey_module
import watcher.tree as tree_module
from tests.pairs import looker
from watcher.names import printable
from watcher.settings import TreeSettings
from watcher.tree import MAX_DEPTH, Gone, OutsideTreeError, Place, RootMissingError, Tree, UnsafeError, enter_one


def tree_of(root: Path, **settings: object) -> Tree:
    return Tree(TreeSettings.model_validate({"root": root, **settings}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def journals(tree: Tree) -> set[str]:
    return {place.relative for place in tree.journals()}


# --- which names are ours ---


def test_without_a_layout_databases_lie_at_any_depth(root: Path) -> None:
    for name in ("a.db-journal", "x/b.db-journal", "x/y/z/c.db-journal"):
        touch(root / name)
    tree = tree_of(root)
    assert journals(tree) == {"a.db", "x/b.db", "x/y/z/c.db"}
    assert tree.session(Place("x/y", "b.db")) == {}


def test_a_layout_says_at_which_depth_and_names_the_fields(root: Path) -> None:
    for name in ("a.db-journal", "g/a.db-journal", "g/s/a.db-journal", "g/s/t/a.db-journal"):
        touch(root / name)
    tree = tree_of(root, layout="{agent_group}/{session}")
    assert journals(tree) == {"g/s/a.db"}
    assert tree.session(Place("g/s", "a.db")) == {"agent_group": "g", "session": "s"}


def test_the_literal_text_of_a_layout_must_be_there(root: Path) -> None:
    for name in ("g/v2-s/a.db-journal", "g/v1-s/a.db-journal"):
        touch(root / name)
    tree = tree_of(root, layout="{agent_group}/v2-{session}")
    assert journals(tree) == {"g/v2-s/a.db"}
    assert tree.session(Place("g/v2-s", "a.db")) == {"agent_group": "g", "session": "s"}


def test_patterns_are_of_the_databases_name_not_of_the_journals(root: Path) -> None:
    for name in ("outbound.db-journal", "inbound.db-journal", "outbound.db-journal-journal", "OUTBOUND.DB-journal"):
        touch(root / name)
    assert journals(tree_of(root, databases=["outbound.db"])) == {"outbound.db"}
    assert journals(tree_of(root, databases=["in*.db", "out*.db"])) == {"inbound.db", "outbound.db"}


def test_excluded_directories_are_not_entered_at_any_depth(root: Path) -> None:
    for name in ("x/a.db-journal", "node_modules/b.db-journal", "x/node_modules/y/c.db-journal"):
        touch(root / name)
    tree = tree_of(root, exclude=["node_modules"])
    assert journals(tree) == {"x/a.db"}
    assert tree.place_of_journal("x/node_modules/y", "c.db-journal") is None


def test_a_name_that_is_nothing_but_the_suffix_is_no_journal(root: Path) -> None:
    touch(root / "-journal")
    touch(root / "x-journal-journal")
    assert journals(tree_of(root)) == {"x-journal"}


def test_a_directory_in_the_place_of_a_journal_is_met_and_any_other_of_such_a_name_is_a_directory(root: Path) -> None:
    touch(root / "x.db")
    (root / "x.db-journal").mkdir()
    touch(root / "team-journal" / "s" / "y.db-journal")
    (root / "-journal").mkdir()
    tree = tree_of(root)
    assert journals(tree) == {"x.db", "team-journal/s/y.db"}
    assert {place.relative for place in survey_module.Survey(tree).journals()} == journals(tree)
    assert not any("-journal" in files for _, files in tree.walk())


def test_a_walk_passes_over_what_is_no_directory_and_follows_no_link(root: Path, tmp_path: Path) -> None:
    touch(tmp_path / "outside" / "a.db-journal")
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "fifo-journal")
    touch(root / "b.db-journal")
    assert journals(tree_of(root)) == {"b.db", "fifo"}


def test_a_walk_ends_at_some_depth(root: Path) -> None:
    at = os.open(root, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 5):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        os.close(os.open("a.db-journal", os.O_CREAT, dir_fd=at))
    os.close(at)
    assert len(journals(tree_of(root))) == MAX_DEPTH


def test_a_walk_outlives_directories_that_come_and_go(root: Path) -> None:
    touch(root / "quiet" / "a.db-journal")
    stopping = threading.Event()

    def make_and_remove() -> None:
        while not stopping.is_set():
            for number in range(20):
                (root / f"hasty-{number}" / "x").mkdir(parents=True)
            for number in range(20):
                (root / f"hasty-{number}" / "x").rmdir()
                (root / f"hasty-{number}").rmdir()

    hasty = threading.Thread(target=make_and_remove)
    hasty.start()
    try:
        tree = tree_of(root)
        for _ in range(1000):
            assert "quiet/a.db" in journals(tree)
    finally:
        stopping.set()
        hasty.join()


@pytest.mark.parametrize("module", [tree_module, survey_module])
def test_a_directory_that_is_removed_between_its_opening_and_its_listing_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    for name in ("a", "b", "c"):
        touch(root / name / "x.db-journal")

    def enter_and_lose(part: str, at: int, mode: int) -> int:
        entered = enter_one(part, at, mode)
        if part == "b":
            (root / "b" / "x.db-journal").unlink()
            (root / "b").rmdir()
        return entered

    monkeypatch.setattr(module, "enter_one", enter_and_lose)
    tree = tree_of(root)
    places = tree.journals() if module is tree_module else survey_module.Survey(tree).journals()
    assert {place.relative for place in places} == {"a/x.db", "c/x.db"}


def test_a_walk_without_its_root_says_so(root: Path) -> None:
    root.rmdir()
    with pytest.raises(RootMissingError):
        list(tree_of(root).walk())


# --- reaching it ---


def test_a_root_behind_a_link_is_legitimate(root: Path, tmp_path: Path) -> None:
    touch(root / "a" / "x.db-journal")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    tree = tree_of(tmp_path / "link")
    assert journals(tree) == {"a/x.db"}
    os.close(tree.enter("a"))


@pytest.mark.parametrize("where", ["link", "a/link", "a/link/b"])
def test_no_link_below_the_root_is_entered(root: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (root / "a").mkdir()
    for at in (root / "link", root / "a" / "link"):
        at.symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(UnsafeError, match="link on the way to it is a symbolic link"):
        tree_of(root).enter(where)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def a_plain_file(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("make", [a_fifo, a_socket, a_plain_file])
def test_what_is_no_directory_is_not_entered_and_does_not_block(root: Path, make: Callable[[Path], None]) -> None:
    make(root / "x")
    with pytest.raises(UnsafeError, match="not a directory"):
        tree_of(root).enter("x/y")


def test_what_is_not_there_is_gone(root: Path) -> None:
    with pytest.raises(Gone):
        tree_of(root).enter("a/b")


@pytest.mark.parametrize("directory", ["..", ".", "a/../..", "a//b", "/etc", "a/./b"])
def test_no_way_leads_up_or_around(root: Path, directory: str) -> None:
    (root / "a" / "b").mkdir(parents=True)
    with pytest.raises(UnsafeError):
        tree_of(root).enter(directory)


def test_a_name_that_is_too_long_is_no_directory(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(UnsafeError):
            enter_one("x" * 300, descriptor, os.O_RDONLY)
    finally:
        os.close(descriptor)


def test_nothing_is_left_open_by_what_failed(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "b").touch()
    tree = tree_of(root)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        for directory in ("a/b", "a/c/d", "..", "a/b/c"):
            with pytest.raises((Gone, UnsafeError)):
                tree.enter(directory)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# --- what a person names ---


@pytest.mark.parametrize(
    "name",
    [
        *("outbound.db", "it's", "new\nline", "back\\slash", "\\n", "\\x41", "-rf", "\x1b[2J", "\u202e", "é", " "),
        *(os.fsdecode(b"\xff\xfe"), "x" * 247, "x-journal", "$(id)", '"'),
    ],
)
def test_a_database_is_found_by_its_name_by_its_journals_and_by_what_a_log_line_showed(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    touch(root / "a" / name)
    touch(root / "a" / f"{name}-journal")
    tree = tree_of(root)
    place = Place("a", name)
    path = tree.path(place)
    monkeypatch.chdir(root / "a")
    for spelled in (path, f"{path}-journal", f"a/{name}", f"./{name}", f"../a/./{name}", f"../a/{name}-journal"):
        assert tree.locate(spelled) == place, spelled
    for shown in (printable(path), printable(f"{path}-journal"), printable(f"a/{name}")):
        assert tree.locate(shown) == place, shown


def test_a_word_is_a_name_as_it_is_or_as_it_is_shown_and_nothing_where_both_are_there(root: Path) -> None:
    touch(root / "a\\nb-journal")
    tree = tree_of(root)
    assert tree.locate("a\\nb") == Place("", "a\\nb")
    touch(root / "a\nb-journal")
    with pytest.raises(OutsideTreeError, match="two databases"):
        tree.locate("a\\nb")
    assert tree.locate("a\\\\nb") == Place("", "a\\nb")
    assert tree.locate("a\nb") == Place("", "a\nb")
    (root / "a\\nb-journal").unlink()
    assert tree.locate("a\\nb") == Place("", "a\nb")


def test_a_file_called_journal_that_has_a_journal_is_a_database(root: Path) -> None:
    for name in ("x-journal", "x-journal-journal"):
        touch(root / name)
    assert tree_of(root).locate(str(root / "x-journal")) == Place("", "x-journal")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.db", "a/../../x.db", "", ".", "a"])
def test_a_path_outside_the_tree_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (root / "a").mkdir()
    monkeypatch.chdir(root)
    tree = tree_of(root, layout="{session}")
    with pytest.raises(OutsideTreeError):
        tree.locate(path)


def test_a_link_that_leads_out_of_the_tree_names_nothing_in_it(root: Path, tmp_path: Path) -> None:
    touch(tmp_path / "outside" / "x.db-journal")
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(OutsideTreeError):
        tree_of(root, layout="{agent_group}/{session}").locate(str(root / "link" / "x.db"))
    place = tree_of(root).locate(str(root / "link" / "x.db"))
    assert looker(root).look(place).state == "unsafe"


@pytest.mark.parametrize(
    ("settings", "path", "why"),
    [
        ({"layout": "{session}"}, "x.db", "not of layout"),
        ({"exclude": ["a"]}, "a/x.db", "tree.exclude"),
        ({"databases": ["y*"]}, "x.db", "tree.databases"),
        ({}, "a/none.db", "no such database"),
    ],
)
def test_a_refused_path_is_told_why(
    root: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], path: str, why: str
) -> None:
    for name in ("x.db", "a/x.db"):
        touch(root / name)
    monkeypatch.chdir(root)
    with pytest.raises(OutsideTreeError, match=why):
        tree_of(root, **settings).locate(path)
