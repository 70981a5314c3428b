"""The settings file as YAML: what is read, what is refused, how fast, and in what words."""

from __future__ import annotations

import textwrap
import time

import pytest

from watcher.settings.document import parse
from watcher.settings.errors import EMPTY, UnfitError


def read(text: str) -> object:
    data, problems = parse(textwrap.dedent(text))
    assert problems == []
    return data


def refusal(text: str) -> str:
    with pytest.raises(UnfitError) as told:
        parse(text)
    return str(told.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("1:30", "1:30"),
        ("2026-11-24", "2026-11-24"),
        ("2026-11-24T08:31:37Z", "2026-11-24T08:31:37Z"),
        ("1_000", "1_000"),
        ("<<", "<<"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", EMPTY),
        ("''", ""),
        ("!!null ''", None),
        ("!!str", ""),
        ("0123", 123),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("9" * 21, "9" * 21),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        ("!!str 5", "5"),
        ("'5'", "5"),
        ('"\\x41\\n"', "A\n"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('"\\ud83d"', "\ud83d"),
        ("[1, a]", [1, "a"]),
        ("{a: 1, b: }", {"a": 1, "b": EMPTY}),
        ("{on: 1, 2x: 2}", {"on": 1, "2x": 2}),
        ("\ufeffa: b", {"a": "b"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    found = read(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b: c", "line 1, column 5: not YAML: mapping values are not allowed here"),
        ("a:\n  - x\n b: c", "line 3, column 2: not YAML: "),
        ("a: [1, 2\nb: 3", "(while parsing a flow sequence that begins in line 1)"),
        ("a: 'x\nb: 3\n", "found unexpected end of stream (while scanning a quoted scalar that begins in line 1)"),
        ("a:\n\tb: c", "line 2, column 1: not YAML: a tab; it is indented with spaces"),
        ("a: *.db", "line 1, column 5: not YAML: expected alphabetic or numeric character, but found '.'"),
        ("a: *.db", 'a value that begins with {, * or & needs quotes: "{session}", "*.db"'),
        ("a: {session}.pid", 'a value that begins with {, * or & needs quotes: "{session}", "*.db"'),
        ("a: @x", "line 1, column 4: not YAML: found character '@' that cannot start any token"),
        ("a: 1\n---\nb: 2", "line 2, column 1: not YAML: but found another document"),
        ("a: 'b\x00'", "line 1, column 6: a control character, \\x00"),
        ("a: 1\nb: \x1b[31m", "line 2, column 4: a control character, \\x1b"),
        ('a: "\\U7fffffff"', "line 1, column 7: not YAML: a number that means nothing here"),
        ('a: "\\UFFFFFFFF"', "not YAML: a number that means nothing here"),
        (f"%YAML {'9' * 5000}.1\n---\na: 1", "not YAML: a number that means nothing here"),
        ("a: !<tag:x> b: c", "line 1, column 14: not YAML: "),
        ("a: &x 1", "line 1, column 4: &name and *name are not possible here"),
        ("a: &x [*x]", "line 1, column 4: &name and *name are not possible here"),
        ("&x {? *x : *x}", "&name and *name are not possible here"),
        ("a: *x", "line 1, column 4: not YAML: found undefined alias 'x'"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_told_with_line_and_column(text: str, told: str) -> None:
    assert told in refusal(text)


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("a: 1\nb: 2\na: 3", "a", "written twice, in line 1 and in line 3"),
        ("a: {b: 1, b: 2}", "a.b", "written twice, in line 1 and in line 1"),
        ("a: {1: x}", "a", 'expected a text for a key in line 1, got the key "1"'),
        ("null: x", "", 'expected a text for a key in line 1, got the key "null"'),
        ('a: {"\\ud83d": x}', "a", 'in line 1, got "\\ud83d", which has no UTF-8 form'),
        ("? [a]\n: x", "", "expected a text for a key in line 1, got a list or a mapping"),
        ("a: !!python/object/apply:os.system [ls]", "a", "got the tag !!python/object/apply:os.system in line 1"),
        ("a: [1, !x y]", "a[1]", "expected a plain value, got the tag !x in line 1"),
        ("a: !!binary aGk=", "a", "got the tag !!binary"),
        ("a: !!set {b}", "a", "got the tag !!set"),
        ("a: !!int x", "a", "got the tag !!int"),
        ("a: !!int ''", "a", "got the tag !!int"),
        ("a: !!int 1:30", "a", "got the tag !!int"),
        ("a: !!float x", "a", "got the tag !!float"),
        ("a: !!bool yes", "a", "got the tag !!bool"),
        ("a: !!map x", "a", "got the tag !!map"),
        ("a: !!str [x]", "a", "got the tag !!str"),
        (f"a: !{'x' * 5000} y", "a", "got the tag !" + "x" * 59 + "… in line 1"),
    ],
)
def test_what_is_wrong_in_one_place_leaves_the_rest_readable(text: str, path: str, told: str) -> None:
    data, (problem,) = parse(text + "\nrest: 1")

    assert isinstance(data, dict)
    assert data["rest"] == 1
    assert problem.path == path
    assert told in problem.message


def test_of_a_key_that_is_written_twice_the_first_counts() -> None:
    assert parse("a: 1\na: 2")[0] == {"a": 1}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 900_000, id="brackets"),
        pytest.param("{" * 900_000, id="braces"),
        pytest.param("- " * 400_000, id="dashes"),
        pytest.param("? " * 400_000, id="questions"),
        pytest.param("\n".join(" " * depth + "a:" for depth in range(1000)), id="stairs"),
        pytest.param("- a\n" * 200_000, id="entries"),
        pytest.param("[" + "a," * 400_000, id="entries in one line"),
        pytest.param("a: &a [x,x]\n" + "".join(f"{c}: &{c} [*a,*a]\n" for c in "bcdefghijklmnop"), id="alias bomb"),
        pytest.param("a: &a [*a, *a]", id="recursive alias"),
    ],
)
def test_a_bomb_is_refused_at_once(text: str) -> None:
    begun_s = time.process_time()  # on a machine with other things to do it may well wait for its turn

    refusal(text)

    assert time.process_time() - begun_s < 5  # some 0.2 here; unbounded, most take minutes or the whole memory


def test_thirty_levels_are_not_too_deep() -> None:
    assert read("[" * 30 + "]" * 30) != EMPTY
