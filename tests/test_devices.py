"""A batch spread over devices gives what it gives on one."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgen.sequence import Sequence, group_rows, ungroup_rows

# The number of devices is fixed when JAX starts, so this needs a process of its own.
COMPARE = """
import jax, numpy as np, dataclasses
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", {devices})
import problems
from rgen.devices import place
from rgen.fast import Choice
from rgen.sequence import group_rows, ungroup_rows, shards_of
from test_loop import close
assert shards_of(6) == {shards}, shards_of(6)
loop, params, seqs = problems.make("image-heads", "dual")
loop = dataclasses.replace(loop, choice=Choice(micro_batch={micro}))
seqs = jax.tree.map(lambda a: np.concatenate([a, a[::-1], 1 - a if a.dtype == int and a.ndim == 2 else a]), seqs)
keys = jax.random.split(jax.random.key(0), 6)
placed, (rows, split) = place(params, (seqs, keys))
assert len(rows.y.sharding.device_set) == {shards}
for function in (problems.maml, problems.reptile, problems.score):
    close(function(loop, placed, rows), function(dataclasses.replace(loop, form="direct"), params, seqs))
drawn = problems.sample(loop, placed, rows.x, split)
assert np.array_equal(drawn.y, problems.sample(loop, params, seqs.x, keys).y)
for size in range(1, 13):
    whole = ungroup_rows(group_rows(rows, size), 6)
    assert all(np.array_equal(a, b) for a, b in zip(whole, seqs)), size
"""


@pytest.mark.parametrize(("devices", "shards", "micro"), [(2, 2, 4), (4, 3, 3)])
def test_as_many_devices_as_divide_the_batch(devices, shards, micro):
    script = COMPARE.format(devices=devices, shards=shards, micro=micro)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@given(batch=st.integers(1, 9), size=st.integers(1, 9))
def test_groups_are_put_together_again(batch, size):
    seqs = Sequence(np.arange(batch * 2).reshape(batch, 2), np.zeros((batch, 2), int), np.ones((batch, 2)))
    groups = group_rows(seqs, size)
    assert groups.weight.shape == (-(-batch // size), size, 2)
    assert jnp.sum(groups.weight) == batch * 2
    assert all(np.array_equal(a, b) for a, b in zip(ungroup_rows(groups, batch), seqs))
    assert jax.device_count() == 1
