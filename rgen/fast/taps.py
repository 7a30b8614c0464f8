"""What the dual form sees of a network: its Dense and Embed calls, taken over by a Linen interceptor.

A step of SGD on one example changes a Dense kernel by the outer product of the layer's input and its output's cotangent. That pair is
a *tap*. A layer that is taken over finds, in its place in the parameter tree, a `Slot` instead of its parameters: everything needed to
compute its output without ever forming its weights, and probes, whose gradients are the taps. Slots travel like parameters, so lifted
transformations (`nn.vmap`, `nn.scan`) slice them as they would slice a kernel with leading axes.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax.extend.core import Literal

from rgen.sequence import Prediction

Path = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One Dense or Embed layer that can be taken over.

    Attributes:
      inputs, outputs: m and n of its kernel [*heads, m, n]; for an Embed the number of rows, and their width.
      heads: leading axes of the kernel, from a lifted layer.
      rows: rows [*, m] that one call transforms; calls: how often it is called in one step.
      fresh: whether it is an Embed of the network's input itself, a number. Where no input comes twice in a sequence, each of its rows is
        read once, before it has learned anything.
      learns: whether it changes in the inner loop, and the change is read.
      foreseen: whether its inputs are known before the inner loop begins, as nothing that learns can change them.
    """

    kind: str
    inputs: int
    outputs: int
    heads: tuple[int, ...]
    rows: int
    calls: int
    bias: bool
    fresh: bool = False
    learns: bool = True
    foreseen: bool = False

    @property
    def taps(self) -> int:
        """Taps a step leaves in each head."""
        return self.rows * self.calls

    @property
    def width(self) -> int:
        """Numbers of a tap's input: an Embed's is only its index."""
        return 1 if self.kind == "embed" else self.inputs

    @property
    def size(self) -> int:
        """Numbers of the kernel, of all heads."""
        return math.prod(self.heads) * self.inputs * self.outputs

    @property
    def tap_size(self) -> int:
        """Numbers that are read of all taps of one step."""
        return math.prod(self.heads) * self.taps * (self.outputs if self.foreseen else self.width + self.outputs)

    @property
    def varies(self) -> bool:
        """Whether its inputs change, continuously, with what is learned."""
        return self.kind == "dense" and not self.foreseen


class Slot(NamedTuple):
    """What a layer finds in place of its parameters. `memory` is for the `Affine` that computes with it; `probe` gives the taps.

    Without a memory the layer's output is already in the probe.
    """

    memory: Any
    probe: dict[str, jax.Array]


def learning(weights: Any, fast: tuple[str, ...] | None) -> Any:
    """The weights that learn in the inner loop: the part of a tree of dicts under the paths `fast`; None: all of it.

    Raises:
      ValueError: a path is not there, or there is none.
    """
    if fast is None:
        return weights
    if not fast:
        raise ValueError("Nothing learns in the inner loop: its paths are empty. Name at least one; None means all.")
    flat = traverse_util.flatten_dict(weights)
    for path in fast:
        if not any(learns(name, (path,)) for name in flat):
            there = sorted({"/".join(name[:depth]) for name in flat for depth in range(1, len(name) + 1)})
            raise ValueError(f"'{path}' is not in the network and cannot learn; there are {', '.join(there)}.")
    return traverse_util.unflatten_dict({name: value for name, value in flat.items() if learns(name, fast)})


def learns(name: Path, fast: tuple[str, ...] | None) -> bool:
    """Whether what stands at this place in the parameter tree learns in the inner loop."""
    return fast is None or any(name[: len(prefix)] == prefix for prefix in (tuple(path.split("/")) for path in fast))


def overlaid(weights: Any, fast: Any) -> Any:
    """All weights, of which some learn."""
    if not isinstance(fast, dict):
        return fast
    return weights | {name: overlaid(weights[name], child) for name, child in fast.items()}


# (kind, rows [r, width], memory, probe of this call) -> outputs [r, n]
Affine = Callable[[str, jax.Array, Any, dict[str, jax.Array]], Any]


def find_layers(network: nn.Module, weights: Any, x: jax.Array | jax.ShapeDtypeStruct) -> dict[Path, Layer]:
    """The layers of a network that can be taken over, by their place in the parameter tree.

    Not among them: layers with a dtype, precision or dot_general of their own, an Embed that also attends, calls with differing rows.
    """
    calls: dict[Path, list] = {}
    refused: set[Path] = set()

    def run(weights, x):
        def record(call, args, kwargs, context):
            module, path = context.module, context.module.path
            if _is_plain(module) and context.method_name == "__call__" and not kwargs:
                calls.setdefault(path, []).append((module, jnp.shape(args[0]), args[0] is x and x.ndim == 0))
            elif isinstance(module, nn.Embed) and context.method_name == "attend":
                refused.add(path)
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            return network.apply({"params": weights}, x)

    jax.eval_shape(run, weights, x)
    flat = traverse_util.flatten_dict(weights)
    layers = {path: _describe(flat, path, seen) for path, seen in calls.items() if path not in refused}
    return {path: layer for path, layer in layers.items() if layer is not None}


def apply(network: nn.Module, carried: Any, slots: dict[Path, Slot], affine: Affine, x: jax.Array) -> Any:
    """Runs the network with ordinary parameters where they are carried, and `affine` in the layers that have a slot."""
    counts: Counter[Path] = Counter()

    def take_over(call, args, kwargs, context):
        module, path = context.module, context.module.path
        if path not in slots or context.method_name not in ("setup", "__call__"):
            return call(*args, **kwargs)
        if context.method_name == "setup":
            return None  # where an Embed asks for its table, which is not there
        slot: Slot = module.get_variable("params", "slot")
        kind = "embed" if isinstance(module, nn.Embed) else "dense"
        x = jnp.asarray(args[0])
        lead = x.shape if kind == "embed" else x.shape[:-1]
        rows = x.reshape(-1, 1 if kind == "embed" else x.shape[-1]).astype(slot.probe["x"].dtype)
        first = counts[path] * len(rows)
        counts[path] += 1
        probe = {name: value[first : first + len(rows)] for name, value in slot.probe.items()}
        out = _foreseen(rows, probe) if slot.memory is None else affine(kind, rows, slot.memory, probe)
        return out.reshape(*lead, -1)

    flat = {**traverse_util.flatten_dict(carried), **{(*path, "slot"): slot for path, slot in slots.items()}}
    with nn.intercept_methods(take_over):
        return network.apply({"params": traverse_util.unflatten_dict(flat)}, x)


@jax.custom_vjp
def _foreseen(q: jax.Array, probe: dict[str, jax.Array]) -> jax.Array:
    """A layer whose output is known. The gradients of its probes x and g are the tap; its input gets none."""
    return probe["out"] + probe["g"]


def _foreseen_forward(q, probe):
    return probe["out"] + probe["g"], q


def _foreseen_backward(q, g):
    return jnp.zeros_like(q), {"x": q, "g": g, "out": jnp.zeros_like(g)}


_foreseen.defvjp(_foreseen_forward, _foreseen_backward)


def foreseen_probe(layer: Layer, out: jax.Array) -> dict[str, jax.Array]:
    """Of a layer whose output [*heads, r, n] at a step is known."""
    return {"x": jnp.zeros((*layer.heads, layer.taps, layer.inputs), out.dtype), "g": jnp.zeros_like(out), "out": out}


def inputs_of(network: nn.Module, weights: Any, outs: dict[Path, jax.Array], layers: dict[Path, Layer], x: Any) -> tuple[Any, dict]:
    """What a network returns for ONE input if the outputs [*heads, r, n] of some layers are given, and these layers' inputs."""
    probes = {path: foreseen_probe(layers[path], out) for path, out in outs.items()}

    def predict(probes):
        return apply(network, weights, {path: Slot(None, probe) for path, probe in probes.items()}, lambda *_: None, x)

    out, pull = jax.vjp(predict, probes)
    taps = pull(jax.tree.map(jnp.zeros_like, out))[0]
    return out, {path: tap["x"] for path, tap in taps.items()}


def output_behind(network: nn.Module, weights: Any, outs: dict[Path, jax.Array], x: Any) -> Any:
    """What a network returns for ONE input if the outputs [*heads, r, n] of some layers are given; differentiable in these."""
    slots = {path: Slot((), {"x": out, "out": out}) for path, out in outs.items()}
    return apply(network, weights, slots, lambda kind, rows, memory, probe: probe["out"], x)


class Foreseen(NamedTuple):
    """What can be known of a network outside of the inner loop.

    Attributes:
      layers: paths of those whose inputs nothing that learns can change.
      late: whether what is paid need not be known in the inner loop, which descends other logits, and depends on nothing that learns but
        the outputs of these layers.
      outside: names of weights that the inner loop does not need: only these inputs do, or what is paid if it is late.
    """

    layers: set[Path]
    late: bool
    outside: set[Path]


def foresee(network: nn.Module, weights: Any, x: Any, layers: dict[Path, Layer], learned: set[Path], scored: bool) -> Foreseen:
    """Looks through the network's jaxpr.

    Args:
      layers: Dense layers that learn; learned: names of all weights that do, as they are read.
      scored: whether outputs are given, so that what is paid may be late.
    """
    flat = traverse_util.flatten_dict(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights))
    dtype = next(iter(flat.values())).dtype
    outs = {path: jax.ShapeDtypeStruct((*la.heads, la.taps, la.outputs), dtype) for path, la in layers.items()}

    def trace(flat, outs, x):
        return inputs_of(network, traverse_util.unflatten_dict(flat), outs, layers, x)

    closed, shapes = jax.make_jaxpr(trace, return_shape=True)(flat, outs, x)
    names = [*(("weight", name) for name in sorted(flat)), *(("out", path) for path in sorted(outs))]
    depends = {var: frozenset([name]) for var, name in zip(closed.jaxpr.invars, names)}

    def on(var: Any) -> frozenset:
        return frozenset() if isinstance(var, Literal) else depends.get(var, frozenset())

    for equation in closed.jaxpr.eqns:  # of an equation with a function in it, all depends on all
        of_inputs = frozenset().union(*map(on, equation.invars))
        depends |= {var: of_inputs for var in equation.outvars}
    prediction, inputs = jax.tree.unflatten(jax.tree.structure(shapes), map(on, closed.jaxpr.outvars))
    changes = {("out", path) for path in layers} | {("weight", name) for name in learned}
    known = {path for path, tap in inputs.items() if not tap & changes}
    late = scored and bool(known) and isinstance(prediction, Prediction) and all(name[:-1] in known for name in learned)
    inner = prediction.learned if late else prediction
    used = frozenset().union(*jax.tree.leaves(inner), *(inputs[path] for path in inputs.keys() - known))
    return Foreseen(known, late, {name for name in flat if known and name not in learned and ("weight", name) not in used})


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a Dense or Embed that computes nothing but the textbook's formula."""
    if type(module) is nn.Dense:
        return module.dtype is None and module.precision is None and module.dot_general is None and module.dot_general_cls is None
    return type(module) is nn.Embed and module.dtype is None


def _describe(flat: dict, path: Path, seen: list) -> Layer | None:
    module = seen[0][0]
    embed = isinstance(module, nn.Embed)
    kernel = flat.get((*path, "embedding" if embed else "kernel"))
    shapes = {shape for _, shape, _ in seen}
    if kernel is None or len(shapes) != 1:
        return None
    shape = shapes.pop()
    *heads, inputs, outputs = kernel.shape
    if outputs != module.features or inputs != (module.num_embeddings if embed else shape[-1]):
        return None  # lifted over another axis than the first
    rows = 1
    for size in shape if embed else shape[:-1]:
        rows *= size
    fresh = embed and all(of_input for *_, of_input in seen)
    return Layer("embed" if embed else "dense", inputs, outputs, tuple(heads), rows, len(seen), (*path, "bias") in flat, fresh)
