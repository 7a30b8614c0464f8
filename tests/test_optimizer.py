"""Which parameters follow which optimizer, and how far."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgen import meta, models, training
from rgen.config import TrainConfig
from rgen.data import load
from rgen.fast import Params
from rgen.runs.folder import Run
from rgen.training.outer_step import with_noise
from runs import TINY, last_state

ADAMW = TrainConfig(outer_rate=0.01, weight_decay=0.1)
MUON = dataclasses.replace(ADAMW, optimizer="muon", muon_rms=0.5)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def first_update(config: TrainConfig, gradient: Any, params: Any) -> Any:
    optimizer = training.make_optimizer(config)
    return optimizer.update(gradient, optimizer.init(params), params)[0]


WEIGHTS = {
    "dense": {"kernel": normal(0, 12, 20), "bias": normal(1, 20)},
    "logit": {"kernel": normal(2, 12, 1), "bias": normal(3, 1)},
    "place": {"embedding": normal(4, 9, 12)},
    "heads": {"memory": {"kernel": normal(5, 4, 6, 3), "bias": normal(6, 4, 3)}},
}
RATES = {"dense": {"kernel": normal(7, 3, 3), "bias": normal(8)}}


@pytest.mark.parametrize("params", [Params(WEIGHTS, RATES), WEIGHTS], ids=["inner loop", "recurrent"])
def test_muon_moves_kernels_alone(params):
    gradient = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), params)

    ours, adamw = (first_update(config, gradient, params) for config in (MUON, ADAMW))
    differs = jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 1e-9), ours, adamw)
    weights = differs.init if isinstance(params, Params) else differs
    assert weights["dense"] == {"kernel": True, "bias": False}
    assert sum(jax.tree.leaves(differs)) == 1


def test_an_update_of_a_kernel_has_nearly_equal_singular_values_and_the_size_that_was_asked_for():
    gradient = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), WEIGHTS)
    update = first_update(dataclasses.replace(MUON, weight_decay=0.0), gradient, WEIGHTS)["dense"]["kernel"]
    before, after = (np.linalg.svd(kernel, compute_uv=False) for kernel in (gradient["dense"]["kernel"], update))
    assert before.max() > 3 * before.min() and after.max() < 2 * after.min()
    assert float(jnp.sqrt((update**2).mean())) == pytest.approx(0.5 * 0.01, rel=0.3)
    assert float((update * gradient["dense"]["kernel"]).sum()) < 0


def test_weights_decay_alike_with_both_and_rates_do_not():
    params = Params(WEIGHTS, RATES)
    nothing = jax.tree.map(jnp.zeros_like, params)
    for config in (ADAMW, MUON):
        update = first_update(config, nothing, params)
        jax.tree.map(lambda moved, weight: np.testing.assert_allclose(moved, -0.01 * 0.1 * weight, rtol=1e-5), update.init, WEIGHTS)
        assert not any(np.any(rate) for rate in jax.tree.leaves(update.rates))


@pytest.mark.parametrize("params", [Params(WEIGHTS, RATES), WEIGHTS], ids=["inner loop", "baseline"])
def test_weight_noise_is_of_the_size_that_was_asked_for_and_on_kernels_and_embeddings_alone(params):
    draws = [with_noise(params, 0.2, jax.random.key(seed)) for seed in range(50)]
    for path, weights in jax.tree.leaves_with_path(params):
        noise = np.array([dict(jax.tree.leaves_with_path(draw))[path] - weights for draw in draws])
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "bias" in name or name.startswith("rates"):
            assert not noise.any(), name
        else:
            size = float(jnp.sqrt((weights**2).mean()))
            assert np.sqrt((noise**2).mean()) == pytest.approx(0.2 * size, rel=0.15), name
            assert abs(noise.mean()) < 4 * 0.2 * size / np.sqrt(noise.size), name


def test_an_outer_step_with_weight_noise_takes_the_gradient_at_the_noisy_weights_and_moves_the_others():
    data = load(TINY.data, reduce=TINY.reduce)
    model = models.from_config(TINY, data)
    params, optimizer, seqs = models.init(model, data, 0), training.make_optimizer(TINY), data.batch(0, 0, 2)
    state = training.init_state(params, optimizer)._replace(step=jnp.array(7, jnp.int32))
    step = training.make_step(model, "maml", optimizer, weight_noise=0.3, seed=5)
    after, measured = step(state, seqs, jnp.zeros(()))

    noisy = with_noise(params, 0.3, jax.random.fold_in(jax.random.key(5), 7))
    nats, gradient = meta.maml(model, noisy, seqs)
    update = optimizer.update(gradient, optimizer.init(params), params)[0]
    expected = jax.tree.map(jnp.add, params, update)
    assert float(measured.nats) == pytest.approx(float(nats), rel=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), after.params, expected)
    assert abs(float(meta.maml(model, params, seqs)[0]) - float(nats)) > 1e-3


@pytest.mark.parametrize("changed", [{"optimizer": "muon"}, {"weight_noise": 0.1, "seed": 3}], ids=str)
def test_a_run_goes_on_where_it_stopped(tmp_path, changed):
    config = dataclasses.replace(TINY, **changed)
    training.train(dataclasses.replace(config, run=tmp_path / "whole"))
    training.train(dataclasses.replace(config, run=tmp_path / "parts", steps=2))
    training.train(dataclasses.replace(config, run=tmp_path / "parts", resume=True))
    jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    assert Run(tmp_path / "parts").config() == dataclasses.replace(config, run=tmp_path / "parts", resume=True)
