"""Progress of long work: a bar on a terminal, plain lines elsewhere. Always on stderr, so that stdout stays clean."""

import sys
from contextlib import ExitStack

from tqdm import tqdm

from rgen.host.signals import leaving
from rgen.host.terminal import BARS


class Progress:
    """Counts up to `total` from `start`; a context manager.

    On a terminal, a bar with a note; elsewhere only the lines of `say`; nothing if `silent`.
    """

    def __init__(self, total: int, start: int = 0, what: str = "", silent: bool = False):
        self._silent, self._stack = silent, ExitStack()
        hidden = silent or not sys.stderr.isatty()
        terminal = getattr(sys.stderr, "stream", sys.stderr)  # of rgen.host.terminal: the bar returns to the start of its line
        self._bar = tqdm(total=total, initial=start, desc=what, file=terminal, disable=hidden, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        self._stack.enter_context(leaving(self._bar.close))
        BARS.append(self._bar.clear)
        self._stack.callback(BARS.remove, self._bar.clear)
        return self

    def __exit__(self, *about: object) -> None:
        self._bar.close()
        self._stack.__exit__(*about)  # type: ignore[reportArgumentType]

    def update(self, done: int, note: str = "") -> None:
        """Sets how many are done."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self._silent:
            print(line, file=sys.stderr, flush=True)
            self._bar.refresh()
