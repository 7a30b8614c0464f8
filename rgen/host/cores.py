"""The cores of this machine."""

import os

from rgen.errors import InputError


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(jobs: int) -> list[set[int] | None]:
    """As many cores for each of so many processes side by side; None: all, where a process cannot be kept to some.

    Raises:
      InputError: there are fewer cores.
    """
    if jobs > (most := cores()):
        raise InputError(f"--jobs is {jobs}, and rgen may use {most} core{'s' * (most > 1)}; give at most one job for each core.")
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    here = sorted(os.sched_getaffinity(0))
    return [set(here[number::jobs][: len(here) // jobs]) for number in range(jobs)]
