"""The decision table, row by row, and the looks that lead to it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hostile import Host
from tests.pairs import super_trailer
from tests.running import wait_until
from tests.writers import CrashedPair, journal_of, make_database, writing, writing_unseen
from watcher.decision import Decision, Examiner, decide
from watcher.journal import JournalState
from watcher.look import Look, LookAgainError, Pair
from watcher.owner.testimony import Answer, Evidence, Judgement, Verdict, judge
from watcher.pinned import FileIdentity
from watcher.tree import Gone, Place

PLACE = Place("", "outbound.db")
SOME_FILE = FileIdentity(1, 2, 1024, 4, 0o100644, 0, 0)
EMPTY_FILE = FileIdentity(1, 2, 0, 4, 0o100644, 0, 0)


@pytest.mark.parametrize(
    ("state", "alive", "exited", "unknown"),
    [
        (JournalState.EMPTY, Decision.IGNORE, Decision.IGNORE, Decision.IGNORE),
        (JournalState.ZEROED, Decision.IGNORE, Decision.IGNORE, Decision.IGNORE),
        (JournalState.HOT, Decision.WAIT, Decision.RECOVER, Decision.HOLD),
        (JournalState.MALFORMED, Decision.WAIT, Decision.RECOVER, Decision.HOLD),
        (JournalState.SUPER, Decision.WAIT, Decision.REFUSE, Decision.REFUSE),
        (JournalState.FOREIGN, Decision.REFUSE, Decision.REFUSE, Decision.REFUSE),
        (JournalState.UNSAFE, Decision.REFUSE, Decision.REFUSE, Decision.REFUSE),
        (JournalState.ORPHAN, Decision.REFUSE, Decision.REFUSE, Decision.REFUSE),
    ],
)
def test_the_table(state: JournalState, alive: Decision, exited: Decision, unknown: Decision) -> None:
    database = None if state is JournalState.ORPHAN else SOME_FILE
    look = Look(PLACE, state, journal=SOME_FILE, database=database)
    assert decide(look, Verdict.ALIVE) is alive
    assert decide(look, Verdict.EXITED) is exited
    assert decide(look, Verdict.UNKNOWN) is unknown


def test_the_table_knows_every_state() -> None:
    for state in JournalState:
        assert decide(Look(PLACE, state, journal=SOME_FILE, database=SOME_FILE), Verdict.EXITED) in Decision


@pytest.mark.parametrize("state", [JournalState.HOT, JournalState.MALFORMED, JournalState.SUPER])
@pytest.mark.parametrize("verdict", [*Verdict, None])
def test_beside_a_database_of_zero_bytes_every_readable_journal_is_ignored(
    state: JournalState, verdict: Verdict | None
) -> None:
    assert decide(Look(PLACE, state, journal=SOME_FILE, database=EMPTY_FILE), verdict) is Decision.IGNORE


def test_what_is_unsafe_beside_a_database_of_zero_bytes_is_refused_all_the_same() -> None:
    assert decide(Look(PLACE, JournalState.UNSAFE, database=EMPTY_FILE), None) is Decision.REFUSE


def test_a_hot_journal_without_a_verdict_is_no_question_that_has_an_answer() -> None:
    with pytest.raises(AssertionError):
        decide(Look(PLACE, JournalState.HOT, journal=SOME_FILE, database=SOME_FILE), None)


# --- on real files, with the real probes ---


def test_a_crashed_pair_is_to_be_recovered(host: Host) -> None:
    finding = host.find(host.crash())
    assert finding.decision is Decision.RECOVER
    assert "nobody holds the writer's lock" in finding.reason


def test_a_writer_that_lives_is_waited_for(host: Host) -> None:
    database = host.root / "outbound.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        finding = host.find(database)
        assert finding.decision is Decision.WAIT
        assert f"pid {writer.pid} holds the writer's lock" in finding.reason
        writer.kill()
        assert host.find(database).decision is Decision.RECOVER


def test_a_transaction_over_several_databases_is_waited_for_while_its_writer_lives(host: Host) -> None:
    database = host.root / "outbound.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        with journal_of(database).open("ab") as journal:
            journal.write(super_trailer(b"/tree/outbound.db-mj0123456789"))
        finding = host.find(database)
        assert (finding.look.state, finding.decision) == (JournalState.SUPER, Decision.WAIT)
        assert f"pid {writer.pid} holds the writer's lock" in finding.reason
        writer.kill()
        finding = host.find(database)
        assert (finding.decision, finding.judgement) == (Decision.REFUSE, None)
        assert "names the super-journal" in finding.reason


def test_a_writer_with_the_lock_of_unix_dotfile_is_not_taken_for_dead(host: Host) -> None:
    database = host.root / "outbound.db"
    make_database(database)
    with writing(database, vfs="unix-dotfile") as writer:
        writer.tell("begin")
        finding = host.find(database)
        assert finding.decision is Decision.HOLD
        assert "outbound.db.lock stands for a lock" in finding.reason
        writer.kill()
        # It looks the same now; who has another probe is told by that.
        assert host.find(database).decision is Decision.HOLD
        (database.parent / ".pid").write_text(str(writer.pid))
        host.configure(owner={"pid_file": ".pid"})
        assert host.find(database).decision is Decision.RECOVER


def test_a_file_where_unix_dotfile_has_its_lock_is_no_lock(host: Host) -> None:
    database = host.crash()
    database.with_name(f"{database.name}.lock").touch()
    assert host.find(database).decision is Decision.RECOVER


def test_where_nothing_can_tell_it_is_held(host: Host) -> None:
    host.configure(owner={"locks": "off"})
    finding = host.find(host.crash())
    assert finding.decision is Decision.HOLD
    assert finding.reason == "no probe can tell"


@pytest.mark.parametrize(
    ("journal", "state"), [(b"", JournalState.EMPTY), (bytes(600), JournalState.ZEROED)], ids=["empty", "zeroed"]
)
def test_a_cold_journal_is_ignored_and_nobody_is_asked(host: Host, journal: bytes, state: JournalState) -> None:
    database = host.crash()
    journal_of(database).write_bytes(journal)
    finding = host.find(database)
    assert (finding.look.state, finding.decision, finding.judgement) == (state, Decision.IGNORE, None)
    assert "nothing to roll back" in finding.reason
    assert finding.as_json()["owner"] is None


def test_a_journal_beside_an_empty_database_is_ignored(host: Host) -> None:
    database = host.crash()
    os.truncate(database, 0)
    finding = host.find(database)
    assert (finding.decision, finding.judgement) == (Decision.IGNORE, None)
    assert host.recover(database) == []
    assert journal_of(database).exists()


def test_a_malformed_journal_wants_a_snapshot(host: Host, crashed: CrashedPair) -> None:
    database = host.crash()
    journal_of(database).write_bytes(b"x" + crashed.journal[1:])
    assert host.find(database).decision is Decision.RECOVER
    host.configure(recovery={"snapshot": None})
    finding = host.find(database)
    assert finding.decision is Decision.REFUSE
    assert "recovery.snapshot is off" in finding.reason
    host.configure(recovery={"snapshot": {"max_size": 1000}})
    assert "more than recovery.snapshot.max_size" in host.find(database).reason


def test_where_a_snapshot_is_required_what_is_too_large_for_one_is_refused(host: Host) -> None:
    host.configure(recovery={"snapshot": {"max_size": 1000, "required": True}})
    finding = host.find(host.crash())
    assert finding.look.state is JournalState.HOT
    assert finding.decision is Decision.REFUSE
    assert finding.reason.startswith("not without a snapshot: ")


@pytest.mark.parametrize(
    ("make", "state", "reason"),
    [
        (lambda path: path.unlink(), JournalState.ORPHAN, "no database beside"),
        (lambda path: path.write_text("Dear diary"), JournalState.FOREIGN, "no SQLite 3 database"),
        (lambda path: journal_of(path).open("ab").write(super_trailer(b"/x\ny")), JournalState.SUPER, "/x\\ny"),
        (lambda path: os.link(path, f"{path}2"), JournalState.UNSAFE, "2 hard links"),
    ],
    ids=["orphan", "foreign", "super", "unsafe"],
)
def test_what_is_not_ours_to_touch_is_refused_and_told_in_one_line(
    host: Host, make: Callable[[Path], object], state: JournalState, reason: str
) -> None:
    database = host.crash()
    make(database)
    finding = host.find(database)
    assert (finding.look.state, finding.decision, finding.judgement) == (state, Decision.REFUSE, None)
    assert reason in finding.reason
    assert finding.reason.isprintable()


def test_a_finding_is_the_same_change_until_the_files_or_the_decision_change(host: Host) -> None:
    database = host.crash()
    first = host.find(database)
    assert host.find(database).change() == first.change()
    with journal_of(database).open("ab") as journal:
        journal.write(b"x")
    assert host.find(database).change() != first.change()


def test_a_journal_that_vanishes_while_the_owner_is_asked_about_is_gone(host: Host) -> None:
    database = host.crash()

    def commit(_pair: Pair, _look: Look) -> Judgement:
        journal_of(database).unlink()
        return judge((Evidence("locks", Answer.EXITED, ""),))

    examiner = Examiner(host.rooms.looker, commit, lambda _: None)
    with pytest.raises(Gone):
        examiner.examine_place(PLACE)


def test_a_journal_that_changes_while_the_owner_is_asked_about_is_looked_at_again(host: Host) -> None:
    database = host.crash()
    asked = 0

    def write(_pair: Pair, _look: Look) -> Judgement:
        nonlocal asked
        asked += 1
        if asked == 1:
            journal_of(database).write_bytes(bytes(600))
        return judge((Evidence("locks", Answer.EXITED, ""),))

    finding = Examiner(host.rooms.looker, write, lambda _: None).examine_place(PLACE)
    assert finding.decision is Decision.IGNORE
    assert asked == 1


def test_a_journal_that_never_stands_still_says_nothing(host: Host) -> None:
    database = host.crash()

    def write(_pair: Pair, _look: Look) -> Judgement:
        with journal_of(database).open("ab") as journal:
            journal.write(b"x")
        return judge((Evidence("locks", Answer.EXITED, ""),))

    with pytest.raises(LookAgainError):
        Examiner(host.rooms.looker, write, lambda _: None).examine_place(PLACE)


def test_a_writer_that_commits_all_the_time_is_never_found_dead(host: Host) -> None:
    """Header first and lock second would misjudge: the writer may commit in between (DESIGN.md, section 2)."""
    database = host.root / "outbound.db"
    make_database(database)
    with writing(database) as writer:
        stopping = threading.Event()

        def write() -> None:
            while not stopping.is_set():
                writer.tell("begin")
                writer.tell("COMMIT")

        busy = threading.Thread(target=write)
        busy.start()
        met: Counter[Decision] = Counter()

        def met_often() -> bool:
            with suppress(Gone, LookAgainError):
                met[host.find(database).decision] += 1
            return met[Decision.WAIT] > 300

        try:
            wait_until(met_often)
        finally:
            stopping.set()
            busy.join()
    assert set(met) <= {Decision.WAIT, Decision.IGNORE}


def test_a_writer_whose_locks_nobody_sees_is_known_by_its_pid_file(host: Host) -> None:
    host.configure(owner={"pid_file": ".writer.pid"})
    database = host.root / "outbound.db"
    make_database(database)
    with writing_unseen(database) as writer:
        (host.root / ".writer.pid").write_text(str(writer.pid), encoding="ascii")
        writer.tell("begin")
        assert host.find(database).decision is Decision.WAIT


def test_the_json_is_in_the_order_that_was_promised(host: Host) -> None:
    host.configure(tree={"layout": "{session}"})
    told = host.find(host.crash("s1/outbound.db")).as_json()
    assert list(told) == ["database", "journal", "session", "state", "size", "owner", "decision", "reason"]
    assert told["session"] == {"session": "s1"}
    assert told["journal"] == f"{told['database']}-journal"


def test_a_directory_that_became_a_link_is_a_finding(host: Host, tmp_path: Path) -> None:
    (host.root / "s1").symlink_to(tmp_path / "outside", target_is_directory=True)
    finding = host.find(host.root / "s1" / "outbound.db")
    assert (finding.look.state, finding.decision) == (JournalState.UNSAFE, Decision.REFUSE)
    assert "symbolic link" in finding.reason
