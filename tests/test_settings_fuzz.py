"""Whatever a file or the environment holds: settings, or a SettingsError that can be printed. Nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watcher.settings import SettingsError, load_settings
from watcher.settings.schema import key_paths

KEYS = sorted({path[-1] for path in key_paths()})
PATHS = sorted(key_paths())
ODD_TEXTS = [
    *["", "x", "{session}", "{", "}", "{a.b}", "..", "/", "~", "~x", "a/../b", "*", "[", "-", "9" * 400],
    *["30s", "64MiB", "10 MB", "null", "off", "auto", "unix:///x", "tcp://["],
    *["\0", "\ud800", "\u202e"],
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(ODD_TEXTS),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
yaml_texts = st.text(
    alphabet=st.sampled_from([*"abr:{}[],-?&*!|>'\"%@`#~ \n\t\\01._<=é\x85\u2028"]),
    max_size=60,
)

quickly = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def file() -> Path:
    return Path(tempfile.mkdtemp()) / "settings.yaml"


def expect_settings_or_an_error_for_a_person(file: Path, content: bytes, environ: dict[str, str]) -> None:
    file.write_bytes(content)
    try:
        load_settings(file, environ)
    except SettingsError as error:
        told = error
    else:
        return
    assert told.problems
    for line in str(told).splitlines():
        assert line.isprintable()
        assert len(line) < 600 + len(str(file))
        assert not any(jargon in line for jargon in ("Input should", "value_error", "pydantic", "Value error"))


@quickly
@given(data=st.binary(max_size=80))
def test_any_bytes(file: Path, data: bytes) -> None:
    expect_settings_or_an_error_for_a_person(file, data, {})


@quickly
@given(text=yaml_texts)
def test_any_text_that_looks_like_yaml(file: Path, text: str) -> None:
    expect_settings_or_an_error_for_a_person(file, text.encode(), {})


@quickly
@given(path=st.sampled_from(PATHS), value=values, layout=st.sampled_from([None, "{session}"]))
def test_any_value_at_any_key(file: Path, path: tuple[str, ...], value: object, layout: str | None) -> None:
    document: dict[str, object] = {"tree": {"root": "/srv/x", "layout": layout}}
    place = document
    for key in path[:-1]:
        inner = place.setdefault(key, {})
        assert isinstance(inner, dict)
        place = inner
    place[path[-1]] = value
    expect_settings_or_an_error_for_a_person(
        file, json.dumps(document).replace("Infinity", ".inf").replace("NaN", ".nan").encode(), {}
    )


@quickly
@given(document=st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
def test_any_document(file: Path, document: dict[str, object]) -> None:
    expect_settings_or_an_error_for_a_person(file, json.dumps(document).encode(), {})


@quickly
@given(
    name=st.sampled_from(["__".join(path) for path in PATHS]) | st.text("_abTREroot", max_size=12),
    value=st.one_of(st.sampled_from(ODD_TEXTS), yaml_texts, st.text(max_size=10)),
)
def test_any_variable(file: Path, name: str, value: str) -> None:
    expect_settings_or_an_error_for_a_person(file, b"tree: {root: /srv/x}", {f"JOURNAL_WATCHER__{name}": value})
