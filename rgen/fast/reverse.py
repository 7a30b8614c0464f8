"""The reverse sweep over one sequence in dual form: the adjoint of the inner loop is made of taps too.

Let L_t be the derivative by a layer's W_t of everything paid from step t on, and w_t the cotangent of step t's nats. One step back,

    L_t = L_{t+1} + w_t x_t g_t^T - H_t[V],         V = (a b^T) L_{t+1} elementwise,

where H_t, the Hessian of step t's nats, is symmetric: H_t[V] is the tangent of the gradient x_t g_t^T in direction V, xd_t g_t^T +
x_t gd_t^T. Hence the adjoint is a list of taps too, L_t = sum_{s>=t} x_s (w_s g_s - gd_s)^T - xd_s g_s^T, and the direction enters a
layer only through x_t V = b (a x_t L) and V g_t = a (L (b g_t)): tangents of the layer's output and of its input's cotangent. The rates'
derivatives need nothing more: by a, -sum x_t (L_{t+1} b g_t); by b, -sum g_t (a x_t L_{t+1}).

If the inner loop descends other nats than those that are paid (`rgen.sequence.Prediction`), g_t and H_t are of the former, and w_t g_t
in L_t is the cotangent of the latter. In a layer that does not learn V = 0.

Where x_t is foreseen, xd_t = 0, and the cotangents of the x_t, W_t h_t - a (L_{t+1} (b g_t)), come after the sweep (`by_input`). Where
all sequences have the same inputs, these are needed summed over them alone: then the sequences are like more outputs, side by side, of one
layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.affine import Block, by_step, by_tap, contract, join, learn, outer, over_heads, product, replay, similarity, total
from rgen.fast.forward import Chunk, Core, Past, Replay, after, by_chunk, inner, memories_of, piece, taps_of, write, zero_probe
from rgen.fast.plan import Engine
from rgen.fast.rates import Factors
from rgen.fast.taps import Layer, Path, Slot, apply, foreseen_probe
from rgen.sequence import Sequence, paid
from rgen.unroll import pay, scaled


class Adjoint(NamedTuple):
    """The adjoint's taps of a chunk, beside the chunk's own: L = sum of x h^T - xd g^T; xd is None if the inputs do not vary."""

    block: Block
    h: jax.Array
    xd: jax.Array | None


class Later(NamedTuple):
    """L of the chunks after the current one: their taps, or their sum; and in any case its bias' part [n]."""

    adjoints: tuple[Adjoint, ...]
    fold: Any
    bias: jax.Array


class Products(NamedTuple):
    """For taps of a chunk: v = a x_t L with the bias' part [S r, n], and u = L (b g_t) [S r, m], where the sweep needs it."""

    v: jax.Array
    u: jax.Array | None


class Ends(NamedTuple):
    """What of chunks says how the nats depend on the inputs of a foreseen layer; if taps are kept, all chunks are as one.

    Attributes:
      g, h: taps and adjoint [chunks, *heads, S r, n].
      kernel: the weights [chunks, *heads, m, n] a chunk begins with, if they are folded.
      later: L of the chunks after it, likewise.
    """

    g: jax.Array
    h: jax.Array
    kernel: jax.Array | None = None
    later: jax.Array | None = None


class Sums(NamedTuple):
    """What is summed up on the way back: L of the carried parameters, and the derivatives by rates."""

    small: Any
    small_rates: Any
    factors: dict[Path, Factors]


def reverse(engine: Engine, core: Core, chunks: list[Chunk], weights: dict | None, steps: Sequence, ct: Any) -> tuple[Any, dict, Sums]:
    """The reverse sweep over one sequence.

    Returns:
      (path -> adjoints of all chunks, first to last; or, of layers that learn and are folded, the `Later` of what would come before;
      path -> Ends of the foreseen layers; Sums).
    """
    zeros = partial(jax.tree.map, jnp.zeros_like)
    sums = Sums(zeros(core.small), zeros(core.small_rates), zeros(core.factors))
    if engine.fold:
        return _reverse_folded(engine, core, chunks[0], weights, (steps, ct), sums)
    return _reverse_kept(engine, core, chunks, (steps, ct), sums)


def _reverse_folded(engine: Engine, core: Core, chunks: Chunk, weights: Any, steps: Any, sums: Sums) -> tuple[dict, dict, Sums]:
    """Takes chunk by chunk out of the last weights again, and folds their adjoints into L."""
    everywhere, layers = dict(engine.layers), engine.learning

    def one(carry, now):
        weights, later, sums = carry
        chunk, steps = now
        weights = {p: learn(la, weights[p], chunk.blocks[p], core.factors[p], 1.0) for p, la in layers.items()}
        past = {p: Past(weights[p], ()) for p in layers}
        new, sums = reverse_chunk(engine, core, past, chunk, later, sums, *steps)
        static = {p: new[p] for p in new if p not in layers}
        ends = {p: Ends(chunk.blocks[p].g, new[p].h, weights[p]["kernel"], later[p].fold) for p in engine.foreseen}
        return (weights, {p: fold_adjoint(la, later[p], new[p]) for p, la in layers.items()}, sums), (static, ends)

    kernels = {p: core.base[p]["kernel"] for p in layers}
    start = {p: Later((), jnp.zeros_like(kernels[p]), zero_bias(la, kernels[p].dtype)) for p, la in layers.items()}
    (_, folded, sums), (static, ends) = jax.lax.scan(one, (weights, start, sums), (chunks, by_chunk(engine, steps)), reverse=True)
    folded |= {p: (jax.tree.map(partial(by_tap, everywhere[p]), static[p]),) for p in static}
    return folded, ends, sums


def _reverse_kept(engine: Engine, core: Core, chunks: list[Chunk], steps: Any, sums: Sums) -> tuple[dict, dict, Sums]:
    layers = engine.learning
    adjoints: dict[Path, tuple[Adjoint, ...]] = {p: () for p, _ in engine.layers}
    for i in reversed(range(engine.chunks)):
        past = {p: Past(core.base[p], join([chunk.blocks[p] for chunk in chunks[:i]])) for p in layers}
        none = {p: zero_bias(la, core.base[p]["kernel"].dtype) for p, la in layers.items()}
        later = {p: Later(adjoints[p], None, sum((total(a.h, -2) for a in adjoints[p]), none[p])) for p in layers}
        new, sums = reverse_chunk(engine, core, past, chunks[i], later, sums, *piece(engine, steps, i))
        adjoints = {p: (new[p], *adjoints[p]) for p in adjoints}
    ends = {}
    for p in engine.foreseen:
        parts = adjoints.pop(p)
        g, h = (jnp.concatenate(taps, -2) for taps in ([a.block.g for a in parts], [a.h for a in parts]))
        ends[p] = Ends(g[None], h[None])
    return adjoints, ends, sums


def reverse_chunk(engine: Engine, core: Core, past: dict, chunk: Chunk, later: dict, sums: Sums, steps: Sequence, ct: Any) -> tuple:
    """One chunk of the reverse sweep: (path -> Adjoint, Sums).

    It is cut into parts. What the parts after the current one contribute is in the chunk's adjoint, which is zero where the sweep has
    not been, and enters like that of later chunks.
    """
    layers, blocks, size = dict(engine.layers), chunk.blocks, steps.weight.shape[0]
    parts = size // engine.part
    inputs = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), (jnp.arange(size), steps, ct, chunk.replay))
    taps = {p: jax.tree.map(partial(by_step, la, parts), blocks[p]) for p, la in layers.items()}

    def part(carry, now):
        adjoint, sums = carry
        number, inputs, taps = now
        following = {}
        for p, (h, xd) in adjoint.items():
            adjoints, fold, bias = later[p]
            following[p] = Later((*adjoints, Adjoint(blocks[p], h, xd)), fold, bias + total(h, -2))
        new, static, sums = reverse_part(engine, core, past, blocks, taps, following, sums, *inputs)
        adjoint = {p: jax.tree.map(lambda a, n: write(a, n, number), adjoint[p], new[p]) for p in adjoint}
        return (adjoint, sums), static

    start = no_adjoint(engine, blocks)
    (adjoint, sums), static = jax.lax.scan(part, (start, sums), (jnp.arange(parts), inputs, taps), reverse=True)
    adjoint |= {p: jax.tree.map(partial(by_tap, layers[p]), static[p]) for p in static}
    return {p: Adjoint(blocks[p], *adjoint[p]) for p in layers}, sums


def no_adjoint(engine: Engine, taps: dict[Path, Block]) -> dict[Path, tuple]:
    """Zeros for (h, xd) of the taps of the layers that learn."""
    return {p: (jnp.zeros_like(taps[p].g), jnp.zeros_like(taps[p].x) if la.varies else None) for p, la in engine.learning.items()}


def reverse_part(
    engine: Engine,
    core: Core,
    past: dict,
    blocks: dict,
    own: dict,
    later: dict,
    sums: Sums,
    j: jax.Array,
    steps: Sequence,
    ct: Any,
    known: Replay,
) -> tuple[dict[Path, Any], dict[Path, Any], Sums]:
    """One part of a chunk: (path -> (h, xd) of the taps of layers that learn, the same of the others, Sums).

    Args:
      blocks: the chunk's taps; own: the part's; j: the part's steps, counted in the chunk.
    """
    layers, learning, size = dict(engine.layers), engine.learning, len(j)
    products = {p: over_heads(partial(later_products, la), la)(own[p], later[p], core.factors[p]) for p, la in learning.items()}
    gram = {p: over_heads(partial(grams, la), la)(own[p], core.factors[p]) for p, la in learning.items()}
    taps = {p: jax.tree.map(partial(by_step, la, size), own[p]) for p, la in layers.items()}
    # foreseen inputs do not vary in the sweep; their cotangents are left for after it
    needed = {
        p: (products[p]._replace(u=None), (gram[p][0], None)) if la.foreseen else (products[p], gram[p]) for p, la in learning.items()
    }
    split = {p: jax.tree.map(partial(by_step, la, size), needed[p]) for p, la in learning.items()}

    def step(carry, now):
        adjoint, lam, small_rates = carry
        i, j, now, ct, taps, split, known = now
        done = {}
        for p, la in learning.items():
            of_heads = over_heads(partial(current_products, la), la)
            done[p] = of_heads(taps[p], own[p], *adjoint[p], *split[p], core.factors[p])
        if engine.first_order:
            tangent, small_tangent = jax.tree.map(jnp.zeros_like, (taps, lam))
        else:
            tangent, small_tangent = hessian_product(engine, core, past, blocks, j, now, known, done, lam)
        owed, small_owed = owed_at_a_step(engine, ct, taps, known)
        new = {p: (owed[p] - tangent[p].g, tangent[p].x if la.varies else None) for p, la in layers.items()}
        for p in adjoint:
            now_known = after(new.pop(p), *jax.tree.leaves(done[p]))
            adjoint[p] = jax.tree.map(lambda a, n: write(a, n, i), adjoint[p], now_known)
        small_rates = jax.tree.map(lambda so_far, lam, g: so_far - lam * g, small_rates, lam, known.small_gradient)
        lam = jax.tree.map(lambda lam, g, t: lam + g - t, lam, small_owed, small_tangent)
        return (adjoint, lam, small_rates), (done, new)

    start = no_adjoint(engine, own)
    inputs = (jnp.arange(size), j, steps, ct, taps, split, known)
    (adjoint, lam, small_rates), (done, static) = jax.lax.scan(step, (start, sums.small, sums.small_rates), inputs, reverse=True)
    static = {p: jax.tree.map(partial(by_tap, layers[p]), static[p]) for p in static}
    done = {p: jax.tree.map(partial(by_tap, la), done[p]) for p, la in learning.items()}
    factors = {p: rate_gradient(la, size, own[p], adjoint[p][0], later[p].bias, done[p], core.factors[p]) for p, la in learning.items()}
    return adjoint, static, Sums(lam, small_rates, jax.tree.map(jnp.add, sums.factors, factors))


def owed_at_a_step(engine: Engine, ct: Any, taps: dict[Path, Block], known: Replay) -> tuple[dict[Path, jax.Array], Any]:
    """The cotangents of a step's nats times theirs, `ct`: (path -> of the layers' outputs, of the carried parameters).

    If the nats are late, `ct` is path -> the first, of foreseen layers; all else owes them nothing.
    """
    if engine.late:
        nothing = {p: jnp.zeros_like(block.g) for p, block in taps.items()}
        return nothing | ct, jax.tree.map(jnp.zeros_like, known.small_gradient)
    return scaled(ct, known.price or ({p: block.g for p, block in taps.items()}, known.small_gradient))


def hessian_product(
    engine: Engine, core: Core, past: dict, blocks: dict, j: Any, now: Sequence, known: Replay, done: dict, lam: Any
) -> tuple[dict[Path, Block], Any]:
    """The tangent of step j's gradient in direction V: (path -> Block of tangents of the taps, tangent of the carried gradient)."""
    layers = dict(engine.layers)
    seen, probes, directions = {}, {}, {}
    for p, layer in layers.items():
        if layer.foreseen:
            probes[p] = foreseen_probe(layer, known.out[p])
            directions[p] = jax.tree.map(jnp.zeros_like, probes[p])
        else:
            directions[p] = zero_probe(layer, known.out[p].dtype)
            probes[p] = directions[p] | {"out": known.out[p], "back": known.back[p]}
    for p, layer in engine.learning.items():
        block, factors = blocks[p], core.factors[p]
        before = (jnp.arange(block.x.shape[-2]) < j * layer.taps).astype(block.x.dtype)
        seen[p] = block._replace(mask=jnp.broadcast_to(before, block.x.shape[:-1]))
        directions[p]["g"] = factors.column[..., None, :] * done[p].v
        if layer.varies:
            directions[p]["x"] = factors.row[..., None, :] * done[p].u
    memories = memories_of(engine, core, past, seen)

    def gradient(probes, small):
        def predict(probes, small):
            slots = {p: Slot(memories.get(p), probes[p]) for p in layers}
            return inner(engine, apply(engine.network, core.carried(small), slots, replay, now.x))

        out, pull = jax.vjp(predict, probes, small)
        _, _, lesson = pay(engine.likelihood, out, now.y)
        taps, small_gradient = pull(scaled(now.weight.astype(paid(out).dtype), lesson))
        return {p: Block(t["x"], t["g"]) for p, t in taps.items()}, small_gradient

    direction = jax.tree.map(jnp.multiply, core.small_rates, lam)
    return jax.jvp(gradient, (probes, known.small), (directions, direction))[1]


def later_products(layer: Layer, block: Block, later: Later, factors: Factors) -> Products:
    """Products of a whole chunk with L of the chunks after it, as matrix products."""
    scaled = block.g * factors.column
    v, u = jnp.zeros_like(block.g), jnp.zeros_like(block.x)
    if layer.kind == "embed":
        if later.fold is not None:
            v = later.fold[block.x[:, 0].astype(jnp.int32)]
        for other, h, _ in later.adjoints:
            v = v + product(similarity("embed", block.x, other.x, factors, 1.0), h)
        return Products(v, u)
    if later.fold is not None:
        v = (block.x * factors.row) @ later.fold + factors.constant * later.bias
        u = scaled @ later.fold.T
    for other, h, xd in later.adjoints:
        v = v + product(similarity("dense", block.x, other.x, factors, 1.0), h)
        u = u + product(product(scaled, h.T), other.x)
        if xd is not None:
            v = v - product(product(block.x * factors.row, xd.T), other.g)
            u = u - product(product(scaled, other.g.T), xd)
    return Products(v, u)


def grams(layer: Layer, block: Block, factors: Factors) -> tuple[jax.Array, jax.Array]:
    """Similarities of a chunk's inputs, and of its cotangents: [S r, S r] each."""
    return similarity(layer.kind, block.x, block.x, factors, 1.0), product(block.g * factors.column, block.g.T)


def current_products(layer: Layer, tap: Block, block: Block, h: Any, xd: Any, products: Products, gram: Any, factors: Factors) -> Products:
    """Adds what the later steps of the same chunk contribute; steps that were not reached yet are zero in h and xd."""
    v, u = products.v + product(gram[0], h), products.u
    if xd is not None and u is not None:
        v = v - product(product(tap.x * factors.row, xd.T), block.g)
        u = u + product(product(tap.g * factors.column, h.T), block.x) - product(gram[1], xd)
    return Products(v, u)


def rate_gradient(layer: Layer, count: int, block: Block, h: jax.Array, bias: jax.Array, done: Products, factors: Factors) -> Factors:
    """Derivatives by the rates that the `count` steps of a part contribute; by the rows of foreseen layers they come after the sweep."""
    v, u = done
    column = -(block.g * v).sum(-2)
    if layer.kind == "embed":
        return Factors(jnp.zeros_like(factors.row), jnp.zeros_like(factors.constant), column)
    row = jnp.zeros_like(factors.row) if u is None else -(block.x * u).sum(-2)
    by_time = total(by_step(layer, count, h), -2)
    after = bias + jnp.flip(jnp.cumsum(jnp.flip(by_time, 0), 0), 0) - by_time
    constant = -(total(by_step(layer, count, block.g), -2) * factors.column * after).sum((0, -1))
    return Factors(row, constant, column)


def zero_bias(layer: Layer, dtype: Any) -> jax.Array:
    return jnp.zeros((*layer.heads, layer.outputs), dtype)


def fold_adjoint(layer: Layer, later: Later, new: Adjoint) -> Later:
    """L of a chunk and all later ones."""
    kernel = later.fold + outer(layer, new.block.x, new.h)
    if new.xd is not None:
        kernel = kernel - outer(layer, new.xd, new.block.g)
    return Later((), kernel, later.bias + total(new.h, -2))


def by_input(engine: Engine, layer: Layer, factors: Factors, kernel: jax.Array, inputs: jax.Array, ends: Ends) -> tuple:
    """Derivatives that do not need the sweep's order: (by foreseen inputs, shaped like `inputs`; by the kernel; by the rows of the rates).

    Args:
      kernel: the initialization; inputs: [B, T, *heads, r, m], or [T, ...] if they are shared; ends: of every sequence, [B, ...].
    """
    batch, chunks = ends.g.shape[:2]
    h = ends.h
    if engine.shared:  # as if they were one sequence with all their outputs side by side
        h = total(h, 0)[None]
        ends = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(1, *a.shape[1:-1], -1), ends)
        factors = factors._replace(column=jnp.tile(factors.column, batch))
    size = inputs.shape[-3 - len(layer.heads)] // chunks
    steps = inputs.reshape(len(h), chunks, size, *inputs.shape[-2 - len(layer.heads) :])
    x = jax.vmap(jax.vmap(partial(taps_of, engine, layer)))(steps)
    of_chunks: Callable = jax.vmap(over_heads(partial(of_chunk, engine, layer), layer), (0, 0, None))
    pulled, row = jax.vmap(of_chunks, (0, 0, None))(x, ends, factors)
    if not engine.fold:
        pulled = pulled + product(h, kernel.mT)
    pulled = jax.vmap(jax.vmap(partial(by_step, layer, size)))(pulled).reshape(inputs.shape)
    x, h = (a.reshape(-1, *a.shape[2:]) for a in (x, h))
    return pulled, contract(layer, x, h), row.sum((0, 1))


def of_chunk(engine: Engine, layer: Layer, x: jax.Array, ends: Ends, factors: Factors) -> tuple[jax.Array, jax.Array]:
    """For the inputs x [S r, m] of a head in a chunk: their cotangents (if taps are kept, but for the initialization's part), and the
    derivative by the rows [m]."""
    step = jnp.arange(len(x)) // layer.taps
    weaker = product(ends.h * factors.column, ends.g.T) * (step[:, None] > step[None, :])
    through_output, u = -factors.row * product(weaker, x), product(weaker.T, x)
    if ends.kernel is not None and ends.later is not None:
        through_output = through_output + product(ends.h, ends.kernel.T)
        u = u + product(ends.g * factors.column, ends.later.T)
    through_tap = 0.0 if engine.first_order else factors.row * u
    return through_output - through_tap, -(x * u).sum(-2)
