"""Processes that roll back beside the service: the same outcomes, and nothing left behind, whatever happens to them."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.hostile import everything_in, only_rolled_back
from tests.pairs import INITIAL_PAGES, READERS_LOCK, RESERVED_LOCK, holding
from tests.running import Runner, wait_until
from tests.test_rollback import looked_at
from tests.writers import CrashedPair, journal_of, make_database
from watcher import crew as module
from watcher import hand, rollback
from watcher import shift as shift_module
from watcher.crew import Crew
from watcher.journal import JournalState
from watcher.rollback import BusyError, CorruptError, Job, RollbackError, Rolled
from watcher.shift import Shift
from watcher.tree import Gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors that only stand for a file are Linux's")


@contextmanager
def on_duty(size: int = 1) -> Iterator[Crew]:
    crew = Crew(size=size)
    crew.start()
    crew.call_up()
    try:
        wait_until(lambda: len(crew.processes()) == size)
        yield crew
    finally:
        crew.stop(10)


@pytest.fixture
def crew() -> Iterator[Crew]:
    with on_duty() as crew:
        yield crew


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a job takes on a machine that has other things to do, it counts as quick."""
    monkeypatch.setattr(module, "_QUICK_S", 60.0)


@pytest.fixture(scope="module")
def shared_crew() -> Iterator[Crew]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STAYS_S", 3600.0)
        with on_duty() as crew:
            yield crew


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


@pytest.fixture
def database(tree: Path, crashed: CrashedPair) -> Path:
    return crashed.put(tree / "outbound.db")


def done_by(crew: Crew, database: Path, *, busy_timeout_s: float = 0.01) -> Rolled:
    """What a process of the crew has done."""
    with looked_at(database) as (pair, look):
        return answered(crew, Job.of(pair, look, busy_timeout_s=busy_timeout_s))


def answered(crew: Crew, job: Job) -> Rolled:
    shift: Shift[Job] = Shift(crew)
    assert shift.begin(job, job), "no process is free"
    assert len(shift) == 1
    ((whose, outcome),) = shift.ended()
    assert whose is job
    assert len(shift) == 0
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_the_outcome_is_that_of_a_rollback_here(
    crew: Crew, database: Path, tree: Path, crashed: CrashedPair, tmp_path: Path
) -> None:
    shutil.copytree(tree, tmp_path / "here")
    with looked_at(tmp_path / "here" / database.name) as (pair, look):
        here = rollback.perform(Job.of(pair, look, busy_timeout_s=0.01))
    with only_rolled_back(tree, database):
        assert done_by(crew, database) == here
    assert database.read_bytes() == crashed.recovered
    assert not journal_of(database).exists()


@pytest.mark.parametrize("seed", range(int(os.environ.get("JOURNAL_WATCHER_MAULED", "24"))))
def test_what_is_mauled_ends_as_it_does_here(
    shared_crew: Crew, crashed: CrashedPair, tmp_path: Path, seed: int
) -> None:
    """Bytes changed, cut off and put in between: the same outcome, the same files."""
    here, there = tmp_path / "here" / "outbound.db", tmp_path / "there" / "outbound.db"
    for copy in (here, there):
        copy.parent.mkdir()
    chance = random.Random(seed)
    while True:
        database, journal = _mauled(chance, crashed)
        for copy in (here, there):
            copy.write_bytes(database)
            journal_of(copy).write_bytes(journal)
        with looked_at(here) as (_, look):
            if look.state in {JournalState.HOT, JournalState.MALFORMED}:
                break  # else nobody rolls it back
    outcomes = []
    for copy, perform in ((here, rollback.perform), (there, lambda job: answered(shared_crew, job))):
        with looked_at(copy) as (pair, look):
            ended = _ends(perform, Job.of(pair, look, busy_timeout_s=0.01))
        outcomes.append((*ended, copy.read_bytes(), journal_of(copy).exists() and journal_of(copy).read_bytes()))
    assert outcomes[0] == outcomes[1]


def _mauled(chance: random.Random, crashed: CrashedPair) -> tuple[bytes, bytes]:
    database, journal = bytearray(crashed.database), bytearray(crashed.journal)
    for _ in range(chance.randint(1, 6)):
        mauled = chance.choice([journal, journal, journal, database])
        at = chance.choice([chance.randrange(28), chance.randrange(len(mauled)), len(mauled) - 1])
        match chance.randrange(4):
            case 0:
                mauled[at] ^= 1 << chance.randrange(8)
            case 1:
                mauled[at : at + 4] = chance.randbytes(4)
            case 2 if len(mauled) > 2000:
                del mauled[len(mauled) - chance.randrange(1000) :]
            case _:
                mauled[at:at] = chance.randbytes(chance.choice([1, 512, 1024]))
    return bytes(database), bytes(journal)


def _ends(perform: Callable[[Job], Rolled], job: Job) -> tuple[object, ...]:
    try:
        rolled = perform(job)
    except RollbackError as error:
        return (type(error).__name__, str(error), error.began)
    return (rolled.pages, rolled.finished_journal, rolled.is_wal, rolled.is_left, str(rolled.unread))


def test_a_name_that_is_no_text_is_deleted_by_its_bytes(crew: Crew, tree: Path, crashed: CrashedPair) -> None:
    database = crashed.put(tree / os.fsdecode(b"\xff\xfe\xc3 .db"))
    assert done_by(crew, database).finished_journal
    assert database.read_bytes() == crashed.recovered
    assert not journal_of(database).exists()


def test_locks_make_it_busy_or_clean_as_they_do_here(crew: Crew, database: Path) -> None:
    before = everything_in(database.parent)
    with holding(database, READERS_LOCK), pytest.raises(BusyError, match="holds a lock"):
        done_by(crew, database)
    with holding(database, RESERVED_LOCK):
        assert not done_by(crew, database).found_something
    assert everything_in(database.parent) == before


def test_what_cannot_be_read_afterwards_is_corrupt(crew: Crew, database: Path) -> None:
    """A journal without a header is deleted, and what it leaves begins with a page that is none."""
    with database.open("r+b") as file:
        file.seek(16)
        file.write(b"\0\0")  # no page size
    journal_of(database).write_bytes(b"x" * 600)
    with pytest.raises(CorruptError):
        done_by(crew, database)


def test_a_new_database_after_the_look_is_left_alone(crew: Crew, database: Path) -> None:
    with looked_at(database) as (pair, look):
        other = database.with_name("other.db")
        make_database(other)
        other.rename(database)
        before = everything_in(database.parent)
        with pytest.raises(BusyError, match=r"outbound\.db has been deleted"):
            answered(crew, Job.of(pair, look, busy_timeout_s=0.01))
    assert everything_in(database.parent) == before


def test_the_kernel_keeps_the_database_from_growing_beyond_both_files(crew: Crew, database: Path) -> None:
    most = database.stat().st_size + journal_of(database).stat().st_size
    with looked_at(database) as (pair, look):
        with journal_of(database).open("r+b") as journal:
            journal.seek(INITIAL_PAGES)
            journal.write(b"\xff\xff\xff\xff")
        with pytest.raises(RollbackError, match=f"beyond {most} bytes") as raised:
            answered(crew, Job.of(pair, look, busy_timeout_s=0.01))
    assert raised.value.began
    assert database.stat().st_size <= most
    assert journal_of(database).exists()


def test_what_one_job_may_is_not_what_the_next_one_may(crew: Crew, tree: Path, crashed: CrashedPair) -> None:
    small = crashed.put(tree / "outbound.db")
    done_by(crew, small)
    database = tree / "large.db"
    shutil.copy(crashed.put(tree / "inbound.db"), database)
    with database.open("r+b") as file:
        file.truncate(4 * database.stat().st_size)
    shutil.copy(journal_of(tree / "inbound.db"), journal_of(database))
    assert done_by(crew, database).finished_journal
    assert database.read_bytes() == crashed.recovered


def test_it_has_nothing_open_but_its_channel(crew: Crew, database: Path) -> None:
    (pid,) = crew.processes()

    def has_open() -> list[str]:
        return sorted(os.listdir(f"/proc/{pid}/fd"))

    wait_until(lambda: len(has_open()) == 4)  # three standard descriptors and the channel
    before = has_open()
    done_by(crew, database)
    assert has_open() == before


def test_one_that_is_killed_in_the_middle_is_told_and_not_used_again(database: Path, crashed: CrashedPair) -> None:
    with on_duty(2) as crew:
        told: list[BaseException] = []

        def wait_for_the_lock() -> None:
            try:
                done_by(crew, database, busy_timeout_s=60.0)
            except RollbackError as error:
                told.append(error)

        with holding(database, READERS_LOCK):
            waiting = threading.Thread(target=wait_for_the_lock)
            waiting.start()
            pid = wait_until(lambda: next(filter(_has_it_open, crew.processes()), 0))
            os.kill(pid, signal.SIGKILL)
            waiting.join(10)
        (error,) = told
        assert isinstance(error, RollbackError)
        assert str(error) == "the process that rolled it back has ended"
        assert error.began, "nobody knows, so its snapshot is kept"
        assert pid not in crew.processes()
        assert done_by(crew, database).finished_journal
    assert database.read_bytes() == crashed.recovered


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_is_the_services(crew: Crew, database: Path, number: signal.Signals) -> None:
    (pid,) = crew.processes()
    os.kill(pid, number)
    assert done_by(crew, database).finished_journal
    assert crew.processes() == [pid]


def _has_it_open(pid: int) -> bool:
    """SQLite's own descriptor of the database, beside the standard ones, the channel and the three of a job."""
    return len(os.listdir(f"/proc/{pid}/fd")) > 7


def test_a_large_database_is_not_for_them(crew: Crew, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift_module, "_MOST_BYTES", 1000)
    with looked_at(database) as (pair, look):
        assert not Shift[None](crew).begin(Job.of(pair, look, busy_timeout_s=0.01), None)


def test_a_path_that_is_too_long_to_be_told_is_not_for_them(crew: Crew, database: Path) -> None:
    with looked_at(database) as (pair, look):
        job = Job.of(pair, look, busy_timeout_s=0.01)
        for length, is_for_them in ((9_990, True), (10_000, False)):
            path = "/" + length * "\udcff" + ".db"
            shift: Shift[None] = Shift(crew)
            assert shift.begin(job._replace(path=path), None) is is_for_them
            if is_for_them:
                ((_, outcome),) = shift.ended()
                assert isinstance(outcome, RollbackError)
    assert len(crew.processes()) == 1


def test_one_that_has_no_room_for_descriptors_says_so_and_goes_on(crew: Crew, database: Path) -> None:
    (pid,) = crew.processes()
    soft_and_hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(max(used) + 4) if number not in used]
    for room in (0, 1, 2):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[room], soft_and_hard[1]))
        with pytest.raises(OSError, match="Too many open files"):
            done_by(crew, database)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, soft_and_hard)
    assert {int(each) for each in os.listdir(f"/proc/{pid}/fd")} == used
    assert done_by(crew, database).found_something


def test_of_a_session_that_is_removed_they_keep_nothing(crew: Crew, database: Path) -> None:
    (pid,) = crew.processes()
    used = len(os.listdir(f"/proc/{pid}/fd"))
    with looked_at(database) as (pair, look):
        job = Job.of(pair, look, busy_timeout_s=0.01)
        shutil.rmtree(database.parent)
        with pytest.raises(BusyError):
            answered(crew, job)
    assert len(os.listdir(f"/proc/{pid}/fd")) == used


def test_where_all_are_at_it_the_next_one_is_not_for_them(crew: Crew, tree: Path, crashed: CrashedPair) -> None:
    """One that hangs, on a disk say, keeps nobody else waiting; what it takes up late is judged again."""
    (pid,) = crew.processes()
    os.kill(pid, signal.SIGSTOP)
    hung, other = crashed.put(tree / "hung.db"), crashed.put(tree / "other.db")
    shift: Shift[str] = Shift(crew)
    with looked_at(hung) as (pair, look), looked_at(other) as (other_pair, other_look):
        assert shift.begin(Job.of(pair, look, busy_timeout_s=0.01), "hung")
        assert not crew.has_free()
        assert not shift.begin(Job.of(other_pair, other_look, busy_timeout_s=0.01), "other")
        time.sleep(2 * shift_module._TAKEN_UP_WITHIN_S)
        os.kill(pid, signal.SIGCONT)
        ((whose, outcome),) = shift.ended()
    assert whose == "hung"
    assert isinstance(outcome, BusyError)
    assert str(outcome) == hand.TOO_LATE
    assert journal_of(hung).exists()
    assert crew.has_free()


@pytest.mark.usefixtures("quick")
def test_what_waits_behind_one_that_hangs_is_told_to_be_done_elsewhere(
    crew: Crew, tree: Path, crashed: CrashedPair
) -> None:
    first, hung, behind = (crashed.put(tree / f"{name}.db") for name in ("first", "hung", "behind"))
    assert done_by(crew, first).finished_journal
    assert crew.has_free()
    (pid,) = crew.processes()
    shift: Shift[str] = Shift(crew)
    with looked_at(hung) as (pair, look), looked_at(behind) as (other_pair, other_look):
        with holding(hung, READERS_LOCK):
            assert shift.begin(Job.of(pair, look, busy_timeout_s=60.0), "hung")
            wait_until(lambda: _has_it_open(pid))
            assert shift.begin(Job.of(other_pair, other_look, busy_timeout_s=0.01), "behind")
            assert not crew.has_free()
            ((whose, outcome),) = shift.ended()
            assert whose == "behind"
            assert isinstance(outcome, BusyError)
            assert str(outcome) == hand.TOO_LATE
            assert len(shift) == 2
            assert rollback.perform(Job.of(other_pair, other_look, busy_timeout_s=0.01)).finished_journal
        assert [whose for whose, _ in shift.ended()] == ["hung"]
        assert shift.ended() == [], "its answer comes, and nobody is told once more"
    assert len(shift) == 0
    assert crew.processes() == [pid]
    assert done_by(crew, crashed.put(tree / "next.db")).finished_journal


def test_one_that_is_slow_has_nothing_waiting_behind(
    crew: Crew, tree: Path, crashed: CrashedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUICK_S", 0.0)
    assert done_by(crew, crashed.put(tree / "first.db")).finished_journal
    with looked_at(crashed.put(tree / "next.db")) as (pair, look):
        shift: Shift[None] = Shift(crew)
        assert shift.begin(Job.of(pair, look, busy_timeout_s=0.01), None)
        assert not crew.has_free()
        shift.ended()


@pytest.mark.usefixtures("quick")
def test_with_one_that_is_killed_ends_also_what_it_had_at_hand(tree: Path, crashed: CrashedPair) -> None:
    first, at_it, behind = (crashed.put(tree / f"{name}.db") for name in ("first", "at it", "behind"))
    with on_duty() as crew:
        assert done_by(crew, first).finished_journal
        (pid,) = crew.processes()
        shift: Shift[str] = Shift(crew)
        with (
            looked_at(at_it) as (pair, look),
            looked_at(behind) as (other_pair, other_look),
            holding(at_it, READERS_LOCK),
        ):
            assert shift.begin(Job.of(pair, look, busy_timeout_s=60.0), "at it")
            wait_until(lambda: _has_it_open(pid))
            assert shift.begin(Job.of(other_pair, other_look, busy_timeout_s=0.01), "behind")
            os.kill(pid, signal.SIGKILL)
            ended = shift.ended() + shift.ended()
        assert [whose for whose, _ in ended] == ["at it", "behind"]
        assert [str(outcome) for _, outcome in ended] == ["the process that rolled it back has ended"] * 2
        assert len(shift) == 0
        assert not crew.processes()
        assert not crew.has_free()
    assert journal_of(behind).exists()


def test_what_is_let_go_is_closed_when_another_process_has_it(crew: Crew, database: Path) -> None:
    with looked_at(database) as (pair, look):
        before = len(os.listdir("/proc/self/fd"))
        shift: Shift[None] = Shift(crew)
        assert shift.begin(Job.of(pair, look, busy_timeout_s=0.01, is_needed=False), None)
        assert len(os.listdir("/proc/self/fd")) == before - 4, "each of the two was pinned, and open to be read"
        ((_, outcome),) = shift.ended()
        assert isinstance(outcome, Rolled)
        assert outcome.finished_journal
        with pytest.raises(Gone):
            pair.look()


def test_they_are_ended_when_there_is_nothing_to_do_and_come_again(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_duty(3) as crew:
        pids = crew.processes()
        monkeypatch.setattr(module, "_STAYS_S", 0.05)
        with crew._turn:
            crew._turn.notify()  # it waits by the time that was set when they came
        wait_until(lambda: not crew.processes())
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
        monkeypatch.undo()
        crew.call_up()
        wait_until(crew.processes)
        done_by(crew, database)


def test_an_answer_that_is_none_is_a_defect() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for nonsense in (b"\xff", b"[1]", b"{}", b'{"rolled": 3}', b'{"error": ["odd", "", false]}'):
            theirs.send(nonsense)
            with pytest.raises(RuntimeError, match="nonsense"):
                hand.receive(ours)


def test_stopping_ends_also_one_that_is_at_it(crew: Crew, database: Path) -> None:
    (pid,) = crew.processes()
    os.kill(pid, signal.SIGSTOP)
    shift: Shift[None] = Shift(crew)
    with looked_at(database) as (pair, look):
        assert shift.begin(Job.of(pair, look, busy_timeout_s=0.01), None)
        crew.stop(10)
        ((_, outcome),) = shift.ended()
    assert str(outcome) == "the process that rolled it back has ended"
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_without_one_that_starts_there_is_none_to_be_had(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    crew = Crew(size=2)
    crew.start()
    try:
        crew.call_up()
        wait_until(lambda: crew._has_warned)
        assert not crew.has_free()
        with looked_at(database) as (pair, look):
            assert not Shift[None](crew).begin(Job.of(pair, look, busy_timeout_s=0.01), None)
    finally:
        crew.stop(10)


_THREE_OF_FIVE = """
import errno, os, socket, sys
from watcher import hand
fork, left = os.fork, [1, 1]
def refused():
    if not left:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    left.pop()
    return fork()
os.fork = refused
with socket.socket(fileno=hand._one_for_each([int(each) for each in sys.argv[1:]])) as channel:
    channel.send(str(os.getpid()).encode())
"""


def test_where_the_kernel_gives_too_few_processes_those_that_there_are_go_on() -> None:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(5)]
    theirs = [str(their.fileno()) for _, their in pairs]
    subprocess.run(
        [sys.executable, "-c", _THREE_OF_FIVE, *theirs], pass_fds=[int(each) for each in theirs], check=True, timeout=60
    )
    for _, their in pairs:
        their.close()
    said = [ours.recv(100) for ours, _ in pairs]
    for ours, _ in pairs:
        ours.close()
    assert len({pid for pid in said if pid}) == 3
    assert said.count(b"") == 2


@pytest.mark.usefixtures("quick")
def test_many_at_once_by_one_thread(tree: Path, crashed: CrashedPair) -> None:
    databases = [crashed.put(tree / f"{number}.db") for number in range(60)]
    with on_duty(3) as crew:
        shift: Shift[tuple[Path, ExitStack]] = Shift(crew)
        to_do, most = list(databases), 0
        while to_do or len(shift):
            while to_do and crew.has_free():
                database, held = to_do.pop(), ExitStack()
                pair, look = held.enter_context(looked_at(database))
                assert shift.begin(Job.of(pair, look, busy_timeout_s=0.01), (database, held))
            most = max(most, len(shift))
            for (database, held), outcome in shift.ended():
                held.close()
                if isinstance(outcome, BusyError):  # it was taken up too late
                    to_do.append(database)
    assert 3 < most <= 6, "each has the next one at hand, once it has been quick"
    assert all(each.read_bytes() == crashed.recovered for each in databases)
    assert not list(tree.glob("*-journal"))


# --- in the service ---


def _below(pid: int) -> list[int]:
    """The processes that it, or one of them, has made."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(each) for each in task.read_text().split()]
        except OSError:  # the thread has ended
            continue
        found += [each for child in children for each in (child, *_below(child))]
    return found


def crash_many(runner: Runner, crashed: CrashedPair, count: int) -> list[Path]:
    databases = [runner.root / f"s{number}" / "outbound.db" for number in range(count)]
    for each in databases:
        each.parent.mkdir(parents=True)
        crashed.put(each)
    return databases


def test_hundreds_are_recovered_and_told_with_their_snapshots(runner: Runner, crashed: CrashedPair) -> None:
    databases = crash_many(runner, crashed, 180)
    runner.configure()
    service = runner.start()
    wait_until(lambda: len(service.events("recovered")) == len(databases))
    told = service.events("recovered")
    assert all(each.read_bytes() == crashed.recovered for each in databases)
    assert {each["database"] for each in told} == set(map(str, databases))
    before = crashed.put(runner.root.parent / "as-it-was.db")
    for each in told:
        kept = Path(each["snapshot"])
        assert (kept / "database").read_bytes() == before.read_bytes()
        assert (kept / "database-journal").read_bytes() == journal_of(before).read_bytes()
    wait_until(lambda: runner.json("status")["recoveries"].get("recovered") == len(databases), 5.0)
    assert service.stop() == 0
    entries = runner.json("history", "--limit", "1000")
    assert {each["database"] for each in entries} == set(map(str, databases))


def test_what_is_left_to_be_told_is_told_before_the_end(runner: Runner, crashed: CrashedPair) -> None:
    databases = crash_many(runner, crashed, 180)
    runner.configure()
    service = runner.start()
    wait_until(lambda: sum(not journal_of(each).exists() for each in databases) > 100)
    assert service.stop() == 0
    recovered = {str(each) for each in databases if not journal_of(each).exists()}
    assert {each["database"] for each in service.events("recovered")} == recovered
    assert {each["database"] for each in runner.json("history", "--limit", "1000")} == recovered


def all_of_them(hands: list[int]) -> list[int]:
    return hands if len(hands) == module.size_for(4) else []


def test_where_they_are_killed_the_service_goes_on_without(runner: Runner, crashed: CrashedPair) -> None:
    databases = crash_many(runner, crashed, 300)
    runner.configure()
    service = runner.start()
    for each in wait_until(lambda: all_of_them(_below(service.process.pid))):
        os.kill(each, signal.SIGKILL)
    assert any(journal_of(each).exists() for each in databases), "they were killed too late"
    wait_until(lambda: not any(journal_of(each).exists() for each in databases))
    assert all(each.read_bytes() == crashed.recovered for each in databases)
    assert service.stop() == 0


def test_they_end_with_a_service_that_is_killed(runner: Runner, crashed: CrashedPair) -> None:
    databases = crash_many(runner, crashed, 300)
    runner.configure()
    service = runner.start()
    pid = service.process.pid
    hands = wait_until(lambda: all_of_them(_below(pid)))
    service.kill()
    wait_until(lambda: not any(os.path.exists(f"/proc/{each}") for each in hands))
    assert any(journal_of(each).exists() for each in databases), "it was killed too late"
    runner.start()
    wait_until(lambda: not any(journal_of(each).exists() for each in databases))
    assert all(each.read_bytes() == crashed.recovered for each in databases)
