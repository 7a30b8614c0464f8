"""What a training works with, made before its first step: folder, data and model one after the other, then the state."""

from typing import NamedTuple

import optax

from rgen import data as data_sets
from rgen import devices, models
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run
from rgen.sequence import SequenceModel
from rgen.training.outer_step import BOOKKEEPING, State, init_state, make_optimizer


class Setting(NamedTuple):
    """What a training works with: nothing of it changes from step to step."""

    config: TrainConfig
    run: Run
    data: Dataset
    model: SequenceModel
    optimizer: optax.GradientTransformation


def prepare(config: TrainConfig, run: Run) -> tuple[Setting, bool]:
    """Folder, data and model, one after the other; nothing is written before all three are known to fit.

    Returns:
      (the setting, whether a run goes on).
    Raises:
      InputError: one of them cannot be used.
    """
    goes_on, data, model = False, None, None
    if run.writes:
        goes_on = run.reserve(config)
        data = run.data() if run.data_file.exists() else data_sets.from_config(config)
        model = models.from_config(config, data)
        models.check_training_fits(config, model, data)
        run.make(config, data)
    goes_on = bool(devices.largest(goes_on))  # the other processes wait here until the folder is made
    data = data or run.data()
    return Setting(config, run, data, model or models.from_config(config, data), make_optimizer(config)), goes_on


def restore(setting: Setting, checkpoints: Checkpoints | None) -> State:
    """The state of the newest whole checkpoint; the first one if there is none."""
    state = init_state(setting.model, setting.data, setting.optimizer, setting.config.seed, timed=setting.config.minutes is not None)
    found = checkpoints and checkpoints.newest(state, setting.run.say, may_lack=BOOKKEEPING)
    return found[1] if found else state
