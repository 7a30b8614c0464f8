"""Taps of finished chunks are kept, and read again at every step.

One of two ways to keep the past, with the same functions; `folded.py` is the other. Chunks are compiled one by one: taps of those that are
finished are constants of the current one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.memory import Kernel, Memory, Pairs, Taps, outer, owed, pairs_gradient, scaled_taps, stacked
from rgen.fast.rates import Factors


class Past(NamedTuple):
    """What a layer has learned before the current chunk: its initial kernel, and the taps of the chunks since."""

    kernel: Kernel
    chunks: tuple[Taps, ...]

    @classmethod
    def begin(cls, kernel: Kernel) -> "Past":
        return cls(kernel, ())

    @classmethod
    def at_the_end(cls, kernel: Kernel, state: tuple[Taps, ...], xs: Any) -> "Past":
        """The way back from `state`; `xs`: foreseen inputs [H, C r, m] of the chunks, or None."""
        return cls(kernel, state if xs is None else tuple(taps._replace(x=x) for taps, x in zip(state, xs)))

    @property
    def state(self) -> Any:
        """What is different for every sequence, to be restored."""
        return self.chunks

    def folded(self, layer: Layer, factors: Factors) -> jax.Array:
        """The kernel with all taps in it."""
        return stacked(self.kernel) - outer(layer.embed, layer.inputs, *scaled_taps(layer.embed, join(self.chunks), factors))

    def ready(self) -> "Past":
        """The same, to be read at every step of a chunk: few large products cost less than many small ones."""
        return Past(self.kernel, (join(self.chunks),) if self.chunks else ())

    def memory(self, factors: Factors, *more: tuple[Taps, Any], embed: bool = False) -> Memory:
        """What the weights consist of; `more`: taps of the current chunk, and which of them count."""
        return Memory(self.kernel, factors, (*((taps, None) for taps in self.chunks), *more), embed)

    def after(self, layer: Layer, factors: Factors, taps: Taps) -> tuple["Past", Any]:
        """(the past after a chunk, what of the chunk has to be kept besides)."""
        return Past(self.kernel, (*self.chunks, taps)), ()

    def unchanged(self, nothing: "Past") -> "Past":
        """The past after a chunk that taught nothing, from one of zeros."""
        return Past(self.kernel, (*self.chunks, nothing.chunks[-1]))

    def before(self, layer: Layer, factors: Factors, kept: Any) -> tuple["Past", Taps]:
        """The way back over a chunk: (the past before it, its taps)."""
        return Past(self.kernel, self.chunks[:-1]), self.chunks[-1]


class Later(NamedTuple):
    """What the steps after the current chunk owe a layer's weights: L, as pairs beside the taps of chunks."""

    chunks: tuple[tuple[Taps, Pairs], ...]

    @classmethod
    def begin(cls, kernel: Kernel) -> "Later":
        return cls(())

    def owed(self, layer: Layer, tap: Taps) -> tuple[Any, Any]:
        """(x_t L, g_t L^T) for some taps, the latter only if they vary."""
        nothing = jnp.zeros_like(tap.g), jnp.zeros_like(tap.x) if layer.varies else None
        products = [owed(layer.embed, tap, None, taps, pairs) for taps, pairs in self.chunks]
        return jax.tree.map(lambda *parts: sum(parts), nothing, *products)

    def before(self, layer: Layer, taps: Taps, pairs: Pairs) -> "Later":
        """With a chunk that comes before."""
        return Later(((taps, pairs), *self.chunks))

    @property
    def state(self) -> Any:
        """What `gradient` needs of all chunks."""
        return tuple(pairs for _, pairs in self.chunks)


def gradient(layer: Layer, state: tuple[Taps, ...], later: tuple[Pairs, ...]) -> jax.Array:
    """The derivative by the kernel [H, m, n], summed up over sequences: states [B, ...] after and before all chunks."""
    return sum((pairs_gradient(layer, taps, pairs) for taps, pairs in zip(state, later)), jnp.zeros(()))


def all_taps(state: tuple[Taps, ...], kept: Any) -> Taps:
    """Taps of all steps [B, H, T r, ...], from a state of the `Past` and what is kept besides."""
    return join(state)


def join(chunks: tuple[Taps, ...]) -> Taps:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, -2), *chunks)


def cut(chunks: int, steps: Any) -> list:
    """Arrays [T, ...] by chunks."""
    parts = jax.tree.map(lambda a: a.reshape(chunks, -1, *a.shape[1:]), steps)
    return [jax.tree.map(lambda a, i=i: a[i], parts) for i in range(chunks)]


def joined(pieces: list) -> Any:
    """The way back."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)


def each(function: Callable, *pieces: list) -> list:
    """`function` of every chunk's pieces."""
    return [function(*parts) for parts in zip(*pieces)]


def over_chunks(function: Callable, state: Any, pieces: list, reverse: bool = False) -> tuple[Any, list]:
    """`function(state, piece) -> (state, result)` of chunk after chunk: (last state, results in the order of time)."""
    results = [None] * len(pieces)
    for i in reversed(range(len(pieces))) if reverse else range(len(pieces)):
        state, results[i] = function(state, pieces[i])
    return state, results
