"""What a model reads and what it gives back."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rgen.likelihood import PLAIN, Decoding

Array = Any  # of JAX or of numpy


class Sequence(NamedTuple):
    """Inputs known in advance, outputs to be predicted one after the other.

    Shapes are those of a batch; a single sequence has no B.

    Attributes:
      x: [B, T, ...] inputs: a position in a line, or the (row, column) of a pixel; [1, T, ...] if all sequences have the same, so that
        what depends on them alone is computed once.
      y: [B, T] outputs: a byte, or a bit.
      weight: [B, T] what a step counts; 0 means not scored and not learned from.
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


def paid(out: Any) -> Any:
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


def with_context(x: Array, y: Array | None, count: int) -> Array:
    """Inputs x [B, T, ...] with the last `count` outputs of y [B, T] beside them, the latest first: [B, T, inputs + count].

    Where there is no output yet, and everywhere without y, stands -1.
    """
    if not count:
        return x
    x = jnp.asarray(x).reshape(*x.shape[:2], -1)
    if y is None:
        return jnp.pad(x, ((0, 0), (0, 0), (0, count)), constant_values=-1)
    x = jnp.broadcast_to(x, (*y.shape, x.shape[-1]))
    before = jnp.pad(jnp.asarray(y, x.dtype), ((0, 0), (count, 0)), constant_values=-1)
    return jnp.concatenate([x, *(before[:, count - i : before.shape[1] - i, None] for i in range(1, count + 1))], -1)


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
    """Anything that scores and samples sequences: the inner loop, or the recurrent baseline.

    Parameters are a pytree; models are frozen and hashable, so that an equal model does not recompile.
    """

    def init(self, key: jax.Array, x: Array) -> Any:
        """Draws parameters for inputs that look like `x` [...], one input."""
        ...

    def score(self, params: Any, seqs: Sequence) -> jax.Array:
        """Returns [B, T] nats, each paid before its own output is seen; differentiable in `params`."""
        ...

    def sample(self, params: Any, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws the outputs of x [B, T, ...], one key a sequence, as `decoding` says; what is `given` is not drawn but fed."""
        ...
