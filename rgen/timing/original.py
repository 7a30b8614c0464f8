"""Times the original program, unixpickle/reptile-gen in PyTorch, and ours in turn: the same network, sizes and meta-gradient."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np

from rgen.config import BenchmarkConfig
from rgen.errors import InputError
from rgen.host.progress import Progress
from rgen.host.signals import leaving
from rgen.timing import benchmark

# Runs in the original's checkout, with its Python. Each line on stdin names a meta-gradient; how many seconds it took is the answer.
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
class Comparison:
    """One line of the table, and one object of the JSON file: `seconds` and `original_seconds` of each round, and their ratio's range."""

    network: str
    algorithm: str
    form: str
    meta_batch: int
    length: int
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
    groups = list(product(config.network, config.meta_batch, config.length))
    rows = []
    with Progress(len(groups) * config.repeats, 0, "benchmark") as progress:
        for number, (network, meta_batch, length) in enumerate(groups):
            pairs = list(product(config.algorithm, config.form))
            calls = {pair: benchmark.prepare(network, *pair, meta_batch, length)[0] for pair in pairs}
            ours: dict[Any, list[float]] = {pair: [] for pair in pairs}
            theirs: dict[Any, list[float]] = {algorithm: [] for algorithm in config.algorithm}
            with started(config, network, meta_batch, length) as child:
                version, threads = answer(child)
                for done in range(config.repeats):
                    for algorithm in config.algorithm:
                        theirs[algorithm].append(answer(child, algorithm))
                        for form in config.form:
                            ours[algorithm, form].append(benchmark.settled(calls[algorithm, form]))
                    progress.update(number * config.repeats + done + 1, network)
            for algorithm, form in pairs:
                seconds, original = ours[algorithm, form], theirs[algorithm]
                ratios = np.array(original) / seconds
                about = (network, algorithm, form, meta_batch, length, tuple(seconds), tuple(original))
                found = (float(ratios.min()), float(np.median(ratios)), float(ratios.max()))
                rows.append(Comparison(*about, *found, f"PyTorch {version}, {threads} threads"))
    return rows


@contextmanager
def started(config: BenchmarkConfig, network: str, meta_batch: int, length: int) -> Iterator[subprocess.Popen]:
    """The original as a process that waits for what it is to run. Raises InputError if there is no such Python."""
    assert config.original
    command = [str(config.original_python), "-c", PROGRAM, network, str(meta_batch), str(length)]
    try:
        child = subprocess.Popen(
            command, cwd=config.original, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise InputError(f"--original-python is '{config.original_python}', which cannot be run: {error.strerror}.") from error
    with child, leaving(child.kill):
        try:
            yield child
        finally:
            child.kill()


def answer(child: subprocess.Popen, question: str | None = None) -> Any:
    """What the original says, after a question if there is one. Raises InputError if it ended instead."""
    asked, said, errors = child.stdin, child.stdout, child.stderr
    assert asked and said and errors
    if question:
        _tell(asked, question)
    line = said.readline()
    if not line:
        reason = (errors.read().strip().splitlines() or ["it was killed, perhaps for its memory"])[-1]
        raise InputError(
            f"The original program could not be run ({reason}). --original is the folder of a checkout of unixpickle/reptile-gen, and "
            "--original-python a Python in which torch can be imported."
        )
    return json.loads(line)


def _tell(asked: IO[str], question: str) -> None:
    try:
        asked.write(question + "\n")
        asked.flush()
    except BrokenPipeError:
        pass  # its last words say why


def table(rows: list[Comparison]) -> str:
    """The rows as text; seconds are medians."""
    head = f"{'network':<12}{'algorithm':<10}{'form':<8}{'B':>5}{'T':>6}{'rounds':>8}{'original s':>12}{'seconds':>10}"
    lines = [f"{head}   times as fast: {'least':>6}{'median':>8}{'most':>7}   original"]
    for r in rows:
        size = f"{r.network:<12}{r.algorithm:<10}{r.form:<8}{r.meta_batch:>5}{r.length:>6}{len(r.seconds):>8}"
        times = f"{np.median(r.original_seconds):>12.2f}{np.median(r.seconds):>10.3f}"
        lines.append(f"{size}{times}{r.least:>24.1f}{r.median:>8.1f}{r.most:>7.1f}   {r.original}")
    return "\n".join(lines)


def check(checkout: Path) -> None:
    """Raises InputError if a folder is no checkout of the original."""
    if not (checkout / "reptile_gen" / "maml.py").is_file():
        raise InputError(
            f"--original is '{checkout}', in which there is no reptile_gen/maml.py; give a checkout of github.com/unixpickle/reptile-gen."
        )
