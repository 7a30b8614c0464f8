"""What strangers bring: networks that use their weights in any way JAX and its libraries allow. Both forms give the same numbers.

All are tiny: 6 places, 3 symbols, widths of 2 to 6. With some stands which weights the dual form takes over at least. Of the others it
may carry any as ordinary fast weights.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from problems import adapt, first_order_maml, maml, reptile, sample
from test_loop import close, norm

from rgen.fast import Dual, Function, InnerLoop, Params, check
from rgen.likelihood import Categorical
from rgen.sequence import Prediction, Sequence

PLACES, SYMBOLS = 6, 3
FORMS = {
    "kept": Dual(chunk=4, fold=False, every_layer=True),
    "folded": Dual(chunk=4, fold=True, micro_batch=1, every_layer=True),
    "chosen": Dual(),
}
X = np.array([[0, 1, 2, 1, 4, 5, 0], [5, 4, 3, 3, 1, 0, 2]])  # some places come twice


class Stranger(NamedTuple):
    """A network and how it learns.

    Attributes:
      taken: names of weights that the dual form takes over at least, if it is to take over all it can.
      own: whether parameters keep the types they are drawn in, instead of being float64.
      numbers: whether inputs are pairs of numbers instead of places.
    """

    network: Any
    taken: frozenset[str]
    kind: str
    fast: tuple[str, ...] | None
    own: bool
    numbers: bool
    rtol: float


STRANGERS: dict[str, Stranger] = {}


def stranger(taken: str = "", kind: str = "rank-one", fast=None, own=False, numbers=False, rtol: float = 1e-10, name: str = "") -> Any:
    """Puts a module's class, or a Function, among the strangers, by its name."""

    def add(network: Any) -> Any:
        key = name or (network.__name__ if isinstance(network, type) else network.apply.__name__)
        assert key not in STRANGERS
        made = network() if isinstance(network, type) else network
        STRANGERS[key] = Stranger(made, frozenset(taken.split()), kind, fast, own, numbers, rtol)
        return network

    return add


def drawn(shapes: Any) -> Callable:
    """How a Function draws weights of these shapes, a tree whose leaves are tuples of integers."""

    def shape(node):
        return type(node) is tuple and all(isinstance(size, int) for size in node)

    def init(key, x):
        leaves, tree = jax.tree.flatten(shapes, is_leaf=shape)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(tree, [jax.random.normal(k, leaf) / 2 for k, leaf in zip(keys, leaves)])

    return init


def weights(shapes: Any) -> Callable:
    """Makes a function (weights, input) -> logits a Function."""
    return lambda apply: Function(drawn(shapes), apply)


def behind(**shapes: Any) -> Callable:
    """Makes one a Function that reads an embedding of the place, 4 numbers, instead of the input."""

    def function(body):
        def apply(p, x):
            return body(p, p["table"][x])

        apply.__name__ = body.__name__
        return Function(drawn({"table": (PLACES, 4)} | shapes), apply)

    return function


def layer(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def layers(count: int, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (count, inputs, outputs), "bias": (count, outputs)}


def dense(p: Any, h: Any) -> Any:
    return h @ p["kernel"] + p["bias"]


OUT = layer(4, SYMBOLS)


# ---------------------------------------------------------------- Linen: the same layer for several rows, or several times


@stranger("Embed_0/embedding VmapDense_0/kernel Dense_0/kernel")
class Rows(nn.Module):
    """The same Dense for three rows."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 6)(x).reshape(3, 2)
        each = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
        return nn.Dense(3)(jnp.tanh(each(3)(h)).reshape(-1))


class Again(nn.Module):
    @nn.compact
    def __call__(self, h, _=None):
        return jnp.tanh(nn.Dense(4)(h)), None


@stranger("Embed_0/embedding Dense_0/kernel", kind="per-array")
class Times(nn.Module):
    """The same Dense three times in a row."""

    @nn.compact
    def __call__(self, x):
        again = nn.scan(Again, variable_broadcast="params", split_rngs={"params": False}, length=3)
        return nn.Dense(3)(again()(nn.Embed(6, 4)(x), None)[0])


@stranger("Embed_0/embedding Dense_0/kernel")
class Recurrent(nn.Module):
    """Over the parts of one input."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.SimpleCell(3, param_dtype=float))(nn.Embed(6, 6)(x).reshape(3, 2))[-1])


@stranger("Embed_0/embedding Dense_0/kernel", kind="fixed")
class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.GRUCell(3, param_dtype=float))(nn.Embed(6, 4)(x).reshape(2, 2))[-1])


@stranger("Embed_0/embedding Dense_0/kernel")
class Long(nn.Module):
    """Its cell puts kernels side by side before it multiplies."""

    @nn.compact
    def __call__(self, x):
        cell = nn.OptimizedLSTMCell(2, param_dtype=float)  # else its state begins in float32
        return nn.Dense(3)(nn.RNN(cell, reverse=True)(nn.Embed(6, 4)(x).reshape(2, 2))[-1])


@stranger("VmapEmbed_0/embedding Dense_0/kernel")
class Lookups(nn.Module):
    """The same Embed for several places, one of which may come twice."""

    @nn.compact
    def __call__(self, x):
        each = nn.vmap(nn.Embed, variable_axes={"params": None}, split_rngs={"params": False})
        return nn.Dense(3)(jnp.tanh(each(6, 3)(jnp.stack([x, 5 - x, x // 2]))).reshape(-1))


PARTS_ONLY: Any = (0, None)  # of two arguments, only the first has parts


class Block(nn.Module):
    @nn.compact
    def __call__(self, h, _=None):
        return h + jnp.tanh(nn.Dense(4)(h)), None


@stranger("Embed_0/embedding Dense_0/kernel")
class Deep(nn.Module):
    """Layers of their own weights, scanned over."""

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(blocks()(nn.Embed(6, 4)(x), None)[0])


# ---------------------------------------------------------------- Linen: gradients of their own


@stranger("Embed_0/embedding Dense_1/kernel Dense_2/kernel")
class Gate(nn.Module):
    """Has a gate that is not trained through: Dense_0 learns nothing."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4)(x)
        gate = lax.stop_gradient(nn.sigmoid(nn.Dense(4)(h)))
        return nn.Dense(3)(jnp.tanh(nn.Dense(4)(h)) * gate)


@stranger("Embed_0/embedding Dense_0/kernel Dense_1/kernel", kind="per-array")
class StraightThrough(nn.Module):
    """Hard units with the soft ones' gradient."""

    @nn.compact
    def __call__(self, x):
        soft = jnp.tanh(nn.Dense(4)(nn.Embed(6, 4)(x)))
        return nn.Dense(3)(soft + lax.stop_gradient(jnp.sign(soft) - soft))


@stranger("Embed_0/embedding Dense_1/kernel")
class Slope(nn.Module):
    """Logits from the slope of a learned energy."""

    @nn.compact
    def __call__(self, x):
        energy, pull = nn.vjp(lambda dense, h: jnp.tanh(dense(h)).sum(), nn.Dense(5), nn.Embed(6, 4)(x))
        return nn.Dense(3)(pull(jnp.ones_like(energy))[1])


@stranger("Embed_0/embedding Dense_1/kernel")
class Pushed(nn.Module):
    """Logits from a derivative along a direction."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4)(x)
        pushed: Any = nn.jvp(lambda dense, h: jnp.tanh(dense(h)), nn.Dense(5), (h,), (jnp.cos(h),), {})
        return nn.Dense(3)(pushed[1])


# ---------------------------------------------------------------- Linen: weights that are not what they seem


@stranger("Embed_0/embedding Dense_0/kernel")
class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.tanh(nn.WeightNorm(nn.Dense(5))(nn.Embed(6, 4)(x))))


@stranger("Embed_0/embedding Dense_0/kernel")
class Boxed(nn.Module):
    """A kernel in a box that says how it is spread over devices."""

    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(3)(jnp.tanh(nn.Dense(5, kernel_init=init)(nn.Embed(6, 4)(x))))


@stranger(own=True, rtol=0.05)
class Half(nn.Module):
    """XLA may keep more digits of a bfloat16 than it has to, in either form."""

    @nn.compact
    def __call__(self, x):
        half: Any = {"param_dtype": jnp.bfloat16}
        return nn.Dense(3, **half)(nn.tanh(nn.Dense(5, **half)(nn.Embed(6, 4, **half)(x))))


@stranger(own=True, rtol=0.05)
class HalfEmbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(nn.Embed(6, 4, param_dtype=jnp.bfloat16)(x))))


@stranger("Embed_0/embedding Dense_0/kernel", rtol=1e-5)
class Single(nn.Module):
    """One layer computes in float32, whatever its weights are."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.tanh(nn.Dense(5, dtype=jnp.float32)(nn.Embed(6, 4)(x)).astype(float)))


@stranger("Embed_0/embedding Dense_0/kernel")
class Precise(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.tanh(nn.Dense(5, precision=lax.Precision.HIGHEST)(nn.Embed(6, 4)(x))))


@stranger("Embed_0/embedding Dense_0/kernel Dense_1/kernel")
class ByKeyword(nn.Module):
    """The same layer twice, once by keyword."""

    @nn.compact
    def __call__(self, x):
        again = nn.Dense(4)
        return nn.Dense(3)(again(inputs=jnp.tanh(again(nn.Embed(6, 4)(x)))))


@stranger("Embed_0/embedding Dense_0/kernel")
class ItsKernel(nn.Module):
    """Reads its Dense's kernel and uses it the other way round."""

    @nn.compact
    def __call__(self, x):
        d = nn.Dense(4)
        h = jnp.tanh(d(nn.Embed(6, 3)(x)))
        return h @ d.variables["params"]["kernel"].T


@stranger("Dense_0/kernel")
class TiedEmbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(6, 3)
        return embed.attend(jnp.tanh(nn.Dense(3)(embed(x))))[:3]


@stranger("Embed_0/embedding Dense_0/kernel")
class Mapped(nn.Module):
    """A Dense whose weights are the sines of its parameters."""

    @nn.compact
    def __call__(self, x):
        mapped: Any = nn.map_variables(nn.Dense, "params", partial(jax.tree.map, jnp.sin), init=True)
        return nn.Dense(3)(jnp.tanh(mapped(4)(nn.Embed(6, 4)(x))))


@stranger("Embed_0/embedding Dense_0/kernel")
class Scales(nn.Module):
    """What is neither a kernel nor a table: scales and a bias of norms, slopes."""

    @nn.compact
    def __call__(self, x):
        h = nn.GroupNorm(2)(nn.LayerNorm()(nn.Embed(6, 4)(x)))
        return nn.Dense(3)(nn.PReLU()(nn.RMSNorm()(h) - 0.1))


# ---------------------------------------------------------------- Linen: lifted transforms, one in another


@stranger("Embed_0/embedding Dense_0/kernel")
class Lifted(nn.Module):
    """Own weights for each part, computed again for its derivative, and compiled by itself."""

    @nn.compact
    def __call__(self, x):
        each = nn.vmap(nn.remat(nn.jit(Again)), variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=PARTS_ONLY)
        return nn.Dense(3)(each()(nn.Embed(6, 8)(x).reshape(2, 4), None)[0].reshape(-1))


@stranger("Embed_0/embedding Dense_0/kernel")
class ScanOfVmap(nn.Module):
    """Twice in a row, each time with its own weights for each part."""

    @nn.compact
    def __call__(self, x):
        each = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=PARTS_ONLY)
        blocks = nn.scan(each, variable_axes={"params": 1}, split_rngs={"params": True}, length=2)
        return nn.Dense(3)(blocks()(nn.Embed(6, 8)(x).reshape(2, 4), None)[0].reshape(-1))


@stranger("Embed_0/embedding Dense_0/kernel")
class RematScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        again = nn.scan(nn.remat(Block, prevent_cse=False), variable_broadcast="params", split_rngs={"params": False}, length=2)
        return nn.Dense(3)(nn.jit(again)()(nn.Embed(6, 4)(x), None)[0])


@stranger("Embed_0/embedding Dense_0/kernel")
class Branches(nn.Module):
    """One of two layers, by what was learned; then one of three, by the place. In each some weights are not used."""

    @nn.compact
    def __call__(self, x):
        h, place = nn.Embed(6, 4)(x), nn.Embed(6, 4)(x)
        yes, no, *rest = each = [nn.Dense(4, name=f"branch_{i}") for i in range(5)]
        if self.is_initializing():
            for branch in each:
                branch(h)
        h = nn.cond(h.sum() > 0, lambda _, h: jnp.tanh(yes(h)), lambda _, h: jnp.sin(no(h)), self, h)
        h = nn.switch(x % 3, [lambda _, h, branch=branch: jnp.tanh(branch(h)) for branch in rest], self, h)
        return nn.Dense(3)(h + place)


class Loop(nn.Module):
    """Not among the strangers: JAX itself cannot differentiate it backwards."""

    @nn.compact
    def __call__(self, x):
        h, again = nn.Embed(6, 4)(x), nn.Dense(4)
        if self.is_initializing():
            again(h)
        _, h = nn.while_loop(lambda _, c: c[0] < 3, lambda _, c: (c[0] + 1, jnp.tanh(again(c[1]))), self, (0, h))
        return nn.Dense(3)(h)


# ---------------------------------------------------------------- Linen: kernels of other shapes


@stranger("Embed_0/embedding Dense_0/kernel")
class OneHead(nn.Module):
    """Attention between three parts of one input."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 6)(x).reshape(3, 2)
        return nn.Dense(3)(nn.MultiHeadDotProductAttention(num_heads=1, qkv_features=2)(h)[0])


@stranger("Embed_0/embedding Dense_0/kernel")
class TwoHeads(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 6)(x).reshape(3, 2)
        h = h + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(h)
        return nn.Dense(3)(h.reshape(-1))


@stranger("Embed_0/embedding Dense_0/kernel", kind="per-array")
class General(nn.Module):
    """Kernels of rank 3, by their outputs and by their inputs, and one with an axis of both."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.DenseGeneral((2, 3))(nn.Embed(6, 4)(x)))
        h = nn.DenseGeneral(4, axis=(-2, -1))(h)
        return nn.Dense(3)(nn.DenseGeneral(2, batch_dims=(0,))(jnp.tanh(h).reshape(2, 2)).reshape(-1))


@stranger("Embed_0/embedding Dense_0/kernel")
class Einstein(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4)(x).reshape(2, 2)
        return nn.Dense(3)(jnp.tanh(nn.Einsum((2, 3, 2), "ab,bca->ac")(h)).reshape(-1))


@stranger("Embed_0/embedding Dense_0/kernel")
class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 6)(x).reshape(3, 2)
        h = jnp.tanh(nn.Conv(2, (1,))(h))
        h = jnp.tanh(nn.Conv(3, (2,), use_bias=False)(h))
        return nn.Dense(3)(nn.ConvTranspose(2, (2,))(h).reshape(-1))


# ---------------------------------------------------------------- JAX: its transformations, one in another


@stranger("table out/kernel each/kernel")
@behind(each=layer(2, 2), out=OUT)
def vmap_of_shared(p, h):
    return dense(p["out"], jnp.tanh(jax.vmap(dense, (None, 0))(p["each"], h.reshape(2, 2))).reshape(-1))


@stranger("table out/kernel each/kernel", kind="per-array")
@behind(each=layers(2, 4, 2), out=OUT)
def vmap_of_stacked(p, h):
    """Of one input, so that it is one layer, unless each part has rates of its own for the rows."""
    return dense(p["out"], jnp.tanh(jax.vmap(dense, (0, None))(p["each"], h)).reshape(-1))


@stranger("table out/kernel each", kind="per-array")
@behind(each=(2, 2, 3), out=layer(6, 3))
def vmap_of_odd_axes(p, h):
    """The axis of the parts stands in the middle of the kernel, and last in what comes out."""
    return dense(p["out"], jnp.tanh(jax.vmap(jnp.dot, (0, 1), 1)(h.reshape(2, 2), p["each"])).reshape(-1))


@stranger("table out/kernel")
@behind(again=layer(4, 4), out=OUT)
def scan_of_shared(p, h):
    h, seen = lax.scan(lambda h, _: (jnp.tanh(dense(p["again"], h)), h), h, length=3)
    return dense(p["out"], h + seen[1])


@stranger("table out/kernel")
@behind(blocks=layers(3, 4, 4), out=OUT)
def scan_of_stacked(p, h):
    """From the last block to the first."""
    return dense(p["out"], lax.scan(lambda h, block: (h + jnp.tanh(dense(block, h)), None), h, p["blocks"], reverse=True)[0])


@stranger("table out/kernel")
@behind(read=(2, 3), keep=(3, 3), blocks=(2, 3, 3), out=layer(3, 3))
def scan_of_both(p, h):
    """A recurrent layer with some weights for all times and some for each, over parts of the input."""

    def step(h, now):
        part, own = now
        return jnp.tanh(part @ p["read"] + h @ p["keep"] + jnp.sin(h) @ own), None

    return dense(p["out"], lax.scan(step, jnp.ones(3), (h.reshape(2, 2), p["blocks"]))[0])


@stranger("table out/kernel d/kernel")
@behind(d=layer(4, 4), out=OUT)
def checkpoint(p, h):
    return jax.checkpoint(lambda p, h: dense(p["out"], jnp.tanh(dense(p["d"], h))))(p, h)


@stranger("table out/kernel d/kernel")
@behind(d=layer(2, 2), out=OUT)
def checkpoint_of_vmap_of_jit(p, h):
    """The same function is called twice, so that JAX keeps one trace of it."""
    each = jax.checkpoint(jax.vmap(jax.jit(lambda h, d: jnp.tanh(dense(d, h))), (0, None)))
    return dense(p["out"], each(each(h.reshape(2, 2), p["d"]), p["d"]).reshape(-1))


@stranger("table")
@behind(yes=layer(4, 4), no=layer(4, 4), out=OUT)
def cond(p, h):
    """By what was learned; both branches use the same weight, too."""
    yes, no = (lambda h: dense(p["out"], jnp.tanh(dense(p["yes"], h)))), (lambda h: jnp.sin(dense(p["no"], h)) @ p["out"]["kernel"])
    return dense(p["out"], h) + lax.cond(h[0] > 0, yes, no, h)


@stranger()
@weights({"table": (PLACES, 4), "branches": [layer(4, 3) for _ in range(3)]})
def switch(p, x):
    """Between lists of weights, by the place; the last branch looks its place up by itself."""
    h = jnp.tanh(p["table"][x])
    first, second, third = p["branches"]
    return lax.switch(x % 3, [lambda h: dense(first, h), lambda h: dense(second, h), lambda h: dense(third, p["table"][x])], h)


@stranger("table out/kernel")
@behind(again=layer(4, 4), blocks=(3, 4, 4), out=OUT)
def fori_loop(p, h):
    """Of known length, which JAX can differentiate; some weights are looked up by the counter."""
    return dense(p["out"], lax.fori_loop(0, 3, lambda i, h: jnp.tanh(dense(p["again"], h) + h @ p["blocks"][i]), h))


@stranger("table out/kernel")
@behind(again=layer(4, 4), out=OUT)
def associative_scan(p, h):
    """Products of what a layer makes of four parts."""
    return dense(p["out"], lax.associative_scan(jnp.multiply, jnp.tanh(dense(p["again"], h)) + 1))


@stranger("table out/kernel d/kernel")
@behind(d=layer(4, 4), out=OUT)
def slope_in_the_input(p, h):
    return dense(p["out"], jax.grad(lambda h: jnp.tanh(dense(p["d"], h)).sum())(h))


@stranger("table out/kernel")
@behind(d=layer(4, 4), out=OUT)
def an_inner_step_inside(p, h):
    """What a step of SGD makes of its layer, before it is used: SGD in SGD."""
    gradient = jax.grad(lambda d: (dense(d, h) ** 2).sum())(p["d"])
    return dense(p["out"], jnp.tanh(dense(jax.tree.map(lambda w, g: w - 0.1 * g, p["d"], gradient), jnp.sin(h))))


@stranger("table out/kernel")
@behind(d=layer(4, 2), out=OUT)
def jacobian(p, h):
    """Rows of a derivative in the input, forward inside of backward."""
    matrix = jax.jacrev(lambda h: jax.jvp(lambda h: jnp.tanh(dense(p["d"], h)), (h,), (jnp.cos(h),))[1])(h)
    return dense(p["out"], matrix.sum(0))


# ---------------------------------------------------------------- JAX: derivatives that are said by hand


@jax.custom_jvp
def half_learned(w, h):
    return h @ w


@half_learned.defjvp
def _(primals, tangents):
    (w, h), (dw, dh) = primals, tangents
    return h @ w, h @ dw / 2 + dh @ jnp.sin(w)


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def own_jvp_of_a_weight(p, h):
    """Half of what it should learn, and a wrong way back: both as said."""
    return dense(p["out"], jnp.tanh(half_learned(p["w"], h)))


@jax.custom_vjp
def bounded(w, h):
    return h @ w


bounded.defvjp(lambda w, h: (h @ w, (w, h)), lambda kept, g: (jnp.tanh(3 * jnp.outer(kept[1], g)), 2 * g @ kept[0].T))


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def own_vjp_of_a_weight(p, h):
    """Its gradient is bounded element by element, so that it is of rank one no longer."""
    return dense(p["out"], jnp.tanh(bounded(p["w"], h)))


@jax.custom_vjp
def reversed_gradient(h):
    return h


reversed_gradient.defvjp(lambda h: (h, None), lambda _, g: (-g,))


@jax.custom_jvp
def rounded(h):
    return jnp.round(4 * h) / 4


@rounded.defjvp
def _(primals, tangents):
    return rounded(*primals), tangents[0] * (1 - jnp.tanh(primals[0]) ** 2)


@stranger("table out/kernel d/kernel")
@behind(d=layer(4, 4), out=OUT)
def own_derivatives_between_layers(p, h):
    return dense(p["out"], rounded(dense(p["d"], reversed_gradient(jnp.tanh(h)))))


@stranger("table out/kernel d/kernel")
@behind(d=layer(4, 4), out=OUT)
def own_derivative_of_a_layer(p, h):
    """A function with a rule of its own is given the layer's output and its gradient is clipped in a scan."""
    return dense(p["out"], lax.scan(lambda h, _: (reversed_gradient(jnp.tanh(h)), None), dense(p["d"], h), length=2)[0])


# ---------------------------------------------------------------- one weight, several uses


@stranger("out/kernel")
@behind(out=OUT)
def tied(p, h):
    """The table's rows are read, and they are what is read out."""
    return jnp.tanh(dense(p["out"], h)) + (p["table"] @ jnp.sin(h))[:3]


@stranger("table")
@behind(w=(4, 5), out=OUT)
def forward_and_transposed(p, h):
    """An autoencoder's weight."""
    return dense(p["out"], jnp.tanh(h @ p["w"]) @ p["w"].T)


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def forward_and_in_a_penalty(p, h):
    return dense(p["out"], jnp.tanh(h @ p["w"])) / (1 + (p["w"] ** 2).sum())


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def forward_and_as_a_bias(p, h):
    return dense(p["out"], jnp.tanh(h @ p["w"] + p["w"][1]))


@stranger("table out/kernel")
@behind(w=(4, 6), out=OUT)
def in_parts(p, h):
    """A gate and its values lie in one kernel, and a row of it is skipped."""
    gate, values = jnp.split(h[1:] @ p["w"][1:, :4], 2)
    return dense(p["out"], jnp.concatenate([jax.nn.sigmoid(gate) * values, h @ p["w"][:, 4:]]))


@stranger("table out/kernel qkv")
@behind(qkv=(2, 6), out=OUT)
def attention_of_one_kernel(p, h):
    """Queries, keys and values by one product."""
    q, k, v = jnp.split(h.reshape(2, 2) @ p["qkv"], 3, axis=1)
    return dense(p["out"], (jax.nn.softmax(q @ k.T) @ v).reshape(-1))


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def added_to_itself_transposed(p, h):
    return dense(p["out"], jnp.tanh(h @ (p["w"] + p["w"].T)))


@stranger("table out/kernel")
@behind(w=(8, 2), out=OUT)
def reshaped(p, h):
    return dense(p["out"], jnp.tanh(h @ p["w"].reshape(4, 4)))


@stranger("table out/kernel")
@behind(a=(4, 3), b=(4, 1), out=OUT)
def side_by_side(p, h):
    return dense(p["out"], jnp.tanh(h @ jnp.concatenate([p["a"], p["b"]], 1)))


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def masked(p, h):
    """A causal mask upon a kernel; and its diagonal and a scaled copy."""
    return dense(p["out"], jnp.tanh(h @ jnp.tril(p["w"]) + jnp.diag(p["w"]) * h + h @ (0.5 * p["w"])))


@stranger("table out/kernel")
@behind(w=(3, 4, 4), out=OUT)
def an_expert_that_is_looked_up(p, h):
    """By a number that what was learned decides."""
    return dense(p["out"], jnp.tanh(h @ p["w"][jnp.argmax(h[:3])]))


@stranger("table out/kernel")
@behind(w=(3, 4, 4), mix=(4, 3), out=OUT)
def a_mixture_of_experts(p, h):
    """Kernels are summed before they are used."""
    return dense(p["out"], jnp.tanh(h @ jnp.einsum("e,eij->ij", jax.nn.softmax(h @ p["mix"]), p["w"])))


@stranger("table out/kernel")
@behind(a=(4, 2), b=(2, 4), out=OUT)
def a_product_of_two(p, h):
    """Of two weights with each other, and a weight that sees nothing else."""
    return dense(p["out"], jnp.tanh(h @ (p["a"] @ p["b"])) + jnp.tanh(p["b"][0] @ p["a"] @ p["b"]))


@stranger("table out/kernel")
@behind(a=(4, 2), b=(2, 4), out=OUT)
def a_weight_as_an_input(p, h):
    """What one layer's kernel makes of the other's."""
    return dense(p["out"], jnp.tanh(h @ p["a"])[:1] * jnp.tanh(p["b"] @ p["a"] + p["b"][:, :2]).reshape(-1))


@stranger("table out/kernel")
@behind(w=(4, 4, 4), out=OUT)
def bilinear(p, h):
    return dense(p["out"], jnp.tanh(jnp.einsum("i,ijk,j->k", h, p["w"], jnp.cos(h))))


@stranger("table")
@behind(w=(4, 3), out=(3, 4))
def kernels_on_the_left(p, h):
    """As mathematicians write it, and for rows."""
    return p["out"] @ jnp.tanh(p["w"] @ h[:3]) + (p["out"] @ h.reshape(2, 2).repeat(2, 0)).sum(1)


# ---------------------------------------------------------------- biases and scales


@stranger("table out/kernel d/kernel")
@behind(d=layer(4, 4), more=(4,), out=OUT)
def two_biases(p, h):
    return dense(p["out"], jnp.tanh(dense(p["d"], h) + p["more"]))


@stranger("table out/kernel a b")
@behind(a=(4, 4), b=(4, 4), bias=(4,), out=OUT)
def one_bias_for_two(p, h):
    return dense(p["out"], jnp.tanh(h @ p["a"] + p["bias"]) * jnp.sin(h @ p["b"] + p["bias"]))


@stranger("table out/kernel d/kernel", kind="per-array")
@behind(d=layer(2, 2), scale=(2, 1), s=(), out=OUT)
def a_bias_for_rows_and_scales(p, h):
    return dense(p["out"], p["s"] * jnp.tanh(p["scale"] * dense(p["d"], h.reshape(2, 2))).reshape(-1))


@stranger("table", kind="fixed")
@behind(out=OUT, s=())
def a_scalar_that_is_added(p, h):
    return jnp.tanh(p["s"] + dense(p["out"], h)) * p["s"]


@stranger("d/kernel", fast=("d/kernel",))
@behind(d=layer(4, 4), out=OUT)
def only_the_kernel_learns(p, h):
    return dense(p["out"], jnp.tanh(dense(p["d"], h)))


@stranger(fast=("d/bias", "out"))
@behind(d=layer(4, 4), out=OUT)
def only_the_bias_learns(p, h):
    """Of one layer; all of the next."""
    return dense(p["out"], jnp.tanh(dense(p["d"], h)))


@stranger("table out/kernel")
@behind(unused=layer(4, 4), out=OUT)
def a_layer_that_is_not_used(p, h):
    dense(p["unused"], h)  # JAX leaves it out, as nothing reads it
    return dense(p["out"], h)


@stranger()
@weights({"logits": (SYMBOLS,)})
def a_weight_is_the_output(p, x):
    return p["logits"]


@stranger()
@weights({"table": (PLACES, SYMBOLS), "bias": (SYMBOLS,)})
def a_row_is_the_output(p, x):
    return p["table"][x] + p["bias"]


# ---------------------------------------------------------------- lookups


@stranger("out/kernel")
@weights({"table": (2, 3, 4), "turned": (3, 4, 2), "out": OUT})
def by_two_indices(p, x):
    """One table's indices are its first axes; the other's stand apart and in no order."""
    return dense(p["out"], jnp.tanh(p["table"][x // 3, x % 3] + p["turned"][x % 3, :, x // 3]))


@stranger("out/kernel")
@weights({"a": (PLACES, 4), "b": (PLACES, 4), "c": (PLACES, 4), "out": OUT})
def takes(p, x):
    """Three ways to say what happens beyond a table's rows, one of which goes beyond."""
    rows = jnp.take(p["a"], x, axis=0, mode="clip") * jnp.take(p["b"], x + 3, axis=0, mode="clip")
    return dense(p["out"], jnp.tanh(rows + p["c"].at[x + 3].get(mode="fill", fill_value=0.5)))


@stranger("out/kernel")
@weights({"a": (PLACES, 4), "b": (4, PLACES), "c": (PLACES, 4), "out": OUT})
def slices(p, x):
    """Of rows, of columns, and of several rows at once, which lie upon each other from place to place."""
    row, column = lax.dynamic_slice(p["a"], (x, 0), (1, 4))[0], lax.dynamic_index_in_dim(p["b"], x, 1, keepdims=False)
    return dense(p["out"], jnp.tanh(row * column + lax.dynamic_slice_in_dim(p["c"], x // 2, 3).sum(0)))


@stranger("out/kernel")
@weights({"table": (PLACES, 4), "out": OUT})
def one_hot(p, x):
    return dense(p["out"], jnp.tanh(jax.nn.one_hot(x, PLACES, dtype=float) @ p["table"]))


@stranger("out/kernel")
@weights({"table": (PLACES, 4), "out": OUT})
def several_rows(p, x):
    """Of one table: twice the same, one from the end, and one that another row's content decides."""
    rows = p["table"][jnp.stack([x, x, -1 - x // 2])]
    return dense(p["out"], jnp.tanh(rows.prod(0) + p["table"][jnp.argmax(rows[0])]))


@stranger("out/kernel")
@weights({"table": (PLACES, 4), "out": OUT})
def a_sorted_table(p, x):
    """Rows in the order of their content."""
    return dense(p["out"], jnp.tanh(jnp.sort(p["table"], axis=0)[x]))


# ---------------------------------------------------------------- inputs, outputs, containers, types


@stranger("first/kernel out/kernel", numbers=True)
@weights({"first": layer(2, 4), "out": OUT})
def numbers_as_inputs(p, x):
    return dense(p["out"], jnp.sin(dense(p["first"], x)))


@stranger("out/kernel", numbers=True)
@weights({"frequency": (2, 2), "out": OUT})
def known_inputs(p, x):
    """What the last layer sees depends on weights that learn and on one that does not."""
    angles = x @ lax.stop_gradient(p["frequency"])
    return dense(p["out"], jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))


@stranger("memory/kernel", fast=("memory",))
@behind(memory=layer(4, 4), out=OUT)
def two_kinds_of_logits(p, h):
    """Learns by other logits than it pays for."""
    read = dense(p["memory"], h)
    return Prediction(dense(p["out"], jnp.tanh(read)), read[:3])


@stranger("m/kernel n/kernel", fast=("m", "n"))
@behind(m=OUT, n=OUT)
def a_layer_that_only_what_is_paid_reads(p, h):
    """It is never evaluated in the inner loop, which descends other logits."""
    return Prediction(dense(p["m"], h) * dense(p["n"], jnp.cos(h)), dense(p["m"], h))


@stranger("m/kernel", fast=("m",))
@behind(m=OUT)
def a_use_that_only_what_is_paid_reads(p, h):
    return Prediction(dense(p["m"], h) * dense(p["m"], jnp.cos(h)), dense(p["m"], h))


@stranger("1/kernel", fast=("1/kernel",))
@weights([{"table": (PLACES, 4)}, OUT])
def a_part_of_weights_in_lists(p, x):
    return dense(p[1], jnp.sin(p[0]["table"][x]))


FEATURES, MATRIX = np.linspace(-1, 1, PLACES * 4).reshape(PLACES, 4), np.linspace(-0.5, 1, 16).reshape(4, 4) / 2


@stranger("d/kernel out/kernel")
@weights({"d": layer(4, 4), "out": OUT})
def constants(p, x):
    """Of numpy and of JAX, which are not in the parameters: a table, a mask, a matrix on either side of a kernel."""
    h = jnp.asarray(FEATURES)[x]
    h = jnp.tanh(dense(p["d"], h) @ MATRIX) * np.array([1.0, 0.0, 1.0, 1.0])
    return dense(p["out"], h + jnp.asarray(MATRIX) @ h)


@stranger("0 1", kind="per-array")
@weights([(PLACES, 4), (4, 3), [(3,), (3,)]])
def weights_in_lists(p, x):
    table, kernel, (bias, scale) = p
    return jnp.tanh(table[x] @ kernel + bias) * scale


@stranger("0 1/kernel")
@weights(((PLACES, 4), layer(4, 4), (layer(4, 3),)))
def weights_in_tuples(p, x):
    table, first, (last,) = p
    return dense(last, jnp.tanh(dense(first, table[x])))


class Named(NamedTuple):
    table: Any
    kernel: Any
    bias: Any


@stranger("table kernel")
@weights(Named((PLACES, 4), (4, 3), (3,)))
def weights_by_name(p, x):
    return jnp.sin(p.table[x]) @ p.kernel + p.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Fields:
    table: Any
    out: Any
    more: None = None


@stranger("table out/kernel", kind="fixed")
@weights(Fields((PLACES, 4), OUT))
def weights_in_a_dataclass(p, x):
    return dense(p.out, jnp.tanh(p.table[x]))


def of_two_types(key, x):
    wide = drawn({"table": (PLACES, 4), "d": layer(4, 4), "out": OUT})(key, x)
    return wide | {"d": jax.tree.map(lambda a: a.astype(jnp.float32), wide["d"]), "table": wide["table"].astype(jnp.float32)}


@stranger("out/kernel", own=True, rtol=1e-5)
@partial(Function, of_two_types)
def float32_and_float64(p, x):
    """Inner steps of a float32 weight are rounded to float32, if it is formed."""
    return dense(p["out"], jnp.tanh(dense(p["d"], jnp.sin(p["table"][x])).astype(float)))


@stranger("table out/kernel")
@behind(w=(4, 4), out=OUT)
def numbers_of_two_parts(p, h):
    """Goes by way of complex numbers."""
    spectrum = jnp.fft.fft(h @ p["w"])
    return dense(p["out"], jnp.tanh(jnp.fft.ifft(spectrum * jnp.exp(1j * h)).real))


# ---------------------------------------------------------------- recipes: other libraries


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        wide: Any = {"dtype": float, "param_dtype": float, "rngs": rngs}  # else Embed rounds its rows to float32
        self.embed = nnx.Embed(PLACES, 4, **wide)
        self.hidden = nnx.Linear(4, 5, **wide)
        self.out = nnx.Linear(5, SYMBOLS, **wide)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(self.embed(x))))


def of_nnx(build: Callable[[jax.Array], Any]) -> Function:
    """Its parameters as nested dicts; what else a module is made of must not change."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(jax.random.key(0))))
    return Function(lambda key, x: nnx.to_pure_dict(nnx.state(build(key), nnx.Param)), lambda params, x: nnx.merge(graph, params)(x))


stranger("embed/embedding hidden/kernel out/kernel", name="nnx")(of_nnx(lambda key: NnxNet(nnx.Rngs(key))))


class EquinoxNet(eqx.Module):
    embed: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    mlp: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(PLACES, 4, key=keys[0])
        self.cell = eqx.nn.GRUCell(4, 3, key=keys[1])
        self.mlp = eqx.nn.MLP(3, SYMBOLS, 5, 1, key=keys[2])

    def __call__(self, x):
        return self.mlp(self.cell(self.embed(x), jnp.ones(3)))


def of_equinox(build: Callable[[jax.Array], Any]) -> Function:
    """Its arrays of numbers are the parameters, in a module that has None elsewhere."""
    _, static = eqx.partition(build(jax.random.key(0)), eqx.is_inexact_array)
    return Function(lambda key, x: eqx.filter(build(key), eqx.is_inexact_array), lambda params, x: eqx.combine(params, static)(x))


stranger("embed/weight cell/weight_ih cell/weight_hh mlp/layers/0/weight mlp/layers/1/weight", name="equinox")(of_equinox(EquinoxNet))


def haiku_net(x):
    h = hk.Embed(PLACES, 4)(x).reshape(2, 2)
    return hk.nets.MLP([5, SYMBOLS], activation=jnp.tanh)(hk.Linear(3, name="rows")(h).reshape(-1))


def of_haiku(function: Callable) -> Function:
    network = hk.without_apply_rng(hk.transform(function))
    return Function(network.init, network.apply)


stranger("embed/embeddings rows/w mlp/~/linear_0/w mlp/~/linear_1/w", name="haiku")(of_haiku(haiku_net))


@stranger("embed first/w last/w")
@weights({"embed": (PLACES, 4), "first": {"w": (4, 5), "b": (5,)}, "last": {"w": (5, SYMBOLS), "b": (SYMBOLS,)}})
def plain_jax(p, x):
    h = jnp.tanh(p["embed"][x] @ p["first"]["w"] + p["first"]["b"])
    return h @ p["last"]["w"] + p["last"]["b"]


# ---------------------------------------------------------------- the tests

NAMES = tuple(STRANGERS)
# Those that are seen by every run of the suite: compiling takes seconds each. `make test-slow` has them all
QUICK = (
    *("Rows", "Recurrent", "Deep", "Gate", "StraightThrough", "Slope", "Normed", "Boxed", "Half", "ByKeyword", "ItsKernel", "cond", "tied"),
    *(
        "own_jvp_of_a_weight",
        "only_the_bias_learns",
        "several_rows",
        "weights_in_tuples",
        "a_part_of_weights_in_lists",
        "a_layer_that_only_what_is_paid_reads",
        "nnx",
        "equinox",
        "haiku",
        "plain_jax",
    ),
)
THOROUGH = (("Lookups", "folded"),)  # and this by every meta-gradient


@cache
def make(name: str) -> problems.Problem:
    a = STRANGERS[name]
    return problem(InnerLoop(a.network, Categorical(), a.kind, 0.2, a.fast, form="direct"), a.own, a.numbers)


def problem(loop: InnerLoop, own: bool = False, numbers: bool = False) -> problems.Problem:
    """Parameters that are noise, of rates as well; a step of weight 0 and one of a half."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((*X.shape, 2)) if numbers else X
    shapes = jax.eval_shape(lambda key: loop.init(key, x[0, 0]), jax.random.key(0))
    init = jax.tree.map(lambda a: 0.5 * rng.standard_normal(a.shape), shapes.init)
    rates = jax.tree.map(lambda a: np.full(a.shape, 0.2 if loop.rate_kind == "fixed" else math.log(0.3)), shapes.rates)
    params = problems.disturbed(Params(init, rates), rng)
    if own:
        params = jax.tree.map(lambda a, like: a.astype(like.dtype), params, shapes)
    weight = np.ones(X.shape)
    weight[0, 2], weight[1, 5] = 0, 0.5
    return problems.Problem(loop, params, Sequence(x, rng.integers(SYMBOLS, size=X.shape), weight))


def dual(loop: InnerLoop, form: str | Dual) -> InnerLoop:
    return dataclasses.replace(loop, form=FORMS[form] if isinstance(form, str) else form)


def same(ours: Any, theirs: Any, rtol: float) -> None:
    """As `close`, but an array of rounding errors, as the gradient of what changes nothing, need not be the same errors."""
    floor = 1e-14 * max((float(np.abs(a).max(initial=0)) for a in jax.tree.leaves(theirs)), default=0.0)

    def rounded(a):
        return np.where(np.abs(a) < floor, 0, a)

    close(jax.tree.map(rounded, ours), jax.tree.map(rounded, theirs), rtol)


def agree(loop: InnerLoop, params: Params, seqs: Sequence, form: str | Dual, rtol: float = 1e-10) -> None:
    """MAML's nats and gradient."""
    nats, gradient = maml(loop, params, seqs)
    assert math.isfinite(norm(gradient)) and norm(gradient.init) > 1e-2, "this problem says nothing"
    same(maml(dual(loop, form), params, seqs), (nats, gradient), rtol)


def agree_in_all(loop: InnerLoop, params: Params, seqs: Sequence, form: str | Dual, rtol: float = 1e-10) -> None:
    """That, first-order MAML's, if everything learns Reptile's, what is learned, and what is drawn."""
    agree(loop, params, seqs, form, rtol)
    other, expected = dual(loop, form), first_order_maml(loop, params, seqs)
    exact = maml(loop, params, seqs)[1]
    assert norm(jax.tree.map(jnp.subtract, exact, expected[1])) > 1e-3 * norm(exact), "this problem cannot tell the two"
    same(first_order_maml(other, params, seqs), expected, rtol)
    if loop.fast is None:
        same(reptile(other, params, seqs), reptile(loop, params, seqs), rtol)
    close(adapt(other, params, seqs), adapt(loop, params, seqs), rtol)
    if rtol < 1e-3:  # where numbers are rough, a draw may fall to the other side
        keys = jax.random.split(jax.random.key(1), len(seqs.y))
        close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys), rtol)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_a_stranger_learns_the_same_in_both_forms(name):
    """With everything taken over that can be: at least what is used by products and lookups alone."""
    loop, params, seqs = make(name)
    other = dual(loop, "kept")
    assert STRANGERS[name].taken <= other.form.plan(other, params.init, seqs.x).taken
    agree(loop, params, seqs, "kept", STRANGERS[name].rtol)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *THOROUGH,
        *(pytest.param(name, "folded", marks=pytest.mark.slow) for name in NAMES if (name, "folded") not in THOROUGH),
        *(pytest.param(name, form, marks=pytest.mark.slow) for name in QUICK for form in ("kept", "chosen")),
    ],
)
def test_a_stranger_learns_the_same_by_every_meta_gradient(name, form):
    agree_in_all(*make(name), form, STRANGERS[name].rtol)


@pytest.mark.parametrize("name", ["slices", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Rows", "equinox", "scan_of_both"))])
def test_inputs_that_all_sequences_share(name):
    loop, params, seqs = make(name)
    each = seqs._replace(x=np.broadcast_to(seqs.x[:1], seqs.x.shape))
    close(maml(dual(loop, "folded"), params, seqs._replace(x=seqs.x[:1])), maml(loop, params, each))


def test_a_gate_that_is_not_trained_through_learns_nothing():
    """In either form. And hard units learn by the soft ones' gradient, else they would not at all."""
    for name, learns in (("Gate", False), ("StraightThrough", True)):
        loop, params, seqs = make(name)
        for each in (loop, dual(loop, "kept")):
            fast, _ = adapt(each, params, seqs)
            moved = jax.tree.map(lambda a, init: float(jnp.abs(a - init).max()), fast["Dense_0"], params.init["Dense_0"])
            assert (min(jax.tree.leaves(moved)) > 1e-3) if learns else (moved == {"kernel": 0, "bias": 0})


def test_a_gradient_said_by_hand_is_half_of_what_it_would_be():
    """After one step, of the layer with a rule of its own, in either form."""
    loop, params, seqs = make("own_jvp_of_a_weight")

    def plain(p, x):
        return dense(p["out"], jnp.tanh(p["table"][x] @ p["w"]))

    first = problems.steps(seqs, slice(1))
    textbook = dataclasses.replace(loop, network=Function(loop.network.init, plain))
    moved = adapt(textbook, params, first)[0]["w"] - params.init["w"]
    assert norm(moved) > 1e-2
    for each in (loop, dual(loop, "kept")):
        close(adapt(each, params, first)[0]["w"], params.init["w"] + moved / 2)


def test_what_jax_cannot_differentiate_is_refused_alike():
    """A loop whose length is not known has no derivative backwards."""
    loop = InnerLoop(Loop(), Categorical(), form="direct")
    _, params, seqs = make("Times")
    params = Params(params.init | {"Dense_1": params.init["Dense_0"]}, {"fixed": jnp.array(0.1)})
    params.init["Dense_0"] = params.init.pop("ScanAgain_0")["Dense_0"]
    for each in (loop, dual(loop, "kept"), dual(loop, "chosen")):
        for function in (maml, reptile, adapt):
            with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax\.while_loop"):
                function(each, params, seqs)


def test_the_forms_can_be_held_against_each_other_by_a_user():
    loop, _, seqs = make("weights_by_name")
    found = check(loop, seqs.x[0])
    assert 0 <= found.nats < 1e-4 and 0 <= found.gradient < 1e-4
    assert "nats" in str(found) and "gradient" in str(found)


def test_a_difference_between_the_forms_is_seen():
    """A network that is another whenever JAX looks at it cannot be the same in both."""
    looks = []

    def apply(p, x):
        looks.append(x)
        return p["table"][x] * len(looks)

    found = check(InnerLoop(Function(drawn({"table": (PLACES, SYMBOLS)}), apply), Categorical(), rate=0.1), X[0])
    assert found.nats > 1e-3 and found.gradient > 1e-3


def test_a_function_given_again_is_the_same_network():
    """So that nothing compiles again."""
    network = STRANGERS["plain_jax"].network
    loop, again = (InnerLoop(Function(network.init, network.apply), Categorical()) for _ in range(2))
    assert loop == again and hash(loop) == hash(again)
    assert loop != InnerLoop(Function(network.init, lambda p, x: p["embed"][x][:3]), Categorical())


# ---------------------------------------------------------------- networks nobody thought of

Part = Callable[[Any, Any, Any], Any]  # (its own weights, those of the first layer, 4 numbers) -> 4 numbers


def _attend(p: Any, first: Any, h: Any) -> Any:
    rows = dense(p["rows"], h.reshape(2, 2))
    return (jax.nn.softmax(rows @ rows.T) @ rows).reshape(-1)


# name -> (shapes of a part's own weights, what it does)
PARTS: dict[str, tuple[dict[str, Any], Part]] = {
    "dense": ({"d": layer(4, 4)}, lambda p, first, h: jnp.tanh(dense(p["d"], h))),
    "twice": ({"d": layer(4, 4)}, lambda p, first, h: jnp.tanh(dense(p["d"], jnp.sin(dense(p["d"], h))))),
    "first": ({}, lambda p, first, h: jnp.tanh(dense(first, h))),
    "turned": ({"w": (4, 4)}, lambda p, first, h: jnp.tanh(p["w"] @ h) + h @ first["kernel"].T),
    "rows": ({"d": layer(2, 2)}, lambda p, first, h: jnp.sin(dense(p["d"], h.reshape(2, 2))).reshape(-1)),
    "heads": ({"d": layers(2, 4, 2)}, lambda p, first, h: jnp.tanh(jax.vmap(dense, (0, None))(p["d"], h)).reshape(-1)),
    "blocks": ({"d": layers(2, 4, 4)}, lambda p, first, h: lax.scan(lambda h, d: (jnp.tanh(dense(d, h)), None), h, p["d"])[0]),
    "gate": ({"d": layer(4, 4)}, lambda p, first, h: h * jax.nn.sigmoid(dense(p["d"], h))),
    "stopped": ({"d": layer(4, 4)}, lambda p, first, h: h * lax.stop_gradient(jax.nn.sigmoid(dense(p["d"], h)))),
    "norm": ({"scale": (4,)}, lambda p, first, h: p["scale"] * (h - h.mean()) * lax.rsqrt(h.var() + 0.1)),
    "residual": ({"up": layer(4, 3), "down": layer(3, 4)}, lambda p, first, h: h + dense(p["down"], jnp.tanh(dense(p["up"], h)))),
    "attention": ({"rows": layer(2, 2)}, _attend),
    "bent": ({"w": (4, 4)}, lambda p, first, h: jnp.tanh(half_learned(p["w"], h)) + reversed_gradient(h)),
    "penalty": ({"w": (4, 4)}, lambda p, first, h: jnp.tanh(h @ p["w"]) / (1 + (p["w"] ** 2).sum())),
    "slope": ({"d": layer(4, 4)}, lambda p, first, h: jax.grad(lambda h: jnp.tanh(dense(p["d"], h)).sum())(h)),
}


def _vmapped(part: Part) -> Part:
    return lambda p, first, h: jax.vmap(lambda h: part(p, first, h))(jnp.stack([h, jnp.cos(h)])).sum(0)


LIFTS: dict[str, Callable[[Part], Part]] = {
    "itself": lambda part: part,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "vmap": _vmapped,
    "scan": lambda part: lambda p, first, h: lax.scan(lambda h, _: (part(p, first, h), None), h, length=2)[0],
    "cond": lambda part: lambda p, first, h: lax.cond(h.sum() > 0, part, lambda p, first, h: dense(first, jnp.sin(h)), p, first, h),
}
NETWORKS = st.lists(st.tuples(st.sampled_from(sorted(PARTS)), *[st.sampled_from(sorted(LIFTS))] * 2), min_size=1, max_size=3)


def composed(parts: list[tuple[str, str, str]]) -> Function:
    """An embedding, the first layer, the parts in a row, each lifted twice, and a layer for the logits."""
    shapes = {str(i): PARTS[part][0] for i, (part, *_) in enumerate(parts)}

    def apply(p, x):
        h = dense(p["first"], p["table"][x])
        for i, (part, inner, outer) in enumerate(parts):
            h = LIFTS[outer](LIFTS[inner](PARTS[part][1]))(p[str(i)], p["first"], h)
        return dense(p["out"], h)

    return Function(drawn({"table": (PLACES, 4), "first": layer(4, 4), "out": OUT} | shapes), apply)


CHANCE = {
    "parts": NETWORKS,
    "kind": st.sampled_from(["rank-one", "per-array", "fixed"]),
    "chunk": st.integers(1, 7),
    "fold": st.booleans(),
}
UNSHRUNK = [Phase.explicit, Phase.generate]  # shrinking would compile for minutes


@settings(max_examples=2, derandomize=True, phases=UNSHRUNK)
@given(**CHANCE)
def test_networks_by_chance(parts, kind, chunk, fold):
    parts = parts[:2]  # more takes long to compile
    agree(*problem(InnerLoop(composed(parts), Categorical(), kind, 0.2, form="direct")), Dual(chunk, fold, every_layer=True))


@pytest.mark.slow
@settings(max_examples=15, derandomize=True, phases=UNSHRUNK)
@given(**CHANCE)
def test_many_networks_by_chance(parts, kind, chunk, fold):
    agree_in_all(*problem(InnerLoop(composed(parts), Categorical(), kind, 0.2, form="direct")), Dual(chunk, fold, every_layer=True))
    jax.clear_caches()  # of programs that no other example runs: see `few_programs` in conftest.py
