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
      own: numbers of the foreseen layers whose inputs are not the same for all sequences.
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
    own: frozenset[int]

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
      own: of the foreseen layers, those whose inputs depend on what a sequence does not share with the others.
    """

    learning: dict[int, Layer]
    static: dict[int, Layer]
    late: bool
    inside: frozenset[int]
    learned: frozenset[int]
    own: frozenset[int] = frozenset()


def plan(form: Any, loop: InnerLoop, weights: Any, x: Any, batch: int | None, purpose: Purpose) -> Plan:
    """Chooses, from T, B, the widths and the device, what costs least; see `rgen.fast.costs`.

    Args:
      form: the `Dual` that may have made some of the choices.
      weights: the loop's initialization, or its shapes.
      x: inputs [B, J, K, ...] of steps, arrays [1, J, K, ...] for all sequences among them; or their shapes.
      batch: how many sequences there are; None: as many as `x` has rows.
    """
    inputs = jax.tree.leaves(x)
    batch, length = batch or max(map(len, inputs)), int(inputs[0].shape[1])
    program = capture(loop.apply_each, weights, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], jnp.result_type(a)), x))
    own = frozenset(number for number, a in zip(sorted(program.inputs), inputs) if len(a) == batch > 1)
    costs = Costs(form, form.hardware or hardware(), batch, length, purpose.gradient)
    once: frozenset[int] = frozenset()
    if form.distinct and not purpose.adapted:
        once = frozenset(layer.leaf for layer in program.layers if _reads_each_row_once(program, layer))
    # behind an embedding that is read once stands a layer as wide as any: foreseen and folded, the reverse sweep would need its weights
    # of every chunk, so that there the embedding learns as any other; for simplicity also where no reverse sweep follows
    choices = {fold: sort_out(loop, program, weights, frozenset() if fold else once, purpose, own) for fold in (False, True)}
    fold = costs.folds({fold: roles.learning for fold, roles in choices.items()})
    roles = choices[fold]
    layers = costs.worth(roles.learning, fold) + [la for la in roles.static.values() if not roles.inside.isdisjoint(la.leaves)]
    rest = roles.inside - {leaf for layer in layers for leaf in layer.leaves}
    part = even(costs.chunk(fold), STEPS)
    chunk = part * math.ceil(costs.chunk(fold) / part)
    return Plan(
        program=program,
        likelihood=loop.likelihood,
        layers=tuple(sorted(layers, key=lambda layer: layer.leaf)),
        carried=tuple(sorted(rest & roles.learned)),
        fixed=tuple(sorted(rest - roles.learned)),
        late=roles.late,
        learned_rates=loop.rate_kind != "fixed",
        first_order=loop.first_order,
        chunk=chunk,
        chunks=math.ceil(length / chunk),
        part=part,
        fold=fold,
        micro_batch=costs.micro_batch(costs.state(layers, fold, roles.own), fold),
        devices=costs.hardware.devices,
        own=roles.own,
    )


def sort_out(
    loop: InnerLoop, program: Program, weights: Any, once: frozenset[int], purpose: Purpose, own: frozenset[int]
) -> Roles:
    """The roles of a network's weights.

    Args:
      once: embeddings of the network's input that are read as they were initialized.
      own: numbers of the inputs that are not the same for all sequences.
    """
    everything = frozenset(range(len(program.names)))
    learned = frozenset(leaf for leaf in everything if learns(program.names[leaf], loop.fast)) - once
    layers = _with_one_role(program, learned, _rank_one(loop, program, weights))
    learning_layers = {layer.leaf: layer for layer in layers if layer.learns}
    static = {layer.leaf: layer for layer in layers if not layer.learns}
    if learned == everything:
        return Roles(learning_layers, static, False, everything, learned)
    drawn = frozenset([max(program.inputs)]) if purpose.drawn and loop.reads else frozenset()  # earlier outputs come last
    roles = foresee(program, learning_layers, static, learned, drawn, scored=purpose.gradient and not purpose.drawn)
    depends = program.depends()
    of = {leaf: frozenset().union(*(depends(use.operand) for use in la.uses)) for leaf, la in roles.learning.items() if la.foreseen}
    return replace(roles, own=frozenset(leaf for leaf, inputs in of.items() if inputs & own))


def foresee(
    program: Program, layers: dict[int, Layer], static: dict[int, Layer], learned: frozenset[int], drawn: frozenset[int], scored: bool
) -> Roles:
    """What can be known of a network outside of the inner loop.

    The inputs of a layer that learns are foreseen if nothing that learns, and no input that is `drawn`, can change them. What is paid may be late if outputs are given
    (`scored`), the inner loop descends other logits, and it depends on nothing that learns but the outputs of foreseen layers.
    """
    results = {use.result: layer.leaf for layer in layers.values() for use in layer.uses}
    depends = program.depends(cut=results.keys())
    operands = {leaf: frozenset().union(*(depends(use.operand) for use in layer.uses)) for leaf, layer in layers.items()}

    def is_foreseen(layer: Layer) -> bool:
        forward = not layer.embed and all(use.way == "forward" for use in layer.uses)
        return forward and not operands[layer.leaf] & (learned | drawn | results.keys())

    marked = {leaf: replace(layer, foreseen=is_foreseen(layer)) for leaf, layer in layers.items()}
    foreseen = {leaf for leaf, layer in marked.items() if layer.foreseen}
    outs = program.closed.jaxpr.outvars
    predicts = program.tree == jax.tree.structure(Prediction(0, 0))
    late = scored and bool(foreseen) and predicts and learned <= {leaf for k in foreseen for leaf in layers[k].leaves}
    if late:
        outs = [outs[Prediction._fields.index("learned")]]
    used = frozenset().union(*map(depends, outs), *(operands[leaf] for leaf in layers.keys() - foreseen))
    everything = frozenset(range(len(program.names)))
    return Roles(marked, static, late, (used & everything) | learned if foreseen else everything, learned)


def _with_one_role(program: Program, learned: frozenset[int], dense: dict[int, int]) -> list[Layer]:
    """The layers all of whose weights learn, or none, with rates that suit; biases that do not are left to the network.

    Args:
      dense: number of a leaf -> number of the Dense layer by which it has rank-one rates.
    """
    found = []
    for layer in program.layers:
        roles = {(leaf in learned, dense.get(leaf) if leaf in learned else None) for leaf in layer.leaves}
        if len(roles) > 1:
            layer = without_bias(program, layer)
        layer = replace(layer, learns=layer.leaf in learned)
        if not layer.learns or layer.leaf not in dense or _like_rates(layer, program.avals[layer.leaf].shape):
            found.append(layer)
    return found


def _like_rates(layer: Layer, shape: tuple[int, ...]) -> bool:
    """Whether a kernel's inputs and outputs are the last two axes of the array, as those of rank-one rates are."""
    last_two = tuple((len(shape) - k,) if len(shape) >= k and shape[-k] > 1 else () for k in (2, 1))
    in_order = sum(layer.axes, ()) == tuple(axis for axis, size in enumerate(shape) if size > 1)
    return not layer.embed and in_order and layer.axes[1:] == last_two


def _rank_one(loop: InnerLoop, program: Program, weights: Any) -> dict[int, int]:
    """Number of a leaf -> number of the Dense layer by which it has rank-one rates."""
    numbers = [i for i, name in enumerate(program.names) if learns(name, loop.fast)]
    return {numbers[leaf]: layer for leaf, layer in dense_layers(loop.rate_kind, learning(weights, loop.fast)).items()}


def _reads_each_row_once(program: Program, layer: Layer) -> bool:
    """Whether an embedding is of the network's input itself, a number: where no input comes twice, no row does."""
    jaxpr: Any = program.closed.jaxpr
    x = jaxpr.invars[-1].aval
    if not layer.embed or len(layer.uses) != 1 or x.shape != (1,) or not jnp.issubdtype(x.dtype, jnp.integer):
        return False
    operand = layer.uses[0].operand
    if len(program.inputs) > 1 or program.depends()(operand) != program.inputs:
        return False
    with jax.ensure_compile_time_eval():
        rows = jnp.arange(layer.inputs, dtype=x.dtype)
        asked = jax.vmap(lambda x: program.evaluate({}, x[None], [operand], {})[0].reshape(-1))(rows)
        return bool((asked == rows[:, None]).all())
