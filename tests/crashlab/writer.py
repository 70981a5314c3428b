"""A writer of one database, in a process of its own, whose transactions are drawn from a seed. It is run as a script.

It prints `ready`, then a line for each transaction after its COMMIT has returned: its number, and the milliseconds that
the commit took. `error …` is the last line of a writer that was refused something. On SIGTERM it ends after the
transaction in hand, and says `end`.

The last statement of each transaction enters into the table `audit` what the other tables then hold: of a transaction
that is there in part, that line does not hold.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

TABLES = 3
_MOST_ROWS = 600


class Stopped:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, _number: int, _frame: object) -> None:
        self.is_set = True


class Writer:
    """Draws transactions and commits them.

    Args:
        plan: `seed`, `page_size`, `journal_mode`, `synchronous`, `auto_vacuum`, `cache_size` as for the pragmas,
            `rows` (the most that one step of a transaction writes), `steps` (the most in a transaction), `pause_s` (the
            longest between two transactions), `busy_timeout_s`.
        pid_file: written before the database is opened; empty: none.
    """

    def __init__(self, uri: str, plan: dict[str, Any], pid_file: str) -> None:
        if pid_file:
            with open(pid_file, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        self._random = random.Random(plan["seed"])
        self._plan = plan
        self._body_bytes = min(plan["page_size"], 4096)
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=plan["busy_timeout_s"])
        for pragma in ("page_size", "auto_vacuum", "journal_mode", "synchronous", "cache_size"):
            self._do(f"PRAGMA {pragma} = {plan[pragma]}")
        self._last = 0
        if self._do("SELECT 1 FROM sqlite_schema WHERE name = 'audit'"):
            self._last = self._do("SELECT ifnull(max(n), 0) FROM audit")[0][0]

    def run(self, stopped: Stopped) -> None:
        say("ready")
        while not stopped.is_set:
            if self._last and self._random.random() < 0.06:
                self._do("VACUUM")
            self._transact()
            time.sleep(self._random.uniform(0, self._plan["pause_s"]))
        self._connection.close()
        say("end")

    def _transact(self) -> None:
        self._do(self._random.choice(("BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE")))
        if self._last == 0:
            self._do("CREATE TABLE audit (n INTEGER PRIMARY KEY, tables, rows, weight, bytes)")
        for _ in range(self._random.randint(1, self._plan["steps"])):
            self._step(depth=0)
        if self._random.random() < 0.1:
            self._do("ROLLBACK")
            return
        self._do("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", self._last + 1, *totals(self._do))
        began = time.monotonic()
        self._do("COMMIT")
        self._last += 1
        say(f"{self._last} {(time.monotonic() - began) * 1000:.1f}")

    def _step(self, depth: int) -> None:
        steps: list[tuple[int, Callable[[str], object]]] = [
            (6, self._insert),
            (5, self._update),
            (2, self._delete),
            (1, self._change_schema),
        ]
        if depth < 2:
            steps.append((2, lambda _table: self._savepoint(depth)))
        table = f"item{self._random.randrange(TABLES)}"
        if not self._do("SELECT 1 FROM sqlite_schema WHERE name = ?", table):
            self._do(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, weight INT, body BLOB)")
        chosen = self._random.choices([step for _, step in steps], [weight for weight, _ in steps])[0]
        chosen(table)

    def _insert(self, table: str) -> None:
        rows = [
            (self._random.randrange(1000), self._random.randbytes(self._random.randrange(2 * self._body_bytes)))
            for _ in range(self._random.randint(1, self._plan["rows"]))
        ]
        self._connection.executemany(f"INSERT INTO {table} (weight, body) VALUES (?, ?)", rows)
        if self._do(f"SELECT count(*) FROM {table}")[0][0] > _MOST_ROWS:
            self._do(f"DELETE FROM {table} WHERE id % 3 = ?", self._random.randrange(3))

    def _update(self, table: str) -> None:
        body = self._random.randbytes(self._random.randrange(self._body_bytes))
        divisor = self._random.randint(1, 9)
        self._do(
            f"UPDATE {table} SET weight = weight + ?, body = ? WHERE id % {divisor} = ?",
            self._random.randrange(10),
            body,
            self._random.randrange(divisor),
        )

    def _delete(self, table: str) -> None:
        self._do(f"DELETE FROM {table} WHERE id % 4 = ?", self._random.randrange(4))
        if self._plan["auto_vacuum"] == "incremental":
            self._do(f"PRAGMA incremental_vacuum({self._random.randrange(50)})")

    def _change_schema(self, table: str) -> None:
        if self._random.random() < 0.3:
            self._do(f"DROP TABLE {table}")
        elif self._do("SELECT 1 FROM sqlite_schema WHERE name = ?", f"{table}_weight"):
            self._do(f"DROP INDEX {table}_weight")
        else:
            self._do(f"CREATE INDEX {table}_weight ON {table} (weight, id)")

    def _savepoint(self, depth: int) -> None:
        self._do(f"SAVEPOINT s{depth}")
        for _ in range(self._random.randint(1, 2)):
            self._step(depth + 1)
        if self._random.random() < 0.5:
            self._do(f"ROLLBACK TO s{depth}")
        self._do(f"RELEASE s{depth}")

    def _do(self, sql: str, *values: object) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()


def totals(do: Callable[..., list[Any]]) -> tuple[int, int, int, int]:
    """What the tables hold: their number, and the sums of their rows, weights and bytes. `do` runs a statement."""
    tables = [name for (name,) in do("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'item%'")]
    rows = weight = size = 0
    for table in tables:
        one = do(f"SELECT count(*), ifnull(sum(weight), 0), ifnull(sum(length(body)), 0) FROM {table}")[0]
        rows, weight, size = rows + one[0], weight + one[1], size + one[2]
    return len(tables), rows, weight, size


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main() -> None:
    uri, plan, pid_file = sys.argv[1:]
    stopped = Stopped()
    try:
        Writer(uri, json.loads(plan), pid_file).run(stopped)
    except sqlite3.Error as error:
        say(f"error {error.sqlite_errorname}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
