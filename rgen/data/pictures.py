"""Anybody's images: a folder of pictures, or an array of NumPy in a file."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rgen.choices import SPLITS
from rgen.data import DataError, cut, sizes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
OWN = {"train": ("train", "x_train", "training"), "valid": ("valid", "val", "validation", "x_valid", "x_val"), "test": ("test", "x_test")}
"""How a folder or array is named that is a split of its own."""
LUMA = np.array([299, 587, 114])  # of red, green and blue, as Pillow and JPEG weigh them
EXPECTED = "Expected are bytes 0 to 255, booleans, or numbers 0 to 1, as [N, H, W], or [N, H, W, 3] in colour"


def is_images(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one that `load` reads: a folder, or a file of NumPy by its name."""
    return os.path.isdir(path) or os.fspath(path).lower().endswith((".npy", ".npz"))


def load(path: Path, held_out: float, split_seed: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The grey values of each split, uint8 [N, H, W] from 0 for black to 255 for white, and notes.

    Splits of their own are the folders or arrays of these names (see OWN); where there is no valid, it is cut from train. Without them,
    all images are shuffled by the seed and cut as `rgen.data.cut` does.

    Raises:
      DataError: there are no such images, or they cannot be used.
    """
    found = _folder(path) if path.is_dir() else _arrays(path)
    shapes = {array.shape[1:] for array in found.values()}
    if len(shapes) > 1:
        raise DataError(f"The splits of {str(path)!r} have images of {_sides(shapes)} pixels; all must be of one size.")
    how = f"split seed {split_seed}"
    if list(found) == [""]:
        splits = {split: found[""][rows] for split, rows in cut(len(found[""]), held_out, split_seed).items()}
    elif "valid" in found:
        splits, how = {split: found[split] for split in SPLITS}, "its own splits"
    else:
        rows = cut(len(found["train"]), held_out, split_seed)
        train = np.concatenate([rows["train"], rows["test"]])
        splits = {"train": found["train"][train], "valid": found["train"][rows["valid"]], "test": found["test"]}
        how = f"its own test split, and valid by split seed {split_seed}"
    height, width = splits["train"].shape[1:]
    return splits, (sizes(splits, f"images of {height} by {width} pixels of {str(path)!r}", how),)


def grey(path: Path, paper: int) -> np.ndarray:
    """The grey values 0 to 255 of a picture, [H, W]; what is transparent is `paper`.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                return np.asarray(file) / 257
            opaque = Image.new("RGBA", file.size, (paper, paper, paper, 255))
            return np.asarray(Image.alpha_composite(opaque, file.convert("RGBA")).convert("L"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = getattr(error, "strerror", None) or "it is not a picture, or a damaged one"
        raise DataError(f"The picture {str(path)!r} cannot be read: {what}.") from error


def _by_split(names: Mapping[str, str], path: Path, what: str) -> dict[str, str]:
    """Split -> name of the folder or array that is it, where there are such; empty if there are none.

    Raises:
      DataError: train or test is missing, or two are the same split.
    """
    found = {}
    for split, known in OWN.items():
        mine = [name for plain, name in names.items() if plain in known]
        if len(mine) > 1:
            raise DataError(f"{str(path)!r} has the {what} {' and '.join(mine)}, which are the same split; leave one of them.")
        if mine:
            found[split] = mine[0]
    if found and not {"train", "test"} <= set(found):
        lacks = " and ".join(split for split in ("train", "test") if split not in found)
        raise DataError(f"{str(path)!r} has {what} for {' and '.join(found)}, and none for {lacks}; give both, or one for all images.")
    return found


# ---------------------------------------------------------------- folders of pictures


def _folder(path: Path) -> dict[str, np.ndarray]:
    inside = _by_split({entry.name.lower(): entry.name for entry in path.iterdir() if entry.is_dir()}, path, "folders")
    return {split: _pictures(path / name) for split, name in inside.items()} or {"": _pictures(path)}


def _pictures(folder: Path) -> np.ndarray:
    """All pictures of a folder, in the order of their names: uint8 [N, H, W]."""
    files = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not entry.name.startswith("."))
    if not files:
        raise DataError(f"The folder {str(folder)!r} holds no pictures ({', '.join(SUFFIXES)}). Give one that does, or a file of text.")
    first = _picture(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(files):
        image = _picture(file)
        if image.shape != first.shape:
            raise DataError(
                f"{str(file)!r} has {_sides([image.shape])} pixels, and {str(files[0])!r} has {_sides([first.shape])}; "
                "all must be of one size."
            )
        images[row] = image
    return images


def _picture(path: Path) -> np.ndarray:
    return np.floor(grey(path, paper=255) + 0.5).astype(np.uint8)


def _sides(shapes) -> str:
    return " and ".join(sorted(" by ".join(map(str, shape)) for shape in shapes))


# ---------------------------------------------------------------- arrays


def _arrays(path: Path) -> dict[str, np.ndarray]:
    shown = str(path)
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {name: content[name] for name in content.files} if isinstance(content, np.lib.npyio.NpzFile) else {"": content}
    except OSError as error:
        raise DataError(f"{shown!r} cannot be read: {error.strerror or error}.") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, TypeError, SyntaxError, MemoryError) as error:
        why = "it holds Python objects, which are not read" if "allow_pickle" in str(error) else f"it is damaged or not NumPy's ({error})"
        raise DataError(f"The array {shown!r} cannot be read: {why}. Save the images with numpy.save as bytes [N, H, W].") from error
    if not arrays:
        raise DataError(f"{shown!r} has no array. {EXPECTED}.")
    named = _by_split({name.lower(): name for name in arrays}, path, "arrays")
    if not named:
        images = [name for name, array in arrays.items() if array.ndim > 2]
        if len(arrays) > 1 and len(images) != 1:
            listed = ", ".join(arrays)
            raise DataError(
                f"{shown!r} has the arrays {listed}. Which are images is not clear: call them train, valid and test, or give one."
            )
        named = {"": images[0] if images else next(iter(arrays))}
    return {split: _as_bytes(arrays[name], f"{shown!r}" + f", {name}," * bool(name)) for split, name in named.items()}


def _as_bytes(array: np.ndarray, shown: str) -> np.ndarray:
    """Images as uint8 [N, H, W] of 0 to 255; numbers are rounded, a half never down."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{shown} has elements of the type {array.dtype}. {EXPECTED}.")
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    colour = array.ndim == 4 and array.shape[-1] == 3
    if array.ndim != 3 and not colour:
        raise DataError(f"{shown} has the shape {array.shape}. {EXPECTED}.")
    if 0 in array.shape:
        raise DataError(f"{shown} has the shape {array.shape}, which holds no pixel. {EXPECTED}.")
    if array.dtype.kind == "f":
        least, most = (float(value) for value in (array.min(), array.max()))  # NaN if there is one
        if not (least >= 0 and most <= 1):
            raise DataError(f"{shown} has numbers from {least:g} to {most:g}. {EXPECTED}.")
        array = np.floor(array * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    else:
        least, most = int(array.min()), int(array.max())
        if least < 0 or most > 255:
            raise DataError(f"{shown} has numbers from {least} to {most}. {EXPECTED}.")
        array = array.astype(np.uint8) * (255 if most <= 1 else 1)  # of 0 and 1 alone, 1 is white
    return ((array @ LUMA + 500) // 1000).astype(np.uint8) if colour else array
