"""Arrays of NumPy in files that others wrote, and images from them."""

from pathlib import Path

import numpy as np

from rgen.data.dataset import DataError, check_regular
from rgen.data.kinds import kind_of

LUMA = np.array([299, 587, 114])  # of red, green and blue, as Pillow and JPEG weigh them
EXPECTED = "Expected are bytes 0 to 255, booleans, or numbers 0 to 1, as [N, H, W], or [N, H, W, 3] in colour"


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
        raise DataError(f"The array {str(path)!r} cannot be read: {why}. Save the images with numpy.save as bytes [N, H, W].") from error


def as_bytes(array: np.ndarray, shown: str) -> np.ndarray:
    """Images as uint8 [N, H, W] of 0 to 255, rounded, a half up. If there are only 0 and 1, 1 is white.

    Raises:
      DataError: the array is not one of images.
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"{shown} has elements of the type {array.dtype}. {EXPECTED}.")
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    colour = array.ndim == 4 and array.shape[-1] == 3
    if (array.ndim != 3 and not colour) or 0 in array.shape:
        raise DataError(f"{shown} has the shape {array.shape}. {EXPECTED}.")
    least, most = float(array.min()), float(array.max())  # NaN if there is one
    white = 1 if array.dtype.kind == "f" or most <= 1 else 255
    if not (least >= -1e-3 and most <= white + 1e-3):  # arithmetic may leave a hair below or above
        raise DataError(f"{shown} has numbers from {least:.9g} to {most:.9g}. {EXPECTED}.")
    if array.dtype != np.uint8 or white == 1:
        array = np.floor(array * np.float32(255 / white) + np.float32(0.5)).astype(np.uint8)
    return ((array @ LUMA + 500) // 1000).astype(np.uint8) if colour else array
