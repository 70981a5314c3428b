"""journal-watcher recovers SQLite databases whose writer was killed in the middle of a transaction.

What a host program imports is here, and nothing else is public: a read-only poll that tells such a crash, and a writer
caught in the middle of a commit, from a real error. It stands alone on sqlite3 and loguru, and is silent until the host
asks: `loguru.logger.enable("watcher")`.
"""

from watcher import first_signals as first_signals  # before what takes time to load

# isort: split

from loguru import logger

from watcher.poller import Poller
from watcher.races import RACED, ErrorClass, classify, is_readonly_race, tolerate_races

__all__ = ["RACED", "ErrorClass", "Poller", "classify", "is_readonly_race", "tolerate_races"]

logger.disable("watcher")
