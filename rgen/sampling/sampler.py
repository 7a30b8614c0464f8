"""Drawing: new sequences, and the missing parts of known ones."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgen.choices import GENERATOR
from rgen.data import Dataset
from rgen.devices import even_batch, fetch, place
from rgen.fast import InnerLoop, Params
from rgen.likelihood import PLAIN, Decoding
from rgen.sequence import Array, Given, Sequence, SequenceModel, Trace


@partial(jax.jit, static_argnames=("model", "decoding"))
def sample(model: SequenceModel, params: Any, x: Array, keys: jax.Array, decoding: Decoding = PLAIN) -> Trace:
    """Draws sequences, each output from the network that has learned those before.

    Args:
      x: [B, T, ...] inputs, or [1, T, ...] for all.
      keys: [B] typed PRNG keys; a sequence depends on its own key only.
      decoding: what the probabilities are changed by before something is drawn.
    Returns:
      Trace of y [B, T] and nll [B, T], the nats under the unchanged model.
    """
    return model.sample(params, x, keys, decoding=decoding)


@partial(jax.jit, static_argnames=("model", "decoding"))
def complete(model: SequenceModel, params: Any, x: Array, given: Given, keys: jax.Array, decoding: Decoding = PLAIN) -> Trace:
    """Draws what is not known of sequences: the known outputs are fed first, in the order of `x`, then the others are drawn.

    A network is at home in the orders it was trained for: a prefix in any case; any subset if it was trained in random order.

    Args:
      x: [B, T, ...] inputs, or [1, T, ...] for all.
      given: y [B, T] and known [B, T]. A known output that ends sequences ends this one where it is fed.
      keys, decoding: as in `sample`.
    Returns:
      Trace of y [B, T], and nll [B, T] as it was paid in that order: summed over what is not known, the nats of the drawn part
      given the known one.
    """
    order = known_first(given.known)
    trace = model.sample(params, reorder(x, order), keys, reorder(given, order), decoding)
    return reorder(trace, jnp.argsort(order, axis=1))


@partial(jax.jit, static_argnums=0)
def conditional_nats(model: SequenceModel, params: Any, seqs: Sequence, known: Array) -> jax.Array:
    """Exact nats [B, T] of the rest of sequences given a part of them, known [B, T], that is fed first; 0 where known."""
    order = known_first(known)
    nll = model.score(params, reorder(seqs, order))
    return jnp.where(known, 0, reorder(nll, jnp.argsort(order, axis=1)))


@partial(jax.jit, static_argnames=("loop", "every"))
def belief(loop: InnerLoop, params: Params, seqs: Sequence, x: Array, every: int = 1) -> jax.Array:
    """Log-probabilities [B, F, P, K] of all outputs at the places x [P, ...] as the inner loop goes along: `InnerLoop.belief`."""
    return loop.belief(params, seqs, x, every)


def known_first(known: Array) -> jax.Array:
    """For booleans [B, T] the steps [B, T], those that are known before the others and else as they were."""
    return jnp.argsort(~jnp.asarray(known), axis=1, stable=True)


def reorder(tree: Any, order: jax.Array) -> Any:
    """Arrays [B, T, ...], or [1, T, ...] for all, with the steps of each row in the order [B, T]."""
    rows = jnp.arange(order.shape[0])[:, None]
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (*order.shape, *a.shape[2:]))[rows, order], tree)


@dataclass(frozen=True)
class Sampler:
    """Draws number k of a seed: always the same, whatever is drawn beside it.

    Attributes:
      model: what draws; a network that was trained on such sequences.
      shape: (T,) for lines, (rows, columns) for images.
      random_order: whether the order of an image's pixels is drawn too, or is the raster.
      decoding: see `sample`.
    """

    model: SequenceModel
    shape: tuple[int, ...]
    random_order: bool = False
    decoding: Decoding = PLAIN

    def keys(self, seed: Array, index: Array) -> jax.Array:
        """One key for each number [B]."""
        key = jax.random.key(seed, impl=GENERATOR)
        return jax.vmap(lambda k: jax.random.fold_in(key, k))(index)

    def places(self, keys: jax.Array, known: Array | None = None) -> jax.Array:
        """The places, numbered in raster order, as they come: [B, T], or [1, T] if they come to all alike; those known, booleans
        [B, *shape], before the others."""
        raster = jnp.arange(math.prod(self.shape))
        places = raster[None]
        if self.random_order:  # each step's key is folded from 0 .. T - 1
            with jax.threefry_partitionable(True):  # as in `Decoding.draw`
                places = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, raster.size), raster))(keys)
        if known is None:
            return places
        places = jnp.broadcast_to(places, (len(known), raster.size))
        return reorder(places, known_first(reorder(known.reshape(places.shape), places)))

    def inputs(self, places: Array) -> jax.Array:
        """x [..., T] or [..., T, 2] of places [..., T]."""
        return places if len(self.shape) == 1 else jnp.stack(jnp.unravel_index(places, self.shape), -1)

    def draw(self, params: Any, seed: Array, index: Array, given: Given | None = None) -> tuple[jax.Array, jax.Array]:
        """Draws numbers `index` [B] of a seed.

        Args:
          given: y and known [B, *shape], what is known of each.
        Returns:
          (outputs in their places, uint8 [B, *shape]; nats [B] of what was drawn, given what is known).
        """
        keys = self.keys(seed, index)
        places = self.places(keys, None if given is None else given.known)
        if given is not None:
            given = reorder(jax.tree.map(lambda a: a.reshape(places.shape), given), places)
        y, nll = self.model.sample(params, self.inputs(places), keys, given, self.decoding)
        if given is not None:
            nll = jnp.where(given.known, 0, nll)
        values = jnp.zeros(y.shape, jnp.uint8).at[jnp.arange(len(keys))[:, None], places].set(y.astype(jnp.uint8))
        return values.reshape(-1, *self.shape), nll.sum(1)


def make_sampler(model: SequenceModel, data: Dataset, decoding: Decoding = PLAIN) -> Sampler:
    """The sampler of a model for the data it was trained on, in the order it was trained for."""
    return Sampler(model, data.shape, data.order == "random", decoding)


_draw = jax.jit(Sampler.draw, static_argnums=0)


def batches(
    sampler: Sampler,
    params: Any,
    seed: int,
    numbers: range,
    batch: int,
    given: Callable[[np.ndarray], Given] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws `numbers` in batches that are spread over the devices.

    Args:
      given: for numbers [B], what is known of each: y and known [B, *shape].
    Yields:
      (outputs [b, *shape], nats [b]); the last may be fewer than `batch`.
    """
    batch = even_batch(batch, len(numbers))
    for first in range(0, len(numbers), batch or 1):
        index = np.arange(numbers[first], numbers[first] + batch)  # the last draws a few too many, so that nothing is compiled again
        known = given(np.minimum(index, numbers[-1])) if given else None
        params, (spread, known) = place(params, (index, known))
        values, nats = _draw(sampler, params, seed, spread, known)
        left = len(numbers) - first
        yield fetch(values)[:left], fetch(nats)[:left]
