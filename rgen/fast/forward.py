"""The inner loop over one sequence in dual form: predict, pay, keep the taps.

Time is cut into chunks; only the current chunk's taps are written. Where nothing that learns can change a layer's x_t, it is foreseen: all
x_t are known before the run. What is read of them is then computed for whole chunks before, and a step reads the chunk's g_s only.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.batching import ROWS
from rgen.fast.capture import Layer
from rgen.fast.memory import (
    Kernel,
    Memory,
    Taps,
    by_step,
    by_tap,
    outer,
    product,
    read,
    read_back,
    scaled_input,
    scaled_taps,
    similarity,
    stacked,
)
from rgen.fast.past import Past, by_chunk, by_steps, over_chunks
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors
from rgen.fast.step import Reads, Weights, split, step
from rgen.sequence import Trace

READ = {"forward": read, "row": read, "transposed": read_back}


class Chunk(NamedTuple):
    """What the reverse sweep needs of a chunk of C steps: the reads of each step [C, ...], the carried weights before it, and the chunk's
    taps [H, C r, .], without inputs that are foreseen."""

    reads: dict[int, Reads]
    carried: dict[int, jax.Array]
    taps: dict[int, Taps]


class Ahead(NamedTuple):
    """Of a layer whose inputs are foreseen, by steps [C, H, r, .]: outputs without what the chunk itself teaches, and a x_t . x_s."""

    out: jax.Array
    alike: jax.Array


class Run(NamedTuple):
    """What the inner loop over one sequence leaves: its chunks [K, ...], the pasts and the carried weights after the last, the Taps
    [T, H, r, .] of layers that do not learn, and the Trace [T]."""

    chunks: Chunk
    pasts: dict[int, Past]
    carried: dict[int, jax.Array]
    static: dict[int, Taps]
    trace: Trace


def run(plan: Plan, weights: Weights, observer: Any, inputs: dict[int, jax.Array], steps: Any) -> Run:
    """The inner loop over one sequence of the plan's length; `inputs`: those that are foreseen, [T, H, r, m]."""

    def chunk(state, now):
        return run_chunk(plan, weights, observer, state, *now)

    kernels = {leaf: weights.kernels[leaf] for leaf in plan.learning}
    pasts = {leaf: Past((stacked(kernel),) if plan.fold else kernel) for leaf, kernel in kernels.items()}
    start = (pasts, weights.carried, observer.start())
    pieces = by_chunk(plan, (inputs, steps))
    (pasts, carried, _), (chunks, rest) = over_chunks(plan, unless_ended(plan, chunk, observer), start, pieces)
    return Run(chunks, pasts, carried, *by_steps(rest))


def unless_ended(plan: Plan, chunk: Any, observer: Any) -> Any:
    """The function of a chunk, but one that finds all sequences of the micro-batch ended costs nothing."""
    if observer.end is None:
        return chunk

    def checked(state, now):
        def skip(state):
            (pasts, _, _), (kept, (static, trace)) = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(go, state))
            if not plan.fold:  # taps of zero
                pasts = {leaf: Past(past.kernel, (*past.taps, pasts[leaf].taps[-1])) for leaf, past in state[0].items()}
            return (state[0] if plan.fold else pasts, *state[1:]), (kept, (static, trace._replace(y=jnp.full_like(trace.y, observer.end))))

        def go(state):
            return chunk(state, now)

        # not pmin, which jax.export cannot lower for a symbolic batch
        return jax.lax.cond(jax.lax.all_gather(observer.ended(state[2]), ROWS).all(), skip, go, state)

    return checked


def run_chunk(plan: Plan, weights: Weights, observer: Any, state: tuple, inputs: dict, steps: Any) -> tuple:
    """One chunk of the inner loop: (state after it, (Chunk, (static taps, Trace))).

    The state: pasts, carried weights, what the observer remembers.
    """
    pasts, carried, seen = state
    size = steps.weight.shape[0]
    known = {leaf: rounded(plan, by_tap(x)) for leaf, x in inputs.items()}
    ready = {leaf: past.joined() for leaf, past in pasts.items()}
    ahead = {leaf: look_ahead(weights.factors[leaf], ready[leaf], x, size) for leaf, x in known.items()}
    static = {leaf: Memory(in_precision(plan, la, weights.kernels[leaf]), None, (), la.embed) for leaf, la in plan.static.items()}

    def one(carry, now):
        taps, carried, seen = carry
        j, ahead, now = now
        memories = static | {leaf: memory_of(plan, weights, la, ready[leaf], (taps[leaf], None)) for leaf, la in plan.learning.items()}
        outs = {leaf: split(plan.foreseen[leaf], with_taps(weights.factors[leaf], a, taps[leaf].g)) for leaf, a in ahead.items()}

        def answer(layer, k, q):
            return outs[layer.leaf][k] if q is None else READ[layer.uses[k].way](memories[layer.leaf], q)

        done = step(plan, answer, weights, carried, observer.x(seen, now), partial(observer, seen, now))
        taps = {leaf: write(taps[leaf], done.taps[leaf], done.reads[leaf], j) for leaf in taps}
        rest = {leaf: done.taps[leaf] for leaf in plan.static}, Trace(done.y, done.nats)
        return (taps, done.carried, done.seen), (done.reads, carried, rest)

    empty = {leaf: empty_taps(plan, la, size, tap_dtype(plan, weights, leaf)) for leaf, la in plan.learning.items()}
    (taps, carried, seen), (reads, before, rest) = jax.lax.scan(one, (empty, carried, seen), (jnp.arange(size), ahead, steps))
    whole = taps | {leaf: Taps(x, taps[leaf].g) for leaf, x in known.items()}
    pasts = {leaf: pasts[leaf].after(plan.fold, la, weights.factors[leaf], whole[leaf]) for leaf, la in plan.learning.items()}
    return (pasts, carried, seen), (Chunk(reads, before, taps), rest)


def memory_of(plan: Plan, weights: Weights, layer: Layer, past: Past, own: tuple[Taps, Any]) -> Memory:
    """What a learning layer's weights consist of, with the taps of the current chunk and which of them count."""
    past = past._replace(kernel=in_precision(plan, layer, past.kernel))
    return past.memory(weights.factors[layer.leaf], own, embed=layer.embed)


# ---------------------------------------------------------------- foreseen layers


def look_ahead(factors: Factors, past: Past, x: jax.Array, steps: int) -> Ahead:
    """For the foreseen inputs [H, C r, m] of a chunk: large products, where the steps would have small ones."""
    alike = similarity(False, scaled_input(False, x, factors), x, x.dtype)
    return Ahead(by_step(steps, read(past.memory(factors), x)), by_step(steps, alike))


def with_taps(factors: Factors, ahead: Ahead, g: jax.Array) -> jax.Array:
    """A foreseen layer's output at a step [H, r, n], with what the chunk has taught so far; taps of later steps are zero in g."""
    return ahead.out - factors.column[:, None] * product(ahead.alike, g)


def reread(plan: Plan, layer: Layer, kernel: Kernel, factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """A foreseen layer's outputs [H, T r, n] of all steps, from its inputs x [T, H, r, m] and given taps g [H, T r, n].

    So whatever is owed to the inputs, the initialization and the rates through these outputs is one call of JAX's vjp: matrix products.
    """
    chunks = plan.chunks if plan.fold else 1
    of_step = jnp.arange(plan.length * layer.taps // chunks) // layer.taps
    earlier = (of_step[:, None] > of_step[None]).astype(g.dtype)[None]
    x, g = by_step(chunks, rounded(plan, by_tap(x))), by_step(chunks, g)

    def chunk(kernel, now):
        x, g = now
        taps = Taps(jax.lax.stop_gradient(x) if plan.first_order else x, g)
        out = read(Memory((in_precision(plan, layer, kernel),), factors, ((taps, earlier),), False), x)
        return kernel - outer(False, layer.width, *scaled_taps(False, taps, factors)), out

    start = stacked(kernel)
    return by_tap(jax.lax.scan(chunk, start, (x, g))[1]) if plan.fold else chunk(start, (x[0], g[0]))[1]


# ---------------------------------------------------------------- buffers


def tap_dtype(plan: Plan, weights: Weights, leaf: int) -> Any:
    """In which precision the taps of a layer are kept."""
    return weights.kernels[leaf][0].dtype if plan.precision == "float32" else jnp.bfloat16


def rounded(plan: Plan, arrays: Any) -> Any:
    """As precisely as the plan keeps them."""
    return arrays if plan.precision == "float32" else jax.tree.map(lambda a: a.astype(jnp.bfloat16), arrays)


def in_precision(plan: Plan, layer: Layer, kernel: Any) -> Any:
    """A kernel as it is read: of a table, single rows are read, in full precision."""
    return kernel if layer.embed else rounded(plan, kernel)


def empty_taps(plan: Plan, layer: Layer, steps: int, dtype: Any) -> Taps:
    """Buffers for the taps of a chunk; foreseen inputs need none."""
    size = (layer.heads, steps * layer.taps)
    x = None if layer.foreseen else jnp.zeros((*size, layer.width), jnp.int32 if layer.embed else dtype)
    return Taps(x, jnp.zeros((*size, layer.outputs), dtype))


def write(buffers: Any, rows: Any, reads: Any, step: jax.Array) -> Any:
    """Puts the rows [H, r, k] of one step of a chunk at their place in [H, C r, k], once all `reads` are done.

    The rows are made to depend on what was read. XLA then knows that its buffer is not read any more and writes into it in place; without
    this it copies each buffer twice a step, and text-mlp takes 1.11 to 1.15 times as long on CPUs (heads: no difference).
    """
    token: Any = sum(read.ravel()[0] for read in jax.tree.leaves(reads))

    def one(buffer, new):
        new = new.astype(buffer.dtype)
        new = jnp.where(token != token, jnp.zeros_like(new) if jnp.issubdtype(new.dtype, jnp.integer) else token.astype(new.dtype), new)
        return jax.lax.dynamic_update_slice_in_dim(buffer, new, step * new.shape[1], axis=1)

    return jax.tree.map(one, buffers, rows)
