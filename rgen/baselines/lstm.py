"""The recurrent baseline: an LSTM that reads the previous output. Its memory is a state, not its weights."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rgen.batching import over_sequences
from rgen.likelihood import PLAIN, Decoding, Likelihood
from rgen.networks import uniform
from rgen.sequence import Array, Given, PyTree, Sequence, Trace, check_shapes
from rgen.unroll import Drawing, Observer, Scoring, drawn_steps, in_batches, out_of_batches, unroll


class LSTM(nn.Module):
    """LSTM cells for one step: (state, x, previous output) to (state, logits).

    The input concatenates embeddings of the place, one for each axis, and of the previous output; the initial state is trained.
    With shape (28, 28) and the default sizes this is the original program's baseline, without PyTorch's second bias in each gate.

    Attributes:
      shape: sizes of the axes of the places, as (T,) for lines, whose inputs are [], or (rows, columns) for pictures, inputs [2].
      symbols: how many different outputs there are.
      outputs: how many logits; see `rgen.likelihood`.
    """

    shape: tuple[int, ...]
    symbols: int
    outputs: int
    width: int = 256
    depth: int = 3
    features: int = 128

    def setup(self):
        init = uniform(self.width**-0.5)
        normal = nn.initializers.normal(1.0)
        self.positions = [nn.Embed(count, self.features, embedding_init=normal) for count in self.shape]
        self.previous = nn.Embed(self.symbols, self.features, embedding_init=normal)
        self.cells = [
            nn.OptimizedLSTMCell(self.width, kernel_init=init, recurrent_kernel_init=init, bias_init=init) for _ in range(self.depth)
        ]
        # the state before the first step; 2: cell and output
        self.start = self.param("start", nn.initializers.zeros, (self.depth, 2, self.width))
        self.logits = nn.Dense(self.outputs, kernel_init=init, bias_init=init)

    def __call__(self, state: jax.Array, x: jax.Array, previous: jax.Array) -> tuple[jax.Array, jax.Array]:
        # [1] and not [], for which Flax's table of a single row raises
        embedded = [embed(i)[0] for embed, i in zip(self.positions, jnp.atleast_1d(x)[:, None], strict=True)]
        h = jnp.concatenate([*embedded, self.previous(previous)])
        after = []
        for cell, (c, h_before) in zip(self.cells, state, strict=True):
            carry, h = cell((c, h_before), h)
            after.append(jnp.stack(carry))
        return jnp.stack(after), self.logits(h)


@dataclass(frozen=True)
class Recurrent:
    """A sequence model around an `LSTM`, with `init`, `score` and `sample` like those of `rgen.fast.InnerLoop`.

    Attributes:
      network: the cells.
      likelihood: how logits become nats and draws.
      end: the output that ends a sampled sequence, if one does.
    """

    network: LSTM
    likelihood: Likelihood
    end: int | None = None

    def init(self, key: jax.Array, x: Array) -> PyTree:
        """Draws parameters for inputs that look like `x` [...], ONE input."""
        state = jnp.zeros((self.network.depth, 2, self.network.width))
        return jax.jit(self.network.init)(key, state, x, jnp.zeros((), jnp.int32))["params"]

    def score(self, params: PyTree, seqs: Sequence) -> jax.Array:
        """Returns [B, T] nats, each paid before its own output is seen, times its weight. Raises ValueError if the shapes disagree."""
        check_shapes(seqs)
        return self._unroll(params, Scoring(), seqs).nll

    def sample(self, params: PyTree, x: Array, keys: jax.Array, given: Given | None = None, decoding: Decoding = PLAIN) -> Trace:
        """Draws sequences; arguments and result as in `InnerLoop.sample`."""
        steps = drawn_steps(x, keys, given, jax.tree.leaves(params)[0].dtype)
        return self._unroll(params, Drawing(self.likelihood, self.end, decoding), steps)

    def _unroll(self, params: PyTree, observer: Observer, steps: PyTree) -> Trace:
        network: Any = self.network.bind({"params": params})

        def advance(carry, x, observe):
            state, previous = carry
            state, logits = network(state, x[0], previous)
            seen, (y,), weight = observe(logits[None])
            return (state, y.astype(jnp.int32)), seen, Trace(y[None], weight * self.likelihood.nll(logits, y))

        start = network.start, jnp.zeros((), jnp.int32)
        trace = over_sequences(lambda steps: unroll(advance, start, observer, steps)[1], in_batches(steps, 1))
        return out_of_batches(trace, steps.weight.shape[1])
