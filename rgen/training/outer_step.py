"""One outer step: the meta-gradient of a batch, and an update of the initialization by optax. Pure functions of a state."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rgen import meta
from rgen.config import TrainConfig
from rgen.fast import InnerLoop, Params
from rgen.sequence import PyTree, Sequence, SequenceModel


@partial(jax.jit, static_argnums=0)
def inner_norms(model: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
    """[B, T] norms of the inner gradients, of all arrays together."""
    return jnp.sqrt(sum(norm**2 for norm in jax.tree.leaves(model.inner_norms(params, seqs)[0])))


class Window(NamedTuple):
    """Sums since the last line of the log. They are part of the state, so that a resumed run logs the same as one that never stopped.

    Attributes:
      steps, nats, norm: number of finite outer steps, and sums of their nats and of the norms of their meta-gradients.
      skipped: number of steps that were not finite.
    """

    steps: jax.Array
    nats: jax.Array
    norm: jax.Array
    skipped: jax.Array

    @classmethod
    def empty(cls) -> "Window":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


class State(NamedTuple):
    """What one outer step passes on to the next.

    Attributes:
      bad: number of steps in a row that were not finite.
      seconds: of training, when this was saved; None unless the budget is in minutes.
    """

    step: jax.Array
    params: PyTree
    optimizer: optax.OptState
    bad: jax.Array
    window: Window
    seconds: jax.Array | None = None


BOOKKEEPING = ("bad", "window", "seconds")  # parts of State that checkpoints of older versions may lack; they start anew


class Measured(NamedTuple):
    """Mean nats per sequence of an outer step, norm of the meta-gradient, number of steps in a row that were not finite."""

    nats: jax.Array
    norm: jax.Array
    bad: jax.Array


def _name(path: tuple) -> str:
    """The last part of a parameter's path, as Flax names it: kernel, bias, embedding, ..."""
    return jax.tree_util.keystr(path[-1:], simple=True)


def _kind(path: tuple, parameter: jax.Array) -> str:
    """The optimizer of a parameter: muon for kernels of Dense layers with several inputs and outputs, else adamw.

    Memory heads, which are many narrow kernels in one array, and inner rates use AdamW.
    """
    is_kernel = _name(path) == "kernel" and parameter.ndim == 2 and min(parameter.shape) > 1
    return "muon" if is_kernel and jax.tree_util.GetAttrKey("rates") not in path else "adamw"


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW, or Muon together with AdamW, with warm-up and clipping as configured. Inner rates have no weight decay.

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
    return optax.chain(clip, optax.partition({"adamw": adamw, "muon": muon}, partial(jax.tree.map_with_path, _kind)))


def with_noise(params: PyTree, scale: float, key: jax.Array) -> PyTree:
    """Adds Gaussian noise to kernels and embeddings, with a standard deviation of `scale` times the root mean square of each array.

    Biases, inner rates and all other parameters stay as they are.

    Source: training with noise on the weights, as in Graves 2011, "Practical variational inference for neural networks".
    """
    if isinstance(params, Params):
        return params._replace(init=with_noise(params.init, scale, key))

    def noisy(path: tuple, weights: jax.Array, normal: jax.Array) -> jax.Array:
        return weights + scale * jnp.sqrt((weights**2).mean()) * normal if _name(path) in ("kernel", "embedding") else weights

    return jax.tree.map_with_path(noisy, params, optax.tree.random_like(key, params))


# Factor of the outer rate after the warm-up, as a function of how far training is, 0 to 1
SCHEDULES: dict[str, Callable] = {"constant": jnp.ones_like, "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2}


def make_step(
    model: SequenceModel,
    algorithm: str,
    optimizer: optax.GradientTransformation,
    schedule: str = "constant",
    weight_noise: float = 0.0,
    seed: int = 0,
) -> Callable:
    """One jitted outer step: (state, seqs, how far the schedule is) -> (state, Measured).

    With `weight_noise`, nats and meta-gradient are those of `with_noise`, drawn by `seed` and the step's number.
    If the nats or the meta-gradient are not finite, the parameters and the optimizer stay as they are, and the step is counted as bad.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, seqs: Sequence, done: jax.Array) -> tuple[State, Measured]:
        at = state.params
        if weight_noise:
            at = with_noise(at, weight_noise, jax.random.fold_in(jax.random.key(seed), state.step))
        nats, gradient = meta.ALGORITHMS[algorithm](model, at, seqs)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(nats) & jnp.isfinite(norm)
        update, after = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, optax.tree.scale(SCHEDULES[schedule](done), update))
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


def init_state(params: PyTree, optimizer: optax.GradientTransformation, timed: bool = False) -> State:
    """The state before the first step."""
    seconds = jnp.zeros(()) if timed else None
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros((), jnp.int32), Window.empty(), seconds)
    return jax.tree.map(jnp.copy, state)  # a buffer that occurs twice in a tree cannot be donated
