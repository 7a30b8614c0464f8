"""A batch spread over devices gives what it gives on one."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgen import commands
from rgen.batching import group_rows, ungroup_rows
from rgen.config import PRESETS, BenchmarkConfig, EvaluateConfig, SampleConfig
from rgen.hardware import Hardware
from rgen.runs.folder import Run
from rgen.sequence import Sequence
from rgen.timing import benchmark
from runs import command, script, words

# The number of devices is fixed when JAX starts, so this needs a process of its own.
COMPARE = """
import jax, numpy as np, dataclasses
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", {devices})
import problems
from rgen.devices import place
from rgen.fast import Dual
from rgen.batching import group_rows, ungroup_rows, shards_of
from test_loop import close
assert shards_of(6) == {shards}, shards_of(6)
loop, params, seqs = problems.make("{network}", "dual")
loop = dataclasses.replace(loop, form=Dual(micro_batch={micro}))
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


@pytest.mark.parametrize(
    ("devices", "shards", "micro", "network"), [(4, 3, 3, "siren"), pytest.param(2, 2, 4, "image-heads", marks=pytest.mark.slow)]
)
def test_as_many_devices_as_divide_the_batch(devices, shards, micro, network):
    script = COMPARE.format(devices=devices, shards=shards, micro=micro, network=network)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@settings(max_examples=10, derandomize=True)  # each compiles anew
@given(batch=st.integers(1, 9), size=st.integers(1, 9))
def test_groups_are_put_together_again(batch, size):
    seqs = Sequence(np.arange(batch * 2).reshape(batch, 2), np.zeros((batch, 2), int), np.ones((batch, 2)))
    groups = group_rows(seqs, size)
    assert groups.weight.shape == (-(-batch // size), size, 2)
    assert jnp.sum(groups.weight) == batch * 2
    assert all(np.array_equal(a, b) for a, b in zip(ungroup_rows(groups, batch), seqs))
    assert jax.device_count() == 1


TRAINING = (
    "mnist-siren --data digits --widths 6 4 --reduce 2 --inner-rate 0.05 --rates fixed --steps {steps} --meta-batch 8 "
    "--log-every 1 --eval-every 2 --eval-count 9 --outer-rate 0.005 --run {run}"
)


def on_devices(name: str, arguments: str, devices: int, folder: Path) -> None:
    script(name, *words(arguments), cwd=folder, JAX_NUM_CPU_DEVICES=str(devices))


def close_metrics(ours: Path, theirs: Path) -> None:
    ours_rows, theirs_rows = Run(ours).metrics(), Run(theirs).metrics()
    assert [row["step"] for row in ours_rows] == [row["step"] for row in theirs_rows]
    for a, b in zip(ours_rows, theirs_rows):
        for key in b.keys() - {"steps_per_second"}:
            assert a[key] == pytest.approx(b[key], rel=2e-5)


@pytest.mark.slow
def test_whole_programs_on_one_two_four_and_eight_devices(tmp_path):
    """Training, evaluation and sampling give the same; a checkpoint from 8 devices goes on with 1, and the reverse."""
    for devices in (1, 2, 4, 8):
        on_devices("train", TRAINING.format(steps=4, run=devices), devices, tmp_path)
        on_devices("evaluate", f"--run {devices} --json {devices}.json", devices, tmp_path)
        on_devices("sample", f"--run {devices} --count 11 --out {devices}.png", devices, tmp_path)
        close_metrics(tmp_path / str(devices), tmp_path / "1")
        nats = [json.loads((tmp_path / f"{n}.json").read_text())["nats_per_sequence"] for n in (devices, 1)]
        assert nats[0] == pytest.approx(nats[1], rel=1e-5)
        images = [np.load(tmp_path / f"{n}.npz")["images"] for n in (devices, 1)]
        np.testing.assert_array_equal(*images)
    for first, then in ((8, 1), (1, 8)):
        name = f"{first}-{then}"
        on_devices("train", TRAINING.format(steps=2, run=name), first, tmp_path)
        on_devices("train", TRAINING.format(steps=4, run=name) + " --resume", then, tmp_path)
        close_metrics(tmp_path / name, tmp_path / "1")


def test_the_recurrent_baseline_is_trained_on_one_device_and_all_else_has_one_for_each_core(tmp_path):
    assert commands.cpu_devices(PRESETS["digits-lstm"][1]) == 1
    for preset in ("digits-maml", "digits-transformer"):
        assert commands.cpu_devices(PRESETS[preset][1]) == commands.cores()
    for options in (EvaluateConfig(tmp_path), SampleConfig(tmp_path), BenchmarkConfig()):
        assert commands.cpu_devices(options) == commands.cores()


def test_the_benchmark_has_the_devices_of_the_commands_unless_asked_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "hardware", lambda: Hardware("cpu", 2))
    for network, algorithm, expected in (("digits-lstm", "maml", 1), ("digits-lstm", "sample", 2), ("digits-maml", "maml", 2)):
        assert benchmark.device_counts(BenchmarkConfig(), network, algorithm) == (expected,)
        assert benchmark.device_counts(BenchmarkConfig(devices=(1, 2)), network, algorithm) == (1, 2)
    sizes = words("--network siren --algorithm sample --form dual --meta-batch 2 --length 4 --repeats 1 --json rows.json")
    script("benchmark", *sizes, "--devices", 1, 2, cwd=tmp_path)
    assert [row["devices"] for row in json.loads((tmp_path / "rows.json").read_text())] == [1, 2]


def test_devices_are_as_asked_and_said(trained, tmp_path):
    said = script("evaluate", "--run", trained, "--count", 2, "--devices", 3, cwd=tmp_path)
    assert "Computing on 3 CPU devices; --devices sets" in said.stderr
    for name, options in (("evaluate", []), ("sample", ["--out", tmp_path / "drawn.png"])):
        assert "Computing on 1 CPU device" in command(name, "--run", trained, "--count", 2, *options, cwd=tmp_path).stderr
