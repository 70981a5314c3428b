"""settings.example.yaml: valid as it stands, complete, and telling the truth about the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.test_settings import load
from watcher.settings import HeartbeatSettings, load_settings
from watcher.settings.schema import field_at, key_paths
from watcher.settings.section import section_of

EXAMPLE = Path(__file__).parent.parent / "settings.example.yaml"

OF_NANOCLAW = {("tree", "layout"), ("tree", "databases"), ("owner", "container"), ("owner", "container", "labels")}
"""What the example sets, since it is the set-up of an installation and not only a list of defaults."""

EXAMPLES = {("instance",), ("tree", "root"), ("owner", "command", "argv")}
"""What has no default, or none that could be shown."""

WITH_DEFAULT = [
    path
    for path in key_paths()
    if path not in OF_NANOCLAW | EXAMPLES and (field := field_at(path)) is not None and section_of(field) is None
]

OFF_BY_DEFAULT = {"heartbeat", "file: .heartbeat", "max_age: 10s", "command", "argv", "timeout: 5s"}
"""Lines of the two sections that are commented out as a whole: each is of no use alone."""

COMMENTED = [
    line
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
    if (match := re.match(r" *#(([a-z_]+):(?: [.0-9a-z]+)?)", line)) and not OFF_BY_DEFAULT & {match[1], match[2]}
]


def uncommented() -> str:
    """The example with every setting in it taken out of its comment."""
    return re.sub(r"^( *)#(?=[a-z])", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def value_at(settings: object, path: tuple[str, ...]) -> object:
    for key in path:
        settings = getattr(settings, "json_lines" if key == "json" else key)
    return settings


def test_it_is_the_nanoclaw_installation_as_it_stands(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE.read_text(encoding="utf-8"))

    minimal = load(tmp_path, "tree: {root: ./data/v2-sessions}")
    assert settings.tree.root == tmp_path / "data/v2-sessions"
    assert settings.tree.layout == "{agent_group}/{session}"
    assert settings.tree.databases == ("outbound.db",)
    assert settings.owner.container is not None
    assert settings.owner.container.model_dump() == {
        "engine": "docker",
        "labels": {"nanoclaw-session": "{session}", "nanoclaw-group": "{agent_group}"},
        "name": None,
        "mounts": True,
        "ignore": (),
        "timeout": 2.0,
    }
    assert settings.owner.heartbeat is None
    same = {"tree", "owner"}
    assert settings.model_dump(exclude=same) == minimal.model_dump(exclude=same)
    assert settings.owner.model_dump(exclude={"container"}) == minimal.owner.model_dump(exclude={"container"})


def test_it_loads_from_where_it_is() -> None:
    assert load_settings(EXAMPLE, {}).file == EXAMPLE


def test_every_key_occurs_in_it() -> None:
    document = yaml.safe_load(uncommented())
    missing = []
    for path in key_paths():
        place = document
        for key in path:
            if not isinstance(place, dict) or key not in place:
                missing.append(path)
                break
            place = place[key]
    assert missing == []


def test_every_key_is_explained_right_above_it_or_above_its_group() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *#?[a-z_]+:", line) and not before.strip()
    ]
    assert bare == []


@pytest.mark.parametrize("path", WITH_DEFAULT, ids=".".join)
def test_the_value_that_it_shows_is_the_default(tmp_path: Path, path: tuple[str, ...]) -> None:
    shown = load(tmp_path, uncommented())
    default = load(tmp_path, "tree: {root: x}\nowner: {container: {}, heartbeat: {}, command: {argv: [x]}}")

    assert value_at(shown, path) == value_at(default, path)


@pytest.mark.parametrize(("path", "default"), [(("tree", "layout"), "null"), (("tree", "databases"), '["*"]')])
def test_the_default_of_what_it_sets_is_in_the_words_above(path: tuple[str, ...], default: str) -> None:
    before, _, _ = EXAMPLE.read_text(encoding="utf-8").partition(f"\n  {path[-1]}: ")

    assert f"Default: {default}" in before.rpartition("\n\n")[2]


def test_the_optional_sections_that_it_shows_have_their_defaults(tmp_path: Path) -> None:
    owner = load(tmp_path, uncommented()).owner

    assert owner.heartbeat == HeartbeatSettings()
    assert owner.command is not None
    assert owner.command.argv == (f"{tmp_path}/alive.sh", "{session}")


def test_most_lines_are_commented_out() -> None:
    assert len(COMMENTED) > 25


@pytest.mark.parametrize("line", COMMENTED, ids=str.strip)
def test_any_one_line_may_be_taken_out_of_its_comment(tmp_path: Path, line: str) -> None:
    before = EXAMPLE.read_text(encoding="utf-8")
    after = before.replace(f"\n{line}\n", "\n" + line.replace("#", "", 1) + "\n")

    assert after != before
    settings = load(tmp_path, after)
    assert settings.model_dump(exclude={"instance"}) == load(tmp_path, before).model_dump(exclude={"instance"})
