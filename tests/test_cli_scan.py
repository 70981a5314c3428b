"""scan: every journal with its state, the owner's verdict and the decision, and nothing is touched."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.running import Runner
from tests.writers import CrashedPair, crash, journal_of, make_database, writing

ENTRY = ["database", "journal", "session", "state", "size", "owner", "decision", "reason"]


def named_super_journal(pair: CrashedPair) -> bytes:
    """The journal as a transaction over several databases would have left it: a super-journal's name behind it."""
    name = b"/workspace/outbound.db-mj1A2B3C4D"
    trailer = struct.pack(">I", len(name)) + struct.pack(">I", sum(name)) + bytes.fromhex("d9d505f920a163d7")
    return pair.journal + struct.pack(">I", 0x40000000 // 1024 + 1) + name + trailer


def put_each_state(root: Path, pair: CrashedPair) -> None:
    """A journal of each state, in the directory of that name."""
    for name in ("empty", "zeroed", "malformed", "super", "unsafe"):
        (root / name).mkdir()
        make_database(root / name / "x.db")
    pair.put(root / "hot" / "x.db")
    (root / "empty" / "x.db-journal").touch()
    (root / "zeroed" / "x.db-journal").write_bytes(bytes(1024))
    (root / "malformed" / "x.db-journal").write_bytes(b"no header at all" * 64)
    (root / "super" / "x.db").write_bytes(pair.database)
    (root / "super" / "x.db-journal").write_bytes(named_super_journal(pair))
    (root / "unsafe" / "x.db-journal").symlink_to("/etc/passwd")
    pair.put(root / "foreign" / "x.db").write_bytes(b"this is somebody's diary")
    pair.put(root / "orphan" / "x.db").unlink()
    pair.put(root / "blocks_nobody" / "x.db").write_bytes(b"")


def by_directory(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(each["database"]).parent.name: each for each in told["journals"]}


def test_each_state_is_told_with_its_decision(runner: Runner, crashed: CrashedPair) -> None:
    put_each_state(runner.root, crashed)
    told = runner.json("scan")
    assert list(told) == ["tree", "journals"]
    assert told["tree"] == str(runner.root)
    found = by_directory(told)
    assert {name: (each["state"], each["decision"]) for name, each in found.items()} == {
        "blocks_nobody": ("hot", "ignore"),
        "empty": ("empty", "ignore"),
        "foreign": ("foreign", "refuse"),
        "hot": ("hot", "recover"),
        "malformed": ("malformed", "recover"),
        "orphan": ("orphan", "refuse"),
        "super": ("super", "refuse"),
        "unsafe": ("unsafe", "refuse"),
        "zeroed": ("zeroed", "ignore"),
    }
    for each in found.values():
        assert list(each) == ENTRY
        assert each["journal"] == f"{each['database']}-journal"
        assert each["size"] == os.lstat(each["journal"]).st_size
        assert each["session"] == {}
        assert each["reason"]
        assert (each["owner"] is None) == (each["decision"] in {"ignore", "refuse"})
    assert [each["database"] for each in told["journals"]] == sorted(each["database"] for each in told["journals"])


def test_the_owners_evidence_is_told_probe_by_probe(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "x.db")
    (entry,) = runner.json("scan")["journals"]
    assert list(entry["owner"]) == ["verdict", "evidence"]
    assert [list(each) for each in entry["owner"]["evidence"]] == [["probe", "verdict", "detail"]] * 2
    assert [(each["probe"], each["verdict"]) for each in entry["owner"]["evidence"]] == [
        ("boot", "silent"),
        ("locks", "exited"),
    ]


def test_the_fields_of_the_layout_are_told(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(tree={"layout": "{agent_group}/{session}"})
    crashed.put(runner.root / "cats" / "s1" / "x.db")
    crashed.put(runner.root / "cats" / "too" / "deep" / "x.db")
    (entry,) = runner.json("scan")["journals"]
    assert entry["session"] == {"agent_group": "cats", "session": "s1"}


def test_a_scan_changes_nothing(runner: Runner, crashed: CrashedPair) -> None:
    put_each_state(runner.root, crashed)

    def everything() -> dict[str, tuple[int, int, int]]:
        paths = [runner.root, *runner.root.rglob("*")]
        return {str(each): (each.lstat().st_mtime_ns, each.lstat().st_size, each.lstat().st_ino) for each in paths}

    before = everything()
    assert runner.command("scan").returncode == 1
    assert everything() == before
    assert not runner.state.exists()


def nothing(_root: Path, _pair: CrashedPair) -> None:
    pass


def cold(root: Path, _pair: CrashedPair) -> None:
    make_database(root / "x.db")
    (root / "x.db-journal").write_bytes(bytes(512))


def stale(root: Path, pair: CrashedPair) -> None:
    pair.put(root / "x.db")


def refused(root: Path, pair: CrashedPair) -> None:
    pair.put(root / "x.db").unlink()


@pytest.mark.parametrize(("made", "status"), [(nothing, 0), (cold, 0), (stale, 1), (refused, 1)])
def test_the_status_says_whether_anything_is_stale(
    runner: Runner, crashed: CrashedPair, made: Callable[[Path, CrashedPair], None], status: int
) -> None:
    made(runner.root, crashed)
    done = runner.command("scan")
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout


def test_what_nobody_can_know_is_held(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"})
    crashed.put(runner.root / "x.db")
    (entry,) = runner.json("scan")["journals"]
    assert (entry["owner"]["verdict"], entry["decision"]) == ("unknown", "hold")
    assert runner.command("scan").returncode == 1


def test_a_live_writers_journal_is_not_stale_until_it_outlasts_hold_warning(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        (entry,) = runner.json("scan")["journals"]
        assert (entry["state"], entry["owner"]["verdict"], entry["decision"]) == ("hot", "alive", "wait")
        assert str(writer.pid) in entry["reason"]
        assert runner.command("scan").returncode == 0
        runner.configure(watch={"hold_warning": "0s"})
        assert runner.command("scan").returncode == 1


def test_patterns_and_exclusions_leave_out_what_is_none_of_ours(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(tree={"databases": ["out*.db"], "exclude": ["node_modules"]})
    crashed.put(runner.root / "a" / "outbound.db")
    crashed.put(runner.root / "a" / "inbound.db")
    crashed.put(runner.root / "node_modules" / "outbound.db")
    assert [each["database"] for each in runner.json("scan")["journals"]] == [f"{runner.root}/a/outbound.db"]


def test_a_missing_root_is_said(runner: Runner) -> None:
    runner.root.rmdir()
    done = runner.command("scan")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"journal-watcher: {runner.root}: no such file or directory (tree.root)\n"
    runner.root.write_text("a file")
    done = runner.command("scan")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"journal-watcher: {runner.root}: not a directory (tree.root)\n"


def test_names_that_a_hostile_tree_may_have_come_as_one_printable_line(runner: Runner, crashed: CrashedPair) -> None:
    names = ["new\nline.db", "quo\"te'.db", "--dash.db", "esc\x1b[31m.db", "tab\t.db", os.fsdecode(b"\xff\xfe.db")]
    for name in names:
        crashed.put(runner.root / name)
    told = runner.json("scan")["journals"]
    shown = {"new\\nline.db", "quo\"te'.db", "--dash.db", "esc\\x1b[31m.db", "tab\\t.db", "\\xff\\xfe.db"}
    assert {Path(each["database"]).name for each in told} == shown
    lines = runner.command("scan").stdout.splitlines()
    assert len(lines) == 1 + len(names)
    assert {line.split("\t")[4] for line in lines[1:]} == shown
    assert all(line.replace("\t", "").isprintable() for line in lines)


def test_a_writer_at_work_is_never_taken_for_dead(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        for _ in range(3):
            writer.tell("begin")
            writer.tell("COMMIT")
            writer.tell("begin")
            found = runner.json("scan")["journals"]
            writer.tell("COMMIT")
            assert [each["decision"] for each in found] == ["wait"]


def test_a_crash_is_found_as_it_is_left(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    crash(database)
    (entry,) = runner.json("scan")["journals"]
    assert (entry["state"], entry["decision"], entry["size"]) == ("hot", "recover", journal_of(database).stat().st_size)
