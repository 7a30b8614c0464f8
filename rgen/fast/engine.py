"""The dual form for whole batches: plans it, parts the parameters, runs micro-batches, and puts the results together again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from rgen.fast import dual
from rgen.fast.plan import Engine, join_weights, plan, split_weights
from rgen.fast.rates import expand_rates, factor_rates
from rgen.fast.taps import Path, inputs_of, learning, output_behind, overlaid
from rgen.sequence import Sequence, Trace, group_rows, over_sequences, pad_rows, paid, ungroup_rows
from rgen.unroll import Observer, Scoring


def prepare(loop: Any, params: Any, steps: Any, **use: bool) -> tuple[Engine, dual.Core]:
    """The plan for steps [B, T, ...], and what it computes with, of an `InnerLoop` and its parameters; `use` as for `plan`.

    Raises:
      ValueError: parameters that are not in float32, where the precision is bfloat16.
    """
    if loop.precision == "bfloat16" and (others := {a.dtype.name for a in jax.tree.leaves(params)} - {"float32"}):
        raise ValueError(f"There are parameters in {', '.join(others)}; the precision 'bfloat16' sums up in float32 and needs all in that.")
    engine = plan(loop, params.init, steps.x, batch=steps.weight.shape[0], **use)
    layers = dict(engine.layers)
    base, small = split_weights(params.init, layers, engine.outside)
    _, rates = split_weights(expand_rates(loop.rate_kind, params.rates, learning(params.init, loop.fast)), layers, engine.outside)
    rates = overlaid(jax.tree.map(jnp.zeros_like, small), rates)  # what is carried and does not learn has the rate 0
    rates = jax.tree.map(lambda rate, w: jnp.broadcast_to(rate, w.shape), rates, small)
    factors = {p: factor_rates(loop.rate_kind, params.rates, p, la) for p, la in engine.learning.items()}
    everything: Any = traverse_util.flatten_dict(params.init)
    outside = {name: everything[name] for name in engine.outside}
    return engine, dual.Core(base, factors, small, rates, outside)


def score(loop: Any, params: Any, seqs: Sequence) -> jax.Array:
    """Nats [B, T], differentiable once in `params`."""
    engine, core = prepare(loop, params, seqs)

    def of_group(inputs, steps):
        found: Any = dual.score(engine, core, inputs, steps)
        return pay_late(engine, params, found, steps) if engine.late else found

    return _outputs(by_group(engine, params, of_group, _cast(params, seqs)), *seqs.y.shape)


def pay_late(engine: Engine, params: Any, outs: dict[Path, jax.Array], seqs: Sequence) -> jax.Array:
    """Nats [B, T] from the outputs [B, T, *heads, r, n] of layers that learn: all steps at once, as nothing else they depend on changes."""

    def one(seq, outs):
        def step(now, outs):
            out = paid(output_behind(engine.network, params.init, outs, now.x))
            return now.weight * engine.likelihood.nll(out, now.y)

        return jax.vmap(step)(seq, outs)

    return over_sequences(one, seqs, outs)


def unroll(loop: Any, params: Any, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
    """Fast weights after the last step [B, ...], if they are wanted, and the Trace [B, T]."""
    engine, core = prepare(loop, params, steps, gradient=False, drawn=not isinstance(observer, Scoring), adapted=adapted)
    batch, length = steps.weight.shape
    base, small, (y, nll) = by_group(engine, params, partial(dual.adapt, engine, core, observer), steps)
    trace = Trace(_outputs(y, batch, length), _outputs(nll, batch, length))
    if not adapted:
        return None, trace
    fast = join_weights(ungroup_rows(base, batch), ungroup_rows(small, batch), engine.learning)
    return learning(fast, loop.fast), trace


def known_inputs(engine: Engine, params: Any, x: jax.Array) -> dict[Path, jax.Array]:
    """Inputs [..., T, *heads, r, m] of the layers whose inputs are known before the inner loop, for x [B, T, ...]: of each sequence, or
    once for all."""
    if not engine.foreseen:
        return {}
    dtype = jax.tree.leaves(params.init)[0].dtype
    outs = {path: jnp.zeros((*la.heads, la.taps, la.outputs), dtype) for path, la in engine.foreseen.items()}
    of_steps = jax.vmap(lambda x: inputs_of(engine.network, params.init, outs, engine.foreseen, x)[1])
    return of_steps(x[0]) if engine.shared else jax.vmap(of_steps)(x)


def drift(loop: Any, params: Any, seqs: Sequence) -> tuple[Any, jax.Array]:
    """The initialization minus the mean of the final fast weights, and the nats [B, T].

    An Embed that is read as it was initialized moves by its rate times its gradients' sum, whose part behind known inputs JAX takes on.
    """
    engine, core = prepare(loop, params, seqs, gradient=False)

    def of_group(inputs, steps):
        lost, small, owed, pulled, nll = dual.drift(engine, core, inputs, steps)
        (behind,) = jax.vjp(lambda init: known_inputs(engine, params._replace(init=init), steps.x), params.init)[1](pulled)
        return lost, small, owed, behind, nll

    *sums, nll = by_group(engine, params, of_group, _cast(params, seqs))
    lost, small, owed, behind = jax.tree.map(lambda a: a.sum(0) / seqs.y.shape[0], sums)
    moved = traverse_util.flatten_dict(join_weights(lost, small, engine.learning))
    rates = traverse_util.flatten_dict(expand_rates(loop.rate_kind, params.rates, params.init))
    behind: Any = traverse_util.flatten_dict(behind)
    for path, gradient in owed.items():
        behind[*path, "embedding"] += gradient
    moved = {name: moved[name] if name in moved else rates[name] * behind[name] for name in behind}
    return traverse_util.unflatten_dict(moved), _outputs(nll, *seqs.y.shape)


def by_group(engine: Engine, params: Any, function: Callable, steps: Any) -> Any:
    """Runs `function` on the known inputs and the steps [B, T, ...] of micro-batches, filled up with steps and rows of weight 0.

    Returns:
      What it returns, stacked over micro-batches.
    """
    steps = pad_rows(steps, engine.length, axis=1)
    groups = group_rows(steps, engine.micro_batch)
    of_all = known_inputs(engine, params, steps.x) if engine.shared else None

    def run(steps):
        return function(known_inputs(engine, params, steps.x) if of_all is None else of_all, steps)

    if groups.weight.shape[0] == 1:
        return jax.tree.map(lambda a: a[None], run(jax.tree.map(lambda a: a[0], groups)))
    return jax.lax.map(run, groups)


def _outputs(groups: jax.Array, batch: int, length: int) -> jax.Array:
    """[groups, size, steps] to [batch, length]: undoes `by_group`'s stacking and filling."""
    return ungroup_rows(groups, batch)[:, :length]


def _cast(params: Any, seqs: Sequence) -> Sequence:
    dtype = jax.tree.leaves(params.init)[0].dtype
    return Sequence(jnp.asarray(seqs.x), jnp.asarray(seqs.y), jnp.asarray(seqs.weight, dtype))
