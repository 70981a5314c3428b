"""Could the owner of a journal have written the database beside it?

A journal is an order to overwrite a database. In a directory that several users may write (a sticky one, say), somebody
could give that order for a database which is not his to write; recovered by root, it would be carried out.
"""

from __future__ import annotations

import os
import pwd
import stat

from watcher.pinned import FileIdentity

__all__ = ["may_have_written"]


def may_have_written(journal: FileIdentity, database: FileIdentity, directory_fd: int) -> bool:
    """Whether the journal's owner may write the database, by its mode.

    SQLite gives a journal the mode of its database and, where root writes, its owner, too (`findCreateFileMode` in
    os_unix.c); else it belongs to the writer. Access control lists are not read.

    Args:
        directory_fd: descriptor of the directory of both files.
    """
    if journal.uid == 0:
        return True
    if journal.uid == database.uid:
        return bool(database.mode & stat.S_IWUSR)
    if database.mode & stat.S_IWOTH:
        return True
    if not database.mode & stat.S_IWGRP:
        return False
    return (journal.gid == database.gid and not _lends_its_group(directory_fd)) or _is_member(journal.uid, database.gid)


def _lends_its_group(directory_fd: int) -> bool:
    """Whether anybody's new file in it belongs to its group, and not everybody who makes one could as well replace the
    files of others: there, the group of a journal proves nothing about its owner."""
    mode = os.fstat(directory_fd).st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_ISVTX)


def _is_member(uid: int, gid: int) -> bool:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a container's user, whom nobody knows here
        return False
    return gid in os.getgrouplist(entry.pw_name, entry.pw_gid)
