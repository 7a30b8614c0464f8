"""The user's images: a folder of pictures, or an array of NumPy in a file."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rgen.data import arrays
from rgen.data.dataset import DataError, check_regular
from rgen.data.kinds import kind_of

NOT_OPENED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow only opens with other programs, or not at all."""
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")
"""Files that operating systems leave in folders; hidden files are ignored too."""
SPLIT_NAMES = {
    "train": ("train", "x_train", "training"),
    "valid": ("valid", "val", "validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
"""Names of folders or arrays that are splits."""
BITS, PHOTOMETRIC = 258, 262  # tags of TIFF


def is_images(path: str | os.PathLike[str]) -> bool:
    """Whether `load` reads a path: a folder, or by its name a file of NumPy."""
    return os.path.isdir(path) or os.fspath(path).lower().endswith((".npy", ".npz"))


def load(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The grey values uint8 [N, H, W], 0 black to 255 white, of each split (see SPLIT_NAMES), or of all images as ""; and notes.

    Raises:
      DataError: there are no such images, or they cannot be used.
    """
    found, notes = _folder(path) if path.is_dir() else (_file(path), ())
    shapes = {array.shape[1:] for array in found.values()}
    if len(shapes) > 1:
        raise DataError(f"The splits of {str(path)!r} have images of {_sides(shapes)} pixels; all must be of one size.")
    return found, notes


def by_split(names: Iterable[str], path: Path, what: str) -> dict[str, str]:
    """Split -> name of the folder or array that is it; empty if none is a split.

    Raises:
      DataError: train or test is missing, or two are the same split.
    """
    names, found = list(names), {}
    for split, its_names in SPLIT_NAMES.items():
        matching = [name for name in names if name.lower() in its_names]
        if len(matching) > 1:
            raise DataError(f"{str(path)!r} has the {what} {' and '.join(matching)}, which are the same split; leave one of them.")
        if matching:
            found[split] = matching[0]
    if found and not {"train", "test"} <= set(found):
        lacks = " and ".join(split for split in ("train", "test") if split not in found)
        raise DataError(f"{str(path)!r} has {what} for {' and '.join(found)}, and none for {lacks}; give both, or one for all images.")
    return found


# ---------------------------------------------------------------- one picture


def read(path: Path, paper: int) -> tuple[np.ndarray, int]:
    """Reads a picture, turned as its EXIF data say; of several frames, pages or layers, the first.

    Args:
      paper: the grey value of what is transparent.
    Returns:
      Grey values uint8 [H, W], and how many frames there are.
    Raises:
      DataError: it cannot be read, or what is white is not sure.
    """
    check_regular(path)
    shown = f"The picture {str(path)!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as of corrupt EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                return _grey(file, paper, shown), getattr(file, "n_frames", 1)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.sub(r"\D*(\d+) pixels.*", r"\1", str(error), flags=re.DOTALL)
        raise DataError(f"{shown} is too large: it has {int(pixels):,} pixels, and each is a step. Make it smaller first.") from error
    except MemoryError as error:
        raise DataError(f"{shown} does not fit into memory. Make it smaller first.") from error
    except Exception as error:  # Pillow raises whatever damaged bytes lead to
        why = getattr(error, "strerror", None) or f"it is {_no_picture(path)}"
        raise DataError(f"{shown} cannot be read: {why}.") from error


def _no_picture(path: Path) -> str:
    with path.open("rb") as file:
        kind = kind_of(file.read(512))
    return "not a picture, or a damaged one" if kind is None or "image" in kind else kind


def _grey(file: Image.Image, paper: int, shown: str) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(file)
    except Exception:  # damaged EXIF data, by which no viewer turns it either
        upright = file
    if not (file.mode.startswith("I") or file.mode == "F"):
        if file.mode == "La":  # Pillow has no other way from it
            upright = upright.convert("LA")
        opaque = Image.new("RGBA", upright.size, (paper, paper, paper, 255))
        return np.asarray(Image.alpha_composite(opaque, upright.convert("RGBA")).convert("L"))
    # more than 8 bits, which Pillow would cut off at 255
    values, tags = np.asarray(upright), getattr(file, "tag_v2", {})
    wide = file.mode == "I" and file.format not in ("PNG", "PPM")  # 32 bits, which may hold numbers of fewer
    if wide or tags.get(BITS) == (12,) or tags.get(PHOTOMETRIC) == 0:
        raise DataError(f"{shown} has 12 or 32 bits, or 0 for white, so what is white is not sure. Save it with 8 or 16 bits, 0 for black.")
    white = np.float32(1 if file.mode == "F" else 2**16 - 1)
    grey = arrays.as_bytes(values[None] / white, shown)[0]
    return np.where(values == file.info["transparency"], np.uint8(paper), grey) if "transparency" in file.info else grey


# ---------------------------------------------------------------- folders of pictures


def _folder(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """All pictures in a folder and its subfolders, sorted by path, for each split; and notes on what was left out."""
    suffixes = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NOT_OPENED}
    try:
        files = sorted(_files(path, ()))
        folders = by_split((entry.name for entry in path.iterdir() if entry.is_dir()), path, "folders")
    except OSError as error:
        raise DataError(f"The folder {error.filename!r} cannot be read: {error.strerror}.") from error
    pictures = [file for file in files if file.suffix.lower() in suffixes]
    others = Counter(file.suffix.lower() or "no suffix" for file in files if file.suffix.lower() not in suffixes)
    roots = {split: path / name for split, name in folders.items()} or {"": path}
    groups = {split: [file for file in pictures if root in file.parents] for split, root in roots.items()}
    notes = []
    if others:
        listed = ", ".join(f"{end}: {count:,}" for end, count in others.most_common(5))
        notes.append(f"Left out of {str(path)!r}, since Pillow does not open them as pictures: {listed}.")
    for split, group in groups.items():
        if not group:
            what = f"The folder {str(roots[split])!r} holds no pictures that Pillow can open."
            raise DataError(" ".join([what, "Give one that does, or a file of text.", *notes]))
    if beside := len(pictures) - sum(map(len, groups.values())):
        notes.append(f"Left out of {str(path)!r}: {beside:,} pictures that are not in its folders {', '.join(folders.values())}.")
    if inner := {file.parent for group in groups.values() for file in group} - set(roots.values()):
        notes.append(f"Pictures are read from {len(inner):,} folders inside, whose names, as of classes, are not used.")
    several = Counter()
    found = {split: _pictures(group, several) for split, group in groups.items()}
    if several:
        notes.append(f"Further frames, pages or layers left out: {several.total():,}, in {len(several):,} of the pictures.")
    return found, tuple(notes)


def _files(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """The files in a folder and its subfolders, also behind links, but for those that are ignored."""
    above = (*above, os.path.realpath(folder))
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name.lower() in IGNORED:
            continue
        if not entry.is_dir():
            yield entry
        elif os.path.realpath(entry) not in above:  # a link to a folder above has no end
            yield from _files(entry, above)


def _pictures(files: list[Path], several: Counter) -> np.ndarray:
    """Pictures uint8 [N, H, W] of one size. `several` gets the number of further frames of each file."""
    images = []
    for file in files:
        image, frames = read(file, paper=255)
        images.append(image)
        if image.shape != images[0].shape:
            raise DataError(
                f"{str(file)!r} has {_sides([image.shape])} pixels, and {str(files[0])!r} has {_sides([images[0].shape])}; "
                "all must be of one size."
            )
        if frames > 1:
            several[file] = frames - 1
    return np.stack(images)


def _sides(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(sorted(" by ".join(map(str, shape)) for shape in shapes))


# ---------------------------------------------------------------- arrays


def _file(path: Path) -> dict[str, np.ndarray]:
    found = arrays.read(path)
    if not found:
        raise DataError(f"{str(path)!r} has no array. {arrays.EXPECTED}.")
    named = by_split(found, path, "arrays")
    if not named:
        images = [name for name, array in found.items() if array.ndim > 2]
        if len(found) > 1 and len(images) != 1:
            what = f"{str(path)!r} has the arrays {', '.join(found)}. Which are images is not clear"
            raise DataError(f"{what}: call them train, valid and test, or give one.")
        named = {"": images[0] if images else next(iter(found))}
    return {split: arrays.as_bytes(found[name], f"{str(path)!r}" + f", {name}," * bool(name)) for split, name in named.items()}
