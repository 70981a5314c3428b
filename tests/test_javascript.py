"""The README's advice to hosts in Node: its own lines, in a real Node, with each of the two drivers, on real errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.readme import block
from tests.writers import ROWS, crash, make_database, recover, writing_unseen

ADVICE = block("js", "Polling from Node")

DRIVERS = {
    "better-sqlite3": """
const Database = require('better-sqlite3');
const open = (path) => new Database(path, { readonly: true, fileMustExist: true, timeout: 1000 });
""",
    "node:sqlite": """
const { DatabaseSync } = require('node:sqlite');
const open = (path) => new DatabaseSync(path, { readOnly: true, timeout: 1000 });
""",
}

# One query a line on stdin; `race` polls until both a race and a good read were seen ten times over.
_HOST = """
const path = process.argv[2];
const query = (sql) => { const db = open(path); try { return db.prepare(sql).all(); } finally { db.close(); } };
const polled = (sql) => {
  try { return poll(() => query(sql)) ?? null; }
  catch (error) { return { thrown: error.errcode ?? error.code, message: error.message }; }
};
function race() {
  const seen = { races: 0, reads: 0, thrown: [] };
  const until = Date.now() + 20000;
  while ((seen.races < 10 || seen.reads < 10) && Date.now() < until) {
    const answer = polled('SELECT count(*) AS rows FROM t');
    if (answer === null) seen.races += 1;
    else if (Array.isArray(answer)) seen.reads += 1;
    else seen.thrown.push(answer);
  }
  return seen;
}
require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
  console.log(JSON.stringify(line === 'race' ? race() : polled(line)));
});
"""
COUNT = "SELECT count(*) AS rows FROM t"
# -O0: it is SQLite as it is, compiled in a third of the time.
_QUICKLY = {"CFLAGS": "-O0", "CXXFLAGS": "-O0"}


@dataclass
class Host:
    """A host in Node that polls one database, as the README advises it to."""

    process: subprocess.Popen[str]

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True)
class Node:
    """A Node that has the driver."""

    driver: str
    program: Path
    directory: Path

    @contextmanager
    def polling(self, database: Path) -> Iterator[Host]:
        script = self.directory / "host.cjs"
        script.write_text(DRIVERS[self.driver] + ADVICE.text + _HOST, encoding="utf-8")
        argv = [str(self.program), "--no-warnings", str(script), str(database)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Host(process)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Node with its headers: many a machine's is too old for node:sqlite."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    directory = tmp_path_factory.mktemp("node")
    try:
        _npm(directory, "install", "node@22")
        (header,) = directory.glob("node_modules/**/include/node/node.h")
        yield header.parents[2]
    finally:
        shutil.rmtree(directory)  # 200 MB


@pytest.fixture(scope="module", params=DRIVERS)
def node(request: pytest.FixtureRequest, newer: Path, tmp_path_factory: pytest.TempPathFactory) -> Node:
    directory = tmp_path_factory.mktemp("host")
    if request.param == "better-sqlite3":
        # Of another Node, npm would look for the machine's settings (a mirror, its certificates) beside that one.
        asked = subprocess.run(["npm", "config", "get", "globalconfig"], capture_output=True, text=True, check=True)
        here = {"PATH": f"{newer}/bin:{os.environ['PATH']}", "npm_config_globalconfig": asked.stdout.strip()}
        _npm(directory, "install", "--ignore-scripts", "better-sqlite3", **here)  # it would ask for a binary elsewhere
        build = ["explore", "better-sqlite3", "--", "node-gyp", "rebuild", "--release"]
        _npm(directory, *build, npm_config_nodedir=str(newer), JOBS="2", **_QUICKLY, **here)
    return Node(request.param, newer / "bin" / "node", directory)


def _npm(directory: Path, *arguments: str, **environ: str) -> None:
    package = directory / "package.json"
    if not package.exists():
        package.write_text('{"private": true}', encoding="utf-8")
    quiet = {"npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    done = subprocess.run(
        ["npm", *arguments],
        cwd=directory,
        env={**os.environ, "HOME": str(directory), **quiet, **environ},
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    if any(code in done.stderr for code in ("E404", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETARGET")):
        pytest.skip(f"npm has nothing for us: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "outbound.db"
    make_database(path)
    return path


pytestmark = [pytest.mark.xdist_group("javascript"), pytest.mark.timeout(180)]


def test_a_hot_journal_is_not_now_and_after_its_recovery_the_poll_reads(node: Node, database: Path) -> None:
    crash(database)
    with node.polling(database) as host:
        assert host.ask(COUNT) is None
        recover(database)
        assert host.ask(COUNT) == [{"rows": ROWS}]


def test_polls_beside_a_live_writer_whose_locks_nobody_sees_race_and_read(node: Node, database: Path) -> None:
    stopping = threading.Event()
    with writing_unseen(database) as writer, node.polling(database) as host:

        def work() -> None:
            while not stopping.is_set():
                writer.tell("begin")
                writer.tell("COMMIT")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            seen = host.ask("race")
        finally:
            stopping.set()
            thread.join(10)
    assert seen["races"] >= 10
    assert seen["reads"] >= 10
    assert not seen["thrown"]


def test_a_write_through_the_read_only_connection_is_a_bug_and_is_thrown(node: Node, database: Path) -> None:
    with node.polling(database) as host:
        told = host.ask("DELETE FROM t RETURNING id")
    assert told["thrown"] in {8, "SQLITE_READONLY"}
    assert "readonly" in told["message"]


def test_any_other_error_is_thrown(node: Node, database: Path) -> None:
    with node.polling(database) as host:
        assert "no such table" in host.ask("SELECT * FROM elsewhere")["message"]
