"""How the dual form is run: which layers are taken over, in which chunks, how many sequences at once."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer, Program, capture, without_bias
from rgen.fast.costs import STEPS, Costs, even
from rgen.fast.loop import InnerLoop
from rgen.fast.network import learning, learns
from rgen.fast.rates import dense_layers
from rgen.hardware import hardware
from rgen.likelihood import Likelihood
from rgen.sequence import Prediction


class Purpose(NamedTuple):
    """What a run is for.

    Attributes:
      gradient: whether the score will be differentiated.
      drawn: whether outputs are drawn, so that a network's inputs are not known where it reads them.
      adapted: whether the weights after the last step are wanted, of each sequence: then no embedding is read as it was initialized.
    """

    gradient: bool = True
    drawn: bool = False
    adapted: bool = False


GRADIENT = Purpose()


@dataclass(frozen=True, eq=False)
class Plan:
    """The static side of the dual form.

    Attributes:
      layers: those taken over, those that do not learn among them.
      carried: numbers of the leaves that learn and are not taken over: ordinary fast weights.
      fixed: of those that do not learn, and are not taken over, but are used in the inner loop.
      late: whether what is paid is computed after the inner loop, from the outputs of foreseen layers.
      learned_rates: whether there is anything to differentiate in the rates.
      chunk, chunks: steps of a chunk, and how many chunks there are; together they may be longer than the sequences.
      part: the reverse sweep cuts chunks into parts of this length, which divides theirs.
      fold: whether the taps of finished chunks are folded into weights for each sequence.
      micro_batch: how many sequences are run at once; devices: over how many they may be spread.
      shared: whether all sequences have the same inputs x.
    """

    program: Program
    likelihood: Likelihood
    layers: tuple[Layer, ...]
    carried: tuple[int, ...]
    fixed: tuple[int, ...]
    late: bool
    learned_rates: bool
    first_order: bool
    chunk: int
    chunks: int
    part: int
    fold: bool
    micro_batch: int
    devices: int
    shared: bool

    @cached_property
    def learning(self) -> dict[int, Layer]:
        """Number of a leaf -> layer, of those that change in the inner loop."""
        return {layer.leaf: layer for layer in self.layers if layer.learns}

    @cached_property
    def static(self) -> dict[int, Layer]:
        """The others."""
        return {layer.leaf: layer for layer in self.layers if not layer.learns}

    @cached_property
    def foreseen(self) -> dict[int, Layer]:
        """Of the learning ones, those whose inputs are known before the inner loop begins."""
        return {layer.leaf: layer for layer in self.layers if layer.foreseen}

    @property
    def length(self) -> int:
        return self.chunk * self.chunks

    @property
    def taken(self) -> frozenset[str]:
        """The paths of the weights that are taken over."""
        return frozenset(self.program.names[leaf] for layer in self.layers for leaf in layer.leaves)

    @property
    def outputs(self) -> list:
        """Variables of what the network returns, as far as the inner loop needs it."""
        outs = self.program.closed.jaxpr.outvars
        return [outs[Prediction._fields.index("learned")]] if self.late else outs


@dataclass(frozen=True)
class Roles:
    """What becomes of a network's weights, by the numbers of their leaves.

    Attributes:
      learning, static: the layers that can be taken over.
      late: as in `Plan`.
      inside: the leaves that the inner loop needs: not those that only make foreseen inputs, or what is paid if it is late.
      learned: those that change in it, and the change is read.
    """

    learning: dict[int, Layer]
    static: dict[int, Layer]
    late: bool
    inside: frozenset[int]
    learned: frozenset[int]


def plan(form: Any, loop: InnerLoop, weights: Any, x: Any, batch: int | None, purpose: Purpose) -> Plan:
    """Chooses, from T, B, the widths and the device, what costs least; see `rgen.fast.costs`.

    Args:
      form: the `Dual` that may have made some of the choices.
      weights: the loop's initialization, or its shapes.
      x: [B, T, ...] inputs, or [1, T, ...] for all sequences; or their shapes.
      batch: how many sequences there are; None: as many as `x` has rows.
    """
    rows, length = int(x.shape[0]), int(x.shape[1])
    batch = batch or rows
    program = capture(loop.apply, weights, jax.ShapeDtypeStruct(x.shape[2:], jnp.result_type(x)))
    once = frozenset(la.leaf for la in program.layers if _fresh(program, la)) if form.distinct and not purpose.adapted else frozenset()
    # behind an embedding that is read once stands a layer as wide as any: foreseen and folded, the reverse sweep would need its weights of
    # every chunk, so that there the embedding learns as any other; for simplicity also where no reverse sweep follows
    kept = sort_out(loop, program, weights, once, purpose)
    roles = {False: kept, True: sort_out(loop, program, weights, frozenset(), purpose) if once else kept}
    there = form.hardware or hardware()
    costs = Costs(form, there, batch, length, purpose.gradient)
    fold = costs.folds({fold: role.learning for fold, role in roles.items()})
    role, taken = roles[fold], costs.worth(roles[fold].learning, fold)
    layers = tuple(taken.values()) + tuple(la for la in role.static.values() if not role.inside.isdisjoint(la.leaves))
    rest = role.inside - {leaf for la in layers for leaf in la.leaves}
    part = even(costs.chunk(fold), STEPS)
    chunk = part * math.ceil(costs.chunk(fold) / part)
    return Plan(
        program,
        loop.likelihood,
        tuple(sorted(layers, key=lambda layer: layer.leaf)),
        tuple(sorted(rest & role.learned)),
        tuple(sorted(rest - role.learned)),
        role.late,
        loop.rate_kind != "fixed",
        loop.first_order,
        chunk,
        math.ceil(length / chunk),
        part,
        fold,
        costs.micro_batch(costs.state(layers, fold, own=rows == batch), fold),
        there.devices,
        rows < batch,
    )


def sort_out(loop: InnerLoop, program: Program, weights: Any, once: frozenset[int], purpose: Purpose) -> Roles:
    """The roles of a network's weights; `once`: embeddings of the network's input that are read as they were initialized."""
    learned = frozenset(i for i, name in enumerate(program.names) if learns(name, loop.fast)) - once
    layers = {layer.leaf: layer for layer in _with_one_role(program, learned, _rank_one(loop, program, weights))}
    found = {leaf: layer for leaf, layer in layers.items() if layer.learns}
    static = {leaf: layer for leaf, layer in layers.items() if not layer.learns}
    everything = frozenset(range(len(program.names)))
    if learned == everything or (purpose.drawn and loop.context):
        return Roles(found, static, False, everything, learned)
    known, late, inside = foresee(program, found, learned, scored=purpose.gradient and not purpose.drawn)
    found |= {leaf: replace(found[leaf], foreseen=True) for leaf in known}
    return Roles(found, static, late, inside, learned)


def foresee(program: Program, layers: dict[int, Layer], learned: frozenset[int], scored: bool) -> tuple[set[int], bool, frozenset[int]]:
    """What can be known of a network outside of the inner loop.

    Args:
      layers: those that learn; learned: numbers of all leaves that do, as they are read.
      scored: whether outputs are given, so that what is paid may be late.
    Returns:
      (leaves of the layers whose inputs nothing that learns can change; whether what is paid need not be known in the inner loop, which
      descends other logits, and depends on nothing that learns but the outputs of these layers; leaves that the inner loop needs).
    """
    results = {use.result: layer.leaf for layer in layers.values() for use in layer.uses}
    depends = program.depends(cut=results.keys())
    operands = {leaf: frozenset().union(*(depends(use.operand) for use in layer.uses)) for leaf, layer in layers.items()}
    dense = {leaf for leaf, layer in layers.items() if not layer.embed and all(use.way == "forward" for use in layer.uses)}
    known = {leaf for leaf in dense if not operands[leaf] & (learned | results.keys())}
    outs = program.closed.jaxpr.outvars
    predicts = program.tree == jax.tree.structure(Prediction(0, 0))
    of_known = {leaf for known_leaf in known for leaf in layers[known_leaf].leaves}
    late = scored and bool(known) and predicts and learned <= of_known
    inner = [depends(var) for var in ([outs[Prediction._fields.index("learned")]] if late else outs)]
    used = frozenset().union(*inner, *(operands[leaf] for leaf in layers.keys() - known))
    return known, late, frozenset(leaf for leaf in range(len(program.names)) if not known or leaf in learned or leaf in used)


def _with_one_role(program: Program, learned: frozenset[int], groups: dict[int, int]) -> list[Layer]:
    """The layers all of whose weights learn, or none, with rates that suit; biases that do not are left to the network."""
    found = []
    for layer in program.layers:
        both = {(leaf in learned, groups.get(leaf) if leaf in learned else None) for leaf in layer.leaves}
        layer = layer if len(both) == 1 else without_bias(program, layer)
        axes = [a for a, size in enumerate(program.avals[layer.leaf].shape) if size > 1]
        as_rates = not layer.embed and sum(layer.axes, ()) == tuple(axes) and _last_two(program.avals[layer.leaf].shape) == layer.axes[1:]
        if layer.leaf not in learned or groups.get(layer.leaf) is None or as_rates:
            found.append(replace(layer, learns=layer.leaf in learned))
    return found


def _last_two(shape: tuple[int, ...]) -> tuple:
    return tuple((len(shape) - k,) if len(shape) >= k and shape[-k] > 1 else () for k in (2, 1))


def _rank_one(loop: InnerLoop, program: Program, weights: Any) -> dict[int, int]:
    """Number of a leaf -> number of the Dense layer by which it has rank-one rates."""
    numbers = [i for i, name in enumerate(program.names) if learns(name, loop.fast)]
    return {numbers[leaf]: layer for leaf, layer in dense_layers(loop.rate_kind, learning(weights, loop.fast)).items()}


def _fresh(program: Program, layer: Layer) -> bool:
    """Whether an embedding is of the network's input itself, a number: where no input comes twice, each row is read at most once."""
    jaxpr: Any = program.closed.jaxpr
    x = jaxpr.invars[-1].aval
    if not layer.embed or len(layer.uses) != 1 or len(x.shape) or not jnp.issubdtype(x.dtype, jnp.integer):
        return False
    use = layer.uses[-1]
    if program.depends()(use.operand) != {"x"}:
        return False
    with jax.ensure_compile_time_eval():
        rows = jnp.arange(layer.inputs, dtype=x.dtype)
        asked = jax.vmap(lambda x: program.evaluate({}, x, [use.operand], {})[0].reshape(-1))(rows)
        return bool((asked == rows[:, None]).all())
