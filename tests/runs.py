"""A tiny run and what tests ask of run folders and scripts; conftest.py makes the run."""

import contextlib
import io
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rgen import commands, models, training
from rgen.config import TrainConfig
from rgen.runs.folder import Run
from rgen.training.outer_step import BOOKKEEPING

ROOT = Path(__file__).parents[1]
TINY = TrainConfig(  # digits of 4 by 4 pixels
    network="siren",
    widths=(6, 4),
    reduce=2,
    rates="per-array",
    inner_rate=0.05,
    warmup=1,
    clip=1.0,
    weight_decay=0.01,
    steps=4,
    meta_batch=2,
    log_every=1,
    eval_every=2,
    eval_count=4,
)


def words(line: str) -> list[str]:
    return line.split()


class Said(NamedTuple):
    stdout: str
    stderr: str


def command(name: str, *arguments: Any, cwd: Path) -> Said:
    """Runs a command in this process, which need not start JAX first, in float32 as users do."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        import_module(f"rgen.commands.{name}").main(commands.parse(name, [str(word) for word in arguments]))
    out.seek(0)
    err.seek(0)
    return Said(out.read(), err.read())


def script(name: str, *arguments: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs a script to its end, as users do, which is seen once of each command."""
    words = [str(word) for word in (sys.executable, ROOT / "bin" / f"{name}.py", *arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without the clock."""
    return [{key: value for key, value in row.items() if key != "steps_per_second"} for row in Run(folder).metrics()]


def last_state(folder: Path) -> training.State:
    run = Run(folder)
    data = run.data()
    config = run.config()
    params = models.init(models.from_config(config, data), data, 0)
    begun = training.init_state(params, training.make_optimizer(config), timed=config.minutes is not None)
    return run.training().load(run.training().steps()[0], begun, BOOKKEEPING)


def spoil_arrays(folder: Path) -> None:
    """Flips bits in the middle of every file of arrays."""
    for path in folder.rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


def cut(path: Path) -> None:
    """Keeps the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
