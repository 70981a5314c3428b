"""Which boot times earlier runs have seen since this boot: so a step of the wall clock between two runs is noticed."""

from __future__ import annotations

import json
from pathlib import Path

from watcher.records.state_dir import StateDir, StateError, read_file

__all__ = ["earlier_boot_times", "remember_boot_times"]

_NAME = "boot.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOST_BYTES = 1024


def earlier_boot_times(state_dir: Path) -> tuple[int, ...]:
    """The boot times that were remembered in this boot, nanoseconds since the epoch; empty where there are none, or
    where they cannot be read: then this run knows only what it sees itself."""
    try:
        remembered = json.loads(read_file(state_dir, _NAME, _MOST_BYTES) or b"{}")
        if not isinstance(remembered, dict) or remembered.get("boot_id") != _boot_id():
            return ()
        return tuple(each for each in remembered.get("boot_times_ns", ()) if isinstance(each, int))
    except (StateError, ValueError, TypeError):
        return ()


def remember_boot_times(state_dir: StateDir, bounds: tuple[int, int]) -> None:
    """Remember them for the runs that come.

    Raises:
        StateError: they cannot be written.
    """
    boot_id = _boot_id()
    if boot_id is not None:
        told = {"boot_id": boot_id, "boot_times_ns": sorted(set(bounds))}
        state_dir.write_atomically(_NAME, json.dumps(told).encode() + b"\n")


def _boot_id() -> str | None:
    """What the kernel calls this boot (random(4)); None where it does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
