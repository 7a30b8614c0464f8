"""The inner loop in dual form, for whole batches: the same numbers as `loop.Direct`, without forming the fast weights.

One step of SGD on one example changes a weight matrix by the outer product of its input and its output's cotangent. That pair, a tap, is
kept instead; what the derivative owes the weights is a list of pairs too. docs/dual_form.md tells it from the start.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from rgen.batching import ungroup_rows
from rgen.choices import PRECISIONS
from rgen.fast import batches
from rgen.fast.batches import by_group, known_inputs, outputs, pay_late, prepare
from rgen.fast.loop import InnerLoop, Params
from rgen.fast.network import learning
from rgen.fast.plan import GRADIENT, Plan, Purpose, plan
from rgen.hardware import Hardware
from rgen.sequence import Sequence, Trace
from rgen.unroll import Observer, Scoring


@dataclass(frozen=True)
class Dual:
    """The dual form. Fields that are None are left to the cost model; every choice gives the same numbers.

    Attributes:
      chunk: steps of a chunk.
      fold: whether the taps of finished chunks are folded into weights.
      micro_batch: how many sequences are run at once.
      precision: "float32", as exact as the parameters are; or "bfloat16": taps are kept and products taken in bfloat16, and summed up in
        float32.
      distinct: a promise that no input comes twice in a sequence, as in lines and pictures. An embedding of the input is then read as it
        was initialized, and what a layer behind it will see is known beforehand.
      every_layer: take over all that can be, also where carrying weights costs less.
      hardware: the devices that the cost model is asked about; None: those that are there.
    Raises:
      ValueError: another precision.
    """

    chunk: int | None = None
    fold: bool | None = None
    micro_batch: int | None = None
    precision: str = "float32"
    distinct: bool = False
    every_layer: bool = False
    hardware: Hardware | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"The precision is '{self.precision}'; it must be {' or '.join(map(repr, PRECISIONS))}.")
        for name, value in (("chunk", self.chunk), ("micro_batch", self.micro_batch)):
            if value is not None and value < 1:
                raise ValueError(f"The dual form's {name} is {value}; it must be at least 1, or None to leave it to the cost model.")

    def plan(self, loop: InnerLoop, weights: Any, x: Any, batch: int | None = None, purpose: Purpose = GRADIENT) -> Plan:
        """What is taken over of a network, and how it is run; see `rgen.fast.plan.plan`."""
        return plan(loop, weights, x, batch, purpose)

    def score(self, loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
        plan, weights = prepare(loop, params, seqs, GRADIENT)

        def of_group(inputs, steps):
            found: Any = batches.score(plan, weights, inputs, steps)
            return pay_late(plan, params, found, steps) if plan.late else found

        return outputs(plan, by_group(plan, params, of_group, seqs), *seqs.y.shape)

    def unroll(self, loop: InnerLoop, params: Params, observer: Observer, steps: Any, adapted: bool) -> tuple[Any, Trace]:
        purpose = Purpose(gradient=False, drawn=not isinstance(observer, Scoring), adapted=adapted)
        plan, weights = prepare(loop, params, steps, purpose)
        fast, trace = by_group(plan, params, partial(batches.adapt, plan, weights, observer), steps)
        trace = jax.tree.map(lambda a: outputs(plan, a, *steps.weight.shape), trace)
        if not adapted:
            return None, trace
        fast = ungroup_rows(fast, steps.weight.shape[0], plan.devices)
        init = jax.tree.leaves(params.init)
        whole = jax.tree.unflatten(jax.tree.structure(params.init), [fast.get(i, leaf) for i, leaf in enumerate(init)])
        return learning(whole, loop.fast), trace

    def drift(self, loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
        """An embedding that is read as it was initialized moves by its rate times the sum of its gradients."""
        plan, weights = prepare(loop, params, seqs, Purpose(gradient=False))
        rates = jax.tree.leaves(loop.rates(params))

        def of_group(inputs, steps):
            moved, owed, pulled, nats = batches.drift(plan, weights, inputs, steps)
            (behind,) = jax.vjp(lambda init: known_inputs(plan, init, steps.x), params.init)[1](pulled)
            behind = dict(enumerate(jax.tree.leaves(behind)))
            once = {i: rates[i] * (g + owed.get(i, 0)) for i, g in behind.items() if i not in moved}
            return moved | once, nats

        moved, nats = by_group(plan, params, of_group, seqs)
        mean = [moved[i].sum(0) / seqs.y.shape[0] for i in range(len(rates))]
        return jax.tree.unflatten(jax.tree.structure(params.init), mean), outputs(plan, nats, *seqs.y.shape)
