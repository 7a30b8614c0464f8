"""The transformer baseline: a decoder. Its memory is the keys and values of all steps so far."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rgen.batching import over_sequences
from rgen.errors import InputError
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.sequence import Array, Given, PyTree, Sequence, Trace, check_shapes
from rgen.unroll import Drawing, drawn_steps, in_batches, out_of_batches, unroll


class Tokens(NamedTuple):
    """What a decoder reads, one token per step. The order of places may differ, so a token has the place to predict and the place before.

    Attributes:
      place: [..., L] or [..., L, n] the places to predict, like the inputs of a sequence.
      before: likewise, the places of the previous outputs; at the first step, the place to predict.
      previous: [..., L] the previous outputs; at the first step, `Transformer.symbols`.
    """

    place: jax.Array
    before: jax.Array
    previous: jax.Array


class Remembered(NamedTuple):
    """Keys and values of a layer: [..., heads, T, size]."""

    keys: jax.Array
    values: jax.Array


def attend(queries: jax.Array, held: Remembered, first: int | jax.Array = 0) -> jax.Array:
    """Causal attention: each of the steps first, first + 1, ... reads itself and all steps before it.

    Like `jax.nn.dot_product_attention`, which has its softmax in float32 even for float64 inputs, and takes twice as long on CPUs.

    Args:
      queries: [..., heads, L, size].
      held: keys and values of T steps.
      first: index of the first of the L steps.
    Returns:
      [..., heads, L, size].
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ jnp.swapaxes(held.keys, -1, -2)
    seen = jnp.arange(scores.shape[-1]) <= first + jnp.arange(scores.shape[-2])[:, None]
    scores = jnp.where(seen, scores, -jnp.inf)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    return weights @ held.values / weights.sum(-1, keepdims=True)  # divided last, where there are fewer numbers


def rotate(vectors: jax.Array, places: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Rotates queries or keys by their places, so that a product of the two depends on places only by their difference along each axis.

    Each axis rotates an equal number of pairs of features, at rates from one radian per place down to one radian over the whole axis.
    Features that are left over are not rotated.

    Source: rotary embeddings, Su et al. 2021, arXiv:2104.09864.

    Args:
      vectors: [..., heads, L, size].
      places: [..., L, n] in a grid of this `shape`, of n axes.
    """
    pairs = vectors.shape[-1] // 2 // len(shape)  # of each axis
    steps = np.arange(pairs) / max(pairs - 1, 1)
    angles = jnp.concatenate([places[..., None, :, i, None] * float(size) ** -steps for i, size in enumerate(shape)], -1)
    cos, sin = jnp.cos(angles).astype(vectors.dtype), jnp.sin(angles).astype(vectors.dtype)
    a, b, rest = jnp.split(vectors, [pairs * len(shape), 2 * pairs * len(shape)], -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], -1)


class DecoderBlock(nn.Module):
    """Attention, then a gated layer (SwiGLU, Shazeer 2020, arXiv:2002.05202), each applied to the RMSNorm of the residual stream."""

    shape: tuple[int, ...]
    heads: int
    depth: int

    @nn.compact
    def __call__(self, h: jax.Array, tokens: Tokens, held: Remembered | None, first: int | jax.Array) -> tuple[jax.Array, Remembered]:
        width = h.shape[-1]
        small = nn.initializers.variance_scaling(0.5 / self.depth, "fan_in", "normal")  # so that the stream does not grow with depth

        qkv = nn.Dense(3 * width, use_bias=False, name="qkv")(nn.RMSNorm(name="norm_attention")(h))
        qkv = qkv.reshape(*h.shape[:-1], 3, self.heads, width // self.heads)
        q, k, v = jnp.moveaxis(qkv, (-3, -2), (0, -3))  # each [..., heads, L, size]
        q, k = rotate(q, tokens.place, self.shape), rotate(k, tokens.before, self.shape)
        now = Remembered(k, v)
        if held is not None:
            now = Remembered(*(jax.lax.dynamic_update_slice_in_dim(a, b, first, -2) for a, b in zip(held, now, strict=True)))
        read = jnp.swapaxes(attend(q, now, first), -2, -3).reshape(h.shape)
        h = h + nn.Dense(width, use_bias=False, kernel_init=small, name="read")(read)

        hidden = 8 * width // 3  # as many weights as four times the width without a gate
        value, gate = jnp.split(nn.Dense(2 * hidden, use_bias=False, name="hidden")(nn.RMSNorm(name="norm_hidden")(h)), 2, -1)
        return h + nn.Dense(width, use_bias=False, kernel_init=small, name="residual")(value * nn.silu(gate)), now


class Transformer(nn.Module):
    """A standard decoder: pre-norm RMSNorm, learned and rotary positions on each axis of the grid, SwiGLU, no biases in its blocks.

    A token is the sum of embeddings of the previous output, its place, and the place to predict.

    Attributes:
      shape: sizes of the axes of the places, as (T,) for lines, whose inputs are [], or (rows, columns) for pictures, inputs [2].
      symbols: how many different outputs there are.
      outputs: how many logits; see `rgen.likelihood`.
      width: of the residual stream, divisible by `heads`.
    """

    shape: tuple[int, ...]
    symbols: int
    outputs: int
    width: int = 64
    depth: int = 3
    heads: int = 4

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise InputError(f"The network's width is {self.width}, which is not divisible by its {self.heads} heads.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, tokens: Tokens, held: list[Remembered] | None = None, first: int | jax.Array = 0
    ) -> tuple[jax.Array, list[Remembered]]:
        """Logits [..., L, outputs] of L steps, and keys and values of each layer.

        Args:
          tokens: of the L steps.
          held: keys and values of each layer, of all T steps; the L from `first` on are replaced. None: the L steps are the whole sequence.
          first: index of the first of the L steps.
        """
        normal = nn.initializers.normal(0.1)

        def embed(name: str, count: int, index: jax.Array) -> jax.Array:
            return nn.Embed(count, self.width, embedding_init=normal, name=name)(index)

        if len(self.shape) == 1:
            tokens = tokens._replace(place=tokens.place[..., None], before=tokens.before[..., None])
        h = embed("previous", self.symbols + 1, tokens.previous)
        for i, size in enumerate(self.shape):
            h += embed(f"place_{i}", size, tokens.place[..., i]) + embed(f"before_{i}", size, tokens.before[..., i])
        after = []
        for i in range(self.depth):
            block = DecoderBlock(self.shape, self.heads, self.depth, name=f"block_{i}")
            h, now = block(h, tokens, held[i] if held else None, first)
            after.append(now)
        return nn.Dense(self.outputs, name="logits")(nn.RMSNorm(name="norm")(h)), after


@dataclass(frozen=True)
class Attentive:
    """A sequence model around a `Transformer`, with `init`, `score` and `sample` like those of `rgen.fast.InnerLoop`.

    All steps are scored in parallel; outputs are drawn one after the other, and keys and values are kept.

    Attributes:
      network: the decoder.
      likelihood: how logits become nats and draws.
      end: the output that ends a sampled sequence, if one does.
    """

    network: Transformer
    likelihood: Likelihood
    end: int | None = None

    def init(self, key: jax.Array, x: Array) -> PyTree:
        """Draws parameters for inputs that look like `x` [...], ONE input."""
        x = jnp.asarray(x)[None]
        return jax.jit(self.network.init)(key, Tokens(x, x, jnp.zeros(1, jnp.int32)))["params"]

    def score(self, params: PyTree, seqs: Sequence) -> jax.Array:
        """Returns [B, T] nats, each paid before its own output is seen, times its weight. Raises ValueError if the shapes disagree."""
        check_shapes(seqs)
        x, y = jnp.asarray(seqs.x), jnp.asarray(seqs.y, jnp.int32)
        start = jnp.full((len(y), 1), self.network.symbols, jnp.int32)
        tokens = Tokens(x, jnp.concatenate([x[:, :1], x[:, :-1]], 1), jnp.concatenate([start, y[:, :-1]], 1))
        logits, _ = self.network.apply({"params": params}, tokens)
        nll = jax.vmap(jax.vmap(self.likelihood.nll))(logits, y)
        return jnp.asarray(seqs.weight, nll.dtype) * nll

    def sample(self, params: PyTree, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws sequences; arguments and result as in `InnerLoop.sample`."""
        network, dtype, length = self.network, jax.tree.leaves(params)[0].dtype, x.shape[1]
        nothing = jnp.zeros((network.heads, length, network.width // network.heads), dtype)

        def advance(carry, x, observe):
            held, number, before, previous = carry
            logits, held = network.apply({"params": params}, Tokens(x, before, previous), held, number)
            seen, y, weight = observe(logits)
            return (held, number + 1, x, y), seen, Trace(y, weight * self.likelihood.nll(logits[0], y[0]))

        def one(steps):
            start = [Remembered(nothing, nothing)] * network.depth, jnp.int32(0), steps.x[0], jnp.full(1, network.symbols, jnp.int32)
            return unroll(advance, start, Drawing(self.likelihood, self.end, decoding), steps)[1]

        steps = in_batches(drawn_steps(jnp.asarray(x), keys, given, dtype), 1)
        return out_of_batches(over_sequences(one, steps), length)
