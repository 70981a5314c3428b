"""What our emitters have in common: they call the sink themselves, and say how they ended."""

from __future__ import annotations

import threading
from typing import Any

from watchdog.observers.api import EventEmitter, EventQueue, ObservedWatch

from watcher.hints.trouble import Sink, Trouble
from watcher.tree import RootMissingError, Tree

__all__ = ["HintEmitter"]


_WAITS_S = 1.0


class HintEmitter(EventEmitter):
    """A source of hints in a thread of its own: no event object, no queue and no second thread lie between it and the
    sink.

    Args:
        after: what to wait for before it begins, for a second at most.

    Attributes:
        directories: how many are watched now.
        missed: how many should be and are not; what lies below them is not counted.
        ready: they are all watched for the first time.
        failure: what ended the thread, where that was neither `stop` nor the end of the root.
    """

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        tree: Tree,
        sink: Sink,
        after: threading.Event | None = None,
        **options: Any,
    ) -> None:
        super().__init__(event_queue, watch, **options)
        self.directories = 0
        self.missed = 0
        self.ready = False
        self.failure: Exception | None = None
        self._tree = tree
        self._sink = sink
        self._after = after

    def run(self) -> None:
        trouble: Trouble | None = None
        try:
            if self._after is not None:
                self._after.wait(_WAITS_S)
            super().run()
        except RootMissingError:
            trouble = Trouble.ROOT_GONE
        except Exception as error:  # noqa: BLE001 - a thread's top: told below, and kept for the one who logs it
            self.failure = error
            trouble = Trouble.FAILED
        finally:
            self._release()
        if trouble is not None and self.should_keep_running():
            self._sink.sweep(trouble)

    def abandon(self) -> None:
        """Stop, also where the thread could not be started."""
        self.stop()
        if self.ident is None:
            self._release()

    def _release(self) -> None:
        """Give back what the thread has used."""
