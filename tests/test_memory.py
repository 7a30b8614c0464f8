"""What is too large ends in a sentence before the work: how much it would take, how much there is, and what would fit."""

import dataclasses
import resource
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import jax
import numpy as np
import pytest

from rgen import commands, config, data, hardware, models, scoring, training
from rgen.config import PRESETS, TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.hardware import Hardware, main_memory, require_memory
from rgen.timing import benchmark

GB = 10**9


def images(side: int, count: int = 2) -> Dataset:
    """Black images; what they take is reserved by the system, not used."""
    return Dataset("image", {split: np.zeros((count, side, side), np.uint8) for split in ("train", "valid", "test")})


def lines(length: int) -> Dataset:
    return Dataset("text", {split: np.full((2, 4), ord("a"), np.uint8) for split in ("train", "valid", "test")}, 256, max_length=length)


def preset(name: str, **changes: Any) -> TrainConfig:
    return dataclasses.replace(PRESETS[name][1], **changes)


TOO_LARGE = {
    "images of 2000 by 2000": (preset("digits-maml"), images(2000, 4), ("4,000,000 steps", "--reduce 16 ")),
    "in random order": (preset("digits-maml", order="random"), images(2000), ("--reduce 4 ",)),
    "meta-batch": (preset("digits-maml", meta_batch=100_000_000), images(8), ("--meta-batch 100000000 ", "--meta-batch 12500000 ")),
    "lines": (preset("text-heads", meta_batch=10_000), lines(1_000_000), ("1,000,000 steps", "--max-length 976 ")),
    "with context": (preset("names-context"), lines(10_000_000), ("10,000,000 steps", "--max-length 305 ")),
    "nothing fits": (preset("digits-maml", meta_batch=10**9), images(2000), ("Give a smaller --meta-batch and a larger --reduce",)),
    "places": (preset("text-heads"), lines(100_000_000), ("9,600,127,816 parameters", "shorter")),
    "of the baseline": (preset("text-lstm"), lines(100_000_000), ("12,801,676,032 parameters",)),
    "attention": (preset("mnist-transformer", meta_batch=4096), images(28), ("--meta-batch 4096 ", "With --meta-batch 64 ")),
    "width": (preset("digits-maml", width=2**16, heads=2**16), images(8), ("parameters", "--width")),
    "widths": (preset("text-maml", widths=(2**16, 2**16)), lines(128), ("parameters", "--width")),
    "depth": (preset("digits-lstm", depth=100, width=8192), images(8), ("parameters", "--width")),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_training_that_cannot_fit_is_refused(case, monkeypatch):
    monkeypatch.setattr(hardware, "main_memory", lambda: 16 * GB)
    asked, given, words = TOO_LARGE[case]
    with pytest.raises(InputError) as refused:
        models.check_training_fits(asked, models.from_config(asked, given), given)
    assert all(word in str(refused.value) for word in (*words, "16.0 GB")), refused.value


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits-maml", {"width": 32, "heads": 16}),
        ("digits-maml", {"width": 32, "heads": 16, "order": "random", "fold": False}),
        ("text-maml", {"widths": (16, 16), "features": 16}),
        ("text-transformer", {"width": 8, "depth": 1}),
    ],
)
def test_what_would_work_is_not_refused(name, changes, monkeypatch):
    """What is counted is less than XLA allocates for an outer step, and more than a hundredth."""
    asked = preset(name, **changes, meta_batch=4)
    given = lines(16) if name.startswith("text") else dataclasses.replace(images(6), order=asked.order)
    model, optimizer = models.from_config(asked, given), training.make_optimizer(asked)
    state = training.init_state(models.init(model, given, 0), optimizer)
    step: Any = training.make_step(model, asked.algorithm, optimizer)
    step = step.lower(state, given.batch(0, 0, 4), 0.0)
    memory: Any = step.compile().memory_analysis()
    allocated = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    monkeypatch.setattr(hardware, "main_memory", lambda: allocated)
    models.check_training_fits(asked, model, given)
    monkeypatch.setattr(hardware, "main_memory", lambda: allocated / 100)
    with pytest.raises(InputError, match="needs at least"):
        models.check_training_fits(asked, model, given)


def test_nothing_is_made_of_a_run_that_cannot_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "main_memory", lambda: 16 * GB)
    with pytest.raises(InputError, match=r"--meta-batch 100000000 .* 76\.8 GB of memory, and there are 16\.0 GB"):
        training.train(preset("digits-maml", run=tmp_path / "run", meta_batch=100_000_000))
    assert not (tmp_path / "run").exists()


def test_a_table_of_lines_or_made_up_sequences_that_cannot_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "main_memory", lambda: 10**6)
    (tmp_path / "lines.txt").write_bytes(b"a\n" * 200 + b"b" * 10_000)
    with pytest.raises(InputError, match=r"201 lines of 10,001 bytes needs at least .* --max-length"):
        data.load(tmp_path / "lines.txt", max_length=10**8)
    for batch, length, sentence in (
        (10**8, 10**8, "--meta-batch 100000000 with sequences of 100,000,000 steps needs"),
        (1, 64, "parameters needs at least"),
    ):
        ((what,),) = benchmark.combinations(config.BenchmarkConfig(("text-mlp",), ("maml",), ("dual",), (batch,), (length,)))
        with pytest.raises(InputError, match=sentence):
            benchmark.prepare(what)


# ---------------------------------------------------------------- whole numbers

COMMANDS: list[tuple[Any, dict[str, Any]]] = [
    (config.TrainConfig, {}),
    (config.EvaluateConfig, {"run": Path("run")}),
    (config.SampleConfig, {"run": Path("run"), "complete": "top"}),
    (config.InsideConfig, {"run": Path("run")}),
    (config.BenchmarkConfig, {}),
    (config.CheckConfig, {"run": Path("run")}),
]
WHOLE = [
    (options, given, name, get_origin(hint) is tuple)
    for options, given in COMMANDS
    for name, hint in get_type_hints(options).items()
    if int in (hint, *get_args(hint))
]
MAY_BE_NONE = ("seed", "seeds", "split_seed", "warmup", "eval_count", "context", "belief")  # may be 0
SIZES = ("width", "widths", "depth", "features", "heads", "keys")  # the network says what they may be


@pytest.mark.parametrize(("options", "given", "name", "several"), WHOLE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_whole_numbers_out_of_range_are_sentences(options, given, name, several):
    for value in (10**20, 2**31, *([-1] if name not in SIZES else []), *([0] if name not in (*SIZES, *MAY_BE_NONE) else [])):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is ") as refused:
            options(**given, **{name: (value,) if several else value})
        assert str(value) in str(refused.value) and str(refused.value).endswith(".")


@pytest.mark.parametrize("name", ["width", "features", "heads", "keys", "depth", "context", "devices"])
def test_sizes_that_would_be_traced_for_hours_are_sentences(name):
    with pytest.raises(InputError, match=f"--{name} is 100000; it must be at most"):
        dataclasses.replace(TrainConfig(), **{name: 100_000})


# ---------------------------------------------------------------- how much there is


def test_memory_is_what_the_container_and_ulimit_leave(tmp_path):
    assert 0 < main_memory(tmp_path) <= 2**50  # without control groups
    (tmp_path / "proc/self").mkdir(parents=True)
    for entries, files, limit in (
        ("0::/a/b\n", {"a/memory.max": "5000000", "a/b/memory.max": "max"}, 5_000_000),
        ("0::/\n", {"memory.max": "7000000"}, 7_000_000),  # as a container sees its own
        ("9:name=systemd:/\n4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "6000000"}, 6_000_000),
        ("4:memory:/unseen\n", {"memory/memory.limit_in_bytes": "8000000"}, 8_000_000),
    ):
        root = tmp_path / str(limit)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(entries)
        for name, content in files.items():
            file = root / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + "\n")
        assert main_memory(root) == limit


def test_a_limit_of_the_address_space_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 * GB, -1) if kind == resource.RLIMIT_AS else (resource.RLIM_INFINITY, -1))
    assert main_memory() == 3 * GB


def test_accelerators_count_their_own_memory(monkeypatch):
    monkeypatch.setattr(hardware, "hardware", lambda: Hardware("gpu", 2, 8 * GB))
    assert hardware.total_memory() == 16 * GB


def test_where_the_system_does_not_tell_nothing_is_refused():
    require_memory(10**18, "This", "Do less.", there=0)


# ---------------------------------------------------------------- what fails all the same

ERRORS = {
    "MemoryError": lambda: bytearray(2**62),
    "NumPy": lambda: np.empty((2**30, 2**30)),
    "dimensions": lambda: np.empty((2**62, 2**62)),
    "XLA": lambda: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 213265424520 bytes.")),
    "whole numbers": lambda: len(range(10**20)),
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_allocation_that_fails_is_a_sentence(error, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.guarded(ERRORS[error], "rgen")
    assert ended.value.code == 2
    assert "does not fit into" in capsys.readouterr().err


def test_what_is_no_such_failure_is_not_hidden(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ValueError, match="invalid literal"):
        commands.guarded(lambda: int("x"), "rgen")


# ---------------------------------------------------------------- how much at once


def test_batches_are_as_large_as_is_good_for_form_and_device(monkeypatch):
    asked = preset("digits-maml")
    small, large = images(8), images(2000)
    dual, direct = models.from_config(asked, small), models.from_config(dataclasses.replace(asked, form="direct"), small)
    assert models.fitting_batch(dual, small) == 256
    assert models.fitting_batch(dual, large) == 20  # outputs, weights and nats in 1 GB
    assert models.fitting_batch(direct, small, budget=1e7) < models.fitting_batch(dual, small, budget=1e7)
    monkeypatch.setattr(models, "hardware", lambda: Hardware("gpu", 1, 80 * GB))
    assert models.fitting_batch(dual, small) == 4096
    assert models.fitting_batch(direct, small) <= 256


def test_scoring_sums_every_row_once(monkeypatch):
    """The progress shows the mean of all rows so far; of each batch only its own rows are looked at."""
    given, summed, shown = images(2, count=8), [], []

    class Rows(np.ndarray):
        def sum(self, *arguments, **options):
            summed.append(len(self))
            return np.asarray(self).sum(*arguments, **options)

    nats = np.arange(32.0).reshape(8, 4)
    monkeypatch.setattr(scoring, "score", lambda model, params, seqs: nats[sum(summed) : sum(summed) + 2])
    monkeypatch.setattr(scoring, "place", lambda params, rows: (params, rows))
    monkeypatch.setattr(scoring, "fetch", lambda rows: rows.view(Rows))
    progress: Any = type("Shown", (), {"update": lambda self, done, note: shown.append((done, note))})()
    model: Any = None
    np.testing.assert_array_equal(scoring.score_all(model, None, given, "test", np.arange(8), 2, progress), nats)
    assert summed == [2, 2, 2, 2]
    assert shown == [(done, f"{nats[:done].sum(1).mean():.3f} nats") for done in (2, 4, 6, 8)]
