"""The inner loop over one sequence in dual form: predict, pay, keep the taps.

Time is cut into chunks; only the current chunk's taps are written. Where nothing that learns can change a layer's x_t, it is foreseen: all
x_t are known before the run. What is read of them is then computed for whole chunks before, and a step reads the chunk's g_s only.
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.batching import ROWS
from rgen.fast import folded, kept
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
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors
from rgen.fast.step import Reads, Weights, split, step
from rgen.sequence import Trace

READ = {"forward": read, "row": read, "transposed": read_back}


class Chunk(NamedTuple):
    """What the reverse sweep needs of a chunk of C steps: the reads of each step [C, ...], the carried weights before it, and what is kept
    besides the past (see `kept.Past.after`)."""

    reads: dict[int, Reads]
    carried: dict[int, jax.Array]
    kept: dict[int, Any]


class Ahead(NamedTuple):
    """Of a layer whose inputs are foreseen, by steps [C, H, r, .]: outputs without what the chunk itself teaches, and a x_t . x_s."""

    out: jax.Array
    alike: jax.Array


class Run(NamedTuple):
    """What the inner loop over one sequence leaves.

    Attributes:
      chunks: of all chunks, as `kept.cut` cuts them.
      state: number of a leaf -> state of its past (see `kept.Past`).
      carried: the carried weights after the last step.
      static: number of a leaf -> Taps [T, H, r, .] of layers that do not learn.
      trace: [T].
    """

    chunks: Any
    state: dict[int, Any]
    carried: dict[int, jax.Array]
    static: dict[int, Taps]
    trace: Trace


def past_of(plan: Plan) -> ModuleType:
    """How the past is kept."""
    return folded if plan.fold else kept


def run(plan: Plan, weights: Weights, observer: Any, inputs: dict[int, jax.Array], steps: Any) -> Run:
    """The inner loop over one sequence of the plan's length; `inputs`: those that are foreseen, [T, H, r, m]."""
    way = past_of(plan)

    def chunk(state, now):
        return run_chunk(plan, weights, observer, state, *now)

    pasts = {leaf: way.Past.begin(weights.kernels[leaf]) for leaf in plan.learning}
    start = (pasts, weights.carried, observer.start())
    pieces = way.cut(plan.chunks, (inputs, steps))
    (pasts, carried, _), results = way.over_chunks(unless_ended(chunk, observer), start, pieces)
    chunks, rest = (way.each(lambda result, k=k: result[k], results) for k in range(2))
    static, trace = way.joined(rest)
    return Run(chunks, {leaf: _without_x(plan, leaf, past.state) for leaf, past in pasts.items()}, carried, static, trace)


def _without_x(plan: Plan, leaf: int, state: Any) -> Any:
    """Foreseen inputs are at hand elsewhere, and may be shared."""
    if leaf not in plan.foreseen:
        return state

    def is_taps(node):
        return isinstance(node, Taps)

    return jax.tree.map(lambda node: Taps(None, node.g) if is_taps(node) else node, state, is_leaf=is_taps)


def unless_ended(chunk: Any, observer: Any) -> Any:
    """The function of a chunk, but one that finds all sequences of the micro-batch ended costs nothing."""
    if observer.end is None:
        return chunk

    def checked(state, now):
        def skip(state):
            (pasts, _, _), (kept, (static, trace)) = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(go, state))
            unchanged = {leaf: past.unchanged(pasts[leaf]) for leaf, past in state[0].items()}
            return (unchanged, state[1], state[2]), (kept, (static, trace._replace(y=jnp.full_like(trace.y, observer.end))))

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
    ready = {leaf: past.ready() for leaf, past in pasts.items()}
    ahead = {leaf: look_ahead(weights.factors[leaf], ready[leaf], x, size) for leaf, x in known.items()}
    static = {leaf: Memory(in_precision(plan, la, weights.kernels[leaf]), None, (), la.embed) for leaf, la in plan.static.items()}

    def one(carry, now):
        taps, carried, seen = carry
        j, ahead, now = now
        memories = static | {leaf: memory_of(plan, weights, la, ready[leaf], (taps[leaf], None)) for leaf, la in plan.learning.items()}
        outs = {leaf: split(plan.foreseen[leaf], with_taps(weights.factors[leaf], a, taps[leaf].g)) for leaf, a in ahead.items()}

        def answer(layer, k, q):
            return outs[layer.leaf][k] if q is None else READ[layer.uses[k].way](memories[layer.leaf], q)

        after = seen

        def observe(logits):
            nonlocal after
            after, y, weight = observer(seen, now, logits)
            return y, weight

        done = step(plan, answer, weights, carried, observer.x(seen, now), observe)
        taps = {leaf: write(taps[leaf], done.taps[leaf], done.reads[leaf], j) for leaf in taps}
        rest = {leaf: done.taps[leaf] for leaf in plan.static}, Trace(done.y, done.nats)
        return (taps, done.carried, after), (done.reads, carried, rest)

    empty = {leaf: empty_taps(plan, la, size, tap_dtype(plan, weights, leaf)) for leaf, la in plan.learning.items()}
    (taps, carried, seen), (reads, before, rest) = jax.lax.scan(one, (empty, carried, seen), (jnp.arange(size), ahead, steps))
    taps |= {leaf: Taps(x, taps[leaf].g) for leaf, x in known.items()}
    both = {leaf: pasts[leaf].after(la, weights.factors[leaf], taps[leaf]) for leaf, la in plan.learning.items()}
    aside = {leaf: _without_x(plan, leaf, more) for leaf, (_, more) in both.items()}
    return ({leaf: past for leaf, (past, _) in both.items()}, carried, seen), (Chunk(reads, before, aside), rest)


def memory_of(plan: Plan, weights: Weights, layer: Layer, past: Any, own: tuple[Taps, Any]) -> Memory:
    """What a learning layer's weights consist of, with the taps of the current chunk and which of them count."""
    past = past._replace(kernel=in_precision(plan, layer, past.kernel))
    return past.memory(weights.factors[layer.leaf], own, embed=layer.embed)


# ---------------------------------------------------------------- foreseen layers


def look_ahead(factors: Factors, past: Any, x: jax.Array, steps: int) -> Ahead:
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
