"""The command probe: real programs, which answer, hang, flood and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines import subject_of, until
from tests.running import DEADLINE_S
from watcher.owner.command import CommandProbe
from watcher.owner.testimony import Answer, Evidence
from watcher.settings import CommandSettings


@pytest.fixture
def database(tmp_path: Path) -> Path:
    made = tmp_path / "outbound.db"
    made.write_bytes(b"")
    return made


def script(directory: Path, text: str) -> str:
    """An executable shell script; its path."""
    path = directory / "alive.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def counting(directory: Path, status: int) -> str:
    """A script that adds a line to `runs` each time, and ends with this status."""
    return script(directory, f"echo run >> {directory}/runs; exit {status}")


def runs(directory: Path) -> int:
    path = directory / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def probe_of(directory: Path, *argv: str, timeout: float = 5.0) -> CommandProbe:
    return CommandProbe(CommandSettings(argv=argv, timeout=timeout), directory)


def ask(probe: CommandProbe, database: Path, session: str = "s1", *, fresh: bool = False) -> Evidence:
    with subject_of(database, {"session": session}, fresh=fresh) as subject:
        return probe.ask(subject)


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("status", "answer"),
    [(0, Answer.ALIVE), (1, Answer.EXITED), (2, Answer.UNKNOWN), (127, Answer.UNKNOWN)],
)
def test_the_status_is_the_answer(database: Path, status: int, answer: Answer) -> None:
    probe = probe_of(database.parent, script(database.parent, f"exit {status}"))
    assert ask(probe, database).answer is answer


def test_a_command_that_is_killed_says_nothing(database: Path) -> None:
    evidence = ask(probe_of(database.parent, script(database.parent, "kill -KILL $$")), database)
    assert evidence.answer is Answer.UNKNOWN
    assert "signal 9" in evidence.detail


def test_a_program_that_is_not_there_says_nothing(database: Path) -> None:
    evidence = ask(probe_of(database.parent, f"{database.parent}/missing"), database)
    assert evidence.answer is Answer.UNKNOWN
    assert "o such file" in evidence.detail


def test_a_file_that_is_no_program_says_nothing(database: Path) -> None:
    path = database.parent / "alive.sh"
    path.write_text("exit 1\n")
    assert ask(probe_of(database.parent, str(path)), database).answer is Answer.UNKNOWN


def test_its_first_line_is_the_detail_in_printable_text(database: Path) -> None:
    text = r"printf 'container \033[31mred\nmore\n'; exit 1"
    evidence = ask(probe_of(database.parent, script(database.parent, text)), database)
    assert evidence.detail.endswith(r"container \x1b[31mred")


def test_fields_are_arguments_and_no_shell_sees_them(database: Path) -> None:
    program = script(database.parent, f'printf "%s|" "$@" > {database.parent}/arguments')
    probe = probe_of(database.parent, program, "{session}", "--of={session}")
    ask(probe, database, "$(touch x); *")
    assert (database.parent / "arguments").read_text() == "$(touch x); *|--of=$(touch x); *|"


def test_it_is_told_the_database_and_little_else(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_OURS", "1")
    ask(probe_of(database.parent, script(database.parent, f"env > {database.parent}/environment")), database)
    environment = (database.parent / "environment").read_text()
    assert f"JOURNAL_WATCHER_DATABASE={database}\n" in environment
    assert "A_SECRET_OF_OURS" not in environment


def test_it_runs_in_the_directory_of_the_settings(database: Path) -> None:
    ask(probe_of(database.parent, script(database.parent, "pwd > where")), database)
    assert (database.parent / "where").read_text().strip() == str(database.parent)


def test_it_inherits_nothing_that_is_open(database: Path) -> None:
    with open(database.parent / "ours", "w") as ours:
        os.set_inheritable(ours.fileno(), True)
        ask(probe_of(database.parent, script(database.parent, f"ls -l /proc/$$/fd > {database.parent}/open")), database)
    listed = (database.parent / "open").read_text()
    assert "/dev/null" in listed
    assert "ours" not in listed


def test_a_hanging_command_is_killed_with_its_children_at_the_time_out(database: Path) -> None:
    text = f"sleep 100 & echo $! > {database.parent}/child; sleep 100"
    probe = probe_of(database.parent, script(database.parent, text), timeout=3)
    began = time.monotonic()
    evidence = ask(probe, database)
    assert time.monotonic() - began < 50
    assert evidence.answer is Answer.UNKNOWN
    assert "3 s" in evidence.detail
    child = int((database.parent / "child").read_text())
    until(lambda: is_gone(child), "the child of the command is killed", DEADLINE_S)


def test_a_job_in_a_process_group_of_its_own_is_killed_too(database: Path) -> None:
    text = f"set -m; sleep 100 & echo $! > {database.parent}/child; wait"
    ask(probe_of(database.parent, script(database.parent, text), timeout=3), database)
    child = int((database.parent / "child").read_text())
    until(lambda: is_gone(child), "the job of the command is killed", DEADLINE_S)


def test_a_child_with_a_session_of_its_own_lives_on_as_the_readme_says(database: Path) -> None:
    text = f"setsid sh -c 'echo $$ > {database.parent}/child; exec sleep 100' & sleep 100"
    ask(probe_of(database.parent, script(database.parent, text), timeout=3), database)
    child = int((database.parent / "child").read_text())
    try:
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_holds_the_output_open_is_not_waited_for(database: Path) -> None:
    began = time.monotonic()
    program = script(database.parent, "sleep 100 & echo gone; exit 1")
    evidence = ask(probe_of(database.parent, program, timeout=60), database)
    assert evidence.answer is Answer.EXITED
    assert evidence.detail.endswith("gone")
    assert time.monotonic() - began < 50


def test_a_flood_of_output_is_bounded_and_blocks_nobody(database: Path) -> None:
    text = "head -c 20000000 /dev/zero | tr '\\0' x; exit 1"
    evidence = ask(probe_of(database.parent, script(database.parent, text)), database)
    assert evidence.answer is Answer.EXITED
    assert len(evidence.detail) < 1000


def test_it_runs_once_a_second_for_each_database(database: Path) -> None:
    probe = probe_of(database.parent, counting(database.parent, 1))
    other = database.parent / "inbound.db"
    other.write_bytes(b"")
    began = time.monotonic()
    answers = [ask(probe, each).answer for each in (database, other) * 20]
    assert set(answers) == {Answer.EXITED}
    assert runs(database.parent) <= 2 * (1 + int(time.monotonic() - began))


def test_a_fresh_question_does_not_take_an_old_exited_for_an_answer(database: Path) -> None:
    probe = probe_of(database.parent, counting(database.parent, 1))
    began = time.monotonic()
    ask(probe, database)
    assert ask(probe, database, fresh=True).answer is Answer.EXITED
    assert runs(database.parent) == 2
    assert time.monotonic() - began >= 1


def test_a_fresh_question_takes_an_answer_that_harms_nobody(database: Path) -> None:
    probe = probe_of(database.parent, counting(database.parent, 0))
    ask(probe, database)
    assert ask(probe, database, fresh=True).answer is Answer.ALIVE
    assert runs(database.parent) == 1


def test_questions_at_the_same_moment_share_one_run(database: Path) -> None:
    text = f"echo run >> {database.parent}/runs; sleep 0.3; exit 1"
    probe = probe_of(database.parent, script(database.parent, text))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(probe, database).answer, range(8)))
    assert answers == [Answer.EXITED] * 8
    assert runs(database.parent) == 1


def test_closing_kills_what_runs_within_a_second(database: Path) -> None:
    text = f"echo $$ > {database.parent}/pid; sleep 100; exit 1"
    probe = probe_of(database.parent, script(database.parent, text), timeout=60)
    answers: list[Evidence] = []
    asking = threading.Thread(target=lambda: answers.append(ask(probe, database)))
    asking.start()
    until((database.parent / "pid").exists, "the command runs")
    began = time.monotonic()
    probe.close()
    asking.join(DEADLINE_S)
    assert time.monotonic() - began < 5  # a second, on a machine that has time
    assert answers[0].answer is Answer.UNKNOWN
    assert ask(probe, database).answer is Answer.UNKNOWN


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_a_command_does_not_outlive_us_when_we_are_killed(database: Path) -> None:
    program = script(database.parent, f"echo $$ > {database.parent}/pid; exec sleep 100")
    text = (
        "import sys; from pathlib import Path; from watcher.owner.command import CommandProbe\n"
        "from watcher.settings import CommandSettings; from tests.test_command import ask\n"
        "database = Path(sys.argv[2])\n"
        "ask(CommandProbe(CommandSettings(argv=(sys.argv[1],), timeout=60), database.parent), database)\n"
    )
    with subprocess.Popen([sys.executable, "-c", text, program, str(database)], cwd=Path(__file__).parent.parent) as us:
        written = database.parent / "pid"
        until(lambda: written.exists() and written.read_text().strip(), "the command runs")
        us.send_signal(signal.SIGKILL)
    command = int(written.read_text())
    until(lambda: is_gone(command), "the command is killed with us", 5)
