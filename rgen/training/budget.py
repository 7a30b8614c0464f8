"""How long training lasts: a number of outer steps, or of minutes."""

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from rgen import devices
from rgen.config import TrainConfig
from rgen.sequence import PyTree


class AwakeClock:
    """A clock that stands still while the process is stopped, for example by Ctrl-Z or when the computer sleeps.

    It must be read at least once a second: a gap of more than `LONGEST` between two readings is not counted.

    Attributes:
      stopped: seconds that were not counted so far.
    """

    LONGEST = 2.0

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now, self._before, self._lock = now, now(), threading.Lock()
        self.stopped = 0.0

    def __call__(self) -> float:
        with self._lock:
            now = self._now()
            if now - self._before > self.LONGEST:
                self.stopped += now - self._before
            self._before = now
            return now - self.stopped


@cache
def process_clock() -> AwakeClock:
    """The clock of this process; a thread reads it, as an outer step may take longer than a second."""
    clock = AwakeClock()

    def read() -> None:
        while True:
            time.sleep(0.5)
            clock()

    threading.Thread(target=read, daemon=True).start()
    return clock


class Budget:
    """What a configuration allows, `steps` or `minutes`, and how much of it is used.

    Seconds of training include those before the run was resumed, but neither those of `leave_out` nor time in which the process is stopped.

    Attributes:
      timed: whether the budget is in minutes.
      total: outer steps; or seconds, if timed.
    """

    def __init__(self, config: TrainConfig, seconds: float = 0.0, now: Callable[[], float] | None = None):
        self._now = now or process_clock()
        self._began = self._now() - seconds
        self.timed = config.minutes is not None
        self.total = config.steps if config.minutes is None else 60 * config.minutes
        self._warmup = 0 if self.timed else config.warmup  # with a clock, the schedule begins at once

    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._now() - self._began

    def leave_out(self, call: Callable[..., Any], *arguments: Any) -> PyTree:
        """Calls a function without counting its time."""
        before = self._now()
        try:
            return call(*arguments)
        finally:
            self._began += self._now() - before

    def used(self, step: int) -> float:
        """How much of `total` is used after so many outer steps."""
        return self.seconds() if self.timed else step

    def after(self, step: int) -> tuple[bool, float]:
        """After so many outer steps: whether training ends, and how far the schedule after the warm-up is, 0 to 1.

        The same in all processes: the slowest clock counts.
        """
        used = devices.largest(self.used(step)) if self.timed else step
        return used >= self.total, min(1.0, max(0, used - self._warmup) / max(1e-9, self.total - self._warmup))
