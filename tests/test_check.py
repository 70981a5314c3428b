"""check: what is wrong with the settings or this machine, how bad it is, and the remedy."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running import Runner
from tests.small_disk import small_disk
from tests.writers import CrashedPair, journal_of, make_database

STATUS = {"ok": 0, "warning": 1, "error": 2}
SOMEBODY_ELSE = 65_534


def checked(runner: Runner, *, unprivileged: bool = False) -> dict[str, dict[str, Any]]:
    """The checks by their names; level and status fit them."""
    done = runner.command("check", "--json", unprivileged=unprivileged)
    told = json.loads(done.stdout)
    assert list(told) == ["level", "checks"]
    assert done.stderr == ""
    for each in told["checks"]:
        assert list(each) == ["name", "level", "detail", "remedy"]
        assert (each["remedy"] is None) == (each["level"] == "ok"), each
    assert told["level"] == max((each["level"] for each in told["checks"]), key=list(STATUS).index)
    assert done.returncode == STATUS[told["level"]]
    return {each["name"]: each for each in told["checks"]}


def give_away(*paths: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to another user wants root")
    for path in paths:
        os.chown(path, SOMEBODY_ELSE, SOMEBODY_ELSE)


def session(runner: Runner, name: str) -> Path:
    database = runner.root / name / "x.db"
    database.parent.mkdir(parents=True)
    make_database(database)
    return database


def test_all_is_well(runner: Runner) -> None:
    for name in ("s1", "s2"):
        session(runner, name)
    found = checked(runner)
    assert {each["level"] for each in found.values()} <= {"ok", "warning"}
    assert [each for each in found if found[each]["level"] != "ok"] in ([], ["engine"])
    for name in ("settings", "sqlite", "state_dir", "root", "writable", "locks", "watch"):
        assert found[name]["level"] == "ok"
    assert "2 databases in 2 directories" in found["root"]["detail"]
    assert not runner.state.exists(), "a check changes nothing"


def test_a_link_in_the_place_of_a_session_is_told(runner: Runner) -> None:
    """What is behind it is not looked at, and `run` cannot know that somebody expects it to be."""
    session(runner, "g/s1")
    for name in ("g/elsewhere", "latest"):
        (runner.root / name).symlink_to(runner.root / "g" / "s1")
    (runner.root / "g" / "s1" / "notes").symlink_to("x.db")
    runner.configure(tree={"layout": "{group}/{session}"})
    watch = checked(runner)["watch"]
    assert watch["level"] == "ok"
    assert "; 2 links where the layout has directories are not followed, first " in watch["detail"]
    runner.configure(tree={"layout": "{group}/{session}", "exclude": ["latest"]})
    assert (
        "; 1 link where the layout has directories is not followed, first g/elsewhere"
        in (checked(runner)["watch"]["detail"])
    )


@pytest.mark.parametrize(
    ("tree", "rules"),
    [
        ({"layout": "{session}"}, "tree.layout ({session}) and tree.databases (*)"),
        ({"databases": ["outbuond.db"]}, "tree.databases (outbuond.db)"),
    ],
)
def test_databases_that_the_settings_leave_out_are_told(runner: Runner, tree: dict[str, Any], rules: str) -> None:
    runner.configure(tree=tree)
    assert "tree" not in checked(runner)
    for group in ("g", "h"):
        session(runner, f"{group}/s")
    told = checked(runner)["tree"]
    assert told["level"] == "warning"
    assert f"2 databases lie below the root where {rules} have none, first " in told["detail"]
    runner.configure(tree=tree | {"exclude": ["g", "h"]})
    assert "tree" not in checked(runner)


def test_beside_those_that_are_watched_only_one_with_a_journal_is_told(runner: Runner, crashed: CrashedPair) -> None:
    runner.configure(tree={"layout": "{session}"})
    session(runner, "s")
    session(runner, "s/workspace")
    assert "tree" not in checked(runner)
    crashed.put(runner.root / "s" / "workspace" / "cache.db")
    told = checked(runner)["tree"]
    assert told["level"] == "ok"
    assert told["detail"].startswith("1 database with a journal lies below the root where tree.layout ({session}) and")
    assert told["detail"].endswith("first s/workspace/cache.db")


def test_a_log_file_that_cannot_be_written_is_an_error(runner: Runner, tmp_path: Path) -> None:
    runner.configure(log={"file": str(tmp_path / "made" / "w.log")})
    assert checked(runner)["log"]["level"] == "ok"
    (tmp_path / "d").mkdir()
    (tmp_path / "x").touch()
    for path, why in ((tmp_path / "d", "a directory is in its place"), (tmp_path / "x" / "w.log", "x is no directory")):
        runner.configure(log={"file": str(path)})
        told = checked(runner)["log"]
        assert told["level"] == "error"
        assert told["detail"].endswith(why)


def test_a_person_is_told_the_same(runner: Runner) -> None:
    runner.configure(owner={"locks": "off"})
    human = runner.command("check")
    assert human.returncode == 2
    for each in checked(runner).values():
        assert each["detail"] in human.stdout
        assert each["remedy"] is None or each["remedy"] in human.stdout


def test_a_missing_root_is_a_warning(runner: Runner) -> None:
    runner.root.rmdir()
    assert checked(runner)["root"]["level"] == "warning"


def test_a_root_that_is_a_file_is_an_error(runner: Runner) -> None:
    runner.root.rmdir()
    runner.root.write_text("")
    root = checked(runner)["root"]
    assert (root["level"], "Not a directory" in root["detail"]) == ("error", True)


def test_databases_that_we_may_not_write_are_counted_with_their_owner(runner: Runner) -> None:
    ours, theirs, shut = session(runner, "ours"), session(runner, "theirs"), session(runner, "shut")
    give_away(theirs, theirs.parent, shut)
    shut.chmod(0o600)
    writable = checked(runner, unprivileged=True)["writable"]
    assert writable["level"] == "error"
    assert "2 of 3 databases and 1 of 3 directories may not be written by us (uid 0)" in writable["detail"]
    assert f"of these belong 3 to nobody (uid {SOMEBODY_ELSE})" in writable["detail"]
    assert str(runner.root / "ours") not in writable["detail"]
    assert f"run journal-watcher as nobody (uid {SOMEBODY_ELSE})" in writable["remedy"]
    assert ours.exists()


@pytest.mark.parametrize(
    ("which", "mode", "counted"),
    [
        ("directory", 0o555, "0 of 1 databases and 1 of 1"),
        ("directory", 0o600, "0 of 1 databases and 1 of 1"),
        ("database", 0o444, "1 of 1 databases and 0 of 1"),
    ],
)
def test_root_is_told_of_what_an_owner_could_not_recover(
    runner: Runner, crashed: CrashedPair, which: str, mode: int, counted: str
) -> None:
    """With the owner's rights it is recovered, and so it is judged by these."""
    database = crashed.put(runner.root / "s1" / "x.db")
    give_away(database.parent, database, journal_of(database))
    shut = {"directory": database.parent, "database": database}[which]
    shut.chmod(mode)
    writable = checked(runner)["writable"]
    assert writable["level"] == "error"
    assert writable["detail"].startswith(
        f"{counted} directories may not be written by us (uid 0, with the rights of their owner); of these belong 1 to"
    )
    assert runner.command("recover").returncode == 1
    assert writable["remedy"].startswith("chmod u+")
    subprocess.run(["sh", "-c", writable["remedy"]], check=True)
    assert checked(runner)["writable"]["level"] == "ok"
    assert runner.command("recover").returncode == 0
    assert database.read_bytes() == crashed.recovered


def test_what_is_root_and_another_users_together_is_judged_by_roots_rights(runner: Runner) -> None:
    database = session(runner, "s1")
    give_away(database)
    database.chmod(0o444)
    assert checked(runner)["writable"]["level"] == "ok"


def test_an_owner_is_not_told_to_be_himself(runner: Runner) -> None:
    for name in ("s1", "s2"):
        session(runner, name).parent.chmod(0o555)
    remedy = checked(runner, unprivileged=True)["writable"]["remedy"]
    first, second = (f"chmod u+wx {runner.root}/{name}, and so for 1 more" for name in ("s1", "s2"))
    assert remedy in {first, second}


def test_a_read_only_mount_is_an_error_for_root_too(runner: Runner) -> None:
    with small_disk(runner.root / "disk", size_kib=8192) as disk:
        make_database(disk / "x.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        writable = checked(runner)["writable"]
        assert writable["level"] == "error"
        assert "1 of 1 databases and 1 of 1 directories" in writable["detail"]
        assert writable["remedy"].startswith("mount that file system read-write")


def test_directories_that_are_shut_are_counted_not_passed_over(runner: Runner) -> None:
    session(runner, "s1")
    for name in ("shut", "lost+found"):
        (runner.root / name).mkdir(mode=0o700)
        give_away(runner.root / name)
    readable = checked(runner, unprivileged=True)["readable"]
    assert readable["level"] == "warning"
    assert readable["detail"].startswith("2 directories may not be entered by us (uid 0), first ")
    assert "tree.exclude" in readable["remedy"]
    runner.configure(tree={"exclude": ["shut", "lost+found"]})
    assert "readable" not in checked(runner, unprivileged=True)


def test_a_state_dir_of_somebody_else_is_an_error(runner: Runner) -> None:
    runner.state.mkdir(mode=0o700)
    give_away(runner.state)
    state = checked(runner)["state_dir"]
    assert state["level"] == "error"
    assert f"belongs to uid {SOMEBODY_ELSE}" in state["detail"]


def test_a_state_dir_that_all_may_write_is_an_error(runner: Runner) -> None:
    runner.state.mkdir()
    runner.state.chmod(0o777)
    state = checked(runner)["state_dir"]
    assert (state["level"], "can be written by others" in state["detail"]) == ("error", True)


@pytest.mark.parametrize("version", ["99", "3.11"])
def test_a_state_dir_whose_version_run_refuses_is_an_error_in_the_same_words(runner: Runner, version: str) -> None:
    runner.state.mkdir(mode=0o700)
    (runner.state / "version").write_text(version)
    state = checked(runner)["state_dir"]
    assert state["level"] == "error"
    assert f"journal-watcher: {state['detail']}" in runner.command("run").stderr


def test_a_state_dir_whose_version_may_not_be_read_is_an_error_in_the_same_words(runner: Runner) -> None:
    runner.state.mkdir(mode=0o700)
    (runner.state / "version").touch(mode=0)
    state = checked(runner, unprivileged=True)["state_dir"]
    assert state["level"] == "error"
    assert f"journal-watcher: {state['detail']}" in runner.command("run", unprivileged=True).stderr


def test_a_state_dir_that_cannot_be_made_is_an_error(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runner.state = tmp_path / "file" / "state"
    runner.configure()
    assert checked(runner)["state_dir"]["level"] == "error"
    (tmp_path / "theirs").mkdir()
    give_away(tmp_path / "theirs")
    runner.state = tmp_path / "theirs" / "state"
    runner.configure()
    state = checked(runner, unprivileged=True)["state_dir"]
    assert (state["level"], "cannot be made by us" in state["detail"]) == ("error", True)


def test_what_check_says_of_the_state_dir_is_what_run_does(runner: Runner, tmp_path: Path) -> None:
    runner.state = tmp_path / "a" / "b" / "state"
    runner.configure()
    assert checked(runner)["state_dir"]["detail"].endswith("will be made")
    service = runner.start()
    assert f"the service runs (pid {service.process.pid})" in checked(runner)["state_dir"]["detail"]
    assert service.stop() == 0
    assert "no service runs" in checked(runner)["state_dir"]["detail"]


def test_no_probe_at_all_is_an_error(runner: Runner) -> None:
    runner.configure(owner={"locks": "off"})
    locks = checked(runner)["locks"]
    assert (locks["level"], "no other probe is set" in locks["detail"]) == ("error", True)


def test_a_heartbeat_alone_is_said_to_tell_no_exit(runner: Runner) -> None:
    runner.configure(owner={"locks": "off", "heartbeat": {}})
    locks = checked(runner)["locks"]
    assert locks["level"] == "error"
    assert locks["detail"].endswith("and a heartbeat only tells that a writer lives, never that it has exited"), (
        "and not that there is no other probe"
    )
    assert "owner.command" in locks["remedy"]


@pytest.mark.parametrize("owner", [{}, {"heartbeat": {}}, {"pid_file": ".pid"}], ids=["locks", "heartbeat", "pid_file"])
def test_that_only_locks_tell_is_said_where_run_says_locks_only(runner: Runner, owner: dict[str, Any]) -> None:
    runner.configure(owner=owner)
    detail = checked(runner)["locks"]["detail"]
    service = runner.start()
    assert ("only they tell whether a writer has exited" in detail) == bool(service.events("locks_only"))
    assert ("only they tell that a writer has exited, the heartbeat that it lives" in detail) == ("heartbeat" in owner)
    assert service.stop() == 0


def test_pid_files_are_counted(runner: Runner) -> None:
    for name in ("s1", "s2", "s3"):
        session(runner, name)
    (runner.root / "s2" / ".writer.pid").write_text("1")
    runner.configure(owner={"pid_file": ".writer.pid"}, tree={"layout": "{session}"})
    assert checked(runner)["pid_file"]["detail"] == "1 of 3 directories with databases have .writer.pid"


def test_pid_files_that_give_no_pid_are_told_with_the_first(runner: Runner) -> None:
    for name, text in (("s1", "1"), ("s2", "soon"), ("s3", "")):
        session(runner, name)
        (runner.root / name / ".pid").write_text(text)
    runner.configure(owner={"pid_file": ".pid"}, tree={"layout": "{session}"})
    found = checked(runner)["pid_file"]
    assert found["level"] == "warning"
    assert found["detail"].startswith(
        "3 of 3 directories with databases have .pid; 2 of these without a pid, so journals there are held, first in"
        f" {runner.root}/s"
    )
    assert found["detail"].endswith(": .pid: holds no pid")


def test_heartbeats_are_counted(runner: Runner) -> None:
    for name in ("s1", "s2", "s3"):
        session(runner, name)
    (runner.root / "s2" / ".beat").touch()
    runner.configure(owner={"heartbeat": {"file": ".beat"}})
    assert checked(runner)["heartbeat"]["detail"] == "1 of 3 directories with databases have .beat"
    (runner.root / "s3" / ".beat").mkdir()
    found = checked(runner)["heartbeat"]
    assert found["level"] == "warning"
    assert found["detail"] == (
        "2 of 3 directories with databases have .beat; 1 of these without effect, first in"
        f" {runner.root}/s3: .beat is not a plain file, so no heartbeat"
    )


@pytest.mark.parametrize(
    ("owner", "name", "key"),
    [
        ({"pid_file": ".mistyped"}, "pid_file", "owner.pid_file"),
        ({"heartbeat": {"file": ".mistyped"}}, "heartbeat", "owner.heartbeat.file"),
    ],
)
def test_a_file_that_no_session_has_is_told_in_words(
    runner: Runner, owner: dict[str, Any], name: str, key: str
) -> None:
    runner.configure(owner=owner)
    assert checked(runner)[name]["detail"] == "0 of 0 directories with databases have .mistyped"
    for each in ("s1", "s2"):
        session(runner, each)
    detail = checked(runner)[name]["detail"]
    assert detail.startswith("none of 2 directories with databases has .mistyped: ")
    assert detail.endswith(f"its file is not what {key} says")


def test_a_host_root_without_an_engine_is_said_to_have_no_effect(runner: Runner) -> None:
    runner.configure(tree={"host_root": "/srv/elsewhere"})
    told = checked(runner)["host_root"]
    assert told["level"] == "ok"
    assert "tree.host_root has no effect" in told["detail"]


# The command is asked


def answering(runner: Runner, text: str, **more: object) -> dict[str, Any]:
    """What is said of a command that is this shell script."""
    program = runner.settings.with_name("alive.sh")
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    runner.configure(
        tree={"layout": "{session}"}, owner={"command": {"argv": ["./alive.sh", "{session}"], "timeout": "5s", **more}}
    )
    return checked(runner)["command"]


@pytest.mark.parametrize(("status", "said"), [(0, "the owner is alive"), (1, "the owner has exited")])
def test_a_command_is_asked_once_about_one_database(runner: Runner, status: int, said: str) -> None:
    for name in ("s1", "s2"):
        (runner.root / name).mkdir()
        (runner.root / name / "a.txt").write_text("no database")
        make_database(runner.root / name / "x.db")
    told = answering(runner, f'echo "$1 $JOURNAL_WATCHER_DATABASE" >> {runner.settings.parent}/asked; exit {status}')
    asked = (runner.settings.parent / "asked").read_text().split()
    assert asked in (["s1", f"{runner.root}/s1/x.db"], ["s2", f"{runner.root}/s2/x.db"])
    assert (told["level"], told["detail"]) == (
        "ok",
        f"alive.sh: status {status}, {said} (asked about {asked[1]})",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 127", "status 127, no answer"),
        ("echo no route; exit 255", "status 255, no answer: no route"),
        ("kill -KILL $$", "killed by signal 9, no answer"),
    ],
)
def test_a_command_that_gives_no_answer_is_an_error(runner: Runner, text: str, said: str) -> None:
    database = session(runner, "s1")
    told = answering(runner, text)
    assert (told["level"], told["detail"]) == ("error", f"alive.sh: {said} (asked about {database})")
    assert "status 0 where the owner lives and 1 where it has exited" in told["remedy"]


def test_a_command_that_takes_too_long_is_an_error(runner: Runner) -> None:
    session(runner, "s1")
    told = answering(runner, "sleep 100", timeout="500ms")
    assert (told["level"], "no answer within 0.5 s" in told["detail"]) == ("error", True)
    assert "within 0.5 s" in told["remedy"]


def test_a_command_is_not_asked_where_there_is_no_database(runner: Runner) -> None:
    told = answering(runner, f"touch {runner.settings.parent}/asked; exit 127")
    assert told["level"] == "ok"
    assert told["detail"].endswith("alive.sh is there; it was not asked, for the tree has no database yet")
    runner.root.rmdir()
    assert checked(runner)["command"] == told
    assert not (runner.settings.parent / "asked").exists()


def test_a_command_that_is_no_program_is_an_error(runner: Runner) -> None:
    for argv in (["./none"], ["no-such-program-anywhere"]):
        runner.configure(owner={"command": {"argv": argv}})
        told = checked(runner)["command"]
        assert (told["level"], "is no program that we may run" in told["detail"]) == ("error", True)


@pytest.mark.parametrize(
    ("text", "details"),
    [
        (
            "tree: {rot: x}\nwatch: {sweep_interval: soon}\n",
            [
                "{file}: tree.root: this key is required",
                "{file}: tree.rot: unknown key; did you mean tree.root?",
                (
                    "{file}: watch.sweep_interval: expected a duration from 100ms to 1d, such as 250ms, 30s, 5m, 1h"
                    ' or 2d, got "soon"'
                ),
            ],
        ),
        ("tree: [", ["{file}: line 1"]),
        (None, ["{file}: there is no such file"]),
    ],
)
def test_bad_settings_are_told_one_by_one(runner: Runner, text: str | None, details: list[str]) -> None:
    if text is None:
        runner.settings.unlink()
    else:
        runner.settings.write_text(text)
    done = runner.command("check", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["level"]) == (2, "", "error")
    assert [(each["name"], each["level"], each["remedy"]) for each in told["checks"]] == [
        ("settings", "error", "mend the settings")
    ] * len(details)
    for each, detail in zip(told["checks"], details, strict=True):
        assert each["detail"].startswith(detail.format(file=runner.settings))
    done = runner.command("check")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.startswith("journal-watcher: ") for line in done.stderr.splitlines()] == [True] * len(details)
