"""The baselines: the same promises as the inner loop's, and what they are fed; the transformer against an independent computation."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from problems import batch, every_sequence, maml, sample, score
from scipy import special, stats

from rgen import baselines, models, play
from rgen.baselines import LSTM, Attentive, Recurrent, Transformer
from rgen.choices import BASELINES
from rgen.commands import check, inside
from rgen.config import PRESETS, CheckConfig, InsideConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.likelihood import Bernoulli, Categorical, Likelihood, Ordered
from rgen.sampling import Sampler, film
from rgen.sequence import Given, Sequence, SequenceModel, until_end
from runs import command, rows, words

# kind -> shape of the places, symbols, likelihood, logits
KINDS: dict[str, tuple[tuple[int, ...], int, Likelihood, int]] = {
    "text": ((7,), 3, Categorical(), 3),
    "image": ((2, 3), 2, Bernoulli(), 1),
    "array": ((2, 1, 3), 4, Ordered(4, 2), 6),
}
SIZES = {"lstm": {"width": 4, "depth": 2, "features": 3}, "transformer": {"width": 12, "depth": 2, "heads": 2}}


class Case(NamedTuple):
    model: Any
    params: Any
    seqs: Sequence


@cache
def make(name: str, kind: str) -> Case:
    """A tiny baseline, float64 parameters, and a batch of 2 sequences, the second one in another order of places."""
    shape, symbols, likelihood, outputs = KINDS[kind]
    model: Any = baselines.build(name, shape, outputs, symbols, likelihood, options=SIZES[name])
    x, rng = problems.inputs(shape), np.random.default_rng(0)
    params = problems.disturbed(model.init(jax.random.key(0), x[0]), rng)
    return Case(model, params, Sequence(np.stack([x, rng.permutation(x)]), rng.integers(symbols, size=(2, len(x))), np.ones((2, len(x)))))


both = pytest.mark.parametrize("name", BASELINES)
kinds = pytest.mark.parametrize("kind", ["text", "image"])


@both
@kinds
def test_gradient_against_central_differences(name, kind):
    """With respect to everything, an initial state included; step and tolerance as for the inner loop."""
    model, params, seqs = make(name, kind)
    _, gradient = maml(model, params, seqs)
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(2):
        direction = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape), params)
        up, down = (score(model, jax.tree.map(lambda a, d, h=h: a + h * d, params, direction), seqs).sum(1).mean() for h in (h, -h))
        slope = sum(float((g * d).sum()) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
        assert slope == pytest.approx(float(up - down) / (2 * h), rel=1e-6, abs=1e-8)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


@both
@kinds
def test_probabilities_of_all_sequences_sum_to_one(name, kind):
    model, params, seqs = make(name, kind)
    y = every_sequence(model.network.symbols, 4)
    assert float(np.exp(-score(model, params, batch(seqs.x[0, :4], y)).sum(1)).sum()) == pytest.approx(1, rel=1e-12)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_scoring_a_sample_gives_back_its_own_nats(name, kind):
    """In places of any number of axes and any order; drawn, or given and fed."""
    model, params, seqs = make(name, kind)
    nothing = np.zeros(seqs.y.shape, bool)
    for known in (nothing, np.broadcast_to(np.arange(seqs.y.shape[1]) % 3 == 1, seqs.y.shape)):
        trace = sample(model, params, seqs.x, jax.random.split(jax.random.key(3), 2), Given(seqs.y, known))
        np.testing.assert_array_equal(np.asarray(trace.y)[known], seqs.y[known])
        np.testing.assert_allclose(trace.nll, score(model, params, seqs._replace(y=trace.y)), rtol=1e-11)
    assert (np.asarray(trace.y) != seqs.y).any()


@both
@kinds
def test_samples_come_as_often_as_their_probability_says(name, kind):
    model, params, seqs = make(name, kind)
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
    often = count * probability > 5
    assert seen.sum() == count and often.sum() > 4
    seen, expected = (np.append(a[often], a[~often].sum()) for a in (seen, count * probability))
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-3


@both
@kinds
def test_a_sample_is_its_own_whatever_is_drawn_beside_it(name, kind):
    """In a batch of any size, with places of its own or shared; and a shared place scores the same."""
    model, params, seqs = make(name, kind)
    keys, x = jax.random.split(jax.random.key(4), 5), np.asarray(seqs.x)[:1]
    drawn = sample(model, params, x, keys)
    own = sample(model, params, np.repeat(x, 5, 0), keys)
    one = sample(model, params, x, keys[3:4])
    for other, part in ((own, slice(None)), (one, slice(3, 4))):
        np.testing.assert_array_equal(other.y, drawn.y[part])
        np.testing.assert_allclose(other.nll, drawn.nll[part], rtol=1e-12)
    np.testing.assert_allclose(score(model, params, Sequence(x, drawn.y, np.ones((5, x.shape[1])))), drawn.nll, rtol=1e-11)


@both
@kinds
def test_an_output_changes_nothing_before_it_and_all_after_it(name, kind):
    model, params, seqs = make(name, kind)
    x, y = seqs.x[0], seqs.y[0]
    nats = score(
        model, params, batch(x, np.stack([y, *(np.where(np.arange(len(y)) == s, 1 - np.minimum(y, 1), y) for s in range(len(y)))]))
    )
    for s in range(len(y)):
        np.testing.assert_allclose(nats[1 + s, :s], nats[0, :s], rtol=1e-12)
        assert (np.abs(nats[1 + s, s + 1 :] - nats[0, s + 1 :]) > 1e-9).all()  # little is forgotten in so few steps


@both
@kinds
def test_every_part_of_the_position_is_read(name, kind):
    model, params, seqs = make(name, kind)
    for axis in range(np.asarray(seqs.x)[0, 0].size):
        moved = np.array(seqs.x)
        moved.reshape(2, seqs.y.shape[1], -1)[:, 3, axis] = 1 - moved.reshape(2, seqs.y.shape[1], -1)[:, 3, axis].clip(0, 1)
        change = np.abs(score(model, params, seqs) - score(model, params, seqs._replace(x=moved)))
        assert (change[:, :3] == 0).all() and (change[:, 3] > 1e-9).all()


# ---------------------------------------------------------------- the LSTM


def test_the_step_before_the_first_counts_as_an_output_of_zero_for_the_lstm():
    model, params, seqs = make("lstm", "text")
    first: Any = model.network.apply({"params": params}, params["start"], seqs.x[0, 0], jnp.int32(0))
    nats = -jax.nn.log_softmax(first[1])[seqs.y[0, 0]]
    np.testing.assert_allclose(score(model, params, seqs)[0, 0], nats, rtol=1e-12)


def test_the_lstm_has_the_originals_size_by_default():
    # tables of rows, columns and pixels; three cells of 256 with four gates and one bias; the initial state; the logit
    network = LSTM((28, 28), 2, 1)
    tree = jax.eval_shape(network.init, jax.random.key(0), np.zeros((3, 2, 256)), np.zeros(2, np.int32), np.int32(0))
    tables, cells = (28 + 28 + 2) * 128, (3 * 128 + 256) * 4 * 256 + 2 * (256 + 256) * 4 * 256 + 3 * 4 * 256
    assert sum(a.size for a in jax.tree.leaves(tree)) == tables + cells + 3 * 2 * 256 + 256 + 1


# ---------------------------------------------------------------- the transformer


def rms(x: np.ndarray, scale: Any) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + 1e-6) * np.asarray(scale)


def turned(vector: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rotary positions by complex numbers: the i-th of the first half and of the second are one, those of an axis lie side by side."""
    pairs = len(vector) // 2 // len(shape)
    angles = [n * size ** (-j / max(pairs - 1, 1)) for n, size in zip(np.atleast_1d(place), shape) for j in range(pairs)]
    many = len(angles)
    after = (vector[:many] + 1j * vector[many : 2 * many]) * np.exp(1j * np.array(angles))
    return np.concatenate([after.real, after.imag, vector[2 * many :]])


def by_definition(model: Attentive, params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logits [T, outputs] of one sequence, one step, head and earlier step after the other, in numpy."""
    network, params = model.network, jax.tree.map(np.asarray, params)
    size, stream = network.width // network.heads, []
    before, previous = [x[0], *x[:-1]], [network.symbols, *y[:-1]]
    for t in range(len(y)):
        h = params["previous"]["embedding"][previous[t]].copy()
        for axis in range(len(network.shape)):
            h += params[f"place_{axis}"]["embedding"][np.atleast_1d(x[t])[axis]]
            h += params[f"before_{axis}"]["embedding"][np.atleast_1d(before[t])[axis]]
        stream.append(h)
    for layer in range(network.depth):
        p = params[f"block_{layer}"]
        qkv = [(rms(h, p["norm_attention"]["scale"]) @ p["qkv"]["kernel"]).reshape(3, network.heads, size) for h in stream]
        for t, h in enumerate(list(stream)):
            read = []
            for head in range(network.heads):
                query = turned(qkv[t][0, head], x[t], network.shape)
                scores = [query @ turned(qkv[s][1, head], before[s], network.shape) / np.sqrt(size) for s in range(t + 1)]
                read.extend(special.softmax(scores) @ [qkv[s][2, head] for s in range(t + 1)])
            h = h + np.array(read) @ p["read"]["kernel"]
            value, gate = np.split(rms(h, p["norm_hidden"]["scale"]) @ p["hidden"]["kernel"], 2)
            stream[t] = h + (value * gate * special.expit(gate)) @ p["residual"]["kernel"]
    return np.stack([rms(h, params["norm"]["scale"]) @ params["logits"]["kernel"] + params["logits"]["bias"] for h in stream])


@pytest.mark.parametrize("kind", KINDS)
def test_the_transformer_is_what_its_definition_says(kind):
    model, params, seqs = make("transformer", kind)
    for x, y, nats in zip(seqs.x, seqs.y, score(model, params, seqs)):
        expected = [model.likelihood.nll(jnp.asarray(logits), n) for logits, n in zip(by_definition(model, params, x, y), y)]
        np.testing.assert_allclose(nats, expected, rtol=1e-10)


def test_a_width_that_the_heads_do_not_divide_is_a_sentence():
    with pytest.raises(InputError, match="width is 12, which is not divisible by its 5 heads"):
        Transformer((7,), 3, 3, width=12, heads=5)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-transformer")])
def test_the_presets_have_as_many_parameters_as_they_should(name):
    preset = PRESETS[name][1]
    text = name.startswith(("names", "text"))
    shape = (preset.max_length,) if text else {"digits-transformer": (8, 8), "small-mnist-transformer": (14, 14)}.get(name, (28, 28))
    data = Dataset("text" if text else "image", {"train": np.zeros((1, *shape), np.uint8)}, 256 if text else 2)
    assert 1e5 <= models.numbers(models.parameter_shapes(models.from_config(preset, data), data)) <= 2e5


# ---------------------------------------------------------------- as users run them


def test_a_run_of_the_transformer_by_commands(tmp_path):
    """Trained, resumed, evaluated, drawn, completed and exported."""
    sizes = words("--reduce 2 --width 8 --depth 1 --heads 2 --meta-batch 2 --eval-count 4 --eval-every 2 --log-every 1 --run run")
    for steps in (["--steps", 2], ["--steps", 4, "--resume"]):
        command("train", "digits-transformer", *sizes, *steps, cwd=tmp_path)
    assert [row["step"] for row in rows(tmp_path / "run") if "nats" in row] == [1, 2, 3, 4]
    command("evaluate", *words("--run run --count 5 --json nats.json"), cwd=tmp_path)
    assert json.loads((tmp_path / "nats.json").read_text())["nats_per_sequence"] > 0
    for options in ("--count 4 --out drawn.png", "--complete top --count 2 --out completed.png", "--export sampler"):
        command("sample", *words(f"--run run {options}"), cwd=tmp_path)
    assert all((tmp_path / name).stat().st_size for name in ("drawn.png", "completed.png", "sampler"))


@both
def test_what_needs_an_inner_loop_says_that_there_is_none(name, monkeypatch):
    shape, symbols, likelihood, outputs = KINDS["image"]
    model: SequenceModel = baselines.build(name, shape, outputs, symbols, likelihood)
    assert isinstance(model, {"lstm": Recurrent, "transformer": Attentive}[name])
    for module in (check, inside):
        monkeypatch.setattr(module, "load_run", lambda *_, **__: SimpleNamespace(model=model))
    sampler, image = Sampler(model, shape), Dataset("image", {"train": np.zeros((1, *shape), np.uint8)})
    for refused in (
        lambda: play.page(sampler, (), image, "title"),
        lambda: film.show(sampler, (), image, 0, 1, None),
        lambda: inside.main(InsideConfig(Path("run"))),
        lambda: check.main(CheckConfig(Path("run"))),
    ):
        with pytest.raises(InputError, match=BASELINES[name]):
            refused()
