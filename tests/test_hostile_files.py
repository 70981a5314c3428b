"""What an agent may put in the place of a database, a journal or a directory: all refused, nothing touched."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from tests.hostile import Host, only_rolled_back, unchanged
from tests.pairs import MAGIC, Shape, leasing, super_trailer
from tests.running import Runner
from tests.writers import CrashedPair, journal_of
from watcher import reports
from watcher.advice import by_hand
from watcher.decision import Decision
from watcher.journal import JournalState
from watcher.records.record import Outcome
from watcher.remembered import Remembered
from watcher.reports import Reports
from watcher.rollback import Job, RollbackError, roll_back
from watcher.tree import Place

pytestmark = pytest.mark.timeout(60)
"""Nothing here may ever wait."""

is_root = os.geteuid() == 0


def expect_refused(host: Host, database: Path, why: str, state: JournalState = JournalState.UNSAFE) -> None:
    """It is found and told as what it is, `recover` refuses it, and every byte stays as it was."""
    with only_rolled_back(host.root):
        finding = host.find(database)
        assert (finding.look.state, finding.decision) == (state, Decision.REFUSE), finding
        assert why in finding.reason
        assert finding.reason.isprintable()
        assert host.outcome_of(database) is Outcome.REFUSED


# --- links ---


@pytest.mark.parametrize("which", ["database", "journal"])
@pytest.mark.parametrize("target", ["outbound.db", "outbound.db-journal", "secret", "directory", "nothing", "../tree"])
def test_a_link_to_the_outside(host: Host, which: str, target: str) -> None:
    database = host.crash("s1/outbound.db")
    path = database if which == "database" else journal_of(database)
    path.unlink()
    path.symlink_to(host.outside / target)
    expect_refused(host, database, f"the {which} is a symbolic link, not a plain file")


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/c"])
def test_a_directory_below_the_root_that_is_a_link_to_the_outside(host: Host, linked: str) -> None:
    database = host.root / "a" / "b" / "c" / "outbound.db"
    link = host.root / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    below = os.path.relpath(database.parent, link)
    target = host.outside / "directory"
    if below != ".":
        target = host.outside
        database = link / "directory" / "outbound.db"
    link.symlink_to(target, target_is_directory=True)
    expect_refused(host, database, f"{link.name} on the way to it is a symbolic link, not a directory")
    assert host.scan() == []


@pytest.mark.parametrize("which", ["database", "journal"])
def test_a_hard_link_to_a_file_of_the_host(host: Host, tmp_path: Path, crashed: CrashedPair, which: str) -> None:
    victim = crashed.put(tmp_path / "elsewhere" / "outbound.db")
    database = host.crash()
    path, target = (database, victim) if which == "database" else (journal_of(database), journal_of(victim))
    path.unlink()
    os.link(target, path)
    with unchanged(victim.parent):
        expect_refused(host, database, f"the {which} has 2 hard links")


# --- what is no plain file ---


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def a_directory(path: Path) -> None:
    path.mkdir()


def an_endless_device(path: Path) -> None:
    if not is_root:
        pytest.skip("making devices wants root")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def a_disk(path: Path) -> None:
    if not is_root:
        pytest.skip("making devices wants root")
    os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(7, 0))


SPECIAL = [
    (a_fifo, "a FIFO"),
    (a_socket, "a socket"),
    (an_endless_device, "a character device"),
    (a_disk, "a block device"),
]


@pytest.mark.parametrize(
    ("which", "make", "kind"),
    [(which, *special) for which in ("database", "journal", "directory") for special in SPECIAL]
    + [(which, a_directory, "a directory") for which in ("database", "journal")],
)
def test_what_is_no_plain_file(host: Host, which: str, make: Callable[[Path], None], kind: str) -> None:
    database = host.crash("s1/outbound.db")
    if which == "directory":
        journal_of(database).unlink()
        database.unlink()
        database.parent.rmdir()
        make(database.parent)
        expect_refused(host, database, f"s1 on the way to it is {kind}, not a directory")
        return
    path = database if which == "database" else journal_of(database)
    path.unlink()
    make(path)
    expect_refused(host, database, f"the {which} is {kind}, not a plain file")


# --- journals that are none of ours ---


@pytest.mark.parametrize("journal_is", ["a hot one", "a diary"])
def test_somebodys_diary(host: Host, journal_is: str) -> None:
    notes = host.root / "notes"
    notes.write_text("Buy milk", encoding="utf-8")
    journal = host.root / "notes-journal"
    journal.write_bytes(MAGIC * 100 if journal_is == "a hot one" else b"Dear diary, today I have met nobody. " * 50)
    expect_refused(host, notes, "is no SQLite 3 database", JournalState.FOREIGN)


def test_a_diary_beside_a_real_database_is_deleted_only_with_a_copy(host: Host) -> None:
    database = host.crash()
    journal_of(database).write_bytes(b"Dear diary, today I have met nobody. " * 50)
    host.configure(recovery={"snapshot": None})
    with only_rolled_back(host.root):
        assert host.outcome_of(database) is Outcome.REFUSED
    host.configure()
    recovered = host.recover(database)[0].record
    assert recovered.outcome is Outcome.RECOVERED
    assert recovered.snapshot is not None
    assert (Path(recovered.snapshot) / "database-journal").read_bytes().startswith(b"Dear diary")


@pytest.mark.parametrize("new", [False, True])
def test_a_wal_beside_it_is_not_looked_at(host: Host, new: bool) -> None:
    """SQLite would read it into the database, and delete it where the rollback leaves no page of that."""
    database = host.root / "outbound.db"
    if new:
        inserts = ("INSERT INTO u VALUES (randomblob(1024))",) * 50
        Shape(rows=0, during=("CREATE TABLE u (body)", *inserts)).crash(database)
    else:
        host.crash()
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").write_bytes(b"what somebody has written")
    with only_rolled_back(host.root, database):
        assert host.outcome_of(database) is Outcome.RECOVERED


def test_an_orphan(host: Host) -> None:
    database = host.crash()
    database.unlink()
    expect_refused(host, database, "there is no database beside the journal", JournalState.ORPHAN)


@pytest.mark.parametrize("size", [1 << 30, (1 << 30) + 1, 1 << 40, (1 << 43) - 4096])
def test_a_sparse_journal_of_any_size(host: Host, size: int) -> None:
    database = host.crash()
    os.truncate(journal_of(database), size)
    if size > 1 << 30:
        expect_refused(host, database, f"its journal has {size} bytes, more than recovery.max_journal_size")
    else:
        host.configure(recovery={"snapshot": None})
        assert host.outcome_of(database) is Outcome.RECOVERED
        assert host.is_recovered(database)


# --- super-journals ---


@pytest.mark.parametrize("name", ["secret", "directory/outbound.db", "outbound.db-journal", "victim-mj0123459AB"])
def test_a_crafted_trailer_that_names_a_file_of_the_host(host: Host, name: str) -> None:
    """SQLite before 3.54 deletes the file of that name; where there is none, it deletes the journal instead."""
    database = host.crash()
    victim = host.outside / name
    with journal_of(database).open("ab") as journal:
        journal.write(super_trailer(os.fsencode(victim)))
    expect_refused(host, database, f"names the super-journal {victim}", JournalState.SUPER)
    assert victim.exists()


def test_a_crafted_trailer_that_names_nothing(host: Host) -> None:
    database = host.crash()
    with journal_of(database).open("ab") as journal:
        journal.write(super_trailer(b"/no/such/file"))
    expect_refused(host, database, "names the super-journal /no/such/file", JournalState.SUPER)


@pytest.mark.parametrize(
    "name", ["{outside}/victim-mj0123459AB", "{outside}/none-mj0123459AB", "{alias}-mj0123459AB", "x-mj0123459AB"]
)
def test_a_trailer_that_comes_after_the_look_leads_sqlite_to_no_other_file(host: Host, name: str) -> None:
    database = host.crash()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        look = pair.look()
        named = name.format(outside=host.outside, alias=f"/proc/self/fd/{pair.database_fd}")
        with journal_of(database).open("ab") as journal:
            journal.write(super_trailer(os.fsencode(named)))
        with only_rolled_back(host.root), pytest.raises(RollbackError, match="neither the database nor its journal"):
            roll_back(Job.of(pair, look, busy_timeout_s=0.0))


def test_a_name_that_no_sqlite_gives_to_a_super_journal_is_refused_though_ours_would_not_heed_it(host: Host) -> None:
    """SQLite 3.54 takes a journal whose trailer names a file without `-mj` for an ordinary one; the poll of an older
    SQLite's host does not."""
    database = host.crash()
    with host.rooms.looker.pair(Place("", database.name)) as pair:
        look = pair.look()
        with journal_of(database).open("ab") as journal:
            journal.write(super_trailer(os.fsencode(host.outside / "secret")))
        roll_back(Job.of(pair, look, busy_timeout_s=0.0))
    assert host.is_recovered(database)


def test_a_genuine_one_of_a_killed_transaction_over_two_databases(host: Host) -> None:
    first, second = host.root / "first.db", host.root / "second.db"
    killed = subprocess.run([sys.executable, "-c", _ATTACHED, str(first), str(second)], check=False)
    assert killed.returncode == -9
    named = next(path for path in host.root.iterdir() if "-mj" in path.name)
    states = {host.find(database).look.state for database in (first, second)}
    assert JournalState.SUPER in states
    for database in (first, second):
        if host.find(database).look.state is JournalState.SUPER:
            expect_refused(host, database, f"names the super-journal {named}", JournalState.SUPER)
            advice = by_hand(host.find(database))
            assert "must be recovered together" in advice
            assert "in the name space that wrote the super-journal's path" in advice


_ATTACHED = """
import os, signal, sys
import apsw

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("disk", "")
    def xDelete(self, name, sync):
        if ready and "-mj" in name:  # the very moment of the commit
            os.kill(os.getpid(), signal.SIGKILL)
        super().xDelete(name, sync)

ready = False
disk = Disk()
connection = apsw.Connection(sys.argv[1], vfs="disk")
connection.execute("CREATE TABLE t (x); ATTACH '" + sys.argv[2] + "' AS other; CREATE TABLE other.u (x)")
ready = True
connection.execute("BEGIN; INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); COMMIT")
"""


# --- absurd headers ---


@pytest.mark.parametrize(
    ("offset", "number"),
    [
        (8, 0),
        (8, 2**31),
        (8, 2**32 - 1),
        (16, 0),
        (16, 1),
        (16, 2**31),
        (16, 2**32 - 1),
        (20, 32),
        (20, 65536),
        (24, 0),
    ],
)
def test_an_absurd_header_grows_no_database_beyond_both_files(
    host: Host, crashed: CrashedPair, offset: int, number: int
) -> None:
    database = host.crash()
    with journal_of(database).open("r+b") as journal:
        journal.seek(offset)
        journal.write(number.to_bytes(4, "big"))
    host.outcome_of(database)
    assert database.stat().st_size <= len(crashed.database) + len(crashed.journal)
    assert database.stat().st_blocks * 512 <= len(crashed.database) + len(crashed.journal) + 8192


def test_a_corrupt_page_1_is_told_and_the_snapshot_is_kept(host: Host, crashed: CrashedPair) -> None:
    database = host.crash()
    with database.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 84)
    recovered = host.recover(database)[0].record
    # Where the journal holds page 1, the rollback mends it; else it was damaged before.
    page_1_is_in_it = (1).to_bytes(4, "big") == crashed.journal[512:516]
    assert recovered.outcome is (Outcome.RECOVERED if page_1_is_in_it else Outcome.CORRUPT)
    assert recovered.snapshot is not None


def test_a_write_ahead_log_beside_it_is_not_replayed(host: Host) -> None:
    database = host.crash()
    wal = database.with_name("outbound.db-wal")
    wal.write_bytes(b"\x37\x7f\x06\x82" + bytes(1000))
    content = wal.read_bytes()
    with only_rolled_back(host.root, database):
        assert host.outcome_of(database) is Outcome.RECOVERED
    assert wal.read_bytes() == content


def test_the_sqlite_in_use_is_the_one_that_the_rules_were_measured_on() -> None:
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= (3, 54, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_a_lease_on_a_journal_is_looked_at_seldom_and_told(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(watch={"hold_warning": "1s"})
    database = crashed.put(runner.root / "hostile" / "x.db")
    with leasing(journal_of(database)):
        service = runner.start()
        told = service.wait_for("waiting", database=database)
        assert "lease" in str(told["message"])
        assert journal_of(database).exists()
    service.wait_for("recovered", database=database)
    assert service.stop() == 0


def test_what_cannot_be_looked_at_is_looked_at_less_and_less_often() -> None:
    remembered, place = Remembered(lambda place: place.directory), Place("hostile", "x.db")
    assert [remembered.look_again(place)[0] for _ in range(4)] == [0, 1, 2, 3]
    remembered.forget(place)
    assert remembered.look_again(place)[0] == 0


def test_nor_is_what_comes_to_nothing_on_the_way_to_its_recovery(host: Host) -> None:
    remembered, finding = Remembered(lambda place: place.directory), host.find(host.crash("hostile/x.db"))
    looks = list[int]()
    for _ in range(4):
        remembered.note(finding)
        looks.append(remembered.look_again(finding.place)[0])
    assert looks == sorted(set(looks))


def test_refusals_that_were_too_many_are_told_when_the_hour_is_over(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(reports, "time", SimpleNamespace(monotonic=lambda: now))
    kept: list[str] = []
    made = Reports(lambda record, _change: kept.append(record.database), lambda _state: None, lambda _place: "s")
    findings = []
    for number in range(50):
        database = host.root / "s" / f"x{number}"
        database.parent.mkdir(exist_ok=True)
        journal_of(database).write_bytes(b"x" * 600)
        findings.append(host.find(database))
    untold = [each for each in findings if not made.refused(each)]
    assert len(kept) == 20
    assert not any(made.refused(each, is_new=False) for each in untold)
    now = 3601.0
    untold = [each for each in untold if not made.refused(each, is_new=False)]
    now = 7203.0
    untold = [each for each in untold if not made.refused(each, is_new=False)]
    assert untold == []
    assert sorted(kept) == sorted(each.path for each in findings)
    assert made.recoveries()["refused"] == 50


def test_a_snapshot_that_is_skipped_is_told_for_each_database(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"snapshot": {"max_size": "100KiB"}})
    databases = [crashed.put(runner.root / "s" / name) for name in ("inbound.db", "outbound.db")]
    service = runner.start()
    for database in databases:
        service.wait_for("snapshot_skipped", database=database)
    assert service.stop() == 0
