"""The outer loop: make a meta-batch, take an outer step; every so many steps log, validate, draw samples and save."""

import errno
import os
import shlex
from itertools import count
from pathlib import Path

import jax
import optax

from rgen import data as data_sets
from rgen import devices, models
from rgen.config import TrainConfig
from rgen.errors import InputError
from rgen.host import plots
from rgen.host.files import replace
from rgen.host.progress import Progress
from rgen.host.signals import Signals
from rgen.runs.checkpoint import Checkpoints, Unwritable
from rgen.runs.folder import Run
from rgen.training.budget import Budget
from rgen.training.hooks import DrawSamples, Experiment, Hook, Log, Save, Validate, with_seconds
from rgen.training.outer_step import BOOKKEEPING, Measured, State, init_state, make_optimizer, make_step

BAD = 10  # training ends after this many steps in a row that are not finite


def train(config: TrainConfig) -> Run:
    """Trains for `config.steps` or `config.minutes`, and leaves curves and samples in the run folder.

    Raises:
      InputError: the configuration, the data or the folder cannot be used, or the loss is no longer finite.
      SystemExit: stopped by a signal (see `rgen.host.signals`), after a checkpoint.
    """
    optimizer = make_optimizer(config)
    run = Run(config.run, writes=devices.is_first(), board=config.tensorboard)
    try:
        # nothing is written before everything is known to fit; the other processes wait here until the first has made the folder
        goes_on = run.reserve(config) if run.writes else bool(devices.largest(0))
        data = data_sets.from_config(config) if run.writes and not run.data_file.exists() else run.data()
        model = models.from_config(config, data)
        models.check_training_fits(config, model, data)
        experiment = Experiment(config, run, data, model, models.fitting_batch(model, data))
        params = models.init(model, data, config.seed)
        state = init_state(params, optimizer, timed=config.minutes is not None)
        del params  # the state has its own copy, and changes it in place
        if run.writes:
            run.make(config, data)
            devices.largest(goes_on)
        checkpoints, best = run.training(config.keep, config.keep_every, clean=True), run.best(clean=True)
        if goes_on and (newest := checkpoints.newest(state, run.say, may_lack=BOOKKEEPING)):
            state = newest[1]
        run.record(config)
        for kept in (checkpoints, best, run):
            kept.forget_after(int(state.step))
        devices.wait_for_all("ready")
        stopped = take_steps(experiment, optimizer, state, checkpoints, best)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise InputError(
            f"Another process was lost ({str(error).splitlines()[0][:200]}). Start all of them again with --resume, which goes on from the "
            f"last checkpoint in {run.folder}."
        ) from error
    finally:
        run.end()
    if stopped:
        raise SystemExit(128 + stopped)
    return run


def take_steps(
    experiment: Experiment, optimizer: optax.GradientTransformation, state: State, checkpoints: Checkpoints, best: Checkpoints
) -> int:
    """The outer loop from a state on. Returns the signal that stopped it, or 0."""
    config, run, data, model, _ = experiment
    start = done = int(state.step)
    for note in (devices.sentence(), *data.notes):
        run.say(note)
    budget = Budget(config, 0.0 if state.seconds is None else float(state.seconds))
    over, annealed = budget.after(start)
    if over:
        run.say(f"The run has had its {start} steps already; {'more --minutes go' if budget.timed else 'a larger --steps goes'} on.")
    outer_step = make_step(model, config.algorithm, optimizer, config.schedule, config.weight_noise, config.seed)
    measured, stop = None, 0
    batches = (devices.place_rows(data.batch(config.seed, step, config.meta_batch)) for step in count(start))
    state = devices.put(state, _everywhere(config, run))
    try:
        what = "train, seconds" if budget.timed else "train"
        progress = Progress(round(budget.total), round(budget.used(start)), what, not run.writes)
        with progress, Signals() as signals:
            log, save = Log(run, progress, budget, start), Save(checkpoints, budget)
            looks = (Validate(experiment, best, progress), DrawSamples(experiment), save)
            hooks: list[tuple[int, Hook]] = [(config.log_every, log), *((config.eval_every, hook) for hook in looks)]
            while not over and not stop:
                batch, before, done = next(batches), measured, done + 1
                if before is None:  # this step compiles, which is not counted
                    state, measured = budget.leave_out(outer_step, state, batch, annealed)
                else:
                    state, measured = outer_step(state, batch, annealed)
                    # the step before is looked at while this one runs, so that the device never waits
                    check_finite(done - 1, before, run.folder, checkpoints)
                    progress.update(round(budget.used(done - 1)), f"{float(before.nats):.3f} nats")
                over, annealed = budget.after(done)
                called = [hook for every, hook in hooks if done % every == 0 or over]
                # read once, as a signal may come at any time; several processes agree when they log
                stop = int(devices.largest(signals.number)) if log in called or jax.process_count() == 1 else 0
                called += [save] if stop and save not in called else []
                if called:
                    if not run.is_there():  # Orbax would make it anew, with half a run in it
                        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run.folder))
                    check_finite(done, measured, run.folder, checkpoints)
                for hook in called:
                    state = budget.leave_out(hook, done, state)
        if run.writes:
            replace(run.folder / "curves.png", plots.curves(run.metrics()))
    except BrokenPipeError:  # of stdout or stderr; the folder is well
        raise
    except (OSError, Unwritable) as error:
        raise _rescued(experiment, state, budget, error) from error
    if stop and not over:
        run.say(f"Stopped after step {done}, which is saved. The same command with --resume goes on.")
        return stop
    return 0


def _rescued(experiment: Experiment, state: State, budget: Budget, error: OSError | Unwritable) -> InputError:
    """Saves the run elsewhere if its folder cannot be written any more. Returns the error to raise."""
    run, step = experiment.run, int(state.step)
    if not run.is_there():
        reason = f"The folder {run.folder} was moved or removed while the run trained in it."
    elif isinstance(error, OSError):
        reason = f"{error.filename or run.folder} cannot be written: {error.strerror or error}."
    else:
        reason = str(error)
    if jax.process_count() > 1:  # they would have to agree on another folder
        return InputError(f"{reason} Steps after the last checkpoint are lost.")
    saved = run.rescue(experiment.config, experiment.data, step, with_seconds(state, budget), state.params)
    if saved is None:
        return InputError(f"{reason} The state of step {step} could not be saved elsewhere either.")
    return InputError(
        f"{reason} The run as it was after step {step} is saved in {saved}; the same command goes on with "
        f"--run {shlex.quote(str(saved))} --resume."
    )


def check_finite(step: int, measured: Measured, folder: Path, checkpoints: Checkpoints) -> None:
    """Raises InputError if too many steps up to this one were not finite."""
    if int(measured.bad) < BAD:
        return
    steps = checkpoints.steps()
    good = f"the checkpoint of step {steps[0]} is kept" if steps else "there is no checkpoint yet"
    raise InputError(
        f"The last {int(measured.bad)} steps up to step {step} were not finite (nats {float(measured.nats)}, norm of the meta-gradient "
        f"{float(measured.norm)}) and changed nothing; {good} in {folder}. Train anew in another folder, with a smaller --inner-rate or "
        "--outer-rate, a longer --warmup, or --clip 1."
    )


def _everywhere(config: TrainConfig, run: Run) -> jax.sharding.Sharding:
    """The sharding of the state; prints a note if some devices have nothing to do."""
    size, there = config.meta_batch, jax.device_count()
    everywhere, spread = devices.shardings(size)
    if (used := len(spread.device_set)) < there:
        run.say(f"--meta-batch {size} is spread over {used} of {there} devices; a multiple of {there} uses all.")
    return everywhere
