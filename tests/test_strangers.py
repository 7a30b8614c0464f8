"""What strangers bring: networks that use their weights in any way JAX and its libraries allow. Both forms give the same numbers.

All are tiny: 6 places, 3 symbols, widths of 2 to 6. What a few numbers can be sent through is a part: one line of PARTS, of which networks
are composed. What is more than that, as a module of a library, a container of weights or a use of the place itself, is a stranger. With
some stands which weights the dual form takes over at least. Of the others it may carry any as ordinary fast weights.
"""

import dataclasses
import itertools
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


# ---------------------------------------------------------------- Linen


class Again(nn.Module):
    @nn.compact
    def __call__(self, h, _=None):
        return h + jnp.tanh(nn.Dense(4)(h)), None


PARTS_ONLY: Any = (0, None)  # of two arguments, only the first has parts


@stranger("Embed_0/embedding Dense_0/kernel")
class Lifted(nn.Module):
    """Own weights for each part, computed again and compiled by itself; twice in a row; a recurrent cell; one of two layers."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 8)(x)
        each = nn.vmap(nn.remat(nn.jit(Again)), variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=PARTS_ONLY)
        twice = nn.scan(each, variable_axes={"params": 1}, split_rngs={"params": True}, length=2)
        h = twice()(h.reshape(2, 4), None)[0]
        h = nn.RNN(nn.OptimizedLSTMCell(4, param_dtype=float), reverse=True)(h)[-1]  # else its state begins in float32
        yes, no = layers = [nn.Dense(4, name=f"branch_{i}") for i in range(2)]
        if self.is_initializing():
            for layer in layers:
                layer(h)
        h = nn.cond(h.sum() > 0, lambda _, h: jnp.tanh(yes(h)), lambda _, h: jnp.sin(no(h)), self, h)
        return nn.Dense(3)(h)


@stranger("Embed_0/embedding Dense_0/kernel")
class Kernels(nn.Module):
    """Of other shapes: of rank 3, by their outputs, by their inputs and by both; of convolutions and heads; the same for several rows."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.DenseGeneral((2, 3))(nn.Embed(6, 4)(x)))
        h = nn.DenseGeneral(4, axis=(-2, -1))(h)
        h = nn.DenseGeneral(2, batch_dims=(0,))(jnp.tanh(h).reshape(2, 2))
        h = jnp.tanh(nn.Einsum((2, 3, 2), "ab,bca->ac")(h))
        h = jnp.tanh(nn.Conv(4, (2,), use_bias=False)(h))
        h = h + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(h)
        return nn.Dense(3)(nn.ConvTranspose(2, (2,))(h).reshape(-1))


@stranger("Embed_0/embedding Dense_2/kernel")
class Wrapped(nn.Module):
    """Weights that are not what they seem: normed, in a box that says how they are spread, sines of the parameters; scales and slopes."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.WeightNorm(nn.Dense(4))(nn.Embed(6, 4)(x)))
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        h = jnp.tanh(nn.Dense(4, kernel_init=boxed, precision=lax.Precision.HIGHEST)(h))
        mapped: Any = nn.map_variables(nn.Dense, "params", partial(jax.tree.map, jnp.sin), init=True)
        h = nn.LayerNorm()(jnp.tanh(mapped(4)(h)))
        h = h + nn.GroupNorm(2)(h)
        return nn.Dense(3)(nn.PReLU()(nn.RMSNorm()(h) - 0.1))


@stranger("Embed_0/embedding Dense_1/kernel Dense_2/kernel", kind="per-array")
class Stopped(nn.Module):
    """Has a gate that is not trained through: Dense_0 learns nothing. And hard units with the soft ones' gradient."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4)(x)
        gate = lax.stop_gradient(nn.sigmoid(nn.Dense(4)(h)))
        soft = jnp.tanh(nn.Dense(4)(h)) * gate
        return nn.Dense(3)(soft + lax.stop_gradient(jnp.sign(soft) - soft))


@stranger(own=True, rtol=0.05)
class Half(nn.Module):
    """XLA may keep more digits of a bfloat16 than it has to, in either form."""

    @nn.compact
    def __call__(self, x):
        half: Any = {"param_dtype": jnp.bfloat16}
        return nn.Dense(3, **half)(nn.tanh(nn.Dense(5, **half)(nn.Embed(6, 4, **half)(x))))


class Loop(nn.Module):
    """Not among the strangers: JAX itself cannot differentiate it backwards."""

    @nn.compact
    def __call__(self, x):
        h, again = nn.Embed(6, 4)(x), nn.Dense(4)
        if self.is_initializing():
            again(h)
        _, h = nn.while_loop(lambda _, c: c[0] < 3, lambda _, c: (c[0] + 1, jnp.tanh(again(c[1]))), self, (0, h))
        return nn.Dense(3)(h)


# ---------------------------------------------------------------- what learns, and what is an output


@stranger(fast=("d/bias", "out"))
@behind(d=layer(4, 4), out=OUT)
def only_the_bias_learns(p, h):
    """Of one layer; all of the next."""
    return dense(p["out"], jnp.tanh(dense(p["d"], h)))


@stranger("1/kernel", fast=("1/kernel",))
@weights([{"table": (PLACES, 4)}, OUT])
def a_part_of_weights_in_lists(p, x):
    return dense(p[1], jnp.sin(p[0]["table"][x]))


@stranger()
@weights({"table": (PLACES, SYMBOLS), "bias": (SYMBOLS,), "unused": layer(4, 4)})
def rows_and_weights_are_the_output(p, x):
    dense(p["unused"], jnp.ones(4))  # JAX leaves it out, as nothing reads it
    return p["table"][x] + p["bias"]


@stranger("m/kernel n/kernel", fast=("m", "n"))
@behind(m=OUT, n=OUT)
def a_layer_that_only_what_is_paid_reads(p, h):
    """It is never evaluated in the inner loop, which descends other logits."""
    return Prediction(dense(p["m"], h) * dense(p["n"], jnp.cos(h)), dense(p["m"], h))


@stranger("m/kernel", fast=("m",))
@behind(m=OUT)
def a_use_that_only_what_is_paid_reads(p, h):
    return Prediction(dense(p["m"], h) * dense(p["m"], jnp.cos(h)), dense(p["m"], h))


# ---------------------------------------------------------------- inputs and lookups


@stranger("first/kernel out/kernel", numbers=True)
@weights({"first": layer(2, 4), "frequency": (2, 2), "out": OUT})
def numbers_as_inputs(p, x):
    """What the last layer sees depends on weights that learn and on one that does not."""
    angles = x @ lax.stop_gradient(p["frequency"])
    return dense(p["out"], jnp.sin(dense(p["first"], x)) + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))


@stranger("out/kernel")
@weights({"a": (2, 3, 4), "b": (3, 4, 2), "c": (PLACES, 4), "d": (PLACES, 4), "e": (PLACES, 4), "out": OUT})
def by_two_indices_and_beyond(p, x):
    """A table's indices are its first axes, or stand apart and in no order; three ways to say what happens beyond a table's rows."""
    rows = p["a"][x // 3, x % 3] + p["b"][x % 3, :, x // 3]
    rows += jnp.take(p["c"], x, axis=0, mode="clip") * jnp.take(p["d"], x + 3, axis=0, mode="clip")
    return dense(p["out"], jnp.tanh(rows + p["e"].at[x + 3].get(mode="fill", fill_value=0.5)))


@stranger("out/kernel")
@weights({"a": (PLACES, 4), "b": (4, PLACES), "c": (PLACES, 4), "d": (PLACES, 4), "e": (PLACES, 4), "f": (PLACES, 4), "out": OUT})
def slices(p, x):
    """Of rows, of columns, of several rows at once, which lie upon each other from place to place; by one-hot, twice, and sorted."""
    row, column = lax.dynamic_slice(p["a"], (x, 0), (1, 4))[0], lax.dynamic_index_in_dim(p["b"], x, 1, keepdims=False)
    h = row * column + lax.dynamic_slice_in_dim(p["c"], x // 2, 3).sum(0) + jax.nn.one_hot(x, PLACES, dtype=float) @ p["d"]
    rows = p["e"][jnp.stack([x, x, -1 - x // 2])]  # twice the same, and one from the end
    return dense(p["out"], jnp.tanh(h + rows.prod(0) + p["e"][jnp.argmax(rows[0])] + jnp.sort(p["f"], axis=0)[x]))


FEATURES, MATRIX = np.linspace(-1, 1, PLACES * 4).reshape(PLACES, 4), np.linspace(-0.5, 1, 16).reshape(4, 4) / 2


@stranger("d/kernel out/kernel")
@weights({"d": layer(4, 4), "out": OUT})
def constants(p, x):
    """Of numpy and of JAX, which are not in the parameters: a table, a mask, a matrix on either side of a kernel."""
    h = jnp.asarray(FEATURES)[x]
    h = jnp.tanh(dense(p["d"], h) @ MATRIX) * np.array([1.0, 0.0, 1.0, 1.0])
    return dense(p["out"], h + jnp.asarray(MATRIX) @ h)


# ---------------------------------------------------------------- containers and types


class Named(NamedTuple):
    table: Any
    layers: Any
    branches: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Fields:
    first: Any
    more: None = None


@stranger("table layers/0/first/kernel layers/1/kernel")
@weights(Named((PLACES, 4), (Fields(layer(4, 4)), layer(4, 4)), [layer(4, 3) for _ in range(3)]))
def containers(p, x):
    """A tuple with names, one without, a dataclass, and a list of layers, one of which is used: which, the place says."""
    h = jnp.tanh(dense(p.layers[1], jnp.tanh(dense(p.layers[0].first, p.table[x]))))
    return lax.switch(x % 3, [partial(dense, branch) for branch in p.branches], h)


def of_two_types(key, x):
    wide = drawn({"table": (PLACES, 4), "d": layer(4, 4), "out": OUT})(key, x)
    return wide | {"d": jax.tree.map(lambda a: a.astype(jnp.float32), wide["d"]), "table": wide["table"].astype(jnp.float32)}


@stranger("out/kernel", own=True, rtol=1e-5)
@partial(Function, of_two_types)
def float32_and_float64(p, x):
    """Inner steps of a float32 weight are rounded to float32, if it is formed."""
    return dense(p["out"], jnp.tanh(dense(p["d"], jnp.sin(p["table"][x])).astype(float)))


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


# ---------------------------------------------------------------- both forms


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


# ---------------------------------------------------------------- networks composed of parts

# (the weights of a part, those that all share: the table and the first layer, 4 numbers) -> 4 numbers
Apply = Callable[[Any, Any, Any], Any]


class Part(NamedTuple):
    """Shapes of its own weights, what it does, and which of the weights are taken over at least."""

    shapes: dict[str, Any]
    apply: Apply
    taken: str = ""


@jax.custom_jvp
def half_learned(w, h):
    """Half of what it should learn, and a wrong way back: both as said."""
    return h @ w


@half_learned.defjvp
def _(primals, tangents):
    (w, h), (dw, dh) = primals, tangents
    return h @ w, h @ dw / 2 + dh @ jnp.sin(w)


@jax.custom_vjp
def bounded(w, h):
    """Its gradient is bounded element by element, so that it is of rank one no longer."""
    return h @ w


bounded.defvjp(lambda w, h: (h @ w, (w, h)), lambda kept, g: (jnp.tanh(3 * jnp.outer(kept[1], g)), 2 * g @ kept[0].T))


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


def attend(p: Any, shared: Any, h: Any) -> Any:
    """Queries, keys and values by one product."""
    q, k, v = jnp.split(h.reshape(2, 2) @ p["qkv"], 3, axis=1)
    return (jax.nn.softmax(q @ k.T) @ v).reshape(-1)


def scanned(p: Any, shared: Any, h: Any) -> Any:
    """A recurrent layer with some weights for all times and some for each, over parts of the input, from the last to the first."""

    def step(h, now):
        part, own = now
        return jnp.tanh(part @ p["read"] + h @ p["keep"] + jnp.sin(h) @ own), None

    return lax.scan(step, jnp.ones(4), (h.reshape(2, 2), p["blocks"]), reverse=True)[0]


def stepped(p: Any, shared: Any, h: Any) -> Any:
    """What a step of SGD makes of its layer, before it is used: SGD in SGD."""
    gradient = jax.grad(lambda d: (dense(d, h) ** 2).sum())(p["d"])
    return jnp.tanh(dense(jax.tree.map(lambda w, g: w - 0.1 * g, p["d"], gradient), jnp.sin(h)))


def split(p: Any, shared: Any, h: Any) -> Any:
    """A gate and its values lie in one kernel, and a row of it is skipped."""
    gate, values = jnp.split(h[1:] @ p["w"][1:, :4], 2)
    return jnp.concatenate([jax.nn.sigmoid(gate) * values, h @ p["w"][:, 4:]])


def jacobian(p: Any, shared: Any, h: Any) -> Any:
    """Rows of a derivative in the input, forward inside of backward."""
    pushed = jax.jacrev(lambda h: jax.jvp(lambda h: jnp.tanh(dense(p["d"], h)), (h,), (jnp.cos(h),))[1])(h)
    return pushed.sum(0)


D, W = {"d": layer(4, 4)}, {"w": (4, 4)}
BY_ARRAY = {  # taken over if each array has one rate
    "heads": Part({"d": layers(2, 4, 2)}, lambda p, s, h: jnp.tanh(jax.vmap(dense, (0, None))(p["d"], h)).reshape(-1), "d/kernel"),
    "odd axes": Part(
        {"w": (2, 2, 2), "b": (2, 2)},
        lambda p, s, h: jnp.tanh(jax.vmap(jnp.dot, (0, 1), 1)(h.reshape(2, 2), p["w"]) + p["b"]).reshape(-1),
        "w b",  # the bias is added behind a transpose of the product
    ),
    "scaled": Part(
        {"d": layer(2, 2), "scale": (2, 1), "s": ()},
        lambda p, s, h: p["s"] * jnp.tanh(p["scale"] * dense(p["d"], h.reshape(2, 2))).reshape(-1) + p["s"],
        "d/kernel",
    ),
}
PARTS: dict[str, Part] = BY_ARRAY | {
    # layers, once and again
    "dense": Part(D, lambda p, s, h: jnp.tanh(dense(p["d"], h)), "d/kernel"),
    "twice": Part(D, lambda p, s, h: jnp.tanh(dense(p["d"], jnp.sin(dense(p["d"], h)))), "d/kernel"),
    "first": Part({}, lambda p, s, h: jnp.tanh(dense(s["first"], h))),
    "turned": Part(W, lambda p, s, h: jnp.tanh(p["w"] @ h) + h @ s["first"]["kernel"].T),
    "tied": Part({}, lambda p, s, h: (s["table"] @ jnp.sin(h))[:4]),
    "rows": Part({"d": layer(2, 2)}, lambda p, s, h: jnp.sin(dense(p["d"], h.reshape(2, 2))).reshape(-1), "d/kernel"),
    "blocks": Part({"d": layers(2, 4, 4)}, lambda p, s, h: lax.scan(lambda h, d: (jnp.tanh(dense(d, h)), None), h, p["d"])[0]),
    "scanned": Part({"read": (2, 4), "keep": (4, 4), "blocks": (2, 4, 4)}, scanned),
    "counted": Part(W | {"b": (3, 4, 4)}, lambda p, s, h: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"] + h @ p["b"][i]), h)),
    "prefixes": Part(D, lambda p, s, h: jnp.tanh(lax.associative_scan(jnp.multiply, jnp.tanh(dense(p["d"], h)) + 1))),
    "gate": Part(D, lambda p, s, h: h * jax.nn.sigmoid(dense(p["d"], h)), "d/kernel"),
    "stopped": Part(D, lambda p, s, h: h * lax.stop_gradient(jax.nn.sigmoid(dense(p["d"], h)))),
    "norm": Part({"scale": (4,)}, lambda p, s, h: p["scale"] * (h - h.mean()) * lax.rsqrt(h.var() + 0.1)),
    "residual": Part(
        {"up": layer(4, 3), "down": layer(3, 4)},
        lambda p, s, h: h + dense(p["down"], jnp.tanh(dense(p["up"], h))),
        "up/kernel down/kernel",
    ),
    "attention": Part({"qkv": (2, 6)}, attend, "qkv"),
    "biases": Part(
        D | W | {"more": (4,)},
        lambda p, s, h: jnp.tanh(dense(p["d"], h) + p["more"]) * jnp.sin(h @ p["w"] + p["more"]),
        "d/kernel w",
    ),
    # derivatives inside, or said by hand
    "slope": Part(D, lambda p, s, h: jax.grad(lambda h: jnp.tanh(dense(p["d"], h)).sum())(h), "d/kernel"),
    "jacobian": Part(D, jacobian),
    "stepped": Part(D, stepped),
    "bent": Part(W, lambda p, s, h: jnp.tanh(half_learned(p["w"], h)) + reversed_gradient(h)),
    "bounded": Part(W, lambda p, s, h: jnp.tanh(bounded(p["w"], h))),
    "rounded": Part(D, lambda p, s, h: rounded(dense(p["d"], reversed_gradient(jnp.tanh(h)))), "d/kernel"),
    # one weight, in several ways, or in one that is no product with an input
    "autoencoder": Part({"w": (4, 5)}, lambda p, s, h: jnp.tanh(h @ p["w"]) @ p["w"].T),
    "penalty": Part(W, lambda p, s, h: jnp.tanh(h @ p["w"] + p["w"][1]) / (1 + (p["w"] ** 2).sum())),
    "split": Part({"w": (4, 6)}, split),
    "symmetric": Part(W, lambda p, s, h: jnp.tanh(h @ (p["w"] + p["w"].T))),
    "reshaped": Part({"w": (8, 2)}, lambda p, s, h: jnp.tanh(h @ p["w"].reshape(4, 4))),
    "beside": Part({"a": (4, 3), "b": (4, 1)}, lambda p, s, h: jnp.tanh(h @ jnp.concatenate([p["a"], p["b"]], 1))),
    "masked": Part(W, lambda p, s, h: jnp.tanh(h @ jnp.tril(p["w"]) + jnp.diag(p["w"]) * h + h @ (0.5 * p["w"]))),
    "expert": Part({"w": (3, 4, 4)}, lambda p, s, h: jnp.tanh(h @ p["w"][jnp.argmax(h[:3])])),
    "experts": Part(
        {"w": (3, 4, 4), "mix": (4, 3)},
        lambda p, s, h: jnp.tanh(h @ jnp.einsum("e,eij->ij", jax.nn.softmax(h @ p["mix"]), p["w"])),
    ),
    "product": Part({"a": (4, 2), "b": (2, 4)}, lambda p, s, h: jnp.tanh(h @ (p["a"] @ p["b"])) + jnp.tanh(p["b"][0] @ p["a"] @ p["b"])),
    "input": Part({"a": (4, 2), "b": (2, 4)}, lambda p, s, h: h * jnp.tanh(p["b"] @ p["a"] + p["b"][:, :2]).reshape(-1)),
    "bilinear": Part({"w": (4, 4, 4)}, lambda p, s, h: jnp.tanh(jnp.einsum("i,ijk,j->k", h, p["w"], jnp.cos(h)))),
    "left": Part(W, lambda p, s, h: jnp.tanh(p["w"] @ h + (p["w"] @ h.reshape(2, 2).repeat(2, 0)).sum(1))),
    "complex": Part(W, lambda p, s, h: jnp.tanh(jnp.fft.ifft(jnp.fft.fft(h @ p["w"]) * jnp.exp(1j * h)).real)),
}


def vmapped(part: Apply) -> Apply:
    return lambda p, shared, h: jax.vmap(lambda h: part(p, shared, h))(jnp.stack([h, jnp.cos(h)])).sum(0)


def dense_instead(p: Any, shared: Any, h: Any) -> Any:
    return dense(shared["first"], jnp.sin(h))


LIFTS: dict[str, Callable[[Apply], Apply]] = {
    "itself": lambda part: part,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "vmap": vmapped,
    "scan": lambda part: lambda p, shared, h: lax.scan(lambda h, _: (part(p, shared, h), None), h, length=2)[0],
    "cond": lambda part: lambda p, shared, h: lax.cond(h.sum() > 0, part, dense_instead, p, shared, h),
}


def composed(parts: list[tuple[str, str, str]]) -> Function:
    """An embedding, the first layer, the parts in a row, each lifted twice, and a layer for the logits."""
    shapes = {str(i): PARTS[part].shapes for i, (part, *_) in enumerate(parts)}

    def apply(p, x):
        h = dense(p["first"], p["table"][x])
        for i, (part, inner, outer) in enumerate(parts):
            h = LIFTS[outer](LIFTS[inner](PARTS[part].apply))(p[str(i)], p, h)
        return dense(p["out"], h)

    return Function(drawn({"table": (PLACES, 4), "first": layer(4, 4), "out": OUT} | shapes), apply)


GROUPS = [  # in every run of the suite, so that each way to use a weight is seen by it
    ("per-array", list(BY_ARRAY)),
    ("rank-one", ["first", "turned", "rows", "bent", "slope"]),
    ("rank-one", ["twice", "tied", "attention", "scanned", "bounded"]),
    ("fixed", ["biases", "autoencoder", "penalty", "split", "expert"]),
]
OTHERS = [name for name in PARTS if not any(name in parts for _, parts in GROUPS)]
MORE = [pytest.param("rank-one", OTHERS[i::4], id="+".join(OTHERS[i::4]), marks=pytest.mark.slow) for i in range(4)]


@pytest.mark.parametrize(("kind", "parts"), [pytest.param(*group, id="+".join(group[1])) for group in GROUPS] + MORE)
def test_networks_of_every_part(kind, parts):
    network = composed([(part, lift, "itself") for part, lift in zip(parts, itertools.cycle(("itself", "jit", "remat")))])
    loop, params, seqs = problem(InnerLoop(network, Categorical(), kind, 0.2, form="direct"))
    other = dual(loop, "kept")
    taken = {f"{i}/{name}" for i, part in enumerate(parts) for name in PARTS[part].taken.split()} | {"out/kernel"}
    assert taken <= other.form.plan(other, params.init, seqs.x).taken
    agree(loop, params, seqs, "kept")


@pytest.mark.parametrize(
    "parts", [pytest.param(parts, id="+".join(parts), marks=pytest.mark.slow if i else ()) for i, (_, parts) in enumerate(GROUPS)]
)
def test_networks_of_every_part_with_several_outputs_a_step(parts):
    """Mapped over the outputs of a step, what is taken over of a network is taken over as before."""
    network = composed([(part, "itself", "itself") for part in parts])
    loop, params, seqs = problem(InnerLoop(network, Categorical(), "rank-one", 0.2, inner_batch=4, form="direct"))
    several = dual(loop, "kept")
    single = dataclasses.replace(several, inner_batch=1)
    assert several.form.plan(several, params.init, seqs.x).taken == single.form.plan(single, params.init, seqs.x).taken
    agree(loop, params, seqs, "kept")


LISTS = st.lists(st.tuples(st.sampled_from(sorted(PARTS)), *[st.sampled_from(sorted(LIFTS))] * 2), min_size=1, max_size=3)
CHANCE = {
    "parts": LISTS,
    "kind": st.sampled_from(["rank-one", "per-array", "fixed"]),
    "chunk": st.integers(1, 7),
    "fold": st.booleans(),
}
UNSHRUNK = [Phase.explicit, Phase.generate]  # shrinking would compile for minutes


@pytest.mark.slow
@settings(max_examples=15, derandomize=True, phases=UNSHRUNK)
@given(**CHANCE)
def test_many_networks_by_chance(parts, kind, chunk, fold):
    agree_in_all(*problem(InnerLoop(composed(parts), Categorical(), kind, 0.2, form="direct")), Dual(chunk, fold, every_layer=True))


# ---------------------------------------------------------------- strangers


# As kinds, these are seen elsewhere: compiling takes seconds each
SLOW = ("Kernels", "a_part_of_weights_in_lists", "a_use_that_only_what_is_paid_reads", "numbers_as_inputs", "by_two_indices_and_beyond")
SLOW += ("constants", "float32_and_float64", "Lifted", "nnx", "haiku")
THOROUGH = ("rows_and_weights_are_the_output", "folded")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in STRANGERS])
def test_a_stranger_learns_the_same_in_both_forms(name):
    """With everything taken over that can be: at least what is used by products and lookups alone."""
    loop, params, seqs = make(name)
    other = dual(loop, "kept")
    assert STRANGERS[name].taken <= other.form.plan(other, params.init, seqs.x).taken
    agree(loop, params, seqs, "kept", STRANGERS[name].rtol)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=() if (name, form) == THOROUGH else pytest.mark.slow)
        for name in STRANGERS
        for form in ("folded", "chosen")
    ],
)
def test_a_stranger_learns_the_same_by_every_meta_gradient(name, form):
    agree_in_all(*make(name), form, STRANGERS[name].rtol)


def test_inputs_that_all_sequences_share():
    loop, params, seqs = make("slices")
    each = seqs._replace(x=np.broadcast_to(seqs.x[:1], seqs.x.shape))
    close(maml(dual(loop, "folded"), params, seqs._replace(x=seqs.x[:1])), maml(loop, params, each))


def test_a_gate_that_is_not_trained_through_learns_nothing():
    """In either form. And hard units learn by the soft ones' gradient, else they would not at all."""
    loop, params, seqs = make("Stopped")
    for each in (loop, dual(loop, "kept")):
        moved = jax.tree.map(lambda a, init: float(jnp.abs(a - init).max()), adapt(each, params, seqs)[0], params.init)
        assert moved["Dense_0"] == {"kernel": 0, "bias": 0} and min(moved["Dense_1"].values()) > 1e-3


def test_a_gradient_said_by_hand_is_half_of_what_it_would_be():
    """After one step, of the layer with a rule of its own, in either form."""

    def network(product):
        return Function(drawn({"table": (PLACES, 4), "w": (4, 4), "out": OUT}), partial(through, product))

    def through(product, p, x):
        return dense(p["out"], jnp.tanh(product(p["w"], p["table"][x])))

    loop, params, seqs = problem(InnerLoop(network(half_learned), Categorical(), "rank-one", 0.2, form="direct"))
    first = problems.steps(seqs, slice(1))
    textbook = dataclasses.replace(loop, network=network(lambda w, h: h @ w))
    moved = adapt(textbook, params, first)[0]["w"] - params.init["w"]
    assert norm(moved) > 1e-2
    for each in (loop, dual(loop, "kept")):
        close(adapt(each, params, first)[0]["w"], params.init["w"] + moved / 2)


def test_what_jax_cannot_differentiate_is_refused_alike():
    """A loop whose length is not known has no derivative backwards."""
    loop = InnerLoop(Loop(), Categorical(), form="direct")
    _, params, seqs = problem(loop)
    for each in (loop, dual(loop, "kept"), dual(loop, "chosen")):
        for function in (maml, reptile, adapt):
            with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax\.while_loop"):
                function(each, params, seqs)


def test_the_forms_can_be_held_against_each_other_by_a_user():
    loop, _, seqs = make("rows_and_weights_are_the_output")
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
    network = STRANGERS["containers"].network
    loop, again = (InnerLoop(Function(network.init, network.apply), Categorical()) for _ in range(2))
    assert loop == again and hash(loop) == hash(again)
    assert loop != InnerLoop(Function(network.init, lambda p, x: p.table[x][:3]), Categorical())
