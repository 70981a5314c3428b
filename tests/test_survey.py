"""A sweep finds every journal that a full walk finds, and looks only where something can have changed."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watcher.hints.survey import Survey, UnreadError
from watcher.journal import JournalState
from watcher.look import Looker
from watcher.settings import TreeSettings
from watcher.tree import Place, RootMissingError, Tree

LONG_AGO_NS = 1_600_000_000 * 10**9


def tree_at(root: Path, layout: str | None = "{group}/{session}", databases: tuple[str, ...] = ("*",)) -> Tree:
    return Tree(TreeSettings(root=root, layout=layout, databases=databases))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for group in "ab":
        for session in "123":
            (root / group / session).mkdir(parents=True)
            (root / group / session / "outbound.db").touch()
    return root


def age(root: Path) -> None:
    """As if nothing had changed for years."""
    for directory, _, _ in os.walk(root):
        os.utime(directory, ns=(LONG_AGO_NS, LONG_AGO_NS))


@contextmanager
def listings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The directories that are listed meanwhile."""
    listed: list[str] = []
    scandir = os.scandir

    def counting(descriptor: int) -> object:
        listed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return scandir(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", counting)
        yield listed


def test_what_is_old_and_unchanged_is_not_listed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a" / "1" / "outbound.db-journal").write_bytes(b"x")
    age(root)
    survey = Survey(tree_at(root))
    first = list(survey.journals())
    with listings(monkeypatch) as listed:
        assert list(survey.journals()) == first == [Place("a/1", "outbound.db")]
    assert listed == []


def test_a_journal_that_appears_is_found_and_only_its_directory_is_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(root)
    survey = Survey(tree_at(root))
    assert not list(survey.journals())
    (root / "b" / "2" / "outbound.db-journal").write_bytes(b"x")
    with listings(monkeypatch) as listed:
        assert list(survey.journals()) == [Place("b/2", "outbound.db")]
    assert listed == [str(root / "b" / "2")]


def test_a_directory_that_changed_a_moment_ago_is_listed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = Survey(tree_at(root))
    list(survey.journals())
    with listings(monkeypatch) as listed:
        list(survey.journals())
    assert len(listed) == 9


def test_another_directory_of_the_same_time_is_another_one(root: Path) -> None:
    age(root)
    survey = Survey(tree_at(root))
    list(survey.journals())
    (root / "a" / "1").rename(root / "moved")
    (root / "a" / "1").mkdir()
    (root / "a" / "1" / "outbound.db-journal").write_bytes(b"x")
    age(root)
    assert list(survey.journals()) == [Place("a/1", "outbound.db")]


def test_a_journal_that_is_known_to_be_cold_comes_back_when_it_is_written(root: Path) -> None:
    journal = root / "a" / "1" / "outbound.db-journal"
    journal.write_bytes(bytes(512))
    os.utime(journal, ns=(LONG_AGO_NS, LONG_AGO_NS))
    age(root)
    tree = tree_at(root)
    survey = Survey(tree)
    place = Place("a/1", "outbound.db")
    assert list(survey.journals()) == [place]
    look = Looker(tree, max_journal_bytes=1 << 30).look(place)
    assert look.state is JournalState.ZEROED
    assert look.journal is not None
    survey.note_cold(place, look.journal)
    assert list(survey.journals()) == []
    with journal.open("r+b") as opened:
        opened.write(b"x")
    assert list(survey.journals()) == [place]
    assert list(survey.journals()) == [place]


def test_a_cold_journal_that_was_just_written_is_not_trusted(root: Path) -> None:
    journal = root / "a" / "1" / "outbound.db-journal"
    journal.write_bytes(bytes(512))
    tree = tree_at(root)
    survey = Survey(tree)
    look = Looker(tree, max_journal_bytes=1 << 30).look(Place("a/1", "outbound.db"))
    assert look.journal is not None
    survey.note_cold(look.place, look.journal)
    assert list(survey.journals()) == [look.place]


@pytest.mark.parametrize("layout", ["{group}/{session}", None])
def test_a_directory_that_cannot_be_read_hides_none_but_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, layout: str | None
) -> None:
    for group in "ab":
        for session in "123":
            (root / group / session / "outbound.db-journal").write_bytes(b"x")
    survey, scandir, broken = Survey(tree_at(root, layout)), os.scandir, root / "a" / "2"

    def failing(descriptor: int) -> object:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(broken):
            raise OSError(errno.EIO, os.strerror(errno.EIO), descriptor)
        return scandir(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        for _ in range(2):
            met: set[str] = set()
            with pytest.raises(UnreadError) as raised:
                met.update(place.directory for place in survey.journals())
            assert raised.value.errno == errno.EIO
            assert raised.value.filename == str(broken)
            assert met == {"a/1", "a/3", "b/1", "b/2", "b/3"}
    assert len(list(survey.journals())) == 6


def test_where_no_descriptor_is_left_the_walk_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_descriptor: int) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    survey = Survey(tree_at(root))
    list(survey.journals())
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        with pytest.raises(OSError, match="Too many open files") as raised:
            list(survey.journals())
    assert not isinstance(raised.value, UnreadError)


def test_links_to_directories_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.db-journal").write_bytes(b"x")
    age(root)
    survey = Survey(tree_at(root))
    list(survey.journals())
    (root / "a" / "1" / "outbound.db").unlink()
    (root / "a" / "1").rmdir()
    (root / "a" / "1").symlink_to(outside)
    (root / "a" / "4").symlink_to(outside)
    assert list(survey.journals()) == []
    assert list(survey.journals()) == []


def test_a_root_that_is_missing_is_said_and_its_successor_is_listed(root: Path) -> None:
    age(root)
    survey = Survey(tree_at(root))
    list(survey.journals())
    root.rename(root.with_name("away"))
    with pytest.raises(RootMissingError):
        list(survey.journals())
    (root / "a" / "1").mkdir(parents=True)
    (root / "a" / "1" / "outbound.db-journal").write_bytes(b"x")
    assert list(survey.journals()) == [Place("a/1", "outbound.db")]


def test_named_journals_are_asked_for_and_their_directories_not_even_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (root, root / "a", root / "b"):
        os.utime(directory, ns=(LONG_AGO_NS, LONG_AGO_NS))
    survey = Survey(tree_at(root, databases=("outbound.db", "inbound.db")))
    list(survey.journals())
    for name in ("outbound.db-journal", "inbound.db-journal", "other.db-journal"):
        (root / "b" / "3" / name).write_bytes(b"x")
    with listings(monkeypatch) as listed:
        assert sorted(survey.journals()) == [Place("b/3", "inbound.db"), Place("b/3", "outbound.db")]
    assert listed == []


@pytest.mark.parametrize(
    ("layout", "databases"),
    [("{group}/{session}", ("*",)), ("{group}/{session}", ("x.db", "z.db")), ("{group}", ("x.db",)), (None, ("*",))],
    ids=["layout", "names", "one level", "any depth"],
)
@pytest.mark.parametrize("seed", range(6))
def test_a_survey_finds_what_a_walk_finds_whatever_has_happened(
    tmp_path: Path, layout: str | None, databases: tuple[str, ...], seed: int
) -> None:
    chance = random.Random(seed)
    root = tmp_path / "tree"
    root.mkdir()
    tree = tree_at(root, layout, databases)
    survey = Survey(tree)
    for _ in range(60):
        directory = root / chance.choice("ab") / chance.choice(["", "1", "2"])
        journal = directory / f"{chance.choice('xy')}.db-journal"
        match chance.randrange(6):
            case 0 | 1:
                directory.mkdir(parents=True, exist_ok=True)
            case 2 if directory.is_dir():
                journal.write_bytes(b"x")
            case 3:
                journal.unlink(missing_ok=True)
            case 4 if directory.is_dir():
                shutil.rmtree(directory)
            case 5:
                age(root)
                survey = Survey(tree)  # one that has seen all of this, so that it may trust what is old
                list(survey.journals())
        assert sorted(survey.journals()) == sorted(tree.journals())
