"""Graceful shutdown after SIGINT, SIGTERM or SIGHUP.

A signal raises KeyboardInterrupt. That alone is not enough: Python handles no signal while XLA compiles or computes, and drops exceptions
in callbacks such as the garbage collector's. So a thread is woken by each signal too, and ends the process if it does not end in time.

In training, the first signal saves a checkpoint and stops (`Signals`), the second one ends the process.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

NOTE = b"\nStopping after this step, with a checkpoint; once more, and it stops at once.\n"
PATIENCE = 1.2  # seconds that a command has to end by itself
MOMENT = 0.4  # seconds for cleaning up if it has not

_asked = 0  # the signal for which KeyboardInterrupt was raised
_under_way = threading.Event()  # set: the next signal is handled by the process itself, however long that takes
_before_end: list[Callable[[], object]] = []


def _install(handler: Any) -> dict[int, Any]:
    """Installs a handler of SIGINT, SIGTERM and SIGHUP. Returns the previous ones; none if this is not the main thread.

    An ignored SIGHUP stays ignored, as nohup asks.
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
    """Inside, the first signal raises KeyboardInterrupt, and the process ends soon after, even if that is lost.

    Also where the shell ignores SIGINT, as for jobs in the background.
    """
    global _asked
    _asked = 0
    _under_way.clear()
    before = _install(_interrupt)
    if not before:
        yield
        return
    heard, hear = os.pipe()
    os.set_blocking(hear, False)
    wakeup = signal.set_wakeup_fd(hear, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(heard, tuple(before)), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        _restore(before)
        os.close(hear)
        _under_way.set()
        watch.join()
        os.close(heard)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises once, so that cleaning up is not interrupted."""
    global _asked
    first, _asked = not _asked, number
    if first:
        raise KeyboardInterrupt


def _watch(heard: int, numbers: tuple[int, ...]) -> None:
    """Reads the numbers of signals as they come; ends the process if it does not end by itself in time."""
    while number := os.read(heard, 1):
        if number[0] not in numbers:
            continue
        if not _under_way.wait(PATIENCE):
            end(number[0])
        _under_way.clear()


def asked() -> int:
    """The signal that the command was interrupted by, or 0."""
    return _asked


def take_time() -> None:
    """To be called where KeyboardInterrupt was caught: what follows may take long, until there is another signal."""
    if _asked:
        _under_way.set()


@contextmanager
def leaving(act: Callable[[], object]) -> Iterator[None]:
    """Inside, `act` is called on KeyboardInterrupt, or just before `end`."""
    _before_end.append(act)
    try:
        yield
    except KeyboardInterrupt:
        act()
        raise
    finally:
        _before_end.remove(act)


def end(number: int) -> NoReturn:
    """Ends the process with the exit code of a signal, after the acts of `leaving` if they take only a moment."""

    def act() -> None:
        for last in (*reversed(_before_end), sys.stdout.flush, sys.stderr.flush):
            with suppress(Exception):
                last()

    last = threading.Thread(target=act, daemon=True)  # it may wait for a lock of the main thread
    last.start()
    last.join(MOMENT)
    os._exit(128 + number)


class Signals:
    """Inside, the first SIGINT, SIGTERM or SIGHUP only sets `number`; the next one ends the program as usual.

    Attributes:
      number: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        _under_way.set()
        self._before = _install(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.number:
            _under_way.clear()
        self._restore()

    def _restore(self) -> None:
        _restore(self._before)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        with suppress(OSError):  # nobody reads it
            os.write(2, NOTE)  # not print, which may have been interrupted
