"""Batches of sequences: mapped over, padded, cut into groups and spread over devices."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgen.sequence import PyTree

ROWS = "rows"  # the mapped axis of a batch's sequences


def over_sequences(function: Callable, steps: PyTree, *more: Any) -> PyTree:
    """Maps a function of ONE sequence, and of its rows of `more`, over the rows of a NamedTuple of arrays [B, T, ...].

    Arrays [1, T, ...] of x that all sequences share are not copied, so what is computed from them alone is computed once.
    """
    batch = len(steps.weight)
    shared = jax.tree.map(lambda a: a[0] if len(a) < batch else None, steps.x)
    own = steps._replace(x=jax.tree.map(lambda a: None if len(a) < batch else a, steps.x))

    def one(own: Any, *more: Any) -> PyTree:
        x = jax.tree.map(lambda a, b: b if a is None else a, shared, own.x, is_leaf=lambda a: a is None)
        return function(own._replace(x=x), *more)

    return jax.vmap(one, axis_name=ROWS)(own, *more)


def each(function: Callable, *arrays: Any) -> PyTree:
    """Maps a function over the first axis of arrays; one of size 1 without `jax.vmap`, so that it is compiled as if it were not there."""
    if jax.tree.leaves(arrays)[0].shape[0] > 1:
        return jax.vmap(function)(*arrays)
    return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*jax.tree.map(lambda a: a[0], arrays)))


def pad_rows(steps: PyTree, size: int, axis: int = 0) -> PyTree:
    """Pads a NamedTuple of arrays [B, ...] to `size` rows along an axis. The padding repeats the last row, with a `weight` of 0.

    A single row that all share stays single.
    """
    before = steps.weight.shape[axis]
    if before == size:
        return steps
    index = (slice(None),) * axis + (np.minimum(np.arange(size), before - 1),)
    steps = jax.tree.map(lambda a: jnp.asarray(a)[index] if a.shape[axis] == before else a, steps)
    kept = np.expand_dims(np.arange(size) < before, [i for i in range(steps.weight.ndim) if i != axis])
    return steps._replace(weight=jnp.where(kept, steps.weight, 0))


def group_rows(steps: PyTree, size: int, devices: int | None = None) -> PyTree:
    """Cuts a NamedTuple of arrays [B, ...] into groups [groups, size, ...], padded as by `pad_rows`.

    Rows stay on their devices: every group takes the same number of rows from each device. A single row that all share is in every group.
    """
    batch = steps.weight.shape[0]
    shards, groups = _shards(batch, size, devices), math.ceil(batch / size)
    if groups == 1 and batch == size:
        return jax.tree.map(lambda a: a[None], steps)

    def shares(a):
        return jnp.broadcast_to(a, (shards, *a.shape)) if len(a) < batch else a.reshape(shards, -1, *a.shape[1:])

    def rows(a):
        if a.shape[1] == 1 < groups * size // shards:
            return a[:1].repeat(groups, 0)
        return a.reshape(shards, groups, -1, *a.shape[2:]).swapaxes(0, 1).reshape(groups, size, *a.shape[2:])

    return jax.tree.map(rows, pad_rows(jax.tree.map(shares, steps), groups * size // shards, axis=1))


def ungroup_rows(groups: Any, batch: int, devices: int | None = None) -> PyTree:
    """The way back from `group_rows`: arrays [groups, size, ...] to [batch, ...]."""

    def rows(a):
        shards = _shards(batch, a.shape[1], devices)
        shares = a.reshape(a.shape[0], shards, -1, *a.shape[2:]).swapaxes(0, 1).reshape(shards, -1, *a.shape[2:])
        return shares[:, : batch // shards].reshape(batch, *a.shape[2:])

    return jax.tree.map(rows, groups)


def _shards(batch: int, size: int, devices: int | None) -> int:
    shards = shards_of(batch, devices)
    return shards if size % shards == 0 else 1


def shards_of(batch: int, devices: int | None = None) -> int:
    """Over how many of `devices` (None: all there are) a batch is spread: the most that divide it."""
    return max(n for n in range(1, min(batch, devices or jax.device_count()) + 1) if batch % n == 0)
