"""What a layer's weights were before a chunk, what the steps after it owe them, and the loop over chunks.

Taps of finished chunks are kept, and read again at every step; or, with `Plan.fold`, they are summed up into weights of each sequence,
and taken out again on the way back. Then one compiled body does for all chunks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.memory import Memory, Pairs, Taps, change, owed, pairs_matrix, product_or_rows, row_products, stacked
from rgen.fast.plan import Plan
from rgen.sequence import PyTree


def joined(memory: Memory) -> Memory:
    """The same, to be read at every step of a chunk: few large products cost less than many small ones."""
    if len(memory.taps) < 2:
        return memory
    return memory._replace(taps=(jax.tree.map(lambda *parts: jnp.concatenate(parts, -2), *memory.taps),))


def folded(memory: Memory) -> Memory:
    """The same, with all taps in the kernel."""
    kernel = stacked(memory.kernel)
    for taps in joined(memory).taps:
        kernel = kernel - change(memory, taps)
    return Memory((kernel,), memory.factors)


def after(plan: Plan, memory: Memory, taps: Taps) -> Memory:
    """The memory after a chunk with these taps."""
    longer = memory._replace(taps=(*memory.taps, taps))
    return folded(longer) if plan.fold else longer


def before(plan: Plan, memory: Memory, taps: Taps) -> Memory:
    """The memory before a chunk with these taps."""
    if plan.fold:
        return memory._replace(kernel=(stacked(memory.kernel) + change(memory, taps),))
    return memory._replace(taps=memory.taps[:-1])


class Later(NamedTuple):
    """What the steps after a chunk owe the weights: L, as a matrix [H, M, N] if taps are folded, else as pairs beside those of chunks."""

    matrix: Any = None
    chunks: tuple[tuple[Taps, Pairs], ...] = ()

    def owed(self, layer: Layer, taps: Taps) -> Taps:
        """(g_t L^T, x_t L) for some taps, the former only if their inputs vary."""
        if self.matrix is not None:
            return Taps(row_products(taps.g, self.matrix) if layer.varies else None, product_or_rows(taps.x, (self.matrix,)))
        total = Taps(jnp.zeros_like(taps.x) if layer.varies else None, jnp.zeros_like(taps.g))
        for later, pairs in self.chunks:
            total = jax.tree.map(jnp.add, total, owed(taps, later, pairs))
        return total

    def before(self, layer: Layer, taps: Taps, pairs: Pairs) -> "Later":
        """With a chunk that comes before."""
        if self.matrix is None:
            return Later(None, ((taps, pairs), *self.chunks))
        return Later(self.matrix + pairs_matrix(layer.inputs, taps, pairs))


def over_chunks(plan: Plan, function: Callable, state: PyTree, chunks: PyTree, reverse: bool = False) -> tuple[PyTree, Any]:
    """`function(state, chunk) -> (state, result)` of arrays [chunks, ...]: a scan, or, where the state grows, chunk by chunk."""
    if plan.fold:
        return jax.lax.scan(function, state, chunks, reverse=reverse)
    results: list[Any] = [None] * plan.chunks
    for number in reversed(range(plan.chunks)) if reverse else range(plan.chunks):
        state, results[number] = function(state, nth(chunks, number))
    return state, jax.tree.map(lambda *parts: jnp.stack(parts), *results)


def nth(chunks: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda a: a[number], chunks)


def in_pieces(count: int, steps: PyTree) -> PyTree:
    """Arrays [T, ...] to [count, T / count, ...]."""
    return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), steps)


def by_steps(pieces: Any) -> PyTree:
    """The way back."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pieces)
