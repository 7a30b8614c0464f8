"""The inner loop over one sequence in dual form: predict, pay, keep the taps.

Time is cut into chunks; only the current chunk's taps are written. What is read of foreseen inputs is computed for a whole chunk before
it, and a step reads the chunk's g_s only.

Axes in names, beside those of memory.py: T steps of the sequence, C steps of a chunk, R taps that a step leaves in a layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.batching import ROWS
from rgen.fast.capture import Layer, Use
from rgen.fast.memory import (
    Kernel,
    Memory,
    Taps,
    by_step,
    by_tap,
    dots,
    is_lookup,
    per_layer,
    product,
    read,
    read_back,
    scaled_input,
    stacked,
)
from rgen.fast.past import after, by_steps, folded, in_pieces, joined, nth, over_chunks
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors
from rgen.fast.step import Reads, Weights, split, step
from rgen.sequence import PyTree, Trace
from rgen.unroll import Observer


def read_of(use: Use) -> Callable:
    """How a use reads a memory."""
    return read_back if use.transposed else read


class Chunk(NamedTuple):
    """What the reverse sweep needs of a chunk: what each step read [C, ...], the carried weights before it [C, ...], and the taps
    [H, C R, .], without inputs that are foreseen."""

    reads: dict[int, Reads]
    carried: dict[int, jax.Array]
    taps: dict[int, Taps]


class Foreseen(NamedTuple):
    """Of a foreseen layer, by steps: outputs [C, H, R, N] without what the chunk itself teaches, and a x_t . x_s [C, H, R, C R]."""

    out: jax.Array
    dots: jax.Array


class Unrolled(NamedTuple):
    """What the inner loop over one sequence leaves: its chunks [chunks, ...], memories and carried weights after the last of them, and the
    Trace [T]."""

    chunks: Chunk
    memories: dict[int, Memory]
    carried: dict[int, jax.Array]
    trace: Trace


def run(plan: Plan, weights: Weights, observer: Observer, inputs: dict[int, jax.Array], steps: PyTree) -> Unrolled:
    """The inner loop over one sequence of the plan's length; `inputs`: those that are foreseen, [T, H, R, M]."""
    memories = {leaf: Memory(weights.kernels[leaf], weights.factors[leaf]) for leaf in plan.learning}
    if plan.fold:
        memories = per_layer(folded, memories)
    start = memories, weights.carried, observer.start()
    chunk = unless_ended(observer, partial(run_chunk, plan, weights, observer))
    (memories, carried, _), (chunks, trace) = over_chunks(plan, chunk, start, in_pieces(plan.chunks, (inputs, steps)))
    return Unrolled(chunks, memories, carried, by_steps(trace))


def unless_ended(observer: Observer, chunk: Callable) -> Callable:
    """The function of a chunk, but one that finds all sequences of the micro-batch ended costs nothing."""
    end = observer.end
    if end is None:
        return chunk

    def checked(state, now):
        def skip(state):
            # nothing reads any more what this chunk would leave, but that the sequences have ended
            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(chunk, state, now))
            (memories, carried, _), (left, trace) = nothing
            return (memories, carried, state[2]), (left, trace._replace(y=jnp.full_like(trace.y, end)))

        # not pmin, which jax.export cannot lower for a symbolic batch
        ended = jax.lax.all_gather(observer.ended(state[2]), ROWS).all()
        return jax.lax.cond(ended, skip, lambda state: chunk(state, now), state)

    return checked


def run_chunk(plan: Plan, weights: Weights, observer: Observer, state: tuple, now: tuple[dict, Any]) -> tuple:
    """One chunk of the inner loop: (state after it, (Chunk, Trace)).

    Args:
      state: memories, carried weights, what the observer remembers.
      now: inputs that are foreseen, and the steps.
    """
    (memories, carried, seen), (inputs, steps) = state, now
    count = len(steps.weight)
    at_start = per_layer(joined, memories)
    ahead = per_layer(partial(look_ahead, count), inputs, at_start)
    static = {leaf: Memory(weights.kernels[leaf]) for leaf in plan.static}

    def one(carry, now):
        taps, carried, seen = carry
        number, ahead, now = now
        current = static | {leaf: with_taps(at_start[leaf], taps[leaf]) for leaf in taps if leaf not in ahead}
        outs = per_layer(split, plan.foreseen, per_layer(read_ahead, ahead, taps, weights.factors))

        def answer(layer, use, q):
            return outs[layer.leaf][use] if q is None else read_of(layer.uses[use])(current[layer.leaf], q)

        done = step(plan, answer, weights, carried, observer.x(seen, now), partial(observer, seen, now))
        taps = per_layer(partial(write, number), taps, done.taps, done.reads)
        return (taps, done.carried, done.seen), (done.reads, carried, Trace(done.y, done.nats))

    empty = {leaf: empty_taps(layer, count, weights.kernels[leaf][0].dtype) for leaf, layer in plan.learning.items()}
    scanned = jnp.arange(count), ahead, steps
    (taps, carried, seen), (reads, carried_before, trace) = jax.lax.scan(one, (empty, carried, seen), scanned)
    whole = with_inputs(taps, inputs)
    memories = per_layer(partial(after, plan), memories, whole)
    return (memories, carried, seen), (Chunk(reads, carried_before, taps), trace)


def with_taps(memory: Memory, taps: Taps, mask: Any = None) -> Memory:
    """With the taps of the current chunk, and which of them count."""
    return memory._replace(taps=(*memory.taps, taps), mask=mask)


def with_inputs(taps: dict[int, Taps], inputs: dict[int, jax.Array]) -> dict[int, Taps]:
    """The taps of a chunk with the inputs [C, H, R, M] that are foreseen."""
    return taps | {leaf: Taps(by_tap(x), taps[leaf].g) for leaf, x in inputs.items()}


# ---------------------------------------------------------------- foreseen layers


def look_ahead(count: int, x_CxHxRxM: jax.Array, memory: Memory) -> Foreseen:
    """For the inputs of a chunk of so many steps: large products, where the steps would have small ones."""
    assert memory.factors is not None
    x_HxSxM = by_tap(x_CxHxRxM)
    similar_HxSxS = dots(scaled_input(x_HxSxM, memory.factors), x_HxSxM, x_HxSxM.dtype)
    return Foreseen(by_step(count, read(memory, x_HxSxM)), by_step(count, similar_HxSxS))


def read_ahead(ahead: Foreseen, taps: Taps, factors: Factors) -> jax.Array:
    """A foreseen layer's output [H, R, N] at a step, with what the chunk has taught so far; g of later steps is zero."""
    return ahead.out - factors.column[:, None] * product(ahead.dots, taps.g)


def reread(plan: Plan, layer: Layer, kernel: Kernel, factors: Factors, x_TxHxRxM: jax.Array, g_HxSxN: jax.Array) -> jax.Array:
    """A foreseen layer's outputs [H, S, N] of all steps, from all its inputs and given g.

    So what is owed to the inputs, the initialization and the rates through these outputs is one call of JAX's vjp: matrix products.
    """
    chunks = plan.chunks if plan.fold else 1
    step_S = jnp.arange(plan.length * layer.taps // chunks) // layer.taps
    earlier_1xSxS = (step_S[:, None] > step_S[None]).astype(g_HxSxN.dtype)[None]

    def chunk(kernel, taps):
        memory = Memory(kernel, factors)
        constant = Taps(jax.lax.stop_gradient(taps.x) if plan.loop.first_order else taps.x, taps.g)
        out_HxSxN = read(with_taps(memory, constant, earlier_1xSxS), taps.x)
        return after(plan, memory, constant).kernel, out_HxSxN

    taps = Taps(by_step(chunks, by_tap(x_TxHxRxM)), by_step(chunks, g_HxSxN))
    if plan.fold:
        return by_tap(jax.lax.scan(chunk, (stacked(kernel),), taps)[1])
    return chunk(kernel, nth(taps, 0))[1]


# ---------------------------------------------------------------- buffers


def empty_taps(layer: Layer, steps: int, dtype: Any) -> Taps:
    """Buffers for the taps of a chunk; foreseen inputs need none."""
    shape = layer.heads, steps * layer.taps
    x = None if layer.foreseen else jnp.zeros((*shape, layer.width), jnp.int32 if layer.embed else dtype)
    return Taps(x, jnp.zeros((*shape, layer.outputs), dtype))


def write(step: jax.Array, buffers: Any, rows: Any, reads: Any) -> PyTree:
    """Puts rows [H, R, K] of one step of a chunk at their place in buffers [H, C R, K], once all `reads` are done.

    The rows are made to depend on what was read. XLA then knows that its buffer is not read any more and writes into it in place; without
    this it copies each buffer twice a step, and text-mlp takes 1.04 to 1.2 times as long on CPUs (heads: no difference).
    """
    token: Any = sum(read.ravel()[0] for read in jax.tree.leaves(reads))

    def one(buffer, new):
        never = jnp.zeros_like(new) if is_lookup(new) else token.astype(new.dtype)
        return jax.lax.dynamic_update_slice_in_dim(buffer, jnp.where(token != token, never, new), step * new.shape[1], axis=1)

    return jax.tree.map(one, buffers, rows)
