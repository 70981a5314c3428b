"""What is said of a watch that is not whole names the remedy that helps."""

from __future__ import annotations

import pytest

from watcher.announcements import of_trouble
from watcher.hints.trouble import Trouble
from watcher.records.events import Event
from watcher.records.status import Watch

LIMITS = ["fs.inotify.max_user_watches", "fs.inotify.max_user_instances", "LimitNOFILE=", "memory to"]


@pytest.mark.parametrize(
    ("trouble", "limit"),
    [
        (Trouble.WATCH_LIMIT, "fs.inotify.max_user_watches"),
        (Trouble.INSTANCE_LIMIT, "fs.inotify.max_user_instances"),
        (Trouble.DESCRIPTORS, "LimitNOFILE="),
        (Trouble.MEMORY, "memory to"),
    ],
)
def test_each_shortage_has_its_own_remedy_and_no_other(trouble: Trouble, limit: str) -> None:
    event, message = of_trouble(trouble, Watch(backend="inotify", directories=5, missed=2))
    assert event is Event.WATCH_LIMIT
    assert [each for each in LIMITS if each in message] == [limit]


def test_how_many_directories_are_missed_is_said_where_some_are() -> None:
    assert "1 directory is not watched" in of_trouble(Trouble.DESCRIPTORS, Watch(missed=1))[1]
    assert "7 directories are not watched" in of_trouble(Trouble.WATCH_LIMIT, Watch(missed=7))[1]
    assert "the tree is not watched" in of_trouble(Trouble.DESCRIPTORS, Watch(missed=0))[1]
