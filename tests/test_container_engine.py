"""The container probe where the engine fails, is another one, or is looked at from inside a container."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines import LABELS, TestEngine, Tree, ask, labels, probing, python, subject_of, until
from watcher.hints.engine import EngineHints
from watcher.owner.container import ContainerProbe
from watcher.owner.engine import LISTING_MAX_AGE_S, Deaths, Engine
from watcher.owner.engine_errors import EngineLostError
from watcher.owner.engine_memory import EngineMemory
from watcher.owner.mounts import View
from watcher.owner.testimony import Answer
from watcher.settings import ContainerSettings

pytest_plugins = ["tests.engine_fixtures"]


class Told:
    """What `on_lost` and `on_back` were told, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def lost(self, reason: str, remedy: str) -> None:
        self.events.append(f"lost: {reason}; {remedy}")

    def back(self) -> None:
        self.events.append("back")

    def probe(self, address: str, tree: Tree, timeout: float = 0.5) -> ContainerProbe:
        settings = ContainerSettings.model_validate({"engine": address, "labels": LABELS, "timeout": timeout})
        return ContainerProbe(
            settings, host_root=None, root=tree.root, state_dir=None, on_lost=self.lost, on_back=self.back
        )


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def silent_address(tmp_path: Path) -> Iterator[str]:
    """A socket that accepts connections and says nothing."""
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(100)
        yield f"unix://{path}"


# An engine that does not answer


def test_a_hung_engine_is_unknown_and_back_when_it_goes_on(engine: TestEngine, tree: Tree, told: Told) -> None:
    probe = told.probe(engine.address, tree, timeout=4)
    until(lambda: ask(probe, tree.database()).answer is Answer.EXITED, "the engine answers")
    told.events.clear()
    with engine.hung():
        for _ in range(3):
            evidence = ask(probe, tree.database())
            assert evidence.answer is Answer.UNKNOWN
            assert "does not answer within 4 s" in evidence.detail
    until(lambda: ask(probe, tree.database()).answer is Answer.EXITED, "the engine is asked again")
    assert [event.partition(":")[0] for event in told.events] == ["lost", "back"]


def test_an_engine_that_is_only_slow_is_followed_and_not_lost(
    engine: TestEngine, tree: Tree, told: Told, tmp_path: Path
) -> None:
    wakes: list[float] = []
    with forwarded(engine.socket_path, tmp_path / "slow.sock", delay_s=0.6) as address:
        hints = EngineHints(told.probe(address, tree, timeout=20), lambda *_: wakes.append(time.monotonic()))
        hints.start()
        until(lambda: wakes, "the events are subscribed to")
        hints.stop()
    assert told.events == []


def test_an_engine_that_says_nothing_is_lost_when_its_time_is_over(silent_address: str, tree: Tree, told: Told) -> None:
    began = time.monotonic()
    hints = EngineHints(told.probe(silent_address, tree, timeout=1), lambda *_: None)
    hints.start()
    until(lambda: told.events, "the engine is missed")
    hints.stop()
    assert time.monotonic() - began >= 1
    assert "does not answer within 1 s" in told.events[0]


def test_many_journals_do_not_each_wait_for_an_engine_that_says_nothing(
    silent_address: str, tree: Tree, told: Told
) -> None:
    probe = told.probe(silent_address, tree)
    databases = [tree.database(f"s{number}") for number in range(40)]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as workers:
        answers = list(workers.map(lambda database: ask(probe, database).answer, databases))
    assert set(answers) == {Answer.UNKNOWN}
    assert time.monotonic() - began < 3  # one by one it would be 20 s
    assert len(told.events) == 1


def test_a_socket_that_is_not_there_is_unknown_with_the_remedy(tree: Tree, told: Told, tmp_path: Path) -> None:
    evidence = ask(told.probe(f"unix://{tmp_path}/engine.sock", tree), tree.database())
    assert evidence.answer is Answer.UNKNOWN
    assert "does not exist" in evidence.detail
    assert "owner.container.engine" in told.events[0]


def test_a_socket_that_nobody_listens_at_is_unknown(tree: Tree, told: Told, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "engine.sock"))
    evidence = ask(told.probe(f"unix://{tmp_path}/engine.sock", tree), tree.database())
    assert evidence.answer is Answer.UNKNOWN
    assert "nobody listens" in evidence.detail


def test_what_is_no_engine_is_unknown(tree: Tree, told: Told, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("[]")
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        evidence = ask(told.probe(f"tcp://127.0.0.1:{port}", tree), tree.database())
        server.terminate()
    assert evidence.answer is Answer.UNKNOWN
    assert "no container engine" in evidence.detail


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "is no container engine: its answer is no JSON; set owner",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "is no container engine: its answer is no JSON; set owner",
        ),
        (b"", "has closed the connection without an answer; look at the engine's own log, or restart it"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is no container engine: its answer is no HTTP; set owner.container.engine"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "no usable answer: it answers 500 Oops; look at"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nwhy\n", "no usable answer: it answers 500 Oops: why; look at"),
    ],
)
def test_an_answer_that_is_no_engines_is_told_as_what_it_is(answer: bytes, said: str, tree: Tree, told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_once, args=(listening, answer), daemon=True).start()
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        detail = ask(told.probe(address, tree, timeout=20), tree.database()).detail
    assert address in detail
    assert said in detail


def _answer_once(listening: socket.socket, answer: bytes) -> None:
    asked, _ = listening.accept()
    with asked:
        asked.recv(65536)
        asked.sendall(answer)


def test_a_host_that_nobody_knows_is_told_without_the_librarys_words(tree: Tree, told: Told) -> None:
    ask(told.probe("tcp://no-such-host.invalid:2375", tree, timeout=20), tree.database())
    lost = "lost: the name of the host in tcp://no-such-host.invalid:2375 is not known on this machine"
    assert told.events == [f"{lost}; mend it in owner.container.engine or DOCKER_HOST"]


def test_a_path_that_is_no_socket_is_told_as_what_it_is(tree: Tree, told: Told, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    detail = ask(told.probe(f"unix://{tmp_path}/file", tree), tree.database()).detail
    assert f"what is at unix://{tmp_path}/file is a plain file, not the socket of an engine; set owner" in detail


def test_what_is_no_address_is_told_with_the_key_that_holds_it(
    tree: Tree, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "127.0.0.1")
    detail = ask(told.probe("docker", tree), tree.database()).detail
    assert detail.startswith("127.0.0.1 is no address of an engine: ")
    assert detail.endswith("set owner.container.engine, or DOCKER_HOST, to the address of an engine")


WITHOUT_SSH = """
import sys
sys.modules["paramiko"] = None
from watcher.owner.engine import Engine
from watcher.owner.engine_errors import EngineLostError
try:
    Engine("ssh://somebody@127.0.0.1", 2).listing()
except EngineLostError as error:
    print(error)
"""


def test_ssh_where_it_is_not_installed_is_told_with_what_installs_it() -> None:
    command = [sys.executable, "-c", WITHOUT_SSH]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert said.stdout == (
        "ssh://somebody@127.0.0.1 cannot be reached: this installation has no ssh; pip install 'journal-watcher[ssh]'\n"
    )


def test_who_waits_for_somebody_elses_connection_says_where_and_what_to_do(silent_address: str) -> None:
    engine = Engine(silent_address, 5)
    with ThreadPoolExecutor(1) as connecting:
        first = connecting.submit(engine.identity)
        until(engine._connecting.locked, "the first one connects")
        with pytest.raises(EngineLostError) as raised:
            engine.subscribe()
        assert not first.done()
        with pytest.raises(EngineLostError):
            first.result()
    assert silent_address in raised.value.reason
    assert raised.value.remedy


REFUSED = """
import os, sys
import watcher.owner.engine_api
from watcher.owner.engine import Engine
from watcher.owner.engine_errors import EngineLostError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    Engine(sys.argv[1], 2).listing()
except EngineLostError as error:
    print(error)
"""


def test_an_engine_that_refuses_us_is_unknown_with_the_group_as_remedy(engine: TestEngine) -> None:
    places = [engine.socket_path, *(each for each in engine.socket_path.parents if each.is_relative_to("/tmp/"))]
    modes = {each: stat.S_IMODE(each.stat().st_mode) for each in places if each != Path("/tmp")}
    for each, mode in modes.items():
        each.chmod(0o660 if each == engine.socket_path else mode | 0o111)
    try:
        command = [sys.executable, "-c", REFUSED, engine.address]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    finally:
        for each, mode in modes.items():
            each.chmod(mode)
    assert "permission denied" in said.stdout
    group = grp.getgrgid(engine.socket_path.stat().st_gid).gr_name
    assert f"to the group {group} that owns" in said.stdout


def test_an_engine_that_vanishes_is_lost_once_and_back_once(
    engine: TestEngine, tree: Tree, told: Told, tmp_path: Path
) -> None:
    link = tmp_path / "engine.sock"
    link.symlink_to(engine.socket_path)
    probe = told.probe(f"unix://{link}", tree, timeout=20)
    ask(probe, tree.database())
    probe.close()  # no connection is left open
    link.unlink()
    for _ in range(5):
        assert ask(probe, tree.database()).answer is Answer.UNKNOWN
    link.symlink_to(engine.socket_path)
    until(lambda: ask(probe, tree.database()).answer is Answer.EXITED, "the engine is asked again")
    assert [event.partition(":")[0] for event in told.events] == ["lost", "back"]


# One list for all


class Counting:
    """Counts the requests for the list of containers."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        from watcher.owner.engine_api import Connection

        self.lists = 0
        ask_really = Connection.containers

        def containers(connection: Connection) -> object:
            self.lists += 1
            return ask_really(connection)

        monkeypatch.setattr(Connection, "containers", containers)
        self.engine = engine


@pytest.fixture
def counting(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(Engine(engine.address, 5.0), monkeypatch)


def test_questions_of_the_same_moment_share_one_list(counting: Counting) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: counting.engine.listing(), range(100)))
    assert counting.lists <= 2


def test_there_are_but_a_few_lists_a_second(counting: Counting) -> None:
    began = time.monotonic()
    while time.monotonic() - began < 4 * LISTING_MAX_AGE_S:
        counting.engine.listing()
    assert counting.lists <= 6


def test_a_fresh_question_gets_a_list_that_was_requested_after_it(counting: Counting) -> None:
    def fresh(_: int) -> bool:
        asked_at = time.monotonic()
        return counting.engine.listing(asked_at).asked_at >= asked_at

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(fresh, range(80)))
    assert counting.lists < 80


# Deaths, told by events that come late, twice or in another order


def test_a_death_is_noted_until_a_later_start() -> None:
    deaths = Deaths()
    deaths.note("c", "die", 100)
    assert deaths.noted("c")
    deaths.note("c", "start", 90)  # of the run that died
    assert deaths.noted("c")
    deaths.note("c", "start", 110)
    assert not deaths.noted("c")


def test_a_death_that_is_told_late_does_not_kill_a_container_that_runs_again(engine: TestEngine, tree: Tree) -> None:
    container = engine.run(mounts={tree.session(): "/workspace"}, labels=labels())
    died_ns = time.time_ns()
    engine.kill(container)
    until(lambda: not engine.runs(container), "it is dead")
    engine.api.start(container)
    with probing(engine, tree, labels=LABELS) as probe:
        probe.engine.deaths.note(container, "die", died_ns)
        assert ask(probe, tree.database()).answer is Answer.ALIVE
        probe.engine.deaths.note(container, "die", died_ns)
        assert ask(probe, tree.database()).answer is Answer.ALIVE


def test_a_doubled_death_of_a_container_that_lives_is_not_believed(engine: TestEngine, tree: Tree) -> None:
    container = engine.run(mounts={tree.session(): "/workspace"}, labels=labels())
    with probing(engine, tree, labels=LABELS) as probe:
        probe.engine.deaths.note(container, "die", time.time_ns())
        assert ask(probe, tree.database()).answer is Answer.ALIVE


# The right engine to ask


def test_an_engine_of_our_own_kernel_is_the_right_one(engine: TestEngine) -> None:
    assert Engine(engine.address, 5.0).ours() is True


def test_an_engine_behind_somebody_elses_socket_is_not_known_to_be_ours(
    engine: TestEngine, tree: Tree, tmp_path: Path
) -> None:
    with (
        forwarded(engine.socket_path, tmp_path / "far.sock") as address,
        probing(engine, tree, engine=address, labels=LABELS, state_dir=None) as probe,
    ):
        evidence = ask(probe, tree.database())
        assert evidence.answer is Answer.UNKNOWN
        assert "wrong one to ask" in evidence.detail
        with subject_of(tree.database(), {"agent_group": "group", "session": "s1"}) as subject:
            assert probe.ask(subject, boot_exited=True).answer is Answer.EXITED


def test_an_engine_that_was_seen_to_serve_the_tree_is_the_right_one_for_good(
    engine: TestEngine, tree: Tree, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    memory = EngineMemory(state_dir, tree.root)
    memory.remember("an engine")
    assert EngineMemory(state_dir, tree.root).serves_tree("an engine")
    assert not EngineMemory(state_dir, tree.root).serves_tree("another")
    assert not EngineMemory(state_dir, tmp_path).serves_tree("an engine"), "it was another tree's"
    assert stat.S_IMODE((state_dir / "engine.json").stat().st_mode) == 0o600
    assert list(state_dir.iterdir()) == [state_dir / "engine.json"]
    with forwarded(engine.socket_path, tmp_path / "far.sock") as address:
        engine.run(labels=labels())
        with probing(engine, tree, engine=address, labels=LABELS, state_dir=state_dir) as probe:
            assert ask(probe, tree.database()).answer is Answer.ALIVE
        engine.clean()
        with probing(engine, tree, engine=address, labels=LABELS, state_dir=state_dir) as probe:
            assert ask(probe, tree.database()).answer is Answer.EXITED


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"tree": 1}', '{"engines": "x"}', "\x00" * 10])
def test_a_broken_memory_is_no_memory(tmp_path: Path, kept: str) -> None:
    (tmp_path / "engine.json").write_text(kept)
    assert not EngineMemory(tmp_path, tmp_path).serves_tree("x")


def test_plain_containers_of_our_kernel_hide_no_locks(engine: TestEngine, tree: Tree) -> None:
    engine.run(mounts={tree.session(): "/workspace"})
    with probing(engine, tree) as probe, subject_of(tree.database()) as subject:
        assert probe.foreign_kernel(subject) is None


def test_a_sandbox_that_mounts_the_tree_may_hide_its_locks(docker_engine: TestEngine, tree: Tree) -> None:
    tree.database("s2")
    container = docker_engine.run(mounts={tree.session(): "/workspace"}, runtime="sandbox")
    with probing(docker_engine, tree) as probe:
        with subject_of(tree.database()) as subject:
            assert "sandbox" in (probe.foreign_kernel(subject) or "")
        with subject_of(tree.database("s2")) as subject:
            assert probe.foreign_kernel(subject) is None
        # Its helpers may write from outside of its cgroup: the engine's word is waited for.
        assert ask(probe, tree.database()).answer is Answer.ALIVE
        docker_engine.kill(container)
        until(lambda: ask(probe, tree.database()).answer is Answer.EXITED, "the engine says that it has ended")
        with subject_of(tree.database()) as subject:
            assert probe.foreign_kernel(subject) is None
    docker_engine.clean()


def test_an_engine_that_cannot_be_reached_tells_of_no_foreign_kernel(tree: Tree, told: Told, tmp_path: Path) -> None:
    with subject_of(tree.database()) as subject:
        assert told.probe(f"unix://{tmp_path}/none", tree).foreign_kernel(subject) is None


class forwarded:  # noqa: N801 - it reads as a function
    """The engine's socket under another path, behind a process that is no engine: as ssh forwards one.

    Args:
        delay_s: how long each piece of the engine's answers is under way.
    """

    def __init__(self, target: Path, path: Path, delay_s: float = 0.0) -> None:
        self._target, self._path, self._delay_s = target, path, delay_s

    def __enter__(self) -> str:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen(20)
        threading.Thread(target=self._serve, daemon=True).start()
        return f"unix://{self._path}"

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._target))
            for source, sink, delay_s in ((near, far, 0.0), (far, near, self._delay_s)):
                threading.Thread(target=_pump, args=(source, sink, delay_s), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    try:
        while chunk := source.recv(65536):
            time.sleep(delay_s)
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side is gone


# From inside a container

INSIDE = """
import json, sys
from pathlib import Path
from tests.engines import subject_of
from watcher.owner.container import ContainerProbe
from watcher.settings import ContainerSettings
fields = {"engine": "unix:///engine.sock", "labels": {"nanoclaw-session": "{session}"}, "timeout": "20s"}
settings = ContainerSettings.model_validate(fields)
probe = ContainerProbe(settings, host_root=Path(sys.argv[1]), root=Path("/tree"), state_dir=None)
said = {}
for name in sys.argv[2:]:
    with subject_of(Path("/tree/group") / name / "outbound.db", {"session": name, "agent_group": "group"}) as subject:
        evidence = probe.ask(subject)
        said[name] = [evidence.answer.value, evidence.detail]
print(json.dumps(said))
"""


def test_a_watcher_in_a_container_sees_the_owners_through_host_root(engine: TestEngine, tree: Tree) -> None:
    names = ["labelled", "mounted", "above", "killed"]
    for name in names:
        tree.database(name)
    engine.run(labels=labels("labelled"))
    engine.run(mounts={tree.session("mounted"): "/workspace"})
    # Itself it mounts the whole tree read-write, and is no owner.
    said = inside(engine, tree, *names)
    assert {name: answer for name, (answer, _) in said.items()} == {
        "labelled": "alive",
        "mounted": "alive",
        "above": "exited",
        "killed": "exited",
    }
    engine.run(mounts={tree.root.parent: "/everything"}, name="jw-above")
    answer, detail = inside(engine, tree, "above")["above"]
    assert answer == "alive"
    assert "jw-above" in detail


def inside(engine: TestEngine, tree: Tree, *names: str) -> dict[str, list[str]]:
    """What the probe says in a container that has the tree at /tree and the engine's socket."""
    repository = Path(__file__).parent.parent
    container = engine.create(
        ["/bin/busybox", "env", "PYTHONPATH=/repository", str(python()), "-c", INSIDE, str(tree.root), *names],
        mounts={tree.root: "/tree", engine.socket_path: "/engine.sock", repository: "/repository:ro"},
        with_python=True,
    )
    engine.api.start(container)
    until(lambda: not engine.runs(container), "the watcher in the container is done")
    output = engine.api.logs(container, stdout=True, stderr=True).decode()
    engine.remove(container)
    said: dict[str, list[str]] = json.loads(output.splitlines()[-1])
    return said


# Paths of an engine in a virtual machine


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("/host_mnt/Users/a/tree", "/Users/a/tree"),
        ("/run/desktop/mnt/host/home/a", "/home/a"),
        ("/run/desktop/mnt/host/c/Users", "/mnt/c/Users"),
        ("/home/a", "/home/a"),
    ],
)
def test_a_virtual_machines_path_is_looked_for_where_the_host_has_it(source: str, found: str) -> None:
    assert found in View("/tree", None, "/tree").local(source)


def test_the_root_as_the_engine_names_it_is_found_here() -> None:
    view = View("/tree", "/srv/data", "/tree")
    assert view.local("/srv/data/group/s1") == ("/tree/group/s1",)
    assert view.local("/srv/data") == ("/tree",)
    assert view.local("/srv/database") == ()
    assert view.foreign("/tree/group/s1") == ("/srv/data/group/s1",)


def test_an_engine_lost_error_says_what_to_do() -> None:
    assert str(EngineLostError("it is gone", "start it")) == "it is gone; start it"


# Where the engine is


def test_docker_is_where_the_environment_says(docker_engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.address)
    assert Engine("docker", 5.0).identity().kind == "Docker"


def test_docker_is_where_its_current_context_says(
    docker_engine: TestEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    metadata = tmp_path / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest()
    metadata.mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    endpoint = {"Host": docker_engine.address, "SkipTLSVerify": False}
    (metadata / "meta.json").write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    engine = Engine("docker", 5.0)
    assert engine.identity().kind == "Docker"
    assert engine.address == docker_engine.address


def test_podman_is_where_the_environment_says(podman_engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", podman_engine.address)
    assert Engine("podman", 5.0).identity().kind == "Podman"


def test_podman_is_found_at_its_usual_socket(
    podman_engine: TestEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.path.exists("/run/podman/podman.sock"):
        pytest.skip("there is another podman here")
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman" / "podman.sock").symlink_to(podman_engine.socket_path)
    assert Engine("podman", 5.0).identity().kind == "Podman"


def test_podman_has_the_same_identity_at_each_question(podman_engine: TestEngine) -> None:
    first, second = (Engine(podman_engine.address, 5.0).identity().id for _ in range(2))
    assert first == second


def test_two_installations_on_one_engine_do_not_meet(engine: TestEngine, tmp_path: Path) -> None:
    one, two = Tree(tmp_path / "one"), Tree(tmp_path / "two")
    of = {"nanoclaw-install": "one", "nanoclaw-session": "{session}"}
    engine.run(mounts={one.session(): "/workspace"}, labels={"nanoclaw-install": "one", "nanoclaw-session": "s1"})
    with probing(engine, one, labels=of) as probe:
        assert ask(probe, one.database()).answer is Answer.ALIVE
    with probing(engine, two, labels={**of, "nanoclaw-install": "two"}) as probe:
        assert ask(probe, two.database()).answer is Answer.EXITED
