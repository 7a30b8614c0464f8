"""Trained weights that come with the package: `--run pretrained:mnist` in place of a run folder.

A folder for each name holds what evaluation and sampling need of a run, except for the data:

weights.npz   parameters by their paths in the tree
config.json   configuration of the run
about.json    outer step, shape of the sequences, digest of the data, nats of the test split
card.md       data, command, nats, licence
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rgen import data as data_sets
from rgen import models
from rgen.choices import PREFIX, PRETRAINED, SPLITS
from rgen.config import TrainConfig, from_json, to_json
from rgen.data import Dataset
from rgen.errors import InputError, nearest
from rgen.sequence import SequenceModel

HERE = Path(__file__).parent


def folder_of(run: str) -> Path | None:
    """The folder of "pretrained:NAME"; None if `run` does not begin so. Raises InputError if there is no such name."""
    if not run.startswith(PREFIX):
        return None
    if (name := run.removeprefix(PREFIX)) not in PRETRAINED:
        raise InputError(f"There are no weights '{run}'. {nearest(run, [PREFIX + name for name in PRETRAINED])}")
    return HERE / name


class Source(NamedTuple):
    """Where the data of pretrained weights is: the options of training."""

    data: str | os.PathLike[str] | None = None
    data_dir: str | os.PathLike[str] | None = None
    download: bool = False

    def given(self) -> list[str]:
        """What is given, as options."""
        return [f"--{field.replace('_', '-')}" for field, value in self._asdict().items() if value]


def load(folder: Path, source: Source, needs_data: bool) -> tuple[TrainConfig, Dataset, SequenceModel, Any, int]:
    """The configuration, data, model, parameters and outer step in a folder.

    The splits are empty if the data is not in the package, not given and not needed.

    Raises:
      InputError: the data cannot be used, or is needed and not there.
    """
    config = from_json((folder / "config.json").read_text(), folder / "config.json")
    about = json.loads((folder / "about.json").read_text())
    data = _load_data(PREFIX + folder.name, config, about, source, needs_data)
    model = models.from_config(config, data)
    return config, data, model, _load_params(folder / "weights.npz", models.parameter_shapes(model, data)), about["step"]


def pack(folder: Path, config: TrainConfig, data: Dataset, params: Any, step: int, test: dict[str, float | int], half: bool) -> None:
    """Writes what `load` reads into a new folder; the card is written by hand.

    Args:
      test: nats of the test split, as `rgen.scoring.summarize` gives them.
      half: whether weights are kept in half precision.
    """
    folder.mkdir()
    dtype = np.float16 if half else np.float32
    arrays: dict[str, Any] = {name: np.asarray(leaf).astype(dtype) for name, leaf in models.by_path(params).items()}
    np.savez_compressed(folder / "weights.npz", **arrays)
    (folder / "config.json").write_text(to_json(config))
    about = {"step": step, "shape": data.shape, "sequences": _sizes(data), "sha256": data.fingerprint(), "test": test}
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")


def _load_data(name: str, config: TrainConfig, about: dict[str, Any], source: Source, needed: bool) -> Dataset:
    """The data, if it comes with rgen, is given, or is needed; else a data set without sequences."""
    options = () if config.data == "digits" else ("--data-dir", "--download") if config.data in data_sets.NAMES else ("--data",)
    given = source.given()
    if wrong := [option for option in given if option not in options]:
        takes = f"its data is given with {' or '.join(options)}" if options else "its data comes with rgen"
        raise InputError(f"{' and '.join(wrong)} cannot be used with {name}: {takes}.")
    if options and not given and not needed:
        return _without_data(config, tuple(about["shape"]))
    if "--data" in options and not given:
        raise InputError(f"This needs the data of {name}, which is not in the package; give it, as in --data {config.data}.")
    folder = source.data_dir and Path(source.data_dir)
    where = dataclasses.replace(config, data=os.fspath(source.data or config.data), data_dir=folder, download=source.download)
    data = data_sets.from_config(where)  # says itself what to give, unless MNIST was downloaded before
    if data.fingerprint() != about["sha256"]:
        here, there = (", ".join(f"{size:,} {split}" for split, size in sizes.items()) for sizes in (_sizes(data), about["sequences"]))
        print(
            f"This is not the data that {name} was trained on: {here} sequences here, {there} there. "
            "What is held out here may have been trained on.",
            file=sys.stderr,
        )
    return data


def _without_data(config: TrainConfig, shape: tuple[int, ...]) -> Dataset:
    """A data set of the same kind and shape, without sequences."""
    splits = {split: np.zeros((0, *shape), np.uint8) for split in SPLITS}
    options = {name: getattr(config, name) for name in ("split_seed", "order", "score_padding")}
    if len(shape) == 1:
        return Dataset("text", splits, 256, **options)
    return Dataset("image", splits, config.levels or 2, config.colour, **options)


def _load_params(path: Path, like: Any) -> Any:
    with np.load(path) as file:
        found = dict(file)
    wanted = models.by_path(like)
    if {name: leaf.shape for name, leaf in wanted.items()} != {name: array.shape for name, array in found.items()}:
        raise InputError(f"The weights in {path} do not fit the network of this version of rgen; install it anew.")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name].astype(leaf.dtype) for name, leaf in wanted.items()])


def _sizes(data: Dataset) -> dict[str, int]:
    return {split: len(data.splits[split]) for split in SPLITS}
