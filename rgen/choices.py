"""Every choice that has a name, once: the types of the options, from which the command line and the errors take them."""

from typing import Literal, get_args

from rgen.errors import InputError, nearest

Algorithm = Literal["maml", "first-order-maml", "reptile"]
RateKind = Literal["fixed", "per-array", "rank-one"]
Optimizer = Literal["adamw", "muon"]
InnerOptimizer = Literal["sgd", "momentum", "nesterov", "adam", "rmsprop"]
Schedule = Literal["constant", "cosine"]
Split = Literal["train", "valid", "test"]
FormName = Literal["direct", "dual"]
InnerLoss = Literal["nats", "memory"]
Order = Literal["raster", "random"]
Binarize = Literal["threshold", "static", "dynamic"]
Network = Literal["heads", "text-mlp", "lstm-block", "siren", "gated", "lstm", "transformer", "text-heads", "image-heads"]
LikelihoodName = Literal["categorical", "ordered"]
Kind = Literal["text", "image", "array"]
Timed = Literal[Algorithm, "score", "sample"]

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
RATE_KINDS: tuple[RateKind, ...] = get_args(RateKind)
SPLITS: tuple[Split, ...] = get_args(Split)
FORMS: tuple[FormName, ...] = get_args(FormName)
NETWORKS: tuple[Network, ...] = get_args(Network)
INNER_LOSSES: tuple[InnerLoss, ...] = get_args(InnerLoss)
ORDERS: tuple[Order, ...] = get_args(Order)
BINARIZE: tuple[Binarize, ...] = get_args(Binarize)
RENAMED: dict[str, Network] = {"text-heads": "heads", "image-heads": "heads"}
"""Networks by their names in earlier versions, in which there were two of them."""
BASELINES: dict[str, str] = {"lstm": "the recurrent baseline", "transformer": "the transformer"}
"""Networks without an inner loop, and what sentences call them."""
ONE_CPU_DEVICE: tuple[Network, ...] = ("lstm",)
"""Networks in whose training XLA spreads products over the cores, so that one CPU device is faster than one for each (docs/scaling.md)."""
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

GENERATOR = "threefry2x32"
"""The generator of initializations and samples, whatever JAX's default: a seed's numbers are the same in a batch of any size."""

PRETRAINED = ("digits", "mnist", "names")
"""Weights that come with the package; --run takes them as PREFIX and the name."""
PREFIX = "pretrained:"


def check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError, with the nearest choices, unless `value` is one of them."""
    if value not in choices:
        raise InputError(f"{what} is '{value}'. {nearest(str(value), choices)}")
