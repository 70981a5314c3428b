"""Settings from environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_settings import LAYOUT, load, mistakes
from watcher.settings.environment import Override, merge


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: ./data}", {"JOURNAL_WATCHER__TREE__ROOT": "/srv/x"})

    assert settings.tree.root == Path("/srv/x")


def test_a_variable_can_give_what_the_file_does_not(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"JOURNAL_WATCHER__TREE__ROOT": "data"}).tree.root == tmp_path / "data"


def test_names_are_read_without_regard_to_case(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: x}", {"journal_watcher__Recovery__Busy_Timeout": "5s"})

    assert settings.recovery.busy_timeout == 5


def test_a_text_stays_what_it_is(tmp_path: Path) -> None:
    environ = {
        "JOURNAL_WATCHER__INSTANCE": "0123",
        "JOURNAL_WATCHER__OWNER__LOCKS": "off",
        "JOURNAL_WATCHER__TREE__LAYOUT": "{session}",
        "JOURNAL_WATCHER__OWNER__PID_FILE": "{session}: #1",
        "JOURNAL_WATCHER__OWNER__CONTAINER__NAME": "*-{session}",
        "JOURNAL_WATCHER__OWNER__CONTAINER__ENGINE": "podman",
        "JOURNAL_WATCHER__LOG__LEVEL": "debug",
    }
    settings = load(tmp_path, "tree: {root: x}", environ)

    assert settings.instance == "0123"
    assert settings.owner.locks == "off"
    assert settings.owner.pid_file == "{session}: #1"
    assert settings.owner.container is not None
    assert (settings.owner.container.name, settings.owner.container.engine) == ("*-{session}", "podman")
    assert settings.log.level == "DEBUG"


def test_other_values_are_read_as_yaml(tmp_path: Path) -> None:
    environ = {
        "JOURNAL_WATCHER__TREE__DATABASES": '["outbound.db"]',
        "JOURNAL_WATCHER__RECOVERY__SNAPSHOT": "null",
        "JOURNAL_WATCHER__RECOVERY__WORKERS": "2",
        "JOURNAL_WATCHER__RECOVERY__MAX_JOURNAL_SIZE": "1MiB",
        "JOURNAL_WATCHER__OWNER__CONTAINER__LABELS": '{Nanoclaw: "0123"}',
        "JOURNAL_WATCHER__OWNER__HEARTBEAT": "{}",
        "JOURNAL_WATCHER__LOG__JSON": "true",
        "JOURNAL_WATCHER__LOG__ROTATION": "00:00",
        "JOURNAL_WATCHER__LOG__RETENTION": "3",
    }
    settings = load(tmp_path, "tree: {root: x}", environ)

    assert settings.tree.databases == ("outbound.db",)
    assert settings.recovery.snapshot is None
    assert settings.recovery.workers == 2
    assert settings.recovery.max_journal_size == 2**20
    assert settings.owner.container is not None
    assert settings.owner.container.labels == {"Nanoclaw": "0123"}
    assert settings.owner.heartbeat is not None
    assert settings.log.json_lines
    assert (settings.log.rotation, settings.log.retention) == ("00:00", 3)


def test_null_switches_a_text_off(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: x}\nowner: {pid_file: .pid}", {"JOURNAL_WATCHER__OWNER__PID_FILE": "null"})

    assert settings.owner.pid_file is None


@pytest.mark.parametrize("variable", ["JOURNAL_WATCHER__OWNER__PID_FILE", "JOURNAL_WATCHER__RECOVERY__WORKERS"])
def test_an_empty_variable_is_not_set(tmp_path: Path, variable: str) -> None:
    settings = load(tmp_path, "tree: {root: x}\nowner: {pid_file: .pid}\nrecovery: {workers: 2}", {variable: ""})

    assert (settings.owner.pid_file, settings.recovery.workers) == (".pid", 2)


def test_a_key_inside_wins_over_its_section(tmp_path: Path) -> None:
    environ = {
        "JOURNAL_WATCHER__RECOVERY__SNAPSHOT__KEEP": "7",
        "JOURNAL_WATCHER__RECOVERY__SNAPSHOT": "{keep: 5, required: true}",
    }
    settings = load(tmp_path, "tree: {root: x}\nrecovery: {snapshot: {max_size: 1MiB}}", environ)

    assert settings.recovery.snapshot is not None
    assert (settings.recovery.snapshot.keep, settings.recovery.snapshot.required) == (7, True)
    assert settings.recovery.snapshot.max_size == 64 * 2**20  # the section as a whole came from the environment


def test_what_is_overridden_is_itself_left_alone() -> None:
    data: dict[str, object] = {"watch": {"backend": "auto"}}
    section = Override("A", ("recovery",), {"workers": 1})

    merged = merge(data, [section, Override("B", ("recovery", "workers"), 2), Override("C", ("watch", "backend"), "x")])

    assert merged == {"watch": {"backend": "x"}, "recovery": {"workers": 2}}
    assert data == {"watch": {"backend": "auto"}}
    assert section.value == {"workers": 1}


@pytest.mark.parametrize("snapshot", ["null", "", "{keep: 2}"])
def test_a_key_inside_begins_its_section(tmp_path: Path, snapshot: str) -> None:
    text = f"tree: {{root: x}}\nrecovery: {{snapshot: {snapshot}}}"
    settings = load(tmp_path, text, {"JOURNAL_WATCHER__RECOVERY__SNAPSHOT__KEEP": "7"})

    assert settings.recovery.snapshot is not None
    assert settings.recovery.snapshot.keep == 7


def test_variables_of_others_are_none_of_ours(tmp_path: Path) -> None:
    others = {"JOURNAL_WATCHER_PORT": "x", "JOURNAL_WATCHER_CONFIG": "/nowhere", "JOURNAL": "x", "TREE__ROOT": "x"}

    assert load(tmp_path, "tree: {root: x}", others) == load(tmp_path, "tree: {root: x}")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TREE__ROT", "x", "tree.rot: unknown key; did you mean JOURNAL_WATCHER__TREE__ROOT?"),
        ("TREE__ROT", "", "tree.rot: unknown key; did you mean JOURNAL_WATCHER__TREE__ROOT?"),
        ("TREE_ROOT", "x", "tree_root: unknown key; did you mean JOURNAL_WATCHER__TREE__ROOT?"),
        ("WORKERS", "2", "workers: unknown key; did you mean recovery.workers?"),
        ("OWNER__CONTAINER__LABELS__A", "x", "did you mean JOURNAL_WATCHER__OWNER__CONTAINER__LABELS?"),
        ("FILE", "x", "file: unknown key"),
        ("", "x", '"": unknown key; the keys here are instance, state_dir, tree'),
        ("BOGUS__DEEPER__STILL", "x", "unknown key; the keys here are instance, state_dir, tree"),
        ("TREE__BOGUS", "x", "tree.bogus: unknown key; "),
        ("TREE__", "x", 'tree."": unknown key'),
        ("TREE__ROOT__", "x", "unknown key; did you mean JOURNAL_WATCHER__TREE__ROOT?"),
        ("RECOVERY__WORKERS", "many", 'recovery.workers: expected a whole number from 1 to 64, got "many"'),
        ("RECOVERY__WORKERS", "[", "recovery.workers: line 1, column 2: not YAML: "),
        ("RECOVERY", "5", "recovery: expected keys below it (settle, "),
        ("RECOVERY", "{workers: 5, workers: 6}", "recovery.workers: written twice, in line 1 and in line 1"),
        ("RECOVERY", "{workers: 0}", "recovery.workers: expected a whole number from 1 to 64, got 0"),
        ("RECOVERY__SNAPSHOT", "{kep: 1}", "recovery.snapshot.kep: unknown key; did you mean recovery.snapshot.keep?"),
        ("RECOVERY__RETRY__FIRST", "10m", "recovery.retry.max: expected at least recovery.retry.first (10m), got 5m"),
        ("TREE__DATABASES", "outbound.db", 'got "outbound.db"; write ["outbound.db"]'),
        ("OWNER__COMMAND", "{timeout: 5s}", "owner.command.argv: this key is required"),
        ("OWNER__CONTAINER__MOUNTS", "false", "owner.container: expected labels, a name, or mounts: true"),
        ("OWNER__PID_FILE", "{sesion}", "owner.pid_file: there is no field {sesion}; tree.layout names {agent_group}"),
        ("OWNER__LOCKS", "x" * 9999, 'owner.locks: expected auto, trust or off, got "xxxx'),
        ("STATE_DIR", "data/x", "state_dir: expected a directory outside tree.root"),
        ("TREE__ROOT", ".", "state_dir: expected a directory outside tree.root"),
        ("INSTANCE", "\udcff", 'got "\\xff"'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_variable_names_it(tmp_path: Path, variable: str, value: str, told: str) -> None:
    (line,) = mistakes(tmp_path, LAYOUT, {f"JOURNAL_WATCHER__{variable}": value})

    assert line.startswith(f"JOURNAL_WATCHER__{variable}: ")
    assert told in line
    assert len(line) < 400


def test_a_mistake_in_the_file_names_the_file_beside_a_variable(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path, "tree: {root: x}\nrecovery: {workers: many}", {"JOURNAL_WATCHER__RECOVERY__SETTLE": "soon"}
    )

    assert [line.split(": ")[:2] for line in lines] == [
        ["JOURNAL_WATCHER__RECOVERY__SETTLE", "recovery.settle"],
        ["settings.yaml", "recovery.workers"],
    ]


def test_two_spellings_of_one_variable_are_a_mistake(tmp_path: Path) -> None:
    environ = {"JOURNAL_WATCHER__TREE__ROOT": "a", "journal_watcher__tree__root": "b"}

    assert mistakes(tmp_path, "", environ) == [
        "journal_watcher__tree__root: tree.root: already set by JOURNAL_WATCHER__TREE__ROOT"
    ]


def test_variables_are_told_of_when_the_file_cannot_be_read(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "a: [", {"JOURNAL_WATCHER__TREE__ROT": "x"})

    assert [line.split(": ")[0] for line in lines] == ["settings.yaml", "JOURNAL_WATCHER__TREE__ROT"]


def test_a_section_of_the_file_that_is_none_stays_the_mistake_that_it_is(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "tree: {root: x}\nwatch: 5", {"JOURNAL_WATCHER__WATCH__BACKEND": "native"})

    assert "watch: expected keys below it" in line


def test_bytes_that_are_no_text_can_name_a_root(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"JOURNAL_WATCHER__TREE__ROOT": "/srv/\udcff"}).tree.root == Path("/srv/\udcff")
