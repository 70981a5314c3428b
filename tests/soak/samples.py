"""What a process uses, measured twice a second, and the first and the last tenth of it compared."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from typing import Self

import psutil

_PAUSE_S = 0.5
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        at_s: since the start of the measuring, seconds.
        memory_mib: resident.
        cpu_percent: of one CPU, since the sample before.
    """

    at_s: float
    memory_mib: float
    descriptors: int
    threads: int
    cpu_percent: float


class Sampler:
    """A thread that measures another process."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stopped = threading.Event()
        self._samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> list[Sample]:
        """End it; what was measured."""
        self._stopped.set()
        self._thread.join()
        return self._samples

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._process.cpu_percent()
            while not self._stopped.wait(_PAUSE_S):
                with self._process.oneshot():
                    self._samples.append(self._sample(time.monotonic() - began))
        except psutil.NoSuchProcess:
            return  # whoever waits for it will say so

    def _sample(self, at_s: float) -> Sample:
        return Sample(
            at_s,
            self._process.memory_info().rss / 2**20,
            self._process.num_fds(),
            self._process.num_threads(),
            self._process.cpu_percent(),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The median of one quantity in the first tenth after the warm-up, and in the last tenth."""

    name: str
    first: float
    last: float

    @property
    def growth(self) -> float:
        """By what share it has grown; less than nothing where it has shrunk."""
        return self.last / self.first - 1

    @property
    def is_leak(self) -> bool:
        return self.growth > TOLERANCE

    @classmethod
    def of(cls, name: str, samples: list[Sample], warm_up_s: float) -> Self:
        """Compare one attribute of the samples."""
        end_s = samples[-1].at_s
        tenth_s = (end_s - warm_up_s) / 10
        first = [getattr(each, name) for each in samples if warm_up_s <= each.at_s <= warm_up_s + tenth_s]
        last = [getattr(each, name) for each in samples if each.at_s >= end_s - tenth_s]
        return cls(name, statistics.median(first), statistics.median(last))
