"""Devices and memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from rgen.errors import InputError

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None


class Hardware(NamedTuple):
    """What the cost model needs to know of devices.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      devices: how many there are.
      memory: bytes of one accelerator's memory.
      cache: bytes of each CPU core's own cache.
    """

    platform: str
    devices: int
    memory: float = 0.0
    cache: float = 0.0


def hardware() -> Hardware:
    """The devices that are there."""
    platform = jax.default_backend()
    if platform == "cpu":
        return Hardware(platform, jax.device_count(), cache=second_level_cache())
    stats = jax.local_devices()[0].memory_stats() or {}
    return Hardware(platform, jax.device_count(), stats.get("bytes_limit", 2**34))


def main_memory(root: Path = Path("/")) -> float:
    """Bytes of main memory that this process may use, also by `ulimit` and control groups (containers, batch jobs); 0 if unknown."""
    limits = [_told("SC_PHYS_PAGES") * _told("SC_PAGE_SIZE"), *_group_limits(root)]
    if resource:
        limits += [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]  # -1 if there is none
    return min((limit for limit in limits if limit > 0), default=0)


def total_memory() -> float:
    """Bytes of memory of all devices; on CPUs, main memory, as if each process had its own."""
    there = hardware()
    return main_memory() * jax.process_count() if there.platform == "cpu" else there.memory * there.devices


def require_memory(needed: float, what: str, remedy: str, there: float | None = None) -> None:
    """Raises InputError if `needed` bytes are more than there are.

    Args:
      what: what needs them, the beginning of a sentence.
      remedy: what to do, a sentence.
      there: bytes; None: those of main memory.
    """
    there = main_memory() if there is None else there
    if 0 < there < needed:
        raise InputError(f"{what} needs at least {gigabytes(needed)} of memory, and there are {gigabytes(there)}. {remedy}")


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"


def _group_limits(root: Path) -> Iterator[int]:
    """Memory limits of this process's control groups and their parents, of versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        top = root / "sys/fs/cgroup" / controllers
        for folder in (top / group[1:], *(top / group[1:]).parents):
            if folder.is_relative_to(top) and (file := folder / name).exists() and (text := file.read_text().strip()).isdigit():
                yield int(text)


def second_level_cache() -> float:
    """Bytes of each core's own cache; 1 MiB if unknown."""
    return _told("SC_LEVEL2_CACHE_SIZE") or 2**20


def _told(name: str) -> int:
    try:
        return max(0, os.sysconf(name))
    except (AttributeError, OSError, ValueError):  # not every system has it
        return 0
