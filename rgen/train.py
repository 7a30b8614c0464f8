"""The outer loop: draw a meta-batch, take the meta-gradient, let optax change the initialization."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rgen import evaluate, generate, meta, models, report
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.devices import shardings
from rgen.errors import InputError
from rgen.fast import Params
from rgen.progress import Progress
from rgen.run import Run, fitting_batch
from rgen.sequence import Sequence, SequenceModel


class State(NamedTuple):
    """All that training carries from one outer step to the next."""

    step: jax.Array
    params: Any
    optimizer: optax.OptState


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine and clipping as configured; inner rates and their logarithms do not decay."""
    after = {
        "constant": optax.constant_schedule(config.outer_rate),
        "cosine": optax.cosine_decay_schedule(config.outer_rate, max(1, config.steps - config.warmup)),
    }[config.schedule]
    rate = optax.join_schedules([optax.linear_schedule(0.0, config.outer_rate, config.warmup), after], [config.warmup])
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)

    def decays(params):
        return Params(True, False) if isinstance(params, Params) else True

    adam = optax.adamw(rate, b2=config.beta2, weight_decay=config.weight_decay, mask=decays)
    return optax.chain(clip, adam)


def make_step(model: SequenceModel, algorithm: str, optimizer: optax.GradientTransformation) -> Callable:
    """One jitted outer step: (state, seqs) -> (state, mean nats a sequence, norm of the meta-gradient)."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, seqs: Sequence) -> tuple[State, jax.Array, jax.Array]:
        nats, gradient = meta.ALGORITHMS[algorithm](model, state.params, seqs)
        update, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, update)
        return State(state.step + 1, params, optimizer_state), nats, optax.tree.norm(gradient)

    return step


def init_state(model: SequenceModel, data: Dataset, optimizer: optax.GradientTransformation, seed: int) -> State:
    """The state before the first step, a function of the seed."""
    params = model.init(jax.random.key(seed), data.sequences("train", [0]).x[0, 0])
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return jax.tree.map(jnp.copy, state)  # a buffer that stands twice in a tree cannot be donated


def train(config: TrainConfig) -> Run:
    """Trains until `config.steps`, and leaves curves and samples in the run folder.

    Raises:
      InputError: the configuration, the data or the folder cannot be used, or the loss is no longer finite.
    """
    run = Run(config.run)
    goes_on = run.exists()
    data = run.begin(config)
    Trainer(config, run, data, goes_on).run_all()
    return run


class Trainer:
    """Ties the pieces of one training run together."""

    def __init__(self, config: TrainConfig, run: Run, data: Dataset, goes_on: bool):
        self.config, self.run, self.data = config, run, data
        self.model = models.from_config(config, data)
        optimizer = make_optimizer(config)
        self.step_function = make_step(self.model, config.algorithm, optimizer)
        self.checkpoints, self.best = run.training(), run.best()
        self.state = init_state(self.model, data, optimizer, config.seed)
        if goes_on and (latest := self.checkpoints.latest()) is not None:
            self.state = self.checkpoints.load(latest, self.state)
        self.start = int(self.state.step)
        run.record(config)
        run.forget_after(self.start)
        self.best.forget_after(self.start)
        self.window: list[tuple[jax.Array, jax.Array]] = []

    def run_all(self) -> None:
        for note in self.data.notes:
            print(note, file=sys.stderr)
        if self.start >= self.config.steps:
            print(f"The run has had its {self.start} steps already; a larger --steps goes on.", file=sys.stderr)
        everywhere, spread = shardings(self.config.meta_batch)
        self.state = jax.device_put(self.state, everywhere)
        with Progress(self.config.steps, self.start, "train") as progress:
            before = time.perf_counter()
            for step in range(self.start, self.config.steps):
                batch = self.data.batch(self.config.seed, step, self.config.meta_batch)
                self.state, *measured = self.step_function(self.state, jax.device_put(batch, spread))
                self.window.append(tuple(measured))
                done = step + 1
                if len(self.window) > 1:  # a step late, so that the device never waits for us
                    self._check(step, self.window[-2])
                    progress.update(step, f"{float(self.window[-2][0]):.3f} nats")
                last = done == self.config.steps
                if done % self.config.log_every == 0 or last:
                    now = time.perf_counter()
                    self._log(done, len(self.window) / (now - before), progress)
                    before = now
                if done % self.config.eval_every == 0 or last:
                    self._evaluate(done, progress)
                    before = time.perf_counter()
        report.curves(self.run.metrics(), self.run.folder / "curves.png")

    def _check(self, step: int, measured: tuple[jax.Array, jax.Array]) -> None:
        loss, norm = map(float, measured)
        if np.isfinite(loss) and np.isfinite(norm):
            return
        latest = self.checkpoints.latest()
        good = f"the last good checkpoint, of step {latest}, is kept" if latest is not None else "there is no checkpoint yet"
        raise InputError(
            f"Step {step} is not finite (loss {loss}, norm of the meta-gradient {norm}); {good} in {self.run.folder}. "
            "Try a smaller --inner-rate or --outer-rate, a longer --warmup, or --clip 1."
        )

    def _log(self, step: int, rate: float, progress: Progress) -> None:
        self._check(step, self.window[-1])
        losses, norms = (np.array([float(v) for v in column]) for column in zip(*self.window, strict=True))
        self.window.clear()
        self.run.log(step=step, nats=losses.mean(), gradient_norm=norms.mean(), steps_per_second=rate)
        progress.say(f"step {step}: {losses.mean():.3f} nats a sequence, {rate:.2f} steps/s")

    def _evaluate(self, step: int, progress: Progress) -> None:
        """Checkpoint, validation nats, samples; the parameters are kept apart while they are the best."""
        if self.window:
            self._check(step, self.window[-1])
        params, batch = self.state.params, fitting_batch(self.model, self.data)
        index = evaluate.choose(self.data, "valid", self.config.eval_count or None, seed=0)
        nats = evaluate.score_all(self.model, params, self.data, "valid", index, batch).sum(1).mean()
        before = [row["valid_nats"] for row in self.run.metrics() if np.isfinite(row.get("valid_nats", np.nan))]
        if nats < min(before, default=np.inf) or self.best.latest() is None:
            self.best.save(step, params)
        self.checkpoints.save(step, self.state)
        self.run.log(step=step, valid_nats=float(nats))
        progress.say(f"step {step}: {nats:.3f} validation nats a sequence")
        self._draw(params, batch)

    def _draw(self, params: Any, batch: int) -> None:
        """16 samples, to see how far it is."""
        sampler = generate.make_sampler(self.model, self.data)
        drawn = np.concatenate([values for values, _ in generate.batches(sampler, params, self.config.seed, range(16), batch)])
        path = self.run.samples_file(self.data.kind)
        if self.data.kind == "image":
            report.sheet({"16 samples": drawn}, path)
        else:
            path.write_bytes(report.text(self.data.decode(None, drawn)))


def main(config: TrainConfig) -> None:
    """bin/train.py."""
    run = train(config)
    print(f"Curves:  {run.folder / 'curves.png'}")
    print(f"Samples: {next(run.folder.glob('samples.*'))}")
    print(f"Next:    bin/evaluate.py --run {run.folder}   and   bin/sample.py --run {run.folder}")
