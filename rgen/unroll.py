"""What an unrolled sequence model does at each step, whatever the model: outputs are given and scored, or drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, pad_rows


class Observer(Protocol):
    """Says what the output of a step is, once its logits are known. Frozen and hashable.

    Attributes:
      end: the output that ends a sequence; None if they all go on to the last step.
    """

    @property
    def end(self) -> int | None: ...

    def __call__(self, ended: jax.Array, now: Any, logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(whether the sequence has ended, the step's part of the inputs, logits) -> (ended, y, weight)."""
        ...


class DrawnStep(NamedTuple):
    """Inputs of `Drawing`: x [T, ...], the others [T]; y counts where `known`."""

    x: Array
    key: Array
    y: Array
    known: Array
    weight: Array


@dataclass(frozen=True)
class Scoring:
    """Outputs are given: the steps are those of a `Sequence`."""

    end: None = None

    def __call__(self, ended, now, logits):
        return ended, now.y, now.weight.astype(logits.dtype)


@dataclass(frozen=True)
class Drawing:
    """Outputs are drawn where they are not known. After the output `end` all further ones are `end`, cost and teach nothing."""

    likelihood: Likelihood
    end: int | None
    decoding: Decoding = PLAIN

    def __call__(self, ended, now, logits):
        y = jnp.where(now.known, now.y, self.decoding.draw(now.key, self.likelihood.log_probs(logits))).astype(jnp.int32)
        weight = now.weight.astype(logits.dtype)
        if self.end is None:
            return ended, y, weight
        return ended | (y == self.end), jnp.where(ended, self.end, y), jnp.where(ended, 0, weight)


def drawn_steps(x: Array, keys: Array, given: Given | None, dtype: Any) -> DrawnStep:
    """Inputs of `Drawing` for x [B, T, ...]: each sequence's key [B] split over its steps; without `given`, nothing is known."""
    shape = x.shape[:2]
    split = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(shape[1])))(keys)
    if given is None:
        given = Given(y=jnp.zeros(shape, jnp.int32), known=jnp.zeros(shape, bool))
    return DrawnStep(x, split, given.y, given.known, jnp.ones(shape, dtype))


# (state, x, observe) -> (state, Trace or what else is wanted of a step): predict from x, ask `observe(logits)` for (y, weight), learn it.
Observe = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Advance = Callable[[Any, jax.Array, Observe], tuple[Any, Any]]


def unroll(advance: Advance, state: Any, observer: Observer, steps: Any) -> tuple[Any, Any]:
    """Runs a model over ONE sequence: steps [T], a `Sequence` to score or `DrawnStep` to draw.

    Differentiating it costs memory for about 2 sqrt(T) states instead of T: the scan is cut into segments, and the backward pass
    computes the inside of a segment again (Chen et al. 2016, arXiv:1604.06174). For any T: the last segment is filled up with steps
    of weight 0, which change nothing.

    Returns:
      (last state, Trace of [T]).
    """
    length = steps.weight.shape[0]
    segments = math.ceil(length / math.ceil(math.sqrt(length)))
    size = math.ceil(length / segments)
    filled = jax.tree.map(lambda a: a.reshape(segments, size, *a.shape[1:]), pad_rows(steps, segments * size))

    def step(carry, now):
        state, ended = carry
        after = ended

        def observe(logits):
            nonlocal after
            after, y, weight = observer(ended, now, logits)
            return y, weight

        state, trace = advance(state, now.x, observe)
        return (state, after), trace

    # prevent_cse: a scan's body is compiled on its own, so nothing can be merged with the forward pass
    segment = jax.checkpoint(lambda carry, steps: jax.lax.scan(step, carry, steps), prevent_cse=False)
    (state, _), trace = jax.lax.scan(segment, (state, jnp.array(False)), filled)
    return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], trace)
