"""One outer step: take the meta-gradient of a batch, let optax change the initialization. Pure functions of a state."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rgen import meta
from rgen.choices import GENERATOR
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.fast import InnerLoop, Params
from rgen.fast.network import learns
from rgen.sequence import Sequence, SequenceModel


@partial(jax.jit, static_argnums=0)
def inner_norms(model: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    """[B, T] norms of the inner gradients, of all arrays together."""
    return jnp.sqrt(sum(norm**2 for norm in jax.tree.leaves(model.inner_norms(params, seqs)[0])))


class Window(NamedTuple):
    """Sums since the last line of the log. They are part of the state, so that a run that goes on logs what it would have logged.

    Attributes:
      steps, nats, norm: how many finite outer steps there were, and the sums of their nats and of their meta-gradients' norms.
      skipped: how many steps were not finite.
    """

    steps: jax.Array
    nats: jax.Array
    norm: jax.Array
    skipped: jax.Array

    @classmethod
    def empty(cls) -> "Window":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


class State(NamedTuple):
    """All that training carries from one outer step to the next.

    Attributes:
      bad: how many steps in a row were not finite.
      seconds: of training, when this was saved; None unless the budget is one of minutes.
    """

    step: jax.Array
    params: Any
    optimizer: optax.OptState
    bad: jax.Array
    window: Window
    seconds: jax.Array | None = None


class Measured(NamedTuple):
    """Of one outer step: mean nats of a sequence, norm of the meta-gradient, how many steps in a row were not finite."""

    nats: jax.Array
    norm: jax.Array
    bad: jax.Array


def _name(path: tuple) -> str:
    """The path of a weight, as in --fast: "heads/memory/kernel"."""
    return "/".join(str(getattr(key, "key", key)) for key in path if getattr(key, "name", None) != "init")


def _is_kernel(path: tuple, parameter: jax.Array) -> bool:
    """Whether a parameter is the kernel [inputs, outputs] of a Dense layer; heads, many narrow kernels in one array, and rates are not."""
    return _name(path).endswith("kernel") and getattr(path[0], "name", None) != "rates" and parameter.ndim == 2


def _optimizer_of(path: tuple, parameter: jax.Array) -> str:
    return "muon" if _is_kernel(path, parameter) and min(parameter.shape) > 1 else "adamw"


def dropout(params: Any, fast: tuple[str, ...] | None, rate: float, key: jax.Array) -> Any:
    """What parameters are multiplied by where each input of a Dense layer is left out with probability `rate`: a tree like `params`.

    The inputs are the same at all steps of all sequences, so that they can be left out in the kernel: its rows times 0 or 1 / (1 - rate).
    All other parameters, and layers that learn in the inner loop (`fast`), are multiplied by 1.

    Source: variational dropout, Gal and Ghahramani 2016, arXiv:1512.05287.
    """
    keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))

    def factor(path: tuple, parameter: jax.Array) -> jax.Array:
        key = next(keys)
        if not _is_kernel(path, parameter) or learns(_name(path), fast):
            return jnp.ones((), parameter.dtype)
        kept = jax.random.bernoulli(key, 1 - rate, (len(parameter), 1))
        return kept.astype(parameter.dtype) / (1 - rate)

    return jax.tree.map_with_path(factor, params)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW, or AdamW beside Muon, with warm-up and clipping as configured; inner rates and their logarithms do not decay.

    Sources: Muon, Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, as in optax; its scale, Liu et al. 2025, arXiv:2502.16982.
    """
    after = optax.constant_schedule(config.outer_rate)
    rate = optax.join_schedules([optax.linear_schedule(0.0, config.outer_rate, config.warmup), after], [config.warmup])
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)

    def decays(params):
        return Params(True, False) if isinstance(params, Params) else True

    adamw = optax.adamw(rate, b2=config.beta2, weight_decay=config.weight_decay, mask=decays)
    if config.optimizer == "adamw":
        return optax.chain(clip, adamw)
    muon = optax.contrib.muon(rate, weight_decay=config.weight_decay, consistent_rms=config.muon_rms)
    return optax.chain(clip, optax.partition({"adamw": adamw, "muon": muon}, partial(jax.tree.map_with_path, _optimizer_of)))


# What the outer rate behind the warm-up is multiplied by, a function of how far training is, 0 to 1
SCHEDULES: dict[str, Callable] = {"constant": jnp.ones_like, "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2}


def make_step(model: SequenceModel, optimizer: optax.GradientTransformation, config: TrainConfig) -> Callable:
    """One jitted outer step: (state, seqs, how far the schedule is) -> (state, Measured).

    With dropout, which inputs are left out is a function of the seed and the step; nats are those of the network that is left. A step
    whose nats or meta-gradient are not finite changes neither the parameters nor the optimizer; it is counted.
    """

    algorithm = meta.ALGORITHMS[config.algorithm]

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, seqs: Sequence, done: jax.Array) -> tuple[State, Measured]:
        params = state.params
        if config.dropout:
            key = jax.random.fold_in(jax.random.key(config.seed, impl=GENERATOR), state.step)
            factors = dropout(params, model.fast if isinstance(model, InnerLoop) else (), config.dropout, key)
            nats, gradient = algorithm(model, optax.tree.mul(params, factors), seqs)
            gradient = optax.tree.mul(gradient, factors)
        else:
            nats, gradient = algorithm(model, params, seqs)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(nats) & jnp.isfinite(norm)
        update, after = optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, optax.tree.scale(SCHEDULES[config.schedule](done), update))
        params, after = jax.tree.map(partial(jnp.where, good), (params, after), (state.params, state.optimizer))
        bad = jnp.where(good, 0, state.bad + 1)
        window = Window(
            state.window.steps + good,
            state.window.nats + jnp.where(good, nats, 0),
            state.window.norm + jnp.where(good, norm, 0),
            state.window.skipped + ~good,
        )
        return State(state.step + 1, params, after, bad, window, state.seconds), Measured(nats, norm, bad)

    return step


def init_state(model: SequenceModel, data: Dataset, optimizer: optax.GradientTransformation, seed: int, timed: bool = False) -> State:
    """The state before the first step, a function of the seed."""
    params = model.init(jax.random.key(seed, impl=GENERATOR), data.sequences("train", [0]).x[0, 0])
    seconds = jnp.zeros(()) if timed else None
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros((), jnp.int32), Window.empty(), seconds)
    return jax.tree.map(jnp.copy, state)  # a buffer that stands twice in a tree cannot be donated
