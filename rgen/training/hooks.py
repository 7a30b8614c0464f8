"""What the outer loop does every so many steps. A hook is called with the step and the state, and returns the state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from rgen import devices, sampling, scoring
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.fast import InnerLoop
from rgen.host import plots
from rgen.host.files import replace
from rgen.host.progress import Progress
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run
from rgen.sampling import look
from rgen.sampling.records import as_npy, as_text
from rgen.sequence import PyTree, SequenceModel
from rgen.training.budget import Budget, process_clock
from rgen.training.outer_step import State, Window, inner_norms

Hook = Callable[[int, State], State]


class Experiment(NamedTuple):
    """What stays the same during training.

    Attributes:
      batch: how many sequences are scored or sampled at once.
    """

    config: TrainConfig
    run: Run
    data: Dataset
    model: SequenceModel
    batch: int


class Log:
    """Logs means since the last line and the speed; starts a new window."""

    def __init__(self, run: Run, progress: Progress, budget: Budget, start: int):
        self.run, self.progress, self.budget, self.then = run, progress, budget, budget.seconds()
        self.counted = start + 1  # the first step compiles, and its time is not counted
        self.stopped = process_clock().stopped

    def __call__(self, step: int, state: State) -> State:
        steps, nats, norm, skipped = (float(value) for value in state.window)
        now = self.budget.seconds()
        rate, self.then, self.counted = (step - self.counted) / max(now - self.then, 1e-9), now, step
        note = f", {skipped:.0f} steps skipped that were not finite" if skipped else ""
        if (stopped := process_clock().stopped) > self.stopped:
            note += f"; {stopped - self.stopped:.0f} s in which the process was stopped do not count"
            self.stopped = stopped
        row = {"step": step, "steps_per_second": rate} | ({"skipped": int(skipped)} if skipped else {})
        row |= {"seconds": now} if self.budget.timed else {}
        self.run.log(**row, **({"nats": nats / steps, "gradient_norm": norm / steps} if steps else {}))
        self.progress.say(f"step {step}: {nats / max(1, steps):.3f} nats per sequence, {rate:.2f} steps/s{note}")
        return state._replace(window=devices.put(Window.empty(), state.step.sharding))


class Validate:
    """Scores the validation split; saves the parameters if they are the best."""

    def __init__(self, experiment: Experiment, best: Checkpoints, progress: Progress):
        config, self.run, self.data, self.model, self.batch = experiment
        self.best, self.progress = best, progress
        self.index = scoring.choose(self.data, "valid", config.eval_count or None, seed=0)
        logged = {row["step"]: row["valid_nats"] for row in self.run.metrics() if np.isfinite(row.get("valid_nats", np.nan))}
        kept = best.steps()
        self.none, self.least = not kept, logged.get(kept[0], np.inf) if kept else np.inf

    def __call__(self, step: int, state: State) -> State:
        nats = scoring.score_all(self.model, state.params, self.data, "valid", self.index, self.batch).sum(1).mean()
        if nats < self.least or self.none:
            self.best.save(step, state.params)
            self.none = False
        self.least = min(self.least, nats) if np.isfinite(nats) else self.least
        self.run.log(step=step, valid_nats=float(nats), **self.inner_gradients(state.params))
        self.progress.say(f"step {step}: {nats:.3f} validation nats per sequence")
        return state

    def inner_gradients(self, params: PyTree) -> dict[str, float]:
        """Mean and largest norm of the inner gradients over the scored steps of a few validation sequences."""
        if not isinstance(self.model, InnerLoop):
            return {}
        few = self.data.sequences("valid", np.resize(self.index, -(-8 // jax.device_count()) * jax.device_count()))
        params, seqs = devices.place(params, few)
        norms = devices.fetch(inner_norms(self.model, params, seqs))[np.asarray(few.weight) > 0]
        return {"inner_gradient_norm": float(norms.mean()), "inner_gradient_most": float(norms.max())}


class DrawSamples:
    """Draws 16 samples."""

    def __init__(self, experiment: Experiment):
        config, self.run, self.data, model, self.batch = experiment
        self.seed, self.sampler = config.seed, sampling.make_sampler(model, self.data)

    def __call__(self, step: int, state: State) -> State:
        batches = sampling.batches(self.sampler, state.params, self.seed, range(16), self.batch)
        drawn = np.concatenate([values for values, _ in batches])
        if self.run.writes:
            if self.data.kind == "text":
                replace(self.run.folder / "samples.txt", as_text(self.data.decode(None, drawn)))
            else:
                replace(self.run.folder / "samples.png", plots.sheet({"16 samples": look.pictures(self.data, drawn)}))
            if self.data.kind == "array":
                replace(self.run.folder / "samples.npy", as_npy(drawn))
        return state


class Save:
    """Saves a checkpoint. The last of the hooks, so that the results of the others are there if the checkpoint is."""

    def __init__(self, checkpoints: Checkpoints, budget: Budget):
        self.checkpoints, self.budget = checkpoints, budget

    def __call__(self, step: int, state: State) -> State:
        state = with_seconds(state, self.budget)
        self.checkpoints.save(step, state)
        return state


def with_seconds(state: State, budget: Budget) -> State:
    """The state with the seconds of training so far, if the budget is in minutes."""
    if state.seconds is None:
        return state
    seconds = np.asarray(devices.largest(budget.seconds()), state.seconds.dtype)
    return state._replace(seconds=devices.put(seconds, state.seconds.sharding))
