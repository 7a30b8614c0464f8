"""The inner loop: predict, pay, take one SGD step, go on. The weights are the memory."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rgen.fast import engine
from rgen.fast.plan import COST_MODEL, Choice
from rgen.fast.rates import expand_rates, init_rates
from rgen.fast.taps import learning, overlaid
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, Sequence, Trace, check_shapes, over_sequences, pad_rows, paid, with_context
from rgen.unroll import Advance, Drawing, Observe, Observer, Scoring, drawn_steps, pay, scaled, unroll


class Params(NamedTuple):
    """What is meta-learned: the initialization of the fast weights, and their inner rates (see `rgen.fast.rates`)."""

    init: Any
    rates: Any


@dataclass(frozen=True)
class InnerLoop:
    """SGD as a sequence model: a network whose only memory is one SGD step after each output.

    Attributes:
      network: a Linen module that maps ONE input to logits; no batch axis.
      likelihood: how logits become nats and draws.
      rate_kind: "fixed", "per-array" or "rank-one".
      rate: the inner rate at the beginning. It enters `init` only, so another rate does not recompile anything.
      fast: what learns in the inner loop: paths of modules (or parameters) such as "heads/memory"; None: all. The other weights are
        meta-learned, and the same for all sequences.
      end: the output that ends a sampled sequence, if one does.
      first_order: take the inner gradients as constants when differentiating: first-order MAML.
      form: "direct", the definition, or "dual", which computes the same numbers much faster and has first derivatives only.
      choice: for the dual form, what is not left to its cost model.
      precision: "float32", as exact as the parameters are; or, in the dual form, "bfloat16": taps are kept and products of Dense layers
        taken in bfloat16, and summed up in float32.
      distinct: a promise that no input comes twice in a sequence, as in lines and pictures. The dual form then reads an embedding of
        the input as it was initialized, and knows beforehand what a layer behind it will see.
    """

    network: nn.Module
    likelihood: Likelihood
    rate_kind: str = "fixed"
    rate: float = field(default=0.01, compare=False)
    fast: tuple[str, ...] | None = None
    end: int | None = None
    first_order: bool = False
    form: str = "dual"
    choice: Choice = COST_MODEL
    precision: str = "float32"
    distinct: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16") or (self.precision == "bfloat16" and self.form == "direct"):
            raise ValueError(f"The precision is '{self.precision}'; it must be 'float32', or in the dual form 'bfloat16'.")
        if self.form not in ("direct", "dual"):
            raise ValueError(f"The form of the inner loop is '{self.form}'; it must be 'direct' or 'dual'.")

    @property
    def context(self) -> int:
        """How many of the last outputs the network reads besides its input: what it says itself, or none."""
        return getattr(self.network, "context", 0)

    def init(self, key: jax.Array, x: Array) -> Params:
        """Draws an initialization for inputs that look like `x` [...], ONE input.

        Raises:
          ValueError: a path of `fast` is not in the network.
        """
        weights = jax.jit(self.network.init)(key, with_context(x[None, None], None, self.context)[0, 0])["params"]
        return Params(weights, init_rates(self.rate_kind, learning(weights, self.fast), self.rate))

    def score(self, params: Params, seqs: Sequence) -> jax.Array:
        """Scores sequences under online adaptation from `params.init`.

        Args:
          seqs: x [B, T, ...] (or [1, T, ...] for all), y [B, T], weight [B, T].
        Returns:
          [B, T] nats, each paid before its own update and multiplied by its weight: with weights of 0 and 1, a row's sum is the exact
          nats of the sequence. Differentiable in the initialization and the learned rates; in the
          direct form memory grows with sqrt(T).
        Raises:
          ValueError: x, y and weight disagree in B or T.
        Source: Finn et al. 2017, arXiv:1703.03400; unixpickle/reptile-gen.
        """
        seqs = self._read(seqs)
        if self.form == "dual":
            return engine.score(self, params, seqs)
        return self._unroll(params, Scoring(), seqs)[1].nll

    def adapt(self, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
        """Learns whole sequences.

        Returns:
          (fast weights after the last step, each array with a leading B; [B, T] nats as `score` gives them). Weights that do not learn
          are not among them.
        """
        seqs = self._read(seqs)
        fast, trace = self._unroll(params, Scoring(), seqs, adapted=True)
        return fast, trace.nll

    def micro_batch(self, params: Params, seqs: Sequence) -> int:
        """How many sequences a gradient is best taken of at once: what the dual form runs together."""
        return engine.prepare(self, params, self._read(seqs))[0].micro_batch if self.form == "dual" else seqs.y.shape[0]

    def sample(self, params: Params, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws sequences, learning each output as soon as it is drawn.

        Args:
          x: [B, T, ...] inputs, or [1, T, ...] for all.
          keys: [B] typed PRNG keys, one a sequence.
          given: outputs that are known and where; they are fed instead of drawn.
          decoding: what the probabilities are changed by before something is drawn.
        Returns:
          Trace of y [B, T] (after `end`, all are `end`) and nll [B, T], nats under the unchanged model (0 after `end`; those of known
          outputs are in it too).
        """

        dtype = jax.tree.leaves(params.init)[0].dtype
        x = with_context(x, None, self.context)
        return self._unroll(params, Drawing(self.likelihood, self.end, decoding, self.context), drawn_steps(x, keys, given, dtype))[1]

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
        seqs = self._read(seqs)
        moments = math.ceil(seqs.y.shape[1] / every)

        def ask(fast):
            weights = overlaid(params.init, fast)
            logits: Any = jax.vmap(lambda x: paid(self.network.apply({"params": weights}, x)))(x)
            return jax.vmap(self.likelihood.log_probs)(logits)

        def learn(fast, steps):
            fast, _ = unroll(self._advance(params), fast, Scoring(), steps)
            return fast, ask(fast)

        def one(seq):
            steps = jax.tree.map(lambda a: a.reshape(moments, every, *a.shape[1:]), pad_rows(seq, moments * every))
            asked = jax.lax.scan(learn, self._start(params), steps)[1]
            return jnp.concatenate([ask(self._start(params))[None], asked])

        return over_sequences(one, seqs)

    def inner_norms(self, params: Params, seqs: Sequence) -> tuple[Any, Any]:
        """How large the inner steps are: (norms of the gradients, norms of what they change the fast weights by).

        Each is shaped like the fast weights; for every array the norms [B, T] of each step.
        """
        seqs = self._read(seqs)
        rates = self.rates(params)

        def norms(tree):
            return jax.tree.map(lambda a: jnp.linalg.norm(a.ravel()), tree)

        def advance(fast, x, observe):
            gradient, _ = self._gradient(params, fast, x, observe)
            return _descend(fast, rates, gradient), (norms(gradient), norms(jax.tree.map(jnp.multiply, rates, gradient)))

        return over_sequences(lambda seq: unroll(advance, self._start(params), Scoring(), seq)[1], seqs)

    def rates(self, params: Params) -> Any:
        """The inner rate of every weight that learns: a tree like the fast weights, whose leaves broadcast against its arrays."""
        return expand_rates(self.rate_kind, params.rates, self._start(params))

    def drift(self, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
        """How far learning whole sequences moves the weights: (initialization minus the mean of the final weights, nats [B, T]).

        Raises:
          ValueError: not all weights learn.
        """
        seqs = self._read(seqs)
        if self.fast is not None:
            raise ValueError(f"Only {', '.join(self.fast)} learns in the inner loop; the drift, and Reptile, need weights that all do.")
        if self.form == "dual":
            return engine.drift(self, params, seqs)
        fast, (_, nll) = self._unroll(params, Scoring(), seqs)
        # the mean of differences, not the difference of means: in float32 it keeps more digits
        return jax.tree.map(lambda init, fast: (init - fast).mean(0), params.init, fast), nll

    def _unroll(self, params: Params, observer: Observer, steps: Any, adapted: bool = False) -> tuple[Any, Trace]:
        """(fast weights after the last step [B, ...], or in the dual form None unless `adapted`; the Trace [B, T])."""
        if self.form == "dual":
            return engine.unroll(self, params, observer, steps, adapted)
        return over_sequences(lambda steps: unroll(self._advance(params), self._start(params), observer, steps), steps)

    def _read(self, seqs: Sequence) -> Sequence:
        """The sequences as the network reads them; raises ValueError if their shapes disagree."""
        check_shapes(seqs)
        return Sequence(with_context(jnp.asarray(seqs.x), seqs.y, self.context), jnp.asarray(seqs.y), jnp.asarray(seqs.weight))

    def _start(self, params: Params) -> Any:
        return learning(params.init, self.fast)

    def _advance(self, params: Params) -> Advance:
        """One inner step. This, with the two functions below, is the definition; everything else is bookkeeping."""
        rates = self.rates(params)

        def advance(fast, x, observe):
            gradient, trace = self._gradient(params, fast, x, observe)
            return _descend(fast, rates, gradient), trace

        return advance

    def _gradient(self, params: Params, fast: Any, x: jax.Array, observe: Observe) -> tuple[Any, Trace]:
        """Predict and pay: (the gradient by the fast weights, what was paid)."""
        out, pull = jax.vjp(lambda fast: self.network.apply({"params": overlaid(params.init, fast)}, x), fast)
        y, weight = observe(paid(out))
        nll, _, lesson = pay(self.likelihood, out, y)
        (gradient,) = pull(scaled(weight, lesson))
        if self.first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return gradient, Trace(y, weight * nll)


def _descend(fast: Any, rates: Any, gradient: Any) -> Any:
    return jax.tree.map(lambda w, rate, g: w - rate * g, fast, rates, gradient)
