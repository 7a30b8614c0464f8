"""Images in levels of grey or colour, two of them by default."""

import os
from pathlib import Path

import numpy as np

from rgen.choices import BINARIZE, ORDERS, SPLITS, check_choice
from rgen.data import duplicates, mnist, pictures
from rgen.data.dataset import SURE, DataError, Dataset, divide, draw, sizes

NAMES = ("digits", "mnist", "binarized-mnist")
VALID = 5_000  # images cut from the end of MNIST's official training images


def chances(grey: np.ndarray, white: int, reduce: int) -> np.ndarray:
    """Averages blocks of values [N, H, W, ...]: uint16 [N, H / reduce, W / reduce, ...], from 0 for black to SURE for `white`.

    Raises:
      DataError: the side of a block does not divide the sides of the images.
    """
    height, width = grey.shape[1:3]
    fit = [factor for factor in range(1, max(height, width, 2)) if height % factor == 0 == width % factor]
    if reduce not in fit:
        fit = ", ".join(map(str, fit))
        raise DataError(f"Images of {height} by {width} pixels cannot be reduced by {reduce}; factors that fit are {fit}.")
    total = np.zeros((len(grey), height // reduce, width // reduce, *grey.shape[3:]), np.uint16 if white * reduce**2 < 2**16 else np.uint32)
    for i in range(reduce):
        for j in range(reduce):
            total += grey[:, i::reduce, j::reduce]
    most = white * reduce**2
    return ((np.arange(most + 1) * SURE * 2 + most) // (2 * most)).astype(np.uint16)[total]  # rounded, a half up


def binarized(chances: np.ndarray, split: str, split_seed: int) -> np.ndarray:
    """Pixels uint8 of 0 and 1 from the chances of a split, drawn once by the split seed."""
    return draw(chances, np.random.default_rng([split_seed, SPLITS.index(split)]))


def in_levels(chances: np.ndarray, levels: int) -> np.ndarray:
    """Grey values from 0 to SURE in equal steps: uint8 from 0 for black to `levels` - 1 for white, rounded, a half up."""
    table = ((np.arange(SURE + 1) * (levels - 1) * 2 + SURE) // (2 * SURE)).astype(np.uint8)
    return table[chances]


def load(
    name: str,
    stored: dict[str, np.ndarray] | None,
    order: str,
    reduce: int,
    binarize: str,
    levels: int,
    colour: bool,
    held_out: float,
    split_seed: int,
    deduplicate: bool,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
) -> Dataset:
    """Loads one of NAMES, or the user's images by their path; see `rgen.data.load`.

    Args:
      stored: of a file, its arrays as `rgen.data.arrays.splits` gives them.
    Raises:
      DataError: the data is not there or damaged, or the options do not fit it.
      InputError: there is no such order or way to binarize.
    """
    check_choice("The pixel order", order, ORDERS)
    check_choice("The way to binarize", binarize, BINARIZE)
    notes = ()
    if levels > 2 and binarize != "threshold":
        raise DataError(f"--binarize {binarize} makes two levels, and --levels is {levels}; leave out one of them.")
    if colour and name in NAMES:
        raise DataError(f"{name} has no colours; leave out --colour.")
    if name == "binarized-mnist" and levels > 2:
        raise DataError(f"binarized-mnist has two levels, and --levels is {levels}; leave it out, or take mnist.")
    if name == "digits":
        from sklearn.datasets import load_digits  # slow to import

        grey, white, what = load_digits(return_X_y=True)[0].reshape(-1, 8, 8).astype(np.uint8), 16, "images of scikit-learn's digits"
        found = {"": grey}
    elif name in NAMES:
        if name == "binarized-mnist" and binarize != "threshold":
            raise DataError(f"binarized-mnist has no grey; --binarize {binarize} is for mnist and digits. Leave it out.")
        found, white, what = mnist.load(name, data_dir, download=download), 255 if name == "mnist" else 1, f"images of {name}"
        if "valid" not in found:
            found |= {"train": found["train"][:-VALID], "valid": found["train"][-VALID:]}
    else:
        found, notes = pictures.load(Path(name), stored, colour)
        height, width = next(iter(found.values())).shape[1:3]
        white, what = 255, f"images of {height} by {width} pixels of {name!r}"
    likely = {split: chances(images, white, reduce) for split, images in found.items()}
    del found

    def compared(values: np.ndarray) -> np.ndarray:  # of images that count as the same: their levels, or grey if that is drawn
        return in_levels(values, levels) if binarize == "threshold" else values

    if deduplicate:
        likely, dropped = duplicates.drop(likely, "images", compared)
        notes += dropped
    likely, how = divide(likely, held_out, split_seed)
    splits = {
        split: in_levels(values, levels) if binarize == "threshold" else binarized(values, split, split_seed)
        for split, values in likely.items()
    }
    again = duplicates.also_in_train(splits if binarize == "threshold" else likely, "images")
    notes = (sizes(splits, what, how), *notes, *again)
    drawn = likely["train"] if binarize == "dynamic" else None
    return Dataset("image", splits, levels, colour, notes, split_seed, order, drawn)
