"""The main job: a writer is killed, and its database can be read again."""

from __future__ import annotations

from tests.running import Runner, wait_until
from tests.writers import ROWS, count_read_only, crash, make_database, writing, writing_unseen


def test_a_killed_writers_database_is_recovered(runner: Runner) -> None:
    database = runner.root / "outbound.db"
    make_database(database)
    service = runner.start()
    crash(database)
    line = service.wait_for("recovered", database=database)
    assert line["level"] == "INFO"
    assert line["pages"] > 0
    assert count_read_only(database) == ROWS
    assert service.stop() == 0


def test_what_was_stale_before_the_start_is_found(runner: Runner) -> None:
    database = runner.root / "some" / "where" / "outbound.db"
    database.parent.mkdir(parents=True)
    make_database(database)
    crash(database)
    runner.start().wait_for("recovered", database=database)
    assert count_read_only(database) == ROWS


def test_a_live_writer_is_left_alone_and_recovered_when_it_is_killed(runner: Runner) -> None:
    database = runner.root / "outbound.db"
    make_database(database)
    with writing(database) as writer:
        writer.tell("begin")
        service = runner.start()
        service.wait_for("owner_alive", database=database)
        assert not service.events("recovered")
        writer.kill()
        service.wait_for("recovered", database=database)


def test_a_writer_whose_locks_nobody_sees_lives_by_its_pid_file(runner: Runner) -> None:
    runner.configure(owner={"pid_file": ".writer.pid"}, watch={"sweep_interval": "100ms"})
    database = runner.root / "outbound.db"
    make_database(database)
    with writing_unseen(database) as writer:
        (runner.root / ".writer.pid").write_text(str(writer.pid), encoding="ascii")
        writer.tell("begin")
        service = runner.start()
        wait_until(lambda: len(service.events("sweep")) > 10)
        assert not service.events("recovered")
        writer.tell("COMMIT")
        writer.tell("begin")
        writer.kill()
        service.wait_for("recovered", database=database)
    assert count_read_only(database) == ROWS
