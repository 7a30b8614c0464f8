"""The inner loop: predict, pay, take one SGD step, go on. The weights are the memory.

`Direct` below is the definition. Everything else in this package computes the same numbers faster and is held against it.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rgen.batching import over_sequences, pad_rows
from rgen.fast import ranges
from rgen.fast.functions import Function, as_function, check_fast, check_weights, learning, overlaid, widest
from rgen.fast.rates import expand_rates, init_rates
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, Sequence, Trace, check_keys, check_shapes, paid, with_context
from rgen.unroll import Advance, Drawing, Observe, Observer, Scoring, drawn_steps, pay, scaled, unroll


class Params(NamedTuple):
    """What is meta-learned: the initialization of the fast weights, and their inner rates (see `rgen.fast.rates`)."""

    init: Any
    rates: Any


class Form(Protocol):
    """How the inner loop is computed. Frozen and hashable; every form gives the same numbers."""

    def score(self, loop: "InnerLoop", params: Params, seqs: Sequence) -> jax.Array:
        """Nats [B, T], differentiable in `params`."""
        ...

    def unroll(self, loop: "InnerLoop", params: Params, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
        """(fast weights after the last step [B, ...], perhaps None if they are not `adapted`; the Trace [B, T])."""
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
      rate: where `init` starts them.
      fast: what learns in the inner loop: paths of modules or parameters such as "heads/memory"; None: all. The other weights are
        meta-learned, and the same for all sequences.
      end: the output that ends a sampled sequence, if one does.

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
    rate: float = 0.01
    fast: tuple[str, ...] | None = None
    end: int | None = None
    first_order: bool = False
    form: Any = "dual"

    def __post_init__(self) -> None:
        as_function(self.network)
        check_fast(self.fast)
        if isinstance(self.form, str):
            if self.form not in FORMS:
                raise ValueError(f"The form of the inner loop is '{self.form}'; it must be {' or '.join(map(repr, FORMS))}.")
            object.__setattr__(self, "form", FORMS[self.form])

    @property
    def context(self) -> int:
        """How many of the last outputs the network reads besides its input."""
        return as_function(self.network).last_outputs

    def init(self, key: jax.Array, x: Array) -> Params:
        """Draws an initialization for inputs that look like `x` [...], ONE input.

        Raises:
          ValueError: the network has no weights, or a path of `fast` is not among them.
        """
        weights = _draw(self.network, key, with_context(jnp.asarray(x)[None, None], None, self.context)[0, 0])
        check_weights(weights)
        return Params(weights, init_rates(self.rate_kind, learning(weights, self.fast), self.rate))

    def apply(self, weights: Any, x: Any) -> Any:
        """What the network returns for ONE input."""
        return as_function(self.network).apply(weights, x)

    def score(self, params: Params, seqs: Sequence) -> jax.Array:
        """Scores sequences under online adaptation from `params.init`.

        Args:
          seqs: x [B, T, ...] (or [1, T, ...] for all), y [B, T], weight [B, T].
        Returns:
          [B, T] nats, each paid before its own update and multiplied by its weight: with weights of 0 and 1, a row's sum is the exact
          nats of the sequence. Differentiable in the initialization and the learned rates; in the
          direct form memory grows with sqrt(T).
        Raises:
          ValueError: x, y and weight disagree in B or T; or, if they are concrete, an input is beyond the rows of an embedding or an
            output is none of the likelihood's.
        Source: Finn et al. 2017, arXiv:1703.03400; unixpickle/reptile-gen.
        """
        return _score(self, params, self.read(params, seqs))

    def adapt(self, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
        """Learns whole sequences.

        Returns:
          (fast weights after the last step, each array with a leading B; [B, T] nats as `score` gives them). Weights that do not learn
          are not among them.
        """
        fast, trace = _unroll(self, params, Scoring(), self.read(params, seqs), True)
        return fast, trace.nll

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
        check_keys(keys)
        x = with_context(x, None, self.context)
        self._check(params, x, np.ones(x.shape[:2]))
        return _sample(self, params, x, keys, given, decoding)

    def start(self, params: Params) -> Any:
        """The fast weights before the first step."""
        return learning(params.init, self.fast)

    def predict(self, params: Params, fast: Any, x: Any) -> jax.Array:
        """Log-probabilities [K] of all outputs at ONE input, by fast weights without a leading B."""
        return _predict(self, params, fast, x)

    def step(self, params: Params, fast: Any, x: Any, y: Any) -> tuple[Any, jax.Array]:
        """One inner step of ONE sequence, as it is defined: (fast weights after it, the nats [] that were paid before)."""
        return _step(self, params, fast, x, y)

    def belief(self, params: Params, seqs: Sequence, x: Array, every: int = 1) -> jax.Array:
        """Asks the network about any places while it learns sequences; what is asked teaches it nothing.

        Args:
          seqs: [B, T], as for `score`.
          x: [P, ...] the inputs that are asked about.
          every: inner steps between two moments.
        Returns:
          [B, F, P, K] log-probabilities of the K outputs at each place: before the first step, and after 1, 2, ... times `every` steps and
          after the last one, so that F = 1 + ceil(T / every).
        Raises:
          ValueError: the network reads the last outputs, which places out of turn do not have.
        """
        if self.context:
            raise ValueError(f"A network that reads the last {self.context} outputs cannot be asked about places out of turn.")
        return _belief(self, params, self.read(params, seqs), x, every)

    def inner_norms(self, params: Params, seqs: Sequence) -> tuple[Any, Any]:
        """How large the inner steps are: (norms of the gradients, norms of what they change the fast weights by).

        Each is shaped like the fast weights; for every array the norms [B, T] of each step.
        """
        return _inner_norms(self, params, self.read(params, seqs))

    def rates(self, params: Params) -> Any:
        """The inner rate of every weight that learns: a tree like the fast weights, whose leaves broadcast against its arrays."""
        return expand_rates(self.rate_kind, params.rates, learning(params.init, self.fast))

    def read(self, params: Params, seqs: Sequence) -> Sequence:
        """The sequences as the network reads them; raises ValueError if their shapes disagree, or values are out of range."""
        check_shapes(seqs)
        x = with_context(seqs.x, seqs.y, self.context)
        self._check(params, x, seqs.weight)
        ranges.check_outputs(self.network, self.likelihood, params.init, seqs._replace(x=x))
        return Sequence(jnp.asarray(x), jnp.asarray(seqs.y), jnp.asarray(seqs.weight, widest(params.init)))

    def _check(self, params: Params, x: Array, weight: Array) -> None:
        ranges.check_inputs(self.network, params.init, x)
        if getattr(self.form, "distinct", False):
            ranges.check_distinct(x, weight)


# What the methods of `InnerLoop` compile, once for equal loops and arrays of the same shapes. They look at values first, which a compiled
# function cannot; inside of another one all is as if these were not compiled themselves.
_compiled = partial(jax.jit, static_argnums=0, inline=True)


@_compiled
def _draw(network: Any, key: jax.Array, x: jax.Array) -> Any:
    return as_function(network).init(key, x)


@_compiled
def _score(loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    return loop.form.score(loop, params, seqs)


@partial(jax.jit, static_argnums=(0, 2, 4), inline=True)
def _unroll(loop: InnerLoop, params: Params, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
    return loop.form.unroll(loop, params, observer, steps, adapted)


@partial(jax.jit, static_argnums=(0, 5), inline=True)
def _sample(loop: InnerLoop, params: Params, x: Array, keys: jax.Array, given: Given | None, decoding: Decoding) -> Trace:
    observer = Drawing(loop.likelihood, loop.end, decoding, loop.context)
    return loop.form.unroll(loop, params, observer, drawn_steps(x, keys, given, widest(params.init)), False)[1]


@_compiled
def _predict(loop: InnerLoop, params: Params, fast: Any, x: Any) -> jax.Array:
    return loop.likelihood.log_probs(paid(loop.apply(overlaid(params.init, fast), x)))


@_compiled
def _step(loop: InnerLoop, params: Params, fast: Any, x: Any, y: Any) -> tuple[Any, jax.Array]:
    fast, _, trace = _advance(loop, params)(fast, x, lambda logits: (None, y, jnp.ones((), logits.dtype)))
    return fast, trace.nll


@partial(jax.jit, static_argnums=(0, 4), inline=True)
def _belief(loop: InnerLoop, params: Params, seqs: Sequence, x: Array, every: int) -> jax.Array:
    moments = math.ceil(seqs.y.shape[1] / every)

    def ask(fast):
        return jax.vmap(lambda x: loop.predict(params, fast, x))(x)

    def learn(fast, steps):
        fast, _ = unroll(_advance(loop, params), fast, Scoring(), steps)
        return fast, ask(fast)

    def one(seq):
        steps = jax.tree.map(lambda a: a.reshape(moments, every, *a.shape[1:]), pad_rows(seq, moments * every))
        start = loop.start(params)
        return jnp.concatenate([ask(start)[None], jax.lax.scan(learn, start, steps)[1]])

    return over_sequences(one, seqs)


@_compiled
def _inner_norms(loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[Any, Any]:
    rates = loop.rates(params)

    def norms(tree):
        return jax.tree.map(lambda a: jnp.linalg.norm(a.ravel()), tree)

    def advance(fast, x, observe):
        gradient, seen, _ = _gradient(loop, params, fast, x, observe)
        return descend(fast, rates, gradient), seen, (norms(gradient), norms(jax.tree.map(jnp.multiply, rates, gradient)))

    return over_sequences(lambda seq: unroll(advance, loop.start(params), Scoring(), seq)[1], seqs)


@dataclass(frozen=True)
class Direct:
    """The definition: every sequence holds its own fast weights and changes all of them at every step."""

    def score(self, loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
        return self.unroll(loop, params, Scoring(), seqs, False)[1].nll

    def unroll(self, loop: InnerLoop, params: Params, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
        start = learning(params.init, loop.fast)
        return over_sequences(lambda steps: unroll(_advance(loop, params), start, observer, steps), steps)


FORMS: dict[str, Form] = {"direct": Direct()}  # short names; `rgen.fast` adds the dual form's


def _advance(loop: InnerLoop, params: Params) -> Advance:
    """One inner step. This, with the two functions below, is the definition; everything else is bookkeeping."""
    rates = loop.rates(params)

    def advance(fast, x, observe):
        gradient, seen, trace = _gradient(loop, params, fast, x, observe)
        return descend(fast, rates, gradient), seen, trace

    return advance


def _gradient(loop: InnerLoop, params: Params, fast: Any, x: jax.Array, observe: Observe) -> tuple[Any, Any, Trace]:
    """Predict and pay: (the gradient by the fast weights, what the observer remembers, what was paid)."""
    out, pull = jax.vjp(lambda fast: loop.apply(overlaid(params.init, fast), x), fast)
    seen, y, weight = observe(paid(out))
    nll, lesson = pay(loop.likelihood, out, y)
    (gradient,) = pull(scaled(weight, lesson))
    if loop.first_order:
        gradient = jax.lax.stop_gradient(gradient)
    return gradient, seen, Trace(y, weight * nll)


def descend(fast: Any, rates: Any, gradient: Any) -> Any:
    """One step of SGD."""
    return jax.tree.map(lambda w, rate, g: w - rate.astype(w.dtype) * g, fast, rates, gradient)
