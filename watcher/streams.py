"""The standard streams of a command: all three there, no name that breaks the output, and messages for people."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["give_up_stdout", "is_unread", "mend_standard_streams", "say"]


def mend_standard_streams() -> None:
    """Open what is closed, and print by escapes what the encoding does not know.

    A closed descriptor would be given to the next file that is opened: a database on descriptor 2 is overwritten by
    whatever complains (sqlite.org/howtocorrupt.html, section 1.2).
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Whoever read our output has gone, or it cannot be written: what is left in its buffer is no second error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def is_unread(error: BaseException) -> bool:
    """Whether the reader of our output has gone. Rich and typer end with 1 then, and have caught that."""
    return isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)


def say(message: str) -> None:
    """Tell a person, on stderr, line by line."""
    for line in message.splitlines():
        sys.stderr.write(f"journal-watcher: {line}\n")
