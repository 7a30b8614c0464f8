"""Output to a terminal, on which control characters in names and data must have no effect."""

import re
from collections.abc import Callable
from typing import Any

# C0 but tab and line feed, DEL, C1, and what reverses the direction of letters
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_COLOUR = re.compile(r"\\x1b\[([0-9;]*m)")

BARS: list[Callable[[], object]] = []  # each clears a progress bar before a line is written


def visible(text: str) -> str:
    """The text with control characters written as \\x1b, but for tabs and line feeds."""
    return text.translate(_SHOWN)


class Terminal:
    """A text stream to a terminal that makes control characters visible; so does its `buffer`, for bytes.

    Attributes:
      stream: what it writes to.
      colours: whether colours in the text are kept.
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
