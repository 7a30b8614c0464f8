"""Sampling in batches that fit: sample k of a seed is the same whatever the batch."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rgen import report
from rgen.config import SampleConfig
from rgen.data import Dataset
from rgen.devices import place
from rgen.evaluate import choose
from rgen.progress import Progress
from rgen.run import fitting_batch, load
from rgen.sequence import SequenceModel, Trace


@jax.jit
def _keys(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda k: jax.random.fold_in(key, k))(index)


_sample = jax.jit(lambda model, params, x, keys: model.sample(params, x, keys), static_argnums=0)


def generate(
    model: SequenceModel,
    params: Any,
    data: Dataset,
    split: str,
    count: int,
    seed: int,
    batch: int,
    progress: Progress | None = None,
) -> tuple[Any, np.ndarray]:
    """Draws `count` sequences.

    Inputs are those of the split's sequences in turn: the positions, or for images in random order each image's own order.

    Returns:
      (images [count, H, W] or a list of lines, nats [count] of each).
    """
    batch = min(batch, count)
    size = len(data.splits[split])
    decoded, nats = [], []
    for first in range(0, count, batch):
        index = np.arange(first, first + batch)  # the last batch draws a few too many, so that nothing is compiled again
        x = data.sequences(split, index % size).x
        params, (places, keys) = place(params, (x, _keys(jax.random.key(seed), index)))
        trace: Trace = _sample(model, params, places, keys)
        decoded.extend(data.decode(x, np.asarray(trace.y)))
        nats.append(np.asarray(trace.nll).sum(1))
        if progress:
            progress.update(min(first + batch, count), "drawn")
    decoded = decoded[:count]
    return (np.stack(decoded) if data.kind == "image" else decoded), np.concatenate(nats)[:count]


def write(data: Dataset, drawn: tuple[Any, np.ndarray], path: Path, beside: dict[str, np.ndarray] | None = None) -> None:
    """Writes a sheet of images (with other groups beside them), or a file of lines."""
    samples, _ = drawn
    if data.kind == "image":
        report.sheet({f"{len(samples)} samples": samples, **(beside or {})}, path)
    else:
        path.write_bytes(_as_text(samples))


def _as_text(lines: list[bytes]) -> bytes:
    """One line each; a line break that was drawn is written as a question mark."""
    return b"".join(line.replace(b"\n", b"?").replace(b"\r", b"?") + b"\n" for line in lines)


def novelty(data: Dataset, lines: list[bytes]) -> list[str]:
    """For each line: "train" or "test" (or "valid") if it stands there, else "new"."""
    places = {line: split for split in ("valid", "test", "train") for line in data.decode(None, data.splits[split])}
    return [places.get(line, "new") for line in lines]


def main(config: SampleConfig) -> None:
    """bin/sample.py."""
    run, _, data, model, params, step = load(config.run)
    batch = config.batch or fitting_batch(model, data)
    with Progress(config.count, 0, "sample") as progress:
        drawn = generate(model, params, data, config.split, config.count, config.seed, batch, progress)
    samples, nats = drawn
    summary = {"count": config.count, "seed": config.seed, "step": step, "nats_per_sequence": float(nats.mean())}
    index = choose(data, config.split, min(config.count, 16), config.seed)
    if data.kind == "image":
        path = config.out or run.samples_file(data.kind)
        real = data.splits[config.split][choose(data, config.split, config.count, config.seed)]
        write(data, drawn, path, {f"{len(real)} images of {config.split}": real})
        print(f"{config.count} samples of step {step}, {nats.mean():.2f} nats each: {path}")
    else:
        found = novelty(data, samples)
        summary |= {f"in_{split}": found.count(split) for split in ("train", "valid", "test")} | {"new": found.count("new")}
        if config.out:
            write(data, drawn, config.out)
        else:
            sys.stdout.buffer.write(_as_text(samples))
            sys.stdout.flush()
        _tell(data, config, summary, index)
    if config.json:
        config.json.write_text(json.dumps(summary | {"nats": nats.tolist()}, indent=2) + "\n")


def _tell(data: Dataset, config: SampleConfig, summary: dict, index: np.ndarray) -> None:
    """On stderr: a few lines of the split, to compare, and how many samples are new."""
    print(f"\n{len(index)} lines of {config.split}, to compare:", file=sys.stderr)
    for line in data.decode(None, data.splits[config.split][index]):
        print("  " + line.decode("utf-8", "replace"), file=sys.stderr)
    counted = ", ".join(f"{summary[key]} {key.replace('_', ' ')}" for key in ("new", "in_train", "in_valid", "in_test"))
    print(f"{summary['count']} samples, {summary['nats_per_sequence']:.2f} nats each: {counted}.", file=sys.stderr)
