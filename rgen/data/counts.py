"""Exact nats of held-out sequences under simple models, for comparison.

Every model is a table of counts over the training sequences, smoothed by half a count.
"""

import math
from collections.abc import Iterator
from collections.abc import Sequence as Many

import numpy as np

from rgen.data.dataset import Dataset

HALF = 0.5  # added to every count
UNKNOWN = 2  # state of a neighbour that lies outside, or has not come yet
NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # west, north-west, north, north-east as (row, column) offsets
STATES = 3 ** len(NEIGHBOURS)
ROWS = 2000  # sequences that are counted at once


def reference_nats(data: Dataset, split: str, index: Many[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Nats of each sequence under tables of counts of the whole training split.

    Args:
      data: sequences are taken in their own fixed order.
      index: [B] which sequences of `split`.
    Returns:
      name of the model -> float64 [B] nats per sequence, over the steps whose weight is not 0.
    """
    tables = _text if data.kind == "text" else _images if data.kind == "image" and data.is_black_and_white else _grids
    return tables(data, split, np.asarray(index, np.int64).reshape(-1))


def _grids(data: Dataset, split: str, index: np.ndarray) -> dict[str, np.ndarray]:
    """A table for each place; and, for each axis, of a symbol after the one before it along this axis."""
    symbols, place = data.symbols, np.arange(data.length)
    axes = range(len(data.shape)) if data.order == "raster" else ()  # else what is before may come later
    alone = np.zeros((data.length, symbols))
    after = {axis: np.zeros((symbols + 1, symbols)) for axis in axes}
    for start in range(0, len(data.splits["train"]), ROWS):
        rows = data.rows("train", np.s_[start : start + ROWS])
        alone += _count(symbols * place + rows.reshape(len(rows), -1), alone.shape)
        for axis, counts in after.items():
            counts += _count(symbols * _previous(rows, axis, symbols) + rows, counts.shape)
    anywhere = _cost(alone.sum(0))
    alone, after = _shared(alone, anywhere), {axis: _shared(counts, anywhere) for axis, counts in after.items()}
    nats: dict[str, list[np.ndarray]] = {"independent places": [], **{f"previous along axis {axis + 1}": [] for axis in axes}}
    for start in range(0, len(index), ROWS):
        rows = data.rows(split, index[start : start + ROWS])
        costs = [alone[place, rows.reshape(len(rows), -1)], *(after[axis][_previous(rows, axis, symbols), rows] for axis in axes)]
        for name, cost in zip(nats, costs):
            nats[name].append(cost.reshape(len(rows), -1).sum(1))
    return {name: np.concatenate([np.zeros(0), *blocks]) for name, blocks in nats.items()}


def _previous(rows: np.ndarray, axis: int, nothing: int) -> np.ndarray:
    """The symbol before each one along an axis of grids [N, *shape]; `nothing` at the first place."""
    moved = np.moveaxis(np.full(rows.shape, nothing, np.intp), axis + 1, 0)
    moved[1:] = np.moveaxis(rows, axis + 1, 0)[:-1]
    return np.moveaxis(moved, 0, axis + 1)


def _shared(counts: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Nats of each symbol by counts [cells, K], with the table of single symbols `alone` [K] as one more line of counts.

    So a symbol that was not seen in a cell is as likely as it is anywhere.
    """
    weight = np.count_nonzero(counts, axis=1, keepdims=True) + HALF
    return -np.log((counts + weight * np.exp(-alone)) / (counts.sum(axis=1, keepdims=True) + weight))


def _images(data: Dataset, split: str, index: np.ndarray) -> dict[str, np.ndarray]:
    alone = np.zeros((data.length, 2))  # a table for each place
    known = np.zeros((data.length, STATES, 2))  # and for each place and state of the neighbours
    place = np.arange(data.length)
    for pixels, state in _pixels(data, "train", np.arange(len(data.splits["train"]))):
        alone += _count(2 * place + pixels, alone.shape)
        known += _count(2 * (STATES * place + state) + pixels, known.shape)
    alone, known = _cost(alone), _cost(known)
    nats = [(alone[place, y].sum(axis=1), known[place, state, y].sum(axis=1)) for y, state in _pixels(data, split, index)]
    names = ("independent pixels", "4 known neighbours")
    return {name: np.concatenate([np.zeros(0), *(block[i] for block in nats)]) for i, name in enumerate(names)}


def _pixels(data: Dataset, split: str, index: np.ndarray, block: int = 2000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pixels [b, T] in raster order, and the state [b, T] of the four neighbours of each: a number below STATES."""
    for start in range(0, len(index), block):
        seqs = data.sequences(split, index[start : start + block])
        images = data.decode(seqs.x, seqs.y)
        rank = _ranks(data.shape, np.asarray(seqs.x))
        state = sum(3**power * _shifted(images, rank, *offset) for power, offset in enumerate(NEIGHBOURS))
        yield images.reshape(len(images), -1).astype(np.intp), np.reshape(state, (len(images), -1))


def _ranks(shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    """[b, H, W] the step at which each pixel comes, for coordinates x [b, T, 2]."""
    rank = np.empty((len(x), *shape), np.int32)
    rank[np.arange(len(x))[:, None], x[..., 0], x[..., 1]] = np.arange(x.shape[1])
    return rank


def _shifted(images: np.ndarray, rank: np.ndarray, row: int, column: int) -> np.ndarray:
    """[b, H, W] the state of each pixel's neighbour at this offset: its value where it came before the pixel, else UNKNOWN."""
    height, width = rank.shape[1:]
    pad = ((0, 0), (1, 1), (1, 1))
    window = np.s_[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]
    when = np.pad(rank, pad, constant_values=height * width)[window]
    return np.where(when < rank, np.pad(images, pad)[window], UNKNOWN).astype(np.intp)


def _text(data: Dataset, split: str, index: np.ndarray) -> dict[str, np.ndarray]:
    train = data.sequences("train", np.arange(len(data.splits["train"])))
    held = data.sequences(split, index)
    scored = train.weight > 0
    alone = _cost(_count(np.asarray(train.y)[scored], (256,)))
    two = _count((256 * _previous(np.asarray(train.y), 0, 256) + np.asarray(train.y))[scored], (257, 256))
    after = _shared(two, alone)
    costs = {"independent symbols": alone[held.y], "previous symbol": after[_previous(np.asarray(held.y), 0, 256), held.y]}
    return {name: np.where(held.weight > 0, cost, 0).sum(axis=1) for name, cost in costs.items()}


def _count(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How often each cell of a table of this shape is named, by its raster number, in an array."""
    return np.bincount(cells.ravel(), minlength=math.prod(shape)).reshape(shape)


def _cost(counts: np.ndarray) -> np.ndarray:
    """Nats of each symbol (last axis) for counts of them, smoothed by half a count."""
    smooth = counts + HALF
    return -np.log(smooth / smooth.sum(axis=-1, keepdims=True))
