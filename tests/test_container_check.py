"""What `check` tells of containers, on real engines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import LABELS, TestEngine, Tree, labels, probing, subject_of
from tests.running import wait_until
from watcher.owner.container import ContainerProbe
from watcher.owner.engine_check import Survey, default_engine_mounts, describe, survey
from watcher.owner.testimony import Subject

pytest_plugins = ["tests.engine_fixtures"]


def subjects(*databases: Path) -> Iterator[Subject]:
    for database in databases:
        session = {"agent_group": database.parent.parent.name, "session": database.parent.name}
        with subject_of(database, session, fresh=False) as subject:
            yield subject


@pytest.fixture
def probe(engine: TestEngine, tree: Tree) -> Iterator[ContainerProbe]:
    with probing(engine, tree, labels=LABELS) as made:
        yield made


def surveyed(probe: ContainerProbe, *databases: Path) -> Survey:
    return survey(probe, subjects(*databases))


def test_the_engine_is_named_with_its_version_and_our_user(engine: TestEngine, probe: ContainerProbe) -> None:
    description = describe(probe)
    assert description.reached
    assert description.detail.lower().startswith(engine.kind)
    assert "as root" in description.detail
    assert "on this kernel" in description.detail


def test_an_engine_that_is_not_there_is_told_with_its_remedy(engine: TestEngine, tree: Tree, tmp_path: Path) -> None:
    with probing(engine, tree, engine=f"unix://{tmp_path}/none") as probe:
        description = describe(probe)
    assert not description.reached
    assert description.remedy


def test_each_session_is_told_with_its_container_and_by_what(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    container = engine.run(mounts={tree.session("s1"): "/workspace"}, labels=labels("s1"), name="jw-one")
    told = surveyed(probe, tree.database("s1"), tree.database("s2"))
    assert [(found.database, found.container, found.stray) for found in told.found] == [
        (str(tree.database("s1")), f"jw-one ({container[:12]})", False)
    ]
    assert "labels" in told.found[0].by
    assert told.without == 1


def test_a_container_that_only_its_mount_tells_is_told_as_stray(
    engine: TestEngine, tree: Tree, probe: ContainerProbe
) -> None:
    engine.run(mounts={tree.session("s1"): "/workspace"}, labels={"other": "x"})
    told = surveyed(probe, tree.database("s1"))
    assert told.found[0].stray
    assert "mount" in told.found[0].by


def test_labels_that_look_meant_are_told_as_settings(engine: TestEngine, tree: Tree) -> None:
    engine.run(labels={**labels("s1"), "unrelated": "value"})
    engine.run(labels=labels("s2"))
    with probing(engine, tree) as probe:
        told = surveyed(probe, tree.database("s1"), tree.database("s2"))
    assert 'nanoclaw-session: "{session}"' in told.meant
    assert 'nanoclaw-group: "{agent_group}"' in told.meant
    assert not any("unrelated" in line for line in told.meant)


def test_a_default_engine_that_mounts_the_tree_is_noticed(
    engine: TestEngine, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    tree.database()
    assert default_engine_mounts(tree.root) is None
    engine.run(mounts={tree.session(): "/workspace"}, name="jw-session")
    # It has little time to answer, and a loaded machine may need more.
    assert "jw-session" in wait_until(lambda: default_engine_mounts(tree.root) or "")
    engine.clean()
    engine.run(mounts={tree.root.parent: "/all"}, name="jw-all")
    assert "jw-all" in wait_until(lambda: default_engine_mounts(tree.root) or "")


def test_where_there_is_no_engine_nobody_is_kept_waiting(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/engine.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    tree.database()
    began = time.monotonic()
    assert default_engine_mounts(tree.root) is None
    assert time.monotonic() - began < 0.5
