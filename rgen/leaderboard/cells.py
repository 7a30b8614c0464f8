"""The runs: each trains in a process of its own, and is not repeated once it is finished."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

from rgen.choices import BoardData, BoardEntry
from rgen.config import LeaderboardConfig
from rgen.errors import InputError
from rgen.host import signals
from rgen.host.cores import cores, shares
from rgen.host.files import replace
from rgen.host.progress import Progress
from rgen.leaderboard.entries import DATA, SCORED, recipe
from rgen.runs.folder import Run
from rgen.timing.machine import caches, processor

# A run in a process of its own: on its cores, and asked to stop, once, when its input ends because we were killed.
PROGRAM = """
import os, signal, threading
cores = {cores}
if cores:
    os.sched_setaffinity(0, cores)
def watch():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
from rgen.commands import main
main()
"""


@dataclass(frozen=True)
class Cell:
    """One training: what is trained on what, for how long, from which seed."""

    data: BoardData
    entry: BoardEntry
    minutes: float
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.entry}, {self.minutes:g} minutes, seed {self.seed}"

    def folder(self, board: Path) -> Path:
        return board / self.data / f"{self.entry}-{self.minutes:g}-minutes-seed-{self.seed}"


@dataclass(frozen=True)
class Row:
    """A finished cell, one object of the JSON file.

    Attributes:
      score, standard_error: on `scored` sequences of the test split, in the data set's unit, of the parameters with the least validation
        nats.
      parameters: how many numbers are learned, the initialization and its rates.
      steps, best_step: outer steps in all, and up to those parameters.
      seconds: of training, without compiling and validation.
      machine: cores, processor, caches and version of JAX.
      options: what it was trained with, behind `rgen train`.
    """

    data: BoardData
    entry: BoardEntry
    minutes: float
    seed: int
    score: float
    standard_error: float
    scored: int
    parameters: int
    steps: int
    best_step: int
    seconds: float
    machine: str
    options: str

    @property
    def cell(self) -> Cell:
        return Cell(self.data, self.entry, self.minutes, self.seed)


def chosen(config: LeaderboardConfig) -> list[Cell]:
    """The cells that are asked for, the shortest first, so that there is a table early."""
    return [
        Cell(data, entry, minutes, seed)
        for minutes in sorted(set(config.minutes))
        for seed in dict.fromkeys(config.seeds)
        for data in dict.fromkeys(config.data)
        for entry in dict.fromkeys(config.entries)
    ]


def finished(board: Path) -> list[Row]:
    """All cells that have been finished in the folder of a leaderboard; not what was put aside there under another name.

    Raises:
      InputError: a file is no row.
    """
    rows = []
    for file in sorted(board.glob("*/*/row.json")):
        try:
            row = Row(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"'{file}' is no row of a leaderboard: {error}. Remove it, and the run is scored again.") from None
        if row.cell.folder(board) == file.parent:
            rows.append(row)
    return rows


class Runner:
    """Trains and scores cells, `config.jobs` at a time, each on its share of the cores.

    Attributes:
      failed: the cells that ended with an error, and its last line.
    """

    def __init__(self, config: LeaderboardConfig):
        self.config = config
        self.failed: dict[Cell, str] = {}
        self._stopped = False
        self._children: set[subprocess.Popen] = set()
        self._shares: SimpleQueue[set[int] | None] = SimpleQueue()
        for share in shares(config.jobs):
            self._shares.put(share)

    def check(self, cells: list[Cell]) -> None:
        """Raises InputError if a data set is needed and not given, or a cell was finished with other options than it has now."""
        now = {cell: self._options(cell) for cell in cells}
        for row in finished(self.config.out):
            if row.options != now.get(row.cell, row.options):
                raise InputError(
                    f"{row.cell} was trained with '{row.options}', and would be with '{now[row.cell]}' now. "
                    f"Move '{row.cell.folder(self.config.out)}' away to train it anew, or give another --out."
                )

    def run(self, cells: list[Cell], after_each: Callable[[], object]) -> None:
        """Runs what is not finished. Interrupted, it stops the runs with a checkpoint each, from which the next call goes on."""
        before = {row.cell for row in finished(self.config.out)}
        left = [cell for cell in cells if cell not in before]
        done = len(cells) - len(left)
        with Progress(len(cells), done, "leaderboard") as progress, ThreadPoolExecutor(self.config.jobs) as pool:
            progress.say(f"{done} of {len(cells)} runs are finished; the others train for {sum(cell.minutes for cell in left):g} minutes.")
            futures = [pool.submit(self._one, cell) for cell in left]
            try:
                for count, future in enumerate(as_completed(futures), done + 1):
                    progress.say(future.result())
                    after_each()
                    progress.update(count)
            except BaseException:
                self._stopped = True
                for future in futures:
                    future.cancel()
                signals.take_time()
                for child in list(self._children):
                    _stop(child)
                raise

    def _options(self, cell: Cell) -> str:
        option = DATA[cell.data].option
        words = recipe(cell.data, cell.entry, getattr(self.config, option) if option else None)
        return shlex.join([*words, "--minutes", f"{cell.minutes:g}", "--seed", str(cell.seed)])

    def _calls(self, cell: Cell) -> list[list[str]]:
        """The command lines of a cell: training, then scoring."""
        folder = str(cell.folder(self.config.out))
        count = SCORED.get((cell.data, cell.entry))
        evaluate = ["evaluate", "--run", folder, "--json", f"{folder}/test.json", *(["--count", str(count)] if count else [])]
        return [["train", *shlex.split(self._options(cell)), "--run", folder, "--resume"], evaluate]

    def _one(self, cell: Cell) -> str:
        """Trains and scores one cell. Returns what is to be said of it."""
        folder = cell.folder(self.config.out)
        log = folder.with_name(folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        share = self._shares.get()
        try:
            for words in self._calls(cell):
                if not self._call(words, share, log):
                    if self._stopped:
                        return f"{cell}: stopped"
                    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                    self.failed[cell] = lines[-1] if lines else "It said nothing"
                    return f"{cell}: failed. {self.failed[cell]} ({log})"
        finally:
            self._shares.put(share)
        row = summary(cell, folder, self._machine(share), self._options(cell))
        replace(folder / "row.json", json.dumps(asdict(row), indent=2).encode())
        return f"{cell}: {row.score:.3f} {DATA[cell.data].unit} after {row.steps:,} steps"

    def _call(self, words: list[str], share: set[int] | None, log: Path) -> bool:
        if self._stopped:
            return False
        with log.open("ab") as file:
            program = [sys.executable, "-c", PROGRAM.format(cores=share), *words]
            # in a session of its own: Ctrl-C reaches us alone, and we stop it once
            with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True) as child:
                self._children.add(child)
                if self._stopped:  # since we looked
                    _stop(child)
                try:
                    return child.wait() == 0
                finally:
                    self._children.discard(child)

    def _machine(self, share: set[int] | None) -> str:
        used = len(share) if share else cores()
        beside = f" for {self.config.jobs} runs" if self.config.jobs > 1 and share is None else ""
        return ", ".join([f"{used} core{'s' * (used > 1)}{beside} of {processor()}", *caches(), f"jax {version('jax')}"])


def _stop(child: subprocess.Popen) -> None:
    """Ends its input, of which it hears as well if we are ended: once in all, which stops it with a checkpoint."""
    assert child.stdin
    child.stdin.close()


def summary(cell: Cell, folder: Path, machine: str, options: str) -> Row:
    """What a cell's folder says of it after training and scoring."""
    score, log = json.loads((folder / "test.json").read_text()), [row for row in Run(folder).metrics() if "seconds" in row]
    key = DATA[cell.data].key
    scale = score[key] / score["nats_per_sequence"]
    return Row(
        **asdict(cell),
        score=score[key],
        standard_error=score["standard_error"] * scale,
        scored=score["sequences"],
        parameters=score["parameters"],
        steps=log[-1]["step"],
        best_step=score["step"],
        seconds=log[-1]["seconds"],
        machine=machine,
        options=options,
    )
