"""MNIST, and Larochelle's binarization of it: from files in a folder, as tensorflow-datasets has prepared it, or downloaded once.

Files are recognized by the checksums of their pixels, whatever they are called.
"""

import contextlib
import gzip
import hashlib
import os
import sys
import tempfile
import urllib.request
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgen.data import arrays
from rgen.data.dataset import DataError
from rgen.data.kinds import kind_of
from rgen.host.files import replace

SIDE = 28
FOLDERS = ("", "raw", "MNIST/raw")  # torchvision's too
KERAS = ("x_train", "x_test")


class Published(NamedTuple):
    """The files of a data set as they were published.

    Attributes:
      url: the folder they are in.
      files: split -> its file.
      sums: split -> SHA-256 checksum of its pixels as they are stored.
      copies: patterns that find copies of the files in a folder.
      header: how many bytes stand before the pixels.
      stride: how many bytes each pixel has. With two, they are a digit, 0 or 1, and a space or line break.
    """

    url: str
    files: dict[str, str]
    sums: dict[str, str]
    copies: tuple[str, ...]
    header: int
    stride: int


PUBLISHED = {
    "mnist": Published(
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        files={"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"},
        sums={
            "train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        },
        copies=("*images*ubyte*", "mnist.npz"),
        header=16,
        stride=1,
    ),
    "binarized-mnist": Published(
        url="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        files={split: f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")},
        sums={
            "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        },
        copies=("*.amat*",),
        header=0,
        stride=2,
    ),
}


def load(name: str, data_dir: str | os.PathLike[str] | None, *, download: bool) -> dict[str, np.ndarray]:
    """The published splits, uint8 [N, 28, 28]: grey values of "mnist", 0 and 1 of "binarized-mnist".

    Args:
      data_dir: a folder with the files, packed by gzip or not, as torchvision stores them, or with Keras' mnist.npz; or that file.
        Without it, what was downloaded before, or what tensorflow-datasets has prepared, in its own order.
      download: may use the network, where nothing was downloaded before.
    Raises:
      DataError: the data set is not there, or a file of it is damaged or another one.
    """
    published, place = PUBLISHED[name], Path(data_dir or cache_folder() / name)
    wanted = f"the files {', '.join(published.files.values())}, packed or not" + ", or Keras' mnist.npz" * (name == "mnist")
    if data_dir is None and not all((place / file).exists() for file in published.files.values()):
        if (prepared := _prepared(name)) is not None:
            return prepared
        if not download:
            raise DataError(
                f"{name} is not in {str(place)!r} and must be downloaded: allow that with --download. "
                f"Or give, with --data-dir, a folder with {wanted}."
            )
        _download(name, place)
    if not place.exists():
        raise DataError(f"{str(place)!r} does not exist; give the folder with {wanted}.")
    patterns = [f"{folder}/{copies}" for folder in FOLDERS for copies in published.copies]
    paths = [place] if place.is_file() else [path for pattern in patterns for path in sorted(place.glob(pattern.lstrip("/")))]
    splits, wrong = {}, []
    for path in paths:
        try:
            splits |= _read(name, path)
        except DataError as error:
            wrong.append(str(error))
    if missing := " and ".join(split for split in published.files if split not in splits):
        raise DataError(" ".join([f"The {missing} images of {name} are not in {str(place)!r}.", *wrong[:2], f"Expected are {wanted}."]))
    return {split: splits[split] for split in published.files}


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/rgen/data, or .cache/rgen/data in the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rgen" / "data"


def _prepared(name: str) -> dict[str, np.ndarray] | None:
    """The splits as tensorflow-datasets has prepared them, in $TFDS_DATA_DIR or ~/tensorflow_datasets; None if it has not."""
    folder = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / name.replace("-", "_")
    versions = sorted(folder.glob("*/dataset_info.json"))
    if not versions:
        return None
    import tensorflow_datasets as tfds  # takes seconds

    try:
        builder: Any = tfds.builder_from_directory(versions[-1].parent)
        splits = {split: "validation" if split == "valid" else split for split in PUBLISHED[name].files}
        if any(kind.value == "array_record" for kind in builder.info.available_file_formats()):
            rows = {ours: builder.as_data_source(split=theirs) for ours, theirs in splits.items()}
        else:  # TFRecord, which is read with TensorFlow
            rows = {ours: tfds.as_numpy(builder.as_dataset(split=theirs, shuffle_files=False)) for ours, theirs in splits.items()}
        images = {split: np.stack([np.reshape(row["image"], (SIDE, SIDE)) for row in of_split]) for split, of_split in rows.items()}
    except Exception as error:  # array_record and tensorflow-datasets raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{str(folder)!r} cannot be read ({reason}); delete this folder and try again, or give --data-dir.") from error
    print(f"{name}: images in the order in which tensorflow-datasets has prepared them in {str(folder)!r}.", file=sys.stderr)
    return {split: array.astype(np.uint8) for split, array in images.items()}


def _download(name: str, folder: Path) -> None:
    """Gets the published files by tensorflow-datasets' download manager."""
    import tensorflow_datasets as tfds

    urls = {file: PUBLISHED[name].url + file for file in PUBLISHED[name].files.values()}
    print(f"Downloading {name} once, to {str(folder)!r}.", file=sys.stderr)
    try:
        for url in urls.values():  # says within seconds where there is no network; the manager would try again for minutes
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
        folder.mkdir(parents=True, exist_ok=True)
        tfds.disable_progress_bar()  # it moves the cursor
        with tempfile.TemporaryDirectory(dir=folder) as downloads, contextlib.redirect_stdout(sys.stderr):
            got: Any = tfds.download.DownloadManager(download_dir=downloads).download(urls)
            contents = {file: Path(path).read_bytes() for file, path in got.items()}
    except Exception as error:  # of the network, the disk, and tensorflow-datasets
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name} cannot be downloaded from {PUBLISHED[name].url} to {str(folder)!r}: {reason}.") from error
    for file, content in contents.items():
        _pixels(name, _unpacked(name, content, urls[file]), urls[file])  # what is not right is not kept
    for file, content in contents.items():
        replace(folder / file, content)


def _read(name: str, path: Path) -> dict[str, np.ndarray]:
    """The splits in a file."""
    if path.suffix == ".npz":
        stored = {f"{path}, {array}": pixels.tobytes() for array, pixels in arrays.read(path).items() if array in KERAS}
    else:
        try:
            stored = {str(path): _unpacked(name, path.read_bytes(), str(path))}
        except OSError as error:
            raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    return dict(_pixels(name, part, shown) for shown, part in stored.items())


def _unpacked(name: str, content: bytes, shown: str) -> bytes:
    """The pixels in the content of a file, as they are stored."""
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{shown!r} cannot be unpacked: {error}; get it again.") from error
    if not content.startswith(b"\0\0") and (kind := kind_of(content)):  # IDX files begin so
        raise DataError(f"{shown!r} is {kind}.")
    return content[PUBLISHED[name].header :]


def _pixels(name: str, stored: bytes, shown: str) -> tuple[str, np.ndarray]:
    """The split that pixels are, and these as uint8 [N, 28, 28]."""
    published, checksum = PUBLISHED[name], hashlib.sha256(stored).hexdigest()
    for split, expected in published.sums.items():
        if checksum == expected:
            pixels = np.frombuffer(stored, np.uint8)[:: published.stride].reshape(-1, SIDE, SIDE)
            return split, pixels if published.stride == 1 else pixels - ord("0")
    raise DataError(
        f"{shown!r} is not of {name}, since its pixels have another SHA-256 checksum: it is damaged, or another data set such as "
        "Fashion-MNIST, whose images --data takes as a .npy or .npz file."
    )
