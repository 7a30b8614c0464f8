"""What a layer's weights consist of, and the two linear reads of them.

With input x_t, output cotangent g_t (of the step's weighted nats) and the rank-one rate a b^T (rows a, columns b), after t steps

    W_t = W_0 - sum_{s<t} (a x_s)(b g_s)^T          so      q W_t   = q W_0   - b sum_{s<t} (a q . x_s) g_s         (read)
                                                            p W_t^T = p W_0^T - a sum_{s<t} (b p . g_s) x_s         (read_back)

The pairs (x_s, g_s) are taps. A bias is the row of a further input that is always 1. Each read is the other's transpose, and JAX is what
transposes it. Arrays have leading heads H, which never meet: x [H, S, m], g [H, S, n], kernel [H, m, n], in blocks of rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.rates import Factors

# Blocks [H, m_i, n] of the rows of a kernel, one below the other: so a bias need not be copied to stand below its weight.
Kernel = tuple[jax.Array, ...]


def stacked(kernel: Kernel) -> jax.Array:
    """[H, m, n], as one array."""
    return kernel[0] if len(kernel) == 1 else jnp.concatenate(kernel, 1)


class Taps(NamedTuple):
    """Inputs x [H, S, m] (of rows that are looked up, their numbers [H, S, 1]) and output cotangents g [H, S, n]."""

    x: Any  # or None, where it is at hand elsewhere
    g: jax.Array


class Pairs(NamedTuple):
    """What later steps owe the weights: beside taps (x, g), the sum of x h^T + r g^T. h [H, S, n]; r [H, S, m], or None if it is zero."""

    h: jax.Array
    r: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    """All that the weights of a layer consist of at one moment: those at some earlier moment, and the taps since then.

    Attributes:
      factors: the rates; None if the layer does not learn.
      taps: with each a mask [1, r or 1, S] of those that count; None: all.
      embed: whether rows are looked up.
    """

    kernel: Kernel
    factors: Factors | None
    taps: tuple[tuple[Taps, jax.Array | None], ...]
    embed: bool = field(metadata={"static": True})


def read(memory: Memory, q: jax.Array) -> jax.Array:
    """q W_t: [H, r, m] to [H, r, n]."""
    out = _initially(memory, q)
    if memory.factors is None or not memory.taps:
        return out
    change: Any = 0.0
    for (x, g), mask in memory.taps:
        alike = similarity(memory.embed, scaled_input(memory.embed, q, memory.factors), x, g.dtype)
        change = change + product(alike if mask is None else alike * mask, g)
    return out - memory.factors.column[:, None] * change


def _initially(memory: Memory, q: jax.Array) -> jax.Array:
    if memory.embed:
        (table,) = memory.kernel
        return table[:, jnp.minimum(q[0, :, 0], table.shape[1] - 1)]
    ends = list(accumulate(block.shape[1] for block in memory.kernel))
    return reduce(jnp.add, (product(q[..., end - block.shape[1] : end], block) for end, block in zip(ends, memory.kernel)))


def read_back(memory: Memory, p: jax.Array) -> jax.Array:
    """p W_t^T: [H, r, n] to [H, r, m]."""
    return _transposed(read, memory, jnp.zeros((*p.shape[:2], sum(block.shape[1] for block in memory.kernel)), p.dtype))(p)


def _transposed(function: Callable, memory: Memory, like: jax.Array) -> Callable:
    return lambda h: jax.vjp(partial(function, memory), like)[1](h)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _known(function: Callable, memory: Memory, v: jax.Array, value: jax.Array) -> jax.Array:
    """`function(memory, v)`, a linear read whose value is known, so that it costs nothing; only its transpose does.

    The gradient by `value` is the cotangent of the read: with v, this is the pair that it owes the memory.
    """
    return value


_known.defvjp(
    lambda function, memory, v, value: (value, (memory, v)),
    lambda function, kept, h: (None, _transposed(function, *kept)(h), h),
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recall(function: Callable, memory: Memory, q: jax.Array, out: jax.Array, back: jax.Array) -> jax.Array:
    """A linear read (`read` or `read_back`) of which both are known: the value `out`, and the cotangent of q in the inner loop, `back`."""
    return out


recall.defvjp(
    lambda function, memory, q, out, back: (_known(function, memory, q, out), (memory, back)),
    lambda function, kept, g: (None, _known(TRANSPOSE[function], kept[0], g, kept[1]), jnp.zeros_like(g), None),
)
TRANSPOSE: dict[Callable, Callable] = {read: read_back, read_back: read}


def scaled_input(embed: bool, x: Any, factors: Factors) -> Any:
    """a x; a row that is looked up has the rate of the column alone."""
    return x if embed or x is None else x * factors.row[:, None]


def scaled_taps(embed: bool, taps: Taps, factors: Factors) -> Taps:
    """(a x, b g): the weights become W - sum of (a x)(b g)^T."""
    return Taps(scaled_input(embed, taps.x, factors), taps.g * factors.column[:, None])


def similarity(embed: bool, q: jax.Array, x: jax.Array, dtype: Any) -> jax.Array:
    """q . x_s of every tap, [H, r, m] and [H, S, m] to [H, r, S]."""
    return (q == x.mT).astype(dtype) if embed else inner(q, x)


def owed(embed: bool, tap: Taps, alike: Any, later: Taps, pairs: Pairs) -> tuple[jax.Array, Any]:
    """Of the sum L of x h^T + r g^T over later taps: (x_t L, g_t L^T) for some taps x_t, g_t, of which the latter only if they vary.

    Args:
      alike: (x_t . x_s, g_t . g_s), if these are known.
    """
    by_x, by_g = alike if alike is not None else (similarity(embed, tap.x, later.x, tap.g.dtype), None)
    v = product(by_x, pairs.h)
    if pairs.r is None:
        return v, None
    by_g = inner(tap.g, later.g) if by_g is None else by_g
    v = v + product(inner(tap.x, pairs.r), later.g)
    return v, product(inner(tap.g, pairs.h), later.x) + product(by_g, pairs.r)


def outer(embed: bool, rows: int, x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of x_s g_s^T, [H, S, m] and [H, S, n] to [H, m, n]; of rows that are looked up, to a table of so many."""
    if embed:
        return jnp.zeros((1, rows, g.shape[-1]), g.dtype).at[0, x[0, :, 0]].add(g[0], mode="drop")
    return across(x, g)


def over_batch(taps: jax.Array) -> jax.Array:
    """[B, H, S, k] to [H, B S, k]."""
    return jnp.moveaxis(taps, 0, 1).reshape(taps.shape[1], -1, taps.shape[-1])


def pairs_matrix(layer: Any, taps: Taps, pairs: Pairs) -> jax.Array:
    """Sum of x h^T + r g^T over taps, [H, S, .] to [H, m, n]."""
    kernel = outer(layer.embed, layer.inputs, taps.x, pairs.h)
    return kernel if pairs.r is None else kernel + across(pairs.r, taps.g)


def by_step(count: int, taps: jax.Array) -> jax.Array:
    """[H, S r, k] to [count, H, S r / count, k]: by steps, or by parts."""
    return jnp.moveaxis(taps.reshape(taps.shape[0], count, -1, taps.shape[-1]), 1, 0)


def by_tap(steps: jax.Array) -> jax.Array:
    """[S, H, r, k] to [H, S r, k]."""
    return jnp.moveaxis(steps, 0, 1).reshape(steps.shape[1], -1, steps.shape[-1])


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b: [H, r, k] and [H, k, n] to [H, r, n]."""
    return _dot(a, b, (2, 1))


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b^T, the dot products of rows: [H, r, k] and [H, s, k] to [H, r, s]."""
    return _dot(a, b, (2, 2))


def across(a: jax.Array, b: jax.Array) -> jax.Array:
    """a^T b, summed up over rows: [H, s, m] and [H, s, n] to [H, m, n]."""
    return _dot(a, b, (1, 1))


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Head by head, over these axes; where one is in bfloat16 both are rounded to it, and the products summed up in float32."""
    return _halves(axes, a, b) if jnp.bfloat16 in (a.dtype, b.dtype) else _matmul(a, b, axes)


def _matmul(a: jax.Array, b: jax.Array, axes: tuple[int, int], into: Any = None) -> jax.Array:
    over, heads = ((axes[0],), (axes[1],)), ((0,), (0,))
    if a.shape[0] > 1:
        return jax.lax.dot_general(a, b, (over, heads), preferred_element_type=into)
    # XLA computes a matrix product where it stands only if no axis of size 1 is in its way
    a, b, over = a.reshape(a.shape[1:]), b.reshape(b.shape[1:]), ((axes[0] - 1,), (axes[1] - 1,))
    return jax.lax.dot_general(a, b, (over, ((), ())), preferred_element_type=into)[None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _halves(axes: tuple[int, int], a: jax.Array, b: jax.Array) -> jax.Array:
    def singles(a, b):  # for CPUs, where XLA has not all products of bfloat16
        return _matmul(a.astype(jnp.float32), b.astype(jnp.float32), axes)

    def halves(a, b):
        return _matmul(a, b, axes, jnp.float32)

    return jax.lax.platform_dependent(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), cpu=singles, default=halves)


_BACK: dict[tuple[int, int], Callable] = {
    (2, 1): lambda a, b, h: (inner(h, b), across(a, h)),
    (2, 2): lambda a, b, h: (product(h, b), across(h, a)),
    (1, 1): lambda a, b, h: (inner(b, h), product(a, h)),
}
_halves.defvjp(
    lambda axes, a, b: (_halves(axes, a, b), (a, b)),
    lambda axes, operands, h: tuple(by.astype(a.dtype) for by, a in zip(_BACK[axes](*operands, h), operands)),
)
