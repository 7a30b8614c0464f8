"""Being asked to stop: once politely, so that work can be saved, and a second time at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Signals:
    """While it is entered, the first SIGINT or SIGTERM only sets `number`; the next one ends the program as usual.

    Attributes:
      number: of the signal that came, or 0.
    """

    def __init__(self, say: Callable[[str], None]):
        self.number = 0
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()
        self._say("Stopping after this step, with a checkpoint; once more, and it stops at once.")
