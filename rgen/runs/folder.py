"""The run folder: everything that is needed to go on, evaluate and sample.

config.json     the configuration
data.npz        the data set, so that a run does not depend on files elsewhere
metrics.jsonl   a line every --log-every steps, and one for each validation
checkpoints/    the newest training states; STEP.damaged is one that was damaged, kept aside
best/           parameters with the least validation nats so far, and those before them
curves.png, samples.png (samples.txt for text, samples.npy too for arrays)
tensorboard/    the metrics once more, if --tensorboard asks for it
"""

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from rgen import data as data_sets
from rgen import models, pretrained
from rgen.choices import PREFIX
from rgen.config import TrainConfig, from_json, to_json
from rgen.data import Dataset, archive
from rgen.errors import InputError, command
from rgen.host.files import NEW, lock, naming, replace
from rgen.pretrained import Source
from rgen.runs.checkpoint import Checkpoints, Unwritable, free
from rgen.sequence import SequenceModel

# Options that may change when a run is resumed: where things are, how often to report, how to compute the same numbers, and the budget
MAY_CHANGE = {
    *("run", "resume", "data_dir", "download", "log_every", "eval_every", "keep", "keep_every", "distributed", "tensorboard"),
    *("steps", "minutes"),
    *("form", "chunk", "fold", "micro_batch", "devices"),
}


class Run:
    """One run folder.

    Args:
      writes: if not, as in all but the first of several processes, nothing in it is changed.
      board: also write what is logged for TensorBoard.
    """

    def __init__(self, folder: Path, writes: bool = True, board: bool = False):
        self.folder, self.writes = folder, writes
        self._place = folder.absolute()  # for `rescue`, when the folder is gone
        self._make_board = _board_maker() if board and writes else None
        self._board: Any = None
        self.config_file = folder / "config.json"
        self.data_file = folder / "data.npz"
        self.metrics_file = folder / "metrics.jsonl"
        self._lock: IO[Any] | None = None
        self._logged: list[dict] = []  # the rows of metrics.jsonl, for `rescue`

    def exists(self) -> bool:
        return self.config_file.exists()

    def data(self) -> Dataset:
        """The data of the run."""
        return archive.from_npz(self.data_file)

    def reserve(self, config: TrainConfig) -> bool:
        """Returns whether there is a run to resume, and locks it; changes nothing.

        Raises:
          InputError: the folder has another run or other files in it, or another process trains in it.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; --run needs a folder.")
        self.training()  # raises InputError if Orbax cannot handle the path
        if self.exists():
            self._keep_out()
            self._check(config)
            return True
        leftovers = ("lock", ".rgen-written")  # the second of earlier versions
        if self.folder.exists() and any(path.name not in leftovers and path.suffix != NEW for path in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no run; choose another --run folder.")
        return False

    def make(self, config: TrainConfig, data: Dataset) -> None:
        """Makes the folder with configuration and data if it does not exist, and locks it. Raises InputError if it is not the first."""
        content = None if self.data_file.exists() else archive.to_npz(data)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._keep_out()
            if self.exists():
                raise InputError(f"Another process has just begun a run in {self.folder}; choose another --run folder.")
            replace(self.config_file, to_json(config).encode())
        if content is not None:
            replace(self.data_file, content)

    def say(self, sentence: str) -> None:
        """Prints a sentence on stderr, in the process that writes."""
        if self.writes:
            print(sentence, file=sys.stderr)

    def _keep_out(self) -> None:
        self._lock = (self.folder / "lock").open("a")
        lock(self._lock, f"the run in {self.folder}")

    def is_there(self) -> bool:
        """Whether the folder is still the one that this process locked."""
        try:
            return self._lock is None or os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.folder / "lock"))
        except OSError:
            return False

    def rescue(self, config: TrainConfig, data: Dataset, step: int, state: Any, params: Any) -> Path | None:
        """Saves a run that can be resumed next to this folder, or else in the folder for temporary files. Returns where; None: nowhere."""
        for parent in (self._place.parent, Path(tempfile.gettempdir())):
            other = Run(free(parent / f"{self._place.name}-rescued"))
            try:
                other.make(dataclasses.replace(config, run=other.folder), data)
                replace(other.metrics_file, _lines(self._logged))
                other.training().save(step, state)
                other.best().save(step, params)
                return other.folder
            except (OSError, Unwritable):
                shutil.rmtree(other.folder, ignore_errors=True)
            finally:
                other.end()
        return None

    def end(self) -> None:
        """Unlocks the folder."""
        if self._board is not None:
            self._board.close()
        if self._lock is not None:
            self._lock.close()

    def record(self, config: TrainConfig) -> None:
        """Writes the configuration; when a run is resumed, only after its checkpoint was loaded."""
        if self.writes:
            replace(self.config_file, to_json(config).encode())

    def _check(self, config: TrainConfig) -> None:
        if not config.resume:
            raise InputError(f"{self.folder} already holds a run; add --resume to go on, or choose another --run folder.")
        before, now = dataclasses.asdict(self.config()), dataclasses.asdict(config)
        changed = [key for key in now if key not in MAY_CHANGE and before[key] != now[key]]
        if changed and not (changed == ["data"] and self._is_moved(config)):
            changes = "; ".join(f"{key} was {before[key]} and is {now[key]}" for key in changed)
            raise InputError(f"{self.folder} holds another configuration: {changes}. Use its options, or another --run folder.")
        had, unit, asked = before["minutes"], "minutes", "steps"
        if had is None:
            had, unit, asked = before["steps"], "steps", "minutes"
        if (now["minutes"] is None) != (before["minutes"] is None):
            raise InputError(f"{self.folder} is a run of {had} {unit}; it goes on by --{unit}, not by --{asked}.")
        if now[unit] < had:
            raise InputError(f"{self.folder} is a run of {had} {unit}; --{unit} {now[unit]} would shorten it.")

    def _is_moved(self, config: TrainConfig) -> bool:
        """Whether the configuration names a file with the data of the run. Raises DataError as `rgen.data.load`."""
        if config.data in data_sets.NAMES or not self.data_file.exists():
            return False
        return self.data().fingerprint() == data_sets.from_config(config).fingerprint()

    def config(self) -> TrainConfig:
        return from_json(self.config_file.read_text(errors="replace"), self.config_file)

    def training(self, keep: int = 2, every: int | None = None, clean: bool = False) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", keep, every, clean)

    def best(self, clean: bool = False) -> Checkpoints:
        """The best parameters and those before, which are the best again when a run is resumed from a step between the two."""
        return Checkpoints(self.folder / "best", clean=clean)

    def metrics(self) -> list[dict]:
        """The rows of metrics.jsonl, without damaged ones, such as a last line cut off by a crash."""
        lines = self.metrics_file.read_text(errors="replace").splitlines() if self.metrics_file.exists() else []
        return [row for line in lines if (row := _parse(line)) is not None]

    def log(self, **row: Any) -> None:
        if self.writes:
            self._logged.append(row)
            with naming(self.metrics_file), self.metrics_file.open("ab") as file:
                file.write(_lines([row]))
            if self._board is not None:
                for name in row.keys() - {"step"}:
                    self._board.add_scalar(name, row[name], row["step"])
                self._board.flush()

    def forget_after(self, step: int) -> None:
        """Drops what was logged after `step`, when a run is resumed from there."""
        self._logged = [row for row in self.metrics() if row["step"] <= step]
        if self.writes:
            replace(self.metrics_file, _lines(self._logged))
            if self._make_board is not None:
                self._board = self._make_board(str(self.folder / "tensorboard"), purge_step=step + 1)


class Trained(NamedTuple):
    """A trained model with its data.

    Attributes:
      name: the folder of the run, or "pretrained:NAME".
      data: what it was trained on; for pretrained weights whose data was neither given nor needed, with empty splits.
    """

    name: str
    config: TrainConfig
    data: Dataset
    model: SequenceModel
    params: Any
    step: int

    def place(self, file: str) -> Path:
        """The default place of a file: in the run's folder; for pretrained weights, in the current folder."""
        if self.name.startswith(PREFIX):
            return Path(f"{self.name.replace(':', '-')}-{file}")
        return Path(self.name) / file


def load_run(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    needs_data: bool = False,
) -> Trained:
    """Loads the best parameters of a run (least validation nats), or weights that come with the package.

    Args:
      run: the folder of a run; or "pretrained:digits", "pretrained:mnist", "pretrained:names".
      data, data_dir, download: for pretrained weights, where their data is: the file of names; the folder of MNIST's four files, or
        whether MNIST may be downloaded. Runs have a copy of their data, and the digits come with scikit-learn.
      needs_data: raise an error rather than return pretrained weights without their data.
    Raises:
      InputError: there is no run in the folder, no checkpoint yet, or one that cannot be used; the data is needed and not there.
    """
    name, source = os.fspath(run), Source(data, data_dir, download)
    if packed := pretrained.folder_of(name):
        return Trained(name, *pretrained.load(packed, source, needs_data))
    if given := source.given():
        raise InputError(f"{' and '.join(given)} is for pretrained weights; the run in {name} has its own copy of its data. Leave it out.")
    return _load_folder(Path(name))


def _load_folder(folder: Path) -> Trained:
    run = Run(folder)
    if not run.exists() or not run.data_file.exists():
        raise InputError(f"There is no run in {folder}; make one with {command('train')} PRESET --run {folder}.")
    config, data = run.config(), run.data()
    model = models.from_config(config, data)
    best = run.best().newest(models.parameter_shapes(model, data), run.say)
    if best is None:
        raise InputError(f"The run in {folder} has no checkpoint yet; go on with {command('train')} PRESET --run {folder} --resume.")
    step, params = best
    return Trained(str(folder), config, data, model, params, step)


def _board_maker() -> Any:
    try:
        from tensorboardX import SummaryWriter  # an extra
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX, which is not installed; pip install tensorboardX, or leave it out.") from None
    return SummaryWriter


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parse(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int) and all(isinstance(v, int | float) for v in row.values())
    return row if whole else None
