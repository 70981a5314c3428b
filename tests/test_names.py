"""Whatever a name holds, it is shown as one printable line, and found again by it."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from watcher.names import clipped, parse_printable, printable, quoted

names = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name).map(os.fsdecode)
nasty_names = st.lists(
    st.sampled_from(
        [
            *(b"\\", b"\\\\", b"\n", b"\r", b"\t", b"\x1b[2J", b"\x7f", b"\xff", b"\xc3", b"\xc3\xa9", b"\xc2\x85"),
            *(b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xf3\xa0\x81\x81"),
            *(b"\xcd\x8f", b"\xef\xb8\x8f", b"\xf3\xa0\x84\x80", b"\xe2\xa0\x80", b"\\u034f", b"\\u2800"),
            *(b"\\n", b"\\x41", b"\\ud800", b"\\U00110000", b"'", b'"', b"$", b"`", b" ", b"-", b"!", b"x"),
        ]
    ),
    min_size=1,
    max_size=8,
).map(lambda parts: os.fsdecode(b"".join(parts)))


@given(names | nasty_names)
@example("\udcff")
def test_a_name_is_shown_as_one_printable_line(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1
    shown.encode()


@given(names | nasty_names)
@example("\\x41")
@example("\\")
def test_a_name_is_found_again_by_what_was_shown(name: str) -> None:
    assert parse_printable(printable(name)) == name


@given(names | nasty_names, names | nasty_names)
def test_no_two_names_are_shown_alike(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@given(st.text(max_size=30) | nasty_names)
def test_any_text_that_a_person_gives_stands_for_some_name(text: str) -> None:
    given_by_a_shell = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    os.fsencode(parse_printable(given_by_a_shell))


@pytest.mark.parametrize(
    "text", ["\\x00", "\\u0000", "\\ud800", "\\udfff", "\\U00110000", "\\Uffffffff", "\\q", "\\x4", "\\", "\\uFFFF"]
)
def test_what_is_no_escape_of_ours_stands_for_itself(text: str) -> None:
    assert parse_printable(text) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("outbound.db", "outbound.db"),
        ("grüße 日本.db", "grüße 日本.db"),
        ("a\nb", "a\\nb"),
        ("a\\nb", "a\\\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202etxt", "\\u202etxt"),
        ("\u00a0", "\\u00a0"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"\xff\xfe"), "\\xff\\xfe"),
    ],
)
def test_names_are_escaped_in_one_way(name: str, shown: str) -> None:
    assert printable(name) == shown


INVISIBLE = [
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0x3164, 0xFFA0),
    *(*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0x1D159, 0x16FE4),
]


@pytest.mark.parametrize("character", [*map(chr, INVISIBLE)], ids=ascii)
def test_two_names_that_look_the_same_are_shown_apart(character: str) -> None:
    name = f"outbound.db{character}"
    shown = printable(name)
    assert shown.isascii()
    assert shown == f"outbound.db{character.encode('ascii', 'backslashreplace').decode()}"
    assert parse_printable(shown) == name


def test_letters_of_every_script_stay_as_they_are() -> None:
    for name in ("한글.db", "ខ្មែរ.db", "ᠮᠣᠩᠭᠣᠯ.db", "عربى.db", "😀.db", "e\u0301.db"):
        assert printable(name) == name


def test_a_long_message_is_clipped_and_stays_one_line() -> None:
    assert clipped("x\ny") == "x\\ny"
    shown = clipped("\x1b" * 1_000_000)
    assert len(shown) < 1500
    assert shown.endswith(" …")
    assert shown.isprintable()


@pytest.mark.parametrize("letter", ["x", "\x1b", "\udcff", "\U000e0041", "\\"])
def test_what_is_clipped_to_a_length_is_no_longer_and_ends_with_no_half_of_an_escape(letter: str) -> None:
    assert clipped(letter * 10, 100) == printable(letter) * 10
    kept = clipped(letter * 4000, 200).removesuffix(" …")
    assert 190 < len(kept) <= 200
    assert parse_printable(kept) == letter * (len(kept) // len(printable(letter)))


@pytest.mark.parametrize(
    "name",
    [
        *("plain.db", "with space", "it's", 'say "x"', "$(rm -rf x)", "`id`", "a;b", "back\\slash", "new\nline", "-x"),
        *("\x1b[0m'", "*?[", "~", "#", "!", "tab\there", "\u202e", "é", os.fsdecode(b"\xff'\n\\"), "\u0085'"),
    ],
)
def test_a_path_in_an_advice_is_one_word_of_a_shell_and_printable(name: str) -> None:
    path = f"/srv/tree/{name}"
    word = quoted(path)
    assert word.isprintable()
    shell = ["bash", "-c", f"printf '%s\\0' {word}"]
    said = subprocess.run(shell, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]})
    assert said.stdout == os.fsencode(path) + b"\0"
