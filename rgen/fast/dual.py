"""The inner loop in dual form: the same numbers as `loop.py`, without forming the fast weights.

Derivation (docs/dual_form.md has it at length). For one Dense layer with input x_t, output cotangent g_t (of the step's weighted nats),
and the rank-one rate a b^T (rows a, columns b; the bias is the weight of a constant input with the rate c in place of a):

    W_t = W_0 - sum_{s<t} (a x_s)(b g_s)^T          so      x W_t = x W_0 - b sum_{s<t} (a x . x_s + c) g_s
                                                            W_t g = W_0 g - a sum_{s<t} (b g . g_s) x_s

Let L_t be the derivative by W_t of everything paid from step t on, and w_t the cotangent of step t's nats. One step back,

    L_t = L_{t+1} + w_t x_t g_t^T - H_t[V],         V = (a b^T) L_{t+1} elementwise,

where H_t, the Hessian of step t's nats, is symmetric: H_t[V] is the tangent of the gradient x_t g_t^T in direction V, xd_t g_t^T +
x_t gd_t^T. Hence the adjoint is a list of taps too, L_t = sum_{s>=t} x_s (w_s g_s - gd_s)^T - xd_s g_s^T, and the direction enters a
layer only through x_t V = b (a x_t L) and V g_t = a (L (b g_t)): tangents of the layer's output and of its input's cotangent. The rates'
derivatives need nothing more: by a, -sum x_t (L_{t+1} b g_t); by b, -sum g_t (a x_t L_{t+1}).

Time is cut into chunks. Taps of finished chunks are constants of the scan over the current one; only the current chunk's are written.

If the inner loop descends other nats than those that are paid (`rgen.sequence.Prediction`), g_t and H_t are of the former, and w_t g_t
in L_t is the cotangent of the latter.

A layer that does not learn in the inner loop is the case a = b = c = 0: its taps are never read, and V = 0.

Where nothing that learns can change x_t, it is foreseen: all x_t are known before the run, and xd_t = 0. What is read of them is then
computed for whole chunks before, and their cotangents W_t h_t - a (L_{t+1} (b g_t)) after the reverse sweep; only the g_s of the
current chunk are read at every step. Where all sequences have the same inputs, these cotangents are needed summed over them alone: then
the sequences are like more outputs, side by side, of one layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from rgen.fast.plan import Engine
from rgen.fast.rates import Factors
from rgen.fast.taps import Layer, Path, Slot, apply, foreseen_probe
from rgen.sequence import ROWS, Prediction, Sequence, over_sequences, paid
from rgen.unroll import Scoring, pay, scaled

# ---------------------------------------------------------------- one layer


class Block(NamedTuple):
    """Taps: inputs x [S, m] and cotangents g [S, n]; of them those count where `mask` [S] is 1."""

    x: Any  # or None, where it is at hand elsewhere
    g: jax.Array
    mask: jax.Array | None = None


class Memory(NamedTuple):
    """All that the weights of a layer consist of at one moment: those at some earlier moment, and the taps since then.

    A layer that does not learn has neither factors nor blocks.
    """

    kernel: jax.Array
    bias: jax.Array | None
    factors: Factors | None
    blocks: tuple[Block, ...]


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b; where one is in bfloat16 both are rounded to it, and the products summed up in float32."""
    if jnp.bfloat16 not in (a.dtype, b.dtype):
        return a @ b
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def total(taps: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Their sum, in float32 at least."""
    return taps.sum(axis, dtype=jnp.promote_types(taps.dtype, jnp.float32))


def similarity(kind: str, q: jax.Array, x: jax.Array, factors: Factors, one: float) -> jax.Array:
    """How much a tap with input x [S, m] concerns an input q [r, m]: [r, S]."""
    if kind == "embed":
        return (q == x.T).astype(x.dtype)
    return product(q * factors.row, x.T) + one * factors.constant


def forward(kind: str, q: jax.Array, memory: Memory, one: float) -> jax.Array:
    """q W_t, [r, m] to [r, n]; the bias is added `one` times (0 for tangents)."""
    kernel, bias, factors, blocks = memory
    out = kernel[q[:, 0].astype(jnp.int32)] if kind == "embed" else product(q, kernel)
    if bias is not None:
        out = out + one * bias
    if factors is None:
        return out
    change: Any = 0.0
    for x, g, mask in blocks:
        k = similarity(kind, q, x, factors, one)
        change = change + product(k if mask is None else k * mask, g)
    return out - factors.column * change


def backward(g: jax.Array, memory: Memory) -> jax.Array:
    """W_t g of a Dense layer, [r, n] to [r, m]."""
    kernel, _, factors, blocks = memory
    if factors is None:
        return product(g, kernel.T)
    scaled = g * factors.column
    change: Any = 0.0
    for x, taps, mask in blocks:
        k = product(scaled, taps.T)
        change = change + product(k if mask is None else k * mask, x)
    return product(g, kernel.T) - factors.row * change


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def record(kind: str, q: jax.Array, memory: Memory, probe: dict[str, jax.Array]) -> Any:
    """The layer in the forward run. The gradients of its probes are the tap and what `replay` needs to know."""
    return forward(kind, q, memory, 1.0)


def _record_forward(kind, q, memory, probe):
    out = forward(kind, q, memory, 1.0)
    return out, (q, memory, out)


def _record_backward(kind, kept, g):
    q, memory, out = kept
    back = jnp.zeros_like(q) if kind == "embed" else backward(g, memory)
    return back, None, {"x": q, "g": g, "out": out, "back": back}


record.defvjp(_record_forward, _record_backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known(kind: str, value: jax.Array, v: jax.Array, memory: Memory) -> jax.Array:
    """A linear map of `v` whose value is known already, so that only its tangent is computed."""
    return value


@known.defjvp
def _known_tangent(kind, primals, tangents):
    value, _, memory = primals
    _, v, _ = tangents
    if kind == "backward":
        return value, backward(v, memory)
    return value, forward(kind, v, memory, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(kind: str, q: jax.Array, memory: Memory, probe: dict[str, jax.Array]) -> Any:
    """The layer in the reverse sweep: known values, live tangents. Probes x and g are zero; their tangents are V g_t and x_t V."""
    return _replay_forward(kind, q, memory, probe)[0]


def _replay_forward(kind, q, memory, probe):
    out = probe["out"] if kind == "embed" else known(kind, probe["out"], q, memory)
    return out + probe["g"], (q, memory, probe)


def _replay_backward(kind, kept, g):
    q, memory, probe = kept
    back = jnp.zeros_like(q) if kind == "embed" else known("backward", probe["back"], g, memory) + probe["x"]
    zeros = {name: jnp.zeros_like(probe[name]) for name in ("out", "back")}
    return back, None, {"x": q, "g": g, **zeros}


replay.defvjp(_replay_forward, _replay_backward)


def over_heads(function: Any, layer: Layer, in_axes: Any = 0) -> Any:
    """The function for a layer's leading axes."""
    for _ in layer.heads:
        function = jax.vmap(function, in_axes)
    return function


# ---------------------------------------------------------------- a sequence


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
    loop descends others (see `rgen.sequence.Prediction`); None where they are the taps' own.
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


def zero_probe(layer: Layer, dtype: Any) -> dict[str, jax.Array]:
    into, out = (*layer.heads, layer.taps, layer.width), (*layer.heads, layer.taps, layer.outputs)
    return {"x": jnp.zeros(into, dtype), "g": jnp.zeros(out, dtype), "out": jnp.zeros(out, dtype), "back": jnp.zeros(into, dtype)}


class Ahead(NamedTuple):
    """Of a chunk of a layer whose inputs are foreseen: these, and what can be computed before its first step, [*heads, S r, ...].

    Attributes:
      x: inputs; out: outputs without what the chunk itself teaches; gram: similarities of the inputs.
    """

    x: jax.Array
    out: jax.Array
    gram: jax.Array


class Past(NamedTuple):
    """What a layer has learned before the current chunk: weights {"kernel", "bias"}, and the taps since they were formed."""

    weights: dict[str, jax.Array]
    blocks: tuple[Block, ...]


def memories_of(engine: Engine, core: Core, past: dict[Path, Past], blocks: dict[Path, Block]) -> dict[Path, Memory]:
    """Path -> Memory of all layers but those that are foreseen: `past` and `blocks` have those that learn."""
    kinds = {p: layer.kind for p, layer in engine.layers}

    def memory(p: Path, weights: dict, factors: Factors | None, blocks: tuple[Block, ...]) -> Memory:
        kernel = rounded(engine, weights["kernel"]) if kinds[p] == "dense" else weights["kernel"]
        return Memory(kernel, weights.get("bias"), factors, blocks)

    static = {p: memory(p, weights, None, ()) for p, weights in core.base.items() if p not in core.factors}
    changing = {p: block for p, block in blocks.items() if p not in engine.foreseen}
    return static | {p: memory(p, past[p].weights, core.factors[p], (*past[p].blocks, block)) for p, block in changing.items()}


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


def taps_of(engine: Engine, layer: Layer, inputs: jax.Array) -> jax.Array:
    """Foreseen inputs [S, *heads, r, m] as taps, [*heads, S r, m]."""
    return rounded(engine, by_tap(layer, inputs))


def empty_block(engine: Engine, layer: Layer, steps: int, dtype: Any) -> Block:
    size = (*layer.heads, steps * layer.taps)
    empty = Block(jnp.zeros((*size, layer.width), dtype), jnp.zeros((*size, layer.outputs), dtype))
    return in_precision(engine, layer, empty)


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


def output_of(factors: Factors, out: jax.Array, gram: jax.Array, g: jax.Array) -> jax.Array:
    """A foreseen layer's output at a step [*heads, r, n], with what the chunk has taught so far; taps of later steps are zero in g."""
    return out - factors.column[..., None, :] * product(gram, g)


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


def by_chunk(engine: Engine, steps: Any) -> Any:
    """Arrays [T, ...] as [chunks, T / chunks, ...]."""
    return jax.tree.map(lambda a: a.reshape(engine.chunks, engine.chunk, *a.shape[1:]), steps)


def piece(engine: Engine, steps: Any, i: int) -> Any:
    """The steps of chunk i."""
    return jax.tree.map(lambda a: a[i * engine.chunk : (i + 1) * engine.chunk], steps)


def join(blocks: Any) -> tuple:
    """Taps of successive chunks as those of one, if there are any: few large products cost less than many small ones."""
    return (jax.tree.map(lambda *parts: jnp.concatenate(parts, -2), *blocks),) if blocks else ()


def outer(layer: Layer, x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of x_s g_s^T over taps, [*heads, S, m] and [*heads, S, n] to [*heads, m, n]; for an Embed, x are its row numbers."""

    def one(x, g):
        if layer.kind == "embed":
            return jnp.zeros((layer.inputs, layer.outputs), x.dtype).at[x[:, 0].astype(jnp.int32)].add(g.astype(x.dtype))
        return product(x.T, g)

    return over_heads(one, layer)(x, g)


def moved(layer: Layer, kernel: jax.Array, bias: jax.Array, factors: Factors) -> dict[str, jax.Array]:
    """How far taps move the parameters, from the sums of x_s g_s^T [*heads, m, n] and of g_s [*heads, n]."""
    rates = factors.column[..., None, :] * (1.0 if layer.kind == "embed" else factors.row[..., :, None])
    return {"kernel": rates * kernel} | ({"bias": factors.constant[..., None] * factors.column * bias} if layer.bias else {})


def learn(layer: Layer, weights: dict, block: Block, factors: Factors, sign: float = -1.0) -> dict[str, jax.Array]:
    """Weights after the steps of some taps; with sign 1, those before."""
    change = moved(layer, outer(layer, block.x, block.g), total(block.g, -2), factors)
    return {name: weights[name] + sign * change[name] for name in weights}


# ---------------------------------------------------------------- the reverse sweep


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


def by_step(layer: Layer, count: int, taps: jax.Array) -> jax.Array:
    """[*heads, S r, k] to [count, *heads, S r / count, k]: by steps, or by parts."""
    taps = taps.reshape(*layer.heads, count, -1, taps.shape[-1])
    return jnp.moveaxis(taps, len(layer.heads), 0)


def by_tap(layer: Layer, steps: jax.Array) -> jax.Array:
    """[S, *heads, r, k] to [*heads, S r, k]."""
    steps = jnp.moveaxis(steps, 0, len(layer.heads))
    return steps.reshape(*layer.heads, -1, steps.shape[-1])


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


def zero_bias(layer: Layer, dtype: Any) -> jax.Array:
    return jnp.zeros((*layer.heads, layer.outputs), dtype)


def fold_adjoint(layer: Layer, later: Later, new: Adjoint) -> Later:
    """L of a chunk and all later ones."""
    kernel = later.fold + outer(layer, new.block.x, new.h)
    if new.xd is not None:
        kernel = kernel - outer(layer, new.xd, new.block.g)
    return Later((), kernel, later.bias + total(new.h, -2))


# ---------------------------------------------------------------- batches


def contract(layer: Layer, x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of x_s g_s^T over taps AND sequences, [B, *heads, S, m] and [B, *heads, S, n] to [*heads, m, n], as one matrix product."""
    x, g = (jnp.moveaxis(a, 0, -3).reshape(*a.shape[1:-2], -1, a.shape[-1]) for a in (x, g))
    return outer(layer, x, g)


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
            outs = {p: jnp.stack([chunk.replay.out[p] for chunk in chunks]) for p in engine.foreseen}
            found = {
                p: out.reshape(engine.length, *la.heads, la.taps, la.outputs)
                for (p, la), out in zip(engine.foreseen.items(), outs.values())
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
