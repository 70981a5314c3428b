"""The demo: real crashes in a temporary tree, found and recovered by the real service, told step by step.

Each sentence that it tells has been seen to be true. Where one is not, the demo says which, and ends with 1.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from watcher.demo_cast import ROLLBACK, Contents, Host, NotShownError, Poll, Writer, contents_of
from watcher.demo_page import crash_on, free_address, show_page
from watcher.demo_stage import Line, Service, Stage, setting
from watcher.demo_voice import Moment, Numbers, Step, Voice, Who
from watcher.names import counted

__all__ = ["play"]

_NEIGHBOURS = 3
_ORDINARY_COMMITS = 20
_MOST_KILLS = 3
_RESTRAINT_S = 3.5
"""The service looks at a journal that waits again after 1 s, and after 2 s more."""
_LEAVES_ALONE = {"journal_found", "owner_alive"}
_TOLD = {"journal_found", "owner_alive", "owner_exited", "recovered"}


def play(
    command: Sequence[str] = (sys.executable, "-m", "watcher"), deadline_s: float = 20.0, *, page: bool = False
) -> int:
    """Play it, on stdout: about five seconds.

    Args:
        command: what `journal-watcher` is, as the beginning of an argument list.
        deadline_s: how long to wait for a single step, seconds; far more than any takes.
        page: serve the page meanwhile, show it, and go on with crashes until a signal ends it.

    Returns:
        0 where all that it tells has happened, else 1.
    """
    voice = Voice()
    crashes: int | None = None
    try:
        with setting(command) as stage:
            address = free_address() if page else None
            numbers = _play(stage, voice, deadline_s, address)
            voice.summary(numbers)
            if address is not None:
                crashes = crash_on(stage, voice, address, deadline_s)
    except NotShownError as error:
        voice.not_shown(str(error))
        return 1
    except (OSError, sqlite3.Error) as error:
        voice.not_shown(f"the demo can run on this machine ({error})")
        return 1
    except KeyboardInterrupt:
        voice.interrupted()
        return 1
    if crashes is not None:
        voice.crashes_of(crashes)
    voice.what_next(has_seen_page=page)
    return 0


def _play(stage: Stage, voice: Voice, deadline_s: float, address: str | None) -> Numbers:
    voice.title(stage.home)
    with voice.step(f"{_NEIGHBOURS + 2} agents write their databases, and the service watches") as step:
        with step.waiting("the agents begin"):
            unseen = stage.writer("unseen", vfs="unix-none")
            neighbours = [stage.writer(f"live-{number + 1}") for number in range(_NEIGHBOURS)]
            victim = stage.writer("killed")
            unseen.interrupt()
        untouched = unseen.files()
        with step.waiting("the service starts"):
            service = stage.service(address)
            service.wait_for("sweep", None, deadline_s)
            # Its first sweep meets a journal that is hot. One that begins later is looked at when its writer closes it.
            met = service.wait_for("owner_alive", unseen.database, deadline_s)
        step.say(f"25 commits a second each; journal-watcher run has pid {service.pid}.")
    if address is not None:
        show_page(address, voice, deadline_s)
    story = Story(stage, service, deadline_s)
    with voice.step("One of them is killed in the middle of a transaction") as step:
        readable_ms, failed = story.one_is_killed(victim, step)
    with voice.step("Another one looks just as dead, but lives, and is left alone") as step:
        story.one_is_left_alone(unseen, untouched, step, since=met.moment)
    with voice.step("The others never noticed") as step:
        commits = sum(_commits_of(each) for each in neighbours)
        step.say(f"{len(neighbours)} agents went on beside it: {counted(commits, 'commit')}, 0 failed, 0 lost.")
    return Numbers(readable_ms, failed, commits)


@dataclass(frozen=True, slots=True)
class Story:
    """What is done to writers under the eyes of the service."""

    stage: Stage
    service: Service
    deadline_s: float

    def one_is_killed(self, victim: Writer, step: Step) -> tuple[float, int]:
        """Kill a writer that a host polls; and another one where its database was back before the next poll.

        Returns:
            As :meth:`_kill`, of the last one.
        """
        step.say(
            f"A host polls agents/{victim.name} without a rest, read-only. Its transaction has spilled: the database"
            " holds pages that were never committed, and the hot journal beside it what it takes to undo them."
        )
        for number in range(_MOST_KILLS):
            with Host(victim.database) as host:
                with step.waiting("some ordinary commits", host):
                    host.first("a host reads what a writer commits", _has_read_enough, self.deadline_s)
                victim.interrupt()
                readable_ms, failed = self._kill(victim, host, step)
            if failed:
                step.say(
                    f"{counted(failed, 'poll')} failed in between. Without the service all of them would, until"
                    " somebody happens to open the database read-write: often hours later."
                )
                return readable_ms, failed
            if number == _MOST_KILLS - 1:
                break
            step.say("Its database was back before the next poll. Another one, to see that polls fail:")
            victim = self.stage.writer(f"killed-{number + 2}")
        step.say("So was this one. Without the service every poll of theirs would fail from now on.")
        return readable_ms, failed

    def one_is_left_alone(self, unseen: Writer, untouched: tuple[object, ...], step: Step, *, since: float) -> None:
        """A journal that looks just like the one before is not touched, until its writer is killed, too.

        Args:
            untouched: its files before the service came.
            since: when the service met it, by `time.monotonic`.
        """
        with Host(unseen.database) as host:
            host.first(f"a poll of {unseen.name} fails", lambda poll: poll.code == ROLLBACK, self.deadline_s)
            step.say(
                f"Nobody sees the locks of agents/{unseen.name}, as with a guest in a virtual machine. Its journal is"
                " hot, polls fail, but a rollback now would corrupt the database under its hands. journal-watcher"
                " explain tells why nothing happens:"
            )
            with step.waiting("journal-watcher explain", host):
                evidence = self._explained(unseen)
            step.explanation(evidence)
            with step.waiting("the service leaves it alone", host):
                enough = since + _RESTRAINT_S
                host.first("polls go on", lambda poll: poll.moment > enough, self.deadline_s)
            polls = list(host.polls)
            other = [each for each in polls if each.code != ROLLBACK]
            _require(not other, f"each poll of {unseen.name} fails with {ROLLBACK}", f"{len(other)} did not")
            _require(unseen.runs, f"the writer of {unseen.name} lives on")
            _require(unseen.files() == untouched, f"the files of {unseen.name} are left as they are")
            said = {each.event for each in self.service.about(unseen.database)}
            told = f"the service told {', '.join(sorted(said))}"
            _require(said <= _LEAVES_ALONE, f"{unseen.name} is left alone while its writer lives", told)
            step.say(
                f"Met {time.monotonic() - since:.1f} s ago, {counted(len(polls), 'poll')} later its files are the same,"
                " byte for byte. Now it is killed, too:"
            )
            self._kill(unseen, host, step)

    def _kill(self, writer: Writer, host: Host, step: Step) -> tuple[float, int]:
        """Kill a writer in its transaction, and tell what follows, in its order.

        Returns:
            Milliseconds from the kill to the first good poll, and how many polls failed in between.

        Raises:
            NotShownError: its database is not recovered, or holds anything but what was committed.
        """
        host.hurry()
        killed_at = writer.kill()
        good = host.first(
            f"the database of {writer.name} can be read again",
            lambda poll: poll.contents is not None and poll.moment > killed_at,
            self.deadline_s,
        )
        recovered = self.service.wait_for("recovered", writer.database, self.deadline_s, after=killed_at)
        failed = [each for each in list(host.polls) if killed_at < each.moment < good.moment and each.code == ROLLBACK]
        told: dict[str, Line] = {}
        for line in self.service.about(writer.database):
            if line.moment > killed_at and line.event in _TOLD:
                told.setdefault(line.event, line)
        _require("owner_exited" in told, f"the service says that the owner of {writer.name} has exited")
        _require(bool(recovered.told.get("pages")), f"pages of {writer.name} are rolled back", recovered.words)
        kept = Contents(commits=writer.commits, last=writer.commits, interrupted=0)
        _require(good.contents == kept, f"{writer.name} holds what was committed, and nothing else", f"{good.contents}")
        _require(contents_of(writer.database, thorough=True) == kept, f"{writer.name} stays as it was recovered")
        moments = [Moment(killed_at, Who.KILL, f"SIGKILL to pid {writer.pid}")]
        moments += [Moment(each.moment, Who.FAILS, f"{each.code} {each.words}") for each in failed[:1]]
        moments += map(_as_told, told.values())
        words = f"reads again: {counted(writer.commits, 'commit')}, and nothing of the interrupted one"
        moments.append(Moment(good.moment, Who.READS, words))
        step.moments(moments, killed_at)
        return (good.moment - killed_at) * 1000, len(failed)

    def _explained(self, unseen: Writer) -> list[tuple[str, str, str]]:
        """What `journal-watcher explain` says of the owner: probes, verdicts and details."""
        told = self.stage.explain(unseen.database, self.deadline_s)
        owner = told.get("owner") or {}
        evidence = [(each["probe"], each["verdict"], each["detail"]) for each in owner.get("evidence", ())]
        alive = [probe for probe, verdict, _ in evidence if verdict == "alive"]
        _require(
            (told.get("state"), told.get("decision"), alive) == ("hot", "wait", ["pid_file"]),
            f"journal-watcher explain calls the journal of {unseen.name} hot, and its owner alive by its pid file",
            f"it says {told.get('state')}, {told.get('decision')}: {told.get('reason')}",
        )
        return evidence


def _has_read_enough(poll: Poll) -> bool:
    return poll.contents is not None and poll.contents.commits >= _ORDINARY_COMMITS


def _commits_of(neighbour: Writer) -> int:
    """Have it stop, and count what it has committed: all of it must be there.

    Raises:
        NotShownError: a commit has failed, or is lost.
    """
    neighbour.tell("stop")
    neighbour.close()
    _require(not neighbour.errors, f"no commit of {neighbour.name} fails", "; ".join(neighbour.errors[:3]))
    found = contents_of(neighbour.database, thorough=True)
    _require(
        found == Contents(neighbour.commits, neighbour.commits, interrupted=0),
        f"no commit of {neighbour.name} is lost",
        f"{neighbour.commits} were acknowledged, {found.commits} are there",
    )
    return neighbour.commits


def _require(is_so: bool, what: str, instead: str = "") -> None:
    if not is_so:
        raise NotShownError(what, instead)


def _as_told(line: Line) -> Moment:
    """A line of the service's log, in its own words."""
    match line.event:
        case "recovered":
            return Moment(line.moment, Who.RECOVERED, f"recovered: {line.words.partition(';')[0]}")
        case "owner_exited":
            details = [each["detail"] for each in line.told["evidence"] if each["verdict"] == "exited"]
            return Moment(line.moment, Who.SERVICE, f"its owner has exited: {'; '.join(details)}")
        case "owner_alive":
            return Moment(line.moment, Who.SERVICE, f"its owner is alive still: {line.words}")
        case _:
            return Moment(line.moment, Who.SERVICE, f"found: {line.words}")
