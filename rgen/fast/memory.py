"""What a layer's weights consist of, and the two linear reads of them.

With input x_t, output cotangent g_t (of the step's weighted nats) and the rank-one rate a b^T (rows a, columns b), after t steps

    W_t = W_0 - sum_{s<t} (a x_s)(b g_s)^T      so   q W_t   = q W_0   - b sum_{s<t} (a q . x_s) g_s     (read)
                                                     p W_t^T = p W_0^T - a sum_{s<t} (b p . g_s) x_s     (read_back)

The pairs (x_s, g_s) are taps. A bias is the row of a further input that is always 1. Rows of a table are given by their numbers,
integers [H, R, 1]: their product is 1 where they are equal, and their rate is b alone.

Axes in names: B sequences, H heads (which never meet), M inputs, N outputs, S taps, R rows that are read at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.rates import Factors
from rgen.sequence import PyTree

# Blocks [H, M_i, N] of the rows of a kernel, one below the other: so a bias need not be copied to stand below its weight.
Kernel = tuple[jax.Array, ...]


class Taps(NamedTuple):
    """Inputs x [H, S, M], or row numbers [H, S, 1], and output cotangents g [H, S, N]; or what is owed to them (None: nothing)."""

    x: PyTree
    g: jax.Array


class Pairs(NamedTuple):
    """What later steps owe the weights: beside taps (x, g), the sum of x h^T + r g^T. h [H, S, N]; r [H, S, M], or None if it is zero."""

    h: jax.Array
    r: Any


class Memory(NamedTuple):
    """A layer's weights at one moment: those at an earlier moment, and the taps since then.

    Attributes:
      kernel: [H, M, N], in blocks.
      factors: the rates; None if the layer does not learn.
      taps: of several stretches of time, one after the other.
      mask: [1, R or 1, S], which of the last of them count; None: all.
    """

    kernel: Kernel
    factors: Factors | None = None
    taps: tuple[Taps, ...] = ()
    mask: Any = None


def is_lookup(x: jax.Array) -> bool:
    """Whether these are the numbers of rows that are looked up."""
    return jnp.issubdtype(x.dtype, jnp.integer)


def read(memory: Memory, q_HxRxM: jax.Array) -> jax.Array:
    """q W_t [H, R, N]."""
    out_HxRxN = product_or_rows(q_HxRxM, memory.kernel)
    if memory.factors is None or not memory.taps:
        return out_HxRxN
    scaled_HxRxM = scaled_input(q_HxRxM, memory.factors)
    masks = [None] * (len(memory.taps) - 1) + [memory.mask]
    change_HxRxN: Any = 0.0
    for taps, mask in zip(memory.taps, masks):
        dots_HxRxS = dots(scaled_HxRxM, taps.x, taps.g.dtype)
        change_HxRxN = change_HxRxN + product(dots_HxRxS if mask is None else dots_HxRxS * mask, taps.g)
    return out_HxRxN - memory.factors.column[:, None] * change_HxRxN


def read_back(memory: Memory, p_HxRxN: jax.Array) -> jax.Array:
    """p W_t^T [H, R, M]."""
    inputs = sum(block.shape[1] for block in memory.kernel)
    return _transpose(read, memory, jnp.zeros((*p_HxRxN.shape[:2], inputs), p_HxRxN.dtype), p_HxRxN)


def _transpose(function: Callable, memory: Memory, like: jax.Array, h: Any) -> PyTree:
    return jax.vjp(partial(function, memory), like)[1](h)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _already_read(function: Callable, memory: Memory, v: jax.Array, value: jax.Array) -> jax.Array:
    """`function(memory, v)`, a linear read whose value is at hand, so that it costs nothing; only its transpose does.

    The gradient by `value` is the cotangent of the read: with v, this is the pair that it owes the memory.
    """
    return value


_already_read.defvjp(
    lambda function, memory, v, value: (value, (memory, v)),
    lambda function, residuals, h: (None, _transpose(function, residuals[0], residuals[1], h), h),
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recall(function: Callable, memory: Memory, q: jax.Array, out: jax.Array, back: jax.Array) -> jax.Array:
    """A read whose value `out` is at hand, as is `back`, the cotangent of q in the inner loop."""
    return out


recall.defvjp(
    lambda function, memory, q, out, back: (_already_read(function, memory, q, out), (memory, back)),
    lambda function, residuals, g: (
        None,
        _already_read(TRANSPOSE[function], residuals[0], g, residuals[1]),
        jnp.zeros_like(g),
        None,
    ),
)
TRANSPOSE: dict[Callable, Callable] = {read: read_back, read_back: read}


def scaled_input(x_HxSxM: Any, factors: Factors) -> PyTree:
    """a x."""
    return x_HxSxM if is_lookup(x_HxSxM) else x_HxSxM * factors.row[:, None]


def scaled(taps: Taps, factors: Factors) -> Taps:
    """(a x, b g): what is subtracted from the weights is the sum of (a x)(b g)^T."""
    return Taps(None if taps.x is None else scaled_input(taps.x, factors), taps.g * factors.column[:, None])


def dots(q_HxRxM: jax.Array, x_HxSxM: jax.Array, dtype: Any) -> jax.Array:
    """q . x_s of every tap, [H, R, S]."""
    return (q_HxRxM == x_HxSxM.mT).astype(dtype) if is_lookup(q_HxRxM) else row_products(q_HxRxM, x_HxSxM)


def owed(taps: Taps, later: Taps, pairs: Pairs, products: Any = None) -> Taps:
    """What L, the sum of x h^T + r g^T over later taps, gives some taps: (g_t L^T, x_t L), the former None if r is.

    Args:
      products: (x_t . x_s, g_t . g_s), where they are at hand.
    """
    by_x_HxRxS, by_g_HxRxS = products or (dots(taps.x, later.x, taps.g.dtype), None)
    to_g = product(by_x_HxRxS, pairs.h)
    if pairs.r is None:
        return Taps(None, to_g)
    if by_g_HxRxS is None:
        by_g_HxRxS = row_products(taps.g, later.g)
    to_g = to_g + product(row_products(taps.x, pairs.r), later.g)
    return Taps(product(row_products(taps.g, pairs.h), later.x) + product(by_g_HxRxS, pairs.r), to_g)


def product_or_rows(q_HxRxM: jax.Array, kernel: Kernel) -> jax.Array:
    """q times a kernel [H, R, N]; of numbers beyond its rows, the last."""
    if is_lookup(q_HxRxM):
        (table,) = kernel
        return table[:, jnp.minimum(q_HxRxM[0, :, 0], table.shape[1] - 1)]
    weight, *bias = kernel
    inputs = weight.shape[1]
    out = product(q_HxRxM[..., :inputs], weight)
    return out + product(q_HxRxM[..., inputs:], bias[0]) if bias else out


def stacked(kernel: Kernel) -> jax.Array:
    """[H, M, N], as one array."""
    return kernel[0] if len(kernel) == 1 else jnp.concatenate(kernel, 1)


def outer(rows: int, x_HxSxM: jax.Array, g_HxSxN: jax.Array) -> jax.Array:
    """The sum of x_s g_s^T [H, M, N]; of rows that are looked up, in a table of so many."""
    if is_lookup(x_HxSxM):
        return jnp.zeros((1, rows, g_HxSxN.shape[-1]), g_HxSxN.dtype).at[0, x_HxSxM[0, :, 0]].add(g_HxSxN[0], mode="drop")
    return column_products(x_HxSxM, g_HxSxN)


def change(memory: Memory, taps: Taps) -> jax.Array:
    """What taps take from a layer's kernel [H, M, N]."""
    assert memory.factors is not None
    return outer(memory.kernel[0].shape[1], *scaled(taps, memory.factors))


def pairs_matrix(rows: int, taps: Taps, pairs: Pairs) -> jax.Array:
    """The sum of x h^T + r g^T over taps [H, M, N]."""
    matrix = outer(rows, taps.x, pairs.h)
    return matrix if pairs.r is None else matrix + column_products(pairs.r, taps.g)


def per_layer(function: Callable, first: dict[int, Any], *others: dict[int, Any]) -> dict[int, Any]:
    """`function` of what several dicts have of each layer in the first: number of a leaf -> result."""
    return {leaf: function(value, *(other[leaf] for other in others)) for leaf, value in first.items()}


def by_step(count: int, taps_HxSxK: jax.Array) -> jax.Array:
    """[count, H, S / count, K]: by steps, or by longer stretches of time."""
    return jnp.moveaxis(taps_HxSxK.reshape(taps_HxSxK.shape[0], count, -1, taps_HxSxK.shape[-1]), 1, 0)


def by_tap(steps_TxHxRxK: jax.Array) -> jax.Array:
    """The way back, [H, T R, K]; or [H, B S, K]: the taps of all sequences as those of one."""
    return jnp.moveaxis(steps_TxHxRxK, 0, 1).reshape(steps_TxHxRxK.shape[1], -1, steps_TxHxRxK.shape[-1])


def product(a_HxRxS: jax.Array, b_HxSxK: jax.Array) -> jax.Array:
    """a b [H, R, K]."""
    return _product(a_HxRxS, b_HxSxK, 2, 1)


def row_products(a_HxRxK: jax.Array, b_HxSxK: jax.Array) -> jax.Array:
    """a b^T [H, R, S]: of every two rows."""
    return _product(a_HxRxK, b_HxSxK, 2, 2)


def column_products(a_HxSxM: jax.Array, b_HxSxN: jax.Array) -> jax.Array:
    """a^T b [H, M, N]: of every two columns."""
    return _product(a_HxSxM, b_HxSxN, 1, 1)


def _product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    if a.shape[0] > 1:
        return jax.lax.dot_general(a, b, (((over_a,), (over_b,)), ((0,), (0,))))
    # XLA computes a matrix product where it stands only if no axis of size 1 is in its way
    return jax.lax.dot_general(a[0], b[0], (((over_a - 1,), (over_b - 1,)), ((), ())))[None]
