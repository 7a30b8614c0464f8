"""The recurrent baseline: the same promises as the inner loop's, and what it is fed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from problems import batch, every_sequence, jit, maml, sample, score
from scipy import stats

from rgen.likelihood import Bernoulli, Categorical
from rgen.baselines import LSTM, Recurrent
from rgen.sequence import Given, Sequence, until_end


def make(kind: str) -> tuple[Recurrent, dict, Sequence]:
    """A tiny baseline for lines of 3 symbols or images of 2 by 3 bits, float64 parameters, and a batch of 2 sequences."""
    text = kind == "text"
    shape, symbols = problems.SHAPES[kind], problems.SYMBOLS if text else 2
    network = LSTM(shape, symbols, symbols if text else 1, width=4, depth=2, features=3)
    model = Recurrent(network, Categorical() if text else Bernoulli())
    x, rng = problems.inputs(shape), np.random.default_rng(0)
    start = np.zeros((2, 2, 4))
    params = problems.disturbed(jit(network.init)(jax.random.key(0), start, x[0], np.int32(0))["params"], rng)
    return model, params, batch(x, rng.integers(symbols, size=(2, len(x))))


kinds = pytest.mark.parametrize("kind", ["text", "image"])


@kinds
def test_gradient_against_central_differences(kind):
    """With respect to everything, the initial state included; step and tolerance as for the inner loop."""
    model, params, seqs = make(kind)
    _, gradient = maml(model, params, seqs)
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(2):
        direction = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape), params)
        up, down = (score(model, jax.tree.map(lambda a, d, h=h: a + h * d, params, direction), seqs).sum(1).mean() for h in (h, -h))
        slope = sum(float((g * d).sum()) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
        assert slope == pytest.approx(float(up - down) / (2 * h), rel=1e-6, abs=1e-8)
    assert np.abs(gradient["start"]).min() > 0


@kinds
def test_probabilities_of_all_sequences_sum_to_one(kind):
    model, params, seqs = make(kind)
    y = every_sequence(model.network.symbols, 4)
    assert float(np.exp(-score(model, params, batch(seqs.x[0, :4], y)).sum(1)).sum()) == pytest.approx(1, rel=1e-12)


@kinds
def test_scoring_a_sample_gives_back_its_own_nats(kind):
    model, params, seqs = make(kind)
    trace = sample(model, params, seqs.x, jax.random.split(jax.random.key(3), 2))
    np.testing.assert_allclose(trace.nll, score(model, params, seqs._replace(y=trace.y)), rtol=1e-12)
    known = np.broadcast_to(np.arange(seqs.y.shape[1]) % 3 == 1, seqs.y.shape)
    trace = sample(model, params, seqs.x, jax.random.split(jax.random.key(3), 2), Given(seqs.y, known))
    np.testing.assert_array_equal(np.asarray(trace.y)[known], seqs.y[known])
    np.testing.assert_allclose(trace.nll, score(model, params, seqs._replace(y=trace.y)), rtol=1e-12)


@kinds
def test_samples_come_as_often_as_their_probability_says(kind):
    model, params, seqs = make(kind)
    model = dataclasses.replace(model, end=0) if kind == "text" else model
    count, length = 5000, 3
    x = np.asarray(seqs.x)[0, :length]
    drawn = sample(model, params, np.broadcast_to(x, (count, *x.shape)), jax.random.split(jax.random.key(5), count)).y
    y = every_sequence(model.network.symbols, length)
    if model.end is not None:
        y = np.unique(np.where(until_end(y, 0), y, 0), axis=0)
    weight = until_end(y, 0) if model.end is not None else np.ones(y.shape)
    probability = np.exp(-np.asarray(score(model, params, batch(x, y, weight))).sum(1))
    seen = (np.asarray(drawn)[:, None] == y[None]).all(-1).sum(0)
    assert seen.sum() == count and (count * probability > 5).all()
    assert stats.chisquare(seen, count * probability).pvalue > 1e-3


@kinds
def test_an_output_changes_nothing_before_it_and_all_after_it(kind):
    model, params, seqs = make(kind)
    x, y = seqs.x[0], seqs.y[0]
    nats = score(
        model, params, batch(x, np.stack([y, *(np.where(np.arange(len(y)) == s, 1 - np.minimum(y, 1), y) for s in range(len(y)))]))
    )
    for s in range(len(y)):
        np.testing.assert_allclose(nats[1 + s, :s], nats[0, :s], rtol=1e-13)
        assert (np.abs(nats[1 + s, s + 1 :] - nats[0, s + 1 :]) > 1e-9).all()  # a state forgets little in so few steps


def test_the_step_before_the_first_counts_as_an_output_of_zero():
    model, params, seqs = make("text")
    first: Any = model.network.apply({"params": params}, params["start"], seqs.x[0, 0], jnp.int32(0))
    nats = -jax.nn.log_softmax(first[1])[seqs.y[0, 0]]
    np.testing.assert_allclose(score(model, params, seqs)[0, 0], nats, rtol=1e-12)


@kinds
def test_every_part_of_the_position_is_read(kind):
    model, params, seqs = make(kind)
    for axis in range(np.asarray(seqs.x)[0, 0].size):
        moved = np.array(seqs.x)
        moved.reshape(2, seqs.y.shape[1], -1)[:, 3, axis] = 1 - moved.reshape(2, seqs.y.shape[1], -1)[:, 3, axis].clip(0, 1)
        change = np.abs(score(model, params, seqs) - score(model, params, seqs._replace(x=moved)))
        assert (change[:, :3] == 0).all() and (change[:, 3] > 1e-9).all()


def test_the_baseline_has_the_originals_size_by_default():
    # tables of rows, columns and pixels; three cells of 256 with four gates and one bias; the initial state; the logit
    network = LSTM((28, 28), 2, 1)
    tree = jax.eval_shape(network.init, jax.random.key(0), np.zeros((3, 2, 256)), np.zeros(2, np.int32), np.int32(0))
    tables, cells = (28 + 28 + 2) * 128, (3 * 128 + 256) * 4 * 256 + 2 * (256 + 256) * 4 * 256 + 3 * 4 * 256
    assert sum(a.size for a in jax.tree.leaves(tree)) == tables + cells + 3 * 2 * 256 + 256 + 1
