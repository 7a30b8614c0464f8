"""`rgen train`: meta-trains a run, alone or as one of several processes."""

import os
import sys

import jax

from rgen import devices
from rgen.config import TrainConfig
from rgen.errors import InputError, command
from rgen.training import train


def main(config: TrainConfig) -> None:
    """`rgen train`."""
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
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # at exit JAX would wait for processes that are gone
    if not run.writes:
        return
    for what, file in (("Curves: ", "curves.png"), ("Samples:", "samples.png"), ("Samples:", "samples.txt"), ("Samples:", "samples.npy")):
        if (run.folder / file).exists():  # unless they were moved away
            print(f"{what} {run.folder / file}")
    print(f"Next:    {command('evaluate')} --run {run.folder}   and   {command('sample')} --run {run.folder}")
