"""Inner rates: what the three kinds expand to, against rates written out weight by weight."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from rgen.choices import RATE_KINDS
from rgen.fast.rates import expand_rates, init_rates

# A Dense layer, one without a bias, two heads of 3 by 4, a LayerNorm, and an array of its own
WEIGHTS = {
    "dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    "free": {"kernel": jnp.ones((2, 5))},
    "heads": {"memory": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}},
    "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
    "state": jnp.ones(6),
}


@pytest.mark.parametrize("kind", RATE_KINDS)
def test_all_rates_begin_at_the_rate_given(kind):
    rates = expand_rates(kind, init_rates(kind, WEIGHTS, 0.02), WEIGHTS)
    assert jax.tree.structure(rates) == jax.tree.structure(WEIGHTS)
    for weight, rate in zip(jax.tree.leaves(WEIGHTS), jax.tree.leaves(rates)):
        assert jnp.broadcast_shapes(rate.shape, weight.shape) == weight.shape
        np.testing.assert_allclose(rate, 0.02, rtol=1e-12)


@pytest.mark.parametrize("kind", ["per-array", "rank-one"])
def test_learned_rates_stay_positive_whatever_the_outer_optimizer_does(kind):
    rates = init_rates(kind, WEIGHTS, 0.02)
    moved = jax.tree.map(lambda a: a - 100.0, rates)
    expanded = expand_rates(kind, moved, WEIGHTS)
    assert all((rate > 0).all() for rate in jax.tree.leaves(expanded))
    # and each is learned: the derivative of a rate in its own logarithm is the rate
    gradient = jax.grad(lambda rates: sum(rate.sum() for rate in jax.tree.leaves(expand_rates(kind, rates, WEIGHTS))))(rates)
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_fixed_rate_is_not_learned():
    rates = init_rates("fixed", WEIGHTS, 0.02)
    gradient = jax.grad(lambda rates: sum(rate.sum() for rate in jax.tree.leaves(expand_rates("fixed", rates, WEIGHTS))))(rates)
    assert gradient == {"fixed": 0}


def test_rank_one_rates_are_outer_products():
    rates = problems.disturbed(init_rates("rank-one", WEIGHTS, 0.02), np.random.default_rng(0))
    expanded = expand_rates("rank-one", rates, WEIGHTS)
    dense = jax.tree.map(np.exp, rates["dense"])
    np.testing.assert_allclose(expanded["dense"]["kernel"], np.outer(dense["row"], dense["column"]), rtol=1e-12)
    np.testing.assert_allclose(expanded["dense"]["bias"], dense["constant"] * dense["column"], rtol=1e-12)
    free = jax.tree.map(np.exp, rates["free"])
    assert expanded["free"].keys() == {"kernel"} and free.keys() == {"row", "column"}
    np.testing.assert_allclose(expanded["free"]["kernel"], np.outer(free["row"], free["column"]), rtol=1e-12)
    heads = jax.tree.map(np.exp, rates["heads"]["memory"])
    for head in range(2):
        kernel, bias = (expanded["heads"]["memory"][part][head] for part in ("kernel", "bias"))
        np.testing.assert_allclose(kernel, np.outer(heads["row"][head], heads["column"][head]), rtol=1e-12)
        np.testing.assert_allclose(bias, heads["constant"][head] * heads["column"][head], rtol=1e-12)
    for one in (rates["norm"]["scale"], rates["norm"]["bias"], rates["state"]):
        assert one.shape == ()
    np.testing.assert_allclose(expanded["state"], np.exp(rates["state"]), rtol=1e-12)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match=r"Unknown kind of inner rates 'rank-two'; choose one of fixed, per-array, rank-one\."):
        init_rates("rank-two", WEIGHTS, 0.02)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")])
def test_rates_that_are_not_positive_are_refused(rate):
    with pytest.raises(ValueError, match="must be a positive"):
        init_rates("fixed", WEIGHTS, rate)
