"""The cores of this machine."""

import os


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(jobs: int) -> list[set[int] | None]:
    """The cores for each of so many processes side by side; None: all, as where there are fewer cores."""
    if jobs == 1 or jobs > cores() or not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    here = sorted(os.sched_getaffinity(0))
    return [set(here[number::jobs]) for number in range(jobs)]
