"""The inner loop and its meta-gradients: what must hold of every network and kind of rates.

That is seen of the direct form, which is the definition. Of the dual form test_dual.py sees that it gives the same numbers.
"""

import dataclasses
import doctest
import math
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from flax import linen as nn
from problems import BY_MEMORY, FAST, FIXED, FORMS, NAMES, adapt, batch, first_order_maml, make, maml, reptile, sample, score, with_form
from scipy import stats

import rgen
from rgen import meta, networks
from rgen.fast import Direct, Dual, Function, InnerLoop, Params
from rgen.fast import loop as loop_module
from rgen.fast.functions import learning, overlaid
from rgen.fast.rates import expand_rates
from rgen.likelihood import Bernoulli, Categorical, Likelihood
from rgen.sequence import Given, Prediction, Sequence, WithOutputs, until_end

on = pytest.mark.parametrize
every_form = on("form", FORMS)


def close(ours: Any, theirs: Any, rtol: float = 1e-10) -> None:
    """Trees agree, relative to the largest element of each array: sums of terms of either sign lose the digits of the small ones."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, rtol, rtol * np.abs(b).max(initial=0), err_msg=jax.tree_util.keystr(path))


# ---------------------------------------------------------------- the gradient


@on("name", NAMES)
def test_maml_against_central_differences(name):
    """Along a random direction of unit length for the initialization, and one for the rates.

    A step h costs h^2 / 6 times the third derivative, some 1e-10, and cancels about as much: 1e-16 / h of a loss of about 10.
    """
    loop, params, seqs = make(name)
    loss, gradient = maml(loop, params, seqs)
    assert float(loss) == pytest.approx(float(score(loop, params, seqs).sum(1).mean()), rel=1e-12)
    rng, h = np.random.default_rng(1), 1e-5
    moving = ("init", *(() if loop.rate_kind == "fixed" else ("rates",)))
    for part in moving:
        direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), getattr(params, part))
        length = math.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(direction)))
        direction = jax.tree.map(lambda a, length=length: a / length, direction)

        def along(h, part=part, direction=direction):
            moved = params._replace(**{part: jax.tree.map(lambda a, d: a + h * d, getattr(params, part), direction)})
            return float(score(loop, moved, seqs).sum(1).mean())

        slope = sum(map(jnp.vdot, jax.tree.leaves(getattr(gradient, part)), jax.tree.leaves(direction)))
        assert abs(slope) > 1e-4, "this direction says nothing"
        assert float(slope) == pytest.approx((along(h) - along(-h)) / (2 * h), rel=1e-6, abs=1e-8)


class Scale(nn.Module):
    """logits = [w x]: one weight."""

    @nn.compact
    def __call__(self, x):
        return self.param("w", nn.initializers.zeros, (1,)) * x


def probe(likelihood: Likelihood, w: float, rate: float, x: list, y: list, form: str = "direct") -> problems.Problem:
    loop = with_form(InnerLoop(Scale(), likelihood, "per-array"), form)
    params = Params({"w": jnp.array([w])}, {"w": jnp.log(jnp.array(rate))})
    return problems.Problem(loop, params, batch(np.array(x), np.array([y])))


@every_form
def test_two_steps_by_hand(form):
    # p = sigmoid(w x), the slope of the nats in w is (p - y) x; the rate is 2.
    # w = 0   x = 1    y = 1   p = 1/2   nats ln 2   slope -1/2
    # w = 1   x = ln 3 y = 0   p = 3/4   nats ln 4   slope  3/4 ln 3
    # w = 1 - 3/2 ln 3
    # The first step moves w to w - 2 (sigmoid(w) - 1): its derivative in w is 1 - 2 p (1 - p) = 1/2, in the log rate -2 (-1/2) = 1.
    loop, params, seqs = probe(Bernoulli(), 0.0, 2.0, [1.0, math.log(3)], [1, 0], form)
    fast, nats = adapt(loop, params, seqs)
    loss, exact = maml(loop, params, seqs)
    close(nats, np.log([[2, 4]]))
    close(fast["w"], np.array([[1 - 1.5 * math.log(3)]]))
    close(loss, np.array(math.log(8)))
    close(exact, Params({"w": np.array([-1 / 2 + 3 / 8 * math.log(3)])}, {"w": np.array(3 / 4 * math.log(3))}))
    close(first_order_maml(loop, params, seqs)[1].init["w"], np.array([-1 / 2 + 3 / 4 * math.log(3)]))
    both = reptile(loop, params, seqs)
    close(both, (np.array(math.log(8)), Params({"w": np.array([1.5 * math.log(3) - 1])}, {"w": np.array(0.0)})))


@dataclasses.dataclass(frozen=True)
class Square:
    """Half the squared distance, which makes the inner loop linear."""

    def nll(self, logits, y):
        return (logits[0] - y) ** 2 / 2

    def log_probs(self, logits):
        raise NotImplementedError


@every_form
def test_quadratic_by_hand(form):
    # w - 2 shrinks by 1 - rate in each step, so the sum of the nats is (w0 - 2)^2 / 2 (1 + r + r^2 + r^3 + r^4), r = (1 - rate)^2,
    # and its derivative in the log rate is (w0 - 2)^2 / 2 (1 + 2 r + 3 r^2 + 4 r^3) dr / dlog rate, dr / dlog rate = -2 (1 - rate) rate.
    w, rate = 3.5, 0.3
    loop, params, seqs = probe(Square(), w, rate, [1.0] * 5, [2] * 5, form)
    r = (1 - rate) ** 2
    powers = r ** np.arange(5)
    fast, nats = adapt(loop, params, seqs)
    _, exact = maml(loop, params, seqs)
    close(nats, 1.5**2 / 2 * powers[None])
    close(fast["w"], np.array([[2 + 1.5 * (1 - rate) ** 5]]))
    close(exact.init["w"], np.array([1.5 * powers.sum()]))
    close(exact.rates["w"], np.array(1.5**2 / 2 * (np.arange(1, 5) * powers[:4]).sum() * -2 * (1 - rate) * rate))


def test_rate_gradient_of_first_order_maml_by_hand():
    # With its inner gradients g_t as constants w_t is w_0 - rate (g_1 + ... + g_{t-1}), so the derivative of the sum of the nats in
    # the log rate is - rate * sum over t of g_t (g_1 + ... + g_{t-1}).
    w, rate, x, y = 0.4, 0.7, np.array([1.0, -2.0, 0.5, 1.5]), np.array([1, 1, 0, 1])
    slopes = []
    for x_t, y_t in zip(x, y):
        slopes.append((1 / (1 + math.exp(-w * x_t)) - y_t) * x_t)
        w -= rate * slopes[-1]
    expected = -rate * sum(slopes[t] * sum(slopes[:t]) for t in range(4))
    loop, params, seqs = probe(Bernoulli(), 0.4, rate, list(x), list(y))
    close(first_order_maml(loop, params, seqs)[1].rates["w"], np.array(expected))
    assert abs(maml(loop, params, seqs)[1].rates["w"] / expected - 1) > 1e-3  # the exact gradient is another


def plain(loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[Any, jax.Array]:
    """The same inner loop written again: Python loops over sequences and steps, jax.grad of the loss, no scan, vmap or vjp."""

    @jax.jit
    def step(weights, rates, x, y, weight):
        def nats(weights, which=0):
            out: Any = loop.network.apply({"params": weights}, x)
            logits = out[which] if isinstance(out, Prediction) else out
            logits = jnp.stack([jnp.zeros(()), logits[0]]) if isinstance(loop.likelihood, Bernoulli) else logits
            return -jax.nn.log_softmax(logits)[y]

        gradient = jax.grad(lambda weights: weight * nats(weights, which=1))(weights)
        return jax.tree.map(lambda w, rate, g: w - rate * g, weights, rates, gradient), weight * nats(weights)

    everything = jax.tree.map(jnp.zeros_like, params.init)
    rates = overlaid(everything, expand_rates(loop.rate_kind, params.rates, learning(params.init, loop.fast)))
    rows, after = [], []
    last = loop.reads
    assert isinstance(last, int)
    for x, y, weight in zip(*seqs):
        weights, row = params.init, []
        for t in range(len(y)):
            before = [y[t - i] if t >= i else -1 for i in range(1, last + 1)]
            read = WithOutputs(x[t], np.array(before, np.int32)) if before else x[t]
            weights, nats = step(weights, rates, read, y[t], weight[t])
            row.append(nats)
        rows.append(jnp.stack(row))
        after.append(learning(weights, loop.fast))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *after), jnp.stack(rows)


@on("name", NAMES)
def test_scores_and_weights_of_a_plain_loop(name):
    loop, params, seqs = make(name)
    close(adapt(loop, params, seqs), plain(loop, params, seqs))


@on("name", (*FAST, *BY_MEMORY))
def test_maml_is_the_gradient_of_a_plain_loop(name):
    loop, params, seqs = make(name)
    expected = jax.grad(lambda params: plain(loop, params, seqs)[1].sum() / len(seqs.y))(params)
    close(maml(loop, params, seqs)[1], expected)


@on("name", FAST)
def test_inner_norms_are_those_of_what_each_step_changes(name):
    loop, params, seqs = make(name)
    gradients, updates = map(jax.tree.leaves, loop.inner_norms(params, seqs))
    rates = jax.tree.leaves(expand_rates(loop.rate_kind, params.rates, params.init))
    before = [jnp.broadcast_to(w, (len(seqs.y), *w.shape)) for w in jax.tree.leaves(params.init)]
    for t in range(seqs.y.shape[1]):
        so_far = seqs._replace(weight=seqs.weight * (np.arange(seqs.y.shape[1]) <= t))
        after = jax.tree.leaves(adapt(loop, params, so_far)[0])
        for a, b, rate, gradient, update in zip(before, after, rates, gradients, updates, strict=True):
            for wanted, found in (((a - b) / rate, gradient), (a - b, update)):
                np.testing.assert_allclose(found[:, t], jnp.linalg.norm(wanted.reshape(len(a), -1), axis=1), rtol=1e-9, atol=1e-12)
        before = after


# ---------------------------------------------------------------- how the meta-gradients hang together


@on("name", (*FIXED, *FAST))
def test_one_step_of_reptile_is_the_rate_times_maml(name):
    loop, params, seqs = make(name)
    seqs = problems.steps(seqs, slice(1))
    rates = expand_rates(loop.rate_kind, params.rates, params.init)
    expected = jax.tree.map(jnp.multiply, rates, maml(loop, params, seqs)[1].init)
    close(reptile(loop, params, seqs)[1].init, expected)


@on("name", FIXED)
def test_first_order_maml_is_reptile_over_the_rate(name):
    loop, params, seqs = make(name)
    _, first_order = first_order_maml(loop, params, seqs)
    _, step = reptile(loop, params, seqs)
    close(first_order.init, jax.tree.map(lambda a: a / params.rates["fixed"], step.init))
    _, exact = maml(loop, params, seqs)
    assert abs(norm(exact.init) / norm(first_order.init) - 1) > 1e-3  # these problems can tell first order from exact


@every_form
def test_what_a_network_that_learns_in_part_or_reads_a_context_cannot_do_is_said(form):
    loop, params, seqs = make("text-heads partly", form)
    with pytest.raises(ValueError, match=r"'nowhere' is not in the network.*heads/memory/kernel"):
        dataclasses.replace(loop, fast=("nowhere",)).init(jax.random.key(0), seqs.x[0, 0])
    with pytest.raises(ValueError, match="Name at least one"):
        dataclasses.replace(loop, fast=()).init(jax.random.key(0), seqs.x[0, 0])
    with pytest.raises(ValueError, match="weights that all do"):
        reptile(loop, params, seqs)
    with pytest.raises(ValueError, match="places out of turn"):
        loop.belief(params, seqs, seqs.x[0])


def norm(tree: Any) -> float:
    return math.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))


# ---------------------------------------------------------------- probabilities


def alphabet(loop: InnerLoop) -> int:
    return problems.SYMBOLS if isinstance(loop.likelihood, Categorical) else 2


@on("name", FAST)
def test_probabilities_of_all_sequences_sum_to_one(name):
    loop, params, seqs = make(name)
    y = problems.every_sequence(alphabet(loop), 4)
    nats = score(loop, params, batch(seqs.x[1, :4], y)).sum(1)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1, rel=1e-12)


def test_probabilities_of_all_sequences_up_to_their_end_sum_to_one():
    loop, params, seqs = make("text-mlp")
    y = problems.every_sequence(problems.SYMBOLS, 4)
    weight = until_end(y, end=0)
    y, first = np.unique(np.where(weight, y, 0), axis=0, return_index=True)
    assert len(y) == 1 + 2 + 4 + 8 + 16  # of lengths 1, 2, 3, 4, and those that have no end
    nats = score(loop, params, batch(seqs.x[0, :4], y, weight[first])).sum(1)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1, rel=1e-12)


@on("name", NAMES)
def test_an_output_changes_nothing_before_it(name):
    loop, params, seqs = make(name)
    x, y = seqs.x[1], seqs.y[1]
    length, symbols = len(y), alphabet(loop)
    changed = np.stack([[np.where(np.arange(length) == s, symbol, y) for symbol in range(symbols)] for s in range(length)])
    nats = score(loop, params, batch(x, changed.reshape(-1, length))).reshape(length, symbols, length)
    for s in range(length):
        np.testing.assert_allclose(nats[s, :, :s], np.broadcast_to(nats[s, 0, :s], (symbols, s)), rtol=1e-13)
        assert float(jnp.exp(-nats[s, :, s]).sum()) == pytest.approx(1, rel=1e-12)  # y_s was not known when it was predicted
        assert s == length - 1 or np.ptp(nats[s, :, s + 1 :], axis=0).max() > 1e-5  # but it was learned


# ---------------------------------------------------------------- samples


@on("name", NAMES)
def test_scoring_a_sample_gives_back_its_own_nats(name):
    loop, params, seqs = make(name)
    trace = sample(loop, params, seqs.x, jax.random.split(jax.random.key(3), 2))
    close(trace.nll, score(loop, params, Sequence(seqs.x, trace.y, np.ones(trace.y.shape))))


def test_a_sample_ends():
    """After its end a sample holds nothing but the end, costs nothing and teaches nothing; the end itself is paid for."""
    loop, params, seqs = make("text-mlp")
    loop = dataclasses.replace(loop, end=0)
    x = np.broadcast_to(seqs.x[0], (40, 7))
    trace = sample(loop, params, x, jax.random.split(jax.random.key(4), 40))
    y = np.asarray(trace.y)
    weight = until_end(y, end=0)
    assert np.all(y[~weight] == 0) and not weight.all() and weight.all(axis=1).any()
    close(trace.nll, score(loop, params, Sequence(x, y, weight)))


@on("name", ["text-mlp", "image-heads"])
def test_samples_come_as_often_as_their_probability_says(name):
    loop, params, seqs = make(name)
    symbols, length, count = alphabet(loop), 3, 5000
    loop = dataclasses.replace(loop, end=0) if symbols > 2 else loop
    x = seqs.x[1, :length]
    keys = jax.random.split(jax.random.key(5), count)
    drawn = np.asarray(sample(loop, params, np.broadcast_to(x, (count, *x.shape)), keys).y)
    y = problems.every_sequence(symbols, length)
    if loop.end is not None:
        y = np.unique(np.where(until_end(y, 0), y, 0), axis=0)
    weight = until_end(y, 0) if loop.end is not None else np.ones(y.shape)
    probability = np.exp(-score(loop, params, batch(x, y, weight)).sum(1))
    seen = (drawn[:, None] == y[None]).all(-1).sum(0)
    assert seen.sum() == count and (count * probability > 5).all()
    assert stats.chisquare(seen, count * probability).pvalue > 1e-3


@every_form
@on("name", ["image-heads", "text-heads partly"])  # one reads its last outputs
def test_what_is_given_is_fed(name, form):
    loop, params, seqs = make(name, form)
    keys = jax.random.split(jax.random.key(6), 2)
    everything = sample(loop, params, seqs.x, keys, Given(seqs.y, np.ones(seqs.y.shape, bool)))
    ones = seqs._replace(weight=np.ones(seqs.y.shape))
    np.testing.assert_array_equal(everything.y, seqs.y)
    close(everything.nll, score(loop, params, ones))
    known = np.arange(seqs.y.shape[1]) % 3 == 1  # in between as well as at the beginning
    known = np.broadcast_to(known, seqs.y.shape)
    trace = sample(loop, params, seqs.x, keys, Given(seqs.y, known))
    np.testing.assert_array_equal(np.asarray(trace.y)[known], seqs.y[known])
    assert np.any(np.asarray(trace.y)[~known] != seqs.y[~known])
    close(trace.nll, score(loop, params, ones._replace(y=trace.y)))


# ---------------------------------------------------------------- weights and shapes


@on("name", FAST)
def test_steps_of_weight_zero_neither_score_nor_teach(name):
    loop, params, seqs = make(name)
    kept = [0, 2, 3]
    weight = np.zeros(seqs.y.shape)
    weight[:, kept] = 1
    fast, nats = adapt(loop, params, seqs._replace(weight=weight))
    fewer, nats_of_fewer = adapt(loop, params, problems.steps(seqs._replace(weight=weight), kept))
    close(fast, fewer)
    close(nats[:, kept], nats_of_fewer)
    assert not np.delete(nats, kept, axis=1).any()


def test_shapes_that_disagree_are_named():
    loop, params, seqs = make("siren")
    for wrong in (seqs._replace(y=seqs.y[:, 1:]), seqs._replace(weight=seqs.weight[:1]), seqs._replace(x=seqs.x[:, :3])):
        with pytest.raises(ValueError, match=r"needs x \[B, T, \.\.\.\] \(or \[1, T, \.\.\.\] for all\), y \[B, T\] and weight \[B, T\]"):
            loop.score(params, wrong)


# ---------------------------------------------------------------- compilation and memory


@every_form
def test_other_rates_and_equal_loops_do_not_compile_again(form):
    chex.clear_trace_counter()

    @jax.jit(static_argnums=0)
    @chex.assert_max_traces(n=1)
    def once(loop, params, seqs):
        return loop.score(params, seqs)

    _, params, seqs = make("siren")
    first = once(with_form(problems.build_loop("siren"), form), params, seqs)
    second = once(with_form(problems.build_loop("siren"), form), params._replace(rates={"fixed": 7 * params.rates["fixed"]}), seqs)
    assert np.abs(first - second).max() > 1e-3  # the rate did arrive


@on("name", NAMES)
def test_a_loop_built_again_is_equal(name):
    loop, again = problems.build_loop(name), problems.build_loop(name)
    assert again == loop and hash(again) == hash(loop)
    assert dataclasses.replace(loop, first_order=True) != loop != dataclasses.replace(loop, end=0)


def test_the_rate_that_a_compiled_init_begins_with_is_the_loop_s():
    init = jax.jit(InnerLoop.init, static_argnums=0)
    for rate in (0.1, 0.5):
        found = init(problems.build_loop("siren", rate), jax.random.key(0), jnp.zeros(2))
        assert float(found.rates["fixed"]) == pytest.approx(rate)


@every_form
def test_a_second_call_compiles_nothing(form):
    """With another loop and form that are equal, and arrays of the same shapes; nor does one inside of jit, vmap and grad."""
    calls = []

    def apply(params, x):
        calls.append(x)
        return jnp.tanh(params["table"][x]) @ params["out"]

    network = Function(lambda key, x: {"table": jnp.ones((4, 3)), "out": jnp.ones((3, 3))}, apply)
    form = {"direct": Direct, "dual": Dual}[form]
    x, y, keys = np.arange(4)[None], np.array([[0, 2, 1, 1], [2, 2, 0, 1]]), jax.random.split(jax.random.key(0), 2)
    seqs = Sequence(x, y, np.ones(y.shape))
    methods = {name: getattr(rgen, name) for name in ("maml", "first_order_maml", "reptile", "score")} | {
        name: getattr(InnerLoop, name) for name in ("score", "adapt", "inner_norms")
    }
    methods |= {
        "belief": lambda loop, params, seqs: loop.belief(params, seqs, x[0]),
        "sample": lambda loop, params, seqs: loop.sample(params, seqs.x, keys),
        "rgen.sample": lambda loop, params, seqs: rgen.sample(loop, params, seqs.x, keys),
        "predict": lambda loop, params, seqs: loop.predict(params, loop.start(params), seqs.x[0, 0]),
        "step": lambda loop, params, seqs: loop.step(params, loop.start(params), seqs.x[0, 0], seqs.y[0, 0]),
        "gradient": lambda loop, params, seqs: jax.grad(lambda params: loop.score(params, seqs).sum())(params),
        "vmap": lambda loop, params, seqs: jax.vmap(lambda y: loop.score(params, seqs._replace(y=y)))(jnp.stack([seqs.y, 2 - seqs.y])),
        "init": lambda loop, params, seqs: loop.init(jax.random.key(1), seqs.x[0, 0]),
    }

    def made():
        loop = InnerLoop(network, Categorical(), "per-array", 0.1, form=form())
        return loop, loop.init(jax.random.key(0), x[0, 0])

    for name, method in methods.items():
        for again in (False, True):
            loop, params = made()
            before = len(calls)
            jax.block_until_ready(method(loop, params, seqs._replace(y=seqs.y if again else seqs.y[::-1])))
            assert not again or len(calls) == before, name
    loop, params = made()
    close(jax.jit(rgen.maml, static_argnums=0)(loop, params, seqs), rgen.maml(loop, params, seqs))


def test_memory_of_maml_grows_with_the_square_root_of_the_length():
    """In the direct form, four times the length costs about twice the memory, also where the length is a prime."""
    loop = InnerLoop(networks.build("text-mlp", (128,), 4, features=64, widths=(64, 64)), Categorical(), form="direct")
    params = loop.init(jax.random.key(0), np.int32(0))

    def temporaries(length):
        zeros = np.zeros((1, length), np.int32)
        memory = jax.jit(meta.maml, static_argnums=0).lower(loop, params, Sequence(zeros, zeros, zeros)).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    short, long, prime = temporaries(32), temporaries(128), temporaries(127)
    assert long < 2.6 * short
    assert prime < 1.1 * long


def test_the_example_of_a_docstring_runs():
    tried = doctest.testmod(loop_module)
    assert tried.attempted and not tried.failed


def test_the_example_of_the_readme_runs():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["drawn"].y.shape == (64, 12) and float(names["nats"]) > 0
