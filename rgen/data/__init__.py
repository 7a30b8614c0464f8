"""Data sets, by name or from files.

`load("digits")`, `load("mnist")`, `load("listing")`, `load("my/lines.txt")` or `load("my/images.npy")` return a `Dataset`.
"""

import difflib
import os

from rgen.config import TrainConfig
from rgen.data import images, pictures, text
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
    score_padding: bool = False,
    download: bool = False,
) -> Dataset:
    """Loads a data set by its name, or a text file or images by their path.

    Args:
      name: one of NAMES; the path of a folder of pictures, or of a .npy or .npz file of images (see `rgen.data.pictures`); else the path
        of a text file with one sequence per line.
      data_dir: for `mnist` and `binarized-mnist`: where their files are (see `rgen.data.mnist`).
      max_length: for text: T, the steps of a sequence; longer lines are cut so that all end with a NUL.
      held_out: fraction of the data that becomes test, and half as much valid. Data with their own splits ignore it.
      split_seed: shuffles the data before they are split, and fixes the random pixel orders.
      deduplicate: drops repeated sequences, so that no two splits share any. Of data with their own splits, only train loses sequences.
        Lines are compared as cut to `max_length`; images after `reduce`, in black and white, or in grey where pixels are drawn.
      order: for images: `raster`, or `random`, another order for every image.
      reduce: for images: side of the blocks that are averaged into one pixel, before it becomes 0 or 1.
      binarize: for images: how grey becomes 0 or 1. `threshold`: 1 from a half on. `static`: drawn once by `split_seed`, the grey value
        being the probability of 1. `dynamic`: the same, but training images are drawn anew each time.
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
