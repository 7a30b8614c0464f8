"""MNIST through tensorflow-datasets, prepared once, also without network and without TensorFlow.

Importing this module imports tensorflow-datasets, which is slow: only `rgen.data.images` does it, when it has to.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import math
import os
import struct
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rgen.data import DataError

Splits = dict[str, np.ndarray]

SIDE = 28
URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
BINARIZED_URL = "http://www.cs.toronto.edu/"
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


class OfficialMnist(tfds.core.GeneratorBasedBuilder):
    """MNIST in its official order, from the four official files in `folder`, or downloaded where that is None.

    tensorflow-datasets' own `mnist` is prepared with TensorFlow only, and shuffles.
    """

    VERSION = tfds.core.Version("1.0.0")
    folder: Path | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(shape=(SIDE, SIDE), dtype=np.uint8, encoding="bytes")
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.Scalar(np.uint8)})
        text = "MNIST in its official order, from the four official files."
        return tfds.core.DatasetInfo(builder=self, description=text, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        packed = read_official(_paths(self.folder) if self.folder else dl_manager.download({name: URL + name for name in SHA256}))
        return {split: self._generate_examples(*(packed[name] for name in names)) for split, names in FILES.items()}

    def _generate_examples(self, images: bytes, labels: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        pairs = zip(unpack(images, (SIDE, SIDE)), unpack(labels, ()), strict=True)
        for key, (image, label) in enumerate(pairs):
            yield key, {"image": image, "label": label}


def load(data_dir: str | os.PathLike[str] | None, *, download: bool) -> tuple[Splits, tuple[str, ...]]:
    """MNIST's official train and test images, uint8 [N, 28, 28] of grey values, and notes on where they come from.

    Args:
      data_dir: a folder with the four official files; without it MNIST must have been prepared before, or be downloaded.
      download: may use the network.
    Raises:
      DataError: MNIST is not there, a file of it is damaged or not the official one, or it cannot be stored.
    """
    official = _open("official_mnist")
    if data_dir is not None:
        official.folder = Path(data_dir)
        read_official(_paths(official.folder))  # checked even if not needed any more: a wrong folder must not pass in silence
    elif not _there(official) and _there(own := _open("mnist")):
        return read(own, {"train": "train", "test": "test"}), ("Images in the order of tensorflow-datasets' own mnist.",)
    elif not _there(official) and not download:
        raise DataError(
            f"MNIST is not in {str(home())!r} and must be downloaded: allow that with --download. "
            f"Or give, with --data-dir, a folder with its four official files: {', '.join(SHA256)}."
        )
    if not _there(official):
        _prepare(official, url=None if official.folder else URL)
    return read(official, {"train": "train", "test": "test"}), ()


def load_binarized(data_dir: str | os.PathLike[str] | None, *, download: bool) -> tuple[Splits, tuple[str, ...]]:
    """Larochelle's binarized MNIST by tensorflow-datasets' own builder: official train, valid and test images, uint8 of 0 and 1.

    Raises:
      DataError: it is not there, or cannot be prepared here.
    """
    if data_dir is not None:
        raise DataError("binarized-mnist cannot be made from files in a folder; leave out --data-dir.")
    builder = _open("binarized_mnist")
    if not _there(builder):
        if not download and not _prepared(builder):
            raise DataError(
                f"Binarized MNIST is not in {str(home())!r} and must be downloaded: allow that with --download, which needs "
                "TensorFlow. Or copy the folder 'binarized_mnist' there from a machine on which it has been prepared."
            )
        if not _tensorflow():
            raise DataError(
                "Binarized MNIST is prepared, and read as TFRecord, with TensorFlow only: pip install tensorflow, then try again."
            )
        _prepare(builder, url=BINARIZED_URL)
    return read(builder, {"train": "train", "valid": "validation", "test": "test"}), ()


def home() -> Path:
    """Where tensorflow-datasets keeps what it has prepared: $TFDS_DATA_DIR, or tensorflow_datasets in the home folder."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def read_official(paths: Mapping[str, str | os.PathLike[str]]) -> dict[str, bytes]:
    """The contents, still packed, of the official files: name -> bytes.

    Raises:
      DataError: a file cannot be read, or its checksum is wrong.
    """
    packed = {}
    for name, expected in SHA256.items():
        try:
            packed[name] = Path(paths[name]).read_bytes()
        except OSError as error:
            raise DataError(f"{os.fspath(paths[name])!r} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(packed[name]).hexdigest() != expected:
            raise DataError(
                f"{os.fspath(paths[name])!r} is not MNIST's official file of this name: its SHA-256 checksum differs. "
                "It is cut short, damaged, or another data set; get it again."
            )
    return packed


def unpack(packed: bytes, item: tuple[int, ...]) -> np.ndarray:
    """The array uint8 [N, *item] in a gzipped IDX file.

    Raises:
      DataError: this is not gzip, or not IDX of bytes of that shape, or not whole.
    """
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"A .gz file of MNIST cannot be unpacked: {error}.") from error
    dimensions = 1 + len(item)
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise DataError(f"A file of MNIST is not an IDX file of bytes with {dimensions} dimensions.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if shape[1:] != item or len(content) != start + math.prod(shape):
        raise DataError(f"A file of MNIST says it holds bytes in the shape {shape}, but has {len(content) - start} of them.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read(builder: tfds.core.DatasetBuilder, names: dict[str, str]) -> Splits:
    """The images uint8 [N, 28, 28] of the prepared splits; `names`: our name of a split -> the builder's.

    Raises:
      DataError: what was prepared cannot be read.
    """
    try:
        return {ours: _images(builder, theirs) for ours, theirs in names.items()}
    except Exception as error:  # array_record and tensorflow-datasets raise many kinds
        raise DataError(f"{str(builder.data_path)!r} cannot be read; delete this folder and try again. ({_line(error)})") from error


def _images(builder: tfds.core.DatasetBuilder, split: str, block: int = 4096) -> np.ndarray:
    n = builder.info.splits[split].num_examples
    images = np.empty((n, SIDE, SIDE), np.uint8)
    for start, examples in _blocks(builder, split, n, block):
        images[start : start + len(examples)] = np.reshape([example["image"] for example in examples], (-1, SIDE, SIDE))
    return images


def _blocks(builder: Any, split: str, n: int, block: int) -> Iterator[tuple[int, list[Any]]]:
    if _random_access(builder):
        source = builder.as_data_source(split=split)
        yield from ((start, source.__getitems__(range(start, min(start + block, n)))) for start in range(0, n, block))
    else:
        stream = iter(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        yield from ((start, [next(stream) for _ in range(start, min(start + block, n))]) for start in range(0, n, block))


def _random_access(builder: tfds.core.DatasetBuilder) -> bool:
    return "array_record" in {kind.value for kind in builder.info.available_file_formats()}


def _there(builder: tfds.core.DatasetBuilder) -> bool:
    """Prepared, and in a format that can be read here: TFRecord needs TensorFlow."""
    return _prepared(builder) and (_random_access(builder) or _tensorflow())


def _prepared(builder: tfds.core.DatasetBuilder) -> bool:
    return (Path(builder.data_path) / "dataset_info.json").is_file()


def _tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _open(name: str) -> Any:
    """The builder of this name, ours or tensorflow-datasets' own, whether its data is prepared or not."""
    try:
        return tfds.builder(name, data_dir=home())
    except Exception as error:  # what was prepared describes itself badly
        raise DataError(f"{str(home() / name)!r} cannot be read; delete this folder and try again. ({_line(error)})") from error


def _paths(folder: Path) -> dict[str, Path]:
    missing = [name for name in SHA256 if not (folder / name).is_file()]
    if missing:
        raise DataError(f"The folder {str(folder)!r} lacks {', '.join(missing)}; MNIST's four official files are {', '.join(SHA256)}.")
    return {name: folder / name for name in SHA256}


def _prepare(builder: tfds.core.DatasetBuilder, url: str | None = None) -> None:
    """Prepares a data set once, from `url` or from files; what fails leaves neither half a data set nor a bad download."""
    print(f"Preparing {builder.name} once, in {str(builder.data_path)!r}.", file=sys.stderr)
    if url:
        _reach(url)
    try:
        home().mkdir(parents=True, exist_ok=True)
        downloads = tempfile.TemporaryDirectory(dir=home())
    except OSError as error:
        raise DataError(f"{str(home())!r} cannot be written; set TFDS_DATA_DIR to another folder. ({_line(error)})") from error
    with downloads, contextlib.redirect_stdout(sys.stderr):
        try:
            builder.download_and_prepare(download_dir=downloads.name, file_format="array_record")
        except DataError:
            raise
        except Exception as error:  # tensorflow-datasets raises many kinds
            raise DataError(f"{builder.name} cannot be prepared in {str(home())!r}. ({_line(error)})") from error


def _reach(url: str) -> None:
    """Raises DataError within seconds where there is no network; tensorflow-datasets would try again for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        return  # something answers
    except OSError as error:
        raise DataError(f"{url} cannot be reached, so nothing can be downloaded. ({_line(error)})") from error


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
