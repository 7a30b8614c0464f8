"""Sequences that stand in a data set more than once."""

import hashlib
from collections.abc import Mapping

import numpy as np

from rgen.data import DataError


def also_in_train(splits: Mapping[str, np.ndarray], what: str) -> tuple[str, ...]:
    """A sentence on how many sequences of valid and test stand in train too, if any do."""
    train = _digests(splits["train"])
    counts = {split: int(np.isin(_digests(splits[split]), train).sum()) for split in ("valid", "test")}
    said = " and ".join(f"{count:,} of {len(splits[split]):,} {split}" for split, count in counts.items() if count)
    return (f"{what.capitalize()} that stand in train too: {said}; --deduplicate drops what comes twice.",) if said else ()


def kept(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Indices of what is left if no sequence comes twice, the first of each.

    Args:
      found: all sequences as "", or splits of their own, of which train alone loses what comes again or stands in another.
    Raises:
      DataError: nothing is left of train.
    """
    cut = "" if "" in found else "train"
    digests = {name: _digests(rows) for name, rows in found.items()}
    first = np.sort(np.unique(digests[cut], return_index=True)[1])
    for name in found.keys() - {cut}:
        first = first[~np.isin(digests[cut][first], digests[name])]
    if not len(first):
        raise DataError("With --deduplicate nothing is left of train, since all of it stands in the other splits; leave it out.")
    return {name: np.arange(len(rows)) for name, rows in found.items()} | {cut: first}


def _digests(rows: np.ndarray) -> np.ndarray:
    """A number for each row [N, ...], the same for the same rows: uint64 [N].

    Among a million rows, the chance that two different ones have the same is 3e-8.
    """
    return np.frombuffer(b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows), np.uint64)
