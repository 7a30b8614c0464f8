"""What is shown on a terminal: names and data must not act upon it, which their control characters would."""

import re
from collections.abc import Callable
from typing import Any

# C0 but tab and line feed, DEL, C1, and what reverses the direction of letters
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_COLOUR = re.compile(r"\\x1b\[([0-9;]*m)")

BARS: list[Callable[[], object]] = []  # what takes a bar away that stands where a line is to be written


def visible(text: str) -> str:
    """Control characters by their numbers, as backslashreplace has it; tabs and ends of lines stay."""
    return text.translate(_SHOWN)


class Terminal:
    """A text stream to a terminal, on which control characters are shown and do not act; its `buffer` takes bytes in the same way.

    Attributes:
      stream: what it writes to.
      colours: whether those that the text has are kept.
    """

    colours = False

    def __init__(self, stream: Any):
        self.stream, self._line_is_new = stream, True

    @property
    def buffer(self) -> "Terminal":
        return self

    def write(self, text: str | bytes) -> int:
        if self._line_is_new:
            for clear in BARS:
                clear()
        shown = visible(text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text)
        self._line_is_new = shown.endswith("\n")
        self.stream.write(_COLOUR.sub("\x1b[\\1", shown) if self.colours else shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
