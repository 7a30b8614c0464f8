"""From the logits of one step to nats, and to a draw."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp


class Likelihood(Protocol):
    """Frozen and without parameters; works on the logits of one step."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        """Nats paid for the output y [] under logits [K]."""
        ...

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws an output [] (int32)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of K symbols: logits [K], outputs 0..K-1."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(logits) - logits[y]

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits).astype(jnp.int32)


@dataclass(frozen=True)
class Bernoulli:
    """A bit: logits [1], the log-odds of 1; outputs 0 or 1."""

    def nll(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(y > 0, jax.nn.softplus(-logits[0]), jax.nn.softplus(logits[0]))

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, jax.nn.sigmoid(logits[0])).astype(jnp.int32)
