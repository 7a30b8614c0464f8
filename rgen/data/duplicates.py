"""Sequences that are more than once in a data set."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from rgen.data.dataset import DataError

BLOCK = 8192  # rows


def also_in_train(splits: Mapping[str, np.ndarray], what: str) -> tuple[str, ...]:
    """A sentence that says how many sequences of valid and test are in train too, if any are."""
    train = _digests(splits["train"])
    # by sorting, since numpy 2.0 cannot tell how large a table of such numbers would be
    counts = {split: int(np.isin(_digests(splits[split]), train, kind="sort").sum()) for split in ("valid", "test")}
    said = " and ".join(f"{count:,} of {len(splits[split]):,} {split}" for split, count in counts.items() if count)
    return (f"{what.capitalize()} that are in train too: {said}; --deduplicate drops repeated ones.",) if said else ()


def drop(
    found: Mapping[str, np.ndarray], what: str, compared: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Keeps the first of each sequence. Returns what is left, and a sentence on what was dropped if there was anything.

    Args:
      found: all sequences under the name ""; or splits, of which only train loses sequences, those that are in another split too.
      compared: what of sequences [N, ...] must be the same.
    Raises:
      DataError: nothing is left of train.
    """
    rows = _first_of_each({split: compared(values) for split, values in found.items()})
    dropped = sum(len(values) - len(rows[split]) for split, values in found.items())
    notes = (f"{what.capitalize()} dropped, since they are repeated: {dropped:,}.",) if dropped else ()
    return {split: values[rows[split]] for split, values in found.items()}, notes


def _first_of_each(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Indices of the first of each sequence."""
    cut = "" if "" in found else "train"
    digests = {name: _digests(rows) for name, rows in found.items()}
    first = np.sort(np.unique(digests[cut], return_index=True)[1])
    for name in found.keys() - {cut}:
        first = first[~np.isin(digests[cut][first], digests[name], kind="sort")]
    if not len(first):
        raise DataError("With --deduplicate nothing is left of train, since all of it is in the other splits; leave it out.")
    return {name: np.arange(len(rows)) for name, rows in found.items()} | {cut: first}


def _digests(rows: np.ndarray) -> np.ndarray:
    """A hash of each row [N, ...]: uint64 [N].

    Products with random weights, modulo 2^64: two different rows have the same number with a chance of at most 2^-48.
    """
    weights = np.random.default_rng(0).integers(2**64, size=math.prod(rows.shape[1:]), dtype=np.uint64)
    blocks = (rows[at : at + BLOCK].reshape(-1, len(weights)).astype(np.uint64) @ weights for at in range(0, len(rows), BLOCK))
    return np.concatenate([np.zeros(0, np.uint64), *blocks])
