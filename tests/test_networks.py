"""The networks by name: sizes and initializations of the original, and what is refused."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util
from problems import jit

from rgen import choices, models, networks
from rgen.config import TrainConfig

SHAPES = {"text": (128,), "image": (28, 28)}


@pytest.fixture(scope="module")
def default():
    """name -> flat parameters of the network with its default sizes, drawn once."""
    drawn = {}

    def get(name: str) -> dict[str, np.ndarray]:
        if name not in drawn:
            text = name.startswith("text")
            network = networks.build(name, SHAPES["text" if text else "image"], 256 if text else 1)
            x = np.zeros((), np.int32) if text else np.zeros(2, np.int32)
            tree = jit(network.init)(jax.random.key(0), x)["params"]
            drawn[name] = {path: np.asarray(a) for path, a in traverse_util.flatten_dict(tree, sep="/").items()}
        return drawn[name]

    return get


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# The sums are those of the original's modules at its own sizes, layer after layer.
COUNTS = {
    # embedding of 128 positions, six hidden layers, logits
    "text-mlp": 128 * 512 + 6 * linear(512, 512) + linear(512, 256),
    # row and column, Linear, twice a LayerNorm and an LSTM block (state; four gates that see state and input), LayerNorm, logit
    "lstm-block": 2 * 28 * 128 + linear(256, 256) + 2 * (2 * 256 + 256 + 4 * linear(512, 256)) + 2 * 256 + linear(256, 1),
    "siren": linear(2, 256) + linear(256, 512) + linear(512, 512) + linear(512, 256) + linear(256, 1),
    # row and column, a gated layer, a residual of a gated layer, a LayerNorm of a layer times gates, logit
    "gated": 2 * 28 * 128 + 2 * linear(256, 512) + (linear(256, 256) + 2 * 256) + linear(256, 256) + linear(256, 1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_default_sizes_are_the_originals(default, name):
    assert sum(a.size for a in default(name).values()) == COUNTS[name]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_layers_begin_as_pytorch_begins_them(default, name):
    """Weights and biases of Linear are uniform within 1 / sqrt(inputs), embeddings are standard normal."""
    parameters, looked_at = default(name), 0
    for path, a in parameters.items():
        layer, _, kind = path.rpartition("/")
        if layer.startswith("heads"):
            continue  # ours
        if kind == "embedding" or kind == "state":
            assert abs(a.mean()) < 5 / math.sqrt(a.size) and abs(a.std() - 1) < 5 / math.sqrt(2 * a.size)
        elif f"{layer}/kernel" in parameters and not layer.startswith("hidden" if name == "siren" else "norm"):
            inputs = parameters[f"{layer}/kernel"].shape[-2]
            uniform_within(a, 1 / math.sqrt(inputs))
        else:
            continue
        looked_at += 1
    assert looked_at >= 2


def test_sines_begin_with_weights_within_the_root_of_six_over_inputs_and_no_bias(default):
    parameters = default("siren")
    for i in range(4):
        kernel = parameters[f"hidden_{i}/kernel"]
        uniform_within(kernel, math.sqrt(6 / kernel.shape[0]))
        assert not parameters[f"hidden_{i}/bias"].any()


def uniform_within(a: np.ndarray, bound: float) -> None:
    """All within the bound, and from one end of it to the other; a single number says only the first."""
    assert np.abs(a).max() <= bound * (1 + 1e-6)
    if a.size > 50:
        assert a.min() < -0.85 * bound and a.max() > 0.85 * bound
        assert abs(a.std() * math.sqrt(3) / bound - 1) < 5 / math.sqrt(a.size)  # of a uniform one, bound / sqrt(3)


@pytest.mark.parametrize("shape", [(12,), (4, 5)])
def test_every_head_begins_with_one_of_the_nearest_places_before_and_an_empty_memory(shape):
    steps = networks.places_before(shape, 4)
    assert steps == ([(1,), (2,), (3,), (4,)] if len(shape) == 1 else [(0, 1), (1, 0), (1, -1), (1, 1)])
    network: Any = networks.build("heads", shape, 3, heads=4, keys=2048)
    params = jit(network.init)(jax.random.key(0), np.zeros(len(shape), np.int32))["params"]
    assert not params["heads"]["memory"]["kernel"].any() and params["heads"]["memory"]["bias"].all()
    k = np.asarray(networks.keys_of(network, params))
    for seen, step in zip(k @ k.swapaxes(1, 2) / network.keys, steps):
        places = np.argwhere(np.ones(shape))
        apart = places[:, None] - places
        same, near = (apart == 0).all(-1), (apart == np.array(step)).all(-1)
        np.testing.assert_allclose(seen, 1.0 * same + (near + near.T) / 2, atol=0.1)  # random features: 1 / sqrt(1024)
        for other in range(len(places)):  # the same step, the same similarity, wherever
            np.testing.assert_allclose(seen[(apart == apart[0, other]).all(-1)], seen[0, other], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "options", "sentence"),
    [
        ("text-mpl", (9,), {}, r"The network is 'text-mpl'\. Perhaps you meant text-mlp"),
        ("text-mlp", (4, 4), {}, r"'text-mlp' is for lines, and the sequences have the shape \(4, 4\)"),
        ("siren", (9,), {}, r"'siren' is for pictures without colours, and the sequences have the shape \(9,\)"),
        ("siren", (4, 4), {"heads": 2}, r"'siren' has no option 'heads'; it has widths\."),
        ("text-mlp", (9,), {"width": 8}, r"'text-mlp' has no option 'width'; it has features, widths\."),
        ("gated", (4, 4), {"width": 0}, r"width is 0; sizes must be at least 1"),
        ("siren", (4, 4), {"widths": (8, -1)}, r"widths is \(8, -1\); sizes must be at least 1"),
        ("siren", (4, 4), {"widths": ()}, r"widths is \(\); sizes must be at least 1"),
        ("heads", (4, 4), {"keys": 3}, r"keys are 3; they are pairs of a cosine and a sine"),
        ("heads", (9,), {"inner_loss": "memroy"}, r"inner_loss is 'memroy'\. Perhaps you meant memory"),
        ("heads", (4, 4), {"width": 9, "heads": 2}, r"width is 9, which is not divisible by its 2 heads"),
        ("heads", (9,), {"heads": 7}, r"width is 96, which is not divisible by its 7 heads"),  # against a default
    ],
)
def test_what_cannot_be_built_is_said(name, shape, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        networks.build(name, shape, 1, **options)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"inner_loss": "memroy"}, "Perhaps you meant memory"), ({"heads": 0}, "not divisible by its 0 heads")]
)
def test_a_network_made_directly_says_it_too(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        networks.HeadsNetwork((9,), **options)


@pytest.mark.parametrize("name", choices.NETWORKS)
def test_every_network_that_can_be_chosen_is_there(name):
    text = name.startswith("text")
    model = models.configured(TrainConfig(network=name), SHAPES["text" if text else "image"], 256 if text else 2)
    assert jax.tree.leaves(jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((() if text else 2), np.int32))))
