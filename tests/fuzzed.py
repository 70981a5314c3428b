"""Changed pairs: real ones, killed in the middle, with something done to them. As JSON they make the corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from tests.pairs import Bytes, Shape, super_trailer
from tests.writers import journal_of

SHAPES: Mapping[str, Shape] = {
    "plain": Shape(page_size=512, rows=40),
    "large pages": Shape(page_size=4096, rows=12),
    "unsynced": Shape(page_size=512, rows=40, synchronous="off"),
    "normal": Shape(page_size=512, rows=40, synchronous="normal"),
    "large sectors": Shape(page_size=512, rows=60, sector_size=4096),
    "persisted": Shape(
        page_size=512,
        rows=60,
        journal_mode="persist",
        before=("UPDATE t SET body = randomblob(400)",),
        during=("UPDATE t SET body = randomblob(400) WHERE id < 30",),
    ),
    "grown": Shape(page_size=512, rows=20, during=("INSERT INTO t SELECT i + 100, zeroblob(400) FROM n LIMIT 60",)),
    "shrinking": Shape(page_size=512, rows=60, auto_vacuum="full", during=("DELETE FROM t",), at_commit=True),
    "new": Shape(
        page_size=512, rows=0, during=("CREATE TABLE u (x)", *("INSERT INTO u VALUES (randomblob(400))",) * 30)
    ),
    "spilled twice": Shape(page_size=512, rows=60, during=("UPDATE t SET body = 1", "UPDATE t SET body = 2")),
}
"""What the pairs were before they were changed."""

Case = dict[str, object]
"""`{"shape": name, "changes": [[what, ...], ...]}`."""


def crashed_shapes(directory: Path) -> dict[str, Bytes]:
    """Each shape, killed for real."""
    pairs = {}
    for name, shape in SHAPES.items():
        path = directory / f"{name}.db"
        shape.crash(path)
        pairs[name] = Bytes.of(path)
        journal_of(path).unlink()
    return pairs


def changed(pair: Bytes, case: Case) -> Bytes:
    """The pair with the case's changes, one after another."""
    changes = case["changes"]
    assert isinstance(changes, list)
    for what, *how in changes:
        pair = _CHANGES[what](pair, *how)
    return pair


def _field(pair: Bytes, offset: int, number: int) -> Bytes:
    return pair.with_journal_field(offset, number)


def _poke(pair: Bytes, which: str, at: int, data: str) -> Bytes:
    """Overwrite some bytes; `at` counts from the end where it is negative."""
    old = pair.journal if which == "journal" else pair.database
    start = max(0, min(len(old), at if at >= 0 else len(old) + at))
    written = bytes.fromhex(data)
    return replace(pair, **{which: old[:start] + written + old[start + len(written) :]})


def _cut(pair: Bytes, which: str, size: int) -> Bytes:
    old = pair.journal if which == "journal" else pair.database
    return replace(pair, **{which: old[: size if size >= 0 else max(0, len(old) + size)]})


def _append(pair: Bytes, which: str, data: str, times: int) -> Bytes:
    old = pair.journal if which == "journal" else pair.database
    return replace(pair, **{which: old + bytes.fromhex(data) * times})


def _trailer(pair: Bytes, name: str) -> Bytes:
    return replace(pair, journal=pair.journal + super_trailer(bytes.fromhex(name)))


def _database(pair: Bytes, head: str, size: int) -> Bytes:
    """Another file in the place of the database: it begins so, and has zeros behind that."""
    return replace(pair, database=bytes.fromhex(head)[:size].ljust(size, b"\0"))


_CHANGES: dict[str, Callable[..., Bytes]] = {
    "field": _field,
    "poke": _poke,
    "cut": _cut,
    "append": _append,
    "trailer": _trailer,
    "database": _database,
}

_numbers = st.one_of(
    st.sampled_from([0, 1, 2, 31, 32, 33, 256, 511, 512, 1000, 1024, 4096, 65535, 65536, 65537, 131072]),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**24, 0xD9D505F9]),
    st.integers(0, 300),
    st.integers(0, 2**32 - 1),
)
_which = st.sampled_from(["journal", "database"])
_places = st.one_of(
    st.integers(0, 40), st.integers(-40, -1), st.integers(500, 560), st.integers(0, 30_000), st.sampled_from([511, 512])
)
_data = st.binary(min_size=1, max_size=12).map(bytes.hex) | st.sampled_from(
    ["00", "ff", "00" * 28, "d9d505f920a163d7", "53514c69746520666f726d6174203300", "00" * 512]
)
_names = st.binary(max_size=20).map(
    lambda name: (b"fuzz-mj01234599F" + name.replace(b"/", b"_")).hex()
) | st.sampled_from([b"".hex(), b"\0".hex(), b"fuzz".hex(), ("ff" * 30)])
_heads = st.sampled_from(["", "00" * 16, b"SQLite format 3\0".hex(), b"SQLite format 3".hex(), b"Dear diary".hex()])
_changes = st.one_of(
    st.tuples(st.just("field"), st.sampled_from([0, 4, 8, 12, 16, 20, 24]), _numbers),
    st.tuples(st.just("poke"), _which, _places, _data),
    st.tuples(st.just("cut"), _which, st.one_of(_places, st.sampled_from([0, 1, 16, 27, 28, 511, 512, 513, 1024]))),
    st.tuples(st.just("append"), _which, _data, st.integers(1, 100)),
    st.tuples(st.just("trailer"), _names),
    st.tuples(st.just("database"), _heads, st.sampled_from([0, 1, 15, 16, 17, 18, 100, 512, 4096, 20_000])),
)
cases: st.SearchStrategy[Case] = st.fixed_dictionaries(
    {"shape": st.sampled_from(sorted(SHAPES)), "changes": st.lists(_changes.map(list), max_size=4)}
)
