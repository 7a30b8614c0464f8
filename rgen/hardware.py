"""The devices that programs are made for."""

import os
from typing import NamedTuple

import jax


class Hardware(NamedTuple):
    """What the cost model asks of devices.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      devices: how many there are.
      memory: bytes of one device's memory; of accelerators only.
      cache: bytes of the cache that each core has of its own; of CPUs only.
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


def main_memory() -> float:
    """Bytes of this machine's memory; 0 if the system does not tell."""
    return _told("SC_PHYS_PAGES") * _told("SC_PAGE_SIZE")


def second_level_cache() -> float:
    """Bytes of the cache that each core has of its own; 1 MiB if the system does not tell."""
    return _told("SC_LEVEL2_CACHE_SIZE") or 2**20


def _told(name: str) -> int:
    try:
        return max(0, os.sysconf(name))
    except (AttributeError, OSError, ValueError):  # not every system has it
        return 0
