"""Drawing: new sequences, and the missing parts of known ones."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rgen.choices import GENERATOR
from rgen.data import Dataset
from rgen.devices import even_batch, fetch, place
from rgen.fast import InnerLoop, Params
from rgen.likelihood import PLAIN, Decoding
from rgen.sequence import Array, Given, PyTree, Sequence, SequenceModel, Trace


@partial(jax.jit, static_argnames=("model", "decoding"))
def sample(model: SequenceModel, params: PyTree, x: Array, keys: jax.Array, decoding: Decoding = PLAIN) -> Trace:
    """Draws sequences, each output from the network that has learned those before.

    Args:
      x: [B, T, ...] inputs, or [1, T, ...] for all.
      keys: [B] typed PRNG keys; a sequence depends on its own key only.
      decoding: how probabilities are modified before drawing.
    Returns:
      Trace of y [B, T] and nll [B, T], the nats under the unchanged model.
    """
    return model.sample(params, x, keys, decoding=decoding)


@partial(jax.jit, static_argnames=("model", "decoding"))
def complete(model: SequenceModel, params: PyTree, x: Array, given: Given, keys: jax.Array, decoding: Decoding = PLAIN) -> Trace:
    """Completes sequences: the known outputs are fed first, in the order of `x`, then the others are drawn.

    This works best in the orders that a network was trained for: a prefix, or any subset if it was trained in random order.

    Args:
      x: [B, T, ...] inputs, or [1, T, ...] for all.
      given: y [B, T] and known [B, T]. A known output that ends sequences ends its sequence.
      keys, decoding: as in `sample`.
    Returns:
      Trace of y [B, T], and nll [B, T] in that order: its sum over the drawn outputs is their nats given the known ones.
    """
    order = known_first(given.known)
    trace = model.sample(params, reorder(x, order), keys, reorder(given, order), decoding)
    return reorder(trace, jnp.argsort(order, axis=1))


@partial(jax.jit, static_argnums=0)
def conditional_nats(model: SequenceModel, params: PyTree, seqs: Sequence, known: Array) -> jax.Array:
    """Exact nats [B, T] of sequences given the outputs that are known [B, T], which are fed first; 0 where known."""
    order = known_first(known)
    nll = model.score(params, reorder(seqs, order))
    return jnp.where(known, 0, reorder(nll, jnp.argsort(order, axis=1)))


@partial(jax.jit, static_argnames=("loop", "every"))
def belief(loop: InnerLoop, params: Params, seqs: Sequence, x: Array, every: int = 1) -> jax.Array:
    """Log-probabilities [B, F, P, K] of all outputs at the inputs x [P, ...], before the first and after every few inner steps.

    See `InnerLoop.belief`.
    """
    return loop.belief(params, seqs, x, every)


def known_first(known: Array) -> jax.Array:
    """Steps [B, T], sorted stably: the known ones first, for booleans [B, T]."""
    return jnp.argsort(~jnp.asarray(known), axis=1, stable=True)


def reorder(tree: PyTree, order: jax.Array) -> PyTree:
    """Arrays [B, T, ...], or [1, T, ...] that all share, with the steps of each row in the order [B, T]."""
    rows = jnp.arange(order.shape[0])[:, None]
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (*order.shape, *a.shape[2:]))[rows, order], tree)


@dataclass(frozen=True)
class Sampler:
    """Draws sample number k of a seed: always the same one, in any batch.

    Attributes:
      model: a model that was trained on such sequences.
      shape: sizes of the axes of the places, as (T,) for lines or (rows, columns) for images.
      random_order: whether the order of the places is drawn too, or is the raster.
      together: how many places next to each other stay so in a random order, as the colours of a pixel.
      decoding: see `sample`.
    """

    model: SequenceModel
    shape: tuple[int, ...]
    random_order: bool = False
    together: int = 1
    decoding: Decoding = PLAIN

    def keys(self, seed: Array, index: Array) -> jax.Array:
        """One key for each number [B]."""
        key = jax.random.key(seed, impl=GENERATOR)
        return jax.vmap(lambda k: jax.random.fold_in(key, k))(index)

    def places(self, keys: jax.Array, known: Array | None = None) -> jax.Array:
        """The order of the places, as raster indices: [B, T], or [1, T] if shared; places that are `known` [B, *shape] come first."""
        length = math.prod(self.shape)
        groups = jnp.arange(length // self.together)
        order = groups[None]
        if self.random_order:  # each step's key is folded from 0 .. T - 1
            with jax.threefry_partitionable(True):  # as in `Decoding.draw`
                order = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, length), groups))(keys)
        places = (order[..., None] * self.together + jnp.arange(self.together)).reshape(len(order), length)
        if known is None:
            return places
        places = jnp.broadcast_to(places, (len(known), length))
        return reorder(places, known_first(reorder(known.reshape(places.shape), places)))

    def inputs(self, places: Array) -> jax.Array:
        """x [..., T] of places [..., T] in a grid with one axis, or [..., T, n] with n."""
        return places if len(self.shape) == 1 else jnp.stack(jnp.unravel_index(places, self.shape), -1)

    def draw(self, params: PyTree, seed: Array, index: Array, given: Given | None = None) -> tuple[jax.Array, jax.Array]:
        """Draws numbers `index` [B] of a seed.

        Args:
          given: y and known [B, *shape].
        Returns:
          (outputs uint8 [B, *shape]; nats [B] of what was drawn, given what is known).
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
    return Sampler(model, data.shape, data.order == "random", data.together, decoding)


_draw = jax.jit(Sampler.draw, static_argnums=0)


def batches(
    sampler: Sampler,
    params: PyTree,
    seed: int,
    numbers: range,
    batch: int,
    given: Callable[[np.ndarray], Given] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws samples in batches that are spread over the devices.

    Args:
      numbers: which samples of the seed.
      given: from numbers [B] to what is known of these samples: y and known [B, *shape].
    Yields:
      (outputs [b, *shape], nats [b]); the last may be fewer than `batch`.
    """
    batch = even_batch(batch, len(numbers))
    for first in range(0, len(numbers), batch or 1):
        index = np.arange(numbers[first], numbers[first] + batch)  # all batches have one size, so that nothing is compiled again
        known = given(np.minimum(index, numbers[-1])) if given else None
        params, (spread, known) = place(params, (index, known))
        values, nats = _draw(sampler, params, seed, spread, known)
        left = len(numbers) - first
        yield fetch(values)[:left], fetch(nats)[:left]
