"""The reverse sweep over one sequence in dual form: one `jax.vjp` of the step after another, from the last to the first.

Let L_t be the derivative by a layer's W_t of everything that is paid from step t on. A step reads W_t twice for every tap, x_t W_t
forward and g_t W_t^T backward; if the cotangents of these reads are h_t and r_t,

    L_t = L_{t+1} + x_t h_t^T + r_t g_t^T.

So L is never formed: it is a list of pairs (h, r) beside the taps. And since W_{t+1} = W_t - (a x_t)(b g_t)^T, what later steps owe the
tap is

    by a x_t:  -L_{t+1} (b g_t)        by b g_t:  -(a x_t) L_{t+1}

With these, what later steps owe the carried weights, and the cotangent of its nats, one vjp of step t gives h_t, r_t and what it owes in
turn. What was read is known from the forward run, so the step is replayed without reading (`memory.recall`).

Axes in names: those of memory.py and forward.py; P steps of a part.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.forward import Chunk, read_of, with_inputs, with_taps, write
from rgen.fast.memory import Memory, Pairs, Taps, by_step, by_tap, dots, owed, per_layer, recall, row_products, scaled, stacked
from rgen.fast.past import Later, before, by_steps, in_pieces, joined, nth, over_chunks
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors
from rgen.fast.step import Reads, Weights, step
from rgen.sequence import PyTree, Sequence
from rgen.unroll import Scoring


class Swept(NamedTuple):
    """What a sweep finds, by number of a leaf.

    Attributes:
      later: of the layers that learn, but for the foreseen ones: L [H, M, N], or where taps are kept its pairs [chunks, H, C R, .].
      foreseen: h [T, H, R, N] of those whose inputs are foreseen.
      static: (Taps, Pairs) of all steps [T, H, R, .] of layers that do not learn.
      sums: what is owed to all else, summed up over steps; without kernels.
    """

    later: dict[int, Any]
    foreseen: dict[int, jax.Array]
    static: dict[int, tuple[Taps, Pairs]]
    sums: Weights


class Now(NamedTuple):
    """A step, or several: number in the chunk, the sequence's step, cotangents of what it gave, and what the forward run left."""

    number: jax.Array
    seq: Sequence
    ct: Any
    reads: dict[int, Reads]
    carried: dict[int, jax.Array]


class Ahead(NamedTuple):
    """Of a layer that learns, for every step of a part, computed for all of them at once.

    Attributes:
      taps: a x_t and b g_t.
      owed: what later parts owe them, (g_t L^T, x_t L).
      products: of these with the unscaled ones of the part: (a x_t . x_s, b g_t . g_s), [P, H, R, P R].
    """

    taps: Taps
    owed: Taps
    products: tuple[jax.Array, Any]


def sweep(plan: Plan, weights: Weights, inputs: dict, left: tuple[Chunk, dict], steps: Sequence, ct: Any) -> Swept:
    """The reverse sweep over one sequence, from what `forward.run` left: (chunks, last kernels if taps are folded).

    Args:
      ct: cotangents of its nats [T]; or, if what is paid is late, of the foreseen layers' outputs: number of a leaf -> [T, H, R, N].
    """
    chunks, last = left
    memories = {leaf: _at_end(plan, weights, leaf, last, chunks) for leaf, layer in plan.learning.items() if layer.varies}
    later = {leaf: Later(jnp.zeros_like(stacked(weights.kernels[leaf])) if plan.fold else None) for leaf in plan.learning}
    sums = jax.tree.map(jnp.zeros_like, weights._replace(kernels={}))

    def chunk(state, now):
        memories, later, sums = state
        chunk, steps, ct, inputs = now
        taps = with_inputs(chunk.taps, inputs)
        memories = per_layer(partial(before, plan), memories, taps)
        all_steps = Now(jnp.arange(len(steps.weight)), steps, ct, chunk.reads, chunk.carried)
        pairs, found, sums = ChunkSweep(plan, weights, per_layer(joined, memories), taps, later).run(all_steps, sums)
        later = per_layer(Later.before, later, plan.learning, taps, pairs)
        return (memories, later, sums), (found, {} if plan.fold else {leaf: pairs[leaf] for leaf in own})

    own = plan.learning.keys() - inputs.keys()
    scanned = chunks, *in_pieces(plan.chunks, (steps, ct, inputs))
    (_, later, sums), (found, pairs) = over_chunks(plan, chunk, (memories, later, sums), scanned, reverse=True)
    foreseen, static = by_steps(found)
    return Swept({leaf: later[leaf].matrix for leaf in own} if plan.fold else pairs, foreseen, static, sums)


def _at_end(plan: Plan, weights: Weights, leaf: int, last: dict[int, jax.Array], chunks: Chunk) -> Memory:
    """What a layer's weights consist of after the last step."""
    if plan.fold:
        return Memory((last[leaf],), weights.factors[leaf])
    return Memory(weights.kernels[leaf], weights.factors[leaf], tuple(nth(chunks.taps[leaf], k) for k in range(plan.chunks)))


@dataclass(frozen=True)
class ChunkSweep:
    """The sweep over one chunk, cut into parts: what later parts owe is computed for all steps of a part at once.

    Attributes:
      memories: before the chunk; taps: of the chunk; later: what is owed by the chunks after it. By number of a leaf.
    """

    plan: Plan
    weights: Weights
    memories: dict[int, Memory]
    taps: dict[int, Taps]
    later: dict[int, Later]

    def run(self, steps: Now, sums: Weights) -> tuple[dict[int, Pairs], tuple[dict, dict], Weights]:
        """(the pairs of the layers that learn; h of the foreseen and (Taps, Pairs) of the static layers, [C, ...]; sums)."""
        parts = len(steps.number) // self.plan.part

        def part(carry, now):
            pairs, sums = carry
            number, taps, steps = now
            new, found, sums = self.part(taps, pairs, steps, sums)
            return (jax.tree.map(partial(_put, number), pairs, new), sums), found

        scanned = jnp.arange(parts), jax.tree.map(partial(by_step, parts), self.taps), in_pieces(parts, steps)
        (pairs, sums), found = jax.lax.scan(part, (self.no_pairs(self.taps), sums), scanned, reverse=True)
        return pairs, by_steps(found), sums

    def part(self, taps: dict[int, Taps], done: dict[int, Pairs], steps: Now, sums: Weights) -> tuple[dict, tuple, Weights]:
        """One part, as `run`, from its taps; `done`: the pairs of the chunk, which are zero where the sweep has not been."""
        layers, count = self.plan.learning, len(steps.number)
        ahead = per_layer(partial(self.look_ahead, count), layers, taps, done)

        def one(carry, now):
            pairs, sums = carry
            number, now, ahead = now
            to_taps = per_layer(owed_to_step, ahead, taps, pairs)
            new, found, sums = self.step(now, to_taps, sums)
            pairs = per_layer(partial(write, number), pairs, new, to_taps)
            return (pairs, sums), (found, to_taps)

        scanned = jnp.arange(count), steps, ahead
        (pairs, sums), (found, to_taps) = jax.lax.scan(one, (self.no_pairs(taps), sums), scanned, reverse=True)
        if self.plan.loop.rate_kind != "fixed":
            more = per_layer(rate_gradient, layers, taps, to_taps, self.weights.factors)
            sums = sums._replace(factors=jax.tree.map(jnp.add, sums.factors, more))
        return pairs, found, sums

    def no_pairs(self, taps: dict[int, Taps]) -> dict[int, Pairs]:
        def one(layer: Layer, taps: Taps) -> Pairs:
            return Pairs(jnp.zeros_like(taps.g), jnp.zeros_like(taps.x) if layer.varies else None)

        return per_layer(one, self.plan.learning, taps)

    def look_ahead(self, count: int, layer: Layer, taps: Taps, done: Pairs) -> Ahead:
        """For a part of so many steps: large products, where the steps would have small ones."""
        scaled_taps = scaled(taps, self.weights.factors[layer.leaf])
        to_taps = self.later[layer.leaf].owed(layer, scaled_taps)
        to_taps = jax.tree.map(jnp.add, to_taps, owed(scaled_taps, self.taps[layer.leaf], done))
        by_g = row_products(scaled_taps.g, taps.g) if layer.varies else None
        products = dots(scaled_taps.x, taps.x, taps.g.dtype), by_g
        return jax.tree.map(partial(by_step, count), Ahead(scaled_taps, to_taps, products))

    def step(self, now: Now, to_taps: dict[int, Taps], sums: Weights) -> tuple[dict[int, Pairs], tuple[dict, dict], Weights]:
        """One step, as `run`, from what later steps owe its scaled taps."""
        plan, weights, layers = self.plan, self.weights, {layer.leaf: layer for layer in self.plan.layers}
        memories = {leaf: self.memory(layer, now.number) for leaf, layer in layers.items() if layer.varies}

        def replay(reads, carried, fixed, rates):
            def answer(layer, use, q) -> PyTree:
                out, back = reads[layer.leaf].out[use], reads[layer.leaf].back[use]
                return recall(read_of(layer.uses[use]), memories[layer.leaf], q, out, back) if layer.varies else out

            replayed = weights._replace(fixed=fixed, rates=rates)
            done = step(plan, answer, replayed, carried, now.seq.x, partial(Scoring(), (), now.seq))
            taps = {leaf: Taps(taps.x if layers[leaf].varies else None, taps.g) for leaf, taps in done.taps.items()}
            return (done.carried, taps, done.nats), {leaf: taps.x for leaf, taps in done.taps.items()}

        replayed = now.reads, now.carried, weights.fixed, weights.rates
        (_, taps, nats), pull, x = jax.vjp(replay, *replayed, has_aux=True)
        nothing = {leaf: jax.tree.map(jnp.zeros_like, taps[leaf]) for leaf in plan.static}
        to_unscaled = per_layer(scaled, to_taps, weights.factors)
        ct = jnp.zeros_like(nats) if plan.late else now.ct.astype(nats.dtype)
        to_reads, carried, fixed, rates = pull((sums.carried, nothing | to_unscaled, ct))
        pairs = per_layer(pairs_of, layers, to_reads)
        if plan.late:
            pairs |= {leaf: pairs[leaf]._replace(h=pairs[leaf].h + now.ct[leaf]) for leaf in plan.foreseen}
        foreseen = {leaf: pairs[leaf].h for leaf in plan.foreseen}
        static = {leaf: (Taps(x[leaf], taps[leaf].g), pairs[leaf]) for leaf in plan.static}
        sums = sums._replace(carried=carried, fixed=jax.tree.map(jnp.add, sums.fixed, fixed))
        if plan.loop.rate_kind != "fixed":
            sums = sums._replace(rates=jax.tree.map(jnp.add, sums.rates, rates))
        return {leaf: pairs[leaf] for leaf in plan.learning}, (foreseen, static), sums

    def memory(self, layer: Layer, number: jax.Array) -> Memory:
        """What a step of the chunk read, of a layer's weights."""
        if not layer.learns:
            return Memory(self.weights.kernels[layer.leaf])
        taps = self.taps[layer.leaf]
        before_S = jnp.arange(taps.g.shape[1]) < number * layer.taps
        return with_taps(self.memories[layer.leaf], taps, before_S.astype(taps.g.dtype)[None, None])


def owed_to_step(ahead: Ahead, taps: Taps, pairs: Pairs) -> Taps:
    """What later steps owe a step's scaled taps (a x_t, b g_t): those of later parts, and those of its own with these taps and pairs."""
    total = jax.tree.map(jnp.add, ahead.owed, owed(ahead.taps, taps, pairs, ahead.products))
    return jax.tree.map(jnp.negative, total)


def pairs_of(layer: Layer, reads: Reads) -> Pairs:
    """h and r from the cotangents of what was read: where W is used transposed, their roles are exchanged."""
    if not layer.varies:
        return Pairs(jnp.concatenate(reads.out, 1), None)
    sides = [(back, out) if use.transposed else (out, back) for use, out, back in zip(layer.uses, reads.out, reads.back)]
    return Pairs(*(jnp.concatenate(side, 1) for side in zip(*sides)))


def rate_gradient(layer: Layer, taps: Taps, to_taps: Taps, factors: Factors) -> Factors:
    """The derivative by the rates of a part's scaled taps (a x_t, b g_t); of foreseen layers, `forward.reread` gives it."""
    if layer.foreseen:
        return jax.tree.map(jnp.zeros_like, factors)
    taps = taps if layer.varies else Taps(None, taps.g)
    return jax.vjp(lambda factors: scaled(taps, factors), factors)[1](jax.tree.map(by_tap, to_taps))[0]


def _put(part: jax.Array, buffer: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, rows, part * rows.shape[1], axis=1)
