"""The inner loop in dual form: the same numbers as `loop.py`, without forming the fast weights.

One step of SGD on one example changes a Dense layer by the outer product of its input and its output's cotangent. That pair, a tap, is
kept instead (`affine.py`, `forward.py`); the adjoint is made of taps too (`reverse.py`). Here are the functions of whole batches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rgen.fast.affine import contract, join, learn, moved, total
from rgen.fast.forward import Chunk, Core, by_chunk, look_back, piece, run, taps_of
from rgen.fast.plan import Engine
from rgen.fast.reverse import Later, by_input, reverse
from rgen.fast.taps import Path
from rgen.sequence import Sequence, over_sequences
from rgen.unroll import Scoring


def map_sequences(engine: Engine, function: Callable, inputs: dict[Path, jax.Array], steps: Any, *more: Any) -> Any:
    """`function(inputs, steps, *more)` of every sequence; foreseen inputs have no B if all sequences share them."""
    if engine.shared:
        return over_sequences(partial(function, inputs), steps, *more)
    return over_sequences(lambda steps, inputs, *more: function(inputs, steps, *more), steps, inputs, *more)


def without_inputs(engine: Engine, chunk: Chunk) -> Chunk:
    """The chunk without what is at hand elsewhere, and may be shared: the taps' inputs of foreseen layers."""
    return chunk._replace(blocks={p: block._replace(x=None) if p in engine.foreseen else block for p, block in chunk.blocks.items()})


def with_inputs(engine: Engine, chunks: list[Chunk], inputs: dict[Path, jax.Array]) -> list[Chunk]:
    """The way back, for all chunks of one sequence."""
    full = []
    for i, chunk in enumerate(chunks):
        blocks = dict(chunk.blocks)
        for p, layer in engine.foreseen.items():
            of_steps = partial(taps_of, engine, layer)
            x = jax.vmap(of_steps)(by_chunk(engine, inputs[p])) if engine.fold else of_steps(piece(engine, inputs[p], i))
            blocks[p] = blocks[p]._replace(x=x)
        full.append(chunk._replace(blocks=blocks))
    return full


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def score(engine: Engine, core: Core, inputs: dict[Path, jax.Array], seqs: Sequence) -> Any:
    """Nats [B, T] of sequences whose length is the sum of the engine's chunks. Differentiable once, in `core` and `inputs`.

    Where what is paid is late: instead path -> outputs [B, T, *heads, r, n] of the foreseen layers, on which it depends.

    `inputs`: path -> inputs [B, T, *heads, r, m] of the layers whose inputs are foreseen; [T, ...] if all sequences share them.
    """
    return _score_forward(engine, core, inputs, seqs)[0]


def _score_forward(engine, core, inputs, seqs):
    def one(inputs, seq):
        chunks, weights, _, (_, found) = run(engine, core, Scoring(), inputs, seq)
        if engine.late:
            found = {
                p: jnp.stack([chunk.replay.out[p] for chunk in chunks]).reshape(-1, *la.heads, la.taps, la.outputs)
                for p, la in engine.foreseen.items()
            }
        return [without_inputs(engine, chunk) for chunk in chunks], weights, found

    chunks, weights, found = map_sequences(engine, one, inputs, seqs)
    return found, (core, inputs, chunks, weights, seqs)


@jax.custom_jvp
def _once(tree: Any) -> Any:
    return tree


@_once.defjvp
def _refuse(primals, tangents):
    raise NotImplementedError(
        "The dual form has first derivatives only: a second derivative of the score was asked for. Use InnerLoop(form='direct')."
    )


def _score_backward(engine, kept, ct):
    core, inputs, chunks, weights, seqs = kept
    dtype = jax.tree.leaves((core.base, core.small))[0].dtype
    core, ct = _once((core, jax.tree.map(lambda a: a.astype(dtype), ct)))

    def one(inputs, seq, chunks, weights, ct):
        return reverse(engine, core, with_inputs(engine, chunks, inputs), weights, seq, ct)

    adjoints, ends, sums = map_sequences(engine, one, inputs, seqs, chunks, weights, ct)
    sums = jax.tree.map(lambda a: a.sum(0), sums)
    base, pulled, factors = {}, {}, sums.factors
    for p, layer in engine.layers:
        if layer.foreseen:
            pulled[p], kernel, row = by_input(engine, layer, core.factors[p], core.base[p]["kernel"], inputs[p], ends[p])
            bias = total(ends[p].h, (0, 1, -2))
            factors[p] = factors[p]._replace(row=row)
        elif isinstance(adjoints[p], Later):
            kernel, bias = adjoints[p].fold.sum(0), adjoints[p].bias.sum(0)
        else:
            kernel = sum(contract(layer, a.block.x, a.h) for a in adjoints[p])
            bias = sum(total(a.h, (0, -2)) for a in adjoints[p])
            if layer.varies:
                kernel = kernel - sum(contract(layer, a.xd, a.block.g) for a in adjoints[p])
        base[p] = {"kernel": kernel} | ({"bias": bias} if layer.bias else {})
    return Core(base, factors, sums.small, sums.small_rates, jax.tree.map(jnp.zeros_like, core.outside)), pulled, None


score.defvjp(_score_forward, _score_backward)


def adapt(
    engine: Engine, core: Core, observer: Any, inputs: dict[Path, jax.Array], steps: Any
) -> tuple[dict, Any, tuple[jax.Array, jax.Array]]:
    """Runs over sequences.

    Returns:
      (path -> last weights of each sequence [B, ...], carried parameters [B, ...], (y, nll) [B, T]).
    """

    def one(inputs, steps):
        chunks, weights, small, traced = run(engine, core, observer, inputs, steps)
        if weights is None:
            taken = engine.learning.items()
            weights = {p: learn(la, core.base[p], join([c.blocks[p] for c in chunks])[0], core.factors[p]) for p, la in taken}
        return weights, small, traced

    return map_sequences(engine, one, inputs, steps)


def drift(engine: Engine, core: Core, inputs: dict[Path, jax.Array], seqs: Sequence) -> tuple[dict, Any, dict, dict, jax.Array]:
    """Runs over sequences and sums up how far they move the weights, without forming any sequence's last weights.

    Returns:
      (path -> sum of what the weights lost, sum of what the carried parameters lost; path -> sum of the gradients of layers that are
      never read again; sums of the cotangents of `inputs`, of the sequences if all share them; nll [B, T]).
    """

    def one(inputs, seq):
        chunks, _, small, (_, nll) = run(engine, core, Scoring(), inputs, seq)
        return chunks, small, nll, look_back(engine, core, chunks)

    chunks, small, nll, pulled = map_sequences(engine, one, inputs, seqs)
    lost, owed = {}, {}
    for p, layer in engine.layers:
        blocks = [chunk.blocks[p] for chunk in chunks]
        if engine.fold:  # [B, chunks, ...]: sequences as good as any
            blocks = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), block) for block in blocks]
        ((x, g, _),) = join(blocks)
        if layer.learns:
            lost[p] = moved(layer, contract(layer, x, g), total(g, (0, -2)), core.factors[p])
        else:
            owed[p] = contract(layer, x, g)
    if engine.shared:
        pulled = jax.tree.map(lambda a: a.sum(0), pulled)
    return lost, jax.tree.map(lambda init, fast: (init - fast).sum(0), core.small, small), owed, pulled, nll
