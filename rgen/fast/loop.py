"""The inner loop: predict, pay, take one SGD step, go on. The weights are the memory.

`Direct` below is the definition. Everything else in this package computes the same numbers faster and is held against it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from rgen.batching import each, over_sequences, pad_rows
from rgen.fast import ranges
from rgen.fast.functions import Function, as_function, check_fast, check_weights, learning, overlaid, widest
from rgen.fast.rates import expand_rates, init_rates
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, PyTree, Reads, Sequence, Trace, check_shapes, paid, with_outputs
from rgen.unroll import (
    Advance,
    Drawing,
    Observe,
    Observer,
    Scoring,
    drawn_steps,
    in_batches,
    out_of_batches,
    pay,
    scaled,
    unroll,
)


class Params(NamedTuple):
    """What is meta-learned: the initialization of the fast weights, and their inner rates (see `rgen.fast.rates`)."""

    init: PyTree
    rates: PyTree


class Form(Protocol):
    """How the inner loop is computed. Frozen and hashable; every form gives the same numbers.

    Sequences come as J steps of K outputs: `InnerLoop.read` makes them so.
    """

    def score(self, loop: "InnerLoop", params: Params, steps: Sequence) -> jax.Array:
        """Nats [B, J, K], differentiable in `params`."""
        ...

    def unroll(self, loop: "InnerLoop", params: Params, observer: Observer, steps: PyTree, adapted: bool) -> tuple[PyTree, Trace]:
        """(fast weights after the last step [B, ...], perhaps None if they are not `adapted`; the Trace [B, J, K])."""
        ...


@dataclass(frozen=True)
class InnerLoop:
    """SGD as a sequence model: a network whose only memory is one SGD step after each output.

    >>> import jax, numpy as np, rgen
    >>> from flax import linen as nn
    >>> network = nn.Sequential((nn.Embed(6, 8), nn.relu, nn.Dense(3)))  # position 0..5 -> logits of 3 symbols
    >>> loop = rgen.InnerLoop(network, rgen.Categorical(), rate=0.1)
    >>> params = loop.init(jax.random.key(0), np.int32(0))
    >>> y = np.array([[0, 1, 2, 0, 1, 2]])
    >>> nats = loop.score(params, rgen.Sequence(x=np.arange(6)[None], y=y, weight=np.ones(y.shape)))
    >>> nats.shape  # each paid before its symbol is learned
    (1, 6)

    Main arguments:
      network: maps ONE input to logits, without a batch axis: a Linen module, or a `rgen.Function` of any library.
      likelihood: how logits become nats and draws: `rgen.Categorical()` or `rgen.Bernoulli()`.
      rate_kind: the inner rates: "fixed", or learned, "per-array" or "rank-one".
      rate: where `init` starts them; None: at 0.01, or at 1 with an `optimizer`, which has a rate of its own.
      fast: what learns in the inner loop: paths of modules or parameters such as "heads/memory"; None: all. The other weights are
        meta-learned, and the same for all sequences.
      end: the output that ends a sampled sequence, if one does.
      inner_batch: K, how many outputs are predicted by the same fast weights, and then learned by one step on the sum of their weighted
        nats. Without earlier outputs as its input, a network draws them independently of each other.

    Other arguments of the inner step; all but inner_steps need form="direct":
      optimizer: an `optax.GradientTransformation`, whose updates are multiplied by the inner rates and added to the fast weights. Its
        state starts afresh for every sequence. None: plain SGD. MAML needs its derivative, also where a gradient is zero: of
        `optax.adam`, give eps_root. If it is one of `optax.inject_hyperparams` itself, its hyperparameters that are floats are
        meta-learned, without bounds; name those that stay as they are, such as eps and eps_root, in `static_args`.
      inner_steps: how many steps are taken on the same outputs; they are paid before the first of them.
      inner_clip: the largest norm of an inner gradient, of all fast weights together; larger ones are scaled down.
      inner_decay: the share of the way back to the initialization that each step begins with, from 0 to 1.

    Other arguments, which you should not need:
      first_order: take the inner gradients as constants when differentiating; `rgen.first_order_maml` sets it.
      form: how it is computed: `Dual(...)`, or `Direct()`, the definition, which gives the same numbers much more slowly and has second
        derivatives too. "dual" and "direct" are short for these.
    Raises:
      ValueError: one of them cannot be; the sentence says what to give.
    """

    network: nn.Module | Function
    likelihood: Likelihood
    rate_kind: str = "fixed"
    rate: float | None = None
    fast: tuple[str, ...] | None = None
    end: int | None = None
    inner_batch: int = 1
    optimizer: optax.GradientTransformation | None = None
    inner_steps: int = 1
    inner_clip: float | None = None
    inner_decay: float = 0.0
    first_order: bool = False
    form: Any = "dual"

    def __post_init__(self) -> None:
        as_function(self.network)
        check_fast(self.fast)
        for name in ("inner_batch", "inner_steps"):
            if not isinstance(value := getattr(self, name), (int, np.integer)) or value < 1:
                raise ValueError(f"The inner loop's {name} is {value!r}; give a whole number of at least 1.")
        if self.inner_clip is not None and not (isinstance(self.inner_clip, Real) and self.inner_clip > 0):
            raise ValueError(f"The inner loop's inner_clip is {self.inner_clip!r}; it must be a positive number, or None to clip nothing.")
        if not (isinstance(self.inner_decay, Real) and 0 <= self.inner_decay <= 1):
            raise ValueError(f"The inner loop's inner_decay is {self.inner_decay!r}; it must be a number between 0, no decay, and 1.")
        if self.optimizer is not None and not isinstance(self.optimizer, optax.GradientTransformation):
            raise ValueError(f"The inner optimizer is a {type(self.optimizer).__name__}; give one of optax, such as optax.sgd(1.0, 0.9).")
        if isinstance(self.form, str):
            if self.form not in FORMS:
                raise ValueError(f"The form of the inner loop is '{self.form}'; it must be {' or '.join(map(repr, FORMS))}.")
            object.__setattr__(self, "form", FORMS[self.form])
        if not self.plain and not isinstance(self.form, Direct):
            options = {"optimizer": self.optimizer, "inner_clip": self.inner_clip, "inner_decay": self.inner_decay or None}
            found = " and ".join(name for name, value in options.items() if value is not None)
            raise ValueError(f"The dual form takes plain SGD alone, and the inner loop has {found}. Give form='direct'.")

    @property
    def reads(self) -> Reads:
        """Which earlier outputs the network reads besides its input; see `rgen.Function`."""
        return as_function(self.network).last_outputs

    @property
    def plain(self) -> bool:
        """Whether an inner step is one of plain SGD."""
        return self.optimizer is None and self.inner_clip is None and not self.inner_decay

    def init(self, key: jax.Array, x: Array) -> Params:
        """Draws an initialization for inputs that look like `x` [...], ONE input.

        Raises:
          ValueError: the network has no weights, or a path of `fast` is not among them.
        """
        weights = _draw(self.network, key, self.one_input(x))
        check_weights(weights)
        fast = learning(weights, self.fast)
        rate = self.rate if self.rate is not None else 0.01 if self.optimizer is None else 1.0
        rates, tuned = init_rates(self.rate_kind, fast, rate), hyperparameters(self.optimizer, fast)
        return Params(weights, Tuned(rates, tuned) if tuned else rates)

    def one_input(self, x: Array) -> PyTree:
        """ONE input as the network reads it: x [...], and beside it outputs that are not there yet."""
        inputs = with_outputs(jnp.asarray(x)[None, None], None, self.reads)
        return jax.tree.map(lambda a: a[0, 0], inputs)

    def apply(self, weights: PyTree, x: PyTree) -> PyTree:
        """What the network returns for ONE input."""
        return as_function(self.network).apply(weights, x)

    def apply_each(self, weights: PyTree, x: PyTree) -> PyTree:
        """What it returns for the K inputs of a step."""
        return each(partial(self.apply, weights), x)

    def score(self, params: Params, seqs: Sequence) -> jax.Array:
        """Scores sequences under online adaptation from `params.init`.

        Args:
          seqs: x [B, T, ...] (or [1, T, ...] for all), y [B, T], weight [B, T].
        Returns:
          [B, T] nats, each paid before its own update and multiplied by its weight: with weights of 0 and 1, a row's sum is the exact
          nats of the sequence. Differentiable in the parameters; in the direct form, memory grows with sqrt(T).
        Raises:
          ValueError: x, y and weight disagree in B or T; or, if they are concrete, an input is beyond the rows of an embedding or an
            output is none of the likelihood's.
        Source: Finn et al. 2017, arXiv:1703.03400; unixpickle/reptile-gen.
        """
        return self.by_output(_score(self, params, self.read(params, seqs)), seqs)

    def adapt(self, params: Params, seqs: Sequence) -> tuple[PyTree, jax.Array]:
        """Learns whole sequences.

        Returns:
          (fast weights after the last step, each array with a leading B; [B, T] nats as `score` gives them). Weights that do not learn
          are not among them.
        """
        fast, trace = _unroll(self, params, Scoring(), self.read(params, seqs), True)
        return fast, self.by_output(trace.nll, seqs)

    def sample(self, params: Params, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws sequences, learning each output as soon as it is drawn.

        Args:
          x: [B, T, ...] inputs, or [1, T, ...] for all.
          keys: [B] typed PRNG keys, one for each sequence.
          given: outputs that are known and where; they are fed instead of drawn.
          decoding: how probabilities are modified before drawing.
        Returns:
          Trace of y [B, T] (after `end`, all are `end`) and nll [B, T], nats under the unchanged model (0 after `end`; those of known
          outputs are in it too).
        Raises:
          ValueError: the keys are not typed; or, if it is concrete, an input is beyond the rows of an embedding.
        """
        self._check(params, with_outputs(x, None, self.reads), np.ones(x.shape[:2]))
        return _sample(self, params, x, keys, given, decoding)

    def start(self, params: Params) -> PyTree:
        """The fast weights before the first step."""
        return learning(params.init, self.fast)

    def predict(self, params: Params, fast: PyTree, x: PyTree) -> jax.Array:
        """Log-probabilities [N] of all N outputs at ONE input, by fast weights without a leading B."""
        return _predict(self, params, fast, x)

    def step(self, params: Params, fast: PyTree, x: PyTree, y: Any, weight: Any = None) -> tuple[PyTree, jax.Array]:
        """One inner step of ONE sequence, as it is defined, without an `optimizer`, whose state would be lost.

        Args:
          x, y: one input and output; or K of each.
          weight: [] or [K]; None: 1.
        Returns:
          (fast weights after it, the nats [] or [K] that were paid before)
        Raises:
          ValueError: the loop has an optimizer.
        """
        if self.optimizer is not None:
            raise ValueError("A single step keeps no state of the inner optimizer. Give whole sequences to `adapt`.")
        return _step(self, params, fast, x, y, weight)

    def belief(self, params: Params, seqs: Sequence, x: Array, every: int = 1) -> jax.Array:
        """Asks the network about any places while it learns sequences; what is asked teaches it nothing.

        Args:
          seqs: [B, T], as for `score`.
          x: [P, ...] the inputs that are asked about.
          every: inner steps between two moments.
        Returns:
          [B, F, P, N] log-probabilities of the N outputs at each place: before the first step, and after 1, 2, ... times `every` steps and
          after the last one, so that F = 1 + ceil(J / every) with J = ceil(T / inner_batch) steps.
        Raises:
          ValueError: the network reads earlier outputs, which places out of turn do not have.
        """
        if self.reads:
            raise ValueError("A network that reads earlier outputs cannot be asked about places out of turn.")
        if every < 1:
            raise ValueError(f"There are {every} inner steps between two moments; give at least 1.")
        return _belief(self, params, self.read(params, seqs), x, every)

    def inner_norms(self, params: Params, seqs: Sequence) -> tuple[PyTree, Any]:
        """How large the inner steps are: (norms of the gradients, norms of what they change the fast weights by).

        Each is shaped like the fast weights; for every array the norms [B, T] of the step that learns each output, the first of them.
        """
        return self.by_output(_inner_norms(self, params, self.read(params, seqs)), seqs)

    def rates(self, params: Params) -> PyTree:
        """The inner rate of every weight that learns: a tree like the fast weights, whose leaves broadcast against its arrays."""
        rates = params.rates.rates if isinstance(params.rates, Tuned) else params.rates
        return expand_rates(self.rate_kind, rates, learning(params.init, self.fast))

    def checked(self, params: Params, seqs: Sequence) -> Sequence:
        """The sequences with x as the network reads it.

        Raises:
          ValueError: their shapes disagree, or values are out of range.
        """
        check_shapes(seqs)
        seqs = seqs._replace(x=with_outputs(seqs.x, seqs.y, self.reads))
        self._check(params, seqs.x, seqs.weight)
        ranges.check_outputs(self.network, self.likelihood, params.init, seqs)
        return seqs

    def read(self, params: Params, seqs: Sequence) -> Sequence:
        """The sequences as the forms take them: `checked`, and cut into J steps of K outputs, each `inner_steps` times in a row."""
        seqs = self.checked(params, seqs)
        return self._cut(seqs._replace(weight=jnp.asarray(seqs.weight, widest(params.init))))

    def steps(self, seqs: Sequence) -> Sequence:
        """The same without looking at values."""
        return self._cut(seqs._replace(x=with_outputs(seqs.x, seqs.y, self.reads)))

    def _cut(self, seqs: Sequence) -> Sequence:
        return in_batches(jax.tree.map(jnp.asarray, seqs), self.inner_batch, self.inner_steps)

    def by_output(self, steps: PyTree, seqs: Sequence) -> PyTree:
        """Arrays [B, J, K] of the steps that `read` made, as [B, T]."""
        return out_of_batches(steps, seqs.y.shape[1], self.inner_steps)

    def _check(self, params: Params, x: PyTree, weight: Array) -> None:
        ranges.check_inputs(self.network, params.init, x)
        if getattr(self.form, "distinct", False):
            ranges.check_distinct(x, weight)


# What the methods of `InnerLoop` compile, once for equal loops and arrays of the same shapes. They look at values first, which a compiled
# function cannot; inside of another one all is as if these were not compiled themselves.
_compiled = partial(jax.jit, static_argnums=0, inline=True)


@_compiled
def _draw(network: Any, key: jax.Array, x: jax.Array) -> PyTree:
    return as_function(network).init(key, x)


@_compiled
def _score(loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    return loop.form.score(loop, params, seqs)


@partial(jax.jit, static_argnums=(0, 2, 4), inline=True)
def _unroll(loop: InnerLoop, params: Params, observer: Observer, steps: PyTree, adapted: bool) -> tuple[PyTree, Trace]:
    return loop.form.unroll(loop, params, observer, steps, adapted)


@partial(jax.jit, static_argnums=(0, 5), inline=True)
def _sample(loop: InnerLoop, params: Params, x: Array, keys: jax.Array, given: Given | None, decoding: Decoding) -> Trace:
    length = x.shape[1]
    remembered = length if loop.reads or loop.inner_steps > 1 else 0
    observer = Drawing(loop.likelihood, loop.end, decoding, remembered, bool(loop.reads))
    steps = in_batches(drawn_steps(x, keys, given, widest(params.init), loop.reads), loop.inner_batch, loop.inner_steps)
    trace = loop.form.unroll(loop, params, observer, steps, False)[1]
    return out_of_batches(trace, length, loop.inner_steps)


@_compiled
def _predict(loop: InnerLoop, params: Params, fast: PyTree, x: PyTree) -> jax.Array:
    return loop.likelihood.log_probs(paid(loop.apply(overlaid(params.init, fast), x)))


@_compiled
def _step(loop: InnerLoop, params: Params, fast: PyTree, x: PyTree, y: Any, weight: Any) -> tuple[PyTree, jax.Array]:
    one = jnp.ndim(y) == 0
    x, y = jax.tree.map(lambda a: jnp.asarray(a)[None], (x, y)) if one else (x, y)
    weight = jnp.ones(y.shape) if weight is None else jnp.asarray(weight).reshape(y.shape)
    state, _, trace = _advance(loop, params)(
        begin(loop, params)._replace(fast=fast), x, lambda logits: (None, y, weight.astype(logits.dtype))
    )
    return state.fast, trace.nll[0] if one else trace.nll


@partial(jax.jit, static_argnums=(0, 4), inline=True)
def _belief(loop: InnerLoop, params: Params, steps: Sequence, x: Array, every: int) -> jax.Array:
    every *= loop.inner_steps
    moments = math.ceil(steps.y.shape[1] / every)

    def ask(state):
        return jax.vmap(lambda x: loop.predict(params, state.fast, x))(x)

    def learn(state, steps):
        state, _ = unroll(_advance(loop, params), state, Scoring(), steps)
        return state, ask(state)

    def one(steps):
        parts = jax.tree.map(lambda a: a.reshape(moments, every, *a.shape[1:]), pad_rows(steps, moments * every))
        start = begin(loop, params)
        return jnp.concatenate([ask(start)[None], jax.lax.scan(learn, start, parts)[1]])

    return over_sequences(one, steps)


@_compiled
def _inner_norms(loop: InnerLoop, params: Params, steps: Sequence) -> tuple[PyTree, Any]:
    def norms(tree, now):  # the same for all K outputs of the step
        return jax.tree.map(lambda a: jnp.broadcast_to(jnp.linalg.norm(a.ravel()), now.weight.shape), tree)

    learn = _learner(loop, params)

    def advance(state, x, observe):
        gradient, seen, now = _gradient(loop, params, state.fast, x, observe)
        after = learn(state, gradient, now)
        return after, seen, (norms(gradient, now), norms(jax.tree.map(jnp.subtract, state.fast, after.fast), now))

    return over_sequences(lambda steps: unroll(advance, begin(loop, params), Scoring(), steps)[1], steps)


@dataclass(frozen=True)
class Direct:
    """The definition: every sequence holds its own fast weights and changes all of them at every step."""

    def score(self, loop: InnerLoop, params: Params, steps: Sequence) -> jax.Array:
        return self.unroll(loop, params, Scoring(), steps, False)[1].nll

    def unroll(self, loop: InnerLoop, params: Params, observer: Observer, steps: PyTree, adapted: bool) -> tuple[PyTree, Trace]:
        def predict(state, x):
            return paid(loop.apply(overlaid(params.init, state.fast), x))

        def one(steps):
            return unroll(_advance(loop, params), begin(loop, params), observer, steps, predict)

        state, trace = over_sequences(one, steps)
        return state.fast, trace


FORMS: dict[str, Form] = {"direct": Direct()}  # short names; `rgen.fast` adds the dual form's


class Tuned(NamedTuple):
    """Inner rates with the hyperparameters of the inner optimizer, where `optax.inject_hyperparams` gives them."""

    rates: PyTree
    hyperparameters: dict[str, jax.Array]


class FastState(NamedTuple):
    """What a step of the direct form changes: the fast weights, and the state of the inner optimizer (None: plain SGD)."""

    fast: PyTree
    optimizer: Any


def hyperparameters(optimizer: Any, fast: PyTree) -> dict[str, jax.Array]:
    """Those of an optimizer that `optax.inject_hyperparams` gives, if they are floats."""
    if optimizer is None or not hasattr(jax.eval_shape(optimizer.init, fast), "hyperparams"):
        return {}
    found = optimizer.init(fast).hyperparams
    return {name: value for name, value in found.items() if jnp.issubdtype(value.dtype, jnp.floating)}


def begin(loop: InnerLoop, params: Params) -> FastState:
    """Before the first step."""
    fast = loop.start(params)
    if loop.optimizer is None:
        return FastState(fast, None)
    state: PyTree = loop.optimizer.init(fast)
    if isinstance(params.rates, Tuned):
        state = state._replace(hyperparams=state.hyperparams | params.rates.hyperparameters)
    return FastState(fast, state)


def _advance(loop: InnerLoop, params: Params) -> Advance:
    """One inner step. This, with the functions below, is the definition; everything else is bookkeeping."""

    learn = _learner(loop, params)

    def advance(state, x, observe):
        gradient, seen, now = _gradient(loop, params, state.fast, x, observe)
        return learn(state, gradient, now), seen, Trace(now.y, now.weight * now.nll)

    return advance


class Paid(NamedTuple):
    """K outputs of a step, what each was paid for, and what each counts."""

    y: jax.Array
    nll: jax.Array
    weight: jax.Array


def _gradient(loop: InnerLoop, params: Params, fast: PyTree, x: PyTree, observe: Observe) -> tuple[PyTree, Any, Paid]:
    """Predict and pay: (the gradient of the K outputs' weighted nats by the fast weights, what the observer remembers, what was paid)."""
    out, pull = jax.vjp(lambda fast: loop.apply_each(overlaid(params.init, fast), x), fast)
    seen, y, weight = observe(paid(out))
    nll, lesson = pay(loop.likelihood, out, y)
    (gradient,) = pull(scaled(weight, lesson))
    if loop.first_order:
        gradient = jax.lax.stop_gradient(gradient)
    return gradient, seen, Paid(y, nll, weight)


def _learner(loop: InnerLoop, params: Params) -> Callable[[FastState, Any, Paid], FastState]:
    """The function that takes a step: (state, gradient, what was paid) -> state."""
    start, rates = loop.start(params), loop.rates(params)

    def plain(state, gradient, now):
        return FastState(descend(state.fast, rates, gradient), None)

    def learn(state, gradient, now):
        if loop.inner_clip is not None:
            gradient = clipped(gradient, loop.inner_clip)
        updates, optimizer = jax.tree.map(jnp.negative, gradient), None
        if loop.optimizer is not None:
            updates, optimizer = loop.optimizer.update(gradient, state.optimizer, state.fast)
        after = FastState(jax.tree.map(moved, start, state.fast, rates, updates), optimizer)
        taken = (now.weight != 0).any()  # outputs of weight 0 teach nothing, not even an optimizer with a momentum
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, state)

    def moved(start, w, rate, update):
        return start + (1 - loop.inner_decay) * (w - start) + rate.astype(w.dtype) * update

    return plain if loop.plain else learn


def clipped(gradient: PyTree, most: float) -> PyTree:
    """A gradient whose norm is at most this. Unlike optax's, it has a finite derivative at zero, where steps of weight 0 are."""
    square = sum((g**2).sum() for g in jax.tree.leaves(gradient))
    large = square > most**2
    scale = jnp.where(large, most * jax.lax.rsqrt(jnp.where(large, square, 1.0)), 1.0)
    return jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradient)


def descend(fast: PyTree, rates: PyTree, gradient: PyTree) -> PyTree:
    """One step of SGD."""
    return jax.tree.map(lambda w, rate, g: w - rate.astype(w.dtype) * g, fast, rates, gradient)
