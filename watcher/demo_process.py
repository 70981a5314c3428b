"""What the demo runs in processes of its own, beside the service: the writers, and one that clears up behind it.

It is run as a script and needs the standard library alone, so that a process is there in a few milliseconds:

    python -I -S demo_process.py write DATABASE VFS COMMITS_PER_SECOND
    python -I -S demo_process.py guard DIRECTORY PID

Each ends when its stdin does, that is with the demo, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sqlite3
import sys
import time
from urllib.parse import quote

PID_FILE = ".writer.pid"
PAGES = 40
_GONE_S = 5.0


def write(database: str, vfs: str, commits_per_s: float) -> None:
    """Commit steadily, from the first moment on, after what was committed before. A word on stdin, answered by a line
    of JSON, changes that: `interrupt` begins a transaction that spills, and stands still in it; `stop` ends."""
    with open(os.path.join(os.path.dirname(database), PID_FILE), "w", encoding="ascii") as pid_file:
        pid_file.write(f"{os.getpid()}\n")
    connection = sqlite3.connect(f"file:{quote(database)}?vfs={vfs}", uri=True, isolation_level=None)
    connection.execute("PRAGMA cache_size = 5")  # a transaction of a few pages spills: SQLite syncs its journal
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE IF NOT EXISTS work (step INTEGER PRIMARY KEY, note TEXT)")
    connection.execute("CREATE TABLE IF NOT EXISTS pages (id INTEGER PRIMARY KEY, body BLOB)")
    connection.executemany(
        "INSERT OR IGNORE INTO pages VALUES (?, zeroblob(3000))", [(page + 1,) for page in range(PAGES)]
    )
    connection.execute("COMMIT")
    commits = connection.execute("SELECT count(*) FROM work").fetchone()[0]
    errors: list[str] = []
    word = ""
    while not word:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO work VALUES (?, 'done')", (commits + 1,))
            connection.execute("UPDATE pages SET body = randomblob(3000) WHERE id = ?", (commits % PAGES + 1,))
            connection.execute("COMMIT")
            commits += 1
        except sqlite3.Error as error:
            errors.append(str(error))
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if select.select([sys.stdin], [], [], 1 / commits_per_s)[0]:
            word = sys.stdin.readline().strip() or "gone"
    if word == "interrupt":
        connection.execute("BEGIN")
        connection.execute("INSERT INTO work VALUES (?, 'interrupted')", (commits + 1,))
        connection.execute("UPDATE pages SET body = randomblob(3000)")
    if word != "gone":
        print(json.dumps({"commits": commits, "errors": errors}), flush=True)
    sys.stdin.readline()
    connection.close()  # rolls back what is not committed


def guard(directory: str, pid: int) -> None:
    """Wait for the demo's end. Where it comes without a word, the demo was killed: end the service and remove the
    directory in its place."""
    if sys.stdin.readline():
        return
    until = time.monotonic() + _GONE_S
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        try:
            write(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        except (OSError, sqlite3.Error) as error:
            print(json.dumps({"failed": str(error)}), flush=True)
    else:
        guard(sys.argv[2], int(sys.argv[3]))
