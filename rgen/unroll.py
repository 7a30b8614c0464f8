"""What an unrolled sequence model does at each step, whatever the model: outputs are given and scored, or drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rgen.batching import pad_rows
from rgen.choices import GENERATOR
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, Prediction


class Observer(Protocol):
    """Says what the output of a step is, once its logits are known. Frozen and hashable.

    Attributes:
      end: the output that ends a sequence; None if they all go on to the last step.
    """

    @property
    def end(self) -> int | None: ...

    def start(self) -> Any:
        """What it remembers before the first step."""
        ...

    def ended(self, seen: Any) -> jax.Array:
        """Whether the sequence has ended."""
        ...

    def x(self, seen: Any, now: Any) -> jax.Array:
        """The network's input, from what is remembered and the step's part of the inputs."""
        ...

    def __call__(self, seen: Any, now: Any, logits: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """(what is remembered, the step's part of the inputs, logits) -> (what is remembered, y, weight)."""
        ...


def pay(likelihood: Likelihood, out: Any, y: jax.Array) -> tuple[jax.Array, Any]:
    """What a network's output costs, and what it teaches: (nats, the cotangent of the output that the inner loop descends).

    The two belong together unless the output is a `Prediction`, whose logits that are paid teach nothing.
    """
    if not isinstance(out, Prediction):
        return jax.value_and_grad(likelihood.nll)(out, y)
    nothing = jax.tree.map(jnp.zeros_like, out)
    return likelihood.nll(out.logits, y), nothing._replace(learned=jax.grad(likelihood.nll)(out.learned, y))


def scaled(weight: jax.Array, cotangent: Any) -> Any:
    return jax.tree.map(lambda a: weight.astype(a.dtype) * a, cotangent)


class DrawnStep(NamedTuple):
    """Inputs of `Drawing` for one sequence: x [T, ...], the others [T]; y counts where `known`."""

    x: Array
    key: Array
    y: Array
    known: Array
    weight: Array


@dataclass(frozen=True)
class Scoring:
    """Outputs are given: the steps are those of a `Sequence`."""

    end: None = None

    def start(self):
        return ()

    def ended(self, seen):
        return jnp.array(False)

    def x(self, seen, now):
        return now.x

    def __call__(self, seen, now, logits):
        return seen, now.y, now.weight.astype(logits.dtype)


@dataclass(frozen=True)
class Drawing:
    """Outputs are drawn where they are not known. After the output `end` all further ones are `end`, cost and teach nothing.

    The last `context` outputs take the last places of the network's input, as in `rgen.sequence.with_context`.
    """

    likelihood: Likelihood
    end: int | None
    decoding: Decoding = PLAIN
    context: int = 0

    def start(self):
        return jnp.array(False), jnp.full(self.context, -1)

    def ended(self, seen):
        return seen[0]

    def x(self, seen, now):
        return jnp.concatenate([now.x[: -self.context], seen[1].astype(now.x.dtype)]) if self.context else now.x

    def __call__(self, seen, now, logits):
        ended, recent = seen
        y = jnp.where(now.known, now.y, self.decoding.draw(now.key, self.likelihood.log_probs(logits))).astype(jnp.int32)
        weight = now.weight.astype(logits.dtype)
        if self.end is not None:
            y, weight, ended = jnp.where(ended, self.end, y), jnp.where(ended, 0, weight), ended | (y == self.end)
        return (ended, jnp.concatenate([y[None].astype(recent.dtype), recent])[: self.context]), y, weight


def drawn_steps(x: Array, keys: Array, given: Given | None, dtype: Any) -> DrawnStep:
    """Inputs of `Drawing` for x [B, T, ...] or [1, T, ...]: each sequence's key [B] split over its steps; without `given`, nothing is
    known."""
    shape = (*keys.shape, x.shape[1])
    split = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(shape[1])))(own_keys(keys))
    if given is None:
        given = Given(y=jnp.zeros(shape, jnp.int32), known=jnp.zeros(shape, bool))
    return DrawnStep(x, split, given.y, given.known, jnp.ones(shape, dtype))


def own_keys(keys: Array) -> Array:
    """Keys [B] of `GENERATOR`, made of all bits of those of another: under `jax.vmap`, draws of rbg depend on the whole batch."""
    if jax.random.key_impl(keys) == GENERATOR:
        return keys
    start = jax.random.key(0, impl=GENERATOR)
    return jax.vmap(lambda words: reduce(jax.random.fold_in, words, start))(jax.random.key_data(keys))


# (state, x, observe) -> (state, seen, Trace or what else is wanted of a step): predict from x, ask `observe(logits)` for (seen, y, weight),
# learn y; `seen` is what the observer remembers.
Observe = Callable[[jax.Array], tuple[Any, jax.Array, jax.Array]]
Advance = Callable[[Any, jax.Array, Observe], tuple[Any, Any, Any]]


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
        state, seen = carry
        state, seen, trace = advance(state, observer.x(seen, now), partial(observer, seen, now))
        return (state, seen), trace

    # prevent_cse: a scan's body is compiled on its own, so nothing can be merged with the forward pass
    segment = jax.checkpoint(lambda carry, steps: jax.lax.scan(step, carry, steps), prevent_cse=False)
    (state, _), trace = jax.lax.scan(segment, (state, observer.start()), filled)
    return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], trace)
