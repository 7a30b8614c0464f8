"""One layer of the dual form: what its weights consist of, and what they do, without forming them. docs/dual_form.md derives it.

For a Dense layer with input x_t, output cotangent g_t (of the step's weighted nats), and the rank-one rate a b^T (rows a, columns b; the
bias is the weight of a constant input with the rate c in place of a),

    W_t = W_0 - sum_{s<t} (a x_s)(b g_s)^T          so      x W_t = x W_0 - b sum_{s<t} (a x . x_s + c) g_s
                                                            W_t g = W_0 g - a sum_{s<t} (b g . g_s) x_s

A layer that does not learn in the inner loop is the case a = b = c = 0: its taps are never read.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.rates import Factors
from rgen.fast.taps import Layer


class Block(NamedTuple):
    """Taps: inputs x [S, m] and cotangents g [S, n]; of them those count where `mask` [S] is 1."""

    x: Any  # or None, where it is at hand elsewhere
    g: jax.Array
    mask: jax.Array | None = None


class Memory(NamedTuple):
    """All that the weights of a layer consist of at one moment: those at some earlier moment, and the taps since then.

    A layer that does not learn has neither factors nor blocks.
    """

    kernel: jax.Array
    bias: jax.Array | None
    factors: Factors | None
    blocks: tuple[Block, ...]


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b; where one is in bfloat16 both are rounded to it, and the products summed up in float32."""
    if jnp.bfloat16 not in (a.dtype, b.dtype):
        return a @ b
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jax.lax.platform_dependent(a, b, cpu=_product_of_singles, default=_product_of_halves)


def _product_of_singles(a: jax.Array, b: jax.Array) -> jax.Array:
    """For CPUs, where XLA has not all products of bfloat16."""
    return a.astype(jnp.float32) @ b.astype(jnp.float32)


def _product_of_halves(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def total(taps: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Their sum, in float32 at least."""
    return taps.sum(axis, dtype=jnp.promote_types(taps.dtype, jnp.float32))


def similarity(kind: str, q: jax.Array, x: jax.Array, factors: Factors, one: float) -> jax.Array:
    """How much a tap with input x [S, m] concerns an input q [r, m]: [r, S]."""
    if kind == "embed":
        return (q == x.T).astype(x.dtype)
    return product(q * factors.row, x.T) + one * factors.constant


def forward(kind: str, q: jax.Array, memory: Memory, one: float) -> jax.Array:
    """q W_t, [r, m] to [r, n]; the bias is added `one` times (0 for tangents)."""
    kernel, bias, factors, blocks = memory
    out = kernel[q[:, 0].astype(jnp.int32)] if kind == "embed" else product(q, kernel)
    if bias is not None:
        out = out + one * bias
    if factors is None:
        return out
    change: Any = 0.0
    for x, g, mask in blocks:
        k = similarity(kind, q, x, factors, one)
        change = change + product(k if mask is None else k * mask, g)
    return out - factors.column * change


def backward(g: jax.Array, memory: Memory) -> jax.Array:
    """W_t g of a Dense layer, [r, n] to [r, m]."""
    kernel, _, factors, blocks = memory
    if factors is None:
        return product(g, kernel.T)
    scaled = g * factors.column
    change: Any = 0.0
    for x, taps, mask in blocks:
        k = product(scaled, taps.T)
        change = change + product(k if mask is None else k * mask, x)
    return product(g, kernel.T) - factors.row * change


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def record(kind: str, q: jax.Array, memory: Memory, probe: dict[str, jax.Array]) -> Any:
    """The layer in the forward run. The gradients of its probes are the tap and what `replay` needs to know."""
    return forward(kind, q, memory, 1.0)


def _record_forward(kind, q, memory, probe):
    out = forward(kind, q, memory, 1.0)
    return out, (q, memory, out)


def _record_backward(kind, kept, g):
    q, memory, out = kept
    back = jnp.zeros_like(q) if kind == "embed" else backward(g, memory)
    return back, None, {"x": q, "g": g, "out": out, "back": back}


record.defvjp(_record_forward, _record_backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known(kind: str, value: jax.Array, v: jax.Array, memory: Memory) -> jax.Array:
    """A linear map of `v` whose value is known already, so that only its tangent is computed."""
    return value


@known.defjvp
def _known_tangent(kind, primals, tangents):
    value, _, memory = primals
    _, v, _ = tangents
    if kind == "backward":
        return value, backward(v, memory)
    return value, forward(kind, v, memory, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(kind: str, q: jax.Array, memory: Memory, probe: dict[str, jax.Array]) -> Any:
    """The layer in the reverse sweep: known values, live tangents. Probes x and g are zero; their tangents are V g_t and x_t V."""
    return _replay_forward(kind, q, memory, probe)[0]


def _replay_forward(kind, q, memory, probe):
    out = probe["out"] if kind == "embed" else known(kind, probe["out"], q, memory)
    return out + probe["g"], (q, memory, probe)


def _replay_backward(kind, kept, g):
    q, memory, probe = kept
    back = jnp.zeros_like(q) if kind == "embed" else known("backward", probe["back"], g, memory) + probe["x"]
    zeros = {name: jnp.zeros_like(probe[name]) for name in ("out", "back")}
    return back, None, {"x": q, "g": g, **zeros}


replay.defvjp(_replay_forward, _replay_backward)


def over_heads(function: Any, layer: Layer, in_axes: Any = 0) -> Any:
    """The function for a layer's leading axes."""
    for _ in layer.heads:
        function = jax.vmap(function, in_axes)
    return function


def by_step(layer: Layer, count: int, taps: jax.Array) -> jax.Array:
    """[*heads, S r, k] to [count, *heads, S r / count, k]: by steps, or by parts."""
    taps = taps.reshape(*layer.heads, count, -1, taps.shape[-1])
    return jnp.moveaxis(taps, len(layer.heads), 0)


def by_tap(layer: Layer, steps: jax.Array) -> jax.Array:
    """[S, *heads, r, k] to [*heads, S r, k]."""
    steps = jnp.moveaxis(steps, 0, len(layer.heads))
    return steps.reshape(*layer.heads, -1, steps.shape[-1])


def join(blocks: Any) -> tuple:
    """Taps of successive chunks as those of one, if there are any: few large products cost less than many small ones."""
    return (jax.tree.map(lambda *parts: jnp.concatenate(parts, -2), *blocks),) if blocks else ()


def outer(layer: Layer, x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of x_s g_s^T over taps, [*heads, S, m] and [*heads, S, n] to [*heads, m, n]; for an Embed, x are its row numbers."""

    def one(x, g):
        if layer.kind == "embed":
            return jnp.zeros((layer.inputs, layer.outputs), x.dtype).at[x[:, 0].astype(jnp.int32)].add(g.astype(x.dtype))
        return product(x.T, g)

    return over_heads(one, layer)(x, g)


def contract(layer: Layer, x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of x_s g_s^T over taps AND sequences, [B, *heads, S, m] and [B, *heads, S, n] to [*heads, m, n], as one matrix product."""
    x, g = (jnp.moveaxis(a, 0, -3).reshape(*a.shape[1:-2], -1, a.shape[-1]) for a in (x, g))
    return outer(layer, x, g)


def moved(layer: Layer, kernel: jax.Array, bias: jax.Array, factors: Factors) -> dict[str, jax.Array]:
    """How far taps move the parameters, from the sums of x_s g_s^T [*heads, m, n] and of g_s [*heads, n]."""
    rates = factors.column[..., None, :] * (1.0 if layer.kind == "embed" else factors.row[..., :, None])
    return {"kernel": rates * kernel} | ({"bias": factors.constant[..., None] * factors.column * bias} if layer.bias else {})


def learn(layer: Layer, weights: dict, block: Block, factors: Factors, sign: float = -1.0) -> dict[str, jax.Array]:
    """Weights after the steps of some taps; with sign 1, those before."""
    change = moved(layer, outer(layer, block.x, block.g), total(block.g, -2), factors)
    return {name: weights[name] + sign * change[name] for name in weights}
