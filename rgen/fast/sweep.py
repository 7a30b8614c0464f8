"""The reverse sweep over one sequence in dual form: one `jax.vjp` of the step after another, from the last to the first.

Let L_t be the derivative by a layer's W_t of everything that is paid from step t on. A step reads W_t twice for every tap, x_t W_t forward
and g_t W_t^T backward; if the cotangents of these reads are h_t and r_t,

    L_t = L_{t+1} + x_t h_t^T + r_t g_t^T.

So L is a list of pairs beside the taps and is never formed (`memory.Pairs`). And since W_{t+1} = W_t - (a x_t)(b g_t)^T, what later steps
owe the tap is

    by a x_t:  -L_{t+1} (b g_t)        by b g_t:  -(a x_t) L_{t+1}

With these, what they owe the carried weights, and the cotangent of its nats, one vjp of step t gives h_t, r_t and what it owes in turn.
What was read is known from the forward run, so the step is replayed without reading (`memory.recall`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer
from rgen.fast.forward import READ, Chunk, memory_of, rounded, write
from rgen.fast.memory import Kernel, Memory, Pairs, Taps, by_step, by_tap, inner, owed, recall, scaled_taps, similarity, stacked
from rgen.fast.past import Later, Past, by_chunk, by_steps, over_chunks
from rgen.fast.plan import Plan
from rgen.fast.rates import Factors
from rgen.fast.step import Reads, Weights, step
from rgen.sequence import Sequence


class Ends(NamedTuple):
    """What a sweep finds, by number of a leaf.

    Attributes:
      later: L [H, m, n] of the layers that learn, or where taps are kept its pairs [K, H, C r, .]; not of those that are foreseen.
      foreseen: h [T, H, r, n] of those whose inputs are foreseen.
      static: (Taps, Pairs) of all steps [T, H, r, .] of layers that do not learn.
    """

    later: dict[int, Any]
    foreseen: dict[int, jax.Array]
    static: dict[int, tuple[Taps, Pairs]]
    sums: Weights


class Now(NamedTuple):
    """A step, or several [S, ...]: number in the chunk, the sequence's step, cotangents of what it gave, and what the forward run left."""

    j: jax.Array
    seq: Sequence
    ct: Any
    reads: dict[int, Reads]
    carried: dict[int, jax.Array]


class Part(NamedTuple):
    """Of the steps of a part, for each layer that learns: a x_t and b g_t, the products of these with L of all later parts, and with each
    other; [S, H, r, .]."""

    taps: Taps
    owed: tuple[jax.Array, Any]
    alike: tuple[jax.Array, Any]


def sweep(plan: Plan, weights: Weights, inputs: dict, left: tuple[Chunk, dict], steps: Sequence, ct: Any) -> Ends:
    """The reverse sweep over one sequence, from what `forward.run` left, (chunks, last folded kernels), and cotangents `ct` of its nats [T].

    If what is paid is late, these are of the foreseen layers' outputs: number of a leaf -> [T, H, r, n].
    """
    (chunks, last), zeros = left, partial(jax.tree.map, jnp.zeros_like)
    pasts = {leaf: _last_past(plan, weights.kernels[leaf], last.get(leaf), chunks.taps[leaf]) for leaf, la in plan.learning.items() if la.varies}
    later = {leaf: Later(jnp.zeros_like(stacked(weights.kernels[leaf])) if plan.fold else None) for leaf in plan.learning}
    sums = zeros(weights._replace(kernels={}))

    def chunk(carry, now):
        pasts, later, sums = carry
        chunk, steps, ct, inputs = now
        own = chunk.taps | {leaf: Taps(rounded(plan, by_tap(x)), chunk.taps[leaf].g) for leaf, x in inputs.items()}
        pasts = {leaf: past.before(plan.fold, plan.learning[leaf], weights.factors[leaf], own[leaf]) for leaf, past in pasts.items()}
        now = Now(jnp.arange(len(steps.weight)), steps, ct, chunk.reads, chunk.carried)
        ready = {leaf: past.joined() for leaf, past in pasts.items()}
        pairs, found, sums = ChunkSweep(plan, weights, ready, own, later).run(now, sums)
        later = {leaf: later[leaf].before(la, own[leaf], pairs[leaf]) for leaf, la in plan.learning.items()}
        return (pasts, later, sums), (found, {} if plan.fold else {leaf: pairs[leaf] for leaf in pairs.keys() - inputs.keys()})

    pieces = (chunks, *by_chunk(plan, (steps, ct, inputs)))
    (_, later, sums), (found, pairs) = over_chunks(plan, chunk, (pasts, later, sums), pieces, reverse=True)
    matrices = {leaf: later[leaf].kernel for leaf in plan.learning.keys() - inputs.keys()} if plan.fold else pairs
    return Ends(matrices, *by_steps(found), sums)


def _last_past(plan: Plan, kernel: Kernel, last: Any, taps: Taps) -> Past:
    return Past((last,)) if plan.fold else Past(kernel, tuple(jax.tree.map(lambda a, i=i: a[i], taps) for i in range(plan.chunks)))


@dataclass(frozen=True)
class ChunkSweep:
    """The sweep over one chunk, which is cut into parts: products with what is owed by later parts are matrix products.

    Attributes:
      pasts: before the chunk; taps: of the chunk; later: what is owed by the chunks after it. By number of a leaf.
    """

    plan: Plan
    weights: Weights
    pasts: dict[int, Any]
    taps: dict[int, Taps]
    later: dict[int, Any]

    def run(self, steps: Now, sums: Weights) -> tuple[dict[int, Pairs], tuple[dict, dict], Weights]:
        """(what the chunk owes the layers that learn; h of the foreseen and (Taps, Pairs) of the static layers [C, ...]; sums)."""
        parts = len(steps.j) // self.plan.part
        nows = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), steps)
        own = {leaf: jax.tree.map(partial(by_step, parts), taps) for leaf, taps in self.taps.items()}
        start = {leaf: no_pairs(la, self.taps[leaf]) for leaf, la in self.plan.learning.items()}

        def part(carry, now):
            pairs, sums = carry
            number, own, steps = now
            new, found, sums = self.part(own, pairs, steps, sums)
            pairs = {leaf: jax.tree.map(lambda a, n: _put(a, n, number), pairs[leaf], new[leaf]) for leaf in pairs}
            return (pairs, sums), found

        (pairs, sums), found = jax.lax.scan(part, (start, sums), (jnp.arange(parts), own, nows), reverse=True)
        return pairs, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found), sums

    def part(self, own: dict[int, Taps], chunk: dict[int, Pairs], steps: Now, sums: Weights) -> tuple[dict[int, Pairs], Any, Weights]:
        """One part; `chunk`: the pairs of the chunk so far, which are zero where the sweep has not been."""
        size, factors = len(steps.j), self.weights.factors
        parts = {leaf: self.prepared(la, own[leaf], chunk[leaf], size) for leaf, la in self.plan.learning.items()}

        def one(carry, now):
            pairs, sums = carry
            i, now, parts = now
            due = {leaf: self.due(la, parts[leaf], own[leaf], pairs[leaf]) for leaf, la in self.plan.learning.items()}
            new, found, sums = self.step(now, due, sums)
            pairs = {leaf: write(pairs[leaf], new[leaf], due[leaf], i) for leaf in pairs}
            return (pairs, sums), (found, due)

        start = {leaf: no_pairs(la, own[leaf]) for leaf, la in self.plan.learning.items()}
        (pairs, sums), (found, due) = jax.lax.scan(one, (start, sums), (jnp.arange(size), steps, parts), reverse=True)
        if self.plan.learned_rates:
            more = {leaf: rate_gradient(la, own[leaf], due[leaf], factors[leaf]) for leaf, la in self.plan.learning.items()}
            sums = sums._replace(factors=jax.tree.map(jnp.add, sums.factors, more))
        return pairs, found, sums

    def prepared(self, layer: Layer, own: Taps, chunk: Pairs, steps: int) -> Part:
        taps = scaled_taps(layer.embed, own, self.weights.factors[layer.leaf])
        products = self.later[layer.leaf].owed(layer, taps)
        products = jax.tree.map(jnp.add, products, owed(layer.embed, taps, None, self.taps[layer.leaf], chunk))
        alike = similarity(layer.embed, taps.x, own.x, own.g.dtype), inner(taps.g, own.g) if layer.varies else None
        return jax.tree.map(partial(by_step, steps), Part(taps, products, alike))

    def due(self, layer: Layer, now: Part, own: Taps, pairs: Pairs) -> Taps:
        """What later steps owe a step's scaled taps (a x_t, b g_t): those of later parts, and of this one."""
        by_g, by_x = jax.tree.map(jnp.add, now.owed, owed(layer.embed, now.taps, now.alike, own, pairs))
        return Taps(None if by_x is None else -by_x, -by_g)

    def step(self, now: Now, due: dict[int, Taps], sums: Weights) -> tuple[dict[int, Pairs], tuple[dict, dict], Weights]:
        """One step: its pairs, `found` as in `run`, sums."""
        plan, weights = self.plan, self.weights
        plan_layers = {layer.leaf: layer for layer in plan.layers}
        reads = {leaf: self.memory(la, now.j) for leaf, la in plan_layers.items() if la.varies}

        def replay(known, carried, fixed, rates):
            def answer(layer, k, q) -> Any:
                out, back = known[layer.leaf].out[k], known[layer.leaf].back[k]
                return recall(READ[layer.uses[k].way], reads[layer.leaf], q, out, back) if layer.varies else out

            def observe(logits):
                return (), now.seq.y, now.seq.weight.astype(logits.dtype)

            done = step(plan, answer, weights._replace(fixed=fixed, rates=rates), carried, now.seq.x, observe)
            taps = {leaf: Taps(t.x if plan_layers[leaf].varies else None, t.g) for leaf, t in done.taps.items()}
            return (done.carried, taps, done.nats), {leaf: t.x for leaf, t in done.taps.items()}

        (_, taps, nats), pull, x = jax.vjp(replay, now.reads, now.carried, weights.fixed, weights.rates, has_aux=True)
        owed = {leaf: jax.tree.map(jnp.zeros_like, t) for leaf, t in taps.items()}
        owed |= {leaf: scaled_taps(la.embed, due[leaf], weights.factors[leaf]) for leaf, la in plan.learning.items()}
        ct = jnp.zeros_like(nats) if plan.late else now.ct.astype(nats.dtype)
        known, carried, fixed, rates = pull((sums.carried, owed, ct))
        pairs = {la.leaf: pairs_of(la, known[la.leaf]) for la in plan.layers}
        if plan.late:
            pairs |= {leaf: pairs[leaf]._replace(h=pairs[leaf].h + now.ct[leaf]) for leaf in plan.foreseen}
        foreseen = {leaf: pairs[leaf].h for leaf in plan.foreseen}
        static = {leaf: (Taps(x[leaf], taps[leaf].g), pairs[leaf]) for leaf in plan.static}
        sums = sums._replace(carried=carried, fixed=jax.tree.map(jnp.add, sums.fixed, fixed))
        if plan.learned_rates:
            sums = sums._replace(rates=jax.tree.map(jnp.add, sums.rates, rates))
        return {leaf: pairs[leaf] for leaf in plan.learning}, (foreseen, static), sums

    def memory(self, layer: Layer, j: jax.Array) -> Memory:
        """What step j read, of a layer's weights: for the cotangents of its reads."""
        if not layer.learns:
            return Memory(rounded(self.plan, self.weights.kernels[layer.leaf]), None, (), False)
        taps = self.taps[layer.leaf]
        before = (jnp.arange(taps.g.shape[1]) < j * layer.taps).astype(taps.g.dtype)[None, None]
        return memory_of(self.plan, self.weights, layer, self.pasts[layer.leaf], (taps, before))


def pairs_of(layer: Layer, known: Reads) -> Pairs:
    """h and r from the cotangents of what was read: where W is used transposed, their roles are exchanged."""
    if not layer.varies:
        return Pairs(jnp.concatenate(known.out, 1), None)
    both = [(back, out) if use.way == "transposed" else (out, back) for use, out, back in zip(layer.uses, known.out, known.back)]
    return Pairs(*(jnp.concatenate(side, 1) for side in zip(*both)))


def no_pairs(layer: Layer, taps: Taps) -> Pairs:
    return Pairs(jnp.zeros_like(taps.g), jnp.zeros_like(taps.x) if layer.varies else None)


def rate_gradient(layer: Layer, own: Taps, due: Taps, factors: Factors) -> Factors:
    """The derivative by the rates of a part's scaled taps (a x_t, b g_t); of foreseen layers, `forward.reread` gives it."""
    if layer.foreseen:
        return jax.tree.map(jnp.zeros_like, factors)
    due = jax.tree.map(by_tap, due)
    due = due._replace(x=jnp.zeros(own.x.shape, jax.dtypes.float0) if layer.embed else due.x)
    return jax.vjp(lambda factors: scaled_taps(layer.embed, own, factors), factors)[1](due)[0]


def _put(buffer: jax.Array, rows: jax.Array, part: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, rows.astype(buffer.dtype), part * rows.shape[1], axis=1)
