"""Named data sets as batches of sequences, in numpy.

`load("digits")`, `load("mnist")`, `load("listing")`, `load("my/lines.txt")` or `load("my/images.npy")` give a `Dataset`: uint8 arrays for
each split, and sequences made of them.
"""

import dataclasses
import difflib
import hashlib
import math
import os
from collections.abc import Sequence as Many
from typing import Any, ClassVar

import numpy as np

from rgen.choices import SPLITS
from rgen.config import TrainConfig
from rgen.errors import InputError
from rgen.sequence import Sequence

IMAGES = ("digits", "mnist", "binarized-mnist")
NAMES = ("listing", *IMAGES)
BLOCK = 65_536  # sequences


class DataError(InputError):
    """Data or an option about it cannot be used; the message says what was given, what is expected and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """What `Text` and `Images` have in common.

    Attributes:
      splits: split name -> uint8 array [N, ...]; `rows` has them in the shape of the data set.
      notes: sentences for the user: sizes of the splits, and what was cut or dropped.
      split_seed: the seed that shuffled the data before cutting the splits, where they are not official ones.
    """

    kind: ClassVar[str]  # "text" or "image"
    symbols: ClassVar[int]  # how many different outputs there are

    splits: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()
    split_seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(T,) for text, (H, W) for images."""
        return self.splits["train"].shape[1:]

    @property
    def length(self) -> int:
        """T, the number of steps of a sequence."""
        return math.prod(self.shape)

    def rows(self, split: str, index: slice | np.ndarray) -> np.ndarray:
        """Some of a split: uint8 [B, *shape]."""
        return self.splits[split][index]

    def sequences(self, split: str, index: Many[int] | np.ndarray, rng: np.random.Generator | None = None) -> Sequence:
        """The sequences `index` [B] of a split: x int32 [1, T, ...], y int32 [B, T], weight float32 [B, T].

        If the pixels of each image have an order of their own, x is [B, T, 2].

        Args:
          split: one of `rgen.choices.SPLITS`.
          index: which sequences, each from 0 to N - 1.
          rng: draws the pixel orders, if they are random; without it each image has an order of its own that never changes.
        Raises:
          DataError: there is no such split.
          IndexError: an index is not from 0 to N - 1.
        """
        if split not in self.splits:
            raise DataError(f"There is no split {split!r}; the splits are {', '.join(self.splits)}.")
        rows, n = np.asarray(index, np.int64).reshape(-1), len(self.splits[split])
        if np.any((rows < 0) | (rows >= n)):
            raise IndexError(f"The {split} split has the sequences 0 to {n - 1}; asked for {rows.min()} to {rows.max()}.")
        return self._sequences(split, rows, rng)

    def batch(self, seed: int, step: int, size: int) -> Sequence:
        """`size` training sequences drawn with replacement, as a function of (seed, step) alone; neither may be negative."""
        rng = np.random.default_rng([seed, step])
        return self.sequences("train", rng.integers(len(self.splits["train"]), size=size), rng)

    def fingerprint(self) -> str:
        """A digest of all splits: the same of the same sequences in the same order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for start in range(0, len(self.splits[split]), BLOCK):
                digest.update(self.rows(split, slice(start, start + BLOCK)).tobytes())
        return digest.hexdigest()

    def decode(self, x: Any, y: Any) -> Any:
        """The way back from inputs x [B, T, ...] or [1, T, ...], and outputs y [B, T]: B images, or B lines."""
        raise NotImplementedError

    def _sequences(self, split: str, rows: np.ndarray, rng: np.random.Generator | None) -> Sequence:
        raise NotImplementedError


def cut(n: int, held_out: float, split_seed: int) -> dict[str, np.ndarray]:
    """Shuffles 0..n-1 by the seed and cuts off test (`held_out` of them) and valid (half as many): split name -> indices.

    Raises:
      DataError: the fraction is not between 0 and 1, or nothing is left to train on.
    """
    if not 0 < held_out < 1:
        raise DataError(f"The held-out fraction must lie between 0 and 1; it is {held_out}.")
    test, valid = max(1, round(n * held_out)), max(1, round(n * held_out / 2))
    if test + valid >= n:
        what = f"Of {n} sequences, {test} would go to test and {valid} to valid, and none would be left to train on."
        raise DataError(f"{what} Give more data (at least 3 sequences), or a smaller held-out fraction than {held_out}.")
    order = np.random.default_rng(split_seed).permutation(n)
    return {"train": order[test + valid :], "valid": order[test : test + valid], "test": order[:test]}


def divide(found: dict[str, np.ndarray], held_out: float, split_seed: int) -> tuple[dict[str, np.ndarray], str]:
    """The three splits, and how they came about, of all sequences as "", or of splits of their own: valid may be missing there.

    Raises:
      DataError: as `cut`.
    """
    if "" in found:
        return {split: found[""][rows] for split, rows in cut(len(found[""]), held_out, split_seed).items()}, f"split seed {split_seed}"
    if "valid" in found:
        return {split: found[split] for split in SPLITS}, "its own splits"
    rows = cut(len(found["train"]), held_out, split_seed)
    train, valid = np.concatenate([rows["train"], rows["test"]]), rows["valid"]
    splits = {"train": found["train"][train], "valid": found["train"][valid], "test": found["test"]}
    return splits, f"its own test split, and valid by split seed {split_seed}"


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises DataError for a folder, or a pipe, from which a program could read for ever; not for what is not there."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{os.fspath(path)!r} cannot be read: it is not a regular file.")


def sizes(splits: dict[str, np.ndarray], what: str, how: str) -> str:
    """The sentence that reports how many sequences each split has, and how the splits were cut."""
    return ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items()) + f" {what} ({how})."


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    max_length: int = 128,
    held_out: float = 0.1,
    split_seed: int = 0,
    deduplicate: bool = False,
    order: str = "raster",
    reduce: int = 1,
    binarize: str = "threshold",
    score_padding: bool = False,
    download: bool = False,
) -> Dataset:
    """Loads a data set by its name, or a text file or images by their path.

    Args:
      name: one of NAMES; the path of a folder of pictures, or of a .npy or .npz file of images (see `rgen.data.pictures`); else the path
        of a file with one sequence for each line, read as bytes.
      data_dir: for `mnist`: where its four official files are (see `rgen.data.official`).
      max_length: for text: T, the steps of a sequence; longer lines are cut so that all end with a NUL.
      held_out: fraction of the data cut off for test, and half as much for valid; data with official splits ignores it.
      split_seed: shuffles before cutting, and fixes the random pixel orders.
      deduplicate: drops sequences that came before, so that no split shares any with another; where splits are given, train loses what
        stands in the others or came before. The same are lines cut to `max_length`, and images as they are after `reduce` and a threshold,
        or, where pixels are drawn, in grey.
      order: for images: `raster`, or `random`, an order of its own for every image.
      reduce: for images: side of the blocks that are averaged into one pixel, before it becomes 0 or 1.
      binarize: for images: how grey becomes 0 or 1. `threshold`: 1 from a half on. `static`: drawn once, 1 with a probability that is the
        grey value, by `split_seed`. `dynamic`: the same, but training images are drawn anew each time.
      score_padding: for text: weight 1 also after the NUL that ends a line.
      download: may use the network to get a data set that is not there.
    Raises:
      DataError: anything is wrong with these, or with the data.
    """
    from rgen.data import images, pictures, text  # here, since both build on this module

    if max_length < 2:
        raise DataError(f"The maximal length must be at least 2, a byte and its NUL; it is {max_length}.")
    if split_seed < 0:
        raise DataError(f"The split seed cannot be negative; it is {split_seed}.")
    if name not in NAMES and not os.path.lexists(name):
        near = difflib.get_close_matches(os.fspath(name), NAMES, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        what = f"neither a data set ({', '.join(NAMES)}) nor the path of a text file or of images that exists"
        raise DataError(f"{os.fspath(name)!r} is {what}.{hint}")
    if name in IMAGES or (name != "listing" and pictures.is_images(name)):
        name = os.fspath(name)
        return images.load(name, order, reduce, binarize, held_out, split_seed, deduplicate, data_dir, download)
    return text.load(None if name == "listing" else name, max_length, held_out, split_seed, deduplicate, score_padding)


def from_config(config: TrainConfig) -> Dataset:
    """The data set that a configuration names. Raises DataError as `load`."""
    names = ("data_dir", "max_length", "held_out", "split_seed", "deduplicate", "order", "reduce", "binarize", "score_padding", "download")
    return load(config.data, **{name: getattr(config, name) for name in names})
