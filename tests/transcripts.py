"""Transcripts of a terminal, as the README shows them: typed again into a real shell, and compared with what comes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Shell", "Typed", "differences", "pattern_of", "shell_in", "typed_in"]

_PROMPT = "readme> "
_DEADLINE_S = 30.0
_COLUMNS = 200

# What may differ, and nothing else: each pattern stands for any text of its own form. The order counts.
_VOLATILE = (
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{3})?Z?",  # a moment
    r"\b\d+(?:\.\d+)?(?: ms| s|ms|s|m|h|d)\b",  # a duration
    r"\b\d+(?:\.\d+)? (?:B|KiB|MiB|GiB|bytes)\b",  # a size
    r"\bpid \d+\b",
    r"\b0x[0-9a-f]{8}\b",
    r"\buid \d+\b",
    r"(?<=^\[)\d+\] \d+$",  # a job of the shell, and its pid
    r"\b\d+ (?:pages|directories)\b",
    r"\b(?:ext4|xfs|btrfs|tmpfs|overlay)(?=, local locks\))",
)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command of a transcript, and the lines that it shows."""

    command: str
    shows: tuple[str, ...]


def typed_in(transcript: str) -> list[Typed]:
    """The commands of a console block, each with the lines below it."""
    found: list[tuple[str, list[str]]] = []
    for line in transcript.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            assert found, f"a transcript begins with a command: {line!r}"
            if line:
                found[-1][1].append(line)
    return [Typed(command, tuple(shows)) for command, shows in found]


def pattern_of(told: str, places: Mapping[str, str] | None = None) -> re.Pattern[str]:
    """What a text of the README stands for: itself, but for what differs from run to run, by its form; `…` where the
    README leaves something out, and as much space as there is between columns.

    Args:
        places: paths that the README names, and what they are here.
    """
    volatile = re.compile("|".join(f"(?P<v{number}>{each})" for number, each in enumerate(_VOLATILE)))
    pieces: list[str] = []
    at = 0
    for match in volatile.finditer(told):
        pieces += [_literal(told[at : match.start()], places or {}), _VOLATILE[int(str(match.lastgroup)[1:])]]
        at = match.end()
    pieces.append(_literal(told[at:], places or {}))
    return re.compile("".join(pieces))


def _literal(text: str, places: Mapping[str, str]) -> str:
    for place, here in places.items():
        text = text.replace(place, here)
    literal = re.escape(text).replace("…", ".*")
    return re.sub(r"(?:\\ ){2,}", r"\\s+", literal)


class Shell:
    """An interactive bash on a terminal."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, _COLUMNS, 0, 0))
        kept = {name: value for name, value in environ.items() if name not in {"COLUMNS", "LINES"}}
        env = {**kept, "PS1": _PROMPT, "TERM": "xterm", "NO_COLOR": "1", "HISTFILE": ""}
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env=env,
            start_new_session=True,
        )
        os.close(theirs)
        self._seen = ""
        self._read_until(lambda seen: seen.endswith(_PROMPT))
        self.type("stty -echo")

    def type(self, command: str, shows: Sequence[re.Pattern[str]] = ()) -> list[str]:
        """Type a line, and wait for the prompt and for all that it is to show; what runs behind may be late.

        Returns:
            The lines that came.
        """
        self._seen = ""
        os.write(self._ours, f"{command}\n".encode())

        def has_come(seen: str) -> bool:
            return _PROMPT in seen and not _missing(_lines(seen), shows)

        self._read_until(has_come)
        return _lines(self._seen)

    def close(self) -> None:
        """End it, and all that it has started."""
        self._process.kill()
        self._process.wait(10)
        os.close(self._ours)

    def _read_until(self, has_come: Callable[[str], bool]) -> None:
        until = time.monotonic() + _DEADLINE_S
        while not has_come(self._seen):
            left = until - time.monotonic()
            if left < 0 or not select.select([self._ours], [], [], left)[0]:
                return  # what is missing, the caller tells
            try:
                self._seen += os.read(self._ours, 65536).decode().replace("\r\n", "\n")
            except OSError:  # EIO: it has ended
                return


def _lines(seen: str) -> list[str]:
    lines = [line.replace(_PROMPT, "").rstrip() for line in seen.replace("\r", "").split("\n")]
    return [line for line in lines if line]


def _missing(lines: Sequence[str], shows: Sequence[re.Pattern[str]]) -> list[str]:
    """Patterns that no line matches, each line taken once."""
    left = list(lines)
    missing = []
    for pattern in shows:
        found = next((line for line in left if pattern.fullmatch(line)), None)
        if found is None:
            missing.append(pattern.pattern)
        else:
            left.remove(found)
    return missing


def differences(typed: Typed, lines: Sequence[str], places: Mapping[str, str]) -> str:
    """What a command showed that the README does not, and the other way about; empty where they agree."""
    shows = [pattern_of(line, places) for line in typed.shows]
    missing = _missing(lines, shows)
    more = [line for line in lines if not any(pattern.fullmatch(line) for pattern in shows)]
    if not missing and not more:
        return ""
    return "\n".join([f"$ {typed.command}", *(f"- {each}" for each in missing), *(f"+ {each}" for each in more)])


@contextmanager
def shell_in(directory: Path, environ: Mapping[str, str]) -> Iterator[Shell]:
    shell = Shell(directory, environ)
    try:
        yield shell
    finally:
        shell.close()
