"""`rgen check`: does the dual form give the direct form's numbers for the network of a run?"""

import sys

import numpy as np

from rgen.baselines import called
from rgen.config import CheckConfig
from rgen.errors import InputError
from rgen.fast import InnerLoop, check
from rgen.runs.folder import load_run
from rgen.sampling import make_sampler


def main(config: CheckConfig) -> None:
    """Prints by how much the forms differ; exits with code 1 if rounding does not explain it."""
    run = load_run(config.run)
    if not isinstance(run.model, InnerLoop):
        raise InputError(f"The run in {config.run} is {called(run.model)}; it has no inner loop to check.")
    if not run.model.plain:
        raise InputError(f"The inner loop of {config.run} is not plain SGD: only the direct form computes it; nothing to compare.")
    x = make_sampler(run.model, run.data).inputs(np.arange(run.data.length))
    found = check(run.model, x, config.steps, config.seed)
    print(found)
    if not found.same:
        sys.exit(1)
