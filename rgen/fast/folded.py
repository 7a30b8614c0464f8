"""Taps of finished chunks are folded into weights of the sequence's own: for long sequences. All chunks are one compiled body.

One of two ways to keep the past, with the same functions as `kept.py`, which describes them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.memory import Kernel, Memory, Pairs, Taps, inner, outer, product, scaled_taps, stacked
from rgen.fast.rates import Factors


class Past(NamedTuple):
    """The weights that the current chunk begins with."""

    kernel: jax.Array

    @classmethod
    def begin(cls, kernel: Kernel) -> "Past":
        return cls(stacked(kernel))

    @classmethod
    def at_the_end(cls, kernel: Kernel, state: jax.Array, xs: Any) -> "Past":
        return cls(state)

    @property
    def state(self) -> Any:
        return self.kernel

    def folded(self, layer: Layer, factors: Factors) -> jax.Array:
        return self.kernel

    def ready(self) -> "Past":
        return self

    def memory(self, factors: Factors, *more: tuple[Taps, Any], embed: bool = False) -> Memory:
        return Memory((self.kernel,), factors, more, embed)

    def after(self, layer: Layer, factors: Factors, taps: Taps) -> tuple["Past", Taps]:
        return Past(self.kernel - outer(layer.embed, layer.inputs, *scaled_taps(layer.embed, taps, factors))), taps

    def unchanged(self, nothing: "Past") -> "Past":
        return self

    def before(self, layer: Layer, factors: Factors, kept: Taps) -> tuple["Past", Taps]:
        return Past(self.kernel + outer(layer.embed, layer.inputs, *scaled_taps(layer.embed, kept, factors))), kept


class Later(NamedTuple):
    """L itself [H, m, n]."""

    kernel: jax.Array

    @classmethod
    def begin(cls, kernel: Kernel) -> "Later":
        return cls(jnp.zeros_like(stacked(kernel)))

    def owed(self, layer: Layer, tap: Taps) -> tuple[jax.Array, Any]:
        if layer.embed:
            return self.kernel[:, jnp.minimum(tap.x[0, :, 0], layer.inputs - 1)], None
        return product(tap.x, self.kernel), inner(tap.g, self.kernel) if layer.varies else None

    def before(self, layer: Layer, taps: Taps, pairs: Pairs) -> "Later":
        kernel = self.kernel + outer(layer.embed, layer.inputs, taps.x, pairs.h)
        return Later(kernel if pairs.r is None else kernel + outer(False, layer.inputs, pairs.r, taps.g))

    @property
    def state(self) -> Any:
        return self.kernel


def gradient(layer: Layer, state: jax.Array, later: jax.Array) -> jax.Array:
    return later.sum(0)


def all_taps(state: jax.Array, kept: Taps) -> Taps:
    return jax.tree.map(lambda a: jnp.moveaxis(a, 1, 2).reshape(a.shape[0], a.shape[2], -1, a.shape[-1]), kept)


def cut(chunks: int, steps: Any) -> Any:
    return jax.tree.map(lambda a: a.reshape(chunks, -1, *a.shape[1:]), steps)


def joined(pieces: Any) -> Any:
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pieces)


def each(function: Callable, *pieces: Any) -> Any:
    return function(*pieces)


def over_chunks(function: Callable, state: Any, pieces: Any, reverse: bool = False) -> tuple[Any, Any]:
    return jax.lax.scan(function, state, pieces, reverse=reverse)
