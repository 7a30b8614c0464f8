"""What is given and cannot be used is said in a sentence; what only a running program could see is the same number in both forms.

And what JAX can be told to forbid, rgen does not do.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from flax import linen as nn
from problems import adapt, jit, maml, sample, score
from test_loop import close, norm

from rgen.fast import Direct, Dual, Function, InnerLoop
from rgen.likelihood import Bernoulli, Categorical
from rgen.sequence import Sequence

PLACES, SYMBOLS = 6, 3
X = np.array([[0, 1, 2, 1, 4], [5, 4, 3, 3, 1]])
Y = np.array([[0, 2, 1, 1, 0], [2, 2, 0, 1, 1]])
NETWORK = nn.Sequential((nn.Embed(PLACES, 4), nn.tanh, nn.Dense(SYMBOLS)))
FORMS = {"direct": Direct(), "kept": Dual(chunk=2, fold=False, every_layer=True), "folded": Dual(chunk=2, fold=True, every_layer=True)}

every_form = pytest.mark.parametrize("form", FORMS)


def make(form: Any = "direct", network: Any = NETWORK) -> problems.Problem:
    loop = InnerLoop(network, Categorical(), "rank-one", 0.2, form=FORMS[form])
    params = problems.disturbed(loop.init(jax.random.key(0), X[0, 0]), np.random.default_rng(1))
    return problems.Problem(loop, params, Sequence(X, Y, np.ones(Y.shape)))


def put(array: np.ndarray, value: int) -> np.ndarray:
    """With another value in one place."""
    array = array.copy()
    array[1, 3] = value
    return array


def refused(loop: InnerLoop, params: Any, seqs: Sequence, *words: str) -> None:
    """By a sentence with all these words, from whatever reads values before anything runs."""
    for function in (loop.score, loop.adapt):
        with pytest.raises(ValueError) as caught:
            function(params, seqs)
        said = str(caught.value)
        assert said.endswith(".") and all(re.search(rf"(?<!\w){word}(?!\w)", said) for word in words), said


# ---------------------------------------------------------------- values out of range


@every_form
@pytest.mark.parametrize("y", [SYMBOLS, 17, -1])
def test_an_output_that_is_no_symbol_is_refused(y, form):
    loop, params, seqs = make(form)
    refused(loop, params, seqs._replace(y=put(Y, y)), str(y), f"(0|{SYMBOLS})", f"({SYMBOLS}|{SYMBOLS - 1})")
    refused(loop, params, jax.tree.map(jnp.asarray, seqs._replace(y=put(Y, y))), str(y))  # arrays of JAX as those of numpy


@every_form
def test_an_output_that_is_no_bit_is_refused(form):
    network = nn.Sequential((nn.Embed(PLACES, 4), nn.tanh, nn.Dense(1)))
    loop = InnerLoop(network, Bernoulli(), form=FORMS[form])
    params = loop.init(jax.random.key(0), X[0, 0])
    refused(loop, params, Sequence(X, put(Y // 2, 2), np.ones(Y.shape)), "2", "(0|1)")


@every_form
def test_where_the_weight_is_zero_any_output_may_stand(form):
    """Padding does. It changes nothing."""
    loop, params, seqs = make(form)
    padded = np.array([[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]], bool)
    seqs = seqs._replace(weight=1.0 - padded)
    expected = adapt(loop, params, seqs)
    y = Y.copy()
    y[padded] = SYMBOLS, 17, -1
    close(loop.adapt(params, seqs._replace(y=y)), expected)
    assert norm(expected[1]) > 1 and not np.asarray(expected[1])[padded].any()


@every_form
@pytest.mark.parametrize("x", [PLACES, 40])
def test_an_input_beyond_the_rows_of_an_embedding_is_refused(x, form):
    loop, params, seqs = make(form)
    refused(loop, params, seqs._replace(x=put(X, x)), str(x), f"({PLACES}|{PLACES - 1})")
    refused(loop, params, seqs._replace(x=np.array([[0, 1, x, 3, 4]])), str(x))  # also where all sequences share it


def beyond(p, x):
    return jnp.take(p["a"], x + 3, axis=0, mode="clip") + p["b"].at[2 * x].get(mode="fill", fill_value=0.5)


def test_a_network_may_say_itself_what_is_beyond_its_rows():
    """Then nothing is out of range."""
    network = Function(lambda key, x: {"a": jnp.ones((PLACES, SYMBOLS)), "b": jnp.ones((PLACES, SYMBOLS))}, beyond)
    loop, params, seqs = make("direct", network)
    close(loop.score(params, seqs), score(loop, params, seqs))


@every_form
def test_what_is_out_of_range_is_the_same_number_in_both_forms_when_compiled(form):
    """Inside of jit no value can be seen. What JAX makes of them there is no use to anybody, but it is one thing."""
    loop, params, seqs = make(form)
    direct = make()[0]
    for wrong in (*(seqs._replace(y=put(Y, y)) for y in (SYMBOLS, 17, -1)), *(seqs._replace(x=put(X, x)) for x in (PLACES, 40, -1, -9))):
        expected = np.asarray(score(direct, params, wrong))
        assert np.isfinite(expected).sum() >= 8  # the other sequence, and what came before
        np.testing.assert_allclose(score(loop, params, wrong), expected, rtol=1e-10)


@every_form
def test_what_is_in_range_is_not_refused(form):
    """First and last symbols and places, also as small integers."""
    loop, params, seqs = make(form)
    close(loop.score(params, seqs._replace(x=X.astype(np.int8), y=Y.astype(np.uint8))), score(loop, params, seqs))


def test_an_input_that_comes_twice_is_refused_where_none_was_promised():
    loop, params, seqs = make()
    loop = dataclasses.replace(loop, form=Dual(distinct=True))
    refused(loop, params, seqs, "1", "twice")
    with pytest.raises(ValueError, match="twice"):
        loop.sample(params, seqs.x, jax.random.split(jax.random.key(0), 2))
    loop.score(params, seqs._replace(weight=np.array([[1, 1, 1, 0, 1], [1, 1, 1, 0, 1]])))  # where it does not count it may stand


# ---------------------------------------------------------------- sentences


@every_form
def test_a_list_in_a_network_is_refused(form):
    """A list is not hashable, and what is not hashable cannot be compiled for."""
    with pytest.raises(ValueError, match="tuple"):
        InnerLoop(nn.Sequential([nn.Embed(PLACES, 4), nn.Dense(SYMBOLS)]), Categorical(), form=FORMS[form]).init(jax.random.key(0), X[0, 0])


def test_what_learns_is_a_tuple_of_names():
    for fast, said in ((["layers_2"], "tuple"), ("layers_2", r"""tuple.*\(["']layers_2["'],\)""")):
        wrong: Any = fast
        with pytest.raises(ValueError, match=said):
            InnerLoop(NETWORK, Categorical(), fast=wrong).init(jax.random.key(0), X[0, 0])
    loop = InnerLoop(NETWORK, Categorical(), fast=("layers_2",))
    assert set(loop.adapt(loop.init(jax.random.key(0), X[0, 0]), Sequence(X, Y, np.ones(Y.shape)))[0]) == {"layers_2"}


@every_form
def test_a_network_without_weights_is_refused(form):
    functions = (Function(lambda key, x: {}, lambda params, x: jnp.ones(SYMBOLS) * x), nn.Sequential((lambda x: jnp.ones(SYMBOLS) * x,)))
    for network in functions:
        with pytest.raises(ValueError, match=r"(?i)\b(no|none|nothing|without)\b.*learn"):
            InnerLoop(network, Categorical(), form=FORMS[form]).init(jax.random.key(0), X[0, 0])


@every_form
def test_raw_keys_are_refused(form):
    """A key, or one for each sequence: of jax.random.PRNGKey they are rows of two numbers, which would be taken for a batch."""
    loop, params, seqs = make(form)
    for keys in (jax.random.PRNGKey(0), jax.random.split(jax.random.PRNGKey(0), 2)):
        with pytest.raises(ValueError, match=r"jax\.random\.key"):
            loop.sample(params, seqs.x, keys)
    assert loop.sample(params, seqs.x, jax.random.split(jax.random.key(0), 2)).y.shape == Y.shape


def test_a_form_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"direct.*dual"):
        InnerLoop(NETWORK, Categorical(), form="other")
    for named, form in (("direct", Direct()), ("dual", Dual())):
        assert InnerLoop(NETWORK, Categorical(), form=named) == InnerLoop(NETWORK, Categorical(), form=form)
    assert InnerLoop(NETWORK, Categorical()) == InnerLoop(NETWORK, Categorical(), form="dual")  # what is used if none is named


# ---------------------------------------------------------------- what JAX can be told to forbid


def both_forms(network: Any = NETWORK) -> None:
    """A small MAML, its samples and what it learns, in both forms."""
    loop, params, seqs = make("direct", network)
    keys = jax.random.split(jax.random.key(1), 2)
    nats, gradient = maml(loop, params, seqs)
    assert norm(gradient) > 1e-2 and float(nats) > 1
    for form in ("kept", "folded"):
        other = dataclasses.replace(loop, form=FORMS[form])
        close(maml(other, params, seqs), (nats, gradient))
        close(adapt(other, params, seqs), adapt(loop, params, seqs))
        close(sample(other, params, seqs.x, keys), sample(loop, params, seqs.x, keys))


class Strict(nn.Module):
    """Promotes nothing itself, as Flax's own Dense does of integers."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Embed(PLACES, 4)(x))
        return nn.Dense(SYMBOLS)(h + jnp.tanh(nn.Dense(4)(h)))


def test_nothing_is_done_that_jax_can_forbid():
    """Ranks and types that do not agree, values that leave the function they are traced in."""
    loop, params, seqs = make("direct", Strict())
    expected = maml(loop, params, seqs)
    jax.clear_caches()  # so that everything is traced again
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.checking_leaks():
        for form in FORMS:
            close(jit(lambda *a, form=form: problems.meta.maml(dataclasses.replace(loop, form=FORMS[form]), *a))(params, seqs), expected)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
import test_values
test_values.both_forms(test_values.Strict())
print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "told",
    ["-O", "-OO", "JAX_NUMPY_RANK_PROMOTION=raise", "JAX_NUMPY_DTYPE_PROMOTION=strict", "JAX_CHECK_TRACER_LEAKS=1"],
)
def test_a_program_of_its_own(told):
    """Without assertions or docstrings, or with JAX's checks from the first import on; the comparison itself is numpy's."""
    flags, environment = ([told], {}) if told.startswith("-") else ([], dict([told.split("=")]))
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, *flags, "-c", script], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("the same\n"), done.stderr[-2000:]
