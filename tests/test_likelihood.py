"""From logits to probabilities, and what decoding makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rgen.errors import InputError
from rgen.likelihood import Bernoulli, Categorical, Decoding

PROBS = np.array([0.15, 0.5, 0.05, 0.3])
# what is left of PROBS, by hand
BY_HAND = {
    "plain": (Decoding(), PROBS),
    "greedy": (Decoding(temperature=0), [0, 1, 0, 0]),
    "greedy with others": (Decoding(temperature=0, top_k=2, top_p=0.9, min_p=0.5), [0, 1, 0, 0]),
    "cold": (Decoding(temperature=0.5), PROBS**2 / 0.365),
    "hot": (Decoding(temperature=2), np.sqrt(PROBS) / np.sqrt(PROBS).sum()),
    "top-k": (Decoding(top_k=2), [0, 0.625, 0, 0.375]),
    "all": (Decoding(top_k=9, top_p=1, min_p=1e-9), PROBS),
    "top-p between": (Decoding(top_p=0.7), [0, 0.625, 0, 0.375]),
    "top-p small": (Decoding(top_p=1e-6), [0, 1, 0, 0]),
    "top-p of nothing": (Decoding(top_p=1e-300), [0, 1, 0, 0]),
    "hardly any temperature": (Decoding(temperature=1e-40), [0, 1, 0, 0]),
    "min-p": (Decoding(min_p=0.2), np.array([0.15, 0.5, 0, 0.3]) / 0.95),
    "top-p of what top-k left": (Decoding(top_k=2, top_p=0.63), [0, 0.625, 0, 0.375]),
    "top-p of what top-k left, just enough": (Decoding(top_k=2, top_p=0.62), [0, 1, 0, 0]),
    "top-p after temperature": (Decoding(temperature=0.5, top_p=0.65), [0, 1, 0, 0]),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_decoding_by_hand(case):
    decoding, expected = BY_HAND[case]
    np.testing.assert_allclose(jax.nn.softmax(decoding.log_probs(jnp.log(PROBS))), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-29, 1e-3, 1e30])
def test_in_float32_too_something_is_always_left(temperature):
    """The likeliest output, and with a large temperature all of them."""
    log_probs = jnp.log(jnp.array([0.1, 0.7, 0.2], jnp.float32))
    for top_p in (None, 1e-45, 1.0):
        left = np.isfinite(Decoding(temperature, top_p=top_p).log_probs(log_probs))
        assert left[1] and (left.all() or temperature < 1 or top_p == 1e-45)
    many = jax.nn.log_softmax(5 * jax.random.normal(jax.random.key(0), (256,), jnp.float32))
    assert np.isfinite(Decoding(top_p=1.0).log_probs(many)).all()


def test_of_equals_the_first_are_left():
    even = jnp.zeros(5)
    np.testing.assert_array_equal(np.isfinite(Decoding(top_k=2).log_probs(even)), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(np.isfinite(Decoding(temperature=0).log_probs(even)), [1, 0, 0, 0, 0])


@given(arrays(float, 6, elements=st.floats(-700, 700)), st.integers(1, 7), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 50))
def test_something_is_always_left_and_nothing_else_is_drawn(logits, k, p, least, temperature):
    log_probs = Categorical().log_probs(jnp.asarray(logits))
    for decoding in (Decoding(temperature, k), Decoding(temperature, None, p), Decoding(temperature, k, p, least)):
        left = np.asarray(decoding.log_probs(log_probs))
        assert not np.isnan(left).any() and np.isfinite(left[np.argmax(log_probs)])
        assert np.isfinite(left).sum() <= (decoding.top_k or 6)
        assert np.isfinite(left[decoding.draw(jax.random.key(0), log_probs)])


@pytest.mark.parametrize("likelihood, logits", [(Categorical(), [0.3, -2.0, 800.0]), (Bernoulli(), [-3.0]), (Bernoulli(), [700.0])])
def test_probabilities_are_those_that_are_paid_for(likelihood, logits):
    logits = jnp.array(logits)
    log_probs = likelihood.log_probs(logits)
    np.testing.assert_allclose(log_probs, [-likelihood.nll(logits, y) for y in range(len(log_probs))], rtol=1e-12)
    assert float(jnp.exp(log_probs).sum()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 0}, "top-k is 0; it must be at least 1"),
        ({"top_p": 0.0}, "top-p is 0.0; it must lie above 0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"min_p": float("nan")}, "min-p is nan"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Decoding(**options)
