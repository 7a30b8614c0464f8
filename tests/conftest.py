"""Every test runs in float64, where exactness can be seen, unless it asks for less."""

import contextlib
import ctypes
import dataclasses
import gc
import os
import shutil
from pathlib import Path

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("unhurried", deadline=None)  # tests are never timed
settings.load_profile("unhurried")
PROCESS = Path("/proc/self")


def pytest_configure(config):
    """What was compiled is kept from one run of the tests to the next, which is most of their time. Workers and scripts share it."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(home, "rgen", "tests"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets compiled programs before they are too many: each takes memory, and memory maps, of which Linux gives a process 65,530."""
    yield
    if PROCESS.exists():
        resident = int((PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > 1.3e9 or (PROCESS / "maps").read_bytes().count(b"\n") > 25_000:
            jax.clear_caches()
            gc.collect()
            with contextlib.suppress(AttributeError):  # of another C library
                ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of TINY, never stopped. Read only."""
    from rgen import training  # here, so that tests which need no run do not wait for it
    from runs import TINY

    return training.train(dataclasses.replace(TINY, run=tmp_path_factory.mktemp("trained") / "run")).folder


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
