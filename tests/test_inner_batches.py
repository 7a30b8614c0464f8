"""Steps with several outputs, optimizers in the inner loop, earlier outputs by their places: against plain loops of a few lines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from flax import linen as nn
from problems import adapt, first_order_maml, jit, make, maml, reptile, sample, score

from rgen.fast import Dual, InnerLoop, Params, check
from rgen.fast.functions import overlaid
from rgen.fast.rates import init_rates
from rgen.likelihood import Bernoulli, Categorical
from rgen.sequence import Given, Prediction, Sequence, WithOutputs, earlier

on = pytest.mark.parametrize


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), a, b)


def by_hand(loop: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    """Nats [B, T]: loops of Python over sequences and steps, one gradient of the sum of a step's weighted nats, no scan, vmap or vjp."""
    with jax.ensure_compile_time_eval():
        reads = np.asarray(earlier(seqs.x, loop.reads)) if loop.reads else None
    start, rates, rows = loop.start(params), loop.rates(params), []
    for b in range(len(seqs.y)):
        fast, row = start, []
        state = loop.optimizer.init(fast) if loop.optimizer else None

        def nats(fast, t, which, b=b):
            x: Any = seqs.x[b % len(seqs.x)][t]
            if reads is not None:
                x = WithOutputs(x, np.array([seqs.y[b, s] if s >= 0 else -1 for s in reads[b % len(reads), t]], np.int32))
            out = loop.apply(overlaid(params.init, fast), x)
            return loop.likelihood.nll(out[which] if isinstance(out, Prediction) else out, seqs.y[b, t])

        def loss(fast, steps, b=b):
            return sum(seqs.weight[b, t] * nats(fast, t, 1, b) for t in steps)

        for first in range(0, seqs.y.shape[1], loop.inner_batch):
            steps = range(first, min(first + loop.inner_batch, seqs.y.shape[1]))
            row += [seqs.weight[b, t] * nats(fast, t, 0) for t in steps]
            for _ in range(loop.inner_steps if any(seqs.weight[b, t] for t in steps) else 0):
                gradient = jax.grad(loss)(fast, steps)
                if loop.inner_clip:
                    gradient = optax.clip_by_global_norm(loop.inner_clip).update(gradient, optax.EmptyState())[0]
                updates = jax.tree.map(jnp.negative, gradient)
                if loop.optimizer:
                    updates, state = loop.optimizer.update(gradient, state, fast)
                back = jax.tree.map(lambda w0, w: w0 + (1 - loop.inner_decay) * (w - w0), start, fast)
                fast = jax.tree.map(lambda w, rate, u: w + rate * u, back, rates, updates)
        rows.append(jnp.stack(row))
    return jnp.stack(rows)


def by_hand_gradient(loop: InnerLoop, params: Params, seqs: Sequence) -> Params:
    return jit(jax.grad(lambda params: by_hand(loop, params, seqs).sum() / len(seqs.y)))(params)


# ---------------------------------------------------------------- several outputs a step


@on(("name", "size"), [("text-mlp per-array", 3), ("text-heads partly", 2), ("image-heads by memory", 4), ("gated", 9), ("lstm-block", 2)])
def test_the_definition(name, size):
    """T is no multiple of K, or less than it; learned rates, a network that reads outputs, an inner loss of its own."""
    loop, params, seqs = make(name, "direct")
    loop, seqs = dataclasses.replace(loop, inner_batch=size), problems.steps(seqs, slice(5))
    close(score(loop, params, seqs), jit(lambda params: by_hand(loop, params, seqs))(params))
    if name != "lstm-block":
        close(maml(loop, params, seqs)[1], by_hand_gradient(loop, params, seqs))


CHOICES = {
    "kept": Dual(chunk=2, fold=False, micro_batch=1, every_layer=True),
    "folded": Dual(chunk=1, fold=True, every_layer=True),
    "chosen": Dual(),
}


@on(
    ("name", "size", "choice"),
    [
        ("text-mlp per-array", 3, "kept"),
        ("text-mlp", 2, "folded"),
        ("text-heads", 2, "folded"),
        ("text-heads partly", 2, "kept"),
        ("image-heads by memory", 4, "kept"),
        ("image-heads by memory", 2, "folded"),
        ("image-heads", 3, "chosen"),
        ("gated", 9, "folded"),
        ("lstm-block", 2, "kept"),
        ("siren", 4, "kept"),
    ],
)
def test_the_dual_form(name, size, choice):
    loop, params, seqs = make(name, "direct")
    loop = dataclasses.replace(loop, inner_batch=size)
    other = dataclasses.replace(loop, form=CHOICES[choice])
    close(maml(other, params, seqs), maml(loop, params, seqs))
    close(adapt(other, params, seqs), adapt(loop, params, seqs))
    close(first_order_maml(other, params, seqs), first_order_maml(loop, params, seqs))
    keys = jax.random.split(jax.random.key(1), 2)
    close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys))
    if loop.fast is None:
        close(reptile(other, params, seqs), reptile(loop, params, seqs))


@on("form", ["direct", "dual"])
@on("name", ["text-heads partly", "text-mlp per-array"])
def test_what_is_drawn_scores_as_it_was_paid(name, form):
    """Also where outputs of a step read each other, after an end in the midst of a step, and with steps that are taken twice."""
    loop, params, seqs = make(name, form)
    for changes in ({"inner_batch": 3}, {"inner_batch": 2, "end": 1}, {"inner_batch": 2, "inner_steps": 2, "end": 1}):
        changed = dataclasses.replace(loop, **changes)
        y, nll = sample(changed, params, seqs.x, jax.random.split(jax.random.key(5), 2))
        ended = np.cumsum(y == 1, 1) - (y == 1) > 0 if changed.end is not None else np.zeros(y.shape, bool)
        close(nll, score(changed, params, Sequence(seqs.x, np.asarray(y), 1.0 - ended)))
        assert (np.asarray(y)[ended] == 1).all()


def test_what_is_given_is_fed():
    loop, params, seqs = make("text-heads partly", "dual")
    loop = dataclasses.replace(loop, inner_batch=3)
    given = Given(y=seqs.y.astype(np.int32), known=np.ones(seqs.y.shape, bool))
    y, nll = sample(loop, params, seqs.x, jax.random.split(jax.random.key(5), 2), given)
    np.testing.assert_array_equal(y, seqs.y)
    close(nll, score(loop, params, seqs._replace(weight=np.ones(seqs.y.shape))))


def test_a_step_has_the_moments_of_a_belief():
    loop, params, seqs = make("text-mlp per-array", "direct")
    loop = dataclasses.replace(loop, inner_batch=3)
    found = loop.belief(params, seqs, seqs.x[0], every=1)  # 7 outputs are 3 steps
    assert found.shape == (2, 4, 7, 3)
    fast, _ = adapt(loop, params, seqs)
    last = jax.vmap(lambda fast: jax.vmap(lambda x: loop.predict(params, fast, x))(seqs.x[0]))(fast)
    close(found[:, -1], last)
    state = loop.start(params)
    for first in range(0, 7, 3):
        now = slice(first, first + 3)
        state, nats = loop.step(params, state, seqs.x[0, now], seqs.y[0, now], seqs.weight[0, now])
        close(nats, score(loop, params, seqs)[0, now])
    close(state, jax.tree.map(lambda a: a[0], fast))
    norms = jax.tree.leaves(loop.inner_norms(params, seqs))[0]
    np.testing.assert_array_equal(norms[:, 0], norms[:, 2])
    assert norms.shape == (2, 7)


# ---------------------------------------------------------------- optimizers

OPTIMIZERS = {
    "momentum": {"optimizer": optax.sgd(0.1, momentum=0.9)},
    "adam": {"optimizer": optax.adam(0.05, eps_root=1e-8), "inner_batch": 2},
    "clipped": {"inner_clip": 0.5, "inner_batch": 2},
    "decay": {"inner_decay": 0.1},
    "steps": {"inner_steps": 2, "inner_batch": 2},
    "all": {"optimizer": optax.chain(optax.clip(0.3), optax.sgd(0.1, momentum=0.5)), "inner_decay": 0.1, "inner_steps": 2},
}


@on("which", OPTIMIZERS)
def test_an_optimizer_in_the_inner_loop(which):
    loop, params, seqs = make("text-mlp per-array", "direct")  # one of its outputs has weight 0
    loop, seqs = dataclasses.replace(loop, **OPTIMIZERS[which]), problems.steps(seqs, slice(4))
    close(score(loop, params, seqs), jit(lambda params: by_hand(loop, params, seqs))(params))
    close(maml(loop, params, seqs)[1], by_hand_gradient(loop, params, seqs))


def test_several_steps_in_the_dual_form():
    loop, params, seqs = make("image-heads by memory", "direct")
    loop = dataclasses.replace(loop, inner_steps=2, inner_batch=2)
    other = dataclasses.replace(loop, form=CHOICES["kept"])
    close(maml(other, params, seqs), maml(loop, params, seqs))
    keys = jax.random.split(jax.random.key(1), 2)
    close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys))
    loop, params, seqs = make("text-mlp", "direct")
    loop = dataclasses.replace(loop, inner_steps=2)
    close(reptile(dataclasses.replace(loop, form=CHOICES["folded"]), params, seqs), reptile(loop, params, seqs))


def test_hyperparameters_that_are_injected_are_learned():
    """Their derivative is that of the score, by finite differences."""
    loop, params, seqs = make("text-mlp", "direct")
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.05, b1=0.8, eps_root=1e-6)
    loop = dataclasses.replace(loop, optimizer=optimizer, rate=None)
    drawn = loop.init(jax.random.key(0), seqs.x[0, 0])
    assert drawn.rates.rates["fixed"] == 1 and set(drawn.rates.hyperparameters) >= {"learning_rate", "b1"}
    params = drawn._replace(init=params.init, rates=jax.tree.map(lambda a: jnp.asarray(a, float), drawn.rates))
    found = maml(loop, params, seqs)[1].rates.hyperparameters
    for name in ("learning_rate", "b1"):

        def nats(change, name=name):
            moved = params.rates.hyperparameters | {name: params.rates.hyperparameters[name] + change}
            changed = params._replace(rates=params.rates._replace(hyperparameters=moved))
            return score(loop, changed, seqs).sum() / len(seqs.y)

        np.testing.assert_allclose(found[name], (nats(1e-6) - nats(-1e-6)) / 2e-6, rtol=1e-5)


def test_a_gradient_of_zero_is_clipped_to_zero():
    loop, params, seqs = make("text-mlp", "direct")
    loop = dataclasses.replace(loop, inner_clip=1.0)
    nothing = seqs._replace(weight=np.zeros(seqs.y.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(maml(loop, params, nothing)))


@on(
    ("changes", "sentence"),
    [
        ({"inner_batch": 0}, "inner_batch is 0"),
        ({"inner_steps": 1.5}, "inner_steps is 1.5"),
        ({"inner_clip": -1.0}, "inner_clip is -1.0"),
        ({"inner_decay": 2.0}, "inner_decay is 2.0"),
        ({"inner_clip": "a"}, "inner_clip is 'a'"),
        ({"optimizer": "adam"}, "optimizer is a str"),
        ({"optimizer": optax.sgd(0.1), "form": "dual"}, "has optimizer. Give form='direct'"),
        ({"inner_clip": 1.0, "inner_decay": 0.1, "form": "dual"}, "inner_clip and inner_decay"),
    ],
)
def test_what_cannot_be_is_said(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        InnerLoop(nn.Dense(2), Categorical(), **{"form": "direct"} | changes)


def test_what_takes_plain_sgd_says_so():
    loop, params, seqs = make("text-mlp", "direct")
    loop = dataclasses.replace(loop, optimizer=optax.adam(0.1))
    with pytest.raises(ValueError, match="Reptile takes inner steps of plain SGD"):
        reptile(loop, params, seqs)
    with pytest.raises(ValueError, match="only the direct form computes it"):
        check(loop, seqs.x[0])
    with pytest.raises(ValueError, match="keeps no state of the inner optimizer"):
        loop.step(params, loop.start(params), seqs.x[0, 0], seqs.y[0, 0])


# ---------------------------------------------------------------- earlier outputs by their places


def test_earlier_outputs_are_found_by_their_places():
    shape, steps = (3, 4), ((0, 1), (1, 0), (1, -1))
    places = np.argwhere(np.ones(shape))
    orders = np.stack([np.arange(12), np.random.default_rng(0).permutation(12)])
    found = np.asarray(earlier(places[orders], steps))
    for order, found_in in zip(orders, found):
        when = {tuple(places[p]): t for t, p in enumerate(order)}
        for t, p in enumerate(order):
            for i, step in enumerate(steps):
                s = when.get(tuple(places[p] - step), -1)
                assert found_in[t, i] == (s if s < t else -1)
    np.testing.assert_array_equal(earlier(np.zeros((1, 4)), 2), [[[-1, -1], [0, -1], [1, 0], [2, 1]]])
    for no_places in (np.arange(4)[None], np.zeros((1, 4, 2))):
        with pytest.raises(ValueError, match=r"Give places as inputs, 2 integers each"):
            earlier(no_places, steps)


class Neighbours(nn.Module):
    """Reads the outputs to the left and above."""

    last_outputs = ((0, 1), (1, 0))

    @nn.compact
    def __call__(self, inputs):
        x, outputs = inputs
        key = jnp.concatenate([jax.nn.one_hot(x[0], 3), jax.nn.one_hot(x[1], 4)])
        read = nn.Dense(5, name="outputs")(jax.nn.one_hot(outputs + 1, 3).ravel())
        return nn.Dense(1, name="after")(jnp.tanh(nn.Dense(5, name="place")(key) + read))


def test_a_network_that_reads_neighbours_is_checked():
    places = np.argwhere(np.ones((2, 4)))
    found = check(InnerLoop(Neighbours(), Bernoulli(), inner_batch=3), places)
    assert found.same and "place/kernel" in found.taken + found.carried


@on(("order", "size"), [("raster", 1), ("random", 3)])
def test_a_network_that_reads_neighbours(order, size):
    """Places that all share stay shared: what depends on them alone is foreseen once, for scoring and for drawing."""
    rng, places = np.random.default_rng(0), np.argwhere(np.ones((2, 4)))
    x = places[None] if order == "raster" else np.stack([places[rng.permutation(8)] for _ in range(3)])
    y = rng.integers(2, size=(3, 8))
    loop = InnerLoop(Neighbours(), Bernoulli(), rate=0.3, fast=("place",), inner_batch=size, form="direct")
    weights = loop.init(jax.random.key(0), x[0, 0]).init
    params = Params(jax.tree.map(lambda a: jnp.asarray(a, float), weights), init_rates("fixed", {"w": jnp.zeros(1, float)}, 0.3))
    seqs = Sequence(x, y, np.ones(y.shape))
    close(score(loop, params, seqs), jit(lambda params: by_hand(loop, params, seqs))(params))
    for choice in (Dual(chunk=2, fold=False, micro_batch=2, every_layer=True), Dual(fold=True, every_layer=True)):
        other = dataclasses.replace(loop, form=choice)
        close(maml(other, params, seqs), maml(loop, params, seqs))
        plan = choice.plan(other, params.init, x, 3)
        assert {plan.program.names[leaf] for leaf in plan.foreseen} == {"place/kernel"}
        assert bool(plan.unshared) == (order == "random")
        keys = jax.random.split(jax.random.key(1), 3)
        y_drawn, nll = sample(other, params, x, keys)
        close((y_drawn, nll), tuple(sample(loop, params, x, keys)))
        close(nll, score(other, params, seqs._replace(y=np.asarray(y_drawn))))
