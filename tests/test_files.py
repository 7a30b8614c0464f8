"""Nothing is lost by writing a result, by the settings of JAX, or by streams that cannot show it."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import rgen
from rgen import data
from rgen.config import TrainConfig
from rgen.errors import InputError
from rgen.host.files import replace
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run, load_run
from rgen.sampling import make_sampler
from runs import ROOT, script


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "deep").mkdir()
    target, link, dangling = tmp_path / "deep" / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("deep/target")
    dangling.symlink_to("deep/none")
    replace(link, b"new")
    replace(dangling, b"newer")
    assert link.is_symlink() and target.read_bytes() == b"new" and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert dangling.is_symlink() and (tmp_path / "deep" / "none").read_bytes() == b"newer"
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"target", "none"}


def test_a_link_to_itself_has_nothing_to_keep(tmp_path):
    (tmp_path / "link").symlink_to("link")
    replace(tmp_path / "link", b"new")
    assert (tmp_path / "link").read_bytes() == b"new"


def test_a_pipe_is_written_to(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    replace(pipe, b"through")
    reader.join(10)
    assert found == [b"through"] and pipe.is_fifo()


def test_what_fails_while_it_is_written_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TypeError):
        replace(tmp_path / "file", 1)  # type: ignore
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("there", [np.float32, np.float64])
@pytest.mark.parametrize("here", [False, True])
def test_a_checkpoint_is_whole_whatever_the_precision_of_jax(here, there, tmp_path):
    state = {"a": np.linspace(0, 1, 7).astype(there), "b": np.arange(3, dtype=np.int32)}
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(1, state)
    wanted = np.float64 if here else np.float32
    with jax.enable_x64(here):
        like = {"a": jax.ShapeDtypeStruct((7,), wanted), "b": jax.ShapeDtypeStruct((3,), np.int32)}
        loaded = checkpoints.load(1, like)
    assert loaded["a"].dtype == wanted and loaded["b"].dtype == np.int32
    np.testing.assert_array_equal(loaded["a"], state["a"].astype(wanted))


def test_a_sample_is_the_same_whatever_the_generator_and_the_batch(trained):
    run = load_run(trained)
    sampler = make_sampler(run.model, run.data)
    whole = [np.asarray(a) for a in sampler.draw(run.params, 0, np.arange(3))]
    with jax.default_prng_impl("rbg"):
        for k in range(3):
            values, nats = sampler.draw(run.params, 0, np.arange(k, k + 1))
            np.testing.assert_array_equal(values[0], whole[0][k])
            np.testing.assert_allclose(nats[0], whole[1][k], rtol=1e-5)


@pytest.mark.parametrize(("generator", "partitionable"), [("threefry2x32", False), ("rbg", True), ("unsafe_rbg", False)])
def test_from_python_too_a_sample_depends_on_its_own_key_only(generator, partitionable, trained):
    """A sampler's do not depend on JAX's settings at all; with keys of one's own, not on the sequences beside it."""
    run = load_run(trained)
    sampler = make_sampler(run.model, run.data)
    sampler = dataclasses.replace(sampler, random_order=True)
    whole = np.asarray(sampler.draw(run.params, 0, np.arange(3))[0])
    with jax.default_prng_impl(generator), jax.threefry_partitionable(partitionable):
        np.testing.assert_array_equal(np.asarray(sampler.draw(run.params, 0, np.arange(1, 3))[0]), whole[1:])
        keys, x = jax.random.split(jax.random.key(1), 8), sampler.inputs(np.arange(run.data.length))[None]
        many = np.asarray(rgen.sample(run.model, run.params, x, keys).y)
        assert len({row.tobytes() for row in many}) > 1
        for some in (slice(0, 1), slice(5, 8)):
            np.testing.assert_array_equal(rgen.sample(run.model, run.params, x, keys[some]).y, many[some])


def test_settings_of_jax_and_streams_that_cannot_show_a_name(trained, tmp_path):
    (tmp_path / "größe").symlink_to(Path(trained).absolute())
    odd = {"PYTHONIOENCODING": "ascii", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_ENABLE_X64": "0"}
    said = script("sample", "--run", "größe", "--count", 3, "--out", "odd.png", "--json", "odd.json", cwd=tmp_path, **odd).stdout
    assert "odd.png" in said and (tmp_path / "odd.json").exists()
    run = load_run(trained)
    with jax.enable_x64(False), np.load(tmp_path / "odd.npz") as drawn:
        expected, _ = make_sampler(run.model, run.data).draw(run.params, 0, np.arange(3))
        np.testing.assert_array_equal(drawn["images"], expected)


def test_a_device_that_is_not_there_is_a_sentence(tmp_path):
    command = [sys.executable, str(ROOT / "bin" / "evaluate.py"), "--run", "pretrained:digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "nonsense"})
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("evaluate.py: JAX_PLATFORMS is 'nonsense', and JAX finds no")
    assert "Traceback" not in done.stderr


def test_closed_streams_end_nothing(tmp_path):
    command = f"exec {sys.executable} {ROOT / 'bin' / 'evaluate.py'} --run pretrained:digits --count 2 --json out.json >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.json").exists()


def test_the_same_lines_under_another_name_go_on(tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    first.write_bytes(b"a\nbb\nccc\ndd\n")
    config = TrainConfig(run=tmp_path / "run", data=str(first), network="text-mlp", max_length=6)
    run = Run(config.run)
    assert not run.reserve(config)
    run.make(config, data.from_config(config))
    run.end()
    shutil.copy(first, other)
    moved = dataclasses.replace(config, data=str(other), resume=True)
    again = Run(config.run)
    assert again.reserve(moved)
    again.end()
    other.write_bytes(b"a\nbb\nccc\nde\n")
    for elsewhere in (str(other), "mnist"):  # which is not looked for
        with pytest.raises(InputError, match=f"holds another configuration: data was {first} and is {elsewhere}"):
            Run(config.run).reserve(dataclasses.replace(moved, data=elsewhere))
