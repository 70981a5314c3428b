"""Followed as a new user would on a clean machine: installed, started by a real systemd, scraped, broken on purpose.

The machine is a small Debian in a container of the tests' engine. `tests/systemd_root DIR` makes it, and
`JW_TEST_SYSTEMD=DIR` names it; without that these tests skip. The package comes from this working tree, as wheels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.engines import private_engine
from tests.test_operation import HUNG
from tests.writers import crash, make_database

SOURCE = Path(__file__).parent.parent
DEADLINE_S = 60.0
PYTHON = "3.11"  # of the Debian

pytestmark = [
    pytest.mark.skipif(not os.environ.get("JW_TEST_SYSTEMD"), reason="JW_TEST_SYSTEMD names no root with systemd"),
    pytest.mark.timeout(300),
]

CRASH = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size = 4")
c.execute("CREATE TABLE IF NOT EXISTS t (body BLOB)")
c.execute("BEGIN")
c.executemany("INSERT INTO t VALUES (zeroblob(900))", [()] * 500)
c.execute("COMMIT")
c.execute("BEGIN")
c.execute("UPDATE t SET body = randomblob(900)")
os.kill(os.getpid(), signal.SIGKILL)
"""
MULTIPLY = """
import os, shutil, sys
for number in range(150):
    os.mkdir(f"{os.path.dirname(sys.argv[1])}/{number}")
    for end in ("", "-journal"):
        shutil.copy(sys.argv[1] + end, f"{os.path.dirname(sys.argv[1])}/{number}/outbound.db{end}")
"""
"""So many crashed sessions that processes beside the service recover them."""
SETTINGS = """
tree: {root: ./data, layout: "{session}"}
metrics: {listen: "127.0.0.1:9464"}
watch: {sweep_interval: 1s}
"""
HOME = "/srv/nano claw"


@dataclass
class Machine:
    """A machine that runs; commands in it as root."""

    docker: list[str]
    name: str

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        done = subprocess.run(
            [*self.docker, "exec", "-i", self.name, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def python(self, program: str, *arguments: str, check: bool = True, user: str = "root") -> str:
        return self.run("runuser", "-u", user, "--", "python3", "-", *arguments, check=check, stdin=program)

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f"cat > '{path}'", stdin=text)

    def shows(self, what: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "jw", "-P", what).strip()

    def journal(self) -> str:
        return self.run("journalctl", "-u", "jw", "--no-pager", "-o", "cat")

    def crash(self, session: str) -> None:
        """A writer of the tree's owner is killed in a transaction."""
        self.run("install", "-d", "-o", "nanoclaw", f"{HOME}/data/{session}")
        self.python(CRASH, f"{HOME}/data/{session}/outbound.db", check=False, user="nanoclaw")

    def ask(self, path: str) -> str:
        """By HTTP: the status, and what is said."""
        asking = (
            "import sys, urllib.request as u, urllib.error\n"
            "try: a = u.urlopen('http://127.0.0.1:9464' + sys.argv[1], timeout=10)\n"
            "except urllib.error.HTTPError as error: a = error\n"
            "print(a.status, a.read().decode())\n"
        )
        return self.python(asking, path)

    def waits(self, what: Callable[[], object]) -> float:
        """Wait until it is true; seconds that it took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < DEADLINE_S, self.run("systemctl", "status", "jw", check=False)
            time.sleep(0.1)
        return time.monotonic() - began

    def drops_in(self, text: str) -> None:
        """Change the unit, and start it anew; whether it starts, is the test's to see."""
        self.run("mkdir", "-p", "/etc/systemd/system/jw.service.d")
        self.write("/etc/systemd/system/jw.service.d/test.conf", f"[Service]\n{text}\n")
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", "jw", check=False)


@pytest.fixture(scope="module")
def docker() -> Iterator[list[str]]:
    """The command, for an engine of this module's own: other tests hang and restart theirs."""
    with private_engine("docker") as address:
        yield ["docker", "--host", address]


@pytest.fixture(scope="module")
def image(docker: list[str]) -> Iterator[str]:
    """The Debian, as an image."""
    root = os.environ["JW_TEST_SYSTEMD"]
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    made = subprocess.run(
        [*docker, "import", "-", "localhost/jw-systemd"], stdin=tar.stdout, capture_output=True, text=True, check=True
    )
    assert tar.wait() == 0
    yield made.stdout.strip()
    subprocess.run([*docker, "rmi", "-f", "localhost/jw-systemd"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this tree, and all that it needs, for the Debian's Python; and the tree they came from."""
    made = tmp_path_factory.mktemp("wheels")
    source = made / "source"
    shutil.copytree(SOURCE / "watcher", source / "watcher", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", made / "wheels", source], check=True, timeout=120)
    (package,) = (made / "wheels").glob("journal_watcher-*.whl")
    fetched = os.environ.get("JW_TEST_WHEELS")
    if fetched and sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        shutil.copytree(fetched, made / "wheels", dirs_exist_ok=True)
    else:
        fetch = [*pip, "download", "-d", str(made / "wheels"), "--only-binary", ":all:", "--python-version", PYTHON]
        subprocess.run([*fetch, str(package), "setuptools>=77"], check=True, timeout=240)
    shutil.rmtree(source / "build", ignore_errors=True)
    return made


@pytest.fixture(scope="module")
def machine(docker: list[str], image: str, wheels: Path) -> Iterator[Machine]:
    """A machine on which the README was followed."""
    name = f"jw-systemd-{os.getpid()}"
    options = ["--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined"]
    options += ["--network", "none", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", "-t"]
    options += ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", f"{wheels}:/offline:ro", "-e", "container=docker"]
    started = [*docker, "run", "-d", "--name", name, *options, image, "/lib/systemd/systemd"]
    subprocess.run(started, check=True, capture_output=True, timeout=60)
    made = Machine(docker, name)
    try:
        made.waits(lambda: "running" in made.run("systemctl", "is-system-running", check=False))
        made.run("useradd", "-m", "nanoclaw")
        made.run("python3", "-m", "venv", "/opt/jw")
        made.run("/opt/jw/bin/pip", "install", "-q", "--no-index", "--find-links", "/offline/wheels", "journal-watcher")
        made.run("install", "-d", "-o", "nanoclaw", HOME, f"{HOME}/data")
        made.write(f"{HOME}/settings.yaml", SETTINGS)
        unit = made.run("/opt/jw/bin/journal-watcher", "unit", "-c", f"{HOME}/settings.yaml")
        made.write("/etc/systemd/system/jw.service", unit)
        yield made
    finally:
        subprocess.run([*docker, "rm", "-f", name], capture_output=True, check=False, timeout=60)


def test_a_new_user_starts_it_scrapes_it_and_sees_a_recovery(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "verify", "/etc/systemd/system/jw.service") == ""
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "jw")
    assert machine.shows("ActiveState") == "active"
    machine.waits(lambda: machine.shows("StatusText").startswith(f"watching 1 directory of {HOME}/data: 0 hot"))
    assert machine.shows("User") == "nanoclaw"
    machine.crash("s1")
    machine.waits(lambda: "recovered         s1/outbound.db" in machine.journal())
    machine.waits(lambda: machine.shows("StatusText").endswith("1 recovered"))
    metrics = machine.ask("/metrics")
    assert 'journal_watcher_recoveries_total{outcome="recovered"} 1.0' in metrics
    assert 'journal_watcher_session_recoveries_total{outcome="recovered",session="s1"} 1.0' in metrics.replace(
        'session="s1",outcome="recovered"', 'outcome="recovered",session="s1"'
    )
    assert machine.ask("/healthz") == "200 ok\n\n"
    told = machine.run("journalctl", "-u", "jw", "--no-pager", "-o", "json", "-p", "warning")
    assert "locks_only" in told  # by the priority that its line has
    assert "recovered" not in told
    assert machine.run("/opt/jw/bin/journal-watcher", "history", "-c", f"{HOME}/settings.yaml").count("recovered") == 1


def test_it_reloads(machine: Machine) -> None:
    machine.write(f"{HOME}/settings.yaml", f"{SETTINGS}history: {{keep: 5}}\n")
    machine.run("systemctl", "reload", "jw")
    machine.waits(lambda: "new settings of history hold" in machine.journal())
    assert machine.shows("ActiveState") == "active"


def test_a_root_that_is_made_anew_is_watched_and_written_again(machine: Machine) -> None:
    """What a service may write is settled by systemd when it starts: one that finds itself shut out starts anew."""
    machine.run("rm", "-rf", f"{HOME}/data")
    machine.waits(lambda: machine.shows("StatusText") == f"waiting for {HOME}/data")
    assert machine.ask("/healthz") == f"503 waiting for {HOME}/data\n\n"
    assert machine.ask("/livez") == "200 ok\n\n"
    machine.run("install", "-d", "-o", "nanoclaw", f"{HOME}/data")
    machine.waits(lambda: machine.shows("NRestarts") == "1" and machine.shows("ActiveState") == "active")
    machine.crash("s2")
    machine.waits(lambda: "recovered         s2/outbound.db" in machine.journal())


def test_a_stopped_process_is_noticed_by_the_watchdog(machine: Machine) -> None:
    machine.drops_in("WatchdogSec=2\nRestartSec=100ms")
    time.sleep(4.5)  # longer than the time-out: it is kept quiet
    pid = machine.shows("MainPID")
    assert machine.shows("NRestarts") == "0"
    machine.run("sh", "-c", f"kill -STOP {pid}")
    took_s = machine.waits(lambda: machine.shows("MainPID") not in {pid, "0"})
    assert took_s < 20
    assert "Watchdog timeout (limit 2s)" in machine.run("journalctl", "--no-pager", "-o", "cat")


def test_a_hung_reconciler_is_noticed_and_leaves_its_stacks_behind(machine: Machine) -> None:
    machine.write("/hung.py", HUNG)
    command = f'ExecStart=\nExecStart=:/opt/jw/bin/python3 /hung.py run -c "{HOME}/settings.yaml"'
    machine.drops_in(f"WatchdogSec=2\nRestartSec=100ms\n{command}")
    pid = machine.shows("MainPID")
    for number in range(4):
        machine.run("install", "-d", "-o", "nanoclaw", f"{HOME}/data/h{number}")
        machine.run("touch", f"{HOME}/data/h{number}/hang.db", f"{HOME}/data/h{number}/hang.db-journal")
    machine.waits(lambda: machine.shows("MainPID") not in {pid, "0"})
    machine.run("sh", "-c", f"rm -rf '{HOME}'/data/h?")
    told = machine.journal()
    assert "the reconciler does not turn: worker-" in told
    assert re.search(r'File "/hung.py", line \d+ in hang', told)


def test_settings_that_are_wrong_are_not_tried_again(machine: Machine) -> None:
    machine.write(f"{HOME}/settings.yaml", "nonsense: 1\n")
    machine.drops_in("RestartSec=100ms")
    machine.waits(lambda: machine.shows("ActiveState") == "failed")
    assert machine.shows("ExecMainStatus") == "2"
    assert machine.shows("NRestarts") == "0"
    machine.write(f"{HOME}/settings.yaml", SETTINGS)
    machine.run("systemctl", "restart", "jw")


@pytest.mark.parametrize("owner", ["nanoclaw", "root"])
def test_what_it_does_is_possible_in_its_sandbox(machine: Machine, owner: str) -> None:
    """A hook, the command probe, a pid file of another user's process, verification in a child, a log file."""
    home = f"/srv/all of {owner}"
    machine.run("install", "-d", "-o", owner, home, f"{home}/data")
    settings = {
        "tree": {"root": "./data", "layout": "{session}"},
        "owner": {"command": {"argv": ["sh", "-c", "test -e alive"]}, "pid_file": ".writer.pid"},
        "recovery": {"verify": "quick"},
        "hooks": {"recovered": ["sh", "-c", "cat > .journal-watcher/told"]},
        "log": {"file": "./log/watcher.log", "level": "DEBUG"},
    }
    machine.write(f"{home}/settings.yaml", yaml.safe_dump(settings))
    unit = machine.run("/opt/jw/bin/journal-watcher", "unit", "-c", f"{home}/settings.yaml")
    assert f"User={owner}\n" in unit
    machine.write("/etc/systemd/system/all.service", unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "all")
    try:
        database = f"{home}/data/s/outbound.db"
        machine.run("install", "-d", "-o", owner, f"{home}/data/s")
        machine.run("touch", f"{home}/alive")
        machine.write(f"{home}/data/s/.writer.pid", "1")
        machine.python(CRASH, database, check=False, user=owner)

        def logged(words: str) -> bool:
            return words in machine.run("cat", f"{home}/log/watcher.log")

        machine.waits(lambda: logged("names pid 1, which runs") or logged("owner_alive"))
        machine.run("rm", f"{home}/data/s/.writer.pid", f"{home}/alive")
        machine.waits(lambda: logged(" recovered "))
        machine.waits(
            lambda: '"outcome": "recovered"' in machine.run("cat", f"{home}/.journal-watcher/told", check=False)
        )
        time.sleep(1)  # for a verification that fails to say so
        assert not logged("verify_failed")
        assert not logged("hook_failed")
        assert not logged("snapshot_failed")
    finally:
        machine.run("systemctl", "stop", "all")


def test_the_tightest_unit_lets_it_do_its_job(machine: Machine) -> None:
    """Nothing but a tree: no network, no program of the user's, no privileged call."""
    home = "/srv/tight"
    machine.run("install", "-d", "-o", "nanoclaw", home, f"{home}/data")
    machine.write(f"{home}/settings.yaml", "tree: {root: ./data}\n")
    unit = machine.run("/opt/jw/bin/journal-watcher", "unit", "-c", f"{home}/settings.yaml")
    assert "PrivateNetwork=yes" in unit
    machine.write("/etc/systemd/system/tight.service", unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "tight")
    machine.python(CRASH, f"{home}/data/outbound.db", check=False, user="nanoclaw")
    machine.waits(lambda: " recovered " in machine.run("journalctl", "-u", "tight", "--no-pager", "-o", "cat"))
    machine.run("systemctl", "stop", "tight")
    machine.python(CRASH, f"{home}/data/many.db", check=False, user="nanoclaw")
    machine.python(MULTIPLY, f"{home}/data/many.db", user="nanoclaw")
    machine.run("systemctl", "start", "tight")
    machine.waits(lambda: not machine.run("find", f"{home}/data", "-name", "*-journal"))
    machine.run("systemctl", "stop", "tight")
    told = machine.run("journalctl", "-u", "tight", "--no-pager", "-o", "cat", "-p", "warning")
    assert "locks_only" in told
    assert told.count("\n") == 2, "nothing else, in neither run"


def test_it_stops_when_it_is_told_to(machine: Machine) -> None:
    machine.run("systemctl", "stop", "jw")
    assert machine.shows("ActiveState") == "inactive"
    assert machine.shows("Result") == "success"


def test_the_image_is_built_and_does_its_work_as_compose_would_run_it(
    docker: list[str], image: str, wheels: Path, tmp_path: Path
) -> None:
    shutil.copytree(wheels / "source", tmp_path / "source")
    shutil.copytree(wheels / "wheels", tmp_path / "source" / "wheels")
    arguments = ["--build-arg", f"BASE={image}", "--build-arg", "PIP_OPTIONS=--no-index --find-links wheels"]
    source = tmp_path / "source"
    file = source / "watcher" / "units" / "templates" / "Containerfile"
    subprocess.run(
        [
            *docker,
            "build",
            "-q",
            "--network",
            "none",
            "-t",
            "localhost/jw",
            "-f",
            file,
            *arguments,
            tmp_path / "source",
        ],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        check=True,
        capture_output=True,
        timeout=240,
    )
    (tmp_path / "x" / "data").mkdir(parents=True)
    (tmp_path / "x" / ".journal-watcher").mkdir(mode=0o700)
    settings = tmp_path / "x" / "settings.yaml"
    settings.write_text("tree: {root: ./data}\n")
    told = subprocess.run(
        [sys.executable, "-m", "watcher", "unit", "--for", "compose", "-c", settings],
        capture_output=True,
        text=True,
        check=True,
    )
    service = yaml.safe_load(told.stdout)["services"]["journal-watcher"]
    name = f"jw-image-{os.getpid()}"
    options = ["--name", name, "--pid", service["pid"], "--cgroupns", service["cgroup"], "--user", service["user"]]
    options += ["--network", service["network_mode"], "--read-only", "--tmpfs", *service["tmpfs"]]
    options += [word for each in service["cap_drop"] for word in ("--cap-drop", each)]
    options += [word for each in service.get("cap_add", ()) for word in ("--cap-add", each)]
    options += [word for each in service["security_opt"] for word in ("--security-opt", each)]
    for each in service["volumes"]:
        readonly = ",readonly" if each.get("read_only") else ""
        options += ["--mount", f"type=bind,source={each['source']},target={each['target']}{readonly}"]
    machine = Machine(docker, name)
    try:
        subprocess.run([*docker, "run", "-d", *options, "localhost/jw", *service["command"]], check=True, timeout=60)
        machine.waits(lambda: machine.run(*service["healthcheck"]["test"][1:], check=False).count("running, pid"))
        database = tmp_path / "x" / "data" / "outbound.db"
        make_database(database)
        crash(database)
        machine.waits(lambda: not Path(f"{database}-journal").exists())
    finally:
        subprocess.run([*docker, "rm", "-f", name], capture_output=True, check=False, timeout=60)
        subprocess.run([*docker, "rmi", "-f", "localhost/jw"], capture_output=True, check=False, timeout=60)
