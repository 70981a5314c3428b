"""The demo: it tells its story where the story comes true, and says what did not where it does not."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import watcher
from tests.pictures.demo import screen
from tests.running import wait_until
from tests.small_disk import small_disk
from tests.terminals import Shown, on_terminal
from watcher.demo import _commits_of, play
from watcher.demo_cast import NotShownError
from watcher.demo_stage import setting
from watcher.owner.locks import writer_of

together = pytest.mark.xdist_group("demo")
"""By one worker, which plays them once."""

DEMO = [sys.executable, "-P", "-m", "watcher", "demo"]


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """TMPDIR of the demo. Whatever comes of it, it leaves no file and no process behind."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    yield directory
    wait_until(lambda: not list(directory.iterdir()))
    wait_until(lambda: not processes_of(directory))


@pytest.fixture
def in_this_process(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR is for `play` in this process, too."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))


def processes_of(directory: Path) -> list[str]:
    """Command lines of processes that have to do with this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(directory) in line:
            found.append(line)
    return found


def environment(temporary: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"HOME", "COLUMNS", "NO_COLOR"}}
    package = str(Path(watcher.__file__).parents[1])
    return {**kept, "TMPDIR": str(temporary), "PYTHONPATH": package, **more}


def started(temporary: Path, **more: str) -> subprocess.Popen[str]:
    """The demo with its output in a pipe."""
    return subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(temporary, **more)
    )


def read_up_to(beginning: str, demo: subprocess.Popen[str]) -> None:
    assert demo.stdout is not None
    assert any(line.startswith(beginning) for line in demo.stdout)


# --- a story that comes true ---


@dataclass(frozen=True)
class Played:
    """Three demos at once: what was written to a pipe, in a hostile environment, to a terminal of 44 columns, and to
    one of 120 whose user wants no colours."""

    status: int
    told: str
    errors: str
    narrow: Shown
    colourless: Shown


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Played:
    elsewhere, temporary = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("tmp")
    (elsewhere / "watcher").mkdir()
    (elsewhere / "watcher" / "__init__.py").write_text("raise SystemExit('another package')")
    hostile = environment(temporary, JOURNAL_WATCHER__TREE__ROOT="/nowhere", JOURNAL_WATCHER_CONFIG="/no/file")
    ours = environment(temporary, TERM="xterm-256color")
    with (
        subprocess.Popen(
            DEMO, cwd=elsewhere, env=hostile, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as piped,
        ThreadPoolExecutor() as terminals,
    ):
        narrow = terminals.submit(on_terminal, DEMO, columns=44, environ=ours)
        colourless = terminals.submit(on_terminal, DEMO, columns=120, environ={**ours, "NO_COLOR": "1"})
        told, errors = piped.communicate()
    played = Played(piped.returncode, told, errors, narrow.result(), colourless.result())
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)
    return played


@together
def test_the_demo_tells_its_story(demos: Played) -> None:
    assert (demos.status, demos.errors) == (0, ""), demos.told
    told = " ".join(demos.told.split())
    killed = re.findall(r"SIGKILL to pid (\d+)", told)
    assert len(killed) >= 2
    for pid in killed:
        assert f".writer.pid names pid {pid}, which has exited" in told
    crash = (
        r" 0\.0 ms kill SIGKILL to pid \d+ .* ms service found: hot journal of \d+ bytes .* its owner has exited: .*"
        r" ms service recovered: \d+ pages rolled back in [\d.]+ ms"
    )
    for part in (
        crash,
        r" ms host 776 attempt to write a readonly database| So was this one",
        r" ms host reads again: [1-9]\d+ commits, and nothing of the interrupted one",
        r" [1-9]\d* polls? failed in between| So was this one",
        r" pid_file alive \.writer\.pid names pid \d+, which runs decision wait ",
        r" its files are the same, byte for byte",
        r" [1-9]\d* commits, 0 failed, 0 lost",
    ):
        assert re.search(part, told), f"{part} is not in:\n{demos.told}"


@together
def test_it_ends_with_its_numbers_and_what_to_do_next(demos: Played) -> None:
    numbers, look_around, what_next = demos.told.splitlines()[-3:]
    assert re.fullmatch(
        r"Kill to readable: [\d.]+ ms; \d+ polls? failed; [1-9]\d* commits beside it, 0 lost\.", numbers
    )
    assert look_around.endswith("journal-watcher demo --page")
    assert "settings.yaml" in what_next
    assert "journal-watcher check" in what_next


@together
def test_in_a_pipe_it_is_plain_text_of_80_columns(demos: Played) -> None:
    for line in demos.told.splitlines():
        assert line == line.rstrip()
        assert len(line) <= 80
        assert line.isprintable()


@together
def test_it_fits_a_narrow_terminal_in_colour(demos: Played) -> None:
    written = demos.narrow.raw
    assert demos.narrow.status == 0, written
    assert "\x1b[1;31m" in written
    assert "\x1b[1;32m" in written
    assert written.count("\x1b[?25h") == written.count("\x1b[?25l") > 0, "the cursor is not shown again"
    assert max(map(len, demos.narrow.lines)) <= 44


@together
def test_on_a_terminal_its_steps_tick_and_the_polls_state_flips(demos: Played) -> None:
    shown = demos.colourless.text
    assert demos.colourless.status == 0, shown
    # Of the one that is left alone for seconds; of the killed ones a frame with it may be left out by a busy machine.
    assert "✗ the host's poll: 776 attempt to write a readonly database" in shown
    at = 0
    for part in (
        "● the host's poll reads",
        "✓ the host's poll reads again",
        "✓ One of them is killed in the middle of a transaction",
        "✓ Another one looks just as dead, but lives, and is left alone",
        "✓ The others never noticed",
    ):
        at = shown.find(part, at)
        assert at >= 0, f"{part} is not in:\n{demos.colourless.lines}"
    assert re.search(r"[\d.]+ ms after the kill \(\d+ times slower\)", shown)


@together
def test_what_a_terminal_is_left_with_is_what_a_pipe_gets(demos: Played) -> None:
    kinds = {"✓": "step", "journal-watcher": "title", "Kill": "numbers", "Next:": "next"}
    left = [kinds.get(line.split(" ")[0], "") for line in demos.colourless.lines if line.strip()]
    assert [each for each in left if each] == ["title", *["step"] * 4, "numbers", "next"]


@together
def test_no_color_is_heard(demos: Played) -> None:
    assert not re.findall(r"\x1b\[[\d;]*m", demos.colourless.raw)


# --- one that does not ---


def fake(tmp_path: Path, script: str) -> list[str]:
    """A `journal-watcher` that is another program. It knows `tell(event, session)`, `begin()`, which waits for commits
    and tells what the demo waits for, and `real()`, which goes on as the real one."""
    file = tmp_path / "fake.py"
    file.write_text(
        "import datetime, json, os, pathlib, sqlite3, sys, time, yaml\n"
        "root = pathlib.Path(yaml.safe_load(open(sys.argv[sys.argv.index('-c') + 1]))['tree']['root'])\n"
        "def tell(event, session, **more):\n"
        "    time = datetime.datetime.now(datetime.UTC).isoformat()\n"
        "    database = str(root / 'agents' / session / 'outbound.db')\n"
        "    told = {'time': time, 'event': event, 'message': f'{session}: {event}', 'database': database, **more}\n"
        "    print(json.dumps(told), file=sys.stderr, flush=True)\n"
        "def commits(session):\n"
        "    connection = sqlite3.connect(root / 'agents' / session / 'outbound.db', timeout=10)\n"
        "    rows = connection.execute('SELECT count(*) FROM work').fetchone()[0]\n"
        "    connection.close()\n"
        "    return rows\n"
        "def begin():\n"
        "    while commits('killed') < 25:\n"
        "        time.sleep(0.01)\n"
        "    tell('sweep', 'all'), tell('owner_alive', 'unseen')\n"
        "def real():\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'watcher', *sys.argv[1:]])\n"
        f"{script}\n"
    )
    return [sys.executable, str(file)]


def played(command: list[str], capfd: pytest.CaptureFixture[str], deadline_s: float = 40, *, page: bool = False) -> str:
    """Play with another `journal-watcher`, to no good end; what is told, in one line."""
    assert play(command, deadline_s, page=page) == 1
    told = " ".join(capfd.readouterr().out.split())
    assert "The demo has failed, for this did not come true:" in told
    return told.partition("did not come true: ")[2]


@pytest.mark.usefixtures("in_this_process")
def test_a_service_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = played(fake(tmp_path, "sys.exit('no such luck')"), capfd)
    assert told == "the service tells sweep (it has ended with status 1; its last words: no such luck)"


@pytest.mark.usefixtures("in_this_process")
def test_a_program_that_is_not_there_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert "No such file or directory: '/no/such/program'" in played(["/no/such/program"], capfd)


@pytest.mark.usefixtures("in_this_process")
def test_a_service_that_says_nothing_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = played(fake(tmp_path, "time.sleep(60)"), capfd, deadline_s=1)
    assert told == "the service tells sweep (not within 1 s; it has said nothing)"


@pytest.mark.usefixtures("in_this_process")
def test_a_service_that_only_says_that_it_has_recovered_is_found_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lies = """
begin()
while True:
    time.sleep(0.02), tell("owner_exited", "killed", evidence=[]), tell("recovered", "killed", pages=1)
"""
    told = played(fake(tmp_path, lies), capfd, deadline_s=8)
    assert told == "the database of killed can be read again (not within 8 s)"


@pytest.mark.usefixtures("in_this_process")
def test_a_service_that_deletes_the_journal_is_found_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    deletes = """
begin()
killed = root / "agents" / "killed"
pid = int((killed / ".writer.pid").read_text())
while "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
    time.sleep(0.001)
(killed / "outbound.db-journal").unlink()
tell("owner_exited", "killed", evidence=[]), tell("recovered", "killed", pages=1)
time.sleep(60)
"""
    told = played(fake(tmp_path, deletes), capfd, deadline_s=20)
    assert "killed" in told
    assert "holds what was committed, and nothing else" in told or "can be read again" in told


@pytest.mark.usefixtures("in_this_process")
def test_a_service_that_recovers_without_asking_is_found_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rash = """
if sys.argv[1] == "run":
    commits("unseen")
    begin()
    while True:
        for session in [each.name for each in (root / "agents").iterdir() if each.name.startswith("killed")]:
            try:
                commits(session)
            except sqlite3.Error:  # it has just begun
                continue
            tell("owner_exited", session, evidence=[]), tell("recovered", session, pages=1)
        time.sleep(0.05)
real()
"""
    told = played(fake(tmp_path, rash), capfd, deadline_s=8)
    assert "unseen" in told


@pytest.mark.usefixtures("in_this_process")
def test_an_explanation_that_is_none_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mute = "sys.exit('cannot say') if sys.argv[1] == 'explain' else real()"
    told = played(fake(tmp_path, mute), capfd)
    assert told == "journal-watcher explain answers (cannot say)"


@pytest.mark.usefixtures("in_this_process")
def test_a_commit_of_a_neighbour_that_is_lost_is_found_out() -> None:
    with setting([]) as stage:
        neighbour = stage.writer("live", commits_per_s=500)
        wait_until(lambda: neighbour.database.exists() and not neighbour.journal.exists())

        def steal() -> bool:
            try:
                with closing(sqlite3.connect(neighbour.database)) as connection, connection:
                    return connection.execute("DELETE FROM work WHERE step = 2").rowcount == 1
            except sqlite3.OperationalError:  # its table is not there yet
                return False

        wait_until(steal)
        with pytest.raises(NotShownError, match=r"no commit of live is lost \(\d+ were acknowledged, \d+ are there\)"):
            _commits_of(neighbour)


@pytest.mark.usefixtures("in_this_process")
def test_a_commit_of_a_neighbour_that_fails_is_found_out() -> None:
    with setting([]) as stage:
        neighbour = stage.writer("live", commits_per_s=500)
        wait_until(lambda: neighbour.database.exists() and not neighbour.journal.exists())

        def refuse() -> bool:
            try:
                with closing(sqlite3.connect(neighbour.database)) as connection, connection:
                    connection.execute(
                        "CREATE TRIGGER refuse BEFORE INSERT ON work BEGIN SELECT raise(ABORT, 'no'); END"
                    )
            except sqlite3.OperationalError:  # its table is not there yet
                return False
            return True

        wait_until(refuse)
        with neighbour.database.open("rb") as file:
            wait_until(lambda: writer_of(file.fileno()) == neighbour.pid)  # it tries
            wait_until(lambda: writer_of(file.fileno()) is None)
        with pytest.raises(NotShownError, match="no commit of live fails"):
            _commits_of(neighbour)


@pytest.mark.usefixtures("in_this_process")
def test_a_full_disk_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        told = played([sys.executable, "-m", "watcher"], capfd)
        assert told.startswith("the writer of unseen goes on (")
        assert "full" in told or "No space left" in told
        assert not list(disk.iterdir())


# --- one that is cut short ---


def test_a_demo_that_is_interrupted_clears_up(temporary: Path) -> None:
    def interrupted_by(number: int) -> tuple[int, str]:
        with started(temporary) as demo:
            read_up_to("2.", demo)
            demo.send_signal(number)
            demo.send_signal(number)
            assert demo.stdout is not None
            rest = demo.stdout.read()
            return demo.wait(), rest

    with ThreadPoolExecutor() as at_once:
        for status, rest in at_once.map(interrupted_by, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            assert status == 1
            assert "Interrupted." in rest
            assert "Traceback" not in rest
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


def test_one_that_is_interrupted_on_a_terminal_leaves_it_in_order(temporary: Path) -> None:
    environ = environment(temporary, TERM="xterm-256color")
    shown = on_terminal(DEMO, columns=100, environ=environ, interrupted_at="the host's poll reads")
    left = "\n".join(screen(shown.raw))
    assert "Interrupted. Its processes are ended, and its files removed." in left
    assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", left), left
    assert left.count("✗") == 1
    assert shown.raw.count("\x1b[?25h") == shown.raw.count("\x1b[?25l"), "the cursor is not shown again"


def test_of_a_demo_that_is_killed_nothing_is_left(temporary: Path) -> None:
    with started(temporary) as demo:
        read_up_to("2.", demo)
        assert processes_of(temporary)
        demo.kill()


def test_a_demo_whose_reader_goes_away_clears_up(temporary: Path) -> None:
    with started(temporary) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.stdout.close()
    assert demo.returncode == 1
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


# --- one with its page ---


def with_page(temporary: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, "--page"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(temporary), "DISPLAY": "", "WAYLAND_DISPLAY": "", **more},
    )


def told_until(beginning: str, demo: subprocess.Popen[str]) -> str:
    """The line that begins so: a pattern."""
    assert demo.stdout is not None
    return next(line for line in demo.stdout if re.match(rf" *{beginning}", line))


def journals_of(temporary: Path) -> object:
    """What the demo's service counts just now."""
    (settings,) = temporary.glob("*/settings.yaml")
    status = [sys.executable, "-m", "watcher", "status", "--json", "-c", str(settings)]
    return json.loads(subprocess.run(status, capture_output=True, check=True).stdout)["journals"]


def test_the_page_is_there_and_crashes_go_on_until_it_is_interrupted(temporary: Path) -> None:
    with with_page(temporary) as demo:
        url = told_until("The page: ", demo).split()[2]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.headers.get_content_type() == "text/html"
        told_until("5. Every 3 s another one is killed", demo)
        for number in (1, 2):
            assert re.search(rf"agent-{number} killed; readable in [\d.]+ ms", told_until(r"\d\d:\d\d:\d\d", demo))
        wait_until(lambda: journals_of(temporary) == {"hot": 2, "waiting": 1, "held": 1, "refused": 1})
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGTERM)
        assert demo.stdout is not None
        rest = demo.stdout.read()
    assert demo.returncode == 0, rest
    assert "more crashes, each recovered. Its processes are ended, and its files removed." in rest


def test_a_browser_is_opened_where_there_is_a_screen(temporary: Path, tmp_path: Path) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    with with_page(temporary, DISPLAY=":99", BROWSER=str(browser)) as demo:
        told = told_until("The page: ", demo)
        assert told.rstrip().endswith("(in your browser)")
        wait_until(seen.exists)
        assert wait_until(seen.read_text).strip() == told.split()[2]
        demo.send_signal(signal.SIGTERM)
        assert demo.stdout is not None
        assert "Interrupted." in demo.stdout.read()  # its story was not over
    assert demo.returncode == 1


@pytest.mark.usefixtures("in_this_process")
def test_a_page_that_does_not_come_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    without = "os.environ['JOURNAL_WATCHER__METRICS__LISTEN'] = 'null'\nreal()"
    told = played(fake(tmp_path, without), capfd, deadline_s=8, page=True)
    assert re.match(r"http://127\.0\.0\.1:\d+/ shows the page \(.*Connection refused", told)
