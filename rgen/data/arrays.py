"""Arrays of NumPy in files that others wrote: which of them are splits, and whether they are pictures or symbols."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rgen.data.dataset import DataError, check_regular
from rgen.data.kinds import kind_of

SPLIT_NAMES = {
    "train": ("train", "x_train", "training"),
    "valid": ("valid", "val", "validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
"""Names of folders or arrays that are splits."""
LUMA = np.array([299, 587, 114])  # of red, green and blue, as Pillow and JPEG weigh them
BRIGHT = 200  # pictures of bytes reach it, and symbols seldom do
PICTURES = "Expected are bytes 0 to 255, booleans, or numbers 0 to 1, as [N, H, W], or [N, H, W, 3] in colour"
EXPECTED = f"{PICTURES}; or symbols, integers from 0 to 255, as [N, T] or with up to four axes behind N"


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names; of an .npy file, its array as "".

    Raises:
      DataError: the file cannot be read, is damaged, or holds Python objects.
    """
    check_regular(path)
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            return {"": content} if isinstance(content, np.ndarray) else dict(content)
    except Exception as error:  # of what is damaged, NumPy raises whatever its bytes lead to
        why = getattr(error, "strerror", None)
        if not why and not head.startswith((b"\x93NUMPY", b"PK")) and (kind := kind_of(head)):
            why = f"it is {kind}"
        why = why or f"it is damaged, too large, or not NumPy's ({error})"
        raise DataError(f"The array {str(path)!r} cannot be read: {why}. Save the data with numpy.save.") from error


def splits(path: Path) -> dict[str, np.ndarray]:
    """The array of each split (see SPLIT_NAMES) of a file, or the one of all sequences as "".

    Raises:
      DataError: as `read`; the file has other arrays, or such as cannot be data.
    """
    found = read(path)
    if not found:
        raise DataError(f"{str(path)!r} has no array. {EXPECTED}.")
    named = by_split(found, path, "arrays")
    if not named:
        grids = [name for name, array in found.items() if array.ndim > 2]
        if len(found) > 1 and len(grids) != 1:
            what = f"{str(path)!r} has the arrays {', '.join(found)}. Which are the sequences is not clear"
            raise DataError(f"{what}: call them train, valid and test, or give one.")
        named = {"": grids[0] if grids else next(iter(found))}
    for name in named.values():
        _check(found[name], shown(path, name))
    return {split: found[name] for split, name in named.items()}


def shown(path: Path, name: str) -> str:
    """An array of a file, for sentences."""
    return f"{str(path)!r}" + f", {name}," * bool(name)


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
        raise DataError(f"{str(path)!r} has {what} for {' and '.join(found)}, and none for {lacks}; give both, or one for all of them.")
    return found


def _check(array: np.ndarray, shown: str) -> None:
    """Raises DataError for what is neither pictures nor symbols."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{shown} has elements of the type {array.dtype}. {EXPECTED}.")
    if not 2 <= array.ndim <= 5 or 0 in array.shape:
        raise DataError(f"{shown} has the shape {array.shape}. {EXPECTED}.")
    least, most = float(array.min()), float(array.max())  # NaN if there is one
    proportions = array.dtype.kind == "f" and least >= -1e-3 and most <= 1 + 1e-3  # arithmetic may leave a hair below or above
    if not proportions and (not (least >= 0 and most <= 255) or (array.dtype.kind == "f" and np.any(array != np.floor(array)))):
        raise DataError(f"{shown} has numbers from {least:.9g} to {most:.9g}. {EXPECTED}.")


def are_symbols(found: dict[str, np.ndarray], path: Path) -> bool:
    """Whether the arrays of `splits` hold symbols, and not pictures, by their types and shapes.

    Raises:
      DataError: they could be both.
    """
    array = next(iter(found.values()))
    if array.ndim == 2 or (array.ndim > 3 and array.shape[-1] not in (1, 3, 4)) or array.ndim > 4:
        return True  # no picture has such a shape, not even with transparency
    most = max(float(array.max()) for array in found.values())
    if most >= BRIGHT or (most <= 1 + 1e-3 and (array.ndim == 3 or array.dtype.kind == "f")):
        return False  # bytes; or black and white, or numbers 0 to 1, but for volumes of 0 and 1
    raise DataError(
        f"{str(path)!r} has numbers from 0 to {most:.0f} of the shape {array.shape}: pictures, or symbols? "
        f"For symbols give --symbols, as --symbols {most + 1:.0f}; for pictures [N, H, W] or [N, H, W, 3] give --levels, as --levels 2."
    )


def white_of(found: dict[str, np.ndarray], path: Path) -> dict[str, int]:
    """What is white in the pictures of each split: 255, or 1 in those that have no number above it.

    Raises:
      DataError: of splits of integers, one has larger numbers than 1, and one has not: it could be black and white, or nearly black.
    """
    most = {split: float(array.max()) for split, array in found.items()}
    whole = {split for split, array in found.items() if array.dtype.kind in "ui" and most[split] > 0}
    small = {split for split in whole if most[split] <= 1}
    if small and small < whole:
        a, b = (min(some, key=list(found).index) for some in (small, whole - small))
        raise DataError(
            f"In {str(path)!r}, {a} has integers from 0 to 1 and {b} from 0 to {most[b]:.0f}, so what is white in {a} is not sure. "
            "Save black and white as booleans, and grey as bytes or as numbers from 0 to 1."
        )
    return {split: 1 if most[split] <= 1 + 1e-3 else 255 for split in found}


def as_bytes(array: np.ndarray, white: int, colour: bool, shown: str) -> np.ndarray:
    """Pictures as uint8 [N, H, W] of 0 to 255, rounded, a half up; or [N, H, W, 3] if they stay in colour.

    Raises:
      DataError: the array is not one of pictures, or has no colours.
    """
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    in_colour = array.ndim == 4 and array.shape[-1] == 3
    if array.ndim != 3 and not in_colour:
        raise DataError(f"{shown} has the shape {array.shape}. {PICTURES}. For symbols give --symbols.")
    if colour and not in_colour:
        raise DataError(f"{shown} has the shape {array.shape}, and --colour is for pictures [N, H, W, 3]; leave it out.")
    if array.dtype != np.uint8 or white == 1:
        array = np.floor(array * np.float32(255 / white) + np.float32(0.5)).astype(np.uint8)
    return array if colour or not in_colour else ((array @ LUMA + 500) // 1000).astype(np.uint8)
