"""The dual form gives the direct form's numbers: whatever the network, the rates, the chunks, the micro-batch and the weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import NAMES, adapt, first_order_maml, jit, make, maml, reptile, sample
from test_loop import close

from rgen.config import BenchmarkConfig
from rgen.fast import Dual, Function, InnerLoop, Params, capture, views
from rgen.fast.costs import even
from rgen.fast.plan import Plan, Purpose
from rgen.hardware import Hardware
from rgen.likelihood import Categorical
from rgen.sequence import Prediction, Sequence
from rgen.timing.benchmark import combinations, made_up, model_of

CHOICES = {
    "kept": Dual(chunk=4, fold=False, every_layer=True),
    "folded": Dual(chunk=4, fold=True, every_layer=True),
}
BY_ALL = ("text-mlp per-array", "image-heads", "text-heads partly")


def dual(loop: InnerLoop, form: Dual) -> InnerLoop:
    return dataclasses.replace(loop, form=form)


def planned(loop: InnerLoop, form: Dual, params: Params, x: Any, batch: int | None = None, drawn: bool = False) -> Plan:
    return form.plan(dual(loop, form), params.init, x, batch, Purpose(drawn=drawn))


def named(plan: Plan, layers: Any) -> set[str]:
    """The paths of layers' weights, without those of their biases."""
    return {plan.program.names[leaf] for leaf in layers}


def agree(loop: InnerLoop, params: Params, seqs: Sequence, form: Dual, rtol: float = 1e-10) -> None:
    """Nats and meta-gradients of both forms are the same."""
    other = dual(loop, form)
    for function in (maml, first_order_maml, *([reptile] if loop.fast is None else [])):
        close(function(other, params, seqs), function(loop, params, seqs), rtol)


QUICK = [(name, "kept") for name in ("text-mlp per-array", "siren", "text-heads", "image-heads", *problems.LEARNS)]
QUICK += [("gated", "chosen"), ("text-mlp per-array", "folded"), ("text-heads partly", "folded")]
EVERY = [(name, choice) for name in NAMES for choice in (*CHOICES, "chosen")]


@pytest.mark.parametrize(("name", "choice"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in EVERY])
def test_every_network(name, choice):
    """With all layers taken over that can be, or those that the cost model chooses. Some by every function, all by MAML.

    Those that are not seen by every run of the suite, test_golden.py has in dual form too.
    """
    loop, params, seqs = make(name, "direct")
    other = dual(loop, CHOICES.get(choice, Dual()))
    close(maml(other, params, seqs), maml(loop, params, seqs))
    close(adapt(other, params, seqs), adapt(loop, params, seqs))
    if name in BY_ALL:
        close(first_order_maml(other, params, seqs), first_order_maml(loop, params, seqs))
        keys = jax.random.split(jax.random.key(1), 2)
        close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys))
        if loop.fast is None:
            close(reptile(other, params, seqs), reptile(loop, params, seqs))


@pytest.mark.parametrize(("name", "choice"), [("image-heads by memory", "kept"), ("text-mlp per-array", "folded")])
def test_inputs_that_all_sequences_share(name, choice):
    """As one row they give what they give as many, in micro-batches that are not full, in both forms."""
    loop, params, (x, y, _) = make(name, "direct")
    y = np.stack([y[0], y[1], y[0, ::-1]])
    each = Sequence(np.broadcast_to(x[0], (3, *x[0].shape)), y, np.ones(y.shape))
    shared, other = each._replace(x=x[:1]), dual(loop, dataclasses.replace(CHOICES[choice], micro_batch=2))
    close(maml(loop, params, shared), maml(loop, params, each))
    for function in (maml, adapt, *([reptile] if loop.fast is None else [])):
        close(function(other, params, shared), function(loop, params, each))
    keys = jax.random.split(jax.random.key(1), 3)
    close(sample(other, params, shared.x, keys), sample(loop, params, each.x, keys))


class Skip(nn.Module):
    """Uses the embedding of its input for a layer whose input is known then, and beside it."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4, name="place")(x)
        return nn.Dense(3, name="behind")(jnp.tanh(h)) + jnp.tanh(nn.Dense(3, name="after")(jnp.sin(nn.Dense(4, name="first")(h)) + h))


@pytest.mark.parametrize(("name", "choice", "shared"), [("text-mlp per-array", "kept", True), ("skip", "kept", False)])
def test_an_embedding_that_is_read_once(name, choice, shared):
    """Where no input comes twice, the layer behind it is foreseen if taps are kept and nothing else reads it; it learns all the same."""
    if name == "skip":
        loop, x = InnerLoop(Skip(), Categorical(), "rank-one", 0.2, form="direct"), np.array([[0, 1, 5, 2, 4, 3], [5, 4, 3, 0, 1, 2]])
        params = problems.disturbed(loop.init(jax.random.key(0), x[0, 0]), np.random.default_rng(3))
    else:
        loop, params, _ = make(name, "direct")
        x = np.array([[0, 1, 2, 3, 4, 5, 6], [3, 1, 0, 6, 5, 2, 4]])
    y = np.random.default_rng(2).integers(3, size=x.shape)
    seqs = Sequence(x[:1] if shared else x, y, np.ones(y.shape))
    form = dataclasses.replace(CHOICES[choice], micro_batch=1, distinct=True)
    other, plan = dual(loop, form), planned(loop, form, params, seqs.x, batch=2)
    assert named(plan, plan.foreseen) == (set() if name == "skip" else {"hidden_0/kernel"})
    for function in (maml, reptile, adapt):
        close(function(other, params, seqs), function(loop, params, seqs))
    keys = jax.random.split(jax.random.key(1), 2)
    close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys))


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 9),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 10),
    micro=st.integers(1, 5),
    fold=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_length_batch_chunk_and_micro_batch(length, batch, chunk, micro, fold, seed):
    loop, params, _ = make("text-mlp per-array", "direct")
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(rng.integers(7, size=length), (batch, length))  # positions may come twice
    y, weight = rng.integers(3, size=x.shape), rng.choice([0.0, 1.0, 0.5], x.shape)
    seqs = Sequence(x, y, weight)
    close(maml(dual(loop, Dual(chunk, fold, micro, every_layer=True)), params, seqs), maml(loop, params, seqs))


def test_chunks_of_several_parts():
    """The reverse sweep cuts chunks of 20 steps into parts of 10; the last chunk is not full."""
    loop, params, _ = make("text-mlp per-array", "direct")
    rng = np.random.default_rng(1)
    x = np.broadcast_to(rng.integers(7, size=33), (2, 33))
    form = Dual(chunk=20, fold=False, every_layer=True)
    plan = planned(loop, form, params, x)
    assert (plan.chunk, plan.part, plan.chunks) == (20, 10, 2)
    seqs = Sequence(x, rng.integers(3, size=x.shape), np.ones(x.shape))
    close(maml(dual(loop, form), params, seqs), maml(loop, params, seqs))


def test_logits_wider_than_the_parameters():
    """SIREN's coordinates are float64 here; the nats of several micro-batches are added up all the same."""
    loop, params, seqs = make("siren", "dual")
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    nats, _ = maml(dual(loop, Dual(micro_batch=1)), narrow, seqs)
    close(nats, maml(loop, narrow, seqs)[0], rtol=1e-6)  # float32 where one micro-batch is all


def test_a_cotangent_for_each_step_and_sequence():
    loop, params, seqs = make("siren", "direct")
    ct = np.random.default_rng(0).standard_normal(seqs.y.shape)
    gradient = jit(jax.grad(lambda params, form: (ct * form.score(params, seqs)).sum()), static_argnums=1)
    close(gradient(params, dual(loop, CHOICES["kept"])), gradient(params, loop))


def test_float32():
    loop, params, seqs = make("text-mlp per-array", "direct")
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    seqs = seqs._replace(weight=seqs.weight.astype(np.float32))
    close(maml(dual(loop, CHOICES["kept"]), params, seqs), maml(loop, params, seqs), rtol=1e-4)


class Shared(nn.Module):
    """Uses an embedding for a layer that learns and for one that does not."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4, name="place")(x)
        read = nn.Dense(3, name="memory")(jnp.stack([jnp.sin(h), h])).sum(0)
        return read + nn.Dense(3, name="beside")(h) + jnp.tanh(nn.Dense(3, name="behind")(read))


class Scaled(nn.Module):
    """A scale that learns, before a layer that does; and a product that is read without its bias too."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(6, 4, name="place")(x) * self.param("scale", nn.initializers.ones, (4,))
        product = nn.Dense(3, use_bias=False, name="memory")(h)
        return product + jnp.tanh(product + self.param("bias", nn.initializers.zeros, (3,)))


def test_a_layer_behind_a_weight_that_learns_and_is_carried_is_not_foreseen():
    loop = InnerLoop(Scaled(), Categorical(), "per-array", 0.2, ("scale", "memory", "bias"), form="direct")
    x = np.array([[0, 1, 2, 1, 4], [5, 4, 3, 3, 1]])
    seqs = Sequence(x, np.random.default_rng(2).integers(3, size=x.shape), np.ones(x.shape))
    params = problems.disturbed(loop.init(jax.random.key(0), x[0, 0]), np.random.default_rng(3))
    plan = planned(loop, CHOICES["kept"], params, x)
    assert not plan.foreseen and named(plan, plan.carried) == {"scale", "bias"}
    close(maml(dual(loop, CHOICES["kept"]), params, seqs), maml(loop, params, seqs))


def test_inputs_that_are_known_before_the_inner_loop():
    """What they are made of is used before it only, unless something else needs it too. If all learns, none are."""
    memory, keys = "heads/memory/kernel", {f"heads/keys/{name}" for name in ("frequency", "amplitude")}
    for name, drawn, foreseen, outside in (
        ("image-heads by memory", True, {memory}, keys),
        ("text-heads partly", False, {memory}, keys),
        ("text-heads partly", True, {memory}, keys),
        ("image-heads", False, set(), set()),
    ):
        loop, params, seqs = make(name, "direct")
        plan = planned(loop, CHOICES["kept"], params, seqs.x, drawn=drawn)
        inside = plan.taken | named(plan, (*plan.carried, *plan.fixed))
        assert (named(plan, plan.foreseen), set(plan.program.names) - inside, plan.late) == (foreseen, outside, False), name
    loop = InnerLoop(Shared(), Categorical(), "rank-one", 0.2, ("memory", "behind/kernel"), form="direct")
    x = np.array([[0, 1, 2, 1, 4], [5, 4, 3, 3, 1]])
    seqs = Sequence(x, np.random.default_rng(2).integers(3, size=x.shape), np.ones(x.shape))
    params = problems.disturbed(loop.init(jax.random.key(0), x[0, 0]), np.random.default_rng(3))
    plan = planned(loop, CHOICES["kept"], params, x)
    assert named(plan, plan.foreseen) == {"memory/kernel"} and "place/embedding" in plan.taken
    agree(loop, params, seqs, CHOICES["kept"])


class Reader(nn.Module):
    """Pays for what it makes of its memory, its readout's own logits and the output before; learns by the readout alone."""

    last_outputs: int = 1

    @nn.compact
    def __call__(self, inputs):
        x, outputs = inputs
        read = nn.Dense(3, name="memory")(nn.Embed(6, 4, name="place")(x))
        learned = nn.Dense(3, name="readout")(jnp.tanh(read))
        recent = nn.Embed(4, 3, name="recent")(outputs[0] + 1)
        return Prediction(nn.Dense(3, name="behind")(nn.LayerNorm()(read + recent)) + jnp.sin(learned), learned)


@pytest.mark.parametrize(("choice", "shared"), [("kept", False), ("folded", True)])
def test_what_is_paid_is_computed_late_where_nothing_waits_for_it(choice, shared):
    x, y = np.array([[0, 1, 2, 1, 4], [5, 4, 3, 3, 1]]), np.random.default_rng(2).integers(3, size=(2, 5))
    seqs = Sequence(x[:1] if shared else x, y, np.array([[1, 1, 0, 1, 1], [1, 0.5, 1, 1, 0]]))
    loop = InnerLoop(Reader(), Categorical(), "rank-one", 0.2, ("memory",), form="direct")
    params = problems.disturbed(loop.init(jax.random.key(0), x[0, 0]), np.random.default_rng(3))
    plan = planned(loop, CHOICES[choice], params, seqs.x, batch=2)
    assert plan.late and plan.taken == {f"{name}/{part}" for name in ("memory", "readout") for part in ("kernel", "bias")}
    assert not planned(dataclasses.replace(loop, fast=("memory", "behind")), CHOICES[choice], params, seqs.x, batch=2).late
    agree(loop, params, seqs, CHOICES[choice])


def test_a_network_says_by_one_name_only_that_it_reads_the_last_outputs():
    class Named(nn.Module):
        context: int = 5  # the author's own, whatever it is

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Embed(6, 4)(x))

    assert InnerLoop(Named(), Categorical()).reads == 0
    with pytest.raises(ValueError, match="last_outputs is -1"):
        InnerLoop(Reader(last_outputs=-1), Categorical())
    x, y = np.array([[0, 1, 2, 1, 4]]), np.array([[2, 0, 1, 1, 2]])
    seqs = Sequence(x, y, np.ones(y.shape))
    reader = InnerLoop(Reader(), Categorical(), rate=0.2)
    pure = Function(lambda key, x: Reader().init(key, x)["params"], lambda w, x: Reader().apply({"params": w}, x), last_outputs=1)
    params = reader.init(jax.random.key(0), x[0, 0])
    nats = reader.score(params, seqs)
    assert jnp.array_equal(nats, dataclasses.replace(reader, network=pure).score(params, seqs))
    assert not jnp.allclose(nats[0, -1], reader.score(params, seqs._replace(y=np.array([[2, 0, 1, 0, 2]])))[0, -1], rtol=1e-3)


def test_a_primitive_that_this_jax_does_not_have_is_said_once():
    """Weights that are used by it would be carried without a word, which is slow. All that are relied on are there."""
    with pytest.warns(UserWarning, match=r"JAX .* has no primitive 'contraction'.* are carried, which is slow"):
        assert views.primitive("contraction") is None
    relied_on = (views.TRANSPOSE, views.SQUEEZE, views.BROADCAST, views.RESHAPE, views.CONVERT, views.COPY, views.PRODUCT, views.GATHER)
    assert None not in (*relied_on, views.SLICE, *capture.INLINED, *capture.ADD)


def test_a_plan_is_made_for_the_devices_of_its_form():
    """They are part of the form, and so of what JAX keeps compiled programs by."""
    loop, params, seqs = make("siren", "direct")
    seen = []

    @jax.jit(static_argnums=0)
    def micro_batch(loop, params, x):
        seen.append(loop.form.plan(loop, params.init, x).micro_batch)
        return jnp.array(seen[-1])

    x = jnp.asarray(np.broadcast_to(seqs.x[0], (64, *seqs.x[0].shape)))
    small, large = Hardware("cpu", 1, cache=1.0), Hardware("tpu", 4, memory=2**34)
    for there, expected in ((small, 4), (large, 64), (small, 4)):
        assert micro_batch(dual(loop, Dual(fold=False, every_layer=True, hardware=there)), params, x) == expected
    assert seen == [4, 64]


@pytest.mark.parametrize(
    ("preset", "length", "fold"), [("digits-maml", 64, False), ("small-mnist-heads", 196, True), ("text-maml", 128, False)]
)
def test_what_the_cost_model_chooses_for_presets(preset, length, fold):
    ((what,),) = combinations(BenchmarkConfig((preset,), ("maml",), ("dual",), (32,), (length,)))
    loop, seqs = model_of(what), made_up(what)
    assert isinstance(loop, InnerLoop)
    form = dataclasses.replace(loop.form, hardware=Hardware("cpu", 2, cache=2.0**20))
    assert planned(loop, form, jax.eval_shape(loop.init, jax.random.key(0), seqs.x[0, 0]), seqs.x, 32).fold is fold


@pytest.mark.parametrize("fold", [False, True])
def test_chunks_after_the_end_are_skipped(fold):
    """With so many lines that in some micro-batches all end early, and in others not."""
    loop, params, _ = make("text-mlp", "direct")
    loop = dataclasses.replace(loop, end=1)
    x, keys = np.broadcast_to(np.arange(7), (24, 7)), jax.random.split(jax.random.key(0), 24)
    expected = sample(loop, params, x, keys)
    ends = (np.asarray(expected.y) == 1).argmax(1)
    assert ends.reshape(12, 2).max(1).min() < 4 < ends.max()
    close(sample(dual(loop, Dual(chunk=2, fold=fold, micro_batch=2, every_layer=True)), params, x, keys), expected)


def test_heads_are_one_batched_layer():
    loop, params, seqs = make("image-heads", "direct")
    plan = planned(loop, CHOICES["kept"], params, seqs.x)
    assert {plan.program.names[leaf]: layer.heads for leaf, layer in plan.learning.items()}["heads/memory/kernel"] == 6


def test_a_second_derivative_is_refused():
    loop, params, seqs = make("siren", "dual")
    loop = dual(loop, CHOICES["kept"])

    def total(init):
        return loop.score(params._replace(init=init), seqs).sum()

    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.grad(lambda init: sum((g**2).sum() for g in jax.tree.leaves(jax.grad(total)(init))))(params.init)


def test_vmap_over_rates():
    loop, params, seqs = make("siren", "direct")
    rates = jnp.array([0.05, 0.2])
    values = [
        jax.vmap(lambda r, f=form: f.score(params._replace(rates={"fixed": r}), seqs))(rates)
        for form in (loop, dual(loop, CHOICES["kept"]))
    ]
    close(values[1], values[0])


@given(length=st.integers(1, 400), chunk=st.one_of(st.none(), st.integers(1, 500)), fold=st.booleans())
def test_chunks_cover_the_length(length, chunk, fold):
    loop, params, _ = make("siren", "direct")
    x = np.zeros((3, length, 2))
    engine = planned(loop, Dual(chunk, fold, every_layer=True), params, x)
    assert engine.chunk % engine.part == 0
    assert length <= engine.length < length + engine.chunk
    assert engine.part <= 16
    if chunk is None:
        assert engine.length < length + engine.length // engine.part + engine.chunks  # at most a step in vain for each
        assert fold or engine.chunks <= 4


@given(length=st.integers(1, 1000), size=st.integers(1, 40))
def test_even_pieces_waste_less_than_one_step_each(length, size):
    piece = even(length, size)
    assert piece <= size
    assert length <= piece * -(-length // piece) < length + -(-length // size)
