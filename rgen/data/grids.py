"""Arrays of symbols: sequences over a grid of any shape."""

from pathlib import Path

import numpy as np

from rgen.choices import ORDERS, check_choice
from rgen.data import arrays, duplicates
from rgen.data.dataset import DataError, Dataset, divide, sizes


def load(
    found: dict[str, np.ndarray], path: Path, symbols: int | None, order: str, held_out: float, split_seed: int, deduplicate: bool
) -> Dataset:
    """A data set of the arrays [N, *shape] of each split, or of all sequences as "", as `rgen.data.arrays.splits` gives them.

    Args:
      symbols: K; None: one more than the largest number in train.
      order, held_out, split_seed, deduplicate: as in `rgen.data.load`.
    Raises:
      DataError: an array does not hold integers from 0 to K - 1, or the shapes of the splits differ.
      InputError: there is no such order.
    """
    check_choice("The order", order, ORDERS)
    shapes = {array.shape[1:] for array in found.values()}
    if len(shapes) > 1:
        raise DataError(f"The splits of {str(path)!r} have the shapes {' and '.join(map(str, sorted(shapes)))}; all must be the same.")
    for array in found.values():
        if array.dtype.kind == "f" and np.any(array != np.floor(array)):
            raise DataError(f"{str(path)!r} has fractions, and symbols are integers. {arrays.EXPECTED}.")
    most = {split: int(array.max()) for split, array in found.items()}
    count = symbols or most.get("train", most.get("", 0)) + 1
    for split, largest in most.items():
        if largest >= count:
            where = f"in {split} " if split else ""
            why = f"--symbols is {symbols}" if symbols else f"in train the largest is {count - 1}"
            raise DataError(f"{str(path)!r} has the symbol {largest} {where}and {why}. Give --symbols {max(most.values()) + 1}.")
    if count < 2:
        raise DataError(f"{str(path)!r} has no symbol but 0, so there is nothing to predict; with --symbols 2 it is read nevertheless.")
    rows: dict[str, np.ndarray] = {split: array.astype(np.uint8) for split, array in found.items()}
    notes = () if symbols else (f"There are {count} symbols, by the largest; give --symbols if there may be more.",)
    if deduplicate:
        rows, dropped = duplicates.drop(rows, "arrays")
        notes += dropped
    rows, how = divide(rows, held_out, split_seed)
    what = f"arrays of the shape {rows['train'].shape[1:]} of {str(path)!r}"
    notes = (sizes(rows, what, how), *notes, *duplicates.also_in_train(rows, "arrays"))
    return Dataset("array", rows, count, notes=notes, split_seed=split_seed, order=order)
