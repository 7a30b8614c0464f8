"""Progress of long work: a bar on a terminal, plain lines elsewhere. Always on stderr, so that stdout stays clean."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Counts up to `total` from `start`.

    Use as a context manager. On a terminal: done, of how many, a note, time passed and time left; else only what is said; if `silent`
    nothing at all.
    """

    def __init__(self, total: int, start: int = 0, what: str = "", silent: bool = False):
        self._silent = silent
        self._console = Console(stderr=True)
        note, left = TextColumn("{task.fields[note]}"), TextColumn("left")
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            note,
            TimeElapsedColumn(),
            left,
            TimeRemainingColumn(),
        ]
        self._bar = Bar(*columns, console=self._console, disable=silent or not sys.stderr.isatty())
        self._task = self._bar.add_task(what, total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Sets how many are done."""
        self._bar.update(self._task, completed=done, note=note)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._silent:
            return
        if sys.stderr.isatty():
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)
