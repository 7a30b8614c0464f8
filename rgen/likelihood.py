"""From the logits of one step to nats, to probabilities and to a draw."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rgen.errors import InputError


class Likelihood(Protocol):
    """How the logits of one step are read. Frozen, without parameters."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        """Nats of the output y []."""
        ...

    def log_probs(self, logits: jax.Array) -> jax.Array:
        """Log-probabilities [K] of all outputs."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of K symbols: logits [K], outputs 0..K-1."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        # not logits[y], whose gradient is a scatter: on TPUs a loop over sequences in every inner step, on GPUs a kernel of its own
        return jax.nn.logsumexp(logits) - jnp.where(jnp.arange(logits.shape[-1]) == y, logits, 0).sum()

    def log_probs(self, logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(logits)


@dataclass(frozen=True)
class Bernoulli:
    """A bit: logits [1], the log-odds of 1; outputs 0 or 1."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(y > 0, jax.nn.softplus(-logits[0]), jax.nn.softplus(logits[0]))

    def log_probs(self, logits: jax.Array) -> jax.Array:
        return -jax.nn.softplus(jnp.stack([logits[0], -logits[0]]))


@dataclass(frozen=True)
class Ordered:
    """One of K ordered levels: logits [M + K], outputs 0..K-1.

    A categorical distribution, in which a level's logit is the sum of one of its own and of one that is interpolated between M knots at
    equal distances. So SGD teaches a level's neighbours too, and can yet make any level certain. The nats are convex in the logits and
    their gradient is bounded; that of a mixture of logistic distributions (Salimans et al. 2017, arXiv:1701.05517) is not, and SGD in the
    inner loop diverges.

    Attributes:
      levels: K.
      knots: M, at most K.
    """

    levels: int
    knots: int = 16

    @property
    def outputs(self) -> int:
        """How many logits a network must have."""
        return len(self._weights()) + self.levels

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return Categorical().nll(self._of_levels(logits), y)

    def log_probs(self, logits: jax.Array) -> jax.Array:
        return Categorical().log_probs(self._of_levels(logits))

    def _of_levels(self, logits: jax.Array) -> jax.Array:
        """Logits [K]."""
        weights = jnp.asarray(self._weights(), logits.dtype)
        return logits[: len(weights)] @ weights + logits[len(weights) :]

    def _weights(self) -> np.ndarray:
        """How much each knot is worth to each level: [M, K], of length 1, so that steps of SGD are no larger than on the levels' own."""
        knots = min(self.knots, self.levels)
        position = np.arange(self.levels) * (knots - 1) / (self.levels - 1)
        weights = np.maximum(0, 1 - np.abs(position - np.arange(knots)[:, None]))
        return weights / np.linalg.norm(weights, axis=1, keepdims=True)


COLDEST = 1e-30  # lower temperatures count as 0, since dividing by them leaves the range of float32


@dataclass(frozen=True)
class Decoding:
    """How probabilities are modified before an output is drawn, in this order.

    Attributes:
      temperature: divides log-probabilities: below 1 sharpens, above 1 flattens, 0 is greedy.
      top_k: keeps the k most probable outputs.
      top_p: keeps the fewest outputs whose probabilities sum to this (Holtzman et al. 2020, arXiv:1904.09751).
      min_p: keeps outputs at least this many times as probable as the most probable one (Nguyen et al. 2024, arXiv:2407.01082).
    Raises:
      InputError: one of them is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"The temperature is {self.temperature}; it must be at least 0, where 0 draws the most probable output.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top-k is {self.top_k}; it must be at least 1.")
        for name, value in (("top-p", self.top_p), ("min-p", self.min_p)):
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} is {value}; it must lie above 0 and be at most 1.")

    def log_probs(self, log_probs: jax.Array) -> jax.Array:
        """The modified log-probabilities [K], up to a constant; -inf for what is not kept."""
        if self.temperature < COLDEST:
            return jnp.where(jnp.arange(log_probs.size) == log_probs.argmax(), 0.0, -jnp.inf)
        scaled = (log_probs - log_probs.max()) / self.temperature
        if self.top_k is not None or self.top_p is not None:
            order = jnp.argsort(-scaled)  # stable, so that exactly k are kept among equals
            ordered = scaled[order]
            if self.top_k is not None:
                ordered = jnp.where(jnp.arange(ordered.size) < self.top_k, ordered, -jnp.inf)
            if self.top_p is not None and self.top_p < 1:  # 1 keeps everything, however the cumulative sum rounds
                probs = jax.nn.softmax(ordered)
                likelier = (probs.cumsum() - probs).at[0].set(-1)  # the first is always kept
                ordered = jnp.where(likelier < self.top_p, ordered, -jnp.inf)
            scaled = scaled.at[order].set(ordered)
        if self.min_p is not None:
            scaled = jnp.where(scaled >= scaled.max() + jnp.log(self.min_p), scaled, -jnp.inf)
        return scaled

    def draw(self, key: jax.Array, log_probs: jax.Array) -> jax.Array:
        """Draws an output [] (int32) from log-probabilities [K]."""
        with jax.threefry_partitionable(True):  # the same draw whatever JAX's setting
            return jax.random.categorical(key, self.log_probs(log_probs)).astype(jnp.int32)


PLAIN = Decoding()
