"""The state directory: private, checked, locked by one service, written whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.small_disk import fill, small_disk
from watcher.records import state_dir
from watcher.records.state_dir import AlreadyRunning, StateDir, StateError, StateMissing, holder, inspect, read_file

SERVICE = """
import sys
from pathlib import Path
from watcher.records.state_dir import AlreadyRunning, StateDir
state = StateDir.open(Path(sys.argv[1]))
try:
    state.lock()
except AlreadyRunning as error:
    print("refused", error.pid, flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""
NOBODY = 65534


def start_service(state: Path) -> subprocess.Popen[str]:
    """A process that takes the lock and keeps it until its stdin ends."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def first_line_of(service: subprocess.Popen[str]) -> str:
    assert service.stdout is not None
    return service.stdout.readline().strip()


@contextmanager
def running_service(state: Path) -> Iterator[subprocess.Popen[str]]:
    with start_service(state) as service:
        try:
            assert first_line_of(service) == "locked"
            yield service
        finally:
            service.kill()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user who owns nothing, where we are root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_directory_is_made_for_us_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask), StateDir.open(tmp_path / "state") as state:
        assert mode_of(state.path) == 0o700


def test_missing_parents_are_made_as_directories_are_made(tmp_path: Path) -> None:
    with umask(0o022), StateDir.open(tmp_path / "var" / "lib" / "state"):
        assert mode_of(tmp_path / "var" / "lib") == 0o755


def test_every_file_is_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0o000), StateDir.open(tmp_path / "state") as state:
        state.lock()
        state.write_atomically("status.json", b"{}")
        modes = {path.name: mode_of(path) for path in state.path.iterdir()}
    assert modes == {"lock": 0o600, "status.json": 0o600, "version": 0o600}


def test_a_directory_that_exists_keeps_its_mode_and_its_files(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("status.json", b"1")
    (tmp_path / "state").chmod(0o750)
    with StateDir.open(tmp_path / "state") as state:
        assert state.read("status.json", 100) == b"1"
        assert mode_of(state.path) == 0o750


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(StateError, match=rf"mode {mode:04o}.*can be written by others.*chmod 700 {tmp_path}/state"):
        StateDir.open(tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="chown wants root")
def test_a_directory_of_somebody_else_is_refused_even_for_root(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", NOBODY, NOBODY)
    with pytest.raises(StateError, match=f"belongs to uid {NOBODY}, and we run as uid 0: run .* as uid {NOBODY}"):
        StateDir.open(tmp_path / "state")


def test_a_symlink_is_followed_and_its_target_is_what_is_checked(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to("elsewhere")
    StateDir.open(tmp_path / "state").close()
    assert (tmp_path / "elsewhere" / "version").exists()
    (tmp_path / "elsewhere").chmod(0o777)
    with pytest.raises(StateError, match="can be written by others"):
        StateDir.open(tmp_path / "state")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a diary")
    with pytest.raises(StateError, match=f"cannot use {tmp_path}/state as state directory: Not a directory; make it"):
        StateDir.open(tmp_path / "state")


def test_a_dangling_symlink_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "state").symlink_to("nowhere")
    with pytest.raises(StateError, match="No such file"):
        StateDir.open(tmp_path / "state")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_with_a_newline_stays_one_line_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "st\nate").write_text("")
    with pytest.raises(StateError) as caught:
        StateDir.open(tmp_path / "st\nate")
    assert str(caught.value).isprintable()


def test_the_layout_is_written_down(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        assert state.read("version", 100) == b"1\n"
    with StateDir.open(tmp_path / "state") as state:
        assert state.read("version", 100) == b"1\n"


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    (tmp_path / "state" / "version").write_text("2\n")
    with pytest.raises(StateError, match=r"written by a newer journal-watcher.*upgrade"):
        StateDir.open(tmp_path / "state")


def test_an_older_layout_is_migrated_once_by_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("journal.txt", b"kept")
    steps: list[int] = []

    def rename(directory_fd: int) -> None:
        steps.append(2)
        os.rename("journal.txt", "diary.txt", src_dir_fd=directory_fd, dst_dir_fd=directory_fd)

    def fail(_: int) -> None:
        steps.append(3)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_dir, "_MIGRATIONS", (rename, fail))
    with StateDir.open(tmp_path / "state") as state:
        assert steps == []
        with pytest.raises(StateError, match="free some space"):
            state.lock()
        assert state.read("version", 100) == b"2\n"
    monkeypatch.setattr(state_dir, "_MIGRATIONS", (rename, lambda _: steps.append(3)))
    for _ in range(2):
        with StateDir.open(tmp_path / "state") as state:
            state.lock()
            assert state.read("diary.txt", 100) == b"kept"
            assert state.read("version", 100) == b"3\n"
    assert steps == [2, 3, 3]


def test_a_version_that_is_none_is_refused(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    (tmp_path / "state" / "version").write_text("3.11\n")
    with pytest.raises(StateError, match="does not hold a version"):
        StateDir.open(tmp_path / "state")


@pytest.mark.parametrize("version", ["2\n", "3.11\n"])
def test_inspecting_refuses_the_version_that_opening_refuses(tmp_path: Path, version: str) -> None:
    StateDir.open(tmp_path / "state").close()
    (tmp_path / "state" / "version").write_text(version)
    with pytest.raises(StateError) as at_the_start:
        StateDir.open(tmp_path / "state")
    with pytest.raises(StateError) as inspected:
        inspect(tmp_path / "state")
    assert str(inspected.value) == str(at_the_start.value)


def test_a_start_that_was_killed_while_it_wrote_the_version_is_made_good(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    (tmp_path / "state" / "version").write_text("")
    with StateDir.open(tmp_path / "state") as state:
        assert state.read("version", 100) == b"1\n"


def test_a_second_service_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as first, start_service(tmp_path / "state") as second:
        assert first_line_of(second) == f"refused {first.pid}"
        assert second.wait(10) == 0


def test_the_lock_of_a_killed_service_is_free_at_once(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as first:
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        with StateDir.open(tmp_path / "state") as state:
            state.lock()
            assert holder(tmp_path / "state") == os.getpid()


def test_the_holder_is_named_to_whoever_asks(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as service:
        assert holder(tmp_path / "state") == service.pid
        service.kill()
        service.wait(10)
        assert holder(tmp_path / "state") is None


def test_asking_and_reading_inside_the_service_do_not_lose_its_lock(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.lock()
        assert holder(state.path) == os.getpid()
        with StateDir.open(tmp_path / "state") as again, pytest.raises(AlreadyRunning) as refused:
            again.lock()
        assert refused.value.pid == os.getpid()
        with start_service(tmp_path / "state") as second:
            assert first_line_of(second) == f"refused {os.getpid()}"


def test_the_lock_is_given_back_when_the_directory_is_closed(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.lock()
    assert holder(tmp_path / "state") is None
    with running_service(tmp_path / "state"):
        pass


def test_an_old_lock_file_without_a_holder_is_no_lock(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("x", b"")
        (state.path / "lock").write_text("4711\n")
        assert holder(state.path) is None
        state.lock()


def test_asking_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(StateMissing, match=f"no state directory {tmp_path}/state"):
        holder(tmp_path / "state")
    with pytest.raises(StateMissing):
        read_file(tmp_path / "state", "status.json", 100)
    assert list(tmp_path.iterdir()) == []
    StateDir.open(tmp_path / "state").close()
    assert holder(tmp_path / "state") is None
    assert read_file(tmp_path / "state", "status.json", 100) is None
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["version"]


def test_another_user_is_told_whom_to_be() -> None:
    with tempfile.TemporaryDirectory() as above:
        state = Path(above) / "state"
        StateDir.open(state).close()
        if os.geteuid() == 0:
            Path(above).chmod(0o755)
        else:
            state.chmod(0)
        with without_privileges():
            with pytest.raises(StateError, match=r"Permission denied; run as the user"):
                holder(state)
            with pytest.raises(StateError, match=r"Permission denied; run as the user"):
                read_file(state, "status.json", 100)
        state.chmod(0o700)


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A place where the user may make a state directory whom :func:`without_privileges` makes of us."""
    with tempfile.TemporaryDirectory() as above:
        if os.geteuid() == 0:
            os.chown(above, NOBODY, NOBODY)
        yield Path(above)


@pytest.mark.parametrize(("what", "rights"), [("status.json", "rw"), ("", "rwx")])
def test_what_is_ours_and_shut_by_its_mode_is_called_so(nobodys: Path, what: str, rights: str) -> None:
    path = nobodys / "state"
    with without_privileges(), StateDir.open(path) as state:
        state.write_atomically("status.json", b"{}")
        shut = path / what
        mode = mode_of(shut)
        shut.chmod(0)
        said = rf"cannot use {shut}: Permission denied; {shut} is ours, but has the mode 0000: chmod u\+{rights} {shut}"
        with pytest.raises(StateError, match=f"{said}$"):
            read_file(path, "status.json", 100)
        shut.chmod(mode)
        assert state.read("status.json", 100) == b"{}"


@pytest.mark.skipif(os.geteuid() != 0, reason="chown wants root")
def test_what_root_has_left_in_our_directory_is_called_so(nobodys: Path) -> None:
    with without_privileges(), StateDir.open(nobodys / "state") as state:
        state.write_atomically("status.json", b"{}")
    os.chown(nobodys / "state" / "status.json", 0, 0)
    said = f"status.json belongs to uid 0, and should be ours: chown {NOBODY} {nobodys}/state/status.json"
    with without_privileges(), pytest.raises(StateError, match=said):
        read_file(nobodys / "state", "status.json", 100)


def test_a_directory_that_is_immutable_is_called_so(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        subprocess.run(["chattr", "+i", str(state.path)], check=False, capture_output=True)
        try:
            shown = subprocess.run(["lsattr", "-d", str(state.path)], check=False, capture_output=True, text=True)
            if "i" not in shown.stdout.split(" ")[0]:
                pytest.skip("no directory can be made immutable here")
            with pytest.raises(StateError, match=r"it may be immutable .* chattr -i -a takes that away"):
                state.write_atomically("status.json", b"{}")
        finally:
            subprocess.run(["chattr", "-i", str(state.path)], check=True)


def test_where_our_descriptors_are_used_up_the_remedy_is_their_limit(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    said = r"Too many open files; raise our limit of open files \(ulimit -n, in a unit LimitNOFILE=\)"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with StateDir.open(tmp_path / "state") as state:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            with pytest.raises(StateError, match=said):
                state.read("status.json", 100)
            with pytest.raises(StateError, match=said):
                read_file(state.path, "status.json", 100)
            with pytest.raises(StateError, match=said):
                StateDir.open(state.path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_file_is_replaced_whole_under_the_eyes_of_a_reader(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 50_000 for letter in b"abc"]
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("status.json", contents[0])
        over = threading.Event()
        torn: list[bytes] = []

        def read_on() -> None:
            while not over.is_set():
                seen = read_file(state.path, "status.json", 100_000)
                if seen not in contents:
                    torn.append(seen or b"")

        reader = threading.Thread(target=read_on, name="reader")
        reader.start()
        for turn in range(300):
            state.write_atomically("status.json", contents[turn % 3])
        over.set()
        reader.join(10)
    assert torn == []


def test_a_durable_write_is_a_write(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("engine.json", b"{}", fsync=True)
        assert state.read("engine.json", 100) == b"{}"


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, StateDir.open(disk / "state") as state:
        state.write_atomically("status.json", b"old")
        ballast = fill(disk)
        with pytest.raises(StateError, match=r"status\.json: No space left on device; free some space"):
            state.write_atomically("status.json", bytes(9000))
        assert state.read("status.json", 100) == b"old"
        assert sorted(os.listdir(state.path)) == ["status.json", "version"]
        ballast.unlink()
        state.write_atomically("status.json", b"new")
        assert state.read("status.json", 100) == b"new"


def test_what_a_crash_left_half_written_goes_when_the_lock_is_ours_and_not_before(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        unfinished = state.path / ".unfinished-status.json.0011aabb"
        unfinished.write_bytes(b"half")
        with StateDir.open(tmp_path / "state"):
            assert unfinished.exists()
        state.lock()
        assert not unfinished.exists()


def test_a_directory_removed_under_us_is_told_with_the_remedy(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        (state.path / "version").unlink()
        state.path.rmdir()
        with pytest.raises(StateError, match="removed the directory: restart"):
            state.write_atomically("status.json", b"{}")


def test_a_read_is_bounded_and_of_plain_files_only(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        state.write_atomically("big", bytes(1000))
        assert state.read("big", 10) == bytes(10)
        os.mkfifo(state.path / "fifo")
        (state.path / "link").symlink_to("big")
        (state.path / "directory").mkdir()
        for name in ("fifo", "link", "directory"):
            with pytest.raises(StateError):
                state.read(name, 10)
