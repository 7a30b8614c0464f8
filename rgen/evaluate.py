"""Exact nats of a whole split."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rgen import counts
from rgen.config import EvaluateConfig
from rgen.data import Dataset
from rgen.devices import even_batch, fetch, place
from rgen.errors import InputError
from rgen.generate import conditional_nats
from rgen.progress import Progress
from rgen.run import fitting_batch, load
from rgen.sequence import SequenceModel

_score = jax.jit(lambda model, params, seqs: model.score(params, seqs), static_argnums=0)


def choose(data: Dataset, split: str, count: int | None, seed: int) -> np.ndarray:
    """Indices of `count` sequences of a split, drawn without replacement, the first of a larger count; without one, all in their order."""
    size = len(data.splits[split])
    return np.arange(size) if count is None else np.random.default_rng(seed).permutation(size)[:count]


def choose_exactly(data: Dataset, split: str, count: int | None, seed: int) -> np.ndarray:
    """As `choose`, but raises InputError where there are not so many."""
    index = choose(data, split, count, seed)
    if count and count > len(index):
        raise InputError(f"--count is {count}, and the {split} split has {len(index)} sequences.")
    return index


def score_all(
    model: SequenceModel,
    params: Any,
    data: Dataset,
    split: str,
    index: np.ndarray,
    batch: int,
    progress: Progress | None = None,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Nats [N, T] of the sequences `index` [N] of a split, `batch` at a time; the last batch is filled up by repetition.

    With `known`, booleans [N, H, W] of images, those of the rest given what is known, as `rgen.generate.conditional_nats`.
    """
    rows = []
    batch = even_batch(batch, len(index))
    for first in range(0, len(index), batch):
        part = np.arange(first, min(first + batch, len(index)))
        filled = np.resize(part, batch)
        seqs = data.sequences(split, index[filled])
        at = None if known is None else known[(filled[:, None], *np.moveaxis(seqs.x, -1, 0))]  # [batch, T]
        params, (seqs, at) = place(params, (seqs, at))
        nats = _score(model, params, seqs) if at is None else conditional_nats(model, params, seqs, at)
        rows.append(fetch(nats)[: len(part)])
        if progress:
            progress.update(first + len(part), f"{np.mean([r.sum() for r in np.concatenate(rows)]):.3f} nats")
    return np.concatenate(rows)


def summarize(nats: np.ndarray, symbols: np.ndarray) -> dict[str, float | int]:
    """The table's numbers.

    Args:
      nats: [N] of each sequence.
      symbols: [N] how many of its steps were scored.
    """
    n = len(nats)
    per_symbol = float(nats.sum() / symbols.sum())
    return {
        "nats_per_sequence": float(nats.mean()),
        "standard_error": float(nats.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0,
        "nats_per_symbol": per_symbol,
        "bits_per_symbol": per_symbol / math.log(2),
        "sequences": n,
    }


def main(config: EvaluateConfig) -> None:
    """bin/evaluate.py."""
    _, _, data, model, params, step = load(config.run)
    index = choose_exactly(data, config.split, config.count, config.seed)
    batch = config.batch or fitting_batch(model, data)
    with Progress(len(index), 0, config.split) as progress:
        nats = score_all(model, params, data, config.split, index, batch, progress).sum(1)
    symbols = data.sequences(config.split, index).weight.sum(1)
    summary = summarize(nats, symbols)
    references = {name: summarize(values, symbols) for name, values in counts.reference_nats(data, config.split, index).items()}
    print(table({f"this run, step {step}": summary, **references}, f"{len(index)} sequences of {config.split}"))
    if config.json:
        config.json.write_text(json.dumps(summary, indent=2) + "\n")
    if config.out:
        _write_csv(config.out, index, nats, symbols)


def table(rows: dict[str, dict], title: str) -> str:
    """A plain table of summaries by name."""
    head = f"{title:<34}{'nats/sequence':>14}{'+-':>8}{'nats/symbol':>13}{'bits/symbol':>13}"
    lines = [
        f"{name:<34}{row['nats_per_sequence']:>14.3f}{row['standard_error']:>8.3f}{row['nats_per_symbol']:>13.4f}{row['bits_per_symbol']:>13.4f}"
        for name, row in rows.items()
    ]
    return "\n".join([head, *lines])


def _write_csv(path: Path, index: np.ndarray, nats: np.ndarray, symbols: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sequence", "nats", "symbols"])
        writer.writerows(zip(index.tolist(), nats.tolist(), symbols.astype(int).tolist(), strict=True))
