"""Samples, completions and beliefs against enumeration on tiny problems, and drawing in bulk."""

import dataclasses
from typing import Any

import jax
import numpy as np
import problems
import pytest
from problems import make, with_form
from scipy import stats

from rgen import baselines
from rgen.choices import BASELINES
from rgen.likelihood import Categorical, Decoding
from rgen.sampling import Sampler, batches, belief, complete, conditional_nats, sample
from rgen.sequence import Given, Sequence, until_end

# test_dual.py sees that the direct form draws the same
every_form = pytest.mark.parametrize("form", ["dual", pytest.param("direct", marks=pytest.mark.slow)])
OPTIONS = ({"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}, {"min_p": 0.4}, {"temperature": 1.5, "top_p": 0.8})
COUNT = 5000


def enumerate_steps(loop: Any, params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probabilities [N, T, K] of all outputs at each step of the sequences y [N, T] with inputs x [T, ...]."""
    probs = np.exp(belief(loop, params, problems.batch(x, y), x))
    steps = np.arange(len(x))
    return probs[:, steps, steps]


def fits(drawn: np.ndarray, y: np.ndarray, probability: np.ndarray) -> None:
    """Chi-squared: sequences drawn [count, T] come as often as the probability [N] of each y [N, T]; what is impossible never comes."""
    assert probability.sum() == pytest.approx(1, rel=1e-9)
    seen = (drawn[:, None] == y[None]).all(-1).sum(0)
    assert seen.sum() == len(drawn) and not seen[probability == 0].any()
    common = len(drawn) * probability > 5
    seen, expected = (np.append(a[common], a[~common].sum()) for a in (seen, len(drawn) * probability))
    kept = expected > 0
    assert kept.sum() > 2
    assert stats.chisquare(seen[kept], expected[kept]).pvalue > 1e-3


def changed(probs: np.ndarray, decoding: Decoding) -> np.ndarray:
    """What decoding makes of probabilities [K], in the plainest way."""
    probs = probs ** (1 / decoding.temperature)
    probs = probs / probs.sum()
    order = np.argsort(-probs)
    if decoding.top_k is not None:
        probs[order[decoding.top_k :]] = 0
        probs = probs / probs.sum()
    if decoding.top_p is not None:
        enough = np.flatnonzero(probs[order].cumsum() >= decoding.top_p)[0]
        probs[order[enough + 1 :]] = 0
    if decoding.min_p is not None:
        probs[probs < decoding.min_p * probs.max()] = 0
    return probs / probs.sum()


@pytest.mark.parametrize("options", OPTIONS)
@every_form
def test_decoded_samples_come_as_often_as_the_changed_probabilities_say(options, form):
    loop, params, seqs = make("text-mlp", form)
    x, y, decoding = seqs.x[0, :3], problems.every_sequence(3, 3), Decoding(**options)
    steps = enumerate_steps(loop, params, x, y)
    after = np.apply_along_axis(changed, 2, steps, decoding)
    assert np.abs(after - steps).max() > 0.05
    probability = np.take_along_axis(after, y[..., None], 2).prod((1, 2))
    keys = jax.random.split(jax.random.key(5), COUNT)
    trace = sample(loop, params, np.broadcast_to(x, (COUNT, 3)), keys, decoding=decoding)
    fits(np.asarray(trace.y), y, probability)
    plain = -np.log(np.take_along_axis(steps, y[..., None], 2)[..., 0])
    which = (np.asarray(trace.y)[:, None] == y).all(-1).argmax(1)
    np.testing.assert_allclose(trace.nll, plain[which], rtol=1e-9)  # under the model as it is


@every_form
@pytest.mark.parametrize("name, length", [("text-mlp", 4), ("image-heads", 6)])
def test_completions_are_draws_given_what_is_known(name, length, form):
    """What is known stands in the middle. The chances are those of whole sequences, enumerated with the known steps first."""
    loop, params, seqs = make(name, form)
    symbols = 3 if name.startswith("text") else 2
    known, x = np.zeros(length, bool), seqs.x[1, :length]
    known[[1, length - 2]] = True
    order = np.argsort(~known, kind="stable")
    y = problems.every_sequence(symbols, length)
    y = y[(y[:, known] == 1).all(1)]
    nll = problems.score(loop, params, problems.batch(x[order], y[:, order]))
    probability = np.exp(-nll[:, known.sum() :].sum(1))
    given = Given(np.where(known, 1, 77), known)
    given = Given(*(np.broadcast_to(a, (COUNT, length)) for a in given))
    keys = jax.random.split(jax.random.key(6), COUNT)
    trace = complete(loop, params, np.broadcast_to(x, (COUNT, *x.shape)), given, keys)
    fits(np.asarray(trace.y), y, probability)
    which = (np.asarray(trace.y)[:, None] == y).all(-1).argmax(1)
    np.testing.assert_allclose(trace.nll[:, ~known].sum(1), -np.log(probability)[which], rtol=1e-9)
    rest = conditional_nats(loop, params, problems.batch(x, y), np.broadcast_to(known, y.shape))
    assert not rest[:, known].any()
    np.testing.assert_allclose(rest.sum(1), -np.log(probability), rtol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_the_baselines_complete_too(name):
    model = baselines.build(name, (4,), 3, 3, Categorical(), options={"width": 4, "depth": 1})
    x = np.broadcast_to(np.arange(4), (6, 4))
    params = problems.disturbed(model.init(jax.random.key(0), x[0, 0]), np.random.default_rng(0))
    known = np.broadcast_to([False, True, False, True], x.shape)
    trace = complete(model, params, x, Given(np.full(x.shape, 2), known), jax.random.split(jax.random.key(1), 6), Decoding(top_k=2))
    assert (np.asarray(trace.y)[known] == 2).all()
    rest = conditional_nats(model, params, Sequence(x, trace.y, np.ones(x.shape)), known)
    np.testing.assert_allclose(rest, np.where(known, 0, trace.nll), rtol=1e-9)


@pytest.mark.parametrize(("name", "form"), [("text-mlp", "direct"), ("image-heads", "dual")])
def test_a_belief_is_what_would_be_paid(name, form):
    """At the moment of a step, the belief of its place is the step's nats. Moments lie `every` steps apart; the last is the end."""
    loop, params, seqs = make(name, form)
    length = seqs.y.shape[1]
    nll = problems.score(loop, params, seqs)
    places = seqs.x[1]
    log_probs = belief(loop, params, seqs, places)
    assert log_probs.shape[:3] == (2, length + 1, length)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-9)
    steps = np.arange(length)
    paid = -np.asarray(log_probs)[1, steps, steps, seqs.y[1]] * seqs.weight[1]
    np.testing.assert_allclose(paid, nll[1], rtol=1e-9, atol=1e-12)
    coarse = belief(loop, params, seqs, places, every=4)
    np.testing.assert_allclose(coarse, log_probs[:, [0, 4, length]], rtol=1e-9)


# ---------------------------------------------------------------- in bulk


def draw_all(sampler: Sampler, params: Any, numbers: range, batch: int, given: Any = None) -> tuple[np.ndarray, np.ndarray]:
    values, nats = zip(*batches(sampler, params, 1, numbers, batch, given))
    return np.concatenate(values), np.concatenate(nats)


@pytest.mark.parametrize("name, shape, random", [("text-heads", (7,), False), ("image-heads", (2, 3), True)])
def test_number_k_of_a_seed_is_always_the_same(name, shape, random):
    loop, params, _ = make(name, "dual")
    loop = dataclasses.replace(loop, end=0) if len(shape) == 1 else loop
    sampler = Sampler(loop, shape, random)
    values, nats = draw_all(sampler, params, range(9), batch=9)
    assert len({value.tobytes() for value in values}) > 4  # each has a key of its own
    for numbers, batch in ((range(9), 4), (range(3, 8), 100)):
        again, nats_again = draw_all(sampler, params, numbers, batch)
        np.testing.assert_array_equal(again, values[list(numbers)])
        np.testing.assert_allclose(nats_again, nats[list(numbers)], rtol=1e-9)
    direct = dataclasses.replace(sampler, model=with_form(loop, "direct"))
    np.testing.assert_array_equal(draw_all(direct, params, range(9), batch=9)[0], values)


def test_a_sampler_puts_outputs_where_they_belong():
    """Nats of images drawn in orders of their own are those of scoring them so; what is known stays, and is not paid for."""
    loop, params, _ = make("image-heads", "dual")
    sampler = Sampler(loop, (2, 3), random_order=True)
    known = np.zeros((5, 2, 3), bool)
    known[:, 1, ::2] = True
    for given in (None, Given(np.ones(known.shape, np.int32), known)):
        values, nats = draw_all(sampler, params, range(5), 5, given and (lambda numbers, given=given: given))
        places = np.asarray(sampler.places(sampler.keys(np.uint32(1), np.arange(5)), given and given.known))
        assert len({row.tobytes() for row in places}) > 2
        x = np.stack(np.unravel_index(places, (2, 3)), -1)
        y = np.take_along_axis(values.reshape(5, 6), places, 1)
        nll = np.asarray(problems.score(loop, params, Sequence(x, y, np.ones(y.shape))))
        if given is not None:
            assert values[known].all() and (np.sort(places[:, :2], 1) == [3, 5]).all()
            nll = nll[:, 2:]
        np.testing.assert_allclose(nats, nll.sum(1), rtol=1e-9)


def test_a_line_ends_where_its_nul_was_drawn():
    loop, params, _ = make("text-mlp", "dual")
    values, _ = draw_all(Sampler(dataclasses.replace(loop, end=0), (7,)), params, range(30), 30)
    assert (values[~until_end(values, 0)] == 0).all() and (values[:, :3] == 0).any()
