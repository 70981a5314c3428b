"""The hooks: real programs that are told of records, and that hang, flood, fork or are not there."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running import DEADLINE_S, wait_until
from tests.test_command import is_gone, script
from watcher import programs
from watcher.records import log
from watcher.records.hooks import Hooks, trouble_with_program
from watcher.records.record import Outcome, Record
from watcher.settings import HooksSettings


class Told:
    """What hooks have done: the lines that their programs wrote to `told`, and what the log says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: Counter[tuple[str, bool]] = Counter()
        self.stream = io.StringIO()

    def count(self, outcome: str, went_well: bool) -> None:
        self.counts[outcome, went_well] += 1

    def lines(self) -> list[str]:
        path = self.directory / "told"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def failures(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def ended(self) -> int:
        return sum(self.counts.values())


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path)
    log.configure(level="INFO", instance="x", json_lines=True, stream=made.stream)
    yield made
    log.close()


@contextmanager
def hooked(told: Told, timeout: float = 10.0, **programs: tuple[str, ...]) -> Iterator[Hooks]:
    hooks = Hooks(HooksSettings(timeout=timeout, **programs), told.directory, "nanoclaw", told.count)
    hooks.start()
    yield hooks
    hooks.stop(DEADLINE_S)


def record(outcome: Outcome = Outcome.HELD, database: str = "/tree/outbound.db", **fields: Any) -> Record:
    return Record(database=database, outcome=outcome, **fields)


def test_a_program_reads_the_record_as_history_tells_it(told: Told) -> None:
    kept = record(error="nobody can say", journal_size=4616, session={"session": "s1"})
    program = script(told.directory, 'cat > told; echo "$1 $JOURNAL_WATCHER_EVENT $JOURNAL_WATCHER_INSTANCE" >> told')
    with hooked(told, held=(program, "{session}")) as hooks:
        hooks.add(kept, "1")
        wait_until(told.ended)
    line, words = told.lines()
    assert json.loads(line) == kept.as_json()
    assert words == "s1 held nanoclaw"
    assert told.counts == {("held", True): 1}
    assert told.failures() == []


def test_a_record_longer_than_a_pipe_holds_up_nobody_who_does_not_read_it(told: Told) -> None:
    with hooked(told, held=("true",)) as hooks:
        hooks.add(record(error="x" * 1_000_000), "1")
        wait_until(told.ended)
    assert told.counts == {("held", True): 1}


def test_other_outcomes_are_not_its_business(told: Told) -> None:
    with hooked(told, held=(script(told.directory, "echo $JOURNAL_WATCHER_EVENT >> told"),)) as hooks:
        for outcome in Outcome:
            hooks.add(record(outcome), "1")
    assert told.lines() == ["held"]


def test_a_change_is_told_once_and_the_next_one_again(told: Told) -> None:
    with hooked(told, failed=(script(told.directory, "echo called >> told"),)) as hooks:
        for change in ("disk full", "disk full", "read-only", "disk full"):
            hooks.add(record(Outcome.FAILED), change)
        hooks.add(record(Outcome.FAILED, "/tree/other.db"), "disk full")
    assert len(told.lines()) == 4


def test_one_call_runs_after_another_and_events_do_not_wait_for_each_other(told: Told) -> None:
    slow = script(
        told.directory,
        "test ! -e busy || echo overlap >> told; touch busy; while [ ! -e gate ]; do sleep 0.05; done; rm busy",
    )
    with hooked(told, held=(slow,), corrupt=("sh", "-c", "echo corrupt >> told")) as hooks:
        for change in "abc":
            hooks.add(record(), change)
        hooks.add(record(Outcome.CORRUPT), "1")
        wait_until(lambda: told.counts["corrupt", True])
        assert told.counts["held", True] == 0
        (told.directory / "gate").touch()
    assert told.lines() == ["corrupt"]
    assert told.counts["held", True] == 3


def test_a_program_that_hangs_is_killed_with_its_children(told: Told) -> None:
    program = script(told.directory, "sleep 1000 & echo $! $$ > told; wait")
    with hooked(told, timeout=3.0, held=(program,)) as hooks:
        hooks.add(record(), "1")
        wait_until(told.ended)
        wait_until(lambda: all(is_gone(int(pid)) for pid in told.lines()[0].split()))
    (line,) = told.failures()
    assert line["event"] == "hook_failed"
    assert line["level"] == "WARNING"
    assert line["database"] == "/tree/outbound.db"
    assert "hooks.held: alive.sh for /tree/outbound.db: not through within 3s, killed" in line["message"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo no such pager >&2; exit 3", "status 3: no such pager"),
        ("kill -KILL $$", "killed by signal 9"),
        ("printf 'a\\nb'; exit 1", "status 1: a"),
    ],
)
def test_a_program_that_fails_is_told_with_its_own_words(told: Told, text: str, why: str) -> None:
    with hooked(told, held=(script(told.directory, text),)) as hooks:
        hooks.add(record(), "1")
        wait_until(told.ended)
    assert told.failures()[0]["message"].endswith(why)


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (None, "", "there is no {path}"),
        (0o644, "true", "{path} is no program that we may run (chmod +x?)"),
        (
            0o755,
            "#!/no/such/shell",
            "{path}: no such file or directory (it is there, but not the program that its first line, #!, names)",
        ),
    ],
)
@pytest.mark.parametrize("tied", [True, False], ids=["with setpriv", "without"])
def test_a_program_that_cannot_be_started_is_named_with_what_to_do(
    told: Told, monkeypatch: pytest.MonkeyPatch, tied: bool, mode: int | None, text: str, why: str
) -> None:
    if tied and not programs._tied_to_us():
        pytest.skip("setpriv is not installed")
    if not tied:
        monkeypatch.setattr(programs, "_tied_to_us", tuple)
    path = told.directory / "page.sh"
    if mode is not None:
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    with hooked(told, held=(str(path),)) as hooks:
        hooks.add(record(), "1")
        wait_until(told.failures)
    (line,) = told.failures()
    said = f"does not start: {why.format(path=path)}; see to it, or change hooks.held"
    assert line["message"] == f"hooks.held: page.sh for /tree/outbound.db: {said}"


def test_more_calls_than_a_slow_program_takes_are_left_out_and_said_once(told: Told) -> None:
    gate = told.directory / "gate"
    with hooked(told, held=(script(told.directory, "while [ ! -e gate ]; do sleep 0.05; done"),)) as hooks:
        for number in range(300):
            hooks.add(record(), str(number))
        wait_until(lambda: told.counts["held", False] >= 199)
        wait_until(told.failures)
        (line,) = told.failures()
        assert "left out, for a hundred calls wait already" in line["message"]
        gate.touch()
        wait_until(lambda: told.ended() == 300)
    assert told.counts["held", True] in {100, 101}


def test_stopping_kills_what_hangs_and_says_what_was_left_out(told: Told) -> None:
    with hooked(told, held=(script(told.directory, "echo $$ >> told; sleep 1000"),)) as hooks:
        hooks.add(record(), "1")
        hooks.add(record(), "2")
        wait_until(told.lines)
        hooks.stop(deadline_s=0.2)
    wait_until(lambda: is_gone(int(told.lines()[0])))
    assert len(told.lines()) == 1
    assert [each["message"].rpartition(": ")[2] for each in told.failures()] == [
        "we are stopping, killed",
        "left out, for we are stopping",
    ]


def test_what_is_known_against_a_program_is_said_beforehand(tmp_path: Path) -> None:
    assert trouble_with_program("sh") is None
    assert trouble_with_program(script(tmp_path, "true")) is None
    assert trouble_with_program("/pagers/{session}") is None
    assert trouble_with_program("no-such-pager") == "there is no program no-such-pager in PATH"
    assert trouble_with_program(f"{tmp_path}/missing") == f"there is no {tmp_path}/missing"
    (tmp_path / "text").touch()
    assert trouble_with_program(f"{tmp_path}/text") == f"{tmp_path}/text is no program that we may run (chmod +x?)"
    (tmp_path / "a{b}").touch(mode=0o755)
    assert trouble_with_program(f"{tmp_path}/a{{{{b}}}}") is None
