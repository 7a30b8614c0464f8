"""Configurations by name. A preset states only what differs from the options' defaults, or from the preset it is made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rgen.config.train import TrainConfig
from rgen.errors import InputError, nearest

# The original's settings: unixpickle/reptile-gen, text_train.py, mnist_train.py and mnist_baseline.py.
_TEXT = TrainConfig(data="listing", network="text-mlp", inner_rate=1e-3, outer_rate=1e-3, meta_batch=50)
_MNIST = TrainConfig(data="mnist", network="lstm-block", inner_rate=1e-3, outer_rate=1e-4, beta2=0.99, meta_batch=50)
_LSTM = TrainConfig(network="lstm", outer_rate=1e-3, meta_batch=50)
# An outer loop for few steps.
_QUICK = TrainConfig(outer_rate=5e-3, warmup=50, schedule="cosine", beta2=0.99, clip=1.0, weight_decay=1e-2, meta_batch=32)
# Ours: a memory of heads that learns in the inner loop, by nats of its own and at learned rank-one rates, and all else the same for all
# sequences.
_HEADS = replace(_QUICK, rates="rank-one", inner_rate=0.1, fast=("heads/memory",), inner_loss="memory")
# For pixels, many narrow heads: there are more places near one than in a line.
_PIXELS = replace(_HEADS, width=128, heads=64, keys=32)
_DIGITS = replace(_PIXELS, width=64, heads=32, weight_decay=0.3)
# The sets of docs/results.md, where all networks have the same sequences and outer steps.
_NAMES: dict[str, Any] = {"data": "names.txt", "max_length": 16, "held_out": 0.03122, "meta_batch": 64, "steps": 2500, "eval_count": 0}
_SMALL: dict[str, Any] = {"data": "mnist", "reduce": 2, "steps": 1000, "eval_every": 250}
_SMALL_LSTM = replace(_QUICK, network="lstm", width=76, depth=1, features=48)
_TRANSFORMER = replace(_QUICK, network="transformer", width=64, depth=3, heads=4, outer_rate=2e-3)


_PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "demo": (
        "What `make demo` trains: our network on the embedded digits, a few minutes on 2 cores.",
        replace(_DIGITS, steps=800, log_every=50, eval_every=200),
    ),
    "digits-maml": ("MAML on the embedded digits, our network.", replace(_DIGITS, steps=800, eval_every=100, eval_count=0)),
    "digits-reptile": (
        "Reptile on the embedded digits, our network, all of which learns.",
        replace(
            _QUICK,
            width=64,
            algorithm="reptile",
            inner_rate=2e-2,
            outer_rate=2e-3,
            clip=None,
            weight_decay=0.1,
            steps=3000,
        ),
    ),
    "digits-lstm": (
        "The recurrent baseline on the embedded digits.",
        replace(_SMALL_LSTM, width=64, features=64, weight_decay=0.3, steps=2500, eval_every=250, eval_count=0),
    ),
    "digits-transformer": (
        "The transformer on the embedded digits.",
        replace(_TRANSFORMER, weight_decay=1.0, steps=2500, eval_every=250, eval_count=0),
    ),
    "names-heads": (
        "Our network on names, MAML; give --data names.txt, one name a line.",
        replace(_HEADS, depth=1, **_NAMES),
    ),
    "names-context": ("The same, which reads the last 3 symbols too.", replace(_HEADS, context=3, **_NAMES)),
    "names-lstm": ("A recurrent baseline of the same size on names.", replace(_SMALL_LSTM, **_NAMES)),
    "names-transformer": ("The transformer on names.", replace(_TRANSFORMER, **_NAMES)),
    "names-maml": ("The original's text model on names, MAML.", replace(_TEXT, **_NAMES)),
    "names-reptile": ("The original's text model on names, Reptile.", replace(_TEXT, algorithm="reptile", **_NAMES)),
    "small-mnist-heads": ("Our network on MNIST of 14x14 pixels, MAML.", replace(_PIXELS, **_SMALL)),
    "small-mnist-lstm": ("A recurrent baseline on MNIST of 14x14 pixels.", replace(_SMALL_LSTM, **_SMALL)),
    "small-mnist-transformer": ("The transformer on MNIST of 14x14 pixels.", replace(_TRANSFORMER, meta_batch=8, **_SMALL)),
    "text-maml": ("The original's text model, MAML.", replace(_TEXT, algorithm="maml")),
    "text-reptile": ("The original's text model, Reptile: its own settings.", replace(_TEXT, algorithm="reptile")),
    "text-heads": ("Our network on text, MAML.", replace(_HEADS, data="listing", weight_decay=0.3)),
    "text-lstm": ("The recurrent baseline on text.", replace(_LSTM, data="listing")),
    "text-transformer": ("The transformer on text.", replace(_TRANSFORMER, data="listing", weight_decay=0.3, meta_batch=8)),
    "mnist-maml": ("The original's MNIST model, MAML.", replace(_MNIST, algorithm="maml")),
    "mnist-reptile": ("The original's MNIST model, Reptile: its own settings.", replace(_MNIST, algorithm="reptile")),
    "mnist-siren": ("The original's SIREN on MNIST, MAML.", replace(_MNIST, network="siren", algorithm="maml")),
    "mnist-heads": ("Our network on MNIST, MAML.", replace(_PIXELS, data="mnist")),
    "mnist-lstm": ("The recurrent baseline on MNIST: the original's own settings.", replace(_LSTM, data="mnist")),
    "mnist-transformer": ("The transformer on MNIST.", replace(_TRANSFORMER, data="mnist", heads=2, meta_batch=4)),
}

PRESETS = {name: (text, replace(config, run=Path("runs") / name)) for name, (text, config) in _PRESETS.items()}


def choose_preset(arguments: list[str]) -> None:
    """Raises InputError, with the nearest names, if the first argument is no preset's name."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise InputError(f"There is no preset '{arguments[0]}'. {nearest(arguments[0], PRESETS)}")
