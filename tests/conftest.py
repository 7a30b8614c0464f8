"""Every test runs in float64, where exactness can be seen, unless it asks for less."""

from pathlib import Path

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("unhurried", deadline=None)  # tests are never timed
settings.load_profile("unhurried")
MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets compiled programs before they are too many: each takes memory maps, of which Linux gives a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
