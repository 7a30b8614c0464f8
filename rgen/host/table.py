"""Tables in plain text."""

import math
from collections.abc import Sequence
from typing import Any


def table(columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns under their titles, each as wide as it needs to be.

    Args:
      columns: title -> how its values are formatted, as in `format`. Text is "" and goes to the left, numbers go to the right.
      rows: the values of each row. None and NaN are shown as "-".
    """

    def show(value: Any, spec: str) -> str:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return "-" if missing else format(value, spec)

    cells = [list(columns), *([show(value, spec) for value, spec in zip(row, columns.values(), strict=True)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    signs = [">" if spec else "<" for spec in columns.values()]
    lines = ["  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
