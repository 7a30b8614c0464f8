"""Black and white images as sequences of pixels, in raster order or in an order of their own."""

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rgen.choices import BINARIZE, ORDERS, SPLITS, check_choice
from rgen.data import IMAGES, DataError, Dataset, divide, duplicates, mnist, pictures, sizes
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


def chances(grey: np.ndarray, white: int, reduce: int) -> np.ndarray:
    """Averages blocks of the grey values [N, H, W]: uint16 [N, H / reduce, W / reduce], from 0 for black to SURE for `white`.

    Raises:
      DataError: the side of a block does not divide the sides of the images.
    """
    height, width = grey.shape[1:]
    fit = [factor for factor in range(1, max(height, width, 2)) if height % factor == 0 == width % factor]
    if reduce not in fit:
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


def binarized(chances: np.ndarray, split: str, how: str, split_seed: int) -> np.ndarray:
    """Pixels uint8 of 0 and 1 from the chances in a split: 1 from a half on, or drawn once by the split seed."""
    if how == "threshold":
        return (chances > SURE // 2).astype(np.uint8)
    return draw(chances, np.random.default_rng([split_seed, SPLITS.index(split)]))


def load(
    name: str,
    order: str,
    reduce: int,
    binarize: str,
    held_out: float,
    split_seed: int,
    deduplicate: bool,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
) -> Images:
    """Loads `digits`, `mnist` or `binarized-mnist`, or images of the user's by their path; see `rgen.data.load`.

    Raises:
      DataError: the data is not there or damaged, or the options do not fit it.
      InputError: there is no such order or way to binarize.
    """
    check_choice("The pixel order", order, ORDERS)
    check_choice("The way to binarize", binarize, BINARIZE)
    notes = ()
    if name == "digits":
        from sklearn.datasets import load_digits  # slow to import

        grey, white, what = load_digits(return_X_y=True)[0].reshape(-1, 8, 8).astype(np.uint8), 16, "images of scikit-learn's digits"
        found = {"": grey}
    elif name in IMAGES:
        if name == "binarized-mnist" and binarize != "threshold":
            raise DataError(f"binarized-mnist has no grey; --binarize {binarize} is for mnist and digits. Leave it out.")
        found, white, what = mnist.load(name, data_dir, download=download), 255 if name == "mnist" else 1, f"images of {name}"
        if "valid" not in found:
            found |= {"train": found["train"][:-VALID], "valid": found["train"][-VALID:]}
    else:
        found, notes = pictures.load(Path(name))
        height, width = next(iter(found.values())).shape[1:]
        white, what = 255, f"images of {height} by {width} pixels of {name!r}"
    likely = {split: chances(images, white, reduce) for split, images in found.items()}
    del found

    def compared(values: np.ndarray) -> np.ndarray:  # of images that count as the same: black and white, or grey if that is drawn
        return values > SURE // 2 if binarize == "threshold" else values

    if deduplicate:
        rows = duplicates.first_of_each({split: compared(values) for split, values in likely.items()})
        dropped = sum(len(values) - len(rows[split]) for split, values in likely.items())
        likely = {split: values[rows[split]] for split, values in likely.items()}
        notes += (f"Images dropped, since they came twice: {dropped:,}.",) * (dropped > 0)
    likely, how = divide(likely, held_out, split_seed)
    splits = {split: binarized(values, split, binarize, split_seed) for split, values in likely.items()}
    again = duplicates.also_in_train({split: compared(values) for split, values in likely.items()}, "images")
    notes = (sizes(splits, what, how), *notes, *again)
    return Images(splits, notes, split_seed, order, likely["train"] if binarize == "dynamic" else None)
