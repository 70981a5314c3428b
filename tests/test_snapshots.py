"""Snapshots: private, few, bounded by session, by number and by the disk, and of use."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.hostile import Host, everything_in
from tests.pairs import looker
from tests.small_disk import small_disk
from tests.writers import CrashedPair, count_read_only, journal_of
from watcher import snapshots as module
from watcher.settings import SnapshotSettings
from watcher.snapshots import SnapshotError, Snapshots, SnapshotSkipped
from watcher.tree import Place


class Shelf:
    """Snapshots in a directory of the test's, of pairs in a tree of the test's."""

    def __init__(self, host: Host, **settings: object) -> None:
        self.host = host
        self.directory = host.settings.state_dir / "snapshots"
        self.settings = SnapshotSettings.model_validate(settings)
        self.snapshots = Snapshots(self.directory, self.settings)

    def take(self, database: Path) -> Path:
        directory, _, name = os.path.relpath(database, self.host.root).rpartition("/")
        with self.host.rooms.looker.pair(Place(directory, name)) as pair:
            return Path(self.snapshots.take(pair, pair.look()))

    def kept(self) -> set[Path]:
        return set(self.directory.glob("*/*/*"))

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def shelf(host: Host) -> Shelf:
    return Shelf(host)


def test_a_snapshot_is_a_pair_that_sqlite_opens_as_it_stands(shelf: Shelf) -> None:
    database = shelf.host.crash()
    before = everything_in(shelf.host.root)
    taken = shelf.take(database)
    assert everything_in(shelf.host.root) == before
    assert (taken / "database").read_bytes() == database.read_bytes()
    assert (taken / "database-journal").read_bytes() == journal_of(database).read_bytes()
    with closing(sqlite3.connect(taken / "database")) as connection:
        connection.execute("SELECT count(*) FROM t").fetchone()
    assert count_read_only(taken / "database") > 0


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_nobody_else_can_read_what_is_kept(shelf: Shelf, umask: int) -> None:
    database = shelf.host.crash("group/session/outbound.db")
    database.chmod(0o666)
    before = os.umask(umask)
    try:
        taken = shelf.take(database)
    finally:
        os.umask(before)
    for path in (shelf.directory, *shelf.directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert taken.is_dir()


def test_of_each_database_the_newest_stay(host: Host) -> None:
    shelf = Shelf(host, keep=2)
    first, second = host.crash("a/outbound.db"), host.crash("b/outbound.db")
    of_first = [shelf.take(first) for _ in range(4)]
    of_second = shelf.take(second)
    assert shelf.kept() == {*of_first[-2:], of_second}


def test_a_snapshot_of_a_corrupt_database_outlives_the_others(host: Host) -> None:
    shelf = Shelf(host, keep=1)
    database = host.crash()
    corrupt = Path(shelf.snapshots.keep_for_corrupt(str(shelf.take(database))))
    others = [shelf.take(database) for _ in range(4)]
    assert shelf.kept() == {corrupt, others[-1]}


def test_the_newest_three_of_corrupt_ones_stay(shelf: Shelf) -> None:
    database = shelf.host.crash()
    corrupt = [Path(shelf.snapshots.keep_for_corrupt(str(shelf.take(database)))) for _ in range(5)]
    assert shelf.kept() == set(corrupt[-3:])


def test_a_snapshot_that_was_dropped_leaves_no_directory(shelf: Shelf) -> None:
    taken = shelf.take(shelf.host.crash())
    shelf.snapshots.drop(str(taken))
    assert list(shelf.directory.iterdir()) == []


def test_what_is_larger_than_allowed_is_skipped(host: Host, crashed: CrashedPair) -> None:
    database = host.crash()
    size = len(crashed.database) + len(crashed.journal)
    with pytest.raises(SnapshotSkipped, match="max_size"):
        Shelf(host, max_size=size - 1).take(database)
    with pytest.raises(SnapshotSkipped, match="a quarter of"):
        Shelf(host, max_size=size, max_total=size * 3).take(database)
    Shelf(host, max_size=size, max_total=size * 5).take(database)


def test_a_session_has_a_quarter_and_takes_nothing_from_others(host: Host, crashed: CrashedPair) -> None:
    size = len(crashed.database) + len(crashed.journal) + 20_000
    shelf = Shelf(host, keep=100, max_size=size, max_total=size * 12)
    of_neighbour = shelf.take(host.crash("neighbour/outbound.db"))
    of_greedy = [shelf.take(host.crash(f"greedy/{number}.db")) for number in range(20)]
    assert shelf.kept() == {of_neighbour, *of_greedy[-3:]}


def test_without_a_layout_a_session_wins_nothing_by_making_directories(host: Host, crashed: CrashedPair) -> None:
    size = len(crashed.database) + len(crashed.journal) + 20_000
    shelf = Shelf(host, keep=100, max_size=size, max_total=size * 12)
    of_neighbour = shelf.take(host.crash("neighbour/outbound.db"))
    of_greedy = [shelf.take(host.crash(f"greedy/{number}/outbound.db")) for number in range(20)]
    assert shelf.kept() == {of_neighbour, *of_greedy[-3:]}


def test_a_layout_says_what_a_session_is(host: Host, crashed: CrashedPair) -> None:
    host.configure(tree={"layout": "{agent_group}/{session}"})
    size = len(crashed.database) + len(crashed.journal) + 20_000
    shelf = Shelf(host, keep=100, max_size=size, max_total=size * 8)
    taken = [shelf.take(host.crash(f"group/{number}/outbound.db")) for number in range(4)]
    assert shelf.kept() == set(taken)


def test_all_together_stay_within_the_total_and_the_oldest_go_first(host: Host, crashed: CrashedPair) -> None:
    size = len(crashed.database) + len(crashed.journal) + 20_000
    shelf = Shelf(host, keep=100, max_size=size, max_total=size * 6)
    taken = [shelf.take(host.crash(f"{number}/outbound.db")) for number in range(10)]
    assert shelf.kept() == set(taken[-6:])
    assert shelf.bytes_on_disk() <= size * 6


def test_several_at_once_stay_within_the_total(host: Host, crashed: CrashedPair) -> None:
    size = len(crashed.database) + len(crashed.journal) + 20_000
    shelf = Shelf(host, keep=100, max_size=size, max_total=size * 4)
    for number in range(8):
        host.crash(f"{number}/outbound.db")
    taken: list[Path] = []

    def take(number: int) -> None:
        taken.extend(shelf.take(host.root / str(number) / "outbound.db") for _ in range(10))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 80
    assert 0 < shelf.bytes_on_disk() <= size * 4


def test_tiny_pairs_take_no_more_inodes_than_is_decent(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 40)
    shelf = Shelf(host, keep=1000)
    database = host.crash("greedy/outbound.db")
    os.truncate(database, 2048)
    taken = [shelf.take(database) for _ in range(30)]
    assert shelf.kept() == set(taken[-10:])


def test_what_was_kept_before_a_restart_counts(host: Host) -> None:
    taken = Shelf(host, keep=2).take(host.crash())
    again = Shelf(host, keep=2)
    newer = [again.take(host.crash()) for _ in range(2)]
    assert taken not in again.kept()
    assert again.kept() == set(newer)


def test_a_clock_that_was_set_back_does_not_take_the_one_that_was_just_made(host: Host) -> None:
    taken = Shelf(host, keep=1).take(host.crash())
    taken.rename(taken.with_name("29991231T235959.000000-1-000001"))
    shelf = Shelf(host, keep=1)
    assert shelf.take(host.crash()) in shelf.kept()


def test_a_disk_that_is_nearly_full_is_left_alone(host: Host, tmp_path: Path) -> None:
    database = host.crash()
    with small_disk(tmp_path / "disk", size_kib=900) as disk:
        shelf = Shelf(host)
        shelf.snapshots = Snapshots(disk / "snapshots", shelf.settings)
        with pytest.raises(SnapshotError, match="5% of the disk would stay free"):
            shelf.take(database)
        assert list((disk / "snapshots").rglob("*")) == []


def test_a_disk_that_fills_up_in_the_middle_keeps_nothing_of_it(host: Host, tmp_path: Path) -> None:
    database = host.crash()
    with small_disk(tmp_path / "disk", size_kib=4096, files=4) as disk:
        shelf = Shelf(host)
        shelf.snapshots = Snapshots(disk / "snapshots", shelf.settings)
        with pytest.raises(SnapshotError, match="No space left"):
            shelf.take(database)
        assert [path for path in (disk / "snapshots").rglob("*") if path.is_file()] == []


def test_what_a_killed_process_left_half_made_is_cleared_away_later(host: Host) -> None:
    shelf = Shelf(host)
    taken = shelf.take(host.crash())
    left_behind = taken.rename(taken.with_name(f"{taken.name}.unfinished"))
    Shelf(host).take(host.crash())
    assert left_behind.exists()
    os.utime(left_behind, (1, 1))
    Shelf(host).take(host.crash())
    assert not left_behind.exists()


@pytest.mark.parametrize(
    "name", [b"..db", b"-rf", b"\xff", b"a\nb", b"x" * 247, b"..", b"CON", b"a:b", b"~", b"$(id)", b" "]
)
def test_a_hostile_name_stays_below_the_directory_and_is_known_again(host: Host, name: bytes) -> None:
    shelf = Shelf(host, keep=1)
    name = b"..x" if name == b".." else name
    database = host.crash(b"a/" + name)
    first, second = shelf.take(database), shelf.take(database)
    assert shelf.kept() == {second}
    assert first.parent == second.parent
    assert second.parent.parent.parent == shelf.directory
    assert os.fspath(second).isascii()
    assert os.fspath(second).isprintable()


def test_names_that_look_alike_when_they_are_made_harmless_are_kept_apart(host: Host) -> None:
    shelf = Shelf(host, keep=1)
    taken = {shelf.take(host.crash(name)) for name in ("a/x:y", "a/x;y", "a/x y", "a/X_y", "a/x_y")}
    assert shelf.kept() == taken


def test_a_database_that_grows_under_the_copy_is_copied_as_it_was_judged(host: Host, crashed: CrashedPair) -> None:
    shelf = Shelf(host)
    database = host.crash()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        look = pair.look()
        with database.open("ab") as file:
            file.write(bytes(1 << 20))
        taken = Path(shelf.snapshots.take(pair, look))
    assert (taken / "database").stat().st_size == len(crashed.database)


def test_a_database_that_shrinks_under_the_copy_gives_no_snapshot(host: Host) -> None:
    shelf = Shelf(host)
    database = host.crash()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        look = pair.look()
        os.truncate(database, 1024)
        with pytest.raises(SnapshotError, match="became shorter"):
            shelf.snapshots.take(pair, look)
    assert shelf.kept() == set()


def test_a_sparse_database_takes_no_more_than_its_size(host: Host) -> None:
    shelf = Shelf(host)
    database = host.crash()
    os.truncate(database, 1 << 40)
    with pytest.raises(SnapshotSkipped):
        shelf.take(database)


def test_syncing_one_that_was_pruned_meanwhile_is_no_error(shelf: Shelf) -> None:
    taken = shelf.take(shelf.host.crash())
    Snapshots.begin_to_sync(str(taken))
    Snapshots.sync(str(taken))
    shelf.snapshots.drop(str(taken))
    Snapshots.begin_to_sync(str(taken))
    Snapshots.sync(str(taken))


def test_what_another_process_took_away_cannot_be_kept_for_longer(shelf: Shelf) -> None:
    taken = shelf.take(shelf.host.crash())
    taken.rename(taken.with_name("elsewhere"))
    with pytest.raises(SnapshotError):
        shelf.snapshots.keep_for_corrupt(str(taken))


def test_the_size_rules_are_the_same_before_and_at_the_copy(host: Host) -> None:
    shelf = Shelf(host, max_size=1000)
    look = looker(host.root).look(Place("", host.crash().name))
    assert shelf.snapshots.obstacle(look) is not None
    assert Shelf(host).snapshots.obstacle(look) is None
