"""The inner loop over one sequence in dual form: predict, pay, keep the taps.

Time is cut into chunks. Taps of finished chunks are constants of the scan over the current one; only the current chunk's are written.

Where nothing that learns can change a layer's x_t, it is foreseen: all x_t are known before the run. What is read of them is then computed
for whole chunks before, and only the g_s of the current chunk are read at every step.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from rgen.fast.affine import Block, Memory, backward, by_step, by_tap, forward, join, learn, over_heads, product, record, similarity
from rgen.fast.plan import Engine
from rgen.fast.rates import Factors
from rgen.fast.taps import Layer, Path, Slot, apply, foreseen_probe
from rgen.sequence import ROWS, Prediction, paid
from rgen.unroll import pay, scaled


class Core(NamedTuple):
    """What the dual form is differentiable in.

    Attributes:
      base: path -> {"kernel", "bias"} of the layers taken over ("kernel" is an Embed's table too).
      factors: path -> the rates of those that learn.
      small: all other parameters, which are carried as ordinary fast weights.
      small_rates: a rate for each of them.
      outside: name -> weights that the inner loop does not need; the network asks for them all the same, and what it makes of them is not
        used.
    """

    base: dict[Path, dict[str, jax.Array]]
    factors: dict[Path, Factors]
    small: Any
    small_rates: Any
    outside: dict[Path, jax.Array]

    def carried(self, small: Any) -> Any:
        """The parameters that a network finds in their place."""
        return traverse_util.unflatten_dict({**self.outside, **traverse_util.flatten_dict(small)})


class Replay(NamedTuple):
    """What the reverse sweep needs of a chunk besides its taps: [S, ...] each; `back` of layers whose inputs are not foreseen.

    `price` is (path -> cotangents of the layers' outputs, gradient of the carried parameters) of the nats that are paid, where the inner
    loop descends others (see `rgen.sequence.Prediction`); None where they are the taps' own, or paid late.
    """

    out: dict[Path, jax.Array]
    back: dict[Path, jax.Array]
    small: Any
    small_gradient: Any
    price: tuple[dict[Path, jax.Array], Any] | None


class Chunk(NamedTuple):
    """A chunk after the forward run: taps by path, x [*heads, S r, m] and g [*heads, S r, n]; and what to replay it with.

    Between the run and the reverse sweep the x of foreseen layers are left out: they are the inputs given to both.
    """

    blocks: dict[Path, Block]
    replay: Replay


class Past(NamedTuple):
    """What a layer has learned before the current chunk: weights {"kernel", "bias"}, and the taps since they were formed."""

    weights: dict[str, jax.Array]
    blocks: tuple[Block, ...]


class Ahead(NamedTuple):
    """Of a chunk of a layer whose inputs are foreseen: these, and what can be computed before its first step, [*heads, S r, ...].

    Attributes:
      x: inputs; out: outputs without what the chunk itself teaches; gram: similarities of the inputs.
    """

    x: jax.Array
    out: jax.Array
    gram: jax.Array


def run(engine: Engine, core: Core, observer: Any, inputs: dict, steps: Any) -> tuple[list[Chunk], dict | None, Any, Any]:
    """The inner loop over one sequence whose length is the sum of the chunks; `inputs`: path -> those that are foreseen, [T, ...].

    Returns:
      (chunks (stacked into one if they are folded), path -> last weights if they are folded, carried parameters, (y, nll) [T]).
    """
    layers, seen = engine.learning, observer.start()
    if engine.fold:

        def one(carry, now):
            weights, small, seen = carry
            past = {p: Past(weights[p], ()) for p in layers}
            chunk, small, seen, traced = run_unless_ended(engine, core, past, small, seen, observer, *now)
            weights = {p: learn(la, weights[p], chunk.blocks[p], core.factors[p]) for p, la in layers.items()}
            return (weights, small, seen), (chunk, traced)

        start = {p: core.base[p] for p in layers}
        (weights, small, _), (chunks, traced) = jax.lax.scan(one, (start, core.small, seen), by_chunk(engine, (inputs, steps)))
        return [chunks], weights, small, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), traced)
    small, chunks, traces = core.small, [], []
    for i in range(engine.chunks):
        past = {p: Past(core.base[p], join([chunk.blocks[p] for chunk in chunks])) for p in layers}
        chunk, small, seen, traced = run_unless_ended(engine, core, past, small, seen, observer, *piece(engine, (inputs, steps), i))
        chunks.append(chunk)
        traces.append(traced)
    return chunks, None, small, jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)


def run_unless_ended(engine: Engine, core: Core, past: dict, small: Any, seen: Any, observer: Any, inputs: dict, steps: Any) -> tuple:
    """`run_chunk`, but a chunk that finds all sequences of the micro-batch ended costs nothing."""
    if observer.end is None:
        return run_chunk(engine, core, past, small, seen, observer, inputs, steps)

    def go(small, seen):
        return run_chunk(engine, core, past, small, seen, observer, inputs, steps)

    def skip(small, seen):
        chunk, _, _, (y, nll) = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(go, small, seen))
        return chunk, small, seen, (jnp.full_like(y, observer.end), nll)

    # not pmin, which jax.export cannot lower for a symbolic batch
    return jax.lax.cond(jax.lax.all_gather(observer.ended(seen), ROWS).all(), skip, go, small, seen)


def run_chunk(engine: Engine, core: Core, past: dict, small: Any, seen: Any, observer: Any, inputs: dict, steps: Any) -> tuple:
    """One chunk of the inner loop. `past`: path -> Past of the chunks before; `inputs`: path -> those that are foreseen, of this one.

    Returns:
      (Chunk, carried parameters, what the observer remembers, (y, nll) [S]).
    """
    layers, learning = dict(engine.layers), engine.learning
    dtype = jax.tree.leaves((core.base, core.small))[0].dtype
    zeros = {path: zero_probe(layer, dtype) for path, layer in layers.items() if not layer.foreseen}
    size = steps.weight.shape[0]
    ahead = look_ahead(engine, core, past, inputs)

    def step(carry, now):
        blocks, small, seen = carry
        j, foreseen, now = now
        outputs = {p: output_of(core.factors[p], out, gram, blocks[p].g) for p, (out, gram) in foreseen.items()}
        probes = zeros | {p: foreseen_probe(layers[p], out) for p, out in outputs.items()}
        memories = memories_of(engine, core, past, blocks)

        def predict(probes, small):
            slots = {p: Slot(memories.get(p), probes[p]) for p in probes}
            return inner(engine, apply(engine.network, core.carried(small), slots, record, observer.x(seen, now)))

        out, pull = jax.vjp(predict, probes, small)
        seen, y, weight = observer(seen, now, paid(out))
        nll, owed, lesson = pay(engine.likelihood, out, y)
        taps, gradient = pull(scaled(weight, lesson))
        price = None
        if isinstance(out, Prediction):
            of_taps, of_small = pull(scaled(weight, owed))
            price = {p: t["g"] for p, t in of_taps.items()}, of_small
        outs = {p: probes[p]["out"] if p in ahead else t["out"] for p, t in taps.items()}
        backs = {p: t["back"] for p, t in taps.items() if p not in ahead}
        for p in learning:
            if p in ahead:
                (g,) = after((taps[p]["g"],), outs[p])
                blocks[p] = blocks[p]._replace(g=write(blocks[p].g, g, j))
                continue
            x, g = after((taps[p]["x"], taps[p]["g"]), outs[p], backs[p], taps[p]["g"])
            blocks[p] = Block(write(blocks[p].x, x, j), write(blocks[p].g, g, j))
        static = {p: in_precision(engine, layers[p], Block(t["x"], t["g"])) for p, t in taps.items() if p not in learning}
        replay = Replay(outs, backs, small, gradient, price)
        small = jax.tree.map(lambda w, rate, g: w - rate * g, small, core.small_rates, gradient)
        return (blocks, small, seen), (static, replay, y, weight * nll)

    empty = {path: empty_block(engine, layer, size, dtype) for path, layer in learning.items()}
    split = {p: (by_step(layers[p], size, a.out), by_step(layers[p], size, a.gram)) for p, a in ahead.items()}
    (blocks, small, seen), (static, replay, y, nll) = jax.lax.scan(step, (empty, small, seen), (jnp.arange(size), split, steps))
    blocks |= {p: Block(a.x, blocks[p].g) for p, a in ahead.items()}
    static = {p: jax.tree.map(partial(by_tap, layers[p]), block) for p, block in static.items()}
    return Chunk(blocks | static, replay), small, seen, (y, nll)


def look_ahead(engine: Engine, core: Core, past: dict[Path, Past], inputs: dict[Path, jax.Array]) -> dict[Path, Ahead]:
    """For the foreseen inputs [S, *heads, r, m] of a chunk: large products, where the steps would have small ones."""
    ahead = {}
    for p, layer in engine.foreseen.items():
        factors, weights = core.factors[p], past[p].weights
        x = taps_of(engine, layer, inputs[p])
        memory = Memory(weights["kernel"], weights.get("bias"), factors, past[p].blocks)
        out = over_heads(partial(forward, "dense"), layer, (0, 0, None))(x, memory, 1.0)
        ahead[p] = Ahead(x, out, over_heads(partial(similarity, "dense"), layer, (0, 0, 0, None))(x, x, factors, 1.0))
    return ahead


def output_of(factors: Factors, out: jax.Array, gram: jax.Array, g: jax.Array) -> jax.Array:
    """A foreseen layer's output at a step [*heads, r, n], with what the chunk has taught so far; taps of later steps are zero in g."""
    return out - factors.column[..., None, :] * product(gram, g)


def memories_of(engine: Engine, core: Core, past: dict[Path, Past], blocks: dict[Path, Block]) -> dict[Path, Memory]:
    """Path -> Memory of all layers but those that are foreseen: `past` and `blocks` have those that learn."""
    kinds = {p: layer.kind for p, layer in engine.layers}

    def memory(p: Path, weights: dict, factors: Factors | None, blocks: tuple[Block, ...]) -> Memory:
        kernel = rounded(engine, weights["kernel"]) if kinds[p] == "dense" else weights["kernel"]
        return Memory(kernel, weights.get("bias"), factors, blocks)

    static = {p: memory(p, weights, None, ()) for p, weights in core.base.items() if p not in core.factors}
    changing = {p: block for p, block in blocks.items() if p not in engine.foreseen}
    return static | {p: memory(p, past[p].weights, core.factors[p], (*past[p].blocks, block)) for p, block in changing.items()}


def look_back(engine: Engine, core: Core, chunks: list[Chunk]) -> dict[Path, jax.Array]:
    """Path -> cotangents [T, *heads, r, m] of foreseen inputs by the inner loop's own gradients: W_t g_t."""
    found = {}
    for p, layer in engine.foreseen.items():
        ((x, g, _),) = join([chunk.blocks[p] for chunk in chunks])
        step = jnp.arange(engine.length).repeat(layer.taps)
        earlier = jnp.broadcast_to(step[:, None] > step[None, :], (*layer.heads, len(step), len(step))).astype(x.dtype)
        memory = Memory(core.base[p]["kernel"], None, core.factors[p], (Block(x, g, earlier),))
        found[p] = by_step(layer, engine.length, over_heads(backward, layer)(g, memory))
    return found


def zero_probe(layer: Layer, dtype: Any) -> dict[str, jax.Array]:
    into, out = (*layer.heads, layer.taps, layer.width), (*layer.heads, layer.taps, layer.outputs)
    return {"x": jnp.zeros(into, dtype), "g": jnp.zeros(out, dtype), "out": jnp.zeros(out, dtype), "back": jnp.zeros(into, dtype)}


def empty_block(engine: Engine, layer: Layer, steps: int, dtype: Any) -> Block:
    size = (*layer.heads, steps * layer.taps)
    empty = Block(jnp.zeros((*size, layer.width), dtype), jnp.zeros((*size, layer.outputs), dtype))
    return in_precision(engine, layer, empty)


def taps_of(engine: Engine, layer: Layer, inputs: jax.Array) -> jax.Array:
    """Foreseen inputs [S, *heads, r, m] as taps, [*heads, S r, m]."""
    return rounded(engine, by_tap(layer, inputs))


def in_precision(engine: Engine, layer: Layer, block: Block) -> Block:
    """Taps as they are kept; an Embed's inputs are row numbers, which bfloat16 does not have."""
    return Block(block.x if layer.kind == "embed" else rounded(engine, block.x), rounded(engine, block.g))


def rounded(engine: Engine, a: jax.Array) -> jax.Array:
    """As precisely as the engine keeps it."""
    return a if engine.precision == "float32" else a.astype(jnp.bfloat16)


def inner(engine: Engine, out: Any) -> Any:
    """What the inner loop needs of a network's output."""
    return out.learned if engine.late else out


def write(block: jax.Array, tap: jax.Array, step: jax.Array) -> jax.Array:
    """Puts the taps [*heads, r, m] of one step of a chunk at their place in [*heads, S r, m]."""
    return jax.lax.dynamic_update_slice_in_dim(block, tap.astype(block.dtype), step * tap.shape[-2], axis=block.ndim - 2)


def after(taps: tuple[Any, ...], *reads: jax.Array) -> tuple[Any, ...]:
    """The taps, made to depend on what was read. XLA then knows that its buffer is not read any more and writes into it in place;
    without this it copies each buffer twice a step, which on CPUs is three quarters of the time."""
    token = sum(read.ravel()[0] for read in reads)
    return jax.tree.map(lambda tap: jnp.where(token != token, token, tap), taps)


def by_chunk(engine: Engine, steps: Any) -> Any:
    """Arrays [T, ...] as [chunks, T / chunks, ...]."""
    return jax.tree.map(lambda a: a.reshape(engine.chunks, engine.chunk, *a.shape[1:]), steps)


def piece(engine: Engine, steps: Any, i: int) -> Any:
    """The steps of chunk i."""
    return jax.tree.map(lambda a: a[i * engine.chunk : (i + 1) * engine.chunk], steps)
