"""The outer loop: draw a meta-batch, take the meta-gradient, let optax change the initialization."""

import sys
import time
from typing import Any

import jax
import numpy as np

from rgen import devices, models, sampling, scoring
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop
from rgen.host import plots
from rgen.host.progress import Progress
from rgen.host.signals import Signals
from rgen.models import fitting_batch
from rgen.runs.folder import Run
from rgen.training.step import Window, init_state, inner_norms, make_optimizer, make_step


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
            plots.curves(self.run.metrics(), self.run.folder / "curves.png")
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
        index = scoring.choose(self.data, "valid", self.config.eval_count or None, seed=0)
        nats = scoring.score_all(self.model, params, self.data, "valid", index, batch).sum(1).mean()
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
        norms = devices.fetch(inner_norms(self.model, params, seqs))[np.asarray(few.weight) > 0]
        return {"inner_gradient_norm": float(norms.mean()), "inner_gradient_most": float(norms.max())}

    def _say(self, sentence: str) -> None:
        if self.run.writes:
            print(sentence, file=sys.stderr)

    def _draw(self, params: Any, batch: int) -> None:
        """16 samples, to see how far it is."""
        sampler = sampling.make_sampler(self.model, self.data)
        drawn = np.concatenate([values for values, _ in sampling.batches(sampler, params, self.config.seed, range(16), batch)])
        path = self.run.samples_file(self.data.kind)
        if not self.run.writes:
            return
        if self.data.kind == "image":
            plots.sheet({"16 samples": drawn}, path)
        else:
            path.write_bytes(plots.text(self.data.decode(None, drawn)))
