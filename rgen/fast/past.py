"""What a layer's weights were before a chunk, what the steps after it owe them, and the loop over chunks.

Taps of finished chunks are kept, and read again at every step; or, with `Plan.fold`, they are summed up into weights of the sequence's own,
and taken out again on the way back. Then chunks are all alike, and one compiled body.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.memory import Kernel, Memory, Pairs, Taps, inner, outer, owed, pairs_matrix, product, scaled_taps, stacked
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors


class Past(NamedTuple):
    """The weights before a chunk: those of an earlier moment, and the taps of the chunks since (none if they are folded)."""

    kernel: Kernel
    taps: tuple[Taps, ...] = ()

    def memory(self, factors: Factors, *more: tuple[Taps, Any], embed: bool = False) -> Memory:
        """What the weights consist of; `more`: taps of the current chunk, and which of them count."""
        return Memory(self.kernel, factors, (*((taps, None) for taps in self.taps), *more), embed)

    def weights(self, layer: Layer, factors: Factors) -> jax.Array:
        """The kernel with all taps in it."""
        return stacked(self.kernel) - change(layer, factors, joined(self.taps)) if self.taps else stacked(self.kernel)

    def joined(self) -> "Past":
        """The same, to be read at every step of a chunk: few large products cost less than many small ones."""
        return Past(self.kernel, (joined(self.taps),) if self.taps else ())

    def after(self, fold: bool, layer: Layer, factors: Factors, taps: Taps) -> "Past":
        """The past after a chunk with these taps."""
        kept = Past(self.kernel, (*self.taps, taps))
        return Past((kept.weights(layer, factors),)) if fold else kept

    def before(self, fold: bool, layer: Layer, factors: Factors, taps: Taps) -> "Past":
        """The past before a chunk with these taps."""
        return Past((self.kernel[0] + change(layer, factors, taps),)) if fold else Past(self.kernel, self.taps[:-1])


class Later(NamedTuple):
    """What the steps after a chunk owe the weights: L, as pairs beside the taps of chunks, or as the matrix [H, m, n] if they are folded."""

    kernel: Any = None
    chunks: tuple[tuple[Taps, Pairs], ...] = ()

    def owed(self, layer: Layer, tap: Taps) -> tuple[Any, Any]:
        """(x_t L, g_t L^T) for some taps, the latter only if they vary."""
        found = [owed(layer.embed, tap, None, taps, pairs) for taps, pairs in self.chunks]
        if self.kernel is not None and layer.embed:
            found = [(self.kernel[:, jnp.minimum(tap.x[0, :, 0], layer.inputs - 1)], None)]
        elif self.kernel is not None:
            found = [(product(tap.x, self.kernel), inner(tap.g, self.kernel) if layer.varies else None)]
        nothing = jnp.zeros_like(tap.g), jnp.zeros_like(tap.x) if layer.varies else None
        return jax.tree.map(lambda *parts: sum(parts), nothing, *found)

    def before(self, layer: Layer, taps: Taps, pairs: Pairs) -> "Later":
        """With a chunk that comes before."""
        if self.kernel is None:
            return Later(None, ((taps, pairs), *self.chunks))
        return Later(self.kernel + pairs_matrix(layer, taps, pairs))


def change(layer: Layer, factors: Factors, taps: Taps) -> jax.Array:
    """What taps take from a layer's kernel [H, m, n]."""
    return outer(layer.embed, layer.inputs, *scaled_taps(layer.embed, taps, factors))


def joined(chunks: tuple[Taps, ...]) -> Taps:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, -2), *chunks)


def over_chunks(plan: Plan, function: Callable, state: Any, pieces: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`function(state, piece) -> (state, result)` of arrays [chunks, ...]: a scan, or, where the state grows, chunk by chunk."""
    if plan.fold:
        return jax.lax.scan(function, state, pieces, reverse=reverse)
    results: list[Any] = [None] * plan.chunks
    for i in reversed(range(plan.chunks)) if reverse else range(plan.chunks):
        state, results[i] = function(state, jax.tree.map(lambda a, i=i: a[i], pieces))
    return state, jax.tree.map(lambda *parts: jnp.stack(parts), *results)


def by_chunk(plan: Plan, steps: Any) -> Any:
    """Arrays [T, ...] to [chunks, C, ...]."""
    return jax.tree.map(lambda a: a.reshape(plan.chunks, -1, *a.shape[1:]), steps)


def by_steps(pieces: Any) -> Any:
    """The way back."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pieces)
