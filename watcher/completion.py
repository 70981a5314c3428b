"""Completion in the shell: databases of the tree, as far as a word has come."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from watcher.names import printable
from watcher.settings import SettingsError, load_settings
from watcher.tree import SUFFIX, OutsideTreeError, Tree

__all__ = ["databases"]

_MOST = 200
_QUOTES = {"'", '"'}
"""Typer's script for zsh has each name evaluated twice, within either kind of quotes: backslashes come through when
doubled for both, quotes not at all, so such a name is left to be typed."""


def databases(config: Path | None, word: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What the word may become: databases, and directories on the way to them (with a slash at their end), by paths
    that are absolute, or relative to the working directory or the root.

    Args:
        config: the settings file that the line names, if it does.
        word: up to where it has been typed, without the shell's quotes.

    Returns:
        Names as `printable` shows them, in the way that the asking shell takes them. Nothing where the settings or the
        tree cannot be read: the command itself will say why.
    """
    try:
        tree = Tree(load_settings(config).tree)
        found = list(islice(dict.fromkeys(_candidates(tree, word)), _MOST))
    except (SettingsError, OSError):
        return []
    match environ.get("_JOURNAL_WATCHER_COMPLETE"):
        case "complete_bash":  # which puts them into the line as they are
            return [shlex.quote(each) for each in sorted(found)]
        case "complete_zsh":
            return [each.replace("\\", r"\\\\") for each in sorted(found) if not _QUOTES & set(each)]
        case _:
            return sorted(found)


def _candidates(tree: Tree, word: str) -> Iterator[str]:
    above, _, beginning = word.rpartition("/")
    typed = f"{above}/" if "/" in word else ""
    for base in (tree.root, os.getcwd()):
        directory = os.path.normpath(os.path.join(base, typed))
        for name in _names_in(tree, directory):
            shown = printable(name)
            if shown.startswith(beginning):
                yield typed + shown


def _names_in(tree: Tree, directory: str) -> Iterator[str]:
    root = os.path.normpath(tree.root)
    if root.startswith(directory.rstrip("/") + "/"):  # above the tree: the one way that leads to it
        yield root[len(directory.rstrip("/")) + 1 :].partition("/")[0] + "/"
        return
    if directory != root and not directory.startswith(root + "/"):
        return
    try:
        listed = os.scandir(directory)
    except OSError:  # a word that leads nowhere from here may do so from another base
        return
    with listed as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield f"{entry.name}/"
                continue
            path = entry.path.removesuffix(SUFFIX)
            try:
                tree.locate(path)
            except OutsideTreeError:
                continue
            yield os.path.basename(path)
