"""The least work of a meta-gradient, against counting by hand."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from rgen.fast import Dual, InnerLoop
from rgen.likelihood import Categorical
from rgen.sequence import Sequence
from rgen.timing import limits

# (operations of a step, numbers it reads and writes) of one Dense layer of 6 weights, whose tap has 5 numbers; 2 sequences of 4 steps
HAND = {
    ("direct", "reptile", None): (36, 18),  # 6 and 3 of each weight
    ("direct", "maml", None): (144, 72),  # four times that
    ("dual", "maml", False): (152, 52),  # 4 of each weight, and 2 of 4 taps, once more in reverse; the gradient 24; 4 taps, 6 weights
    ("foreseen", "reptile", False): (36, 12),  # of the taps only the 3 cotangents
}


@pytest.mark.parametrize(("form", "algorithm", "fold"), HAND)
def test_least_work_by_hand(form, algorithm, fold):
    network = nn.Sequential((nn.Embed(4, 2), nn.Dense(3)))
    dual = Dual(fold=fold, every_layer=True)
    how = {"direct": {"form": "direct"}, "dual": {"form": dual}, "foreseen": {"form": dual, "fast": ("layers_1",)}}[form]
    loop = InnerLoop(network, Categorical(), **how)
    x = np.zeros((2, 4), int)
    work = limits.least_work(loop, algorithm, loop.init(jax.random.key(0), x[0, 0]), Sequence(x, x, np.ones(x.shape)))
    flops, numbers = HAND[form, algorithm, fold]
    assert work == (2 * 4 * flops, 4 * 2 * 4 * numbers)


def test_what_does_not_learn_is_read_once_for_all_sequences():
    network = nn.Sequential((nn.Embed(4, 2), nn.Dense(3)))
    x = np.zeros((2, 4), int)
    for form in ("direct", "dual"):
        loop = InnerLoop(network, Categorical(), fast=("layers_0",), form=form)
        work = limits.least_work(loop, "first-order-maml", loop.init(jax.random.key(0), x[0, 0]), Sequence(x, x, np.ones(x.shape)))
        assert work == (2 * 4 * 4 * 6, 4 * 2 * 4 * 2 * 6 / 2)


def test_a_limit_is_the_larger_of_both_times():
    limit = limits.Limits(flops=100.0, bytes=10.0)
    assert limit.seconds(limits.Work(200, 10)) == 2
    assert limit.seconds(limits.Work(200, 50)) == 5


def test_what_is_measured_is_positive():
    assert min(limits.measure(side=64, megabytes=1)) > 0
