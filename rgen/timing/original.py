"""Times the original program, unixpickle/reptile-gen in PyTorch, in turn with ours: the same network, sizes and meta-gradient."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rgen.config import BenchmarkConfig
from rgen.errors import InputError
from rgen.host.progress import Progress
from rgen.host.signals import leaving
from rgen.host.table import table as text_table
from rgen.timing import benchmark

# Runs in the original's checkout, with its Python. It reads names of meta-gradients from stdin and prints how many seconds each took.
PROGRAM = """
import json, sys, time
import torch
from reptile_gen import maml, model, reptile

network, batch, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
make = {"text-mlp": lambda: model.make_text_model(length), "lstm-block": model.make_mnist_model, "siren": model.make_mnist_model_siren}
net = make[network]()
places = torch.arange(length)
x = places[:, None] if network == "text-mlp" else torch.stack([places // 28, places % 28], -1)

def outputs():
    return torch.randint(256, (length,)) if network == "text-mlp" else torch.rand(length, 1).round()

data = [(x, outputs()) for _ in range(batch)]
take = {"maml": maml.maml_grad, "reptile": reptile.reptile_grad}
for function in take.values():  # warms up
    function(net, [(a[:2], b[:2]) for a, b in data], 1e-3)
print(json.dumps([torch.__version__, torch.get_num_threads()]), flush=True)
for line in sys.stdin:
    net.zero_grad()
    before = time.perf_counter()
    take[line.strip()](net, data, 1e-3)
    print(json.dumps(time.perf_counter() - before), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Comparison(benchmark.Combination):
    """One line of the table, and one object of the JSON file.

    Attributes:
      seconds, original_seconds: of each round.
      least, median, most: how many times as fast ours is.
      original: version and threads of PyTorch.
    """

    seconds: tuple[float, ...]
    original_seconds: tuple[float, ...]
    least: float
    median: float
    most: float
    original: str


def measure(config: BenchmarkConfig) -> list[Comparison]:
    """Times all combinations, `config.repeats` rounds of each: the original once, then each of our forms.

    Raises:
      InputError: the original cannot be run as `config` says.
    """
    groups = benchmark.combinations(config)
    rows = []
    with Progress(len(groups), 0, "benchmark") as progress:
        for done, group in enumerate(groups):
            programs = {what: benchmark.prepare(what) for what in group}
            ours: dict[benchmark.Combination, list[float]] = {what: [] for what in group}
            theirs: dict[str, list[float]] = {algorithm: [] for algorithm in config.algorithm}
            with started(config, group[0]) as child:
                version, threads = answer(child)
                for _ in range(config.repeats):
                    for algorithm in config.algorithm:
                        theirs[algorithm].append(answer(child, algorithm))
                        for what in group:
                            if what.algorithm == algorithm:
                                ours[what].append(benchmark.timed(programs[what].call))
            for what in group:
                seconds, original = ours[what], theirs[what.algorithm]
                ratios = np.array(original) / seconds
                rows.append(
                    Comparison(
                        **vars(what),
                        seconds=tuple(seconds),
                        original_seconds=tuple(original),
                        least=float(ratios.min()),
                        median=float(np.median(ratios)),
                        most=float(ratios.max()),
                        original=f"PyTorch {version}, {threads} threads",
                    )
                )
            progress.update(done + 1, group[0].network)
    return rows


@contextmanager
def started(config: BenchmarkConfig, what: benchmark.Combination) -> Iterator[subprocess.Popen]:
    """The original as a process that waits for what it is to run. Raises InputError if there is no such Python."""
    command = [str(config.original_python), "-c", PROGRAM, what.network, str(what.meta_batch), str(what.length)]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        child = subprocess.Popen(command, cwd=config.original, text=True, **pipes)
    except OSError as error:
        raise InputError(f"--original-python is '{config.original_python}', which cannot be run: {error.strerror}.") from error
    with child, leaving(child.kill):
        try:
            yield child
        finally:
            child.kill()


def answer(child: subprocess.Popen, question: str = "") -> Any:
    """What the original says, after a question if there is one. Raises InputError if it ended instead."""
    assert child.stdin and child.stdout and child.stderr
    if question:
        with suppress(BrokenPipeError):  # its last words say why
            child.stdin.write(question + "\n")
            child.stdin.flush()
    if line := child.stdout.readline():
        return json.loads(line)
    reason = (child.stderr.read().strip().splitlines() or ["it was killed, perhaps for its memory"])[-1]
    raise InputError(
        f"The original program could not be run ({reason}). --original is the folder of a checkout of unixpickle/reptile-gen, and "
        "--original-python a Python in which torch can be imported."
    )


def table(config: BenchmarkConfig, rows: list[Comparison]) -> str:
    """The rows as text; seconds are medians."""
    numbers = {"rounds": "d", "original_seconds": ".2f", "seconds": ".3f", "least": ".1f", "median": ".1f", "most": ".1f", "original": ""}
    lines = []
    for row in rows:
        medians = {"original_seconds": np.median(row.original_seconds), "seconds": np.median(row.seconds)}
        lines.append(vars(row) | medians | {"rounds": len(row.seconds)})
    return "least, median, most: how many times as fast ours is\n" + text_table(benchmark.columns(config, rows) | numbers, lines)


def check(checkout: Path) -> None:
    """Raises InputError if a folder is no checkout of the original."""
    if not (checkout / "reptile_gen" / "maml.py").is_file():
        raise InputError(
            f"--original is '{checkout}', in which there is no reptile_gen/maml.py; give a checkout of github.com/unixpickle/reptile-gen."
        )
