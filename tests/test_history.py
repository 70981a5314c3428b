"""The history: what is kept, what is found again, and what a kill, a full disk or a second program do to it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.small_disk import fill, small_disk
from tests.test_state_dir import nobodys, without_privileges
from watcher.owner.testimony import Answer, Evidence, Judgement, Verdict
from watcher.records import history as history_module
from watcher.records.history import History
from watcher.records.history_file import HistoryError, Trouble
from watcher.records.record import Outcome, Record

__all__ = ["nobodys"]

NOON = datetime(2026, 11, 24, 12, 0, 0, 123_999, tzinfo=UTC)
EXITED = Judgement(
    Verdict.EXITED, (Evidence("locks", Answer.EXITED, r"no lock on a\xff"), Evidence("boot", Answer.SILENT, ""))
)


def history_at(path: Path, *, keep: int = 10_000, max_age_s: float = 1e9) -> History:
    return History(path, keep=keep, max_age_s=max_age_s)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return history_at(tmp_path / "history.db")


def record(number: int = 0, outcome: Outcome = Outcome.RECOVERED, **fields: Any) -> Record:
    moment = NOON + timedelta(seconds=number)
    return replace(Record(database="/srv/a/outbound.db", outcome=outcome, time=moment), **fields)


def numbered(first: int, last: int) -> list[tuple[Record, str]]:
    return [(record(number, pages=number), str(number)) for number in range(first, last)]


def pages_in(history: History, **which: Any) -> list[object]:
    return [entry["pages"] for entry in history.query(**which)]


@contextmanager
def in_another_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str], text: str) -> bool:
    assert process.stdout is not None
    return process.stdout.readline().strip() == text


@pytest.mark.parametrize(
    "entry",
    [
        record(),
        record(
            database="/srv/a\n\udcff\\/outbound.db",
            outcome=Outcome.FAILED,
            pages=12,
            journal_size=4616,
            duration_ms=7.1234,
            snapshot="/var/\udcfe.db",
            owner=EXITED,
            error="no rights",
            session={"agent_group": "g", "session": "s\udcff"},
        ),
        record(outcome=Outcome.CORRUPT, time=datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), duration_ms=3.0),
    ],
)
def test_what_was_recorded_is_told_again_to_the_letter(history: History, entry: Record) -> None:
    history.append([(entry, "change")])
    (told,) = history.query()
    assert told == entry.as_json()
    assert list(told) == list(entry.as_json())


def test_an_error_that_no_utf8_can_hold_is_kept_as_one_line(history: History) -> None:
    history.append([(record(outcome=Outcome.FAILED, error="two\nlines \udcff \ud800"), "\ud800")])
    assert history.query()[0]["error"] == r"two\nlines \xff \ud800"


def test_what_became_of_a_journal_is_kept_and_what_did_not_is_not(history: History) -> None:
    history.append([(record(number, outcome), "change") for number, outcome in enumerate(Outcome)])
    kept = {entry["outcome"] for entry in history.query()}
    assert kept == {"recovered", "failed", "corrupt", "refused", "held"}


def test_nothing_worth_keeping_makes_no_file(history: History) -> None:
    assert history.append([(record(outcome=Outcome.CLEAN), "change")]) == 0
    assert not history.path.exists()


def test_the_same_is_kept_once_for_as_long_as_nothing_changes(history: History) -> None:
    held, failed = Outcome.HELD, Outcome.FAILED
    assert history.append([(record(1, held), "inode 7"), (record(2, held), "inode 7")]) == 1
    assert history.append([(record(3, failed), "inode 7"), (record(4, held), "inode 7")]) == 1
    after_a_restart = history_at(history.path)
    assert after_a_restart.append([(record(5, held), "inode 7"), (record(6, failed), "inode 7")]) == 0
    assert after_a_restart.append([(record(7, held), "inode 8")]) == 1
    assert after_a_restart.append([(record(8, held, database="/srv/b/outbound.db"), "inode 7")]) == 1
    times = [entry["time"] for entry in history.query()]
    assert times == [f"2026-11-24T12:00:0{second}.123Z" for second in (8, 7, 3, 1)]


def test_the_newest_come_first_whatever_the_order_they_came_in(history: History) -> None:
    history.append([*numbered(5, 8), *numbered(0, 5)])
    assert pages_in(history) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert pages_in(history, limit=3) == [7, 6, 5]
    assert pages_in(history, limit=0) == []


def test_a_question_may_be_about_a_time_or_an_outcome(history: History) -> None:
    history.append([*numbered(0, 4), (record(9, Outcome.REFUSED), "x")])
    assert pages_in(history, since=NOON + timedelta(seconds=2)) == [None, 3, 2]
    assert pages_in(history, since=NOON.astimezone() + timedelta(seconds=3)) == [None, 3]
    assert pages_in(history, outcome=Outcome.REFUSED) == [None]
    assert pages_in(history, outcome=Outcome.CORRUPT) == []
    assert pages_in(history, outcome=Outcome.RECOVERED, limit=2) == [3, 2]


def test_a_question_may_be_about_a_session(history: History) -> None:
    history.append(
        [
            (record(1, pages=1, session={"agent_group": "blue", "session": "x\udcff"}), "1"),
            (record(2, pages=2, session={"agent_group": "red", "session": "blue"}), "2"),
            (record(3, pages=3, database="/srv/tree/blue/deep/outbound.db"), "3"),
            (record(4, pages=4, database="/srv/tree/red\n/outbound.db"), "4"),
        ]
    )
    assert pages_in(history, session="blue") == [3, 2, 1]
    assert pages_in(history, session="x\udcff") == pages_in(history, session=r"x\xff") == [1]
    assert pages_in(history, session="red\n") == pages_in(history, session=r"red\n") == [4]
    assert pages_in(history, session="outbound.db") == []
    assert pages_in(history, session="tree") == [4, 3]
    assert pages_in(history, session="tree", root="/srv/tree") == []
    assert pages_in(history, session="deep", root="/srv/tree") == [3]


def test_the_file_is_for_us_alone_whatever_the_umask(history: History) -> None:
    before = os.umask(0)
    try:
        history.append(numbered(0, 1))
    finally:
        os.umask(before)
    assert history.path.stat().st_mode & 0o7777 == 0o600


def test_a_history_that_is_not_there_is_empty_and_stays_not_there(tmp_path: Path) -> None:
    assert history_at(tmp_path / "state" / "history.db").query() == []
    assert list(tmp_path.iterdir()) == []


def test_a_history_whose_directory_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"cannot be made: No such file or directory; see to the rights") as refused:
        history_at(tmp_path / "state" / "history.db").append(numbered(0, 1))
    assert refused.value.trouble is Trouble.NO_ACCESS


@pytest.mark.parametrize("shut", ["history.db", "history.db-journal"])
def test_a_history_that_is_ours_and_shut_by_its_mode_is_called_so(nobodys: Path, shut: str) -> None:
    history = history_at(nobodys / "history.db")
    left_hot(history)
    for path in nobodys.iterdir():
        os.chown(path, nobodys.stat().st_uid, -1)
    (nobodys / shut).chmod(0)
    with without_privileges():
        said = rf"Permission denied; {nobodys}/{shut} is ours, but has the mode 0000: chmod u\+rw {nobodys}/{shut}$"
        with pytest.raises(HistoryError, match=said) as refused:
            history.append(numbered(200, 201))
        assert refused.value.trouble is Trouble.NO_ACCESS
        (nobodys / shut).chmod(0o600)
        assert history.append(numbered(200, 201)) == 1


def test_where_our_descriptors_are_used_up_the_remedy_is_their_limit(history: History) -> None:
    history.append(numbered(0, 1))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(HistoryError, match=r"Too many open files; raise our limit of open files \(ulimit -n"):
            history.append(numbered(1, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert history.append(numbered(1, 2)) == 1


def test_no_more_are_kept_than_asked_for(tmp_path: Path) -> None:
    small = history_at(tmp_path / "history.db", keep=100)
    for first in range(0, 500, 5):
        small.append(numbered(first, first + 5))
        assert len(small.query()) <= 110 + 5
    assert pages_in(small)[:100] == list(range(499, 399, -1))


@pytest.mark.parametrize("layout", [True, False])
def test_a_session_that_fills_the_history_pushes_out_its_own_entries_and_nobody_elses(
    tmp_path: Path, layout: bool
) -> None:
    """Without a layout it wins nothing by directories of its own either."""
    small = History(tmp_path / "history.db", keep=100, max_age_s=1e9, root=Path("/srv"))

    def of(session: str, number: int, deeper: str = "") -> tuple[Record, str]:
        fields = {"session": session} if layout else {}
        return record(number, database=f"/srv/{session}/{deeper}outbound.db", session=fields), str(number)

    small.append(of(f"quiet{number % 4}", number) for number in range(40))
    for first in range(100, 2100, 20):
        small.append(of("busy", number, f"{number}/" if not layout else "") for number in range(first, first + 20))
    kept = [str(entry["database"]) for entry in small.query()]
    assert sum("quiet" in each for each in kept) == 40
    assert 60 <= sum("busy" in each for each in kept) <= 70 + 20


def test_a_session_alone_has_the_whole_history(tmp_path: Path) -> None:
    small = History(tmp_path / "history.db", keep=100, max_age_s=1e9, root=Path("/srv"))
    small.append(numbered(0, 500))
    assert pages_in(small) == list(range(499, 399, -1))


def test_many_sessions_are_kept_by_age_alone(tmp_path: Path) -> None:
    small = History(tmp_path / "history.db", keep=100, max_age_s=1e9, root=Path("/srv"))
    small.append(
        (record(number, database=f"/srv/{number % 50}/x.db", pages=number), str(number)) for number in range(500)
    )
    assert pages_in(small) == list(range(499, 399, -1))


def test_the_old_are_dropped(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old, young = record(time=now - timedelta(hours=2), pages=1), record(time=now - timedelta(minutes=50), pages=2)
    hourly = history_at(tmp_path / "history.db", max_age_s=3600)
    hourly.append([(old, "old"), (young, "young")])
    assert pages_in(hourly) == [2]


def test_a_symlinked_state_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to("elsewhere")
    history_at(tmp_path / "state" / "history.db").append(numbered(0, 1))
    assert pages_in(history_at(tmp_path / "elsewhere" / "history.db")) == [0]


APPEND_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.test_history import history_at, numbered
history = history_at(Path(sys.argv[1]))
first = int(sys.argv[2])
while True:
    history.append(numbered(first, first + 50))
    first += 50
    print(first, flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(history: History) -> None:
    acknowledged = 0
    for turn in range(8):
        with in_another_process(APPEND_UNTIL_KILLED, str(history.path), str(acknowledged)) as writer:
            assert writer.stdout is not None
            for _ in range(turn + 1):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                acknowledged = int(line)
        there = len(history.query())
        assert there % 50 == 0  # a batch is there or it is not
        assert acknowledged <= there <= acknowledged + 50
        acknowledged = there
    assert apsw.Connection(str(history.path)).pragma("integrity_check") == "ok"


DIE_IN_THE_MIDDLE = """
import os, signal, sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("PRAGMA cache_size = 1; BEGIN; DELETE FROM history")
connection.cache_flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_hot(history: History) -> None:
    """The history with the hot journal of a service that was killed."""
    history.append(numbered(0, 200))
    subprocess.run([sys.executable, "-c", DIE_IN_THE_MIDDLE, str(history.path)], check=False)
    assert Path(f"{history.path}-journal").read_bytes()[:1] != b"\0"


def test_a_write_that_was_killed_half_way_is_rolled_back_by_the_next_reader(history: History) -> None:
    left_hot(history)
    assert len(history.query()) == 200
    assert not Path(f"{history.path}-journal").exists()


def test_a_write_that_was_killed_half_way_is_rolled_back_by_the_next_append(history: History) -> None:
    left_hot(history)
    history.append(numbered(200, 201))
    assert len(history.query()) == 201


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_read_only_mount_can_be_read_and_not_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        history = history_at(disk / "history.db")
        history.append(numbered(0, 3))
        remount(disk, "ro")
        assert pages_in(history) == [2, 1, 0]
        with pytest.raises(HistoryError, match=r"readonly database.*; mount it read-write") as refused:
            history.append(numbered(3, 4))
        assert refused.value.trouble is Trouble.NO_ACCESS
        remount(disk, "rw")
        assert history.append(numbered(3, 4)) == 1


def test_half_a_write_on_a_read_only_mount_is_told_with_the_remedy(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        history = history_at(disk / "history.db")
        left_hot(history)
        remount(disk, "ro")
        with pytest.raises(
            HistoryError, match=r"in the middle of a write by a service that was killed; start the service"
        ):
            history.query()


READ_ON = """
import sys
from pathlib import Path
from tests.test_history import history_at
history = history_at(Path(sys.argv[1]))
torn = reads = most = 0
while most < 2000:
    most = len(history.query())
    torn += most % 50 != 0
    reads += 1
    if reads == 1:
        print("ready", flush=True)
print("torn", torn, "many" if reads > 1 else "few", flush=True)
"""


def test_a_reader_beside_the_service_sees_whole_batches_and_disturbs_none(history: History) -> None:
    with in_another_process(READ_ON, str(history.path)) as reader:
        assert says(reader, "ready")
        for first in range(0, 2000, 50):
            assert history.append(numbered(first, first + 50)) == 50
        assert says(reader, "torn 0 many")


READ_FROM_THE_FIRST_MOMENT = """
import sys
from pathlib import Path
from tests.test_history import history_at
for number in range(40):
    history = history_at(Path(sys.argv[1]) / f"{number}.db")
    print("ready", flush=True)
    while not (entries := history.query()):
        pass
    print(len(entries), flush=True)
"""


def test_a_reader_may_come_while_the_history_is_being_made(tmp_path: Path) -> None:
    with in_another_process(READ_FROM_THE_FIRST_MOMENT, str(tmp_path)) as reader:
        for number in range(40):
            assert says(reader, "ready")
            history_at(tmp_path / f"{number}.db").append(numbered(0, 3))
            assert says(reader, "3")


LOCK_IT = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_locked_history_is_told_and_works_again_when_it_is_free(history: History) -> None:
    history.append(numbered(0, 1))
    with in_another_process(LOCK_IT, str(history.path)) as other:
        assert says(other, "locked")
        with pytest.raises(
            HistoryError, match=rf"{history.path} cannot be used: .*locked; close the program"
        ) as refused:
            history.append(numbered(1, 2))
        assert refused.value.trouble is Trouble.LOCKED
        with pytest.raises(HistoryError, match="locked"):
            history.query()
    assert history.append(numbered(1, 2)) == 1


def test_a_full_disk_is_told_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        history = history_at(disk / "history.db")
        history.append(numbered(0, 50))
        ballast = fill(disk)
        with pytest.raises(HistoryError, match=r"history\.db.*; free some space there") as refused:
            history.append(numbered(50, 500))
        assert refused.value.trouble is Trouble.FULL
        assert len(history.query()) == 50
        ballast.unlink()
        assert history.append(numbered(50, 100)) == 50


def test_the_first_entry_on_a_full_disk_is_told_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk)
        history = history_at(disk / "history.db")
        with pytest.raises(HistoryError) as refused:
            history.append(numbered(0, 1))
        assert refused.value.trouble is Trouble.FULL
        assert history.query() == []
        ballast.unlink()
        assert history.append(numbered(0, 1)) == 1


def test_a_disk_without_room_for_a_journal_is_full_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", files=2) as disk:
        (disk / "ballast").write_bytes(b"")
        history = history_at(disk / "history.db")
        with pytest.raises(HistoryError, match=r"No space left on device; free some space") as refused:
            history.append(numbered(0, 1))
        assert refused.value.trouble is Trouble.FULL
        (disk / "ballast").unlink()
        assert history.append(numbered(0, 1)) == 1


def test_a_disk_without_room_for_a_file_is_full_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", files=1) as disk:
        (disk / "ballast").write_bytes(b"")
        with pytest.raises(HistoryError, match=r"cannot be made: No space left on device; free some space"):
            history_at(disk / "history.db").append(numbered(0, 1))


def damage_header(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def damage_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    path.write_bytes(data)


def damage_texts(path: Path) -> None:
    apsw.Connection(str(path)).execute("UPDATE history SET owner = '{', session = '['")


@pytest.mark.parametrize("damage", [damage_header, damage_pages, damage_texts])
def test_a_damaged_history_is_told_set_aside_and_begun_anew(history: History, damage: Callable[[Path], None]) -> None:
    history.append(numbered(0, 300))
    damage(history.path)
    with pytest.raises(HistoryError, match="move it away, and a new one is begun") as refused:
        history.query(session="x")
    assert refused.value.trouble is Trouble.CORRUPT
    damaged = history.path.read_bytes()
    aside = history.set_aside()
    assert aside.name.startswith("history.db.corrupt-2")
    assert aside.read_bytes() == damaged
    assert history.query() == []
    assert history.append(numbered(0, 1)) == 1


def test_a_journal_goes_with_the_history_it_belongs_to(history: History) -> None:
    left_hot(history)
    aside = history.set_aside()
    assert Path(f"{aside}-journal").exists()
    history.append(numbered(0, 1))
    assert pages_in(history) == [0]
    assert len(history_at(aside).query()) == 200


def test_of_those_set_aside_the_newest_three_stay(history: History) -> None:
    aside = []
    for _ in range(5):
        history.append(numbered(0, 1))
        aside.append(history.set_aside())
    assert sorted(history.path.parent.iterdir()) == aside[2:]


def test_a_history_of_a_newer_version_is_refused_and_left_alone(history: History) -> None:
    history.append(numbered(0, 1))
    apsw.Connection(str(history.path)).pragma("user_version", 2)
    before = history.path.read_bytes()
    for use in (history.query, lambda: history.append(numbered(1, 2))):
        with pytest.raises(HistoryError, match=r"written by a newer journal-watcher \(version 2.*upgrade") as refused:
            use()
        assert refused.value.trouble is Trouble.NEWER
    assert history.path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(history: History) -> None:
    apsw.Connection(str(history.path)).execute("CREATE TABLE diary (entry TEXT)")
    before = history.path.read_bytes()
    for use in (history.query, lambda: history.append(numbered(1, 2))):
        with pytest.raises(HistoryError, match="is a database of another program; move it away") as refused:
            use()
        assert refused.value.trouble is Trouble.FOREIGN
    assert history.path.read_bytes() == before


def test_what_is_no_plain_file_is_refused_at_once(history: History) -> None:
    os.mkfifo(history.path)
    with pytest.raises(HistoryError, match="is no plain file"):
        history.query()
    history.path.unlink()
    history.path.symlink_to("elsewhere.db")
    with pytest.raises(HistoryError, match="is no plain file"):
        history.append(numbered(0, 1))
    assert not (history.path.parent / "elsewhere.db").exists()


@pytest.fixture
def upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the program is one version further: its history has a column more."""
    more = "ALTER TABLE history ADD COLUMN host TEXT; UPDATE history SET host = 'old'"
    monkeypatch.setattr(history_module, "_MIGRATIONS", (*history_module._MIGRATIONS, more))


def hosts_in(history: History) -> list[apsw.SQLiteValue]:
    return [row[0] for row in apsw.Connection(str(history.path)).execute("SELECT host FROM history ORDER BY id")]


def test_an_older_history_is_migrated_by_the_first_append(history: History, request: pytest.FixtureRequest) -> None:
    history.append(numbered(0, 2))
    request.getfixturevalue("upgraded")
    history.append(numbered(2, 3))
    assert hosts_in(history) == ["old", "old", None]
    assert pages_in(history) == [2, 1, 0]
    assert apsw.Connection(str(history.path)).pragma("user_version") == 2


def test_an_older_history_is_migrated_by_a_question_too(history: History, request: pytest.FixtureRequest) -> None:
    history.append(numbered(0, 2))
    request.getfixturevalue("upgraded")
    assert pages_in(history) == [1, 0]
    assert hosts_in(history) == ["old", "old"]


def test_a_migration_that_fails_leaves_the_history_as_it_was(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(numbered(0, 2))
    broken = "ALTER TABLE history ADD COLUMN host TEXT; INSERT INTO nowhere VALUES (1)"
    with monkeypatch.context() as later:
        later.setattr(history_module, "_MIGRATIONS", (*history_module._MIGRATIONS, broken))
        with pytest.raises(HistoryError):
            history.append(numbered(2, 3))
    assert pages_in(history) == [1, 0]
    assert apsw.Connection(str(history.path)).pragma("user_version") == 1


@pytest.mark.usefixtures("upgraded")
def test_a_new_history_is_one_of_the_newest_version_at_once(history: History) -> None:
    history.append(numbered(0, 1))
    assert hosts_in(history) == [None]
    assert apsw.Connection(str(history.path)).pragma("user_version") == 2
