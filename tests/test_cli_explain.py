"""explain, and how a person may name a database: by its path or its journal's, however it is spelled."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.running import Runner
from tests.writers import CrashedPair, journal_of, make_database, reading, writing
from watcher.names import printable

ENTRY = ["database", "journal", "session", "state", "size", "owner", "decision", "reason"]
MORE = ["header", "super_journal", "by_hand"]


def test_a_stale_journal_is_explained_field_by_field(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "s1" / "outbound.db")
    told = runner.json("explain", database)
    assert list(told) == ENTRY + MORE
    assert (told["state"], told["decision"], told["size"]) == ("hot", "recover", len(crashed.journal))
    assert told["header"] == {
        "magic": "d9d505f920a163d7",
        "records": int.from_bytes(crashed.journal[8:12], "big"),
        "nonce": int.from_bytes(crashed.journal[12:16], "big"),
        "initial_pages": int.from_bytes(crashed.journal[16:20], "big"),
        "sector_size": int.from_bytes(crashed.journal[20:24], "big"),
        "page_size": int.from_bytes(crashed.journal[24:28], "big"),
    }
    assert (told["super_journal"], told["by_hand"]) == (None, None)
    text = runner.command("explain", database).stdout
    for name in told["header"]:
        assert name in text
    assert "nobody holds the writer's lock" in text
    assert "Decision recover" in text
    assert database.read_bytes() == crashed.database


def test_a_database_at_peace_is_explained_too(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    done = runner.command("explain", database, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert list(told) == ENTRY + MORE
    assert (told["state"], told["size"], told["owner"], told["decision"]) == ("empty", 0, None, "ignore")
    assert (told["header"], told["super_journal"], told["by_hand"]) == (None, None, None)
    assert told["reason"] == "there is no journal: nothing to roll back"


def test_what_a_person_may_do_is_said_exactly(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"})
    database = crashed.put(runner.root / "it's here.db")
    told = runner.json("explain", database)
    assert told["decision"] == "hold"
    command = f"sqlite3 '{runner.root}/it'\\''s here.db' 'PRAGMA schema_version'"
    assert command in told["by_hand"]
    assert command in runner.command("explain", database).stdout


def test_a_journal_without_a_header_is_to_be_copied_first(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(owner={"locks": "off"})
    database = crashed.put(runner.root / "x.db")
    journal_of(database).write_bytes(b"no header" + crashed.journal)
    told = runner.json("explain", database)
    assert (told["state"], told["decision"], told["header"]) == ("malformed", "hold", None)
    assert "copy both files elsewhere" in told["by_hand"]
    assert "have SQLite roll back" not in told["by_hand"]


def name_super_journal(database: Path, name: bytes) -> None:
    """Have the trailer of its journal name a super-journal."""
    total = sum(int.from_bytes([each], "big", signed=True) for each in name)
    trailer = len(name).to_bytes(4, "big") + total.to_bytes(4, "big", signed=True)
    with journal_of(database).open("ab") as file:
        file.write(b"\0\0\0\1" + name + trailer + bytes.fromhex("d9d505f920a163d7"))


def test_a_super_journal_is_named(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    name_super_journal(database, b"/workspace/\x1b[2J\xff-mj01")
    told = runner.json("explain", database)
    assert (told["state"], told["decision"], told["super_journal"]) == (
        "super",
        "refuse",
        "/workspace/\\x1b[2J\\xff-mj01",
    )
    assert f"deletes {database}-journal" in told["by_hand"]


def test_for_a_journal_over_the_limit_the_limit_is_the_advice(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"max_journal_size": 1024})
    database = crashed.put(runner.root / "x.db")
    told = runner.json("explain", database)
    assert (told["state"], told["decision"]) == ("unsafe", "refuse")
    assert told["by_hand"].startswith("Raise recovery.max_journal_size")
    journal_of(database).unlink()
    journal_of(database).symlink_to("elsewhere")
    told = runner.json("explain", database)
    assert told["by_hand"].startswith("Look at what it is")


def test_a_journal_of_somebody_else_is_no_link(runner: Runner, crashed: CrashedPair) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to another user wants root")
    database = crashed.put(runner.root / "x.db")
    os.chown(journal_of(database), 65_533, 65_533)
    told = runner.json("explain", database)
    assert (told["state"], told["decision"]) == ("unsafe", "refuse")
    assert told["by_hand"].startswith("Find out who has made that journal")


def test_a_reader_that_keeps_it_waiting_is_named(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    with reading(database) as pid:
        told = runner.json("explain", database)
        assert told["decision"] == "recover"
        assert told["by_hand"].startswith(f"pid {pid} is reading it: end that")
    assert runner.json("explain", database)["by_hand"] is None


def test_the_tree_itself_and_a_directory_of_it_are_said_to_be_none(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(tree={"layout": "{group}/{session}"})
    crashed.put(runner.root / "g" / "s" / "x.db")
    for path, why in ((runner.root, "that is the tree itself"), (runner.root / "g", "got a directory")):
        done = runner.command("explain", path)
        assert done.returncode == 2
        assert why in done.stderr


def test_a_snapshot_that_is_off_has_no_size(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(recovery={"snapshot": None})
    database = crashed.put(runner.root / "x.db")
    journal_of(database).write_bytes(b"no journal")
    told = runner.json("explain", database)
    assert (told["state"], told["decision"]) == ("malformed", "refuse")
    assert told["by_hand"].endswith("Or allow a snapshot of it (recovery.snapshot).")


@pytest.mark.parametrize("letter", [b"x", b"\xff"])
def test_a_long_name_of_a_super_journal_fills_no_line(runner: Runner, crashed: CrashedPair, letter: bytes) -> None:
    database = crashed.put(runner.root / "x.db")
    name_super_journal(database, letter * 4000)
    told = runner.json("explain", database)
    assert told["super_journal"] == printable(os.fsdecode(letter * 4000))
    assert len(told["reason"]) < 400
    assert " …" in told["reason"]
    (entry,) = runner.json("scan")["journals"]
    assert entry["reason"] == told["reason"]
    assert len(runner.command("scan").stdout) < 1500
    refused = runner.start().wait_for("refused")
    assert len(refused["message"]) < 1500


def test_a_live_writer_is_named(runner: Runner) -> None:
    database = runner.root / "x.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        told = runner.json("explain", database)
        assert (told["owner"]["verdict"], told["decision"]) == ("alive", "wait")
        assert f"pid {writer.pid}" in told["reason"]
        assert told["by_hand"].startswith("Nothing, as long as its writer works")
        writer.tell("COMMIT")


NAMES = ["plain.db", "new\nline.db", "quo\"te'.db", "--opt.db", "-c", os.fsdecode(b"\xff\xfe.db"), "back\\n.db", "ä.db"]


def test_a_database_is_found_by_any_name_it_may_have(runner: Runner, crashed: CrashedPair) -> None:
    databases = [crashed.put(runner.root / "s 1" / name) for name in NAMES]
    shown = [each["database"] for each in runner.json("scan")["journals"]]
    spelled = [*map(str, databases), *(f"s 1/{name}" for name in NAMES), *shown]
    done = runner.command("recover", "--dry-run", "--json", "--", *spelled, *(f"{path}-journal" for path in spelled))
    assert sorted(each["database"] for each in json.loads(done.stdout)) == sorted(shown)
    assert len(shown) == len(NAMES)


def test_a_path_may_be_relative_to_the_working_directory_or_to_the_root(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "group" / "s1" / "x.db")
    for cwd, path in (
        (runner.root, "group/s1/x.db"),
        (database.parent, "x.db"),
        (database.parent, "x.db-journal"),
        (database.parent, "../s1/./x.db"),
        (runner.root.parent, "tree/group/s1/x.db"),
        (Path("/"), "group/s1/x.db"),
    ):
        done = runner.command("explain", path, "--json", cwd=cwd)
        assert json.loads(done.stdout)["database"] == str(database), (cwd, path)


def test_a_path_may_lead_through_a_link_to_the_root(runner: Runner, crashed: CrashedPair, tmp_path: Path) -> None:
    database = crashed.put(runner.root / "s1" / "x.db")
    (tmp_path / "link").symlink_to(runner.root)
    assert runner.json("explain", tmp_path / "link" / "s1" / "x.db")["database"] == str(database)


def test_a_database_called_like_a_journal_is_itself(runner: Runner, crashed: CrashedPair) -> None:
    crashed.put(runner.root / "x-journal")
    told = runner.json("explain", "x-journal")
    assert told["database"] == f"{runner.root}/x-journal"
    assert told["state"] == "hot"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/etc/passwd", "/etc/passwd: outside the tree {root}"),
        ("../settings.yaml", "../settings.yaml: outside the tree {root}"),
        ("s1/../../settings.yaml", "s1/../../settings.yaml: outside the tree {root}"),
        ("s1/nothing.db", "s1/nothing.db: there is no such database or journal"),
        ("s1/a_directory", "s1/a_directory: expected a database or its journal, got a directory"),
        ("s1/a_directory/", "s1/a_directory: expected a database or its journal, got a directory"),
        ("s1/inbound.db", "s1/inbound.db: no pattern of tree.databases matches its name"),
        ("deep/er/x.db", "deep/er/x.db: no directory of this tree holds it (not of layout {{session}})"),
    ],
)
def test_a_path_that_is_no_database_of_this_tree_is_status_two(
    runner: Runner, crashed: CrashedPair, path: str, why: str
) -> None:
    runner.configure(tree={"layout": "{session}", "databases": ["x.db", "nothing.db", "a_directory"]})
    crashed.put(runner.root / "s1" / "x.db")
    (runner.root / "s1" / "a_directory").mkdir()
    make_database(runner.root / "s1" / "inbound.db")
    crashed.put(runner.root / "deep" / "er" / "x.db")
    done = runner.command("recover", path, cwd=runner.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert journal_of(runner.root / "s1" / "x.db").exists(), "nothing was done"
    assert done.stderr == f"journal-watcher: {why.format(root=runner.root)}\n"


def test_one_wrong_path_among_others_does_nothing(runner: Runner, crashed: CrashedPair) -> None:
    database = crashed.put(runner.root / "x.db")
    assert runner.command("recover", database, "/etc/passwd").returncode == 2
    assert journal_of(database).exists()


def test_explain_wants_a_path(runner: Runner) -> None:
    done = runner.command("explain")
    assert done.returncode == 2
    assert "PATH" in done.stderr


def test_a_missing_root_holds_no_database(runner: Runner) -> None:
    runner.root.rmdir()
    done = runner.command("explain", "x.db")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.fixture
def alike(runner: Runner, crashed: CrashedPair) -> dict[str, Path]:
    """Two databases, of which one is shown as the other is called."""
    return {
        "newline": crashed.put(runner.root / "s1" / "new\nline.db"),
        "backslash": crashed.put(runner.root / "s1" / "new\\nline.db"),
    }


@pytest.mark.parametrize("command", [("recover",), ("recover", "--dry-run"), ("explain",)])
@pytest.mark.parametrize("suffix", ["", "-journal"])
def test_a_word_that_may_mean_two_databases_means_neither(
    runner: Runner, alike: dict[str, Path], command: tuple[str, ...], suffix: str
) -> None:
    done = runner.command(*command, printable(f"s1/new\nline.db{suffix}"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"""'{runner.root}/s1/new\\\\nline.db'""" in done.stderr
    assert f"""$'{runner.root}/s1/new\\nline.db'""" in done.stderr
    for database in alike.values():
        assert journal_of(database).exists()
        assert printable(database) in done.stderr


def test_the_words_that_are_told_for_it_mean_one_each(runner: Runner, alike: dict[str, Path]) -> None:
    done = runner.command("recover", "s1/new\\nline.db")
    words = re.findall(r"\$?'[^']+'", done.stderr.partition("write ")[2])
    assert len(words) == 2
    found = []
    for word in words:
        argument = subprocess.run(["bash", "-c", f"printf %s {word}"], check=True, capture_output=True).stdout
        found.append(runner.json("explain", os.fsdecode(argument))["database"])
    assert sorted(found) == sorted(map(printable, alike.values()))


def test_where_every_word_means_two_the_whole_tree_is_left(
    runner: Runner, crashed: CrashedPair, alike: dict[str, Path]
) -> None:
    crashed.put(runner.root / "s1" / "new\\\\nline.db")
    done = runner.command("recover", str(alike["backslash"]))
    assert done.returncode == 2
    assert "the whole tree" in done.stderr
    assert journal_of(alike["backslash"]).exists()
