"""The container probe on real engines: which container is a database's owner, and whether it lives."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import LABELS, TestEngine, Tree, ask, labels, probing, python, until
from watcher.owner.container import ContainerProbe
from watcher.owner.testimony import Answer, Evidence

pytest_plugins = ["tests.engine_fixtures"]


@pytest.fixture
def probe(engine: TestEngine, tree: Tree) -> Iterator[ContainerProbe]:
    """By the labels of the model installation, or by a mount."""
    with probing(engine, tree, labels=LABELS) as made:
        yield made


def becomes(probe: ContainerProbe, database: Path, answer: Answer, seconds: float = 10.0) -> Evidence:
    """Ask afresh until this is the answer."""
    said: list[Evidence] = []

    def asked() -> bool:
        said.append(ask(probe, database))
        return said[-1].answer is answer

    until(asked, f"the container probe says {answer}", seconds)
    return said[-1]


# A real writer, and its death


def test_a_writer_in_the_middle_of_a_transaction_is_alive_until_it_is_killed(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.write(tree.session(), labels=labels(), remove=True)
    alive = ask(probe, tree.database())
    assert alive.answer is Answer.ALIVE
    assert "nanoclaw-session=s1" in alive.detail
    assert container[:12] in alive.detail
    assert Path(f"{tree.database()}-journal").stat().st_size > 0

    engine.kill(container)

    assert becomes(probe, tree.database(), Answer.EXITED).pid is None


def test_exited_is_never_said_before_the_process_is_gone(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    for session in ("s1", "s2", "s3"):
        container = engine.write(tree.session(session), labels=labels(session))
        ended = os.pidfd_open(engine.pid(container))
        killing = threading.Thread(target=engine.kill, args=(container,))
        killing.start()
        while ask(probe, tree.database(session)).answer is not Answer.EXITED:
            pass
        assert select.select([ended], [], [], 0)[0], "the engine's word came before the process had ended"
        os.close(ended)
        killing.join()


def test_the_end_of_the_named_process_is_the_end_of_the_owner(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.write(tree.session(), labels=labels())
    pid = ask(probe, tree.database()).pid
    assert pid == engine.pid(container)
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([ended], [], [], 10)
    os.close(ended)
    assert ask(probe, tree.database()).answer is Answer.EXITED  # at once, whatever the engine's list says yet


def test_a_process_that_outlives_the_first_one_keeps_the_container_alive(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    # Without a pid namespace of its own, the end of the first process does not end the others.
    engine.run(
        ["/bin/busybox", "sh", "-c", "/bin/busybox sleep 1000 & exec /bin/busybox sleep 1000"],
        mounts={tree.session(): "/workspace"},
        labels=labels(),
        host_pids=True,
    )
    pid = ask(probe, tree.database()).pid
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: children.read_text().split(), "the first process has a child")
    ended = os.pidfd_open(int(children.read_text().split()[0]))
    os.kill(pid, signal.SIGKILL)
    while ask(probe, tree.database()).answer is not Answer.EXITED:
        pass
    assert select.select([ended], [], [], 0)[0], "the other process of the container still runs"
    os.close(ended)


def test_a_paused_writer_is_alive(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    container = engine.write(tree.session(), labels=labels())
    engine.api.pause(container)
    try:
        evidence = ask(probe, tree.database())
    finally:
        engine.api.unpause(container)
    assert evidence.answer is Answer.ALIVE
    assert "paused" in evidence.detail


def test_a_writer_that_is_stopped_in_vain_is_alive_until_the_grace_is_over(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.write(tree.session(), labels=labels())  # PID 1 without a handler ignores SIGTERM
    ask(probe, tree.database())
    ended = os.pidfd_open(engine.pid(container))
    stopping = threading.Thread(target=engine.api.stop, args=(container,), kwargs={"timeout": 1})
    stopping.start()
    while not select.select([ended], [], [], 0.05)[0]:
        evidence = ask(probe, tree.database())
        assert evidence.answer is Answer.ALIVE or select.select([ended], [], [], 0)[0]
    os.close(ended)
    stopping.join()
    becomes(probe, tree.database(), Answer.EXITED)


def test_a_removed_container_is_gone(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    container = engine.write(tree.session(), labels=labels())
    assert ask(probe, tree.database()).answer is Answer.ALIVE
    engine.remove(container)
    assert ask(probe, tree.database()).answer is Answer.EXITED


def test_a_container_that_ran_out_of_memory_has_ended(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    eater = "open('/workspace/eating','w'); a = []\nwhile True: a.append(bytearray(1 << 20))"
    container = engine.create(
        [str(python()), "-c", eater],
        mounts={tree.session(): "/workspace"},
        labels=labels(),
        memory_bytes=64 << 20,
        with_python=True,
    )
    try:
        engine.api.start(container)
    except Exception as error:  # noqa: BLE001 - whatever the engine raises where there are no memory cgroups
        pytest.skip(f"this machine's cgroups limit no memory: {error}")
    until((tree.session() / "eating").exists, "the container runs")
    becomes(probe, tree.database(), Answer.EXITED, 20)


def test_a_container_that_its_restart_policy_starts_again_is_alive(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.write(tree.session(), labels=labels(), restart="always")
    first = ask(probe, tree.database()).pid
    assert first is not None
    ended = os.pidfd_open(first)
    os.kill(first, signal.SIGKILL)
    select.select([ended], [], [], 10)
    os.close(ended)
    until(
        lambda: ask(probe, tree.database()).answer is Answer.ALIVE and engine.pid(container) not in {0, first},
        "the engine starts it again",
    )
    assert becomes(probe, tree.database(), Answer.ALIVE).pid in {None, engine.pid(container)}


def test_a_container_that_is_started_again_by_hand_is_alive(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.write(tree.session(), labels=labels())
    first = ask(probe, tree.database()).pid
    engine.kill(container)
    becomes(probe, tree.database(), Answer.EXITED)
    engine.api.start(container)
    evidence = ask(probe, tree.database())
    assert evidence.answer is Answer.ALIVE
    assert evidence.pid not in {None, first}


def test_a_respawn_with_the_same_labels_is_alive_at_once(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    for _ in range(3):
        first = engine.write(tree.session(), labels=labels(), remove=True)
        ask(probe, tree.database(), fresh=False)
        engine.kill(first)
        second = engine.run(mounts={tree.session(): "/workspace"}, labels=labels(), remove=True)
        evidence = ask(probe, tree.database())
        assert evidence.answer is Answer.ALIVE
        assert second[:12] in evidence.detail
        engine.remove(second)
        (tree.session() / "outbound.db.spilled").unlink()


# Which container it is


def test_without_any_container_the_owner_has_exited(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.run(labels=labels("another"))
    evidence = ask(probe, tree.database())
    assert evidence.answer is Answer.EXITED
    assert "no live container of the" in evidence.detail


def test_all_labels_must_fit(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.run(labels={"nanoclaw-session": "s1", "nanoclaw-group": "another"})
    assert ask(probe, tree.database()).answer is Answer.EXITED


def test_a_wrong_label_does_not_hide_a_container_that_mounts_the_directory(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    engine.run(mounts={tree.session(): "/workspace"}, labels=labels("wrong"))
    evidence = ask(probe, tree.database())
    assert evidence.answer is Answer.ALIVE
    assert "mount" in evidence.detail


def test_mounts_do_not_count_where_the_settings_say_so(engine: TestEngine, tree: Tree) -> None:
    engine.run(mounts={tree.session(): "/workspace"}, labels=labels("wrong"))
    with probing(engine, tree, labels=LABELS, mounts=False) as probe:
        assert ask(probe, tree.database()).answer is Answer.EXITED


def test_a_name_pattern_finds_it(engine: TestEngine, tree: Tree) -> None:
    engine.run(name="jw-agent-s1-4711")
    with probing(engine, tree, name="jw-agent-{session}-*") as probe:
        assert "name" in ask(probe, tree.database()).detail
        assert ask(probe, tree.database("s2")).answer is Answer.EXITED


def test_a_hostile_session_name_is_no_pattern(engine: TestEngine, tree: Tree) -> None:
    engine.run(name="jw-agent-s1")
    with probing(engine, tree, name="jw-agent-{session}") as probe:
        assert ask(probe, tree.database("s?")).answer is Answer.EXITED
        assert ask(probe, tree.database("[rs]1")).answer is Answer.EXITED
        assert ask(probe, tree.database("*")).answer is Answer.EXITED
        assert ask(probe, tree.database("s1")).answer is Answer.ALIVE


def test_an_ignored_container_is_no_owner(engine: TestEngine, tree: Tree) -> None:
    engine.run(name="jw-backup-1", mounts={tree.root.parent: "/backup"}, labels=labels())
    with probing(engine, tree, labels=LABELS, ignore=["jw-backup-*"]) as probe:
        assert ask(probe, tree.database()).answer is Answer.EXITED
    with probing(engine, tree, labels=LABELS) as probe:
        assert ask(probe, tree.database()).answer is Answer.ALIVE


def test_a_container_that_was_just_created_is_not_known_to_be_dead(
    engine: TestEngine, tree: Tree, probe: ContainerProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.create(labels=labels())
    evidence = ask(probe, tree.database())
    assert evidence.answer is Answer.UNKNOWN
    assert "created" in evidence.detail
    later = time.time() + 31
    monkeypatch.setattr(time, "time", lambda: later)
    assert ask(probe, tree.database()).answer is Answer.EXITED


def test_a_container_that_lived_and_died_since_the_last_list_has_ended(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.create(labels=labels())
    assert ask(probe, tree.database()).answer is Answer.UNKNOWN
    engine.api.start(container)
    engine.kill(container)
    until(lambda: not engine.runs(container), "it is dead")
    assert ask(probe, tree.database(), fresh=False).answer is Answer.EXITED


def test_hostile_labels_come_out_as_one_printable_line(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    session = "evil\n\x1b[31m"
    engine.run(labels=labels(session))
    evidence = ask(probe, tree.database(session))
    assert evidence.answer is Answer.ALIVE
    assert evidence.detail.isprintable()


# Mounts, by identity


def test_a_parent_directory_covers_every_session_in_it(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    databases = [tree.database(f"s{number}") for number in range(20)]
    container = engine.run(mounts={tree.root: "/all"})
    assert {ask(probe, each, fresh=False).answer for each in databases} == {Answer.ALIVE}
    engine.remove(container)
    assert {ask(probe, each).answer for each in databases} == {Answer.EXITED}


def test_a_neighbour_directory_covers_nothing(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.run(mounts={tree.session("s10"): "/workspace", tree.session("s1") / "below": "/below"})
    assert ask(probe, tree.database("s1")).answer is Answer.EXITED


def test_a_mount_given_through_a_symlink_covers_the_same_directory(
    engine: TestEngine, tree: Tree, probe: ContainerProbe, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree.session())
    engine.run(mounts={link: "/workspace"})
    assert ask(probe, tree.database()).answer is Answer.ALIVE
    link.unlink()
    link.symlink_to(tmp_path)  # what the container has mounted stays what it was
    assert ask(probe, tree.database()).answer is Answer.ALIVE


def test_a_mount_whose_symlink_is_gone_is_found_in_the_processes_mounts(
    engine: TestEngine, tree: Tree, probe: ContainerProbe, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree.session())
    engine.run(mounts={link: "/workspace"})
    link.unlink()
    assert ask(probe, tree.database()).answer is Answer.ALIVE
    assert ask(probe, tree.database("s2")).answer is Answer.EXITED


def test_a_directory_that_was_renamed_under_its_mount_still_has_its_owner(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    engine.run(mounts={tree.session("before"): "/workspace"})
    tree.session("before").rename(tree.root / "group" / "after")
    tree.session("before")  # another one, of the old name
    assert ask(probe, tree.database("after")).answer is Answer.ALIVE


def test_a_named_volume_that_is_bound_to_the_directory_covers_it(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    engine.run(mounts={engine.volume_over(tree.session()): "/workspace"})
    evidence = ask(probe, tree.database())
    assert evidence.answer is Answer.ALIVE
    assert ask(probe, tree.database("s2")).answer is Answer.EXITED


def test_a_plain_volume_covers_nothing(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.api.create_volume("jw-plain")
    try:
        engine.run(mounts={"jw-plain": "/workspace"})
        assert ask(probe, tree.database()).answer is Answer.EXITED
    finally:
        engine.clean()
        engine.api.remove_volume("jw-plain")


def test_a_read_only_mount_is_no_writer(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.run(mounts={tree.session(): "/workspace:ro"})
    assert ask(probe, tree.database()).answer is Answer.EXITED


def test_the_database_itself_may_be_mounted(engine: TestEngine, tree: Tree, probe: ContainerProbe) -> None:
    engine.run(mounts={tree.database(): "/workspace/outbound.db"})
    assert ask(probe, tree.database()).answer is Answer.ALIVE


def test_a_tree_on_a_file_system_of_its_own_is_covered_by_what_is_above_it(
    engine: TestEngine, tree: Tree, probe: ContainerProbe, tmp_path: Path
) -> None:
    with mounted(tree.root, "-t", "tmpfs", "tmpfs"):
        engine.run(mounts={tmp_path: "/everything"})
        assert ask(probe, tree.database()).answer is Answer.ALIVE
        engine.clean()
        assert ask(probe, tree.database()).answer is Answer.EXITED


def test_a_directory_that_is_mounted_in_two_places_has_one_owner(
    engine: TestEngine, tree: Tree, probe: ContainerProbe, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "disk" / "trees"
    (elsewhere / "group" / "s1").mkdir(parents=True)
    with mounted(tree.root, "--bind", str(elsewhere)):
        engine.run(mounts={tmp_path / "disk": "/disk"})  # above the other name of the tree, not above this one
        assert ask(probe, tree.database()).answer is Answer.ALIVE
        engine.clean()


@contextlib.contextmanager
def mounted(point: Path, *options: str) -> Iterator[None]:
    import subprocess

    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(point)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
