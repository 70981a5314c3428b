"""What `check` tells of containers, on real engines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines import LABELS, TestEngine, Tree, labels, probing, python, subject_of, until
from tests.running import wait_until
from tests.writers import make_database
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


# A mount that is not to be found here


def checked_inside(
    engine: TestEngine, tree: Tree, directory: Path, host_root: Path | None = None, **settings: object
) -> dict[str, Any]:
    """What `check` says in a container that has the tree at /tree and the engine's socket; the checks by name."""
    directory.mkdir()
    seen_as = None if host_root is None else str(host_root)
    asked = {"engine": "unix:///engine.sock", "labels": dict(LABELS), "timeout": "20s", **settings}
    text = yaml.safe_dump(
        {
            "tree": {"root": "/tree", "layout": "{agent_group}/{session}", "host_root": seen_as},
            "owner": {"container": asked},
        }
    )
    (directory / "settings.yaml").write_text(text, encoding="utf-8")
    repository = Path(__file__).parent.parent
    command = [str(python()), "-m", "watcher", "check", "--json", "-c", "/settings/settings.yaml"]
    container = engine.create(
        ["/bin/busybox", "env", "PYTHONPATH=/repository", *command],
        mounts={
            tree.root: "/tree",
            engine.socket_path: "/engine.sock",
            repository: "/repository:ro",
            directory: "/settings",
        },
        with_python=True,
    )
    engine.api.start(container)
    until(lambda: not engine.runs(container), "the check in the container is done")
    output = engine.api.logs(container, stdout=True, stderr=False).decode()
    engine.remove(container)
    return {each["name"]: each for each in json.loads(output)["checks"]}


def test_a_watcher_in_a_container_that_cannot_find_the_mounts_is_told_of_host_root(
    engine: TestEngine, tree: Tree, tmp_path: Path
) -> None:
    for name in ("s1", "s2"):
        make_database(tree.session(name) / "outbound.db")
    engine.run(mounts={tree.session("s1"): "/workspace"}, labels=labels("s1"), name="jw-one")
    told = checked_inside(engine, tree, tmp_path / "without")
    assert told["containers"]["detail"].startswith("1 database has a live container")
    assert told["mounts"]["level"] == "error"
    assert told["mounts"]["detail"].startswith("of 1 database nobody could say that their writer has exited")
    assert f"mounts {tree.session('s1')} read-write" in told["mounts"]["detail"]
    assert told["mounts"]["remedy"].startswith("set tree.host_root to the tree's path on the engine's host")
    assert "mounts" not in checked_inside(engine, tree, tmp_path / "with", tree.root)
    assert "mounts" not in checked_inside(engine, tree, tmp_path / "ignoring", ignore=["jw-one"])


def test_a_host_root_that_is_mistyped_is_told_by_the_mounts_that_it_hides(
    engine: TestEngine, tree: Tree, tmp_path: Path
) -> None:
    for name in ("s1", "s2"):
        make_database(tree.session(name) / "outbound.db")
    engine.run(mounts={tree.session("s1"): "/workspace"}, name="jw-one")
    told = checked_inside(engine, tree, tmp_path / "settings", tmp_path / "elsewhere", labels={})
    assert told["containers"]["detail"] == "0 databases have a live container, 2 have none"
    assert told["mounts"]["level"] == "warning"
    assert told["mounts"]["detail"].startswith("of 1 database nobody could say that their writer has exited")
    assert told["mounts"]["remedy"].startswith("see that tree.host_root is the tree's path on the engine's host")


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
