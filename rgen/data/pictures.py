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
BITS, PHOTOMETRIC = 258, 262  # tags of TIFF


def load(path: Path, stored: dict[str, np.ndarray] | None, colour: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Grey values uint8 [N, H, W], 0 black to 255 white, or colours [N, H, W, 3], of each split, or of all images as ""; and notes.

    Args:
      path: a folder, or a file of arrays.
      stored: the arrays of the file, as `rgen.data.arrays.splits` gives them.
      colour: whether to keep red, green and blue: [N, H, W, 3].
    Raises:
      DataError: there are no such images, or they cannot be used.
    """
    if stored is None:
        found, notes = _folder(path, colour)
    else:
        white = arrays.white_of(stored, path)
        found, notes = {split: arrays.as_bytes(array, white[split], colour, repr(str(path))) for split, array in stored.items()}, ()
    if colour and all(np.array_equal(array, array[..., :1].repeat(3, -1)) for array in found.values()):
        raise DataError(f"All pictures of {str(path)!r} are grey; leave out --colour.")
    shapes = {array.shape[1:] for array in found.values()}
    if len(shapes) > 1:
        raise DataError(f"The splits of {str(path)!r} have images of {_sides(shapes)} pixels; all must be of one size.")
    return found, notes


# ---------------------------------------------------------------- one picture


def read(path: Path, paper: int, colour: bool = False) -> tuple[np.ndarray, int]:
    """Reads a picture, turned as its EXIF data say; of several frames, pages or layers, the first.

    Args:
      paper: the grey value of what is transparent.
      colour: whether to keep red, green and blue.
    Returns:
      Values uint8 [H, W], or [H, W, 3] in colour, and how many frames there are.
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
                return _values(file, paper, colour, shown), getattr(file, "n_frames", 1)
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


def _values(file: Image.Image, paper: int, colour: bool, shown: str) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(file)
    except Exception:  # damaged EXIF data, by which no viewer turns it either
        upright = file
    if not (file.mode.startswith("I") or file.mode == "F"):
        if file.mode == "La":  # Pillow has no other way from it
            upright = upright.convert("LA")
        opaque = Image.new("RGBA", upright.size, (paper, paper, paper, 255))
        return np.asarray(Image.alpha_composite(opaque, upright.convert("RGBA")).convert("RGB" if colour else "L"))
    # more than 8 bits, which Pillow would cut off at 255
    values, tags = np.asarray(upright), getattr(file, "tag_v2", {})
    wide = file.mode == "I" and file.format not in ("PNG", "PPM")  # 32 bits, which may hold numbers of fewer
    if wide or tags.get(BITS) == (12,) or tags.get(PHOTOMETRIC) == 0:
        raise DataError(f"{shown} has 12 or 32 bits, or 0 for white, so what is white is not sure. Save it with 8 or 16 bits, 0 for black.")
    white = np.float32(1 if file.mode == "F" else 2**16 - 1)
    proportions = values / white
    if not (proportions.min() >= -1e-3 and proportions.max() <= 1 + 1e-3):  # NaN is not either
        raise DataError(f"{shown} has numbers from {values.min():.9g} to {values.max():.9g}; expected are numbers 0 to 1.")
    grey = arrays.as_bytes(proportions[None], 1, False, shown)[0]
    grey = np.where(values == file.info["transparency"], np.uint8(paper), grey) if "transparency" in file.info else grey
    return np.stack([grey] * 3, -1) if colour else grey


# ---------------------------------------------------------------- folders of pictures


def _folder(path: Path, colour: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """All pictures in a folder and its subfolders, sorted by path, for each split; and notes on what was left out."""
    suffixes = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NOT_OPENED}
    try:
        files = sorted(_files(path, ()))
        folders = arrays.by_split((entry.name for entry in path.iterdir() if entry.is_dir()), path, "folders")
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
    found = {split: _pictures(group, colour, several) for split, group in groups.items()}
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


def _pictures(files: list[Path], colour: bool, several: Counter) -> np.ndarray:
    """Pictures uint8 [N, H, W], or [N, H, W, 3] in colour, of one size. `several` gets the number of further frames of each file."""
    images = []
    for file in files:
        image, frames = read(file, 255, colour)
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
    return " and ".join(sorted(" by ".join(map(str, shape[:2])) for shape in shapes))
