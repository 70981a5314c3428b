"""Signals reach us whatever the main thread is at."""

from __future__ import annotations

import signal
import subprocess
import sys

BUSY = """
import hashlib, os, signal
from watcher.signals import Signals
signals = Signals([signal.SIGTERM, signal.SIGHUP], lambda number: os._exit(100 + number))
{before}
signals.start()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # for half an hour, and no handler of Python's is called meanwhile
"""


def exit_status(*sent: int, before: str = "") -> int:
    argv = [sys.executable, "-c", BUSY.format(before=before)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if sent:
                assert process.stdout.readline() == b"ready\n"
            for number in sent:
                process.send_signal(number)
            return process.wait(20)
        finally:
            process.kill()


def test_a_signal_is_told_while_the_main_thread_listens_to_nothing() -> None:
    assert exit_status(signal.SIGTERM) == 100 + signal.SIGTERM


def test_a_signal_that_came_before_the_start_is_told() -> None:
    assert exit_status(before="os.kill(os.getpid(), signal.SIGHUP)") == 100 + signal.SIGHUP


def test_other_signals_are_none_of_it() -> None:
    before = "signal.signal(signal.SIGUSR1, lambda number, frame: None)"
    assert exit_status(signal.SIGUSR1, signal.SIGTERM, before=before) == 100 + signal.SIGTERM
