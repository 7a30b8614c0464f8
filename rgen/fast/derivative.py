"""Sequences side by side: what they are run with, and their score and its derivative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rgen.batching import each, group_rows, over_sequences, pad_rows, ungroup_rows
from rgen.fast.capture import Layer
from rgen.fast.forward import reread, run
from rgen.fast.functions import learning, learns
from rgen.fast.loop import Params
from rgen.fast.memory import by_tap, pairs_matrix
from rgen.fast.past import by_steps
from rgen.fast.plan import LEARNED, Plan
from rgen.fast.rates import Factors, split_rates
from rgen.fast.step import Weights, enter, leave, split
from rgen.fast.sweep import sweep
from rgen.sequence import PyTree, Sequence
from rgen.unroll import Scoring


def weights_of(plan: Plan, params: Params) -> Weights:
    """The parameters, parted as the plan says."""
    loop, leaves = plan.loop, jax.tree.leaves(params.init)
    learned = [i for i, name in enumerate(plan.program.names) if learns(name, loop.fast)]
    rates = dict(zip(learned, jax.tree.leaves(loop.rates(params))))
    parts = dict(zip(learned, split_rates(loop.rate_kind, params.rates, learning(params.init, loop.fast))))

    def factors(layer: Layer) -> Factors:
        """Rates of a layer's kernel; a row that is looked up has one rate."""

        def spread(rate, size):
            rate = rate.astype(leaves[layer.leaf].dtype)
            return jnp.broadcast_to(rate.reshape(layer.heads, -1) if rate.ndim else rate, (layer.heads, size))

        row, column = parts[layer.leaf]
        if layer.embed:
            return Factors(jnp.ones((layer.heads, 1), leaves[layer.leaf].dtype), spread(row, layer.outputs))
        rows = [spread(row, layer.inputs)] + ([] if layer.bias is None else [spread(parts[layer.bias][0], 1)])
        return Factors(jnp.concatenate(rows, 1), spread(column, layer.outputs))

    return Weights(
        {layer.leaf: layer.kernel(*(leaves[leaf] for leaf in layer.leaves)) for layer in plan.layers},
        {leaf: factors(layer) for leaf, layer in plan.learning.items()},
        {i: leaves[i] for i in plan.carried},
        {i: jnp.broadcast_to(rates[i], leaves[i].shape) for i in plan.carried},
        {i: leaves[i] for i in plan.fixed},
    )


def foreseen_inputs(plan: Plan, init: PyTree, steps: PyTree, shared: bool) -> dict[int, jax.Array]:
    """Inputs of the foreseen layers for steps [B, J, K, ...]: [J, H, R, M] of those that are shared, or [B, J, H, R, M] of the others."""
    wanted = {leaf: layer for leaf, layer in plan.foreseen.items() if (leaf not in plan.unshared) == shared}
    if not wanted:
        return {}
    leaves = dict(enumerate(jax.tree.leaves(init)))

    def of_step(x):
        found = {}
        for leaf, layer in wanted.items():
            operands = plan.program.evaluate(leaves, x, [use.operand for use in layer.uses], {})
            rows = [enter(layer, use, operand, leaves[leaf].dtype) for use, operand in zip(layer.uses, operands)]
            found[leaf] = jnp.concatenate(rows, 1)
        return found

    if shared:
        return jax.vmap(of_step)(jax.tree.map(lambda a: a[0], steps.x))
    return over_sequences(lambda steps: jax.vmap(of_step)(steps.x), steps)


def pay_late(plan: Plan, params: Params, outs: dict[int, jax.Array], seqs: Sequence) -> jax.Array:
    """Nats [B, J, K] from the outputs [B, J, H, R, N] of layers that learn: all steps at once, as nothing else they need changes."""
    leaves = dict(enumerate(jax.tree.leaves(params.init)))
    logits = plan.program.closed.jaxpr.outvars[1 - LEARNED]

    def step(now, outs):
        given = {}
        for leaf, layer in plan.foreseen.items():
            given |= {use.result: leave(layer, use, None, rows) for use, rows in zip(layer.uses, split(layer, outs[leaf]))}
        (out,) = plan.program.evaluate(leaves, now.x, [logits], {}, given)
        return now.weight * each(plan.loop.likelihood.nll, out, now.y)

    return over_sequences(lambda seq, outs: jax.vmap(step)(seq, outs), seqs, outs)


# ---------------------------------------------------------------- the score and its derivative


def map_sequences(plan: Plan, function: Callable, inputs: dict[int, jax.Array], steps: PyTree, *more: Any) -> PyTree:
    """`function(inputs, steps, *more)` of every sequence; foreseen inputs have no B if all sequences share them."""
    unshared = {leaf: inputs[leaf] for leaf in inputs.keys() & plan.unshared}
    return over_sequences(lambda steps, unshared, *more: function(inputs | unshared, steps, *more), steps, unshared, *more)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def score(plan: Plan, weights: Weights, inputs: dict[int, jax.Array], seqs: Sequence) -> PyTree:
    """Nats [B, J, K] of sequences of the plan's length. Differentiable once, in `weights` and `inputs`.

    If the plan is late, instead the outputs from which `pay_late` computes them: number of a leaf -> [B, T, H, R, N].

    Args:
      inputs: number of a leaf -> [B, T, H, R, M], of the foreseen layers; [T, ...] if all sequences share them.
    """
    return _score_forward(plan, weights, inputs, seqs)[0]


def _score_forward(plan, weights, inputs, seqs):
    def one(inputs, seq):
        done = run(plan, weights, Scoring(), inputs, seq)
        last = {leaf: done.memories[leaf].kernel[0] for leaf, layer in plan.learning.items() if plan.fold and layer.varies}
        found: Any = done.trace.nll
        if plan.late:
            found = {leaf: jnp.concatenate(by_steps(done.chunks.reads[leaf].out), 2) for leaf in plan.foreseen}
        return found, (done.chunks, last)

    found, left = map_sequences(plan, one, inputs, seqs)
    return found, (weights, inputs, left, seqs)


@jax.custom_jvp
def _once(tree: PyTree) -> PyTree:
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

    swept = map_sequences(plan, one, inputs, seqs, left, ct)
    sums: Weights = jax.tree.map(lambda a: a.sum(0), swept.sums)
    kernels, factors, to_inputs = {}, dict(sums.factors), {}
    for leaf, layer in plan.learning.items():
        taps = left[0].taps[leaf]
        if layer.foreseen:
            by = weights.kernels[leaf], weights.factors[leaf], inputs[leaf]
            kernels[leaf], factors[leaf], to_inputs[leaf] = reread_vjp(plan, layer, by, all_taps(taps.g), all_taps(swept.foreseen[leaf]))
        elif plan.fold:
            kernels[leaf] = layer.blocks(swept.later[leaf].sum(0))
        else:
            kernels[leaf] = summed_pairs(layer, (taps, swept.later[leaf]))
    for leaf, layer in plan.static.items():
        kernels[leaf] = summed_pairs(layer, swept.static[leaf])
    return sums._replace(kernels=kernels, factors=factors), to_inputs, None


score.defvjp(_score_forward, _score_backward)


def summed_pairs(layer: Layer, pieces: tuple) -> tuple[jax.Array, ...]:
    """L of all sequences, as a kernel, from their (taps, pairs) [B, K, H, S, .]."""
    return layer.blocks(pairs_matrix(layer.inputs, *jax.tree.map(flat, pieces)))


def reread_vjp(plan: Plan, layer: Layer, by: tuple, g_BxHxSxN: jax.Array, h_BxHxSxN: jax.Array) -> tuple:
    """What is owed to a foreseen layer's (kernel, rates, inputs), for given g and the cotangents h of what it gives."""

    def outs(kernel, factors, x):
        of_one = partial(reread, plan, layer, kernel, factors)
        return jax.vmap(of_one)(x, g_BxHxSxN) if layer.leaf in plan.unshared else jax.vmap(partial(of_one, x))(g_BxHxSxN)

    out, pull = jax.vjp(outs, *by)
    return pull(h_BxHxSxN.astype(out.dtype))


def all_taps(pieces_BxKxHxSxM: jax.Array) -> jax.Array:
    """[B, H, K S, M]: the taps of all K chunks or steps."""
    return jax.vmap(by_tap)(pieces_BxKxHxSxM)


def flat(pieces_BxKxHxSxM: jax.Array) -> jax.Array:
    """[H, B K S, M]: those of all sequences."""
    return by_tap(all_taps(pieces_BxKxHxSxM))


# ---------------------------------------------------------------- micro-batches


def by_group(plan: Plan, params: PyTree, function: Callable, steps: PyTree) -> PyTree:
    """Runs `function` on the foreseen inputs and the steps [B, T, ...] of micro-batches, filled up with steps and rows of weight 0.

    Returns:
      What it returns, stacked over micro-batches.
    """
    steps = pad_rows(steps, plan.length, axis=1)
    groups = group_rows(steps, plan.micro_batch, plan.devices)
    shared = foreseen_inputs(plan, params.init, steps, shared=True)

    def run(steps):
        return function(shared | foreseen_inputs(plan, params.init, steps, shared=False), steps)

    if groups.weight.shape[0] == 1:
        return jax.tree.map(lambda a: a[None], run(jax.tree.map(lambda a: a[0], groups)))
    return jax.lax.map(run, groups)


def ungroup_steps(plan: Plan, groups: jax.Array, batch: int, length: int) -> jax.Array:
    """[groups, size, steps, K] to [batch, length, K]: undoes `by_group`'s stacking and filling."""
    return ungroup_rows(groups, batch, plan.devices)[:, :length]
