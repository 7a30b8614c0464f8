"""A data set: sequences in splits, and batches of them."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from rgen.choices import SPLITS, Kind
from rgen.errors import InputError
from rgen.sequence import Sequence, until_end

BLOCK = 65_536  # sequences
COLOURS = 3  # red, green and blue
SURE = 65_535  # the chance of a pixel that is always 1; a multiple of 255


class DataError(InputError):
    """Data, or an option about them, cannot be used; the message says what was given, what is expected and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Sequences in splits: each has one of K symbols at every place of a grid, whose coordinates are the inputs.

    Attributes:
      kind: how sequences are read, written and shown, of which models know nothing: "text", lines of bytes that are padded with NULs;
        "image", whose symbols are levels of grey or colour; or "array", of any symbols.
      splits: split name -> uint8 array [N, *shape] of symbols from 0 to K - 1. Of text, [N, W] with W at most T, the columns in which some
        line has more than padding; `rows` has them in the shape of the data set.
      symbols: K, how many symbols there are: 256 for text. Level 0 of an image is black if there are more than
        two; of two it is shown as paper, and 1 as ink.
      colour: of images: whether the last axis is that of red, green and blue.
      notes: sentences for the user: sizes of the splits, and what was cut or dropped.
      split_seed: the seed that shuffled the data before cutting the splits, where they are not official ones.
      order: of the places in a sequence: "raster", or "random", another one for each sequence, in which the colours of a pixel stay
        together.
      chances: uint16 [N, H, W], if training images are drawn anew each time: how likely each of their pixels is 1, in parts of SURE.
      max_length: T of text; 0 for W.
      score_padding: of text: the steps after a line's first NUL have weight 1 too, as in the original, and not 0.
    """

    kind: Kind
    splits: dict[str, np.ndarray]
    symbols: int = 2
    colour: bool = False
    notes: tuple[str, ...] = ()
    split_seed: int = 0
    order: str = "raster"
    chances: np.ndarray | None = None
    max_length: int = 0
    score_padding: bool = False

    @property
    def end(self) -> int | None:
        """The symbol that ends a sequence, behind which nothing is scored; None if all sequences are whole."""
        return 0 if self.kind == "text" and not self.score_padding else None

    @property
    def is_black_and_white(self) -> bool:
        """Whether a place is ink or paper, so that colours are free to tell known from drawn ones."""
        return self.symbols == 2 and not self.colour

    @property
    def together(self) -> int:
        """How many places next to each other stay so in any order: the colours of a pixel."""
        return COLOURS if self.colour else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the grid's axes: (T,) for text; (H, W) or (H, W, 3) for images."""
        return (self.max_length,) if self.max_length else self.splits["train"].shape[1:]

    @property
    def length(self) -> int:
        """T, the number of steps of a sequence."""
        return math.prod(self.shape)

    def rows(self, split: str, index: slice | np.ndarray) -> np.ndarray:
        """Some of a split: uint8 [B, *shape]."""
        rows = self.splits[split][index]
        return np.pad(rows, ((0, 0), (0, self.length - rows.shape[1]))) if self.kind == "text" else rows

    def sequences(self, split: str, index: Many[int] | np.ndarray, rng: np.random.Generator | None = None) -> Sequence:
        """The sequences `index` [B] of a split: x int32 [1, T, ...], y int32 [B, T], weight float32 [B, T].

        If the orders are random, x is [B, T, ...].

        Args:
          split: one of `rgen.choices.SPLITS`.
          index: which sequences, each from 0 to N - 1.
          rng: draws the orders, if they are random, and pixels by their chances; without it these never change.
        Raises:
          DataError: there is no such split.
          IndexError: an index is not from 0 to N - 1.
        """
        if split not in self.splits:
            raise DataError(f"There is no split {split!r}; the splits are {', '.join(self.splits)}.")
        index, n = np.asarray(index, np.int64).reshape(-1), len(self.splits[split])
        if np.any((index < 0) | (index >= n)):
            raise IndexError(f"The {split} split has the sequences 0 to {n - 1}; asked for {index.min()} to {index.max()}.")
        if split == "train" and self.chances is not None and rng is not None:
            rows = draw(self.chances[index], rng)
        else:
            rows = self.rows(split, index)
        order = self._orders(split, index, rng)
        x = order if len(self.shape) == 1 else np.stack(np.unravel_index(order, self.shape), axis=-1)
        y = np.take_along_axis(rows.reshape(len(index), self.length), order, axis=1).astype(np.int32)
        weight = np.ones(y.shape) if self.end is None else until_end(y, self.end)
        return Sequence(x.astype(np.int32), y, weight.astype(np.float32))

    def batch(self, seed: int, step: int, size: int) -> Sequence:
        """`size` training sequences drawn with replacement, as a function of (seed, step) alone; neither may be negative."""
        rng = np.random.default_rng([seed, step])
        return self.sequences("train", rng.integers(len(self.splits["train"]), size=size), rng)

    def fingerprint(self) -> str:
        """A digest of all splits, equal for the same sequences in the same order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for start in range(0, len(self.splits[split]), BLOCK):
                digest.update(self.rows(split, slice(start, start + BLOCK)).tobytes())
        return digest.hexdigest()

    def decode(self, x: Any, y: Any) -> Any:
        """The grids or lines of inputs x [B, T, ...] or [1, T, ...] and outputs y [B, T].

        Returns:
          Grids uint8 [B, *shape]; or of lines, whose positions are not needed, a list of B byte strings, each up to its first NUL.
        """
        if self.kind == "text":
            return [row.tobytes().split(b"\0", 1)[0] for row in np.asarray(y).astype(np.uint8)]
        places = np.moveaxis(np.asarray(x, np.int64).reshape(*x.shape[:2], -1), -1, 0)
        grids = np.zeros((len(y), *self.shape), np.uint8)
        grids[(np.arange(len(y))[:, None], *places)] = y
        return grids

    def _orders(self, split: str, index: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """The raster index of each step's place: [B, T], or [1, T] if shared."""
        count = self.length // self.together
        if self.order == "raster":
            order = np.arange(count)[None]
        elif rng is not None:
            order = rng.permuted(np.arange(count)[None].repeat(len(index), 0), axis=1)
        else:
            generators = (np.random.default_rng([self.split_seed, SPLITS.index(split), number]) for number in index)
            order = np.array([generator.permutation(count) for generator in generators], np.int64).reshape(len(index), count)
        return (order[..., None] * self.together + np.arange(self.together)).reshape(len(order), self.length)


def draw(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws each pixel by its chance: uint8 of 0 and 1."""
    return np.less(rng.integers(SURE, size=chances.shape, dtype=np.uint16), chances).astype(np.uint8)


def cut(n: int, held_out: float, split_seed: int) -> dict[str, np.ndarray]:
    """Shuffles 0..n-1 by the seed and splits them: `held_out` of them are test, half as many valid. Split name -> indices.

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
    """The three splits and how they were made, of all sequences under the name "", or of splits that may lack valid.

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
    """Raises DataError for what is not a file, as a folder or a pipe; not for what does not exist."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{os.fspath(path)!r} cannot be read: it is not a regular file.")


def sizes(splits: dict[str, np.ndarray], what: str, how: str) -> str:
    """A sentence that says how many sequences each split has, and how they were split."""
    return ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items()) + f" {what} ({how})."
