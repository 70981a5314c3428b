"""Real container engines for the tests: a private dockerd and a private podman, and real writers in their containers.

`JW_TEST_DOCKER` and `JW_TEST_PODMAN` name engines that run already (`.ci/engines start DIR` prints them); without them
`.ci/engines` starts private ones for the session, where their programs are installed, and ends them after it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors
import pytest
from docker.types import Ulimit

from watcher.owner.container import ContainerProbe
from watcher.owner.testimony import Evidence, Subject
from watcher.settings import ContainerSettings

SCRIPT = Path(__file__).parent.parent / ".ci" / "engines"
_PROGRAMS = {"docker": "dockerd", "podman": "podman"}
# Podman may not raise limits here, and its own defaults are higher.
_ULIMITS = [Ulimit(name="nofile", soft=20000, hard=20000), Ulimit(name="nproc", soft=1000, hard=1000)]

LABELS = {"nanoclaw-session": "{session}", "nanoclaw-group": "{agent_group}"}

WRITER = """
import os, sqlite3, sys, time
database, vfs = sys.argv[1], sys.argv[2]
connection = sqlite3.connect(f"file:{database}?vfs={vfs}", uri=True, isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, body TEXT)")
with open(database + ".ready", "w"):
    pass
while "hold" not in sys.argv and not os.path.exists(database + ".go"):
    time.sleep(0.001)
connection.execute("BEGIN")
connection.executemany("INSERT INTO message (body) VALUES (?)", [("x" * 2000,)] * 200)
connection.execute("UPDATE message SET body = 'y' || body")
os.replace(database + ".ready", database + ".spilled")
while not os.path.exists(database + ".commit"):
    time.sleep(0.01)
connection.execute("COMMIT")
os.replace(database + ".spilled", database + ".committed")
while True:
    time.sleep(1)
"""


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> float:
    """Wait until the condition holds; seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.002)
    return time.monotonic() - began


@dataclass
class TestEngine:
    """A container engine that the tests may do anything to.

    Attributes:
        kind: `docker` or `podman`.
        address: `unix://…`.
        image: id of an image with busybox and nothing else.
    """

    __test__ = False

    kind: str
    address: str
    api: docker.APIClient
    image: str
    _containers: list[str] = field(default_factory=list)
    _volumes: list[str] = field(default_factory=list)

    @property
    def socket_path(self) -> Path:
        return Path(self.address.removeprefix("unix://"))

    def create(
        self,
        command: list[str] | None = None,
        *,
        mounts: Mapping[Path | str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        remove: bool = False,
        restart: str | None = None,
        memory_bytes: int | None = None,
        host_pids: bool = False,
        with_python: bool = False,
        runtime: str | None = None,
    ) -> str:
        """A container that is not started; its id. It sleeps, unless a command is given.

        Args:
            mounts: source (or a volume's name) to destination, `:ro` at its end for a read-only one.
            remove: as `--rm`.
            with_python: it sees the host's Python and system libraries.
        """
        binds: dict[str, Mapping[str, str]] = {str(source): _bind(target) for source, target in (mounts or {}).items()}
        if with_python:
            binds |= {place: _bind(f"{place}:ro") for place in python_places()}
        host = self.api.create_host_config(
            binds=binds,
            network_mode="none",
            ulimits=_ULIMITS,
            auto_remove=remove,
            restart_policy=None if restart is None else {"Name": restart, "MaximumRetryCount": 0},
            mem_limit=memory_bytes,
            memswap_limit=memory_bytes,
            pid_mode="host" if host_pids else None,
            runtime=runtime,
        )
        container = self.api.create_container(
            self.image,
            command or ["/bin/busybox", "sleep", "1000"],
            host_config=host,
            labels=dict(labels or {}),
            name=name,
            entrypoint=[],
        )
        container_id = str(container["Id"])
        self._containers.append(container_id)
        return container_id

    def run(self, command: list[str] | None = None, **options: object) -> str:
        """A container that runs; its id."""
        container_id = self.create(command, **options)  # type: ignore[arg-type] # they are the options of create
        self.api.start(container_id)
        return container_id

    def write(
        self,
        directory: Path,
        *,
        mount: Path | str | None = None,
        inside: str = "",
        locks: bool = True,
        hold: bool = True,
        **options: object,
    ) -> str:
        """A container with a real writer of `outbound.db` in the directory; returns its id in the middle of a
        transaction that has spilled, so that the journal is hot.

        Args:
            mount: what is mounted instead of the directory, where the directory is `inside` of it.
            locks: False: a writer whose locks nobody sees.
            hold: False: only the database is made, and the transaction waits for :func:`go`.
        """
        database = f"/workspace/{inside}/outbound.db" if inside else "/workspace/outbound.db"
        vfs = "unix" if locks else "unix-none"
        command = [str(python()), "-I", "-S", "-c", WRITER, database, vfs, *(["hold"] if hold else [])]
        mounts = {directory if mount is None else mount: "/workspace"}
        container_id = self.run(command, mounts=mounts, with_python=True, **options)
        awaited = directory / ("outbound.db.spilled" if hold else "outbound.db.ready")
        until(lambda: awaited.exists() or not self.runs(container_id), f"the writer makes {awaited}")
        if not awaited.exists():
            pytest.fail(f"the writer ended: {self.api.logs(container_id)!r}")
        return container_id

    def kill(self, container_id: str) -> None:
        """SIGKILL, by the engine."""
        try:
            self.api.kill(container_id)
        except docker.errors.APIError as error:  # Podman looks again after a kill, when `--rm` may have removed it
            if "no such container" not in str(error):
                raise

    def remove(self, container_id: str) -> None:
        def is_removed() -> bool:
            try:
                self.api.remove_container(container_id, force=True)
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:  # Podman was about to kill it, and it has ended by itself meanwhile
                if "container state improper" not in str(error):
                    raise
                return False
            return True

        until(is_removed, "the container removed")

    def pid(self, container_id: str) -> int:
        return int(self.api.inspect_container(container_id)["State"]["Pid"])

    def runs(self, container_id: str) -> bool:
        try:
            return bool(self.api.inspect_container(container_id)["State"]["Running"])
        except docker.errors.NotFound:
            return False

    def volume_over(self, directory: Path) -> str:
        """A named volume that is bound to the directory; its name."""
        options = {"type": "none", "o": "bind", "device": str(directory)}
        name = f"jw-{time.time_ns():x}"
        self.api.create_volume(name, driver="local", driver_opts=options)
        self._volumes.append(name)
        return name

    def process(self) -> int:
        """The pid of the engine itself."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.socket_path))
            return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """The engine accepts connections and answers nothing."""
        pid = self.process()
        os.kill(pid, signal.SIGSTOP)
        # A thread that is in the kernel stops on its way out: until then the engine may still answer.
        until(lambda: _has_stopped(pid), "every thread of the engine stops")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def clean(self) -> None:
        """Remove all that was made since the last time."""
        for container_id in self._containers:
            try:
                self.remove(container_id)
            except docker.errors.APIError as error:  # `--rm` is removing it at this moment
                if "removal" not in str(error) and "no such container" not in str(error):
                    raise
        for name in self._volumes:
            self.api.remove_volume(name, force=True)
        self._containers.clear()
        self._volumes.clear()


def _has_stopped(pid: int) -> bool:
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)


def _bind(target: str) -> dict[str, str]:
    return {"bind": target.removesuffix(":ro"), "mode": "ro" if target.endswith(":ro") else "rw"}


def python() -> Path:
    """The interpreter that runs the tests, as containers see it too."""
    return Path(sys.executable)


def python_places() -> list[str]:
    """What a container must see of the host so that our Python runs in it."""
    places = ["/usr", "/lib", "/lib64", sys.prefix, sys.base_prefix]
    return [place for place in dict.fromkeys(places) if os.path.exists(place)]


def _image() -> bytes:
    busybox = shutil.which("busybox") or "/bin/busybox"
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("bin", "dev", "etc", "lib", "lib64", "proc", "sys", "tmp", "usr", "workspace"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        tar.add(busybox, "bin/busybox")
    return made.getvalue()


@contextlib.contextmanager
def private_engine(kind: str) -> Iterator[str]:
    """An engine of this kind that is started for us; its address."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip(f"a private {kind} wants root on Linux")
    if shutil.which(_PROGRAMS[kind]) is None:
        pytest.skip(f"{_PROGRAMS[kind]} is not installed; as root: {SCRIPT} install")
    directory = tempfile.mkdtemp(prefix="jw-engine-")  # a short path: a socket's name may have 107 bytes
    try:
        command = [str(SCRIPT), "start", directory, kind]
        started = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        if started.returncode != 0:
            pytest.fail(f"{kind} does not start: {started.stderr}")
        yield started.stdout.strip().rpartition("=")[2]
    finally:
        subprocess.run([SCRIPT, "stop", directory, kind], check=True, timeout=90)
        shutil.rmtree(directory, ignore_errors=True)


def connected(kind: str, address: str) -> TestEngine:
    api = docker.APIClient(address, timeout=30)
    answer = api.import_image_from_data(_image(), repository="localhost/jw-test")
    image = next(word for word in answer.replace('"', " ").split() if word.startswith("sha256:"))
    return TestEngine(kind, address, api, image)


@contextlib.contextmanager
def running_engine(kind: str) -> Iterator[TestEngine]:
    named = os.environ.get(f"JW_TEST_{kind.upper()}")
    with contextlib.nullcontext(named) if named else private_engine(kind) as address:
        yield connected(kind, address)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[TestEngine]:
    with running_engine("docker") as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[TestEngine]:
    with running_engine("podman") as engine:
        yield engine


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[TestEngine]:
    """Each engine in turn; what the test makes is removed after it."""
    found: TestEngine = request.getfixturevalue(f"{request.param}_engine")
    yield found
    found.clean()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@contextlib.contextmanager
def subject_of(database: Path, session: Mapping[str, str] | None = None, *, fresh: bool = True) -> Iterator[Subject]:
    """A question about a database, as the service would put it."""
    directory = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptor = os.open(database, os.O_PATH | os.O_CLOEXEC)
    journal = Path(f"{database}-journal")
    try:
        status = os.stat(journal if journal.exists() else database)
        yield Subject(
            path=str(database),
            name=database.name,
            session=dict(session or {}),
            directory_fd=directory,
            database_fd=descriptor,
            journal_ctime_ns=status.st_ctime_ns,
            journal_mtime_ns=status.st_mtime_ns,
            fresh=fresh,
        )
    finally:
        os.close(descriptor)
        os.close(directory)


class Tree:
    """A tree `root/{agent_group}/{session}/outbound.db`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def session(self, name: str = "s1") -> Path:
        """The directory of a session, made if it is not there."""
        directory = self.root / "group" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def database(self, name: str = "s1") -> Path:
        """A session's database, made if it is not there."""
        path = self.session(name) / "outbound.db"
        path.touch()
        return path


@contextlib.contextmanager
def probing(
    asked: TestEngine, tree: Tree, *, host_root: Path | None = None, state_dir: Path | None = None, **settings: object
) -> Iterator[ContainerProbe]:
    """A probe that gives the engine all the time that a machine with other things to do may take."""
    fields = ContainerSettings.model_validate({"engine": asked.address, "timeout": "20s", **settings})
    probe = ContainerProbe(fields, host_root=host_root, root=tree.root, state_dir=state_dir)
    try:
        yield probe
    finally:
        probe.close()


def ask(probe: ContainerProbe, database: Path, *, fresh: bool = True) -> Evidence:
    session = {"agent_group": database.parent.parent.name, "session": database.parent.name}
    with subject_of(database, session, fresh=fresh) as subject:
        return probe.ask(subject)


def labels(session: str = "s1") -> Mapping[str, str]:
    return {"nanoclaw-session": session, "nanoclaw-group": "group", "nanoclaw-role": "agent"}
