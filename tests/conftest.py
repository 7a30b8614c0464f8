"""Every test runs in float64, where exactness can be seen, unless it asks for less."""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("unhurried", deadline=None)  # tests are never timed
settings.load_profile("unhurried")
MAPS = Path("/proc/self/maps")


def pytest_configure(config):
    """Workers and scripts share what was compiled: many tests train the same tiny models. It is forgotten at the end."""
    if not hasattr(config, "workerinput"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rgen-tests-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets compiled programs before they are too many: each takes memory maps, of which Linux gives a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


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
