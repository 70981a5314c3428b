"""The console command. The service is started from here, without what only the other commands need."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watcher import first_signals
from watcher.names import printable
from watcher.streams import give_up_stdout, is_unread, mend_standard_streams, say

__all__ = ["BAD_SETTINGS", "main", "serve"]

BAD_SETTINGS = 2
_TAKEN = 3
_INTERRUPTED = 130


def main() -> None:
    """The console command."""
    mend_standard_streams()
    try:
        try:
            _obey(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not is_unread(error):
            raise
        give_up_stdout()  # whoever read it has gone, and has what was wanted: nobody is left to tell
        ended = error.__context__
        sys.exit(ended.code if isinstance(ended, SystemExit) and not is_unread(ended) else 0)
    except KeyboardInterrupt:  # before the command could say what that means to it
        give_up_stdout()
        sys.exit(_INTERRUPTED)
    except OSError as error:
        give_up_stdout()
        say(f"{printable(error.filename)}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)


def _obey(arguments: list[str]) -> None:
    match arguments:
        case ["run"]:
            serve(None)
        case ["run", "-c" | "--config", file] if file and not file.startswith("-"):
            serve(Path(file))
        case _:  # any other way to write it, too
            from watcher.commands import app

            app(prog_name="journal-watcher")


def serve(config: Path | None) -> None:
    """Be the service, until it is told to stop; ends the process with the status that INTERFACE.md promises.

    Args:
        config: the settings file; None for the usual one.
    """
    first_signals.listen()  # where somebody else's way of starting us has hidden from the package what this will be
    with _loading():
        from watcher.settings import SettingsError, load_settings

        try:
            settings = load_settings(config)
        except SettingsError as error:
            say(str(error))
            sys.exit(BAD_SETTINGS)
        from watcher.records.state_dir import AlreadyRunning, StateError
        from watcher.root_lock import TreeTakenError
        from watcher.service import Service, StartError
        from watcher.threads import NoThreadError

    faulthandler.enable()  # a watchdog's SIGABRT leaves behind where each thread was
    try:
        status = Service(settings).run()
    except (AlreadyRunning, TreeTakenError) as error:
        say(str(error))
        sys.exit(_TAKEN)
    except (StateError, ValueError, NoThreadError, StartError) as error:
        say(str(error))
        sys.exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # whatever a thread is still at, and however long a dead disk holds it, may end with the process


@contextmanager
def _loading() -> Iterator[None]:
    """What is made meanwhile stays for good: to look it through for garbage, again and again, takes a sixth of a start,
    and to do it later, in the middle of a recovery, is no use either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
