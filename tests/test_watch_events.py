"""What is kept of the raw events of inotify."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from watcher.hints.inotify_events import RIPE, Closed, DirectoryEvent, In, is_deletion, is_lone_journal, sift

JOURNAL = b"outbound.db-journal"


def event(wd: int, mask: int, name: bytes = b"", cookie: int = 0) -> bytes:
    """An event as the kernel writes it: the name with at least one NUL behind it, padded to 16 bytes."""
    padded = name + bytes(16 - len(name) % 16) if name else b""
    return struct.pack("=iIII", wd, mask, cookie, len(padded)) + padded


def survivors(*events: bytes) -> list[tuple[int, bytes]]:
    closed: Closed = {}
    sift(b"".join(events), closed, 1)
    return [(wd, name.rstrip(b"\0")) for wd, name in closed]


def test_a_closed_journal_is_kept() -> None:
    assert survivors(event(3, In.CLOSE_WRITE, JOURNAL)) == [(3, JOURNAL)]


def test_a_journal_moved_into_place_is_kept() -> None:
    assert survivors(event(3, In.MOVED_TO, JOURNAL, cookie=7)) == [(3, JOURNAL)]


def test_a_commit_leaves_nothing() -> None:
    commit = event(3, In.CREATE, JOURNAL) + event(3, In.CLOSE_WRITE, JOURNAL) + event(3, In.DELETE, JOURNAL)
    assert survivors(commit * 50) == []


def test_the_crash_after_many_commits_is_kept_once() -> None:
    commit = event(3, In.CLOSE_WRITE, JOURNAL) + event(3, In.DELETE, JOURNAL)
    assert survivors(commit * 50, event(3, In.CLOSE_WRITE, JOURNAL)) == [(3, JOURNAL)]


def test_several_closes_of_one_journal_are_one() -> None:
    assert survivors(*[event(3, In.CLOSE_WRITE, JOURNAL)] * 9) == [(3, JOURNAL)]


def test_the_same_name_in_another_directory_is_another_journal() -> None:
    assert survivors(event(3, In.CLOSE_WRITE, JOURNAL), event(4, In.DELETE, JOURNAL)) == [(3, JOURNAL)]


def test_a_journal_that_was_moved_away_is_forgotten() -> None:
    assert survivors(event(3, In.CLOSE_WRITE, JOURNAL), event(3, In.MOVED_FROM, JOURNAL, cookie=1)) == []


def test_names_that_only_resemble_a_journal_are_dropped() -> None:
    names = [b"outbound.db", b"outbound.db-journal2", b"x-journal-", b"journal", b"-journa", b"a" * 255]
    assert survivors(*(event(3, In.CLOSE_WRITE, name) for name in names)) == []


def test_the_longest_name_is_kept() -> None:
    name = b"\xff" * 247 + b"-journal"
    assert survivors(event(3, In.CLOSE_WRITE, name), event(4, In.CLOSE_WRITE, b"x-journal")) == [
        (3, name),
        (4, b"x-journal"),
    ]


def test_a_journal_keeps_the_turn_of_its_first_close() -> None:
    closed: Closed = {}
    sift(event(3, In.CLOSE_WRITE, JOURNAL), closed, 1)
    sift(event(3, In.CLOSE_WRITE, JOURNAL), closed, 2)
    assert list(closed.values()) == [1]


def test_a_journal_deleted_and_closed_again_is_a_new_one() -> None:
    closed: Closed = {}
    sift(event(3, In.CLOSE_WRITE, JOURNAL), closed, 1)
    sift(event(3, In.DELETE, JOURNAL) + event(3, In.CLOSE_WRITE, JOURNAL), closed, 2)
    assert list(closed.values()) == [2]


def test_a_journal_whose_database_was_closed_behind_it_is_ripe() -> None:
    closed: Closed = {}
    sift(event(3, In.CLOSE_WRITE, JOURNAL) + event(3, In.CLOSE_WRITE, b"outbound.db"), closed, 1)
    assert list(closed.values()) == [RIPE]


def test_the_close_of_another_database_ripens_nothing() -> None:
    closed: Closed = {}
    others = event(4, In.CLOSE_WRITE, b"outbound.db") + event(3, In.CLOSE_WRITE, b"inbound.db")
    sift(event(3, In.CLOSE_WRITE, JOURNAL) + others, closed, 1)
    assert list(closed.values()) == [1]


def test_a_journal_closed_again_is_no_longer_ripe() -> None:
    closed: Closed = {}
    sift(event(3, In.CLOSE_WRITE, JOURNAL) + event(3, In.CLOSE_WRITE, b"outbound.db"), closed, 1)
    sift(event(3, In.CLOSE_WRITE, JOURNAL), closed, 2)
    assert list(closed.values()) == [2]


def test_a_journal_behind_which_nothing_has_come_for_long_is_ripe() -> None:
    closed: Closed = {}
    sift(event(3, In.CLOSE_WRITE, JOURNAL), closed, RIPE)
    assert list(closed.values()) == [RIPE]


def test_only_a_single_event_about_a_journal_is_a_lone_one() -> None:
    close = event(3, In.CLOSE_WRITE, JOURNAL)
    assert is_lone_journal(close)
    assert not is_lone_journal(close * 2)
    assert not is_lone_journal(close + event(3, In.CLOSE_WRITE, b"outbound.db"))
    assert not is_lone_journal(event(3, In.CLOSE_WRITE, b"outbound.db"))


def test_a_delete_and_a_move_out_are_deletions() -> None:
    assert is_deletion(event(3, In.DELETE, JOURNAL))
    assert is_deletion(event(3, In.MOVED_FROM, JOURNAL, cookie=1))
    assert not is_deletion(event(3, In.CLOSE_WRITE, JOURNAL))
    assert not is_deletion(event(3, In.MOVED_TO, JOURNAL, cookie=1))


def test_what_happens_to_directories_is_handed_on_in_order() -> None:
    gulp = (
        event(1, In.CREATE | In.ISDIR, b"x")
        + event(1, In.DELETE | In.ISDIR, b"x")
        + event(2, In.IGNORED)
        + event(-1, In.Q_OVERFLOW)
        + event(1, In.MOVED_TO | In.ISDIR, b"y-journal", cookie=5)
    )
    closed: Closed = {}
    assert sift(gulp, closed, 1) == [
        DirectoryEvent(1, In.CREATE | In.ISDIR, b"x"),
        DirectoryEvent(1, In.DELETE | In.ISDIR, b"x"),
        DirectoryEvent(2, In.IGNORED, b""),
        DirectoryEvent(-1, In.Q_OVERFLOW, b""),
        DirectoryEvent(1, In.MOVED_TO | In.ISDIR, b"y-journal"),
    ]
    assert closed == {}


EVENTS = st.tuples(
    st.integers(1, 3),
    st.sampled_from(
        [
            *(In.CLOSE_WRITE, In.MOVED_TO, In.MOVED_FROM, In.CREATE, In.DELETE),
            *(In.CREATE | In.ISDIR, In.DELETE | In.ISDIR, In.MOVED_TO | In.ISDIR),
        ]
    ),
    st.sampled_from([b"a-journal", b"b-journal", b"b", b"a-much-longer-name-than-others-journal"]),
)


Told = list[tuple[int, In, bytes]]


@given(st.lists(EVENTS, max_size=40), st.lists(EVENTS, max_size=10))
def test_it_is_as_if_every_event_were_taken_in_its_order(first: Told, then: Told) -> None:
    _expect_what_came_last(first, then)


OF_ONE_SIZE = EVENTS.filter(lambda told: len(told[2]) < 16)
AGAIN_AND_AGAIN = st.lists(
    st.tuples(st.lists(OF_ONE_SIZE, min_size=1, max_size=5), st.integers(1, 60)), max_size=8
).map(lambda runs: [told for each, times in runs for told in each * times])


@given(AGAIN_AND_AGAIN, AGAIN_AND_AGAIN)
def test_so_it_is_where_busy_writers_say_the_same_again_and_again(first: Told, then: Told) -> None:
    _expect_what_came_last(first, then)


def _expect_what_came_last(first: Told, then: Told) -> None:
    expected: dict[tuple[int, bytes], int] = {}
    for turn, gulp in enumerate((first, then)):
        for wd, mask, name in gulp:
            if mask in {In.CLOSE_WRITE, In.MOVED_TO} and name.endswith(b"-journal"):
                if expected.get((wd, name), RIPE) == RIPE:
                    expected[wd, name] = turn
            elif mask in {In.CLOSE_WRITE, In.MOVED_TO}:
                if (wd, name + b"-journal") in expected:
                    expected[wd, name + b"-journal"] = RIPE
            elif mask in {In.DELETE, In.MOVED_FROM}:
                expected.pop((wd, name), None)
    closed: Closed = {}
    for turn, gulp in enumerate((first, then)):
        directories = sift(b"".join(event(*each) for each in gulp), closed, turn)
        # Of those that are alike the last one stands for all.
        assert directories == [
            DirectoryEvent(*each)
            for place, each in enumerate(gulp)
            if each[1] & In.ISDIR and each not in gulp[place + 1 :]
        ]
    assert {(wd, name.rstrip(b"\0")): turn for (wd, name), turn in closed.items()} == expected
