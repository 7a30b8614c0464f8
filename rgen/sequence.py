"""What a model reads and what it gives back."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rgen.likelihood import PLAIN, Decoding

Array = Any  # of JAX or of numpy
PyTree = Any  # of arrays


class Sequence(NamedTuple):
    """Inputs known in advance, outputs to be predicted one after the other.

    Shapes are those of a batch; a single sequence has no B.

    Attributes:
      x: [B, T, ...] inputs: a position in a line, or coordinates in a grid; [1, T, ...] if all sequences have the same, so that
        what depends on them alone is computed once.
      y: [B, T] outputs: symbols, from 0 to K - 1.
      weight: [B, T] multiplies the nats and the gradient of an output; 0 excludes it from scoring and learning.
    """

    x: Array
    y: Array
    weight: Array


class Given(NamedTuple):
    """The part of a sequence that is known before sampling begins.

    Attributes:
      y: [B, T] outputs; read only where known.
      known: [B, T] booleans.
    """

    y: Array
    known: Array


class Trace(NamedTuple):
    """What one pass over a sequence leaves behind.

    Attributes:
      y: [B, T] the outputs, given or drawn.
      nll: [B, T] nats paid for them, each BEFORE the step's own update, times the step's weight.
    """

    y: Array
    nll: Array


class Prediction(NamedTuple):
    """What a network returns if SGD is to learn by other logits than those that are paid for; others return logits alone.

    Where a prediction is sure, its nats teach nothing: their gradient vanishes, and what was seen is not written down. Logits of their
    own, which the initialization can keep unsure, let every step write what it has seen.

    Attributes:
      logits: of the next output; their nats are paid, drawn from, and descended by the outer loop.
      learned: logits of the same output, whose nats the inner loop descends.
    """

    logits: Array
    learned: Array


def paid(out: PyTree) -> PyTree:
    """The logits that are paid for, of what a network returned."""
    return out.logits if isinstance(out, Prediction) else out


def until_end(y: Array, end: int) -> Array:
    """Weights of outputs that stop counting after their first `end`, which itself counts.

    Args:
      y: [..., T] outputs.
      end: the output that ends a sequence, for instance 0 for a NUL byte.
    Returns:
      [..., T] booleans.
    """
    ends = y == end
    return ends.cumsum(-1) == ends


class WithOutputs(NamedTuple):
    """The input of a network that reads earlier outputs too: `x, outputs = inputs`.

    Attributes:
      x: the step's own input, as the sequence gives it.
      outputs: [c] integers, the earlier outputs; -1 where there is none.
    """

    x: PyTree
    outputs: Array


# Which earlier outputs a network reads: the last k; or steps from place to place, (rows, columns) up and to the left
Reads = int | tuple[tuple[int, ...], ...]


def earlier(x: Array, reads: Reads) -> jax.Array:
    """The steps whose outputs are read.

    Args:
      x: [B, T] or [B, T, n] inputs; [1, T, ...] for all sequences. Where `reads` names places, x are these places, integers.
      reads: k, for the last k outputs, the latest first; or steps, for the outputs at the places x - step.
    Returns:
      [B, T, c] numbers of steps (B is 1 if that is enough); -1 where the output is not there yet, or there is no such place.
    Raises:
      ValueError: the inputs are no places for these steps.
    """
    length = x.shape[1]
    if isinstance(reads, int):
        return jnp.maximum(jnp.arange(length)[:, None] - jnp.arange(1, reads + 1), -1)[None].astype(jnp.int32)
    places = jnp.asarray(x).reshape(*x.shape[:2], -1)
    if places.shape[2] != len(reads[0]) or not jnp.issubdtype(places.dtype, jnp.integer):
        raise ValueError(
            f"The network reads outputs at steps such as {reads[0]} between places, and an input is {places.dtype}{list(x.shape[2:])}. "
            f"Give places as inputs, {len(reads[0])} integers each, or steps of their length."
        )
    return jax.vmap(lambda places: _steps_at(places, jnp.array(reads)))(places)


def _steps_at(places: jax.Array, reads: jax.Array) -> jax.Array:
    """[T, c] of the places [T, n] of one sequence."""
    low, far = places.min(0), jnp.abs(reads).max(0)
    sizes = places.max(0) - low + 1 + 2 * far  # with a margin, so that no step leads around an edge
    strides = jnp.cumprod(sizes[::-1])[::-1] // sizes
    numbers = (places - low + far) @ strides
    order = jnp.argsort(numbers)
    wanted = (places[:, None] - reads - low + far) @ strides
    found = order[jnp.minimum(jnp.searchsorted(numbers[order], wanted), len(order) - 1)]
    there = (numbers[found] == wanted) & (found < jnp.arange(len(places))[:, None])
    return jnp.where(there, found, -1).astype(jnp.int32)


def with_outputs(x: Array, y: Array | None, reads: Reads) -> PyTree:
    """What a network reads: x, or `WithOutputs` of x [B or 1, T, ...] and [B, T, c] of the outputs y [B, T] (None: all -1).

    What all sequences share is not copied.
    """
    if not reads:
        return x
    steps = earlier(x, reads)
    if y is None:
        return WithOutputs(x, jnp.full_like(steps, -1))
    steps = jnp.broadcast_to(steps, (len(y), *steps.shape[1:]))
    return WithOutputs(x, jax.vmap(lambda y, steps: jnp.where(steps < 0, -1, y[steps]))(jnp.asarray(y, jnp.int32), steps))


def check_shapes(seqs: Sequence) -> None:
    """Raises ValueError unless x [B, T, ...] or [1, T, ...], y [B, T] and weight [B, T] agree."""
    shapes = {name: value.shape for name, value in seqs._asdict().items()}
    y = seqs.y.shape
    if len(y) != 2 or seqs.y.size == 0 or seqs.weight.shape != y or seqs.x.shape[:2] not in (y, (1, *y[1:])):
        raise ValueError(
            "A batch of sequences needs x [B, T, ...] (or [1, T, ...] for all), y [B, T] and weight [B, T], with at least one row and one "
            f"step; got {shapes}."
        )


def check_keys(keys: Any) -> None:
    """Raises ValueError unless `keys` are typed PRNG keys [B]."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError(
            f"Sampling needs typed keys [B], one for each sequence; got {keys.dtype} of shape {keys.shape}. Give "
            "jax.random.split(jax.random.key(0), B), not those of jax.random.PRNGKey."
        )


class SequenceModel(Protocol):
    """Anything that scores and samples sequences: the inner loop, or a baseline.

    Parameters are a pytree; models are frozen and hashable, so that an equal model does not recompile.
    """

    def init(self, key: jax.Array, x: Array) -> PyTree:
        """Draws parameters for inputs that look like `x` [...], one input."""
        ...

    def score(self, params: PyTree, seqs: Sequence) -> jax.Array:
        """Returns [B, T] nats, each paid before its own output is seen; differentiable in `params`."""
        ...

    def sample(self, params: PyTree, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws the outputs of x [B, T, ...], one key a sequence, as `decoding` says; what is `given` is not drawn but fed."""
        ...
