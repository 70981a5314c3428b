"""Transcripts: what may differ from run to run, and that nothing else may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.transcripts import Typed, differences, pattern_of, shell_in, typed_in

SHOWN = "2026-11-24 10:37:34.871  recovered  2      8.2 ms  s1/outbound.db"


@pytest.mark.parametrize(
    "line",
    [
        "2027-01-02 03:04:05.678  recovered  2      8.2 ms  s1/outbound.db",
        "2026-11-24 10:37:34.871  recovered  2      12.75 ms  s1/outbound.db",
        "2026-11-24 10:37:34.871  recovered    2  8.2 ms    s1/outbound.db",
    ],
)
def test_times_durations_and_the_width_of_columns_may_differ(line: str) -> None:
    assert pattern_of(SHOWN).fullmatch(line)


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-24 10:37:34.871  recovered  3      8.2 ms  s1/outbound.db",
        "2026-11-24 10:37:34.871  failed  2      8.2 ms  s1/outbound.db",
        "2026-11-24 10:37:34.871  recovered  2      8.2 ms  s2/outbound.db",
        "yesterday  recovered  2      8.2 ms  s1/outbound.db",
    ],
)
def test_nothing_else_may(line: str) -> None:
    assert not pattern_of(SHOWN).fullmatch(line)


def test_what_is_left_out_may_be_anything_and_places_are_where_they_are_here() -> None:
    pattern = pattern_of("watches /tmp/first/sessions, …; pid 7", {"/tmp/first": "/home/x"})
    assert pattern.fullmatch("watches /home/x/sessions, owners by locks; pid 4711")
    assert not pattern.fullmatch("watches /tmp/first/sessions, owners by locks; pid 4711")


def test_a_transcript_is_typed_and_its_differences_are_told(tmp_path: Path) -> None:
    first, second = typed_in("$ echo one; echo more\none\n\n$ sleep 0.1 && echo two &\n[1] 12\ntwo\n")
    with shell_in(tmp_path, os.environ) as shell:
        lines = shell.type(first.command, [pattern_of(line) for line in first.shows])
        assert differences(first, lines, {}) == "$ echo one; echo more\n+ more"
        lines = shell.type(second.command, [pattern_of(line) for line in second.shows])
        assert differences(second, lines, {}) == ""
    assert differences(Typed("true", ("never",)), [], {}) == "$ true\n- never"
