"""Sessions of the lab: what their writers are told to do, the writers themselves, and what a crash leaves behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.crashlab import writer
from tests.running import DEADLINE_S, wait_until
from tests.writers import journal_of

JOURNAL_MODES = ("delete", "truncate", "persist")
PID_FILE = ".writer.pid"
_MAGIC = bytes.fromhex("d9d505f920a163d7")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a writer does; see :class:`tests.crashlab.writer.Writer`.

    Attributes:
        unseen: it takes no locks that others see, and leaves a pid file.
    """

    seed: int
    page_size: int
    journal_mode: str
    synchronous: str
    auto_vacuum: str
    cache_size: int
    rows: int
    steps: int
    pause_s: float
    busy_timeout_s: float = 5.0
    unseen: bool = False

    @classmethod
    def draw(cls, chance: random.Random) -> Plan:
        page_size = 512 << chance.randrange(8)
        return cls(
            seed=chance.getrandbits(32),
            page_size=page_size,
            journal_mode=chance.choice(JOURNAL_MODES),
            synchronous=chance.choice(("off", "normal", "full")),
            auto_vacuum=chance.choice(("none", "full", "incremental")),
            cache_size=chance.choice((1, 4, 10, 30)),
            rows=chance.choice((4, 20, 60)),
            steps=chance.choice((2, 6, 15)),
            pause_s=chance.choice((0.0, 0.0, 0.01)),
            unseen=chance.random() < 0.25,
        )


class Writer:
    """A writer's process, which has made or opened its database."""

    def __init__(self, database: Path, plan: Plan) -> None:
        self.database = database
        self.plan = plan
        database.parent.mkdir(parents=True, exist_ok=True)
        uri = database.absolute().as_uri() + ("?vfs=unix-none" if plan.unseen else "")
        pid_file = str(database.with_name(PID_FILE)) if plan.unseen else ""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", writer.__file__, uri, json.dumps(asdict(plan)), pid_file],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self._lines: list[str] = []  # guarded by _changed
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_ready(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._lines, DEADLINE_S), f"no writer of {self.database}"

    def _commits(self) -> list[tuple[int, float]]:
        with self._changed:
            pairs = [line.split() for line in self._lines if line[0].isdigit()]
        return [(int(number), float(took_ms)) for number, took_ms in pairs]

    @property
    def acknowledged(self) -> int:
        """The last transaction whose commit has returned; 0 where none has."""
        return max((number for number, _ in self._commits()), default=0)

    @property
    def slowest_commit_ms(self) -> float:
        return max((took_ms for _, took_ms in self._commits()), default=0.0)

    @property
    def refusal(self) -> str | None:
        """What this writer was refused, if anything."""
        with self._changed:
            return next((line for line in self._lines if line.startswith("error")), None)

    def freeze(self) -> None:
        """Stop it where it is, for as long as one likes."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: self._process.poll() is not None or is_stopped(self._process.pid))

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL. It is gone, and all that it has said was read, when this comes back."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)

    def end(self) -> int:
        """Let it finish its transaction and close its database; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status

    def close(self) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def is_stopped(pid: int) -> bool:
    """Whether each thread of a process is stopped by a signal (state T, proc(5))."""
    states = [
        Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
        for task in os.listdir(f"/proc/{pid}/task")
    ]
    return all(state in {"T", "Z"} for state in states)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing inside this block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Bytes:
    """A database and its journal; None where there is none."""

    database: bytes | None
    journal: bytes | None

    @classmethod
    def of(cls, database: Path) -> Bytes:
        return cls(_read(database), _read(journal_of(database)))

    def put(self, database: Path) -> Path:
        """Write them to another place."""
        database.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((database, self.database), (journal_of(database), self.journal)):
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        return database

    @property
    def headers(self) -> int:
        """How many headers the journal has: each begins a sector, with the magic (fileformat2.html, section 3)."""
        journal = self.journal or b""
        sector_bytes = int.from_bytes(journal[20:24], "big")
        if sector_bytes < 512 or not journal.startswith(_MAGIC):
            return 0
        return sum(journal.startswith(_MAGIC, offset) for offset in range(0, len(journal), sector_bytes))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def is_finished(database: Path) -> bool:
    """Whether the journal beside it is gone, empty, or begins with a zero: how SQLite ends a transaction."""
    try:
        with journal_of(database).open("rb") as file:
            return file.read(1) in {b"", b"\0"}
    except FileNotFoundError:
        return True


def remove(directory: Path) -> None:
    shutil.rmtree(directory)
