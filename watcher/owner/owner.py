"""The one careful question, has the owner exited?, put to every probe that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcher.look import Look, LookAgainError, Pair
from watcher.owner.boot import BootProbe
from watcher.owner.clock import WallClock
from watcher.owner.command import CommandProbe
from watcher.owner.heartbeat import HeartbeatProbe
from watcher.owner.locks import LocksProbe, lock_directory_of
from watcher.owner.pid_file import PidFileProbe
from watcher.owner.testimony import Answer, Evidence, Judgement, Subject, judge
from watcher.settings import LocksMode, Settings
from watcher.tree import UnsafeError

if TYPE_CHECKING:  # the docker SDK is loaded only where the settings name an engine
    from watcher.owner.container import ContainerProbe

__all__ = ["Owner"]


class Owner:
    """Asks the probes about one database at a time; may be used by several threads at once.

    Args:
        settings: which probes there are.
        clock: of this process.
        container: the probe that asks the engine, where the settings have one.
        thorough: ask every probe, also those that cost something where a cheaper one has said ALIVE already.
    """

    def __init__(
        self,
        settings: Settings,
        clock: WallClock,
        *,
        container: ContainerProbe | None,
        thorough: bool,
    ) -> None:
        owner = settings.owner
        self._thorough = thorough
        self._locks = None if owner.locks is LocksMode.OFF else LocksProbe(owner.locks)
        self._boot = BootProbe(clock)
        self._pid_file = None if owner.pid_file is None else PidFileProbe(owner.pid_file, clock)
        self._container = container
        self._command = None if owner.command is None else CommandProbe(owner.command, settings.file.parent)
        self._heartbeat = None if owner.heartbeat is None else HeartbeatProbe(owner.heartbeat)
        others = (self._pid_file, self._container, self._command, self._heartbeat)
        self._has_others = any(probe is not None for probe in others)

    def close(self) -> None:
        """End what a probe has running; questions that come later are answered with UNKNOWN."""
        if self._command is not None:
            self._command.close()
        if self._container is not None:
            self._container.close()

    def judge(self, pair: Pair, look: Look, *, fresh: bool) -> Judgement:
        """The verdict about the owner of a pair that has just been looked at.

        Args:
            pair: held by this thread; no SQLite connection of this process is on its database.
            look: the pair's last look, at a journal with a database beside it.
            fresh: True right before a rollback: nothing that was found out earlier counts.

        Raises:
            OSError: the file system fails, or we have run out of descriptors.
        """
        boot = self._boot.testify(pair.journal_ctime_ns, pair.file_system())
        if self._has_others:
            return judge((boot, *self._testimony(_subject(pair, look, fresh=fresh), pair, boot)))
        return judge((boot,) if self._locks is None else (boot, self._ask_locks(self._locks, pair, None)))

    def _testimony(self, subject: Subject, pair: Pair, boot: Evidence) -> list[Evidence]:
        """What all probes but `boot` say."""
        told = []
        if self._locks is not None:
            foreign = None if self._container is None else self._container.foreign_kernel(subject)
            told.append(self._ask_locks(self._locks, pair, foreign))
        if self._pid_file is not None:
            evidence = self._pid_file.ask(subject)
            if self._container is not None and evidence.answer is Answer.EXITED:
                # A pid of a container's own name space is somebody else's here, or nobody's.
                evidence = evidence._replace(answer=Answer.SILENT)
            told.append(evidence)
        if not self._thorough and any(each.answer is Answer.ALIVE for each in told):
            return told
        if self._container is not None:
            told.append(self._container.ask(subject, boot_exited=boot.answer is Answer.EXITED))
        if self._command is not None:
            told.append(self._command.ask(subject))
        if self._heartbeat is not None:
            told.append(self._heartbeat.ask(subject))
        return told

    @staticmethod
    def _ask_locks(probe: LocksProbe, pair: Pair, foreign_kernel: str | None) -> Evidence:
        try:
            lock_directory = lock_directory_of(pair.place.name, pair.directory_fd)
            return probe.testify(pair.database_reader(), pair.file_system(), foreign_kernel, lock_directory)
        except (UnsafeError, LookAgainError) as error:
            return Evidence(probe.name, Answer.UNKNOWN, str(error))


def _subject(pair: Pair, look: Look, *, fresh: bool) -> Subject:
    assert look.journal is not None
    return Subject(
        path=pair.path,
        name=pair.place.name,
        session=pair.session,
        directory_fd=pair.directory_fd,
        database_fd=pair.database_fd,
        journal_ctime_ns=pair.journal_ctime_ns,
        journal_mtime_ns=look.journal.mtime_ns,
        fresh=fresh,
    )
