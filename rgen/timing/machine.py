"""What a table of timings was measured on."""

import datetime
import os
import platform
from pathlib import Path

import jax

CPU = Path("/sys/devices/system/cpu/cpu0/cache")


def machine() -> str:
    """The devices, cores, caches, versions and date, for the head of a table."""
    device = jax.devices()[0]
    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    cores = ", ".join([f"{os.cpu_count()} cores of {processor()}", *caches()])
    return f"{len(jax.devices())} x {device.device_kind} ({device.platform}); {cores}; {versions}; {datetime.date.today()}"


def processor() -> str:
    """The name of this machine's processor, as Linux tells it; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def caches() -> list[str]:
    """The second- and third-level cache of the first core, as Linux tells them: "L2 2048K"; the third is shared by cores."""
    found = {}
    for folder in sorted(CPU.glob("index*")):
        level, size = ((folder / name).read_text().strip() for name in ("level", "size"))
        found[level] = f"L{level} {size}"
    return [found[level] for level in ("2", "3") if level in found]
