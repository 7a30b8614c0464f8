"""The inner loop in dual form, for whole batches: the same numbers as `loop.Direct`, without forming the fast weights.

One step of SGD on one example changes a weight matrix by the outer product of its input and its output's cotangent. That pair, a tap, is
kept instead; what the derivative owes the weights is a list of pairs too. docs/dual_form.md tells it from the start.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from rgen.batching import ungroup_rows
from rgen.fast import derivative
from rgen.fast.derivative import by_group, foreseen_inputs, pay_late, ungroup_steps, weights_of
from rgen.fast.loop import InnerLoop, Params
from rgen.fast.functions import learning
from rgen.fast.plan import GRADIENT, Plan, Purpose, plan
from rgen.hardware import Hardware
from rgen.sequence import Sequence, Trace
from rgen.unroll import Observer, Scoring


@dataclass(frozen=True)
class Dual:
    """The dual form. Every choice gives the same numbers.

    Attributes:
      distinct: a promise that no input comes twice in a sequence, as in lines and pictures: checked where values can be seen. An
        embedding of the input is then read as it was initialized, and what a layer behind it will see is known beforehand, which is worth
        1.3 times the speed of MAML with the original's text model.

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

    def plan(self, loop: InnerLoop, weights: Any, x: Any, batch: int | None = None, purpose: Purpose = GRADIENT) -> Plan:
        """What is taken over of a network, and how it is run; see `rgen.fast.plan.plan`."""
        return plan(self, loop, weights, x, batch, purpose)

    def score(self, loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
        return score(self.plan(loop, params.init, seqs.x, len(seqs.y)), loop, params, seqs)

    def unroll(self, loop: InnerLoop, params: Params, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
        batch, length = steps.weight.shape
        purpose = Purpose(gradient=False, drawn=not isinstance(observer, Scoring), adapted=adapted)
        plan = self.plan(loop, params.init, steps.x, batch, purpose)
        run = partial(derivative.adapt, plan, weights_of(plan, loop, params), observer)
        last, trace = by_group(plan, params, run, steps)
        trace = jax.tree.map(lambda a: ungroup_steps(plan, a, batch, length), trace)
        if not adapted:
            return None, trace
        last = ungroup_rows(last, batch, plan.devices)
        leaves, tree = jax.tree.flatten(params.init)
        whole = jax.tree.unflatten(tree, [last.get(i, leaf) for i, leaf in enumerate(leaves)])
        return learning(whole, loop.fast), trace


def score(plan: Plan, loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    """Nats [B, T], differentiable once, by a plan that was made for such sequences, or for more of them."""
    weights = weights_of(plan, loop, params)

    def of_group(inputs, steps):
        found: Any = derivative.score(plan, weights, inputs, steps)
        return pay_late(plan, params, found, steps) if plan.late else found

    return ungroup_steps(plan, by_group(plan, params, of_group, seqs), *seqs.y.shape)


def drift(plan: Plan, loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
    """(the initialization minus the mean of the final weights, nats [B, T]), where all weights learn.

    An embedding that is read as it was initialized moves by its rate times the sum of its gradients.
    """
    weights, rates = weights_of(plan, loop, params), jax.tree.leaves(loop.rates(params))

    def of_group(inputs, steps):
        lost, gradients, to_inputs, nats = derivative.drift(plan, weights, inputs, steps)
        (behind,) = jax.vjp(lambda init: foreseen_inputs(plan, init, steps.x), params.init)[1](to_inputs)
        for leaf, gradient in enumerate(jax.tree.leaves(behind)):
            if leaf not in lost:
                lost[leaf] = rates[leaf] * (gradient + gradients.get(leaf, 0))
        return lost, nats

    lost, nats = by_group(plan, params, of_group, seqs)
    mean = [lost[leaf].sum(0) / len(seqs.y) for leaf in range(len(rates))]
    return jax.tree.unflatten(jax.tree.structure(params.init), mean), ungroup_steps(plan, nats, *seqs.y.shape)
