"""The devices that programs are made for: those that are there, or others, for which is only compiled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


_assumed: Hardware | None = None


def hardware() -> Hardware:
    """The devices that are there, unless others are `assumed`."""
    if _assumed is not None:
        return _assumed
    platform = jax.default_backend()
    if platform == "cpu":
        return Hardware(platform, jax.device_count(), cache=second_level_cache())
    stats = jax.local_devices()[0].memory_stats() or {}
    return Hardware(platform, jax.device_count(), stats.get("bytes_limit", 2**34))


@contextmanager
def assumed(other: Hardware) -> Iterator[None]:
    """Plans inside are made for other devices. What JAX has traced for those that are there is forgotten, and the other way round."""
    global _assumed
    before, _assumed = _assumed, other
    jax.clear_caches()
    try:
        yield
    finally:
        _assumed = before
        jax.clear_caches()


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
