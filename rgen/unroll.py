"""What an unrolled sequence model does at each step, whatever the model: outputs are given and scored, or drawn.

A step has K outputs (`InnerLoop.inner_batch`; mostly K is 1): they are predicted by the same weights and learned together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rgen.batching import each, pad_rows
from rgen.choices import GENERATOR
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, Prediction, PyTree, Reads, WithOutputs, check_keys, earlier


class Observer(Protocol):
    """Says what the outputs of a step are, once their logits are known. Frozen and hashable.

    Attributes:
      end: the output that ends a sequence; None if they all go on to the last step.
    """

    @property
    def end(self) -> int | None: ...

    def start(self) -> PyTree:
        """What it remembers before the first step."""
        ...

    def ended(self, seen: PyTree) -> jax.Array:
        """Whether the sequence has ended."""
        ...

    def x(self, seen: PyTree, now: PyTree) -> PyTree:
        """The network's K inputs, from what is remembered and the step's part of the inputs."""
        ...

    def __call__(self, seen: PyTree, now: PyTree, logits: jax.Array) -> tuple[PyTree, jax.Array, jax.Array]:
        """(what is remembered, the step's part of the inputs, logits [K, n]) -> (what is remembered, y [K], weight [K])."""
        ...


def pay(likelihood: Likelihood, out: PyTree, y: jax.Array) -> tuple[jax.Array, Any]:
    """What K outputs cost, and what they teach: (nats [K], the cotangent of the network's outputs that the inner loop descends).

    The two belong together unless the network returns a `Prediction`, whose logits that are paid teach nothing.
    """

    def one(out: PyTree, y: jax.Array) -> tuple[jax.Array, Any]:
        if not isinstance(out, Prediction):
            return jax.value_and_grad(likelihood.nll)(out, y)
        nothing = jax.tree.map(jnp.zeros_like, out)
        return likelihood.nll(out.logits, y), nothing._replace(learned=jax.grad(likelihood.nll)(out.learned, y))

    return each(one, out, y)


def scaled(weight: jax.Array, cotangent: PyTree) -> PyTree:
    """Cotangents [K, ...] times weights [K]."""
    return jax.tree.map(lambda a: jnp.expand_dims(weight.astype(a.dtype), range(1, a.ndim)) * a, cotangent)


class DrawnStep(NamedTuple):
    """Inputs of `Drawing` for one sequence, arrays [T, ...]: y counts where `known`.

    Attributes:
      x: of a network that reads earlier outputs, `WithOutputs` of the step's input and the numbers of the steps whose outputs are read.
      number: of the step.
      again: whether the same outputs are learned once more.
    """

    x: PyTree
    key: Array
    y: Array
    known: Array
    weight: Array
    number: Array
    again: Array


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


class Drawn(NamedTuple):
    """What `Drawing` remembers: whether the sequence has ended; outputs and weights of all steps, or of none if nobody asks."""

    ended: jax.Array
    y: jax.Array
    weight: jax.Array


@dataclass(frozen=True)
class Drawing:
    """Outputs are drawn where they are not known. After the output `end` all further ones are `end`, cost and teach nothing.

    Attributes:
      length: how many outputs are remembered: T, or 0 if the network reads none and each is learned once.
      reads: whether the network reads earlier outputs.
    """

    likelihood: Likelihood
    end: int | None
    decoding: Decoding = PLAIN
    length: int = 0
    reads: bool = False

    def start(self):
        return Drawn(jnp.array(False), jnp.zeros(self.length, jnp.int32), jnp.zeros(self.length))

    def ended(self, seen):
        return seen.ended

    def x(self, seen, now):
        if not self.reads:
            return now.x
        steps = now.x.outputs
        return now.x._replace(outputs=jnp.where(steps < 0, -1, seen.y[steps]))

    def __call__(self, seen, now, logits):
        def draw(key, logits):
            return self.decoding.draw(key, self.likelihood.log_probs(logits))

        y, weight, ended = jnp.where(now.known, now.y, each(draw, now.key, logits)).astype(jnp.int32), now.weight, seen.ended
        if self.end is not None:
            ends = y == self.end
            before = ended | (ends.cumsum() - ends > 0)  # also by an output of the same step
            y, weight, ended = jnp.where(before, self.end, y), jnp.where(before, 0, weight), ended | ends.any()
        if self.length:
            number = jnp.where(now.weight > 0, now.number, self.length)  # what fills up a step is remembered nowhere
            y = jnp.where(now.again, seen.y[now.number], y)
            weight = jnp.where(now.again, seen.weight[now.number], weight)
            seen = Drawn(ended, seen.y.at[number].set(y, mode="drop"), seen.weight.at[number].set(weight, mode="drop"))
        return seen._replace(ended=ended), y, weight.astype(logits.dtype)


def drawn_steps(x: Array, keys: Array, given: Given | None, dtype: Any, reads: Reads = 0) -> DrawnStep:
    """Inputs of `Drawing` for x [B, T, ...] or [1, T, ...]: each sequence's key [B] split over its steps; without `given`, nothing is
    known. Raises ValueError unless the keys are typed."""
    check_keys(keys)
    shape = (*keys.shape, x.shape[1])
    split = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(shape[1])))(own_keys(keys))
    if given is None:
        given = Given(y=jnp.zeros(shape, jnp.int32), known=jnp.zeros(shape, bool))
    inputs = WithOutputs(x, earlier(x, reads)) if reads else x
    number = jnp.broadcast_to(jnp.arange(shape[1]), shape)
    return DrawnStep(inputs, split, given.y, given.known, jnp.ones(shape, dtype), number, jnp.zeros(shape, bool))


def own_keys(keys: Array) -> Array:
    """Keys [B] of `GENERATOR`, made of all bits of those of another: under `jax.vmap`, draws of rbg depend on the whole batch."""
    if jax.random.key_impl(keys) == GENERATOR:
        return keys
    start = jax.random.key(0, impl=GENERATOR)
    return jax.vmap(lambda words: reduce(jax.random.fold_in, words, start))(jax.random.key_data(keys))


def in_batches(steps: PyTree, size: int, times: int = 1) -> PyTree:
    """Arrays [B, T, ...] to [B, J, K, ...]: K outputs a step, the last step filled up with weight 0, and every step `times` in a row."""
    size = min(size, steps.weight.shape[1])
    count = math.ceil(steps.weight.shape[1] / size)
    steps = pad_rows(steps, count * size, axis=1)
    steps = jax.tree.map(lambda a: a.reshape(len(a), count, size, *a.shape[2:]), steps)
    if times == 1:
        return steps
    steps = jax.tree.map(lambda a: jnp.repeat(a, times, 1), steps)
    if isinstance(steps, DrawnStep):
        steps = steps._replace(again=jnp.broadcast_to((jnp.arange(count * times) % times > 0)[:, None], steps.again.shape))
    return steps


def out_of_batches(steps: PyTree, length: int, times: int = 1) -> PyTree:
    """The way back, arrays [B, J, K, ...] to [B, T, ...]: what was found when a step came first."""
    return jax.tree.map(lambda a: a[:, ::times].reshape(len(a), -1, *a.shape[3:])[:, :length], steps)


# (state, x, observe) -> (state, seen, Trace or what else is wanted of a step): predict from K inputs x, ask `observe(logits)` for
# (seen, y, weight), learn y; `seen` is what the observer remembers.
Observe = Callable[[jax.Array], tuple[PyTree, jax.Array, jax.Array]]
Advance = Callable[[Any, Any, Observe], tuple[PyTree, Any, Any]]


def unroll(advance: Advance, state: PyTree, observer: Observer, steps: PyTree, predict: Callable | None = None) -> tuple[PyTree, Any]:
    """Runs a model over ONE sequence: steps [J, K, ...], a `Sequence` to score or `DrawnStep` to draw.

    Differentiating it costs memory for about 2 sqrt(J) states instead of J: the scan is cut into segments, and the backward pass
    computes the inside of a segment again (Chen et al. 2016, arXiv:1604.06174). For any J: the last segment is filled up with steps
    of weight 0, which change nothing.

    Args:
      predict: (state, one input) -> logits; needed where outputs are drawn `in_turn`.
    Returns:
      (last state, Trace of [J, K]).
    """
    length = steps.weight.shape[0]
    segments = math.ceil(length / math.ceil(math.sqrt(length)))
    size = math.ceil(length / segments)
    filled = jax.tree.map(lambda a: a.reshape(segments, size, *a.shape[1:]), pad_rows(steps, segments * size))

    def step(carry, now):
        state, seen = carry
        if predict is None or not in_turn(observer, steps):
            observe = partial(observer, seen, now)
        else:
            seen, y, weight = one_by_one(observer, partial(predict, state), seen, now)
            observe = lambda logits: (seen, y, weight)  # noqa: E731
        state, seen, trace = advance(state, observer.x(seen, now), observe)
        return (state, seen), trace

    # prevent_cse: a scan's body is compiled on its own, so nothing can be merged with the forward pass
    segment = jax.checkpoint(lambda carry, steps: jax.lax.scan(step, carry, steps), prevent_cse=False)
    (state, _), trace = jax.lax.scan(segment, (state, observer.start()), filled)
    return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], trace)


def in_turn(observer: Observer, steps: PyTree) -> bool:
    """Whether outputs of a step, of several, read each other, so that each is drawn before the next is predicted."""
    return isinstance(observer, Drawing) and observer.reads and steps.weight.shape[-1] > 1


def one_by_one(observer: Observer, predict: Callable, seen: PyTree, now: PyTree) -> tuple[PyTree, jax.Array, jax.Array]:
    """Draws the K outputs of a step, each given those before it: (what is remembered, y [K], weight [K])."""

    def one(seen, now):
        now = jax.tree.map(lambda a: a[None], now)
        seen, y, weight = observer(seen, now, each(predict, observer.x(seen, now)))
        return seen, (y[0], weight[0])

    seen, (y, weight) = jax.lax.scan(one, seen, now)
    return seen, y, weight
