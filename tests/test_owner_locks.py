"""The locks probe: real writers and readers in each state that SQLite's locks can be in."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.running import Runner, wait_until
from tests.writers import crash, make_database, writing, writing_unseen
from watcher.filesystem import FileSystem, file_system_of
from watcher.owner.locks import PENDING_BYTE, LocksProbe, holder_of, question, reader_of, writer_of
from watcher.owner.testimony import Answer, Evidence
from watcher.settings import LocksMode

LOCAL = FileSystem("ext4", is_local=True)
ELSEWHERE = FileSystem("9p", is_local=False)
PENDING = (PENDING_BYTE, 1)
RESERVED = (PENDING_BYTE + 1, 1)
SHARED = (PENDING_BYTE + 2, 510)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    made = tmp_path / "outbound.db"
    make_database(made)
    return made


@contextmanager
def read_only(database: Path) -> Iterator[int]:
    """A descriptor as the service has it; no SQLite connection of this process is on that database."""
    descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def ask(
    database: Path,
    *,
    mode: LocksMode = LocksMode.AUTO,
    file_system: FileSystem = LOCAL,
    foreign_kernel: str | None = None,
) -> Evidence:
    with read_only(database) as descriptor:
        return LocksProbe(mode).testify(descriptor, file_system, foreign_kernel)


def holders(database: Path) -> dict[str, int | None]:
    """Who holds a lock that keeps another one from writing each of the bytes."""
    with read_only(database) as descriptor:
        return {
            name: holder_of(descriptor, question(fcntl.F_WRLCK, *which))
            for name, which in (("pending", PENDING), ("reserved", RESERVED), ("shared", SHARED))
        }


# A lock that no SQLite would take just so, taken by hand: the file, its kind (of fcntl), the bytes, OFD or not.
_LOCKER = """
import fcntl, os, struct, sys
kind, start, length, ofd = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "ofd"
file = open(sys.argv[1], "r+b")
flock = struct.pack("hhqqi4x", getattr(fcntl, kind), os.SEEK_SET, start, length, 0)
fcntl.fcntl(file, fcntl.F_OFD_SETLK if ofd else fcntl.F_SETLK, flock)
print("locked", flush=True)
input()
"""


@contextmanager
def locked(
    database: Path, kind: str, which: tuple[int, int], how: str = "posix", before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process that holds such a lock.

    Args:
        before: a program that runs it, as the beginning of an argument list.
    """
    start, length = which
    argv = [*before, sys.executable, "-c", _LOCKER, str(database), kind, str(start), str(length), how]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "locked\n":
            pytest.skip(f"no such process can be made here: {' '.join(argv[:3])}")
        yield process
        assert process.stdin is not None
        process.stdin.close()


# --- writers ---


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_writer_in_its_transaction_is_alive(database: Path, begin: str) -> None:
    with writing(database) as writer:
        writer.tell(begin)
        evidence = ask(database)
        assert (evidence.answer, evidence.pid) == (Answer.ALIVE, writer.pid)
        assert evidence.detail == f"pid {writer.pid} holds the writer's lock"
        writer.tell("COMMIT")
        assert ask(database).answer is Answer.EXITED


def test_the_states_are_those_of_sqlite(database: Path) -> None:
    """What the tests above and below ask about is really so."""
    with writing(database) as writer:
        assert holders(database) == {"pending": None, "reserved": None, "shared": None}
        writer.tell("BEGIN IMMEDIATE")
        assert holders(database) == {"pending": None, "reserved": writer.pid, "shared": writer.pid}
        writer.tell("ROLLBACK")
        writer.tell("BEGIN EXCLUSIVE")
        assert holders(database) == {"pending": writer.pid, "reserved": writer.pid, "shared": writer.pid}


def test_a_transaction_that_has_spilled_is_alive(database: Path) -> None:
    with writing(database) as writer:
        writer.tell("begin")
        assert ask(database).pid == writer.pid


def test_a_writer_that_waits_for_a_reader_with_pending_in_hand_is_alive(database: Path) -> None:
    with writing(database) as writer, writing(database) as reader:
        writer.tell("BEGIN IMMEDIATE")
        writer.tell("UPDATE t SET body = 'new' WHERE id = 1")
        for statement in ("BEGIN", "SELECT count(*) FROM t"):
            reader.tell(statement)
        committing = threading.Thread(target=writer.tell, args=("COMMIT",))
        committing.start()
        wait_until(lambda: holders(database)["pending"] == writer.pid)
        assert ask(database).pid == writer.pid
        reader.tell("COMMIT")
        committing.join()
        assert ask(database).answer is Answer.EXITED


def test_one_who_rolls_a_journal_back_holds_no_reserved_lock_and_is_seen_by_pending(database: Path) -> None:
    with locked(database, "F_WRLCK", PENDING) as process:
        evidence = ask(database)
        assert (evidence.answer, evidence.pid) == (Answer.ALIVE, process.pid)


def test_a_writer_that_was_killed_has_exited(database: Path) -> None:
    with writing(database) as writer:
        writer.tell("begin")
        writer.kill()
        evidence = ask(database)
    assert (evidence.answer, evidence.pid) == (Answer.EXITED, None)
    assert evidence.detail == "nobody holds the writer's lock (ext4, local locks)"


def test_a_writer_whose_locks_nobody_sees_looks_as_if_it_had_exited(database: Path) -> None:
    """Which is why locks are not the only probe."""
    with writing_unseen(database) as writer:
        writer.tell("begin")
        assert ask(database).answer is Answer.EXITED


# --- readers ---


def test_a_reader_is_no_testimony_about_the_owner_and_is_named(database: Path) -> None:
    with writing(database) as reader:
        for statement in ("BEGIN", "SELECT count(*) FROM t"):
            reader.tell(statement)
        assert ask(database).answer is Answer.EXITED
        with read_only(database) as descriptor:
            assert writer_of(descriptor) is None
            assert reader_of(descriptor) == reader.pid
        reader.tell("COMMIT")
        with read_only(database) as descriptor:
            assert reader_of(descriptor) is None


def test_a_reader_with_pending_in_hand_for_a_moment_is_no_writer(database: Path) -> None:
    """SQLite takes a read lock on PENDING to get one on the SHARED range (unixLock in os_unix.c)."""
    with locked(database, "F_RDLCK", PENDING) as reader:
        assert holders(database)["pending"] == reader.pid
        assert ask(database).answer is Answer.EXITED


def test_locks_elsewhere_in_the_file_say_nothing(database: Path) -> None:
    with locked(database, "F_WRLCK", (0, PENDING_BYTE)), locked(database, "F_WRLCK", (PENDING_BYTE + 512, 0)):
        assert ask(database).answer is Answer.EXITED


# --- holders that have no pid here ---


def test_a_lock_that_belongs_to_no_process_is_alive(database: Path) -> None:
    with locked(database, "F_WRLCK", RESERVED, "ofd"):
        evidence = ask(database)
        assert (evidence.answer, evidence.pid) == (Answer.ALIVE, None)
        assert evidence.detail == "a process that we cannot see holds the writer's lock"
        with read_only(database) as descriptor:
            assert writer_of(descriptor) == -1


IN_A_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")


def test_a_holder_in_a_pid_namespace_of_its_own_has_a_pid_here(database: Path) -> None:
    with locked(database, "F_WRLCK", RESERVED, before=IN_A_PID_NAMESPACE) as unshare:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        (holder,) = map(int, children.read_text().split())
        evidence = ask(database)
        assert (evidence.answer, evidence.pid) == (Answer.ALIVE, holder)


_ASK = """
import json, os, sys
from watcher.filesystem import FileSystem
from watcher.owner.locks import LocksProbe, writer_of
from watcher.settings import LocksMode
descriptor = os.open(sys.argv[1], os.O_RDONLY)
evidence = LocksProbe(LocksMode.AUTO).testify(descriptor, FileSystem("ext4", is_local=True), None)
print(json.dumps([writer_of(descriptor), evidence.answer, evidence.pid, evidence.detail]))
"""


def test_a_holder_outside_our_pid_namespace_is_alive_without_a_pid(database: Path) -> None:
    with writing(database) as writer:
        writer.tell("BEGIN IMMEDIATE")
        argv = [*IN_A_PID_NAMESPACE, sys.executable, "-c", _ASK, str(database)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if not done.stdout:
            pytest.skip(f"no pid namespace can be made here: {done.stderr.strip()}")
        holder, *told = json.loads(done.stdout)
    assert holder == 0
    assert told == ["alive", None, "a process that we cannot see holds the writer's lock"]


# --- how it asks ---


def test_asking_drops_no_lock_of_another_process(database: Path) -> None:
    with writing(database) as writer, writing(database) as reader:
        for statement in ("BEGIN", "SELECT count(*) FROM t"):
            reader.tell(statement)
        writer.tell("BEGIN IMMEDIATE")
        for _ in range(100):
            assert ask(database).pid == writer.pid
        before = holders(database)
        assert (before["reserved"], before["pending"]) == (writer.pid, None)
        reader.tell("COMMIT")
        writer.tell("COMMIT")


def test_asking_takes_no_lock(database: Path) -> None:
    with read_only(database) as descriptor:
        for _ in range(3):
            LocksProbe(LocksMode.AUTO).testify(descriptor, LOCAL, None)
            reader_of(descriptor)
        with writing(database) as writer:
            writer.tell("BEGIN EXCLUSIVE")  # would fail, after its busy time-out
            writer.tell("COMMIT")


def test_where_nothing_can_be_told_of_locks_it_is_unknown(database: Path) -> None:
    descriptor = os.open(database, os.O_PATH)  # F_GETLK gives EBADF
    evidence = LocksProbe(LocksMode.TRUST).testify(descriptor, LOCAL, None)
    os.close(descriptor)
    assert evidence.answer is Answer.UNKNOWN
    assert "refuses to tell of locks" in evidence.detail


# --- what the absence of a lock is worth ---


def test_no_lock_says_nothing_where_locks_of_writers_elsewhere_do_not_show(database: Path) -> None:
    evidence = ask(database, file_system=ELSEWHERE)
    assert (evidence.answer, evidence.detail) == (Answer.SILENT, "locks of writers elsewhere do not show on 9p")


def test_no_lock_says_nothing_where_guests_run_on_another_kernel(database: Path) -> None:
    evidence = ask(database, foreign_kernel="Docker Desktop")
    assert evidence.answer is Answer.SILENT
    assert "Docker Desktop" in evidence.detail


@pytest.mark.parametrize("mode", [LocksMode.AUTO, LocksMode.TRUST])
def test_a_lock_is_a_lock_wherever_it_is(database: Path, mode: LocksMode) -> None:
    with writing(database) as writer:
        writer.tell("BEGIN IMMEDIATE")
        evidence = ask(database, mode=mode, file_system=ELSEWHERE, foreign_kernel="Docker Desktop")
    assert (evidence.answer, evidence.pid) == (Answer.ALIVE, writer.pid)


def test_trust_takes_no_lock_for_an_exit_everywhere(database: Path) -> None:
    evidence = ask(database, mode=LocksMode.TRUST, file_system=ELSEWHERE, foreign_kernel="Docker Desktop")
    assert (evidence.answer, evidence.detail) == (
        Answer.EXITED,
        "nobody holds the writer's lock (owner.locks: trust)",
    )


def test_off_does_not_ask(runner: Runner) -> None:
    runner.configure(owner={"locks": "off"})
    database = runner.root / "outbound.db"
    make_database(database)
    crash(database)
    told = runner.json("explain", database)
    assert [each["probe"] for each in told["owner"]["evidence"]] == ["boot"]
    assert (told["owner"]["verdict"], told["decision"]) == ("unknown", "hold")
    assert told["reason"] == "no probe can tell"


def test_explain_names_the_file_system_and_the_writer(runner: Runner) -> None:
    database = runner.root / "outbound.db"
    make_database(database)
    with read_only(database) as descriptor:
        file_system = file_system_of(descriptor)
    if not file_system.is_local:
        pytest.skip(f"the test's own directory is on {file_system.name}")
    with writing(database) as writer:
        writer.tell("begin")
        (locks,) = [each for each in runner.json("explain", database)["owner"]["evidence"] if each["probe"] == "locks"]
        assert locks == {"probe": "locks", "verdict": "alive", "detail": f"pid {writer.pid} holds the writer's lock"}
        writer.kill()
        (locks,) = [each for each in runner.json("explain", database)["owner"]["evidence"] if each["probe"] == "locks"]
    words = f"nobody holds the writer's lock ({file_system.name}, local locks)"
    assert locks == {"probe": "locks", "verdict": "exited", "detail": words}


def test_several_questions_at_once_get_their_own_answers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        expected = {}
        for number in range(4):
            database = tmp_path / f"{number}.db"
            make_database(database)
            writer = stack.enter_context(writing(database))
            writer.tell("BEGIN IMMEDIATE")
            expected[database] = writer.pid
        wrong: list[Evidence] = []

        def question(database: Path, pid: int) -> None:
            wrong.extend(evidence for _ in range(200) if (evidence := ask(database)).pid != pid)

        threads = [threading.Thread(target=question, args=each) for each in expected.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
