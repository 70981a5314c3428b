"""What a person may do by hand about a journal that we leave alone, or a machine that has no more to give, in exact
words."""

from __future__ import annotations

import errno
import os

from watcher.decision import Decision, Finding
from watcher.journal import JournalState
from watcher.names import printable, quoted

__all__ = ["by_hand", "in_words", "is_of_machine", "remedy_of_machine", "roll_back_command"]

_REMEDIES = {
    errno.EMFILE: "raise our limit of open files (ulimit -n, in a unit LimitNOFILE=)",
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
    errno.EAGAIN: "raise our limit of threads (ulimit -u, in a unit TasksMax=)",
    errno.ENOMEM: "give us more memory",
}


def is_of_machine(error: OSError) -> bool:
    """Whether the machine has no more to give, whichever file it was asked for."""
    return error.errno in _REMEDIES


def remedy_of_machine(error: OSError) -> str | None:
    """What to do where the machine has no more to give; None where that is not what is wrong."""
    return _REMEDIES.get(error.errno or 0)


def in_words(error: OSError) -> str:
    """What the system says, and what to do about it where that is known."""
    words = printable(error.strerror or str(error))
    remedy = remedy_of_machine(error)
    return f"{words}; {remedy}" if remedy else words


def roll_back_command(finding: Finding) -> str:
    """What a person types to have SQLite roll back: it opens the database read-write, and one read does it."""
    return f"sqlite3 {quoted(finding.path)} 'PRAGMA schema_version'"


def by_hand(finding: Finding) -> str:
    """The advice about this finding; empty where there is nothing to do by hand."""
    database = quoted(finding.path)
    journal = quoted(os.path.join(os.path.dirname(finding.path), finding.place.journal_name))
    if finding.decision is Decision.HOLD and finding.look.state is JournalState.MALFORMED:
        return (
            "Find out whether its writer still runs. Where it has certainly ended, copy both files elsewhere, and have"
            f" SQLite delete the journal, which holds nothing that it could roll back: {roll_back_command(finding)}."
            " While it runs, that would corrupt the database."
        )
    if finding.decision is Decision.HOLD:
        return (
            "Find out whether its writer still runs. Where it has certainly ended, have SQLite roll back:"
            f" {roll_back_command(finding)}. While it runs, that would corrupt the database."
        )
    if finding.decision is Decision.WAIT:
        return "Nothing, as long as its writer works. Where it hangs, end it: the database is recovered at once then."
    if finding.blocked is not None:
        return f"{finding.blocked}: end that, or let it finish. It is recovered as soon as that ends."
    if finding.decision is not Decision.REFUSE:
        return ""
    if finding.look.is_over_limit:
        return (
            "Raise recovery.max_journal_size above that, if its writer can have written so much: it is recovered then"
            " as any other is. That takes time and disk space."
        )
    match finding.look.state:
        case JournalState.SUPER:
            return (
                "This was one transaction over several databases, and they must be recovered together: let a program"
                " in the name space that wrote the super-journal's path (the container's own mounts) open this"
                f" database read-write there. Opened elsewhere, SQLite takes the transaction for committed and deletes"
                f" {journal} without rolling back."
            )
        case JournalState.FOREIGN:
            return (
                f"If {database} is no database, give one of the two files another name, or leave it out by"
                " tree.databases or tree.exclude. If it is an encrypted one, open it once with its key."
            )
        case JournalState.ORPHAN:
            return (
                f"Put the database back beside it, or, if that is gone for good, delete {journal} yourself. Make no new"
                " database of this name there before: SQLite would take the journal for its own."
            )
        case JournalState.HOT:
            return "Allow a snapshot of that size (recovery.snapshot), or set recovery.snapshot.required to false."
        case JournalState.MALFORMED:
            return (
                f"Copy both files elsewhere, then have SQLite delete the journal: {roll_back_command(finding)}."
                " Or allow a snapshot of it (recovery.snapshot)."
            )
        case _ if finding.look.contents is not None:  # two plain files, and what they hold is against it
            return (
                "Find out who has made that journal, and copy both files elsewhere before anything else. Once what is"
                " wrong with it is put right, it is recovered. Have SQLite open it read-write only where you trust its"
                " writer."
            )
        case _:
            return (
                f"Look at what it is: ls -la {quoted(os.path.dirname(finding.path))}. Do not open it by this path as it"
                " stands: SQLite would write, and delete, whatever that leads to. Once what is wrong with it is put"
                " right, it is recovered."
            )
