"""The threads that look: while many wait one of them drives, and the others come in where it stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.running import wait_until
from tests.test_crew import on_duty
from tests.test_rollback import looked_at
from tests.writers import CrashedPair, journal_of
from watcher import crew as crew_module
from watcher import shift as shift_module
from watcher.agenda import Agenda
from watcher.crew import Crew
from watcher.liveness import Hands
from watcher.rollback import Job
from watcher.tree import Place
from watcher.workers import Steps, Workers

DATABASES = 40


@pytest.fixture
def databases(tmp_path: Path, crashed: CrashedPair) -> list[Path]:
    made = [tmp_path / f"s{number}" / "outbound.db" for number in range(DATABASES)]
    for each in made:
        each.parent.mkdir()
        crashed.put(each)
    return made


class Desk:
    """Workers whose steps are a rollback of each database, and what was seen of them.

    Attributes:
        by: the thread that began with each place.
        drove: the threads that drove meanwhile.
        failed: the places whose steps failed.
    """

    def __init__(self, crew: Crew, root: Path, before: Callable[[Place], None] = lambda _: None) -> None:
        self.agenda = Agenda(4)
        self.hands = Hands(10.0)
        self.by: dict[Place, str] = {}
        self.drove: set[str] = set()
        self.failed: dict[Place, Exception] = {}
        self._root = root
        self._before = before
        self.workers = Workers(4, self.agenda, self.hands, crew, steps=self._steps, failed=self.failed.__setitem__)

    def _steps(self, place: Place) -> Steps:
        name = threading.current_thread().name
        self.by[place] = name
        if self.workers.drives():
            self.drove.add(name)
        self._before(place)
        with looked_at(self._root / place.directory / place.name) as (pair, look):
            rolled = yield Job.of(pair, look, busy_timeout_s=0.1)
            assert rolled.finished_journal


@contextmanager
def at_work(desk: Desk, databases: list[Path]) -> Iterator[Desk]:
    for each in databases:
        desk.agenda.add(Place(each.parent.name, each.name))
    desk.workers.start()
    try:
        yield desk
    finally:
        assert desk.workers.stop(10.0)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setattr(shift_module, "_TAKEN_UP_WITHIN_S", 10.0)  # nothing is to be judged again here
    with on_duty(3) as crew, ExitStack() as patched:
        # The workers start and stop it, too.
        patch = patched.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(crew, "start", lambda: None)
        patch.setattr(crew, "stop", lambda _: None)
        yield crew


def all_done(databases: list[Path]) -> bool:
    return not any(journal_of(each).exists() for each in databases)


def test_one_thread_drives_while_many_wait(
    crew: Crew, tmp_path: Path, databases: list[Path], crashed: CrashedPair
) -> None:
    with at_work(Desk(crew, tmp_path), databases) as desk:
        wait_until(lambda: all_done(databases))
        wait_until(lambda: not desk.hands.held())
    assert all(each.read_bytes() == crashed.recovered for each in databases)
    assert not desk.failed
    assert len(desk.drove) == 1
    assert not desk.workers.drives()


def test_where_it_stands_still_the_others_go_on(crew: Crew, tmp_path: Path, databases: list[Path]) -> None:
    goes_on = threading.Event()
    stuck: list[Place] = []

    def hang_once_when_driving(place: Place) -> None:
        if desk.workers.drives() and not stuck:
            stuck.append(place)
            assert goes_on.wait(30)

    desk = Desk(crew, tmp_path, hang_once_when_driving)
    try:
        with at_work(desk, databases):
            wait_until(lambda: bool(stuck))
            # What it has given to others before is as far as it comes without it.
            driven = {each.place for each in desk.hands.held() if each.worker == desk.by[stuck[0]]}
            others = [each for each in databases if Place(each.parent.name, each.name) not in driven]
            assert len(others) > DATABASES // 2
            wait_until(lambda: all_done(others))
            goes_on.set()
            wait_until(lambda: all_done(databases))
    finally:
        goes_on.set()
    assert len(set(desk.by.values())) > 1


def test_an_end_is_met_also_where_the_next_place_is_always_there(
    crew: Crew, tmp_path: Path, databases: list[Path], crashed: CrashedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a thousand cannot be recovered, and are looked at again and again."""
    monkeypatch.setattr(crew_module, "_STAYS_S", 3600.0)
    held = [Place(f"held-{number}", "outbound.db") for number in range(20)]
    looks = 0

    def look_again_at_what_is_held(place: Place) -> None:
        nonlocal looks
        if place in held:
            looks += 1
            desk.agenda.add(place)
            raise BlockingIOError

    desk = Desk(crew, tmp_path, look_again_at_what_is_held)
    for each in held:
        desk.agenda.add(each)
    with at_work(desk, databases):
        wait_until(lambda: all_done(databases))
        wait_until(lambda: all(each.place in held for each in desk.hands.held()))
        before = looks
        wait_until(lambda: looks > before)
    assert all(each.read_bytes() == crashed.recovered for each in databases)
    assert desk.drove
    assert set(desk.failed) == set(held)


def test_steps_that_fail_keep_no_other_place_waiting(crew: Crew, tmp_path: Path, databases: list[Path]) -> None:
    def fail_at_every_fourth(place: Place) -> None:
        if int(place.directory[1:]) % 4 == 0:
            raise RuntimeError("nobody has thought of that")

    sound = [each for each in databases if int(each.parent.name[1:]) % 4]
    with at_work(Desk(crew, tmp_path, fail_at_every_fourth), databases) as desk:
        wait_until(lambda: all_done(sound))
        wait_until(lambda: len(desk.failed) == DATABASES // 4)
        wait_until(lambda: not desk.hands.held())
    assert {type(each) for each in desk.failed.values()} == {RuntimeError}


def test_without_a_crew_each_does_its_own(tmp_path: Path, databases: list[Path], crashed: CrashedPair) -> None:
    with at_work(Desk(Crew(size=0), tmp_path), databases) as desk:
        wait_until(lambda: all_done(databases))
    assert not desk.drove
    assert all(each.read_bytes() == crashed.recovered for each in databases)
