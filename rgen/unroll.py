"""One scan over a sequence, for every model: score what is given, draw what is not."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.likelihood import Likelihood
from rgen.sequence import Given, Sequence, Trace

# (state, x, observe) -> (state, Trace): predict from x, let `observe(logits)` say what the output is and what it counts, learn it.
Observe = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Advance = Callable[[Any, jax.Array, Observe], tuple[Any, Trace]]


class Drawing(NamedTuple):
    """How the outputs of ONE sequence are drawn: per-step keys [T], what is known already, the output that ends it."""

    keys: jax.Array
    given: Given
    end: int | None


def drawing(key: jax.Array, length: int, given: Given | None, end: int | None) -> Drawing:
    """Splits one key over the steps; without `given`, nothing is known."""
    keys = jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(length))
    if given is None:
        given = Given(y=jnp.zeros(length, jnp.int32), known=jnp.zeros(length, bool))
    return Drawing(keys, given, end)


def score(advance: Advance, state: Any, seq: Sequence) -> tuple[Any, Trace]:
    """Runs over one given sequence.

    Differentiating it costs memory for about 2 sqrt(T) states instead of T: the scan is cut into segments, and the backward pass
    computes the inside of a segment again (Chen et al. 2016, arXiv:1604.06174). For any T: the last segment is filled up with steps
    of weight 0, which change nothing.

    Returns:
      (last state, Trace of [T]).
    """
    length = seq.y.shape[0]
    segments = math.ceil(length / math.ceil(math.sqrt(length)))
    size = math.ceil(length / segments)
    filled = jax.tree.map(lambda a: jnp.pad(a, [(0, segments * size - length)] + [(0, 0)] * (a.ndim - 1)), seq)
    filled = jax.tree.map(lambda a: a.reshape(segments, size, *a.shape[1:]), filled)

    def step(state, now):
        return advance(state, now.x, lambda logits: (now.y, now.weight.astype(logits.dtype)))

    # prevent_cse: a scan's body is compiled on its own, so nothing can be merged with the forward pass
    segment = jax.checkpoint(lambda state, steps: jax.lax.scan(step, state, steps), prevent_cse=False)
    state, trace = jax.lax.scan(segment, state, filled)
    return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], trace)


def sample(advance: Advance, state: Any, x: jax.Array, likelihood: Likelihood, drawing: Drawing) -> tuple[Any, Trace]:
    """Runs over the inputs x [T, ...] of one sequence and draws its outputs.

    After the output `drawing.end` the sequence has ended: all further outputs are `end`, cost nothing and teach nothing.
    """
    keys, given, end = drawing

    def step(carry, now):
        state, ended = carry
        x, y, known, key = now

        def observe(logits):
            chosen = jnp.where(known, y, likelihood.sample(key, logits)).astype(jnp.int32)
            return (chosen if end is None else jnp.where(ended, end, chosen)), jnp.where(ended, 0, 1).astype(logits.dtype)

        state, trace = advance(state, x, observe)
        return (state, ended if end is None else ended | (trace.y == end)), trace

    (state, _), trace = jax.lax.scan(step, (state, jnp.array(False)), (x, given.y, given.known, keys))
    return state, trace
