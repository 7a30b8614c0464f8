"""Data sets, by name or from files.

`load("digits")`, `load("mnist")`, `load("listing")`, `load("my/lines.txt")` or `load("my/arrays.npy")` return a `Dataset`.
"""

import difflib
import inspect
import os
from pathlib import Path

from rgen.config import TrainConfig
from rgen.data import arrays, grids, images, text
from rgen.data.dataset import DataError, Dataset

__all__ = ["IMAGES", "NAMES", "DataError", "Dataset", "from_config", "load"]

IMAGES = images.NAMES
NAMES = ("listing", *IMAGES)


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
    levels: int | None = None,
    colour: bool = False,
    symbols: int | None = None,
    score_padding: bool = False,
    download: bool = False,
) -> Dataset:
    """Loads a data set by its name, or a text file, pictures or arrays by their path.

    Args:
      name: one of NAMES; the path of a folder of pictures, or of a .npy or .npz file of pictures or symbols (see `rgen.data.arrays`); else
        the path of a text file with one sequence per line.
      data_dir: for `mnist` and `binarized-mnist`: where their files are (see `rgen.data.mnist`).
      max_length: for text: T, the steps of a sequence; longer lines are cut so that all end with a NUL.
      held_out: fraction of the data that becomes test, and half as much valid. Data with their own splits ignore it.
      split_seed: shuffles the data before they are split, and fixes the random pixel orders.
      deduplicate: drops repeated sequences, so that no two splits share any. Of data with their own splits, only train loses sequences.
        Lines are compared as cut to `max_length`; images after `reduce`, in their levels, or in grey where pixels are drawn.
      order: not for text: `raster`, or `random`, another order for every sequence.
      reduce: for images: side of the blocks that are averaged into one pixel, before it becomes 0 or 1.
      binarize: for images: how grey becomes 0 or 1. `threshold`: 1 from a half on. `static`: drawn once by `split_seed`, the grey value
        being the probability of 1. `dynamic`: the same, but training images are drawn anew each time.
      levels: for images: K, from 2 to 256 equal steps from black to white; None: 2.
      colour: for images: keep red, green and blue, which are steps of their own.
      symbols: for arrays: K, how many symbols there are, from 2 to 256. It says that a file does not hold pictures. None: one more than
        the largest in it.
      score_padding: for text: weight 1 also after the NUL that ends a line.
      download: whether a data set that is not there may be downloaded.
    Raises:
      DataError: an option or the data cannot be used.
    """
    if max_length < 2:
        raise DataError(f"The maximal length must be at least 2, a byte and its NUL; it is {max_length}.")
    if split_seed < 0:
        raise DataError(f"The split seed cannot be negative; it is {split_seed}.")
    if name not in NAMES and not os.path.lexists(name):
        near = difflib.get_close_matches(os.fspath(name), NAMES, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        what = f"neither a data set ({', '.join(NAMES)}) nor the path of a file or folder that exists"
        raise DataError(f"{os.fspath(name)!r} is {what}.{hint}")
    path, is_named = Path(name), name in NAMES
    is_array = not is_named and os.fspath(name).lower().endswith((".npy", ".npz")) and not path.is_dir()
    of_pictures = {"levels": levels is not None, "colour": colour, "reduce": reduce > 1, "binarize": binarize != "threshold"}
    is_picture = any(of_pictures.values())
    if symbols is not None and (not is_array or is_picture):
        what = "an option of pictures was given too" if is_array else f"--data is {os.fspath(name)!r}"
        raise DataError(f"--symbols is for the symbols of a .npy or .npz file, and {what}. Leave out one of them.")
    stored = arrays.splits(path) if is_array else None
    if stored and not is_picture and (symbols is not None or arrays.are_symbols(stored, path)):
        return grids.load(stored, path, symbols, order, held_out, split_seed, deduplicate)
    if name in IMAGES or is_array or (not is_named and path.is_dir()):
        options = order, reduce, binarize, levels or 2, colour
        return images.load(os.fspath(name), stored, *options, held_out, split_seed, deduplicate, data_dir, download)
    for option, is_given in (of_pictures | {"order": order != "raster"}).items():
        if is_given:
            raise DataError(f"--{option} is for pictures, and --data is {os.fspath(name)!r}, text; leave it out.")
    return text.load(None if name == "listing" else name, max_length, held_out, split_seed, deduplicate, score_padding)


def from_config(config: TrainConfig) -> Dataset:
    """The data set that a configuration names. Raises DataError as `load`."""
    names = [name for name in inspect.signature(load).parameters if name != "name"]
    return load(config.data, **{name: getattr(config, name) for name in names})
