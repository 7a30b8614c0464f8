"""The inner loop in dual form, for whole batches: the same numbers as `loop.Direct`, without forming the fast weights.

One step of SGD on one example changes a weight matrix by the outer product of its input and its output's cotangent. That pair, a tap, is
kept instead; what the derivative owes the weights is a list of pairs too. docs/dual_form.md tells it from the start.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rgen.batching import ungroup_rows
from rgen.fast import derivative
from rgen.fast.forward import run
from rgen.fast.functions import learning
from rgen.fast.loop import Direct, InnerLoop, Params
from rgen.fast.memory import Memory, change, stacked
from rgen.fast.past import folded
from rgen.fast.plan import GRADIENT, Plan, Purpose, plan
from rgen.fast.rates import rate_matrix
from rgen.hardware import Hardware
from rgen.sequence import PyTree, Sequence, Trace
from rgen.unroll import Observer, Scoring, in_turn


@dataclass(frozen=True)
class Dual:
    """The dual form. Every choice gives the same numbers.

    Attributes:
      distinct: a promise that no input comes twice in a sequence, as in lines and pictures; checked where values can be seen. If only
        layers read the embedding of the input, their inputs are then foreseen: 1.3 times the speed of MAML with the original's text
        model.

    Other arguments, which you should not need, are left to a cost model where they are None:
      chunk: steps of a chunk.
      fold: whether the taps of finished chunks are folded into weights.
      micro_batch: how many sequences are run at once.
      every_layer: take over all that can be, also where carrying weights costs less.
      hardware: the devices to plan for; None: those that are there.
    Raises:
      ValueError: a size is below 1.
    """

    chunk: int | None = None
    fold: bool | None = None
    micro_batch: int | None = None
    distinct: bool = False
    every_layer: bool = False
    hardware: Hardware | None = None

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("micro_batch", self.micro_batch)):
            if value is not None and value < 1:
                raise ValueError(f"The dual form's {name} is {value}; it must be at least 1, or None to leave it to the cost model.")

    def plan(self, loop: InnerLoop, weights: PyTree, x: PyTree, batch: int | None = None, purpose: Purpose = GRADIENT) -> Plan:
        """What is taken over of a network, and how it is run.

        Args:
          weights, x: the loop's initialization and inputs [B, T, ...], or [1, T, ...] for all sequences; or their shapes.
          batch: how many sequences there are; None: as many as `x` has rows.
        """
        of_batch = jax.ShapeDtypeStruct((batch or x.shape[0], x.shape[1]), jnp.int32)
        steps = jax.eval_shape(loop.steps, Sequence(jax.ShapeDtypeStruct(x.shape, jnp.result_type(x)), of_batch, of_batch))
        return plan(self, loop, weights, steps.x, batch, purpose)

    def score(self, loop: InnerLoop, params: Params, steps: Sequence) -> jax.Array:
        return score(plan(self, loop, params.init, steps.x, len(steps.y), GRADIENT), params, steps)

    def unroll(self, loop: InnerLoop, params: Params, observer: Observer, steps: PyTree, adapted: bool) -> tuple[PyTree, Trace]:
        if in_turn(observer, steps):  # by the fast weights, which the direct form has at hand
            return Direct().unroll(loop, params, observer, steps, adapted)
        batch, length = steps.weight.shape[:2]
        purpose = Purpose(gradient=False, drawn=not isinstance(observer, Scoring), adapted=adapted)
        made = plan(self, loop, params.init, steps.x, batch, purpose)
        weights = derivative.weights_of(made, params)

        def one(inputs, steps):
            done = run(made, weights, observer, inputs, steps)
            last = dict(done.carried)
            for leaf, layer in made.learning.items() if adapted else ():
                last |= made.program.arrays(layer, *folded(done.memories[leaf]).kernel)
            return last, done.trace

        last, trace = derivative.by_group(made, params, partial(derivative.map_sequences, made, one), steps)
        trace = jax.tree.map(lambda a: derivative.ungroup_steps(made, a, batch, length), trace)
        if not adapted:
            return None, trace
        last = ungroup_rows(last, batch, made.devices)
        leaves, tree = jax.tree.flatten(params.init)
        whole = jax.tree.unflatten(tree, [last.get(i, leaf) for i, leaf in enumerate(leaves)])
        return learning(whole, loop.fast), trace


def score(plan: Plan, params: Params, seqs: Sequence) -> jax.Array:
    """Nats [B, J, K], differentiable once, by a plan that was made for such sequences, or for more of them."""
    weights = derivative.weights_of(plan, params)

    def of_group(inputs, steps):
        found: Any = derivative.score(plan, weights, inputs, steps)
        return derivative.pay_late(plan, params, found, steps) if plan.late else found

    return derivative.ungroup_steps(plan, derivative.by_group(plan, params, of_group, seqs), *seqs.y.shape[:2])


def drift(plan: Plan, params: Params, seqs: Sequence) -> tuple[PyTree, jax.Array]:
    """(the initialization minus the mean of the final weights, nats [B, T]), where all weights learn. No final weights are formed.

    An embedding that is read as it was initialized moves by its rate times its gradient.
    """
    weights, rates = derivative.weights_of(plan, params), jax.tree.leaves(plan.loop.rates(params))
    constant = replace(plan, loop=replace(plan.loop, first_order=True))  # the inner loop's own gradients: with the taps as constants

    def one(inputs, seq):
        done = run(plan, weights, Scoring(), inputs, seq)
        return jax.tree.map(jnp.subtract, weights.carried, done.carried), done.chunks.taps, done.trace.nll

    def of_group(inputs, steps):
        def of_inputs(init):
            shared, unshared = (derivative.foreseen_inputs(plan, init, steps, shared) for shared in (True, False))
            return shared | unshared

        lost, chunks, nats = derivative.map_sequences(plan, one, inputs, steps)
        lost, to_inputs = jax.tree.map(lambda a: a.sum(0), lost), {}
        for leaf, layer in plan.learning.items():
            by = weights.kernels[leaf], weights.factors[leaf]
            if layer.foreseen:
                g_BxHxSxN = derivative.all_taps(chunks[leaf].g)
                gradient, _, to_inputs[leaf] = derivative.reread_vjp(constant, layer, (*by, inputs[leaf]), g_BxHxSxN, g_BxHxSxN)
                matrix = rate_matrix(weights.factors[leaf]) * stacked(gradient)
            else:
                matrix = change(Memory(*by), jax.tree.map(derivative.flat, chunks[leaf]))
            lost |= plan.program.arrays(layer, matrix)
        (behind,) = jax.vjp(of_inputs, params.init)[1](to_inputs)
        once = {leaf: rates[leaf] * gradient for leaf, gradient in enumerate(jax.tree.leaves(behind))}
        return once | lost, nats

    lost, nats = derivative.by_group(plan, params, of_group, seqs)
    mean = [lost[leaf].sum(0) / len(seqs.y) for leaf in range(len(rates))]
    return jax.tree.unflatten(jax.tree.structure(params.init), mean), derivative.ungroup_steps(plan, nats, *seqs.y.shape[:2])
