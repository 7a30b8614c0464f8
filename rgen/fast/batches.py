"""Sequences side by side: parts the parameters, runs micro-batches, and gives their score a derivative."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rgen.batching import group_rows, over_sequences, pad_rows, ungroup_rows
from rgen.fast.capture import Layer
from rgen.fast.forward import Run, reread, run
from rgen.fast.memory import Kernel, by_tap, outer, over_batch, pairs_matrix, stacked
from rgen.fast.network import learning, learns
from rgen.fast.past import by_steps, change
from rgen.fast.plan import Plan, Purpose
from rgen.fast.rates import Factors, split_rates
from rgen.fast.step import Weights, enter, leave, split
from rgen.fast.sweep import sweep
from rgen.sequence import Prediction, Sequence, Trace
from rgen.unroll import Scoring


def prepare(loop: Any, params: Any, steps: Any, purpose: Purpose) -> tuple[Plan, Weights]:
    """The plan for steps [B, T, ...], and what it computes with, of an `InnerLoop` and its parameters.

    Raises:
      ValueError: parameters that are not in float32, where the precision is bfloat16.
    """
    if loop.form.precision == "bfloat16" and (others := {a.dtype.name for a in jax.tree.leaves(params)} - {"float32"}):
        raise ValueError(f"There are parameters in {', '.join(others)}; the precision 'bfloat16' sums up in float32 and needs all in that.")
    plan = loop.form.plan(loop, params.init, steps.x, steps.weight.shape[0], purpose)
    leaves = jax.tree.leaves(params.init)
    number = {leaf: k for k, leaf in enumerate(i for i, name in enumerate(plan.program.names) if learns(name, loop.fast))}
    rates = jax.tree.leaves(loop.rates(params))
    parts = split_rates(loop.rate_kind, params.rates, learning(params.init, loop.fast))

    def factors(layer: Layer) -> Factors:
        row, column = parts[number[layer.leaf]]
        constant = row if layer.bias is None else parts[number[layer.bias]][0]
        return _arranged(layer, *(a.astype(leaves[layer.leaf].dtype) for a in (row, constant, column)))

    return plan, Weights(
        {layer.leaf: layer.kernel(leaves) for layer in plan.layers},
        {leaf: factors(layer) for leaf, layer in plan.learning.items()},
        {i: leaves[i] for i in plan.carried},
        {i: jnp.broadcast_to(rates[number[i]], leaves[i].shape) for i in plan.carried},
        {i: leaves[i] for i in plan.fixed},
    )


def _arranged(layer: Layer, row: jax.Array, constant: jax.Array, column: jax.Array) -> Factors:
    """Rates of a layer's kernel; a row that is looked up has one rate."""
    heads, outputs = layer.heads, layer.outputs
    if layer.embed:
        return Factors(jnp.ones((heads, 1), row.dtype), jnp.broadcast_to(row, (heads, outputs)))
    row = row.reshape(heads, -1) if row.ndim else jnp.broadcast_to(row, (heads, layer.inputs))
    column = column.reshape(heads, -1) if column.ndim else jnp.broadcast_to(column, (heads, outputs))
    if layer.bias is None:
        return Factors(row, column)
    constant = constant.reshape(heads, 1) if constant.ndim else jnp.broadcast_to(constant, (heads, 1))
    return Factors(jnp.concatenate([row, constant], 1), column)


def known_inputs(plan: Plan, init: Any, x: jax.Array) -> dict[int, jax.Array]:
    """Inputs [..., T, H, r, m] of the layers whose inputs are known before the inner loop, for x [B, T, ...]: of each sequence, or once for
    all."""
    if not plan.foreseen:
        return {}
    leaves = dict(enumerate(jax.tree.leaves(init)))

    def of_step(x):
        found = {}
        for leaf, layer in plan.foreseen.items():
            operands = plan.program.evaluate(leaves, x, [use.operand for use in layer.uses], {})
            rows = [enter(layer, use, operand, leaves[leaf].dtype) for use, operand in zip(layer.uses, operands)]
            found[leaf] = jnp.concatenate(rows, 1)
        return found

    of_steps = jax.vmap(of_step)
    return of_steps(x[0]) if plan.shared else jax.vmap(of_steps)(x)


def pay_late(plan: Plan, params: Any, outs: dict[int, jax.Array], seqs: Sequence) -> jax.Array:
    """Nats [B, T] from the outputs [B, T, H, r, n] of layers that learn: all steps at once, as nothing else they depend on changes."""
    leaves = dict(enumerate(jax.tree.leaves(params.init)))
    logits = plan.program.closed.jaxpr.outvars[Prediction._fields.index("logits")]

    def step(now, outs):
        answers = {}
        for leaf, layer in plan.foreseen.items():
            for use, rows in zip(layer.uses, split(layer, outs[leaf])):
                answers[use] = lambda _, layer=layer, use=use, rows=rows: leave(layer, use, None, rows)
        (out,) = plan.program.evaluate(leaves, now.x, [logits], answers, answers.keys())
        return now.weight * plan.likelihood.nll(out, now.y)

    return over_sequences(lambda seq, outs: jax.vmap(step)(seq, outs), seqs, outs)


# ---------------------------------------------------------------- the score and its derivative


def map_sequences(plan: Plan, function: Callable, inputs: dict[int, jax.Array], steps: Any, *more: Any) -> Any:
    """`function(inputs, steps, *more)` of every sequence; foreseen inputs have no B if all sequences share them."""
    if plan.shared:
        return over_sequences(partial(function, inputs), steps, *more)
    return over_sequences(lambda steps, inputs, *more: function(inputs, steps, *more), steps, inputs, *more)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def score(plan: Plan, weights: Weights, inputs: dict[int, jax.Array], seqs: Sequence) -> Any:
    """Nats [B, T] of sequences of the plan's length. Differentiable once, in `weights` and `inputs`.

    Where what is paid is late: instead number of a leaf -> outputs [B, T, H, r, n] of the foreseen layers, on which it depends.

    `inputs`: number of a leaf -> inputs [B, T, H, r, m] of the layers whose inputs are foreseen; [T, ...] if all sequences share them.
    """
    return _score_forward(plan, weights, inputs, seqs)[0]


def _score_forward(plan, weights, inputs, seqs):
    def one(inputs, seq):
        done = run(plan, weights, Scoring(), inputs, seq)
        last = {leaf: done.pasts[leaf].kernel[0] for leaf, layer in plan.learning.items() if plan.fold and layer.varies}
        outs = {leaf: jnp.concatenate(by_steps(done.chunks.reads[leaf].out), 2) for leaf in plan.foreseen} if plan.late else None
        return done.trace.nll if outs is None else outs, done.chunks, last

    found, *left = map_sequences(plan, one, inputs, seqs)
    return found, (weights, inputs, tuple(left), seqs)


@jax.custom_jvp
def _once(tree: Any) -> Any:
    return tree


@_once.defjvp
def _refuse(primals, tangents):
    raise NotImplementedError(
        "The dual form has first derivatives only: a second derivative of the score was asked for. Use InnerLoop(form='direct')."
    )


def _score_backward(plan, residuals, ct):
    weights, inputs, left, seqs = residuals
    weights, ct = _once((weights, ct))

    def one(inputs, seq, left, ct):
        return sweep(plan, weights, inputs, left, seq, ct)

    ends = map_sequences(plan, one, inputs, seqs, left, ct)
    sums: Weights = jax.tree.map(lambda a: a.sum(0), ends.sums)
    kernels, factors, pulled = {}, dict(sums.factors), {}
    for leaf, layer in plan.learning.items():
        if layer.foreseen:
            g = all_taps(left[0].taps[leaf].g)
            by = (weights.kernels[leaf], weights.factors[leaf], inputs[leaf])
            kernels[leaf], factors[leaf], pulled[leaf] = reread_vjp(plan, layer, by, g, ends.foreseen[leaf])
        elif plan.fold:
            kernels[leaf] = layer.blocks(ends.later[leaf].sum(0))
        else:
            both = jax.tree.map(all_taps, (left[0].taps[leaf], ends.later[leaf]))
            kernels[leaf] = layer.blocks(pairs_matrix(layer, *jax.tree.map(over_batch, both)))
    for leaf, layer in plan.static.items():
        both = jax.tree.map(lambda a: over_batch(jax.vmap(by_tap)(a)), ends.static[leaf])
        kernels[leaf] = layer.blocks(pairs_matrix(layer, *both))
    return sums._replace(kernels=kernels, factors=factors), pulled, None


score.defvjp(_score_forward, _score_backward)


def reread_vjp(plan: Plan, layer: Layer, by: tuple, g: jax.Array, h: jax.Array) -> tuple[Kernel, Factors, jax.Array]:
    """What is owed to a foreseen layer's (kernel, rates, inputs), for taps g [B, H, T r, n] and cotangents h [B, T, H, r, n] of what it
    gives."""

    def outs(kernel, factors, x):
        each = partial(reread, plan, layer, kernel, factors)
        return jax.vmap(partial(each, x))(g) if plan.shared else jax.vmap(each)(x, g)

    out, pull = jax.vjp(outs, *by)
    return pull(jax.vmap(by_tap)(h).astype(out.dtype))


def all_taps(chunks: jax.Array) -> jax.Array:
    """[B, K, H, C r, k] to [B, H, T r, k]."""
    return jnp.moveaxis(chunks, 1, 2).reshape(len(chunks), chunks.shape[2], -1, chunks.shape[-1])


# ---------------------------------------------------------------- the other uses


def adapt(plan: Plan, weights: Weights, observer: Any, inputs: dict[int, jax.Array], steps: Any) -> tuple[dict[int, jax.Array], Trace]:
    """Runs over sequences: (number of a leaf -> its last weights [B, ...] if it learns, Trace [B, T])."""
    shapes = [aval.shape for aval in plan.program.avals]

    def one(inputs, steps):
        done, last = run(plan, weights, observer, inputs, steps), {}
        for leaf, layer in plan.learning.items():
            last |= layer.arrays(done.pasts[leaf].weights(layer, weights.factors[leaf]), shapes)
        return last | done.carried, done.trace

    return map_sequences(plan, one, inputs, steps)


def drift(plan: Plan, weights: Weights, inputs: dict[int, jax.Array], seqs: Sequence) -> tuple[dict, dict, dict, jax.Array]:
    """Runs over sequences and sums up how far they move the weights, without forming any sequence's last weights.

    Returns:
      (number of a leaf -> what it lost, summed up over sequences; sums of the gradients of tables that are never read again; sums of the
      cotangents of `inputs`, of the sequences if all share them; nats [B, T]).
    """

    def one(inputs, seq):
        done = run(plan, weights, Scoring(), inputs, seq)
        return done._replace(carried=jax.tree.map(jnp.subtract, weights.carried, done.carried))

    done: Run = map_sequences(plan, one, inputs, seqs)
    moved, pulled = jax.tree.map(lambda a: a.sum(0), done.carried), {}
    shapes = [aval.shape for aval in plan.program.avals]
    for leaf, layer in plan.learning.items():
        taps, factors = jax.tree.map(all_taps, done.chunks.taps[leaf]), weights.factors[leaf]
        if layer.foreseen:
            g = taps.g
            by = (weights.kernels[leaf], factors, inputs[leaf])
            h = jnp.moveaxis(g.reshape(*g.shape[:2], plan.length, -1, g.shape[-1]), 2, 1)
            # the inner loop's own gradients: with the taps as constants
            kernel, _, pulled[leaf] = reread_vjp(replace(plan, first_order=True), layer, by, g, h)
            moved |= layer.arrays(factors.row[:, :, None] * factors.column[:, None] * stacked(kernel), shapes)
        else:
            moved |= layer.arrays(change(layer, factors, jax.tree.map(over_batch, taps)), shapes)
    owed = {}
    for leaf, layer in plan.static.items():
        taps = jax.tree.map(lambda a: over_batch(jax.vmap(by_tap)(a)), done.static[leaf])
        owed |= layer.arrays(outer(layer.embed, layer.inputs, *taps), shapes)
    return moved, owed, pulled, done.trace.nll


# ---------------------------------------------------------------- micro-batches


def by_group(plan: Plan, params: Any, function: Callable, steps: Any) -> Any:
    """Runs `function` on the known inputs and the steps [B, T, ...] of micro-batches, filled up with steps and rows of weight 0.

    Returns:
      What it returns, stacked over micro-batches.
    """
    steps = pad_rows(steps, plan.length, axis=1)
    groups = group_rows(steps, plan.micro_batch, plan.devices)
    of_all = known_inputs(plan, params.init, steps.x) if plan.shared else None

    def run(steps):
        return function(known_inputs(plan, params.init, steps.x) if of_all is None else of_all, steps)

    if groups.weight.shape[0] == 1:
        return jax.tree.map(lambda a: a[None], run(jax.tree.map(lambda a: a[0], groups)))
    return jax.lax.map(run, groups)


def outputs(plan: Plan, groups: jax.Array, batch: int, length: int) -> jax.Array:
    """[groups, size, steps] to [batch, length]: undoes `by_group`'s stacking and filling."""
    return ungroup_rows(groups, batch, plan.devices)[:, :length]
