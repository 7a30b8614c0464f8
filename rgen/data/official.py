"""MNIST's official files, wherever and however they are kept: each part is known by its contents, whatever its file is called."""

import gzip
import hashlib
import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rgen.data import DataError, arrays
from rgen.data.kinds import kind_of

NAMES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}
"""The official name of each part."""
SHA256 = {
    "train images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "test images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "test labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
"""Checksums of the bytes of each part, without the header and not compressed."""
KERAS = {"x_train": "train images", "y_train": "train labels", "x_test": "test images", "y_test": "test labels"}
"""The arrays of mnist.npz, as Keras has it."""

Parts = dict[str, np.ndarray]


def in_folder(place: Path) -> Parts:
    """The four parts, uint8 [N, 28, 28] and [N].

    Args:
      place: a folder with the four files, packed by gzip or not, with Keras' mnist.npz, or as torchvision makes it; or that mnist.npz.
    Raises:
      DataError: a part is not there, cannot be read, or is not MNIST's.
    """
    if not place.exists():
        raise DataError(f"{str(place)!r} does not exist; give the folder with {_wanted()}.")
    if place.is_file():
        return recognized(_keras(place), f"the file {str(place)!r}")
    official = [name.removesuffix(".gz") for name in NAMES.values()]
    names = [base + end for base in (*official, *(name.replace("-idx", ".idx") for name in official)) for end in ("", ".gz")]
    places = [place / inner / name for inner in ("", "raw", "MNIST/raw") for name in names]
    files = [(str(path), path) for path in places if path.is_file()]
    arrays: Iterable[tuple[str, np.ndarray | DataError]] = ((shown, _read(path)) for shown, path in files)
    if (keras := place / "mnist.npz").is_file():
        arrays = itertools.chain(arrays, _keras(keras))
    return recognized(arrays, f"the folder {str(place)!r}")


def recognized(arrays: Iterable[tuple[str, np.ndarray | DataError]], where: str) -> Parts:
    """The parts among arrays, each given with its name, or with why it could not be read.

    Raises:
      DataError: a part is not among them.
    """
    parts, others = {}, []
    by_sum = {checksum: part for part, checksum in SHA256.items()}
    for shown, array in arrays:
        if isinstance(array, DataError):
            others.append(str(array))
        elif part := by_sum.get(hashlib.sha256(array.tobytes()).hexdigest()):
            parts[part] = array
        else:
            others.append(
                f"{shown!r} is not MNIST's: the SHA-256 checksum of its contents is another one. It is damaged, or another data set, "
                "as Fashion-MNIST, whose images --data takes as a .npy or .npz file."
            )
        if len(parts) == len(SHA256):
            return parts
    missing = ", ".join(part for part in SHA256 if part not in parts)
    raise DataError(" ".join([f"MNIST's {missing} are not in {where}.", *others[:2], f"Expected are {_wanted()}."]))


def unpack(content: bytes, shown: str = "A file of MNIST") -> np.ndarray:
    """The array uint8 of an IDX file, which may be packed by gzip.

    Raises:
      DataError: it is damaged, or no IDX file of bytes.
    """
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{shown} cannot be unpacked: {error}; get it again.") from error
    dimensions = content[3] if len(content) > 3 and content[:3] == bytes((0, 0, 8)) else 0
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= 3 or len(content) < start:
        kind = None if content.startswith(b"\0\0") else kind_of(content)  # of IDX, another type, or cut off
        raise DataError(f"{shown} is {kind or 'no IDX file of bytes; get it again'}.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise DataError(f"{shown} says that it holds {math.prod(shape):,} bytes, and has {len(content) - start:,}; get it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read(path: Path) -> np.ndarray | DataError:
    try:
        return unpack(path.read_bytes(), repr(str(path)))
    except OSError as error:
        return DataError(f"{str(path)!r} cannot be read: {error.strerror}.")
    except DataError as error:
        return error


def _keras(path: Path) -> Iterator[tuple[str, np.ndarray | DataError]]:
    try:
        found = arrays.read(path, lambda names: KERAS.keys() & set(names))
    except DataError as error:
        yield str(path), DataError(f"{str(path)!r} cannot be read as Keras' mnist.npz. {error}")
    else:
        yield from ((f"{path}, {name}", array) for name, array in found.items())


def _wanted() -> str:
    return f"MNIST's four official files, packed or not ({', '.join(NAMES.values())}), or Keras' mnist.npz"
