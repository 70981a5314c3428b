"""Which engines have been seen to serve this tree, kept in the state directory from one run to the next."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path

from loguru import logger

from watcher.names import printable

__all__ = ["EngineMemory"]

_FILE = "engine.json"
_LONGEST = 65536
_MOST = 16


class EngineMemory:
    """May be used by several threads at once.

    Args:
        state_dir: None: remembered for this run only.
        tree: the tree's root; what was seen to serve another tree does not count.
    """

    def __init__(self, state_dir: Path | None, tree: Path) -> None:
        self._path = None if state_dir is None else state_dir / _FILE
        self._tree = os.fspath(tree)
        self._lock = threading.Lock()
        self._seen = self._read()  # under the lock, oldest first

    def serves_tree(self, engine_id: str) -> bool:
        """Whether a container of this engine has been seen to be a session's owner."""
        with self._lock:
            return engine_id in self._seen

    def remember(self, engine_id: str) -> None:
        """A container of this engine is a session's owner."""
        with self._lock:
            if engine_id in self._seen:
                return
            self._seen = [*self._seen, engine_id][-_MOST:]
            if self._path is None:
                return
            try:
                self._write(self._path)
            except OSError as error:
                logger.bind(event="state_failed").warning(
                    "cannot keep in {} that the engine serves this tree: {}; it is known until the service stops",
                    printable(self._path),
                    error.strerror or error,
                )

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            with self._path.open("rb") as file:
                kept = json.loads(file.read(_LONGEST))
        except (OSError, ValueError):
            return []  # nothing kept, or nothing that we have written: the engine proves itself again
        if not isinstance(kept, dict) or kept.get("tree") != self._tree or not isinstance(kept.get("engines"), list):
            return []
        return [each for each in kept["engines"] if isinstance(each, str)][-_MOST:]

    def _write(self, path: Path) -> None:
        text = json.dumps({"tree": self._tree, "engines": self._seen}) + "\n"
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)  # 0600
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
