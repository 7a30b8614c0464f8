"""How the dual form is run: which layers are taken over, in which chunks, how many sequences at once."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.capture import Layer, Program, capture
from rgen.fast.costs import STEPS, Costs, even
from rgen.fast.functions import learning, learns
from rgen.fast.loop import InnerLoop
from rgen.fast.rates import dense_layers
from rgen.hardware import hardware
from rgen.sequence import Prediction, PyTree

LEARNED = Prediction._fields.index("learned")


class Purpose(NamedTuple):
    """What a run is for.

    Attributes:
      gradient: whether the score will be differentiated.
      drawn: whether outputs are drawn, so that a network's inputs are not known where it reads them.
      adapted: whether the last weights of each sequence are wanted: then no embedding is read as it was initialized.
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
      chunk, chunks: steps of a chunk, and how many chunks there are; together they may be longer than the sequences.
      part: the reverse sweep cuts chunks into parts of this length, which divides theirs.
      fold: whether the taps of finished chunks are folded into weights for each sequence.
      micro_batch: how many sequences are run at once; devices: over how many they may be spread.
      unshared: numbers of the foreseen layers whose inputs are not the same for all sequences.
    """

    loop: InnerLoop
    program: Program
    layers: tuple[Layer, ...]
    carried: tuple[int, ...]
    fixed: tuple[int, ...]
    late: bool
    chunk: int
    chunks: int
    part: int
    fold: bool
    micro_batch: int
    devices: int
    unshared: frozenset[int]

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


class Roles(NamedTuple):
    """What becomes of a network's weights.

    Attributes:
      layers: those that can be taken over.
      late: as in `Plan`.
      inside: leaves that the inner loop needs: not those that only make foreseen inputs, or what is paid if it is late.
      learned: leaves that change in it, and the change is read.
      unshared: as in `Plan`.
    """

    layers: list[Layer]
    late: bool
    inside: frozenset[int]
    learned: frozenset[int]
    unshared: frozenset[int] = frozenset()


def plan(form: Any, loop: InnerLoop, weights: PyTree, x: PyTree, batch: int | None, purpose: Purpose) -> Plan:
    """Chooses, from the lengths, the widths and the device, what costs least; see `rgen.fast.costs`.

    What is captured is the network for the K inputs of a step.

    Args:
      form: the `Dual` that may have made some of the choices.
      weights: the loop's initialization, or its shapes.
      x: inputs [B, J, K, ...] of J steps, or [1, J, K, ...] for all sequences; or their shapes.
      batch: how many sequences there are; None: as many as `x` has rows.
    """
    inputs = jax.tree.leaves(x)
    batch, length = batch or max(map(len, inputs)), int(inputs[0].shape[1])
    program = capture(loop.apply_each, weights, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], jnp.result_type(a)), x))
    unshared = frozenset(number for number, a in zip(sorted(program.inputs), inputs) if a.shape[0] == batch > 1)
    costs = Costs(form, form.hardware or hardware(), batch, length, purpose.gradient)
    usual = sort_out(loop, program, weights, frozenset(), purpose, unshared)
    choices = {False: usual, True: usual}
    if form.distinct and not purpose.adapted:
        once = frozenset(layer.leaf for layer in program.layers() if _reads_each_row_once(program, layer))
        roles = sort_out(loop, program, weights, once, purpose, unshared)
        # worth it if the inner loop then needs no such embedding; not if taps are folded, as the reverse sweep would need every chunk's
        # folded weights of the layer behind it
        if not once & roles.inside:
            choices[False] = roles
    fold = costs.folds({fold: roles.layers for fold, roles in choices.items()})
    roles = choices[fold]
    worth = costs.worth(roles.layers, fold)
    layers = [la for la in roles.layers if la in worth or not (la.learns or roles.inside.isdisjoint(la.leaves))]
    rest = roles.inside - {leaf for layer in layers for leaf in layer.leaves}
    part = even(costs.chunk(fold), STEPS)
    chunk = part * math.ceil(costs.chunk(fold) / part)
    return Plan(
        loop=loop,
        program=program,
        layers=tuple(layers),
        carried=tuple(sorted(rest & roles.learned)),
        fixed=tuple(sorted(rest - roles.learned)),
        late=roles.late,
        chunk=chunk,
        chunks=math.ceil(length / chunk),
        part=part,
        fold=fold,
        micro_batch=costs.micro_batch(layers, fold, roles.unshared),
        devices=costs.hardware.devices,
        unshared=roles.unshared,
    )


def sort_out(loop: InnerLoop, program: Program, weights: PyTree, once: frozenset[int], purpose: Purpose, unshared: frozenset[int]) -> Roles:
    """The roles of a network's weights.

    Args:
      once: embeddings of the input that are read as they were initialized.
      unshared: numbers of the inputs that are not the same for all sequences.
    """
    learning_leaves = [leaf for leaf, name in enumerate(program.names) if learns(name, loop.fast)]
    everything, learned = frozenset(range(len(program.names))), frozenset(learning_leaves) - once
    rank_one = {learning_leaves[k]: number for k, number in dense_layers(loop.rate_kind, learning(weights, loop.fast)).items()}
    # a bias belongs to a kernel that learns as it does, by rates of the same layer
    layers = program.layers([(leaf in learned, leaf in learned and rank_one.get(leaf)) for leaf in range(len(program.names))])
    found = [replace(layer, learns=layer.leaf in learned) for layer in layers]
    found = [la for la in found if not la.learns or la.leaf not in rank_one or _like_rates(la, program.avals[la.leaf].shape)]
    if learned == everything:
        return Roles(found, False, everything, learned)
    drawn = frozenset([max(program.inputs)]) if purpose.drawn and loop.reads else frozenset()  # of `WithOutputs`, the outputs
    return foresee(program, found, learned, drawn, unshared, scored=purpose.gradient and not purpose.drawn)


def foresee(
    program: Program, layers: list[Layer], learned: frozenset[int], drawn: frozenset[int], unshared: frozenset[int], scored: bool
) -> Roles:
    """What can be computed outside of the inner loop.

    The inputs of a layer that learns are foreseen if they depend on nothing that learns, and on no input that is `drawn`. What is paid is
    late if outputs are given (`scored`), the inner loop descends other logits, and only foreseen layers learn.
    """
    results = {use.result for layer in layers if layer.learns for use in layer.uses}
    depends = program.depends(cut=results)
    operands = {layer.leaf: frozenset().union(*(depends(use.operand) for use in layer.uses)) for layer in layers}

    def is_foreseen(layer: Layer) -> bool:
        forward = layer.learns and not layer.embed and not any(use.lookup or use.transposed for use in layer.uses)
        return forward and not operands[layer.leaf] & (learned | drawn | results)

    layers = [replace(layer, foreseen=is_foreseen(layer)) for layer in layers]
    foreseen = frozenset(leaf for layer in layers if layer.foreseen for leaf in layer.leaves)
    everything = frozenset(range(len(program.names)))
    if not foreseen:
        return Roles(layers, False, everything, learned)
    outs = program.closed.jaxpr.outvars
    late = scored and program.tree == jax.tree.structure(Prediction(0, 0)) and learned <= foreseen
    inner = [operands[layer.leaf] for layer in layers if layer.learns and not layer.foreseen]
    used = frozenset().union(*map(depends, [outs[LEARNED]] if late else outs), *inner)
    of_unshared = frozenset(layer.leaf for layer in layers if layer.foreseen and operands[layer.leaf] & unshared)
    return Roles(layers, late, (used & everything) | learned, learned, of_unshared)


def _like_rates(layer: Layer, shape: tuple[int, ...]) -> bool:
    """Whether a kernel's inputs and outputs are the last two axes of the array, as those of rank-one rates are."""
    last_two = tuple((len(shape) - k,) if len(shape) >= k and shape[-k] > 1 else () for k in (2, 1))
    in_order = sum(layer.axes, ()) == tuple(axis for axis, size in enumerate(shape) if size > 1)
    return not layer.embed and in_order and layer.axes[1:] == last_two


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
