"""Whatever a pair holds: we call hot what SQLite would roll back, we leave what it would leave, but for what we refuse
on purpose, and our rollback leaves the bytes that SQLite's leaves.

SQLite itself is asked, by its ordinary VFS, on copies. Some hundred cases here, as many as JOURNAL_WATCHER_EXAMPLES
says, and those of `fuzz_corpus`, which once failed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzed import Case, cases, changed, crashed_shapes
from tests.pairs import MAGIC, Bytes, Left, left_by_sqlite, looker
from tests.writers import journal_of
from watcher.decision import Decision, decide
from watcher.journal import EMPTY_DATABASE_BYTES, JournalState, read_contents
from watcher.look import Look, Looker
from watcher.owner.testimony import Verdict
from watcher.rollback import Job, RollbackError, roll_back
from watcher.tree import Place

EXAMPLES = int(os.environ.get("JOURNAL_WATCHER_EXAMPLES", "300"))
CORPUS = sorted(Path(__file__).with_name("fuzz_corpus").glob("*.json"))
PLACE = Place("", "outbound.db")

pytestmark = pytest.mark.timeout(120 + EXAMPLES // 20)


class Bench:
    """Where cases are tried: in memory, where the system has that as a file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("made", "scratch"):
            (directory / name).mkdir()
        self.shapes = crashed_shapes(directory / "made")
        self.met: Counter[JournalState] = Counter()

    @property
    def database(self) -> Path:
        return self.directory / "tree" / PLACE.name

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    def looker(self) -> Looker:
        return looker(self.database.parent)

    def expect_agreement(self, case: Case) -> None:
        """Our word on a case, and SQLite's."""
        pair = changed(self.shapes[str(case["shape"])], case)
        pair.put(self.database)
        look = self.looker().look(PLACE)
        self.met[look.state] += 1
        decision = decide(look, Verdict.EXITED if _asks_for_a_verdict(look) else None)
        is_hot = _blocks_a_poll(pair, self.scratch)
        match decision:
            case Decision.IGNORE:
                assert not is_hot, "left, though polls are blocked"
                if len(pair.database) > EMPTY_DATABASE_BYTES:  # beside an empty one, SQLite deletes any journal
                    left = Left(pair.database, pair.journal)
                    assert left_by_sqlite(pair, self.scratch) == left, "left, though SQLite would not"
            case Decision.RECOVER:
                assert is_hot, "to be recovered, though polls are not blocked"
                self._expect_the_same_rollback(pair)
            case Decision.REFUSE:
                assert is_hot, "refused, though it blocks nobody"
                _expect_a_reason(look, pair)
            case _:
                raise AssertionError(decision)

    def _expect_the_same_rollback(self, pair: Bytes) -> None:
        left = left_by_sqlite(pair, self.scratch)
        assert left.journal is None, "to be recovered, though SQLite would leave it"
        with self.looker().pair(PLACE) as held:
            try:
                roll_back(Job.of(held, held.look(), busy_timeout_s=0.0))
            except RollbackError:
                pass  # it is corrupt, before or after; the bytes tell whether SQLite does the same
        assert self.database.read_bytes() == left.database
        assert not journal_of(self.database).exists()
        assert self.database.stat().st_size <= len(pair.database) + len(pair.journal)


def _asks_for_a_verdict(look: Look) -> bool:
    return look.state in {JournalState.HOT, JournalState.MALFORMED}


def _blocks_a_poll(pair: Bytes, scratch: Path) -> bool:
    """Whether SQLite holds the journal for hot: a read-only open must not roll it back, and says so."""
    path = pair.put(scratch / "poll.db")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.pragma("schema_version")
        finally:
            connection.close(True)
    except apsw.ReadOnlyError as error:
        return bool(getattr(error, "extendedresult", 0) == apsw.SQLITE_READONLY_ROLLBACK)
    except (apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError):
        return False  # CantOpenError: its header says WAL
    return False


def _expect_a_reason(look: Look, pair: Bytes) -> None:
    """What is refused on purpose is what it is called."""
    match look.state:
        case JournalState.SUPER:
            assert look.contents is not None
            assert look.contents.super_journal
            assert os.fsencode(look.contents.super_journal) in pair.journal
        case JournalState.FOREIGN:
            assert not pair.database.startswith(b"SQLite format 3\0")
        case JournalState.UNSAFE:
            assert "more than both files hold" in look.detail
        case _:
            raise AssertionError(look.state)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    made = Bench(directory)
    yield made
    print({state.value: count for state, count in made.met.items()})
    shutil.rmtree(directory)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(cases)
def test_sqlite_agrees(bench: Bench, case: Case) -> None:
    bench.expect_agreement(case)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_sqlite_agrees_on_what_once_failed(bench: Bench, path: Path) -> None:
    bench.expect_agreement(json.loads(path.read_text(encoding="ascii")))


@pytest.mark.parametrize("name", ["plain", "unsynced", "persisted", "grown", "shrinking", "new", "spilled twice"])
def test_sqlite_agrees_on_what_nobody_has_changed(bench: Bench, name: str) -> None:
    before = bench.met[JournalState.HOT]
    bench.expect_agreement({"shape": name, "changes": []})
    assert bench.met[JournalState.HOT] == before + 1


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(
    st.binary(max_size=700) | st.binary(max_size=60).map(lambda tail: MAGIC + tail + bytes(600)), st.integers(0, 2000)
)
def test_any_bytes_are_read_and_told_whatever_size_they_had(journal: bytes, size: int) -> None:
    descriptor = os.memfd_create("journal")
    try:
        os.write(descriptor, journal)
        contents = read_contents(descriptor, size)
    finally:
        os.close(descriptor)
    assert (contents.first_byte is None) == (not journal)
    if contents.header is not None:
        assert contents.header.explained()
        json.dumps(contents.header.as_json())
