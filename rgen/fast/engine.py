"""The dual form for whole batches: plans it, parts the parameters, runs micro-batches, and puts the results together again."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rgen.fast import dual
from rgen.fast.plan import Engine, join_weights, plan, split_weights
from rgen.fast.rates import expand_rates, factor_rates
from rgen.sequence import Array, Sequence, Trace, pad_rows
from rgen.unroll import Observer


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
    nll = by_group(engine, lambda seqs: dual.score(engine, core, seqs), _cast(params, seqs))
    return _rows(nll, seqs.y.shape)


def adapt(loop: Any, params: Any, observer: Observer, steps: Any) -> tuple[Any, Trace]:
    """Fast weights after the last step [B, ...], and the Trace [B, T]."""
    engine, core = prepare(loop, params, steps.x)
    layers, shape = dict(engine.layers), steps.weight.shape
    folds, small, trace = by_group(engine, lambda steps: dual.adapt(engine, core, observer, steps), steps)
    folds, small = _rows((folds, small), shape[:1])
    base = {}
    for path, layer in layers.items():
        change = jax.vmap(lambda fold, path=path, layer=layer: dual.moved(layer, fold, core.factors[path]))(folds[path])
        base[path] = jax.tree.map(jnp.subtract, core.base[path], change)
    return join_weights(base, small, layers), Trace(*_rows(trace, shape))


def drift(loop: Any, params: Any, seqs: Sequence) -> tuple[Any, jax.Array]:
    """The initialization minus the mean of the final fast weights, and the nats [B, T]."""
    engine, core = prepare(loop, params, seqs.x)
    layers = dict(engine.layers)
    folds, small, nll = by_group(engine, lambda seqs: dual.drift(engine, core, seqs), _cast(params, seqs))
    folds, small = jax.tree.map(lambda a: a.sum(0) / seqs.y.shape[0], (folds, small))
    base = {path: dual.moved(layer, folds[path], core.factors[path]) for path, layer in layers.items()}
    return join_weights(base, small, layers), _rows(nll, seqs.y.shape)


def by_group(engine: Engine, function: Callable, steps: Any) -> Any:
    """Runs `function` on micro-batches of steps [B, T, ...], filled up with steps and rows of weight 0.

    Returns:
      What it returns, stacked over micro-batches.
    """
    steps = jax.vmap(lambda steps: pad_rows(steps, sum(engine.chunks)))(steps)
    size, groups = engine.micro_batch, math.ceil(steps.weight.shape[0] / engine.micro_batch)
    steps = pad_rows(steps, groups * size)
    if groups == 1:
        return jax.tree.map(lambda a: a[None], function(steps))
    return jax.lax.map(function, jax.tree.map(lambda a: a.reshape(groups, size, *a.shape[1:]), steps))


def _rows(stacked: Any, shape: tuple[int, ...]) -> Any:
    """Undoes `by_group`'s stacking and filling: arrays [groups, size, ...] to the leading `shape`, (B,) or (B, T)."""
    cut = tuple(slice(n) for n in shape)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[cut], stacked)


def _cast(params: Any, seqs: Sequence) -> Sequence:
    dtype = jax.tree.leaves(params.init)[0].dtype
    return Sequence(jnp.asarray(seqs.x), jnp.asarray(seqs.y), jnp.asarray(seqs.weight, dtype))
