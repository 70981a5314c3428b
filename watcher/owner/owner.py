"""The one careful question, has the owner exited?, put to every probe that the settings name."""

from __future__ import annotations

from watcher.look import Look, LookAgainError, Pair
from watcher.owner.boot import BootProbe
from watcher.owner.clock import WallClock
from watcher.owner.locks import LocksProbe
from watcher.owner.pid_file import PidFileProbe
from watcher.owner.testimony import Answer, Evidence, Judgement, Subject, judge
from watcher.settings import LocksMode, OwnerSettings
from watcher.tree import UnsafeError

__all__ = ["Owner"]


class Owner:
    """Asks the probes about one database at a time; may be used by several threads at once.

    Args:
        settings: which probes there are.
        clock: of this process.
    """

    def __init__(self, settings: OwnerSettings, clock: WallClock) -> None:
        self._locks = None if settings.locks is LocksMode.OFF else LocksProbe(settings.locks)
        self._boot = BootProbe(clock)
        self._pid_file = None if settings.pid_file is None else PidFileProbe(settings.pid_file, clock)

    def judge(self, pair: Pair, look: Look, *, fresh: bool) -> Judgement:
        """The verdict about the owner of a pair that has just been looked at.

        Args:
            pair: held by this thread; no SQLite connection of this process is on its database.
            look: the pair's last look, at a journal with a database beside it.
            fresh: True right before a rollback: nothing that was found out earlier counts.

        Raises:
            OSError: the file system fails, or we have run out of descriptors.
        """
        assert look.journal is not None
        subject = Subject(
            path=pair.path,
            name=pair.place.name,
            session=pair.session,
            directory_fd=pair.directory_fd,
            database_fd=pair.database_fd,
            journal_ctime_ns=look.journal.ctime_ns,
            journal_mtime_ns=look.journal.mtime_ns,
            fresh=fresh,
        )
        file_system = pair.file_system()
        evidence = [self._boot.testify(subject, file_system)]
        if self._locks is not None:
            evidence.append(self._ask_locks(self._locks, pair, look, None))
        if self._pid_file is not None:
            evidence.append(self._pid_file.ask(subject))
        return judge(tuple(evidence))

    @staticmethod
    def _ask_locks(probe: LocksProbe, pair: Pair, look: Look, foreign_kernel: str | None) -> Evidence:
        assert look.database is not None
        try:
            with pair.database_readable(look.database) as descriptor:
                return probe.testify(descriptor, pair.file_system(), foreign_kernel)
        except (UnsafeError, LookAgainError) as error:
            return Evidence(probe.name, Answer.UNKNOWN, str(error))
