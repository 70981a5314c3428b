"""`tree.layout` and the texts that its fields may stand in."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.settings import Layout, expand
from watcher.settings.templates import escaped


def test_a_layout_names_what_lies_between_the_root_and_a_database() -> None:
    layout = Layout.parse("{agent_group}/x-{session}/db")

    assert layout.fields == ("agent_group", "session")
    assert layout.depth == 3
    assert str(layout) == "{agent_group}/x-{session}/db"
    assert layout.match(["g", "x-1", "db"]) == {"agent_group": "g", "session": "1"}
    assert [layout.literal(index) for index in range(3)] == [None, None, "db"]


@pytest.mark.parametrize(
    "parts",
    [[], ["g"], ["g", "x-1"], ["g", "x-1", "db", "more"], ["g", "x-", "db"], ["g", "y-1", "db"], ["", "x-1", "db"],
     ["..", "x-1", "db"], [".", "x-1", "db"], ["a/b", "x-1", "db"], ["g", "x-1", "DB"]],
)  # fmt: skip
def test_other_directories_do_not_fit(parts: list[str]) -> None:
    assert Layout.parse("{agent_group}/x-{session}/db").match(parts) is None


def test_a_directory_on_the_way_can_be_asked_about_alone() -> None:
    layout = Layout.parse("groups/x-{session}")

    assert layout.match_directory(0, "groups")
    assert not layout.match_directory(0, "group")
    assert layout.match_directory(1, "x-1")
    assert not layout.match_directory(1, "1")
    assert not layout.match_directory(2, "x-1")
    assert not layout.match_directory(-1, "x-1")


@pytest.mark.parametrize(
    ("layout", "part", "session"),
    [
        ("{a}-{b}", "x-y", {"a": "x", "b": "y"}),
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("{a}-{b}", "--y", {"a": "-", "b": "y"}),
        ("{a}-{b}", "x-", None),
        ("{a}-{b}", "-x", None),
        ("{a}-{b}", "-", None),
        ("{a}--{b}--", "x----", None),
        ("{a}--{b}--", "x--y--", {"a": "x", "b": "y"}),
        ("aba{a}aba", "ababa", None),
        ("{{{a}}}", "{x}", {"a": "x"}),
        ("{a}", "\udcff\n", {"a": "\udcff\n"}),
    ],
)
def test_a_directory_name_is_taken_apart(layout: str, part: str, session: dict[str, str] | None) -> None:
    assert Layout.parse(layout).match([part]) == session


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected directories below tree.root, such as"),
        ("/{a}", "expected directories below tree.root, such as"),
        ("x/" * 3000, "expected directories below tree.root, such as"),
        ("{a}//{b}", "an empty directory name in it"),
        ("{a}/", "an empty directory name in it"),
        ("../{a}", ".. in it; name the directories below tree.root"),
        ("./{a}", ". in it; name the directories below tree.root"),
        ("{a}{b}", "nothing stands between {a} and {b}"),
        ("{a}/{a}", "{a} stands in it twice"),
        ("{a}-{a}", "{a} stands in it twice"),
        ("{}", "{} is no field"),
        ("{a b}", "{a b} is no field"),
        ("{1}", "{1} is no field"),
        ("{a.b}", "{a.b} is no field"),
        ("{a!r}", "{a!r} is no field"),
        ("{a:>9}", "{a:>9} is no field"),
        ("{ä}", "{ä} is no field"),
        ("{a", "a { that belongs to nothing"),
        ("a}", "a } that belongs to nothing"),
        ("a\0b", "a NUL character in it"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Layout.parse(text)


def test_no_field_can_climb_out_of_a_directory() -> None:
    layout = Layout.parse("x{session}")
    assert layout.match(["x.."]) is None
    assert layout.match(["x."]) is None
    assert not layout.match_directory(0, "x..")
    assert layout.match(["x..."]) == {"session": "..."}


def test_a_hostile_directory_name_costs_nothing() -> None:
    """A regular expression of this layout would try more ways than there are seconds."""
    layout = Layout.parse("-".join(f"{{f{number}}}" for number in range(20)) + "!")
    begun = time.monotonic()

    assert layout.match(["-" * 255]) is None
    assert time.monotonic() - begun < 1


@given(values=st.lists(st.text(min_size=1, alphabet="abc"), min_size=1, max_size=5), literal=st.text("-.", min_size=1))
def test_what_was_put_together_is_taken_apart_again(values: list[str], literal: str) -> None:
    template = literal.join(f"{{f{number}}}" for number in range(len(values)))
    fields = {f"f{number}": value for number, value in enumerate(values)}

    assert Layout.parse(template).match([expand(template, fields)]) == fields


@given(layout=st.text("a-{}b", max_size=12), part=st.text("ab-", max_size=12))
def test_what_is_taken_apart_can_be_put_together_again(layout: str, part: str) -> None:
    try:
        parsed = Layout.parse(layout)
    except ValueError:
        return
    fields = parsed.match([part])
    assert fields is None or (expand(layout, fields) == part and all(fields.values()))


def test_a_field_is_replaced_by_its_value_and_by_nothing_more() -> None:
    fields = {"session": "{agent_group}{0.__class__}%s", "agent_group": "g"}

    assert expand("{{x}}/{session}.pid", fields) == "{x}/{agent_group}{0.__class__}%s.pid"


def test_a_field_that_does_not_exist_is_no_empty_text() -> None:
    with pytest.raises(KeyError, match="sesion"):
        expand("{sesion}", {"session": "1"})


@given(st.text())
def test_an_escaped_text_expands_to_itself(text: str) -> None:
    assert expand(escaped(text), {}) == text


@given(st.text("{}ab.!:[]0"))
def test_a_template_expands_or_is_refused(text: str) -> None:
    try:
        expand(text, {"a": "1", "b": "2", "ab": "3"})
    except (ValueError, KeyError):
        return
    assert text.count("{") == text.count("}") or "{{" in text or "}}" in text
