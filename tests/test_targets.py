"""Compiling for accelerators that are not there: the reading of programs, and, where the plugins are installed, that every preset fits."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rgen
from rgen import commands
from rgen.choices import BASELINES, NETWORKS, PRETRAINED
from rgen.config import PRESETS, BenchmarkConfig
from rgen.errors import InputError
from rgen.timing import benchmark, targets
from rgen.timing.compiled import loops
from runs import command, words

ROOT = Path(rgen.__file__).parents[1]
PROGRAM = """HloModule jit_f

%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %fused = f32[4]{0} fusion(%i), kind=kLoop, calls=%inner
  %copied = f32[4]{0} copy(%fused)
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %copied)
}

%condition.1 (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%p, %limit), direction=LT
}

ENTRY %main.1 (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %before = f32[4]{0} fusion(%a), kind=kLoop, calls=%inner
  %while.1 = (s32[], f32[4]{0}) while(%a), condition=%condition.1, body=%body.1, metadata={op_name="jit(f)/jvp()/while"}
  %while.2 = (s32[], f32[4]{0}) while(%a), condition=%condition.1, body=%body.1, metadata={op_name="jit(f)/transpose(jvp())/while"}, CONFIG
  ROOT %sum = f32[4]{0} all-reduce(%a), to_apply=%add
}
"""


def test_kernels_are_counted_as_often_as_loops_run():
    text = PROGRAM.replace("CONFIG", 'backend_config={"known_trip_count":{"n":"7"}}')
    assert loops(text) == (10, 14, 1, 16)  # two kernels in a body; the first loop's limit stands in its condition


def test_of_a_program_of_this_machine_too():
    def f(x):
        return jax.lax.scan(lambda c, v: (jnp.sin(c @ v), c.sum()), x[0], x)[1]

    found = loops(jax.jit(f).lower(jnp.ones((12, 3, 3))).compile().as_text() or "")
    assert found.forward >= 12 and found.backward == found.collectives == 0


@pytest.mark.parametrize(("name", "sentence"), [("tpu-v5", "There is no target"), ("h100:x", "as in h100:4"), ("h100:0", "as in h100:4")])
def test_what_is_no_target_is_said(name, sentence):
    with pytest.raises(InputError, match=sentence):
        targets.parse(name)


def test_options_that_do_not_go_together_are_said():
    with pytest.raises(InputError, match="name it with --target"):
        BenchmarkConfig(fit=True)
    with pytest.raises(InputError, match=r"makes? 1 device"):
        targets.described("cpu:2")
    with pytest.raises(InputError, match="leave out --profile"):
        BenchmarkConfig(target=("h100",), profile=True)


def compiled(tmp_path: Path, *options: str) -> list[dict]:
    """Rows of bin/benchmark.py, in a process of its own."""
    file = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "bin" / "benchmark.py"), *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_this_machine_is_a_target_too(tmp_path):
    options = words(
        "--network siren --algorithm reptile --shape 8 8 --symbols 3 --inner-batch 2 --meta-batch 2 --target cpu --json rows.json"
    )
    said = command("benchmark", *options, cwd=tmp_path).stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["form"] for row in rows] == ["direct", "dual"] and all(row["fits"] for row in rows)
    assert all((row["length"], row["shape"], row["symbols"], row["inner_batch"]) == (64, [8, 8], 3, 2) for row in rows)
    assert "(8, 8)" in said
    assert rows[0]["temp_bytes"] != rows[1]["temp_bytes"] and "argument MB" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("heads text-heads image-heads", [((3, 3), 2), ((9,), 256), ((3, 3), 2)]),
        ("heads text-heads names-heads mnist-heads lstm --shape 2 3 2", [((2, 3, 2), k) for k in (2, 256, 256, 2, 2)]),
        ("heads transformer text-mlp digits-maml --shape 7", [((7,), k) for k in (256, 256, 256, 2)]),
        ("siren text-mlp heads --symbols 5", [((3, 3), 5), ((9,), 5), ((3, 3), 5)]),
    ],
)
def test_what_sequences_are_made_up(options, expected):
    rest = "--algorithm maml --form direct --meta-batch 2" + " --length 9" * ("--shape" not in options)
    config = commands.parse("benchmark", words(f"--network {options} {rest}"))
    found = [what for group in benchmark.combinations(config) for what in group]
    assert [(what.shape, what.symbols) for what in found] == expected
    for what in found:
        seqs = benchmark.made_up(what)
        assert seqs.y.shape == (2, what.length) and seqs.y.max() < what.symbols
        places = seqs.x.reshape(what.length, -1)
        assert len(np.unique(places, axis=0)) == what.length and (places < what.shape).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--network siren", []),
        ("--network siren text-mlp", ["shape", "symbols"]),
        ("--network siren --inner-batch 3", ["inner_batch"]),
        ("--network mnist-heads --inner-batch 1 28 --symbols 2", ["symbols", "inner_batch"]),
        ("--network mnist-heads --shape 2 2 3", ["shape"]),
    ],
)
def test_shape_symbols_and_outputs_per_step_are_columns_where_they_vary_or_were_asked_for(options, expected):
    config = commands.parse("benchmark", words(f"{options} --algorithm maml --form dual"))
    rows = [what for group in benchmark.combinations(config) for what in group]
    assert list(benchmark.columns(config, rows))[5:] == [*expected, "devices"]
    assert len({what.name for what in rows}) == len(rows)  # so that each has a line of its own in the picture


THERE = find_spec("libtpu") and find_spec("jax_cuda13_plugin")
needs_plugins = pytest.mark.skipif(not THERE, reason='needs pip install -e ".[targets]"')
# (preset or network, target) -> bytes of temporaries at B 64, T 64
TABLES = ("targets-2026-11-26", "targets-networks-2026-11-26", "targets-more-2026-11-30")
ROWS = [row for name in TABLES for row in json.loads((ROOT / "results" / f"{name}.json").read_text())]
TEMPORARIES = {(row["network"], row["target"]): row["temp_bytes"] for row in ROWS}


@pytest.mark.slow
@needs_plugins
@pytest.mark.parametrize("name", [*PRESETS, *NETWORKS])
def test_every_preset_and_network_compiles_and_fits_in_what_the_table_says(name, tmp_path):
    config = benchmark.configuration(name)
    algorithm = "maml" if config.network in BASELINES else config.algorithm
    options = ["--network", name, "--algorithm", algorithm, "--form", "dual", "--meta-batch", "64", "--length", "64"]
    for row in compiled(tmp_path, *options, "--target", "tpu-v5e", "tpu-v5e:4", "h100"):
        assert row["fits"] and row["temp_bytes"] <= TEMPORARIES[name, row["target"]], row


EXPORTED = """
import jax, numpy as np, rgen
from rgen.sampling import export, make_sampler
from rgen.timing import benchmark, targets

jax.config.update("jax_platforms", "cpu")
trained = rgen.load_run("pretrained:{name}")
exported = jax.export.deserialize(bytearray(export.export(make_sampler(trained.model, trained.data), trained.params)))
for target in ("tpu-v5e", "h100"):
    where = jax.sharding.SingleDeviceSharding(targets.described(target)[0])
    shapes = (jax.ShapeDtypeStruct(shape, kind, sharding=where) for shape, kind in (((), np.uint32), ((64,), np.int32)))
    memory = jax.jit(exported.call).lower(*shapes).compile().memory_analysis()
    print(target, memory.temp_size_in_bytes)
"""


@pytest.mark.slow
@needs_plugins
@pytest.mark.parametrize("name", PRETRAINED)
def test_exported_samplers_compile(name):
    done = subprocess.run([sys.executable, "-c", EXPORTED.format(name=name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    temporaries = {target: int(size) for target, size in map(str.split, done.stdout.splitlines())}
    assert temporaries.keys() == {"tpu-v5e", "h100"} and max(temporaries.values()) < 1e8


@pytest.mark.slow
@needs_plugins
def test_the_largest_meta_batch_is_a_multiple_of_the_devices_and_fits(tmp_path):
    (row,) = compiled(
        tmp_path,
        *("--network", "text-mlp", "--algorithm", "maml", "--form", "direct", "--length", "16", "--target", "tpu-v5e:4", "--fit"),
    )
    assert row["fits"] and row["meta_batch"] % 4 == 0
