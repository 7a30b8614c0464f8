"""The outer loop: draw a meta-batch, take the meta-gradient, let optax change the initialization."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rgen import devices, evaluate, generate, meta, models, report
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop, Params
from rgen.progress import Progress
from rgen.run import Run, fitting_batch
from rgen.sequence import Sequence, SequenceModel
from rgen.signals import Signals


@partial(jax.jit, static_argnums=0)
def _inner_norms(model: InnerLoop, params: Params, seqs: Sequence) -> jax.Array:
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
    """All that training carries from one outer step to the next; `bad` counts the steps in a row that were not finite."""

    step: jax.Array
    params: Any
    optimizer: optax.OptState
    bad: jax.Array
    window: Window


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
    """One jitted outer step: (state, seqs) -> (state, (mean nats a sequence, norm of the meta-gradient, bad steps in a row)).

    A step whose nats or meta-gradient are not finite changes neither the parameters nor the optimizer; it is counted.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, seqs: Sequence) -> tuple[State, tuple[jax.Array, jax.Array, jax.Array]]:
        nats, gradient = meta.ALGORITHMS[algorithm](model, state.params, seqs)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(nats) & jnp.isfinite(norm)
        update, after = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, update)
        params, after = jax.tree.map(partial(jnp.where, good), (params, after), (state.params, state.optimizer))
        bad = jnp.where(good, 0, state.bad + 1)
        window = Window(
            state.window.steps + good,
            state.window.nats + jnp.where(good, nats, 0),
            state.window.norm + jnp.where(good, norm, 0),
            state.window.skipped + ~good,
        )
        return State(state.step + 1, params, after, bad, window), (nats, norm, bad)

    return step


def init_state(model: SequenceModel, data: Dataset, optimizer: optax.GradientTransformation, seed: int) -> State:
    """The state before the first step, a function of the seed."""
    params = model.init(jax.random.key(seed), data.sequences("train", [0]).x[0, 0])
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros((), jnp.int32), Window.empty())
    return jax.tree.map(jnp.copy, state)  # a buffer that stands twice in a tree cannot be donated


def train(config: TrainConfig) -> Run:
    """Trains until `config.steps`, and leaves curves and samples in the run folder.

    Raises:
      InputError: the configuration, the data or the folder cannot be used, or the loss is no longer finite.
      SystemExit: stopped by SIGINT or SIGTERM, after a checkpoint.
    """
    run = Run(config.run, writes=devices.is_first(), board=config.tensorboard)
    try:
        data, goes_on = run.begin(config) if run.writes else (None, False)
        goes_on = bool(devices.any_of_all(goes_on))
        Trainer(config, run, data or run.join(), goes_on).run_all()
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise InputError(
            f"Another process was lost ({str(error).splitlines()[0][:200]}). Start all of them again with --resume, which goes on from the "
            f"last checkpoint in {run.folder}."
        ) from error
    finally:
        run.end()
    return run


BAD = 10  # steps in a row that are not finite, and training ends


class Trainer:
    """Ties the pieces of one training run together."""

    def __init__(self, config: TrainConfig, run: Run, data: Dataset, goes_on: bool):
        self.config, self.run, self.data = config, run, data
        self.model = models.from_config(config, data)
        optimizer = make_optimizer(config)
        self.step_function = make_step(self.model, config.algorithm, optimizer)
        self.checkpoints, self.best = run.training(config.keep, config.keep_every, clean=True), run.best(clean=True)
        self.state = init_state(self.model, data, optimizer, config.seed)
        if goes_on and (found := self.checkpoints.newest(self.state, self._say)) is not None:
            self.state = found[1]
        self.start = int(self.state.step)
        run.record(config)
        self.checkpoints.forget_after(self.start)
        self.best.forget_after(self.start)
        run.forget_after(self.start)
        devices.wait_for_all("ready")
        logged = [row["valid_nats"] for row in run.metrics() if "valid_nats" in row and row["step"] <= self.start]
        self.valid = [nats for nats in logged if np.isfinite(nats)]

    def run_all(self) -> None:
        for note in self.data.notes:
            self._say(note)
        if self.start >= self.config.steps:
            self._say(f"The run has had its {self.start} steps already; a larger --steps goes on.")
        everywhere, spread = devices.shardings(self.config.meta_batch)
        used, there = len(spread.device_set), jax.device_count()
        if used < there:
            self._say(f"--meta-batch {self.config.meta_batch} is spread over {used} of {there} devices; a multiple of {there} uses all.")
        self.state = devices.put(self.state, everywhere)
        measured, done, stop = None, self.start, 0
        with Progress(self.config.steps, self.start, "train", not self.run.writes) as progress, Signals() as signals:
            self.clock, self.counted = time.perf_counter(), self.start
            for step in range(self.start, self.config.steps):
                batch = self.data.batch(self.config.seed, step, self.config.meta_batch)
                before, done = measured, step + 1
                self.state, measured = self.step_function(self.state, devices.place_rows(batch))
                if before is not None:  # a step late, so that the device never waits for us
                    self._check(step, before)
                    progress.update(step, f"{float(before[0]):.3f} nats")
                logs, looks = (done % every == 0 or done == self.config.steps for every in (self.config.log_every, self.config.eval_every))
                # read once, as a signal may come at any time; several processes agree on it now and then
                stop = devices.any_of_all(signals.number) if logs or jax.process_count() == 1 else 0
                if logs or looks or stop:
                    self._check(done, measured)
                if logs:
                    self._log(done, progress)
                if looks:
                    self._evaluate(done, progress)
                elif stop:
                    self.checkpoints.save(done, self.state)
                if stop:
                    break
            self.checkpoints.wait()
            self.best.wait()
        if self.run.writes:
            report.curves(self.run.metrics(), self.run.folder / "curves.png")
        if stop and done < self.config.steps:
            self._say(f"Stopped after step {done}, which is saved. The same command with --resume goes on.")
            raise SystemExit(128 + stop)

    def _check(self, step: int, measured: tuple[jax.Array, ...]) -> None:
        """Raises InputError if too many steps up to this one were not finite."""
        nats, norm, bad = measured
        if int(bad) < BAD:
            return
        steps = self.checkpoints.steps()
        good = f"the checkpoint of step {steps[0]} is kept" if steps else "there is no checkpoint yet"
        raise InputError(
            f"The last {int(bad)} steps up to step {step} were not finite (nats {float(nats)}, norm of the meta-gradient {float(norm)}) "
            f"and changed nothing; {good} in {self.run.folder}. Train anew in another folder, with a smaller --inner-rate or --outer-rate, "
            "a longer --warmup, or --clip 1."
        )

    def _log(self, step: int, progress: Progress) -> None:
        steps, nats, norm, skipped = (float(value) for value in self.state.window)
        self.state = self.state._replace(window=devices.put(Window.empty(), self.state.step.sharding))
        now = time.perf_counter()
        rate, self.clock, self.counted = (step - self.counted) / (now - self.clock), now, step
        note = f", {skipped:.0f} steps skipped that were not finite" if skipped else ""
        row = {"step": step, "steps_per_second": rate} | ({"skipped": int(skipped)} if skipped else {})
        self.run.log(**row, **({"nats": nats / steps, "gradient_norm": norm / steps} if steps else {}))
        progress.say(f"step {step}: {nats / max(1, steps):.3f} nats a sequence, {rate:.2f} steps/s{note}")

    def _evaluate(self, step: int, progress: Progress) -> None:
        """Validation nats, samples, and a checkpoint, in this order: what a checkpoint's step has led to is there when it is.

        The parameters are kept apart while they are the best.
        """
        began = time.perf_counter()
        self.checkpoints.wait()  # several processes write one at a time
        params, batch = self.state.params, fitting_batch(self.model, self.data)
        index = evaluate.choose(self.data, "valid", self.config.eval_count or None, seed=0)
        nats = evaluate.score_all(self.model, params, self.data, "valid", index, batch).sum(1).mean()
        if nats < min(self.valid, default=np.inf) or not self.best.steps():
            self.best.save(step, params)
            self.best.wait()
        self.valid += [nats] if np.isfinite(nats) else []
        self.run.log(step=step, valid_nats=float(nats), **self._inner_gradients(params, index))
        progress.say(f"step {step}: {nats:.3f} validation nats a sequence")
        self._draw(params, batch)
        self.checkpoints.save(step, self.state)
        self.clock += time.perf_counter() - began  # not part of the rate

    def _inner_gradients(self, params: Any, index: np.ndarray) -> dict[str, float]:
        """Mean and largest norm of the inner gradients over the scored steps of a few validation sequences."""
        if not isinstance(self.model, InnerLoop):
            return {}
        few = self.data.sequences("valid", np.resize(index, -(-8 // jax.device_count()) * jax.device_count()))
        params, seqs = devices.place(params, few)
        norms = devices.fetch(_inner_norms(self.model, params, seqs))[np.asarray(few.weight) > 0]
        return {"inner_gradient_norm": float(norms.mean()), "inner_gradient_most": float(norms.max())}

    def _say(self, sentence: str) -> None:
        if self.run.writes:
            print(sentence, file=sys.stderr)

    def _draw(self, params: Any, batch: int) -> None:
        """16 samples, to see how far it is."""
        sampler = generate.make_sampler(self.model, self.data)
        drawn = np.concatenate([values for values, _ in generate.batches(sampler, params, self.config.seed, range(16), batch)])
        path = self.run.samples_file(self.data.kind)
        if not self.run.writes:
            return
        if self.data.kind == "image":
            report.sheet({"16 samples": drawn}, path)
        else:
            path.write_bytes(report.text(self.data.decode(None, drawn)))


def main(config: TrainConfig) -> None:
    """bin/train.py."""
    if config.distributed:
        devices.join(config.distributed)
        if not devices.is_first():  # it is ended at once then, and has no time to say so
            number, of = jax.process_index(), jax.process_count()
            lost = "If process 0 is lost, JAX ends this one too, with a report of its own; start all of them again with --resume."
            print(f"Process {number} of {of}; process 0 speaks for all. {lost}", file=sys.stderr)
    try:
        run = train(config)
    except InputError as error:
        if not config.distributed:
            raise
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # at exit JAX would wait for processes that are gone
    if not run.writes:
        return
    print(f"Curves:  {run.folder / 'curves.png'}")
    print(f"Samples: {next(run.folder.glob('samples.*'))}")
    print(f"Next:    bin/evaluate.py --run {run.folder}   and   bin/sample.py --run {run.folder}")
