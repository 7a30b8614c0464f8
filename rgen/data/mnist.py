"""MNIST through tensorflow-datasets, prepared once, also without network and without TensorFlow.

Importing this module imports tensorflow-datasets, which is slow: only `rgen.data.images` does it, when it has to.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rgen.data import DataError, official
from rgen.host.signals import leaving

Splits = dict[str, np.ndarray]

SIDE = 28
URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
BINARIZED_URL = "http://www.cs.toronto.edu/"


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
        parts = official.in_folder(self.folder) if self.folder else _download(dl_manager)
        return {split: self._generate_examples(parts[f"{split} images"], parts[f"{split} labels"]) for split in ("train", "test")}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        pairs = zip(images.reshape(-1, SIDE, SIDE), labels, strict=True)
        for key, (image, label) in enumerate(pairs):
            yield key, {"image": image, "label": label}


def load(data_dir: str | os.PathLike[str] | None, *, download: bool) -> tuple[Splits, tuple[str, ...]]:
    """MNIST's official train and test images, uint8 [N, 28, 28] of grey values, and notes on where they come from.

    Args:
      data_dir: where the four official files are, see `rgen.data.official`; without it MNIST must have been prepared, or be downloaded.
      download: may use the network.
    Raises:
      DataError: MNIST is not there, a file of it is damaged or not the official one, or it cannot be stored.
    """
    builder = _open("official_mnist")
    if data_dir is not None:
        builder.folder = Path(data_dir)
        official.in_folder(builder.folder)  # checked even if not needed any more: a wrong folder must not pass in silence
    elif not _there(builder) and _there(shuffled := _open("mnist")):
        return read(shuffled, {"train": "train", "test": "test"}), ("Images in the order of tensorflow-datasets' own mnist.",)
    elif not _there(builder) and not download:
        raise DataError(
            f"MNIST is not in {str(home())!r} and must be downloaded: allow that with --download. "
            f"Or give, with --data-dir, a folder with its four official files: {', '.join(official.NAMES.values())}."
        )
    if not _there(builder):
        _prepare(builder, url=None if builder.folder else URL)
    return read(builder, {"train": "train", "test": "test"}), ()


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


def _download(dl_manager: Any) -> official.Parts:
    paths = dl_manager.download({name: URL + name for name in official.NAMES.values()})
    arrays = ((name, official.unpack(Path(path).read_bytes(), repr(name))) for name, path in paths.items())
    return official.recognized(arrays, f"what came from {URL}")


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
    tfds.disable_progress_bar()  # it moves the cursor
    with downloads, leaving(downloads.cleanup), contextlib.redirect_stdout(sys.stderr):
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
