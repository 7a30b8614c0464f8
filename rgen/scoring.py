"""Exact nats of sequences and of whole splits."""

import math
from functools import partial

import jax
import numpy as np

from rgen.data import Dataset
from rgen.devices import even_batch, fetch, place
from rgen.errors import InputError
from rgen.host.progress import Progress
from rgen.sampling import conditional_nats
from rgen.sequence import PyTree, Sequence, SequenceModel


@partial(jax.jit, static_argnums=0)
def score(model: SequenceModel, params: PyTree, seqs: Sequence) -> jax.Array:
    """Nats [B, T] of sequences, each paid before its own output is seen, times the step's weight.

    Args:
      model: an `InnerLoop`, or a baseline.
      params: as `model.init` gives them.
      seqs: x [B, T, ...] or [1, T, ...], y [B, T], weight [B, T].
    Raises:
      ValueError: shapes that do not fit.
    """
    return model.score(params, seqs)


def choose(data: Dataset, split: str, count: int | None, seed: int) -> np.ndarray:
    """`count` indices of a split without replacement (a smaller count is a prefix of a larger one); None: all, in order."""
    size = len(data.splits[split])
    return np.arange(size) if count is None else np.random.default_rng(seed).permutation(size)[:count]


def choose_exactly(data: Dataset, split: str, count: int | None, seed: int) -> np.ndarray:
    """As `choose`, but raises InputError if the split is smaller than `count`."""
    index = choose(data, split, count, seed)
    if count and count > len(index):
        raise InputError(f"--count is {count}, and the {split} split has {len(index)} sequences.")
    return index


def score_all(
    model: SequenceModel,
    params: PyTree,
    data: Dataset,
    split: str,
    index: np.ndarray,
    batch: int,
    progress: Progress | None = None,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Nats [N, T] of the sequences `index` [N] of a split, `batch` at a time.

    Args:
      known: booleans [N, *shape]. With it, the nats are those of the rest given the known pixels, as in
        `rgen.sampling.conditional_nats`.
    """
    rows, total = [], 0.0
    batch = even_batch(batch, len(index))
    for first in range(0, len(index), batch):
        part = np.arange(first, min(first + batch, len(index)))
        filled = np.resize(part, batch)  # the last batch repeats its sequences
        seqs = data.sequences(split, index[filled])
        at = None if known is None else known[(filled[:, None], *np.moveaxis(seqs.x.reshape(*seqs.x.shape[:2], -1), -1, 0))]
        params, (seqs, at) = place(params, (seqs, at))
        nats = score(model, params, seqs) if at is None else conditional_nats(model, params, seqs, at)
        rows.append(fetch(nats)[: len(part)])
        total += float(rows[-1].sum())
        if progress:
            done = first + len(part)
            progress.update(done, f"{total / done:.3f} nats")
    return np.concatenate(rows)


def summarize(nats: np.ndarray, symbols: np.ndarray) -> dict[str, float | int]:
    """Means and the standard error.

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
