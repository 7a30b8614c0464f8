"""The dual form for whole batches: plans it, parts the parameters, runs micro-batches, and puts the results together again."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rgen.fast import dual
from rgen.fast.plan import Engine, join_weights, plan, split_weights
from rgen.fast.rates import expand_rates, factor_rates
from rgen.sequence import Array, Sequence, Trace
from rgen.unroll import GivenStep, Observer, pad_steps


def prepare(loop: Any, params: Any, x: Array) -> tuple[Engine, dual.Core]:
    """The plan for x [B, T, ...], and what it computes with, of an `InnerLoop` and its parameters."""
    engine = plan(loop.network, loop.likelihood, params.init, x, loop.choice, loop.first_order)
    layers = dict(engine.layers)
    base, small = split_weights(params.init, layers)
    _, rates = split_weights(expand_rates(loop.rate_kind, params.rates, params.init), layers)
    rates = jax.tree.map(lambda rate, w: jnp.broadcast_to(rate, w.shape), rates, small)
    return engine, dual.Core(base, {p: factor_rates(loop.rate_kind, params.rates, p, la) for p, la in layers.items()}, small, rates)


def score(loop: Any, params: Any, seqs: Sequence) -> jax.Array:
    """Nats [B, T], differentiable once in `params`."""
    engine, core = prepare(loop, params, seqs.x)
    nll = by_group(engine, lambda x, steps: dual.score(engine, core, x, *steps), seqs.x, _given(params, seqs))
    return _rows(nll, seqs.y.shape[0])[:, : seqs.y.shape[1]]


def adapt(loop: Any, params: Any, observer: Observer, x: Array, steps: Any) -> tuple[Any, Trace]:
    """Fast weights after the last step [B, ...], and the Trace [B, T]."""
    engine, core = prepare(loop, params, x)
    layers = dict(engine.layers)
    out = by_group(engine, lambda x, steps: dual.adapt(engine, core, observer, x, steps), x, steps)
    folds, small, (y, nll) = _rows(out, x.shape[0])
    base = {}
    for path, layer in layers.items():
        change = jax.vmap(lambda fold, path=path, layer=layer: dual.moved(layer, fold, core.factors[path]))(folds[path])
        base[path] = jax.tree.map(jnp.subtract, core.base[path], change)
    return join_weights(base, small, layers), Trace(y[:, : x.shape[1]], nll[:, : x.shape[1]])


def drift(loop: Any, params: Any, seqs: Sequence) -> tuple[Any, jax.Array]:
    """The initialization minus the mean of the final fast weights, and the nats [B, T]."""
    engine, core = prepare(loop, params, seqs.x)
    layers, (batch, length) = dict(engine.layers), seqs.y.shape
    folds, small, nll = by_group(engine, lambda x, steps: dual.drift(engine, core, x, steps), seqs.x, _given(params, seqs))
    folds, small = jax.tree.map(lambda a: a.sum(0) / batch, (folds, small))
    base = {path: dual.moved(layer, folds[path], core.factors[path]) for path, layer in layers.items()}
    return join_weights(base, small, layers), _rows(nll, batch)[:, :length]


def by_group(engine: Engine, function: Callable, x: Array, steps: Any) -> Any:
    """Runs `function` on micro-batches of x [B, T, ...] and steps [B, T], filled up with steps and rows of weight 0.

    Returns:
      What it returns, stacked over micro-batches.
    """
    x, steps = jax.vmap(lambda x, steps: pad_steps(x, steps, sum(engine.chunks)))(x, steps)
    size, groups = engine.micro_batch, math.ceil(x.shape[0] / engine.micro_batch)
    x, steps = pad_steps(x, steps, groups * size)
    if groups == 1:
        return jax.tree.map(lambda a: a[None], function(x, steps))
    return jax.lax.map(lambda part: function(*part), jax.tree.map(lambda a: a.reshape(groups, size, *a.shape[1:]), (x, steps)))


def _rows(stacked: Any, batch: int) -> Any:
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:batch], stacked)


def _given(params: Any, seqs: Sequence) -> GivenStep:
    return GivenStep(jnp.asarray(seqs.y), jnp.asarray(seqs.weight, jax.tree.leaves(params.init)[0].dtype))
