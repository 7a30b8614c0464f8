"""Tables in plain text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns, each as wide as it needs to be.

    Args:
      columns: key -> how its values are formatted, as in `format`: "" for text, which goes to the left; numbers go to the right. Values
        of "..._bytes" are shown in MB.
      rows: key -> value. None and NaN are shown as "-".
    """

    def show(key: str, value: Any, spec: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        return format(value / 1e6 if key.endswith("_bytes") else value, spec)

    titles = [key.replace("_per_", "/").replace("_bytes", "_MB").replace("_", " ") for key in columns]
    cells = [titles, *([show(key, row[key], spec) for key, spec in columns.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    signs = [">" if spec else "<" for spec in columns.values()]
    lines = ["  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
