"""One inner step in dual form: predict, pay, learn. JAX differentiates it as it stands, once for the taps and once for the sweep.

Axes in names: those of memory.py, and R rows of one use of a layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer, Use
from rgen.fast.loop import descend
from rgen.fast.memory import Kernel, Taps
from rgen.fast.plan import LEARNED, Plan
from rgen.fast.rates import Factors
from rgen.sequence import PyTree, paid
from rgen.unroll import Observe, pay, scaled


class Weights(NamedTuple):
    """What the dual form is differentiable in; keys are numbers of leaves of the parameters.

    Attributes:
      kernels: [H, M, N], in blocks, of the layers taken over, with the bias as the last row.
      factors: the rates of those that learn.
      carried, rates: the ordinary fast weights, and a rate for each.
      fixed: weights that are the same at every step.
    """

    kernels: dict[int, Kernel]
    factors: dict[int, Factors]
    carried: dict[int, jax.Array]
    rates: dict[int, jax.Array]
    fixed: dict[int, jax.Array]


class Reads(NamedTuple):
    """Of every use of a layer: what was read of the weights, and the cotangent of its input in the inner loop (None: there is none)."""

    out: tuple[jax.Array, ...]
    back: tuple[PyTree, ...]


class Stepped(NamedTuple):
    """What a step leaves.

    Attributes:
      carried: the carried weights after it.
      taps, reads: number of a leaf -> what the step left in a layer, and read of it.
      seen: what the observer remembers.
      y, nats: the output, and its weighted nats.
    """

    carried: dict[int, jax.Array]
    taps: dict[int, Taps]
    reads: dict[int, Reads]
    seen: PyTree
    y: jax.Array
    nats: jax.Array


# (layer, number of the use, operand as rows [H, R, .] or None if it is not looked at) -> what is read
Answer = Callable[[Layer, int, Any], jax.Array]


def step(plan: Plan, answer: Answer, weights: Weights, carried: dict, x: PyTree, observe: Observe) -> Stepped:
    """Predicts, pays and learns. Zeros are added to what enters and leaves the layers that are taken over: the gradients by them are the
    cotangents of which taps are made."""
    types = {leaf: kernel[0].dtype for leaf, kernel in weights.kernels.items()}
    into = {layer.leaf: _zeros(layer, types, entering=True) for layer in plan.layers if layer.varies}
    out_of = {layer.leaf: _zeros(layer, types, entering=False) for layer in plan.layers}

    def predict(into, out_of, carried):
        met = {layer.leaf: _unmet(layer, into.get(layer.leaf), out_of[layer.leaf]) for layer in plan.layers}

        def respond(layer, number, operand: Any = None):
            use, rows = layer.uses[number], None
            if not layer.foreseen:
                rows = enter(layer, use, operand, types[layer.leaf])
                rows = rows if layer.embed else rows + into[layer.leaf][number]
            out = answer(layer, number, rows)
            met[layer.leaf][number] = rows, out
            return leave(layer, use, operand, out + out_of[layer.leaf][number])

        answers, given = {}, {}
        for layer in plan.layers:
            for number, use in enumerate(layer.uses):
                if layer.foreseen:
                    given[use.result] = respond(layer, number)
                else:
                    answers[use] = partial(respond, layer, number)
        program, leaves = plan.program, {**weights.fixed, **carried}
        returned = program.closed.jaxpr.outvars
        if plan.late:
            return program.evaluate(leaves, x, [returned[LEARNED]], answers, given)[0], met
        return jax.tree.unflatten(program.tree, program.evaluate(leaves, x, returned, answers, given)), met

    out, pull, met = jax.vjp(predict, into, out_of, carried, has_aux=True)
    seen, y, weight = observe(paid(out))
    nll, lesson = pay(plan.loop.likelihood, out, y)
    backs, gs, gradient = pull(scaled(weight, lesson))
    taps = {layer.leaf: _taps(layer, met[layer.leaf], gs[layer.leaf]) for layer in plan.layers}
    reads = {leaf: Reads(tuple(out for _, out in m), backs.get(leaf, (None,) * len(m))) for leaf, m in met.items()}
    if plan.loop.first_order:
        taps, gradient = jax.lax.stop_gradient((taps, gradient))
    return Stepped(descend(carried, weights.rates, gradient), taps, reads, seen, y, weight * nll)


def enter(layer: Layer, use: Use, operand: jax.Array, dtype: Any) -> jax.Array:
    """The operand of a use as rows [H, R, .]: with a 1 for the bias, or row numbers, one-hot if the table is used otherwise too."""
    rows = use.form.into_rows(operand)
    if layer.embed:
        return rows
    if use.lookup:
        return jax.nn.one_hot(rows[..., 0], layer.inputs, dtype=dtype)
    rows = rows.astype(dtype)
    return rows if layer.bias is None else jnp.concatenate([rows, jnp.ones((*rows.shape[:-1], 1), dtype)], -1)


def leave(layer: Layer, use: Use, operand: Any, rows_HxRxN: jax.Array) -> jax.Array:
    """The result of a use: of rows that a table does not have, NaN, as JAX gives."""
    if use.lookup:
        rows_HxRxN = jnp.where(use.form.into_rows(operand) >= layer.inputs, jnp.nan, rows_HxRxN)
    return use.form.from_rows(rows_HxRxN).astype(use.result.aval.dtype)


def _zeros(layer: Layer, types: dict[int, Any], entering: bool) -> tuple[jax.Array, ...]:
    """Like what enters or leaves each use of a layer."""
    widths = [layer.width if entering != use.transposed else layer.outputs for use in layer.uses]
    return tuple(jnp.zeros((layer.heads, use.form.rows, n), types[layer.leaf]) for use, n in zip(layer.uses, widths))


def _unmet(layer: Layer, into: Any, out_of: tuple[jax.Array, ...]) -> list[tuple[PyTree, jax.Array]]:
    """(operand, result) of every use as if it were not there: nothing may need what it gives."""
    nowhere = jnp.full((1, layer.taps, 1), layer.inputs, jnp.int32)
    return list(zip(split(layer, nowhere) if layer.embed else into or [None] * len(out_of), out_of))


def _taps(layer: Layer, met: list, gs: tuple[jax.Array, ...]) -> Taps:
    """x and g of all uses of a layer, one after the other; where W is used transposed, their roles are exchanged."""
    sides = [(g, rows) if use.transposed else (rows, g) for use, (rows, _), g in zip(layer.uses, met, gs)]
    xs, gs = zip(*sides)
    return Taps(None if layer.foreseen else jnp.concatenate(xs, 1), jnp.concatenate(gs, 1))


def split(layer: Layer, rows_HxRxK: jax.Array) -> tuple[jax.Array, ...]:
    """Rows of all uses, as those of each."""
    return tuple(rows_HxRxK[:, use.first : use.first + use.form.rows] for use in layer.uses)
