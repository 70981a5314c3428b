"""Where the service is root: a database is recovered with its owner's rights, and no more."""

from __future__ import annotations

import codecs
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from tests.hostile import Host, unchanged
from tests.writers import CrashedPair, journal_of
from watcher import narrow, rights, rollback
from watcher.pinned import Pinned
from watcher.records.record import Outcome
from watcher.rights import rights_of
from watcher.tree import Place

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="rights of one thread are Linux's"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has the rights of others to take"),
]

AGENT, OTHER = 12345, 23456
codecs.lookup("ascii")  # an agent may not load it


class Acting:
    """What SQLite's rights were at each of its opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, int, list[int], int]] = []
        original = Pinned.open

        def opens(pinned: Pinned, flags: int) -> int:
            self.seen.append(rights_now())
            return original(pinned, flags)

        monkeypatch.setattr(Pinned, "open", opens)


def rights_now() -> tuple[int, int, list[int], int]:
    """File-system uid and gid, supplementary groups and effective capabilities of this thread, as the kernel says."""
    told = dict(
        line.split(":\t", 1) for line in Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines()
    )
    return (
        int(told["Uid"].split()[3]),
        int(told["Gid"].split()[3]),
        [int(group) for group in told["Groups"].split()],
        int(told["CapEff"], 16),
    )


FILE_CAPABILITIES = 0x1_0800_021F
"""CAP_FS_MASK: chown, dac_override, dac_read_search, fowner, fsetid, linux_immutable, mknod, mac_override."""


def give(path: Path, uid: int, gid: int = OTHER) -> None:
    os.chown(path, uid, gid)


@pytest.fixture
def database(host: Host) -> Path:
    """A session of the agent's: directory, database and journal."""
    path = host.crash("s1/outbound.db")
    for each in (path.parent, path, journal_of(path)):
        give(each, AGENT)
    return path


def recovered_as(host: Host, database: Path, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The users in whose name SQLite opened a file while it recovered this database."""
    directory, _, name = os.path.relpath(database, host.root).rpartition("/")
    with host.rooms.looker.pair(Place(directory, name)) as pair:
        look = pair.look()
        acting = Acting(monkeypatch)
        rollback.roll_back(rollback.Job.of(pair, look, busy_timeout_s=0.1))
        rollback.read_back(rollback.Job.of(pair, look, busy_timeout_s=0.0))
    assert acting.seen
    assert host.is_recovered(database)
    return {uid for uid, *_ in acting.seen}


def test_a_session_of_one_user_is_recovered_with_that_users_rights_and_no_groups(
    host: Host, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rights_now()
    with host.rooms.looker.pair(Place("s1", database.name)) as pair:
        look = pair.look()
        acting = Acting(monkeypatch)
        rollback.roll_back(rollback.Job.of(pair, look, busy_timeout_s=0.1))
    for uid, gid, groups, capabilities in acting.seen:
        assert (uid, gid, groups) == (AGENT, 65534, [])
        assert capabilities & FILE_CAPABILITIES == 0
    assert len(acting.seen) >= 3
    assert rights_now() == before
    assert host.is_recovered(database)


def test_the_whole_way_works_with_it_and_the_snapshot_is_roots_own(host: Host, database: Path) -> None:
    host.root.parent.chmod(0o700)  # the owner may not come this way; the descriptors may
    recovered = host.recover(database)[0].record
    assert recovered.outcome is Outcome.RECOVERED, recovered.error
    assert host.is_recovered(database)
    assert recovered.snapshot is not None
    for path in (Path(recovered.snapshot), *Path(recovered.snapshot).iterdir()):
        assert path.stat().st_uid == 0
    assert (database.stat().st_uid, database.stat().st_gid) == (AGENT, OTHER)


@pytest.mark.parametrize("which", ["directory", "database", "journal"])
def test_files_of_several_users_are_recovered_as_root(
    host: Host, database: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    database.chmod(0o666)
    give({"directory": database.parent, "database": database, "journal": journal_of(database)}[which], OTHER)
    assert recovered_as(host, database, monkeypatch) == {0}


def test_files_of_root_are_recovered_as_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recovered_as(host, host.crash("s1/outbound.db"), monkeypatch) == {0}


def test_what_the_owner_could_not_do_is_not_done_for_him(host: Host, database: Path) -> None:
    """Root may do what it likes: here it does not."""
    database.parent.chmod(0o555)
    before = journal_of(database).read_bytes()
    record = host.recover(database)[0].record
    assert record.outcome is Outcome.FAILED
    assert journal_of(database).read_bytes() == before
    database.parent.chmod(0o755)
    assert host.recover(database)[0].record.outcome is Outcome.RECOVERED


@pytest.mark.parametrize(
    ("which", "mode", "words"),
    [
        ("directory", 0o555, "the journal cannot be deleted: Permission denied; its owner may not write {directory}"),
        ("directory", 0o600, "its owner may not search its directory"),
        ("journal", 0o444, "its owner may not write its journal"),
        ("journal", 0o000, "its owner may not write its journal"),
    ],
)
def test_what_the_owner_lacks_is_said_with_what_gives_it_to_him(
    host: Host, database: Path, which: str, mode: int, words: str
) -> None:
    shut = {"directory": database.parent, "database": database, "journal": journal_of(database)}[which]
    shut.chmod(mode)
    record = host.recover(database)[0].record
    assert record.outcome is Outcome.FAILED
    assert record.error is not None
    assert record.error.startswith(words.format(directory=database.parent))
    said = f"uid {AGENT}, with whose rights it is recovered): it belongs to uid {AGENT} and has the mode {mode:04o}: "
    assert said in record.error
    command = record.error.partition(said)[2]
    assert command.startswith("chmod ")
    subprocess.run(["sh", "-c", command], check=True)
    assert host.recover(database)[0].record.outcome is Outcome.RECOVERED
    assert host.is_recovered(database)


def test_a_database_of_the_host_that_an_attack_led_to_cannot_be_opened(tmp_path: Path, crashed: CrashedPair) -> None:
    """As if every other defence had failed, and a file of the host were pinned."""
    secret = crashed.put(tmp_path / "secret.db")
    secret.chmod(0o600)
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    pinned = Pinned(secret.name, "the database", directory_fd)

    def open_as(uid: int | None) -> None:
        grant = narrow.Grant(directory_fd, str(secret), pinned, acts_as=uid)
        with narrow.opened(grant, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s=0.0):
            pass

    try:
        with pytest.raises(apsw.CantOpenError):
            open_as(AGENT)
        open_as(None)
    finally:
        pinned.close()
        os.close(directory_fd)


def test_supplementary_groups_do_not_leak(tmp_path: Path) -> None:
    of_group = tmp_path / "of_group"
    of_group.write_text("for the group", encoding="utf-8")
    os.chown(of_group, 0, OTHER)
    of_group.chmod(0o640)
    for above in (tmp_path, *tmp_path.parents[:-1]):
        if above.stat().st_uid == 0 and above.stat().st_mode & 0o001 == 0:
            above.chmod(0o711)
    tried = subprocess.run(
        [sys.executable, "-c", _READ_AS, str(of_group), str(AGENT), str(OTHER)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert tried.stdout == "outside: for the group\ninside: Permission denied []\nafter: for the group\n", tried.stderr


_READ_AS = """
import os, pathlib, sys
from watcher.rights import rights_of
path, uid, group = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([group])
print("outside:", path.read_text())
with rights_of(uid):
    try:
        print("inside:", path.read_text())
    except OSError as error:
        print("inside:", error.strerror, os.getgroups())
assert os.getgroups() == [group]
print("after:", path.read_text())
"""


def test_other_threads_keep_their_rights_meanwhile() -> None:
    before = rights_now()
    inside, done = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        inside.wait(10)
        seen.append(rights_now())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with rights_of(AGENT):
        assert rights_now()[0] == AGENT
        inside.set()
        assert done.wait(10)
    thread.join()
    assert seen == [before]
    assert rights_now() == before


def test_many_threads_have_the_rights_of_many_at_once() -> None:
    wrong: list[object] = []

    def act(uid: int) -> None:
        for _ in range(300):
            with rights_of(uid):
                if rights_now()[:3] != (uid, 65534, []):
                    wrong.append(uid)
            if rights_now()[0] != 0:
                wrong.append("after")

    threads = [threading.Thread(target=act, args=(uid,)) for uid in range(2000, 2008)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_rights_are_given_back_after_an_exception() -> None:
    before = rights_now()
    with pytest.raises(ZeroDivisionError), rights_of(AGENT):
        raise ZeroDivisionError
    assert rights_now() == before


def test_large_uids_are_uids() -> None:
    with rights_of(4_000_000_000):
        assert rights_now()[0] == 4_000_000_000


# --- where the kernel refuses ---


def in_a_thread_of_a_child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _PRELUDE + code], check=False, capture_output=True, text=True)


_PRELUDE = """
import ctypes, os, threading
from watcher.rights import RightsError, rights_of
libc = ctypes.CDLL(None, use_errno=True)

def drop(*capabilities):
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for capability in capabilities:
        for kind in (0, 1, 2):
            data[kind + 3 * (capability // 32)] &= ~(1 << capability % 32)
    assert libc.capset(header, data) == 0

SETGID, SETUID = 6, 7
"""


@pytest.mark.parametrize("capability", ["SETGID", "SETUID"])
def test_without_the_capability_nothing_is_done_and_the_remedy_is_told(capability: str) -> None:
    tried = in_a_thread_of_a_child(
        f"""
drop({capability})
before = open("/proc/thread-self/status").read().split("Uid")[1].split("Seccomp")[0].split("Threads")[0]
try:
    with rights_of(12345):
        print("inside")
except RightsError as error:
    print(error)
assert os.getgroups() == [] and libc.setfsuid(-1) == 0 and libc.setfsgid(-1) == 0
"""
    )
    assert tried.stdout.startswith("the kernel does not let us act with the rights of uid 12345: "), tried.stderr
    assert "CAP_SETUID and CAP_SETGID" in tried.stdout
    assert tried.returncode == 0, tried.stderr


def test_a_database_whose_owners_rights_are_not_to_be_had_fails_and_stays_as_it_was(
    host: Host, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_SYS_SETGROUPS", {})  # as on a machine that is not known
    os.setgroups([OTHER])
    try:
        with unchanged(database.parent):
            record = host.recover(database)[0].record
    finally:
        os.setgroups([])
    assert record.outcome is Outcome.FAILED
    assert record.error is not None
    assert "run journal-watcher as the tree's owner" in record.error


def test_a_thread_that_cannot_take_its_rights_back_ends_the_process() -> None:
    tried = in_a_thread_of_a_child(
        """
os.setgroups([7, 8])
def act():
    with rights_of(12345):
        drop(SETGID)
    print("went on", flush=True)
thread = threading.Thread(target=act)
thread.start()
thread.join()
print("went on", flush=True)
"""
    )
    assert (tried.returncode, tried.stdout) == (1, "")
    assert "cannot take its own rights back" in tried.stderr


def test_capabilities_that_stay_are_noticed() -> None:
    """With SECBIT_NO_SETUID_FIXUP the kernel leaves a changed user the capabilities over files."""
    tried = in_a_thread_of_a_child(
        """
assert libc.prctl(28, 1 << 2, 0, 0, 0) == 0  # PR_SET_SECUREBITS
try:
    with rights_of(12345):
        print("inside")
except RightsError:
    print("refused")
"""
    )
    assert tried.stdout == "refused\n", tried.stderr


def test_the_libraries_calls_are_those_of_one_thread() -> None:
    """The fact that this stands on: setfsuid of the C library is the system call, and changes one thread."""
    libc = ctypes.CDLL(None)
    seen = []

    def act() -> None:
        libc.setfsuid(AGENT)
        seen.append(rights_now()[0])

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert seen == [AGENT]
    assert rights_now()[0] == 0


def test_two_sessions_of_two_users_are_recovered_each_in_its_own_name(
    host: Host, monkeypatch: pytest.MonkeyPatch, crashed: CrashedPair
) -> None:
    assert crashed
    for uid in (AGENT, OTHER):
        path = host.crash(f"s{uid}/outbound.db")
        for each in (path.parent, path, journal_of(path)):
            give(each, uid)
        with monkeypatch.context() as patch:
            assert recovered_as(host, path, patch) == {uid}
