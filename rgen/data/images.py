"""Black and white images as sequences of pixels, in raster order or in an order of their own."""

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rgen.choices import BINARIZE, ORDERS, SPLITS
from rgen.data import IMAGES, DataError, Dataset, divide, duplicates, pictures, sizes
from rgen.sequence import Sequence

VALID = 5_000  # images cut from the end of MNIST's official training images
SURE = 65_535  # the chance of a pixel that is always 1; a multiple of 255


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Dataset):
    """Images [N, H, W] of 0 and 1; the input of a step is the (row, column) of its pixel.

    Attributes:
      order: `raster`, or `random`: every image has a pixel order of its own.
      chances: uint16 [N, H, W], if training images are drawn anew each time: how likely each of their pixels is 1, in parts of SURE.
    """

    kind: ClassVar[str] = "image"
    symbols: ClassVar[int] = 2

    order: str = "raster"
    chances: np.ndarray | None = None

    def decode(self, x: Any, y: Any) -> np.ndarray:
        """Images uint8 [B, H, W] with the outputs y [B, T] at the coordinates x [B, T, 2] or [1, T, 2]."""
        rows, columns = np.moveaxis(np.asarray(x, np.int64), -1, 0)
        images = np.zeros((len(y), *self.shape), np.uint8)
        images[np.arange(len(y))[:, None], rows, columns] = y
        return images

    def _sequences(self, split: str, rows: np.ndarray, rng: np.random.Generator | None) -> Sequence:
        images = self.splits[split][rows]
        if split == "train" and self.chances is not None and rng is not None:
            images = draw(self.chances[rows], rng)
        pixels = images.reshape(len(rows), self.length)
        order = self._orders(split, rows, rng)
        x = np.stack(np.unravel_index(order, self.shape), axis=-1).astype(np.int32)
        y = np.take_along_axis(pixels, order, axis=1).astype(np.int32)
        return Sequence(x, y, np.ones(y.shape, np.float32))

    def _orders(self, split: str, rows: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """[B, T], or [1, T] for all, for each step the raster number of its pixel."""
        raster = np.arange(self.length)[None]
        if self.order == "raster":
            return raster
        raster = raster.repeat(len(rows), 0)
        if rng is not None:
            return rng.permuted(raster, axis=1)
        generators = (np.random.default_rng([self.split_seed, SPLITS.index(split), row]) for row in rows)
        return np.array([generator.permutation(self.length) for generator in generators], np.int64).reshape(raster.shape)


@dataclasses.dataclass(frozen=True)
class Options:
    """How images become a data set; see `rgen.data.load`.

    Raises:
      DataError: there is no such order or way to binarize, or the reduction or the seed is out of range.
    """

    order: str = "raster"
    reduce: int = 1
    binarize: str = "threshold"
    held_out: float = 0.1
    split_seed: int = 0
    deduplicate: bool = False

    def __post_init__(self):
        if self.order not in ORDERS:
            raise DataError(f"There is no pixel order {self.order!r}; it is one of {', '.join(ORDERS)}.")
        if self.binarize not in BINARIZE:
            raise DataError(f"There is no way to binarize called {self.binarize!r}; it is one of {', '.join(BINARIZE)}.")
        if self.reduce < 1:
            raise DataError(f"The reduction must be a positive whole number, 1 for none; it is {self.reduce}.")
        if self.split_seed < 0:
            raise DataError(f"The split seed cannot be negative; it is {self.split_seed}.")

    def compared(self, chances: np.ndarray) -> np.ndarray:
        """Of images by their chances, what is the same in two that count as one: black and white, or grey if that is drawn."""
        return chances > SURE // 2 if self.binarize == "threshold" else chances


def chances(grey: np.ndarray, white: int, reduce: int) -> np.ndarray:
    """Averages blocks of the grey values [N, H, W]: uint16 [N, H / reduce, W / reduce], from 0 for black to SURE for `white`.

    Raises:
      DataError: the side of a block does not divide the sides of the images.
    """
    height, width = grey.shape[1:]
    fit = [factor for factor in range(1, max(height, width, 2)) if height % factor == 0 == width % factor]
    if reduce > 1 and reduce not in fit:
        fit = ", ".join(map(str, fit))
        raise DataError(f"Images of {height} by {width} pixels cannot be reduced by {reduce}; factors that fit are {fit}.")
    total = np.zeros((len(grey), height // reduce, width // reduce), np.uint16 if white * reduce**2 < 2**16 else np.uint32)
    for i in range(reduce):
        for j in range(reduce):
            total += grey[:, i::reduce, j::reduce]
    most = white * reduce**2
    return ((np.arange(most + 1) * SURE * 2 + most) // (2 * most)).astype(np.uint16)[total]  # rounded, and half is never rounded down


def draw(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws each pixel from its chance: uint8 of 0 and 1."""
    return np.less(rng.integers(SURE, size=chances.shape, dtype=np.uint16), chances).astype(np.uint8)


def binarize(splits: dict[str, np.ndarray], options: Options) -> dict[str, np.ndarray]:
    """Pixels uint8 of 0 and 1 from their chances in each split: 1 from a half on, or drawn once by the split seed."""
    if options.binarize == "threshold":
        return {split: options.compared(values).astype(np.uint8) for split, values in splits.items()}
    seeds = {split: [options.split_seed, SPLITS.index(split)] for split in splits}
    return {split: draw(values, np.random.default_rng(seeds[split])) for split, values in splits.items()}


def load(name: str, options: Options, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False) -> Images:
    """Loads `digits`, `mnist` or `binarized-mnist`; or images of the user's, by their path.

    Raises:
      DataError: the data is not there or damaged, or the options do not fit it.
    """
    how, notes = None, ()
    if name == "digits":
        found, white, what = {"": _digits()}, 16, "images of scikit-learn's digits"
    elif name not in IMAGES:
        found, notes = pictures.load(Path(name))
        height, width = next(iter(found.values())).shape[1:]
        white, what = 255, f"images of {height} by {width} pixels of {name!r}"
    elif name == "binarized-mnist" and options.binarize != "threshold":
        raise DataError(f"binarized-mnist has no grey; --binarize {options.binarize} is for mnist and digits. Leave it out.")
    else:
        from rgen.data import mnist  # tensorflow-datasets takes seconds to import

        read, white = (mnist.load, 255) if name == "mnist" else (mnist.load_binarized, 1)
        found, notes = read(data_dir, download=download)
        found, what, how = _official(found), f"images of {name}", "the official splits"
    likely = {part: chances(grey, white, options.reduce) for part, grey in found.items()}
    del found
    if options.deduplicate:
        rows = duplicates.first_of_each({part: options.compared(values) for part, values in likely.items()})
        many = sum(len(values) - len(rows[part]) for part, values in likely.items())
        likely = {part: values[rows[part]] for part, values in likely.items()}
        notes += (f"Images dropped, since they came twice: {many:,}.",) * (many > 0)
    likely, cuts = divide(likely, options.held_out, options.split_seed)
    splits = binarize(likely, options)
    again = duplicates.also_in_train({split: options.compared(values) for split, values in likely.items()}, "images")
    notes = (sizes(splits, what, how or cuts), *notes, *again)
    anew = likely["train"] if options.binarize == "dynamic" else None
    return Images(splits, notes, options.split_seed, options.order, anew)


def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits  # slow to import

    return load_digits().images.astype(np.uint8)  # type: ignore[reportAttributeAccessIssue]


def _official(splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cuts valid from the end of train where the official splits have none."""
    if "valid" in splits:
        return splits
    return {"train": splits["train"][:-VALID], "valid": splits["train"][-VALID:], "test": splits["test"]}
