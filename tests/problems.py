"""Tiny sequence problems, one for each network, kind of rates and likelihood, shared by the tests of the inner loop.

T is 7 for text, which the segments of the unrolled loop do not fill, and 6 for images, which they do. Nothing stands at the special
value it is initialized with: all parameters are float64 with noise added. Both FORMS of the inner loop pass the same tests.
"""

import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgen import meta, networks
from rgen.fast import InnerLoop, Params
from rgen.fast.functions import learning
from rgen.fast.rates import init_rates
from rgen.likelihood import Bernoulli, Categorical
from rgen.sequence import Sequence

FORMS = ("direct", "dual")
SYMBOLS = 3  # of the text problems
SHAPES = {"text": (7,), "image": (2, 3)}
SIZES: dict[str, dict[str, Any]] = {
    "text-mlp": {"features": 5, "widths": (6, 4)},
    "text-heads": {"width": 6, "depth": 1, "heads": 2, "keys": 4},
    "lstm-block": {"features": 3, "width": 4, "depth": 1},
    "siren": {"widths": (5, 4)},
    "gated": {"features": 3, "width": 4},
    "image-heads": {"width": 6, "depth": 1, "heads": 6, "keys": 4},
}
# name -> (network, kind of rates): every network, every kind with either likelihood
PROBLEMS = {
    "text-mlp": ("text-mlp", "fixed"),
    "text-mlp per-array": ("text-mlp", "per-array"),
    "text-heads": ("text-heads", "rank-one"),
    "lstm-block": ("lstm-block", "per-array"),
    "siren": ("siren", "fixed"),
    "gated": ("gated", "rank-one"),
    "image-heads": ("image-heads", "rank-one"),
    "text-heads partly": ("text-heads", "rank-one"),
    "image-heads by memory": ("image-heads", "rank-one"),
}
# where not everything does
LEARNS = {"text-heads partly": ("heads/memory", "norm_0", "logits/bias"), "image-heads by memory": ("heads/memory",)}
BY_MEMORY = ("text-heads", "image-heads by memory")  # where the inner loop descends other nats than those that are paid
CONTEXT = {"text-heads partly": 2}  # where the last outputs are read too
NAMES = tuple(PROBLEMS)
FAST = ("text-mlp per-array", "image-heads")  # for what need not be seen on every network
FIXED = ("text-mlp", "siren")  # one inner rate


class Problem(NamedTuple):
    loop: InnerLoop
    params: Params
    seqs: Sequence


@cache
def make(name: str, form: str = "direct") -> Problem:
    """The problem of a name: a loop, float64 parameters and a batch of 2 sequences; those of text-mlp have steps of weight 0."""
    loop = with_form(build_loop(name), form)
    text = isinstance(loop.likelihood, Categorical)
    x, rng = inputs(SHAPES["text" if text else "image"]), np.random.default_rng(0)
    first = loop.one_input(x[0])
    weights = jit(loop.network.init)(jax.random.key(0), first)["params"]  # what loop.init does, compiled quickly
    params = disturbed(Params(weights, init_rates(loop.rate_kind, learning(weights, loop.fast), loop.rate or 0.1)), rng)
    y = rng.integers(SYMBOLS if text else 2, size=(2, len(x)))
    weight = np.ones(y.shape)
    if name.startswith("text-mlp"):
        weight[0, 2], weight[1, -2:] = 0, 0
    x = np.stack([x, x if text else rng.permutation(x)])
    return Problem(loop, params, Sequence(x, y, weight))


def build_loop(name: str, rate: float = 0.1) -> InnerLoop:
    network, kind = PROBLEMS[name]
    text = network.startswith("text")
    sizes = SIZES[network] | ({"context": CONTEXT[name], "features": 2} if name in CONTEXT else {})
    sizes |= {"inner_loss": "memory"} if name in BY_MEMORY else {}
    module = networks.build(network, SHAPES["text" if text else "image"], SYMBOLS if text else 1, **sizes)
    return InnerLoop(module, Categorical() if text else Bernoulli(), kind, rate, LEARNS.get(name))


def with_form(loop: InnerLoop, form: str) -> InnerLoop:
    return dataclasses.replace(loop, form=form)


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    """Positions [T], or (row, column) of pixels in raster order [T, 2]."""
    places = np.argwhere(np.ones(shape))
    return places if len(shape) > 1 else places[:, 0]


def disturbed(tree: Any, rng: np.random.Generator) -> Any:
    """Float64 parameters; the rate of kind "fixed", which is not a logarithm, is scaled."""

    def one(path, a):
        a, noise = jnp.asarray(a, float), 0.3 * rng.standard_normal(a.shape)
        return a * np.exp(noise) if "fixed" in jax.tree_util.keystr(path) else a + noise

    return jax.tree_util.tree_map_with_path(one, tree)


def every_sequence(symbols: int, length: int) -> np.ndarray:
    """All sequences of an alphabet: [symbols ** length, length]."""
    return np.indices((symbols,) * length).reshape(length, -1).T


def batch(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Sequence:
    """Sequences that share the inputs x [T, ...], for outputs y [B, T]."""
    return Sequence(np.broadcast_to(x, (len(y), *x.shape)), y, np.ones(y.shape) if weight is None else weight.astype(float))


def steps(seqs: Sequence, choice: Any) -> Sequence:
    """Only the chosen steps (slice or indices) of a batch."""
    return Sequence(*(np.asarray(a)[:, choice] for a in seqs))


def _quick() -> dict[str, Any]:
    """Options that compile four times as fast on a CPU; what they make is slower, which does not matter here."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # another XLA, which does not know one of them
        return {}
    return options


# Compiled once for all tests of a process: compiling is what the suite spends its time on.
jit = partial(jax.jit, compiler_options=_quick())
score = jit(lambda model, params, seqs: model.score(params, seqs), static_argnums=0)
sample = jit(lambda model, params, x, keys, given=None: model.sample(params, x, keys, given), static_argnums=0)
adapt = jit(InnerLoop.adapt, static_argnums=0)
maml = jit(meta.maml, static_argnums=0)
first_order_maml = jit(meta.first_order_maml, static_argnums=0)
reptile = jit(meta.reptile, static_argnums=0)
