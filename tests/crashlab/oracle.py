"""The oracle: what SQLite itself makes of a copy of a crashed database, asked in a process of its own.

Run as a script it answers one JSON line on stdin with one on stdout. It opens by apsw, with SQLite's own unix VFS; it
knows nothing of the watcher.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crashlab.writer import totals

READONLY_ROLLBACK = 776
_NOTICE = re.compile(r"recovered (\d+) pages from ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What SQLite has found, and left.

    Attributes:
        was_hot: a read-only open failed, because there was something to roll back.
        pages: that it says it rolled back; None where it said nothing.
        health: `ok`, or what `integrity_check` says.
        numbers: least, greatest and count of the transactions in `audit`; None where there is no such table.
        told, found: what the last of them says that the other tables hold, and what they hold.
    """

    was_hot: bool
    pages: int | None
    health: str
    numbers: tuple[int, int, int] | None
    told: tuple[int, ...]
    found: tuple[int, ...]

    def complaint(self, acknowledged: int) -> str | None:
        """What is wrong with a database whose writer has acknowledged so many transactions."""
        if self.health != "ok":
            return f"integrity_check: {self.health}"
        least, greatest, count = self.numbers or (1, 0, 0)
        if greatest not in {acknowledged, acknowledged + 1}:  # the next one may have been committed, and not yet told
            return f"transaction {acknowledged} was acknowledged, and {greatest} is the last"
        if count and (least, count) != (1, greatest):
            return f"{count} transactions of {least} to {greatest}"
        if self.told != self.found:
            return f"the last transaction is there in part: it told of {self.told}, there are {self.found}"
        return None


class Oracle:
    """The process, and its answers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashlab.oracle"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def recover(self, copy: Path) -> Verdict:
        """Let SQLite recover this copy, which nobody else has open, and audit it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{json.dumps(str(copy))}\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        return Verdict(
            answer["was_hot"],
            answer["pages"],
            answer["health"],
            answer["numbers"] and tuple(answer["numbers"]),
            tuple(answer["told"]),
            tuple(answer["found"]),
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def audit(database: str) -> dict[str, Any]:
    """Read a recovered database through and through (by sqlite3, another version of SQLite than apsw's)."""
    with closing(sqlite3.connect(f"{Path(database).as_uri()}?mode=ro", uri=True)) as connection:

        def do(sql: str) -> list[Any]:
            return connection.execute(sql).fetchall()

        try:
            health = "; ".join(line for (line,) in do("PRAGMA integrity_check"))
            if not do("SELECT 1 FROM sqlite_schema WHERE name = 'audit'"):
                return {"health": health, "numbers": None, "told": (), "found": ()}
            numbers = do("SELECT min(n), max(n), count(*) FROM audit")[0]
            told = do("SELECT tables, rows, weight, bytes FROM audit ORDER BY n DESC LIMIT 1")[0]
            return {"health": health, "numbers": numbers, "told": told, "found": totals(do)}
        except sqlite3.Error as error:
            return {"health": f"{error.sqlite_errorname}: {error}", "numbers": None, "told": (), "found": ()}


def main() -> None:
    import apsw

    pages: list[int] = []

    def hear(_code: int, message: str) -> None:
        if notice := _NOTICE.match(message):
            pages.append(int(notice[1]))

    apsw.config(apsw.SQLITE_CONFIG_LOG, hear)

    def open_and_read(path: str, flags: int) -> int:
        connection = apsw.Connection(path, flags=flags, vfs="unix")
        try:
            connection.pragma("schema_version")
            return 0
        except apsw.ReadOnlyError as error:
            code: int = vars(error)["extendedresult"]
            return code
        finally:
            connection.close()

    for line in sys.stdin:
        path = json.loads(line)
        pages.clear()
        was_hot = open_and_read(path, apsw.SQLITE_OPEN_READONLY) == READONLY_ROLLBACK
        open_and_read(path, apsw.SQLITE_OPEN_READWRITE)
        answer = {"was_hot": was_hot, "pages": sum(pages) if pages else None, **audit(path)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
