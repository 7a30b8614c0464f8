"""Batches of sequences: mapped over, padded, cut into groups and spread over devices."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROWS = "rows"  # the mapped axis of a batch's sequences


def over_sequences(function: Callable, steps: Any, *more: Any) -> Any:
    """Maps a function of ONE sequence, and of its rows of `more`, over the rows of a NamedTuple of arrays [B, T, ...].

    Inputs x [1, T, ...] that all share are not copied, so what is computed from them alone is computed once.
    """
    if steps.x.shape[0] == steps.weight.shape[0]:
        return jax.vmap(function, axis_name=ROWS)(steps, *more)
    shared, own = steps.x[0], steps._replace(x=None)
    return jax.vmap(lambda own, *more: function(own._replace(x=shared), *more), axis_name=ROWS)(own, *more)


def pad_rows(steps: Any, size: int, axis: int = 0) -> Any:
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


def group_rows(steps: Any, size: int, devices: int | None = None) -> Any:
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


def ungroup_rows(groups: Any, batch: int, devices: int | None = None) -> Any:
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
