"""Arrays of NumPy in files that others wrote, and images from them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rgen.data import DataError, check_regular
from rgen.data.kinds import kind_of

LUMA = np.array([299, 587, 114])  # of red, green and blue, as Pillow and JPEG weigh them
EXPECTED = "Expected are bytes 0 to 255, booleans, or numbers 0 to 1, as [N, H, W], or [N, H, W, 3] in colour"

OBJECTS = "it holds Python objects, which are not read"


def read(path: Path, choose: Callable[[list[str]], Iterable[str]] = list) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that `choose` takes from their names, less those of Python objects; of an .npy file, its array as "".

    Raises:
      DataError: the file cannot be read, or is damaged, or holds objects only.
    """
    check_regular(path)
    shown, head = str(path), b""
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"": content}
            names = list(choose(content.files))
            arrays = {name: array for name in names if (array := _unless_objects(content, name)) is not None}
    except OSError as error:
        raise DataError(f"{shown!r} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{shown!r} does not fit into memory, or is damaged: {error}.") from error
    except Exception as error:  # of what is damaged, NumPy raises whatever its bytes lead to
        kind = None if head.startswith((b"\x93NUMPY", b"PK")) else kind_of(head)
        why = f"it is {kind}" if kind else f"it is damaged or not NumPy's ({error})"
        raise _unreadable(shown, OBJECTS if _of_objects(error) else why) from error
    if names and not arrays:
        raise _unreadable(shown, OBJECTS)
    return arrays


def _unreadable(shown: str, why: str) -> DataError:
    return DataError(f"The array {shown!r} cannot be read: {why}. Save the images with numpy.save as bytes [N, H, W].")


def _unless_objects(content: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    try:
        return content[name]
    except ValueError as error:
        if _of_objects(error):
            return None
        raise


def _of_objects(error: Exception) -> bool:
    return "Object arrays cannot be loaded" in str(error)


def as_bytes(array: np.ndarray, shown: str) -> np.ndarray:
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
        array = rounded(array, shown, EXPECTED)
    else:
        least, most = int(array.min()), int(array.max())
        if least < 0 or most > 255:
            raise DataError(f"{shown} has numbers from {least} to {most}. {EXPECTED}.")
        array = array.astype(np.uint8) * (255 if most <= 1 else 1)  # of 0 and 1 alone, 1 is white
    return ((array @ LUMA + 500) // 1000).astype(np.uint8) if colour else array


def rounded(array: np.ndarray, shown: str, expected: str) -> np.ndarray:
    """Numbers 0 to 1 as bytes 0 to 255; a hair below or above, as arithmetic leaves it, is rounded away.

    Raises:
      DataError: there are others, or NaN.
    """
    least, most = (float(value) for value in (array.min(), array.max()))  # NaN if there is one
    if not (least >= -1e-3 and most <= 1 + 1e-3):
        raise DataError(f"{shown} has numbers from {least:.9g} to {most:.9g}. {expected}.")
    return np.floor(array * np.float32(255) + np.float32(0.5)).astype(np.uint8)
