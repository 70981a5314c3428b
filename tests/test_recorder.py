"""The recorder: no caller waits, nothing is lost while the history cannot be written, and it ends when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from tests.small_disk import fill, small_disk
from tests.test_history import numbered, record
from watcher.records import history_file, recorder
from watcher.records.history import History
from watcher.records.history_file import HistoryError, Trouble
from watcher.records.record import Outcome, Record
from watcher.records.recorder import Recorder


class CountingHistory(History):
    """A real history that knows how many commits it was asked for."""

    commits = 0

    def append(self, records: Iterable[tuple[Record, str]]) -> int:
        self.commits += 1
        return super().append(records)


@dataclass
class Desk:
    """A recorder with what it said."""

    history: CountingHistory
    backlog: int = 10_000
    failures: list[tuple[Trouble, int]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    returns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(
            self.history,
            on_failed=self._failed,
            on_back=self.returns.append,
            backlog=self.backlog,
            first_pause_s=0.02,
            sweep_interval_s=0.05,
        )

    def _failed(self, error: HistoryError, waiting: int) -> None:
        self.failures.append((error.trouble, waiting))
        self.messages.append(str(error))

    def add(self, first: int, last: int) -> None:
        for each, change in numbered(first, last):
            self.recorder.add(each, change)


def desk_at(path: Path, *, backlog: int = 10_000) -> Desk:
    return Desk(CountingHistory(path, keep=100_000, max_age_s=1e9), backlog)


@contextmanager
def at_work(desk: Desk) -> Iterator[Desk]:
    desk.recorder.start()
    try:
        yield desk
    finally:
        desk.recorder.stop()


def eventually(holds: Callable[[], object], deadline_s: float = 40.0) -> None:
    pause, over = threading.Event(), time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < over, "it did not come to hold in time"
        pause.wait(0.005)


def kept(desk: Desk) -> list[object]:
    return [entry["pages"] for entry in reversed(desk.history.query())]


def is_alive() -> bool:
    return any(thread.name == "history" for thread in threading.enumerate())


def test_a_record_is_in_the_history_soon(tmp_path: Path) -> None:
    with at_work(desk_at(tmp_path / "history.db")) as desk:
        desk.add(0, 1)
        eventually(lambda: kept(desk) == [0])
    assert (desk.failures, desk.returns) == ([], [])


def test_a_mass_of_recoveries_is_a_few_commits_and_not_one_each(tmp_path: Path) -> None:
    desk = desk_at(tmp_path / "history.db")
    desk.add(0, 1200)
    desk.recorder.start()
    assert desk.recorder.stop() == 0
    assert len(kept(desk)) == 1200
    assert desk.history.commits == 3


def test_stopping_writes_what_waits_and_ends_the_thread(tmp_path: Path) -> None:
    desk = desk_at(tmp_path / "history.db")
    desk.recorder.start()
    desk.add(0, 600)
    assert desk.recorder.stop() == 0
    assert kept(desk) == list(range(600))
    assert not is_alive()


def test_what_is_no_history_does_not_wait_for_it(tmp_path: Path) -> None:
    desk = desk_at(tmp_path / "history.db")
    desk.recorder.start()
    desk.recorder.add(record(outcome=Outcome.CLEAN), "x")
    assert desk.recorder.stop() == 0
    assert not desk.history.path.exists()
    assert desk.history.commits == 0


def test_what_could_not_be_written_is_written_when_it_can(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, at_work(desk_at(disk / "history.db")) as desk:
        desk.add(0, 1)
        eventually(lambda: kept(desk) == [0])
        ballast = fill(disk)
        desk.add(1, 300)
        eventually(lambda: len(desk.failures) >= 3 and desk.failures[-1][1] == 299)
        assert {trouble for trouble, _ in desk.failures} == {Trouble.FULL}
        ballast.unlink()
        eventually(lambda: desk.returns)
        assert kept(desk) == list(range(300))
        assert desk.returns == [0]


def test_of_a_backlog_that_is_too_long_the_newest_are_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with at_work(desk_at(directory / "history.db", backlog=100)) as desk:
        desk.add(0, 90)
        eventually(lambda: desk.failures and desk.failures[-1][1] == 90)
        desk.add(90, 150)
        eventually(lambda: desk.failures[-1][1] == 100)
        directory.mkdir()
        eventually(lambda: desk.returns)
        assert kept(desk) == list(range(50, 150))
        assert desk.returns == [50]


def test_a_corrupt_history_is_set_aside_told_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database at all" * 1000)
    desk = desk_at(tmp_path / "history.db")
    desk.add(0, 3)
    with at_work(desk):
        eventually(lambda: desk.returns)
        assert kept(desk) == [0, 1, 2]
    (aside,) = tmp_path.glob("history.db.corrupt-*")
    assert desk.messages == [
        f"the history {tmp_path}/history.db was damaged, and is now {aside}; a new one is begun",
    ]
    assert (desk.failures, desk.returns) == ([(Trouble.CORRUPT, 3)], [0])


def test_a_newer_history_is_not_touched_and_nothing_is_lost_of_what_waits(tmp_path: Path) -> None:
    desk = desk_at(tmp_path / "history.db")
    desk.history.append(numbered(0, 1))
    apsw.Connection(str(desk.history.path)).pragma("user_version", 99)
    before = desk.history.path.read_bytes()
    desk.recorder.start()
    desk.add(1, 4)
    eventually(lambda: desk.failures)
    assert desk.recorder.stop() == 3
    assert desk.history.path.read_bytes() == before
    assert not is_alive()


def test_stopping_does_not_wait_longer_than_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "_BUSY_TIMEOUT_MS", 30_000)
    desk = desk_at(tmp_path / "history.db")
    desk.history.append(numbered(0, 1))
    other = apsw.Connection(str(desk.history.path))
    other.execute("BEGIN EXCLUSIVE")
    desk.recorder.start()
    desk.add(1, 4)
    eventually(lambda: desk.history.commits == 2)
    began = time.monotonic()
    assert desk.recorder.stop(0.05) == 3
    assert time.monotonic() - began < 10
    other.close()
    eventually(lambda: not is_alive())


def test_a_defect_costs_its_batch_and_not_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with at_work(desk_at(tmp_path / "history.db")) as desk:
        with monkeypatch.context() as broken:
            broken.setattr("watcher.records.history._row", None)
            desk.add(0, 1)
            eventually(lambda: desk.history.commits == 1)
            eventually(lambda: desk.recorder._lost == 1)
        desk.add(1, 2)
        eventually(lambda: kept(desk) == [1])
    assert "Exception in thread" not in capfd.readouterr().err


def test_records_that_come_one_by_one_share_their_commits(tmp_path: Path) -> None:
    """A commit for each would take disk and interpreter from the recoveries that they tell of."""
    desk, apart = desk_at(tmp_path / "history.db"), threading.Event()
    with at_work(desk):
        began = time.monotonic()
        for number in range(100):
            desk.add(number, number + 1)
            apart.wait(0.005)
        took_s = time.monotonic() - began
    assert len(desk.history.query()) == 100
    assert desk.history.commits <= 3 + took_s / recorder._APART_S


def test_one_after_a_while_is_written_at_once(tmp_path: Path) -> None:
    desk = desk_at(tmp_path / "history.db")
    with at_work(desk):
        desk.add(0, 1)
        eventually(lambda: desk.history.commits == 1)
        desk.add(1, 2)
        eventually(lambda: len(desk.history.query()) == 2)
