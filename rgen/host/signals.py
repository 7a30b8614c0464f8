"""Being asked to stop: once politely, so that work can be saved, and a second time at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NOTE = b"\nStopping after this step, with a checkpoint; once more, and it stops at once.\n"


def _install(handler: Any) -> dict[int, Any]:
    """Lets `handler` have SIGINT, SIGTERM and SIGHUP. Returns the handlers before; none in a thread that cannot have any.

    SIGHUP, a terminal that is closed, stays ignored where it is: nohup does that, to let a program go on.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not on Windows
        numbers.append(signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """While it is entered, the signals raise KeyboardInterrupt, also where the shell had SIGINT ignored, as in the background."""
    before = _install(signal.default_int_handler)
    try:
        yield
    finally:
        _restore(before)


class Signals:
    """While it is entered, the first SIGINT, SIGTERM or SIGHUP only sets `number`; the next one ends the program as usual.

    Attributes:
      number: of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = _install(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()
        os.write(2, NOTE)  # print may be what was interrupted
