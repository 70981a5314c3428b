"""journal-watcher recovers SQLite databases whose writer was killed in the middle of a transaction.

What a host program imports is here, and nothing else is public: a read-only poll that tells such a crash, and a writer
caught in the middle of a commit, from a real error. It stands alone on sqlite3 and loguru, and is silent until the host
asks: `loguru.logger.enable("watcher")`.
"""

from watcher import first_signals as first_signals  # before what takes time to load

# isort: split

from importlib import import_module
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from watcher.poller import Poller
    from watcher.races import RACED, ErrorClass, classify, is_readonly_race, tolerate_races

__all__ = ["RACED", "ErrorClass", "Poller", "classify", "is_readonly_race", "tolerate_races"]

logger.disable("watcher")

if not TYPE_CHECKING:  # a type checker is to say which names there are not

    def __getattr__(name: str) -> object:
        """What the host asks for is loaded then: the service wants none of it, and no sqlite3 beside its apsw."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        asked = getattr(import_module("watcher.poller" if name == "Poller" else "watcher.races"), name)
        globals()[name] = asked
        return asked

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
