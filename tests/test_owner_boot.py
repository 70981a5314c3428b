"""The boot probe: real journals beside a boot that was at another time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import Runner, wait_until
from tests.writers import crash, make_database
from watcher.decision import Decision
from watcher.filesystem import FileSystem
from watcher.installation import Rooms
from watcher.owner.boot import BootProbe
from watcher.owner.clock import WallClock
from watcher.owner.testimony import Answer, Evidence
from watcher.settings import load_settings

SECOND = 10**9
LOCAL = FileSystem("ext4", is_local=True)
ELSEWHERE = FileSystem("9p", is_local=False)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    made = tmp_path / "outbound.db"
    make_database(made)
    crash(made)
    return made


def journal_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-journal")


def ask(database: Path, clock: WallClock, file_system: FileSystem = LOCAL) -> Evidence:
    return BootProbe(clock).testify(journal_of(database).stat().st_ctime_ns, file_system)


def booted(after_the_journal_ns: int, database: Path) -> WallClock:
    """The clock of a machine that booted so long after the journal's last change."""
    boot_ns = journal_of(database).stat().st_ctime_ns + after_the_journal_ns
    return WallClock(measure=lambda: boot_ns)


def test_a_journal_of_this_boot_says_nothing(database: Path) -> None:
    assert ask(database, WallClock()).answer is Answer.SILENT


@pytest.mark.parametrize("after_s", [-3600, 0, 1, 119, 120])
def test_up_to_two_minutes_before_the_boot_a_journal_says_nothing(database: Path, after_s: int) -> None:
    assert ask(database, booted(after_s * SECOND, database)).answer is Answer.SILENT


def test_a_journal_that_is_more_than_two_minutes_older_than_the_boot_has_no_owner(database: Path) -> None:
    assert ask(database, booted(120 * SECOND + 1, database)).answer is Answer.EXITED
    evidence = ask(database, booted(3600 * SECOND, database))
    assert (evidence.answer, evidence.detail) == (Answer.EXITED, "its journal is 3600 s older than this boot")


def test_a_writer_on_another_machine_may_outlive_our_boot(database: Path) -> None:
    assert ask(database, booted(3600 * SECOND, database), ELSEWHERE).answer is Answer.SILENT


def set_back(journal: Path) -> None:
    os.utime(journal, ns=(0, 0))


def touch_its_mode(journal: Path) -> None:
    journal.chmod(0o600)


def rename_it(journal: Path) -> None:
    journal.rename(f"{journal}-")
    Path(f"{journal}-").rename(journal)


@pytest.mark.parametrize("touch", [set_back, touch_its_mode, rename_it])
def test_whatever_a_writer_does_to_its_journal_makes_it_younger(database: Path, touch: Callable[[Path], None]) -> None:
    clock = booted(120 * SECOND + 1, database)
    assert ask(database, clock).answer is Answer.EXITED
    journal = journal_of(database)
    before = journal.stat().st_ctime_ns

    def is_younger() -> bool:  # the clock of inodes ticks every few milliseconds
        touch(journal)
        return journal.stat().st_ctime_ns > before

    wait_until(is_younger)
    assert ask(database, clock).answer is Answer.SILENT


def test_a_clock_that_was_set_ahead_makes_no_journal_older_than_the_boot(database: Path) -> None:
    """The boot, by the wall clock of now, moves with every step; the journal's time does not."""
    ctime_ns = journal_of(database).stat().st_ctime_ns
    boot_ns = ctime_ns - 60 * SECOND
    clock = WallClock(measure=lambda: boot_ns)
    assert ask(database, clock).answer is Answer.SILENT
    boot_ns = ctime_ns + 3600 * SECOND
    assert ask(database, clock).answer is Answer.SILENT


def test_a_step_before_an_earlier_run_counts_too(database: Path) -> None:
    ctime_ns = journal_of(database).stat().st_ctime_ns
    clock = WallClock((ctime_ns - 60 * SECOND,), measure=lambda: ctime_ns + 3600 * SECOND)
    assert ask(database, clock).answer is Answer.SILENT


# --- with the other probes ---


def examined(runner: Runner, clock: WallClock) -> tuple[Decision, list[tuple[str, str]]]:
    rooms = Rooms(load_settings(runner.settings), clock)
    finding = rooms.examiner.examine_place(rooms.tree.locate(str(runner.root / "outbound.db")))
    assert finding.judgement is not None
    rooms.owner.close()
    return finding.decision, [(each.probe, each.answer.value) for each in finding.judgement.evidence]


@pytest.fixture
def after_a_power_cut(runner: Runner) -> WallClock:
    database = runner.root / "outbound.db"
    make_database(database)
    crash(database)
    return booted(3600 * SECOND, database)


def test_after_a_power_cut_the_boot_alone_decides(runner: Runner, after_a_power_cut: WallClock) -> None:
    runner.configure(owner={"locks": "off"})
    assert examined(runner, after_a_power_cut) == (Decision.RECOVER, [("boot", "exited")])


def test_after_a_power_cut_an_old_pid_file_names_nobody(runner: Runner, after_a_power_cut: WallClock) -> None:
    """Its pid may be anybody's by now."""
    runner.configure(owner={"locks": "off", "pid_file": ".writer.pid"})
    (runner.root / ".writer.pid").write_text(str(os.getpid()))
    decision, evidence = examined(runner, after_a_power_cut)
    assert (decision, evidence) == (Decision.RECOVER, [("boot", "exited"), ("pid_file", "silent")])


def test_with_neither_locks_nor_a_boot_nobody_can_tell(runner: Runner, after_a_power_cut: WallClock) -> None:
    assert after_a_power_cut.boot_ns() > 0
    runner.configure(owner={"locks": "off"})
    assert examined(runner, WallClock()) == (Decision.HOLD, [("boot", "silent")])
