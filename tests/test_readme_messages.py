"""Troubleshooting, as it happens: each message that the README quotes is provoked, and has to be the one that comes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import AS_NOBODY
from tests.pairs import leasing, super_trailer
from tests.readme import section
from tests.running import DEADLINE_S, Runner, wait_until
from tests.small_disk import fill, small_disk
from tests.transcripts import pattern_of
from tests.writers import CrashedPair, journal_of, make_database, reading, writing

NOBODY = 65534
NO_MESSAGES = ("journal-watcher ", "sqlite3 ", "echo ", "sysctl ", "required: ")


@dataclass(frozen=True)
class Scene:
    """Where it happens: a tree and its settings, in a directory that any user may reach."""

    runner: Runner
    crashed: CrashedPair

    def crash(self, name: str = "x.db") -> Path:
        return self.crashed.put(self.runner.root / name)

    def configure(self, **sections: object) -> None:
        """Patience is short here."""
        watch = {"hold_warning": "300ms", "sweep_interval": "100ms"}
        self.runner.configure(**{"watch": watch, **sections})

    def said(self, event: str, **more: object) -> str:
        """What the service says of an event, once it is started."""
        return str(self.runner.start(wait=None, **more).wait_for(event)["message"])  # type: ignore[arg-type]

    def prints(self, *arguments: str | Path, **more: object) -> str:
        done = self.runner.command(*arguments, **more)  # type: ignore[arg-type]
        return done.stdout + done.stderr


Provocation = Callable[[Scene], str]
SCENES: dict[str, tuple[Provocation, tuple[str, ...]]] = {}


def provokes(*quotes: str) -> Callable[[Provocation], Provocation]:
    """It makes the product say what the README quotes; the quotes by their beginnings."""

    def enter(provocation: Provocation) -> Provocation:
        SCENES[provocation.__name__] = (provocation, quotes)
        return provocation

    return enter


def quoted() -> Iterator[str]:
    """The messages in the section on troubleshooting: what stands in backticks and is a sentence, and no command."""
    for each in re.findall(r"`([^`\n]+)`", section("Troubleshooting").replace("\\|", "|")):
        if " " in each and not each.startswith(NO_MESSAGES):
            yield each


@pytest.fixture
def scene(crashed: CrashedPair) -> Iterator[Scene]:
    directory = Path(tempfile.mkdtemp(prefix="scene-"))
    directory.chmod(0o755)
    with closing(Runner(directory)) as runner:
        yield Scene(runner, crashed)
    shutil.rmtree(directory)


def test_each_message_that_is_quoted_is_provoked_here() -> None:
    claimed = [quote for _, quotes in SCENES.values() for quote in quotes]
    for each in quoted():
        assert [quote for quote in claimed if each.startswith(quote)], f"nobody provokes {each!r}"
    for quote in claimed:
        assert [each for each in quoted() if each.startswith(quote)], f"the README no longer quotes {quote!r}"


@pytest.mark.parametrize("name", SCENES)
def test_it_says_what_the_readme_quotes(name: str, scene: Scene) -> None:
    provocation, quotes = SCENES[name]
    told = provocation(scene)
    wanted = [each for each in quoted() if each.startswith(quotes)]
    places = {"/srv/sessions": str(scene.runner.root)}
    for each in wanted:
        assert pattern_of(each, places).search(told), f"{each!r} is not in:\n{told}"


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("wants to be two users")


# --- polls fail, again and again ---


@provokes("attempt to write a readonly")
def a_host_that_polls(scene: Scene) -> str:
    poll = "import sqlite3, sys; sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True).execute('SELECT 1 FROM t')"
    argv = [sys.executable, "-c", poll, str(scene.crash())]
    return subprocess.run(argv, check=False, capture_output=True, text=True).stderr


@provokes("not running")
def nothing_runs(scene: Scene) -> str:
    return scene.prints("status")


@provokes("… outside the tree", "no pattern of", "no directory of this tree")
def the_settings_do_not_cover_it(scene: Scene) -> str:
    scene.configure(tree={"layout": "{session}", "databases": ["*.db"]})
    outside = scene.runner.root.parent / "x.db"
    inside = [scene.crash("s1/x.sqlite"), scene.crash("s1/deep/x.db")]
    return "".join(scene.prints("explain", each) for each in (outside, *inside))


@provokes("pid 14328 holds", "…: its journal has not changed")
def a_writer_that_does_nothing(scene: Scene) -> str:
    scene.configure()
    database = scene.runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        return scene.prints("explain", database) + scene.said("waiting")


@provokes("…: its writer has exited, but")
def a_reader_that_stays(scene: Scene) -> str:
    scene.configure()
    with reading(scene.crash()):
        return scene.said("waiting")


@provokes("…: for 1m nothing could be said")
def a_lease_on_the_journal(scene: Scene) -> str:
    scene.configure()
    with leasing(journal_of(scene.crash())):
        return scene.said("waiting")


@provokes("…: seen hot for", "no probe can tell")
def nobody_can_tell(scene: Scene) -> str:
    scene.configure(owner={"locks": "off"})
    scene.crash()
    return scene.said("held")


@provokes("there is no engine at")
def an_engine_that_is_not_there(scene: Scene) -> str:
    scene.configure(owner={"container": {"engine": "unix:///run/no/such.sock"}})
    return scene.said("engine_lost")


@provokes(
    "…; it is left as it is", "the journal has 2 hard", "there is no database beside", "the file beside the journal"
)
def what_is_not_ours(scene: Scene) -> str:
    two = journal_of(scene.crash("two.db"))
    os.link(two, two.with_name("other"))
    scene.crash("alone.db").unlink()
    scene.crash("diary.db").write_text("Dear diary, today nothing happened at all.")
    service = scene.runner.start()
    return "\n".join(service.wait_for("refused", count=number)["message"] for number in (1, 2, 3))


@provokes("the journal's trailer names", "more than recovery.max_journal_size")
def what_would_do_harm(scene: Scene) -> str:
    scene.runner.configure(recovery={"max_journal_size": "1KiB"})
    large = scene.prints("explain", scene.crash("large.db"))
    with journal_of(scene.crash()).open("ab") as journal:
        journal.write(super_trailer(b"/tmp/x-mj12345678"))
    scene.configure()
    return large + scene.said("refused")


@provokes("…; trying again in", "1 of 1 databases and")
def a_tree_of_somebody_else(scene: Scene) -> str:
    as_root()
    scene.configure()
    database = scene.crash("s1/x.db")
    os.chown(scene.runner.root.parent, NOBODY, NOBODY)
    scene.runner.state.mkdir(mode=0o700)
    os.chown(scene.runner.state, NOBODY, NOBODY)
    os.chown(database, 1000, 1000)
    os.chown(database.parent, 1000, 1000)
    os.chown(journal_of(database), 1000, 1000)
    service = scene.runner.start(argv=AS_NOBODY)
    return "\n".join(service.wait_for(event)["message"] for event in ("not_writable", "recovery_failed"))


@provokes("…: rolled back, and SQLite calls")
def a_database_that_was_damaged(scene: Scene) -> str:
    scene.configure(recovery={"verify": "quick"})
    damaged = bytearray(scene.crashed.database)
    damaged[-1024 * 3 : -1024 * 2] = os.urandom(1024)  # a page that the transaction had not touched
    scene.crash().write_bytes(damaged)
    return scene.said("corrupt")


# --- it does not start ---


@provokes("settings.yaml: there is no such file")
def no_settings(scene: Scene) -> str:
    scene.runner.settings.unlink()
    return scene.prints("run")


@provokes("settings.yaml: tree.rot")
def a_key_that_is_mistyped(scene: Scene) -> str:
    scene.runner.settings.write_text("tree: {rot: x}")
    return scene.prints("check")


@provokes("settings.yaml: state_dir: expected")
def a_state_in_the_tree(scene: Scene) -> str:
    scene.runner.configure(state_dir=str(scene.runner.root / "state"))
    return scene.prints("run")


@provokes("another journal-watcher is running here", "another journal-watcher holds the tree")
def a_second_one(scene: Scene) -> str:
    scene.runner.start()
    told = scene.prints("run")
    scene.runner.configure(state_dir=str(scene.runner.state) + "2")
    return told + scene.prints("run")


@provokes("the state directory …")
def a_state_of_somebody_else(scene: Scene) -> str:
    as_root()
    scene.runner.state.mkdir(mode=0o700)
    os.chown(scene.runner.state, 1000, 1000)
    return scene.prints("run")


@provokes("cannot use … as state directory")
def a_state_that_cannot_be_made(scene: Scene) -> str:
    as_root()
    argv = [*AS_NOBODY, "run", "-c", str(scene.runner.settings)]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60).stderr


# --- it runs, and complains ---


@provokes("only locks tell")
def locks_alone(scene: Scene) -> str:
    return scene.said("locks_only")


@provokes("/srv/sessions: no such file", "not a directory")
def roots_that_are_none(scene: Scene) -> str:
    scene.runner.root.rmdir()
    told = scene.said("root_missing")
    scene.runner.root.write_text("a file")
    scene.runner.configure(state_dir=f"{scene.runner.state}2", tree={"root": str(scene.runner.root)})
    return f"{told}\n{scene.said('root_missing')}"


@provokes("it was removed, moved", "another directory has taken")
def roots_that_go(scene: Scene) -> str:
    as_root()
    scene.configure()
    service = scene.runner.start()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", scene.runner.root], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr!r}")
    try:
        told = service.wait_for("root_missing")["message"]
    finally:
        service.stop()
        subprocess.run(["umount", "--lazy", scene.runner.root], check=True)
    again = scene.runner.start()
    scene.runner.root.rename(scene.runner.root.with_name("moved"))
    return f"{told}\n{again.wait_for('root_missing')['message']}"


@provokes("6 directories are not watched, for the kernel")
def too_few_watches(scene: Scene) -> str:
    unshare = ["unshare", "--user", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    for number in range(9):
        (scene.runner.root / f"s{number}").mkdir()
    limit = 'echo 4 > /proc/sys/user/max_inotify_watches && exec "$0" "$@"'
    return scene.said("watch_limit", argv=(*unshare, "sh", "-c", limit, sys.executable, "-m", "watcher"))


@provokes("1 directory is not watched", "not looked into, for")
def a_directory_that_is_shut(scene: Scene) -> str:
    as_root()
    (scene.runner.root / "lost+found").mkdir(mode=0o700)
    os.chown(scene.runner.root.parent, NOBODY, NOBODY)
    scene.runner.state.mkdir(mode=0o700)
    os.chown(scene.runner.state, NOBODY, NOBODY)
    scanned = subprocess.run(
        [*AS_NOBODY, "scan", "-c", str(scene.runner.settings)], capture_output=True, text=True, timeout=60, check=False
    )
    assert scanned.returncode == 1
    return scene.said("watch_limit", argv=AS_NOBODY) + scanned.stderr


@provokes("…/settings.yaml: watsh", "…: state_dir and instance")
def settings_that_change(scene: Scene) -> str:
    service = scene.runner.start()
    good = scene.runner.settings.read_text()
    told = []
    for number, bad in enumerate(("watsh: {sweep_interval: 1s}\n", "instance: other\n"), start=1):
        scene.runner.settings.write_text(bad + good)
        service.signal(signal.SIGHUP)
        told.append(service.wait_for("settings_rejected", count=number)["message"])
    return "\n".join(told)


@provokes("metrics.listen: cannot listen on")
def a_port_that_is_taken(scene: Scene) -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        scene.configure(metrics={"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        return scene.said("http_failed")


@provokes("the start needs more than we have")
def a_start_without_descriptors(scene: Scene) -> str:
    service = scene.runner.start(argv=("prlimit", "--nofile=8", sys.executable, "-m", "watcher"), wait=None)
    assert service.process.wait(DEADLINE_S) == 1
    service.stop()
    return "".join(service.raw)


@provokes("…: 869888 bytes are more than")
def a_snapshot_that_is_too_large(scene: Scene) -> str:
    scene.runner.configure(recovery={"snapshot": {"max_size": 65536}})
    scene.crash()
    return scene.said("snapshot_skipped")


@provokes("…: not without a snapshot")
def a_snapshot_that_must_be(scene: Scene) -> str:
    scene.runner.configure(recovery={"snapshot": {"max_size": 65536, "required": True}})
    scene.crash()
    return scene.said("refused")


@provokes("cannot write the log file")
def a_disk_that_is_full(scene: Scene) -> str:
    with small_disk(scene.runner.root.parent / "disk") as disk:
        scene.runner.configure(log={"file": str(disk / "watcher.log")}, watch={"sweep_interval": "100ms"})
        service = scene.runner.start()
        fill(disk)
        told = str(service.wait_for("state_failed")["message"])
        service.stop()
        return told


@provokes("cannot use …/status.json")
def a_state_that_was_removed(scene: Scene) -> str:
    service = scene.runner.start()

    def is_gone() -> bool:
        shutil.rmtree(scene.runner.state, ignore_errors=True)  # it may be writing there just now
        return not scene.runner.state.exists()

    wait_until(is_gone)
    scene.crash()
    told = wait_until(lambda: [line for line in service.raw if "status.json" in line])
    return str(json.loads(told[0])["message"])
