"""Whole programs on tiny data: what users and other programs rely on, and what becomes of bad input."""

import ast
import csv
import dataclasses
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tyro
from PIL import Image

from rgen import commands, config, models, scoring, training
from rgen.choices import BASELINES
from rgen.config import PRESETS, BenchmarkConfig, EvaluateConfig, SampleConfig, validation
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop
from rgen.runs.folder import Run, load_run
from rgen.timing import original
from runs import ROOT, TINY, command, contents, cut, last_state, rows, words

SUMMARY = {"nats_per_sequence", "standard_error", "nats_per_symbol", "bits_per_symbol", "sequences", "parameters", "step"}
ROW = {
    *("network", "algorithm", "form", "meta_batch", "length", "shape", "symbols", "inner_batch", "devices", "seconds"),
    *("outputs_per_second", "sequences_per_second", "temp_bytes", "compile_seconds", "over_reptile", "times_direct", "operations"),
}
# ---------------------------------------------------------------- names that other programs call


def test_the_options_of_the_scripts(tmp_path):
    out, file = tmp_path / "out", tmp_path / "file.json"
    shared = {"run": tmp_path, "split": "valid", "count": 3, "seed": 5, "out": out, "json": file}
    arguments = ["--run", tmp_path, "--split", "valid", "--count", 3, "--seed", 5, "--out", out, "--json", file]
    arguments = [str(argument) for argument in arguments]
    assert tyro.cli(EvaluateConfig, args=arguments) == EvaluateConfig(**shared)
    assert tyro.cli(SampleConfig, args=arguments) == SampleConfig(**shared)

    arguments = words("--network siren text-mlp --algorithm maml reptile --form direct dual --meta-batch 1 2 --length 4 9 --json")
    expected = BenchmarkConfig(("siren", "text-mlp"), ("maml", "reptile"), ("direct", "dual"), (1, 2), (4, 9), json=file)
    assert tyro.cli(BenchmarkConfig, args=[*arguments, str(file)]) == expected

    arguments = ["digits-maml", "--run", str(out), "--steps", "7", "--seed", "5", "--resume"]
    expected = dataclasses.replace(PRESETS["digits-maml"][1], run=out, steps=7, seed=5, resume=True)
    assert tyro.extras.overridable_config_cli(PRESETS, args=arguments) == expected


def test_every_option_has_a_sentence_of_help():
    paths = {*Path(config.__file__).parent.glob("*.py")} - {Path(validation.__file__)}
    trees = [ast.parse(path.read_text()) for path in paths]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name in config.__all__ if name.endswith("Config")} <= classes.keys()
    for node in classes.values():
        assert ast.get_docstring(node)
        for field, after in zip(node.body, [*node.body[1:], None]):
            if isinstance(field, ast.AnnAssign):
                sentence = isinstance(after, ast.Expr) and ast.literal_eval(after.value)
                assert sentence and sentence.endswith("."), f"{node.name}: {ast.unparse(field)}"


SHAPES = {"listing": (128,), "digits": (8, 8), "mnist": (28, 28)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name):
    preset = PRESETS[name][1]
    shape = (preset.max_length,) if preset.data == "names.txt" else SHAPES[preset.data]
    kind = "text" if len(shape) == 1 else "image"
    model = models.from_config(preset, Dataset(kind, {"train": np.zeros((1, *shape), np.uint8)}, 256 if kind == "text" else 2))
    assert isinstance(model, InnerLoop) == (preset.network not in BASELINES) and getattr(model, "network").shape == shape  # noqa: B009


def test_help_does_not_wait_for_jax():
    script = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        slow = {"jax", "flax", "sklearn", "matplotlib"} & set(sys.modules)
        print("ended with", end.code, sorted(slow))
"""
    paths = [str(ROOT / "bin" / f"{name}.py") for name in commands.COMMANDS]
    said = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True).stdout
    helps = said.split("ended with 0 []\n")
    assert len(helps) == len(paths) + 1 and not helps[-1]
    for name, shown in zip(commands.COMMANDS, helps):
        option = {"train": "text-reptile", "check": "--steps", "inside": "--split", "report": "--out"}.get(name, "--json")
        assert option in shown, name


# ---------------------------------------------------------------- as users run them


def test_a_text_run_by_commands(tmp_path):
    """Its folder is all that is needed: the file of lines is deleted after training."""
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"".join(b"%d plus %d\n" % (i, i % 7) for i in range(40)))
    sizes = words("--features 6 --widths 6 --max-length 8 --meta-batch 2 --steps 3 --eval-count 2")
    said = command("train", "text-maml", "--run", "run", "--data", lines, *sizes, cwd=tmp_path)
    assert re.search(r"Computing on \d+ CPU device", said.stderr)
    assert "run/curves.png" in said.stdout and "step 3: " in said.stderr and "40" not in said.stdout
    assert "Lines cut to 7 bytes, since they were longer: 40 of 40." in said.stderr
    lines.unlink()

    said = command("evaluate", "--run", "run", "--split", "valid", "--json", "nats.json", "--out", "nats.csv", cwd=tmp_path)
    summary = json.loads((tmp_path / "nats.json").read_text())
    assert summary.keys() == SUMMARY and summary["sequences"] == 2
    assert "independent symbols" in said.stdout and f"{summary['nats_per_sequence']:.3f}" in said.stdout
    with (tmp_path / "nats.csv").open() as file:
        table = list(csv.DictReader(file))
    nats, symbols = (np.array([float(row[key]) for row in table]) for key in ("nats", "symbols"))
    assert summary["nats_per_sequence"] == pytest.approx(nats.mean())
    assert summary["standard_error"] == pytest.approx(abs(nats[0] - nats[1]) / 2)
    assert summary["nats_per_symbol"] == pytest.approx(nats.sum() / symbols.sum())
    assert summary["bits_per_symbol"] == pytest.approx(summary["nats_per_symbol"] / math.log(2))
    assert (symbols == 8).all()  # each line was cut to 7 bytes and a NUL

    command("sample", "--run", "run", "--count", 5, "--seed", 3, "--out", "lines.out", "--json", "lines.json", cwd=tmp_path)
    counted = json.loads((tmp_path / "lines.json").read_text())
    assert counted["count"] == sum(counted[key] for key in ("in_train", "in_valid", "in_test", "new")) == 5
    assert counted["nats_per_sequence"] == pytest.approx(np.loadtxt(tmp_path / "lines.out.nats").mean(), abs=1e-4)
    assert (tmp_path / "lines.out").read_bytes().count(b"\n") == 5


def test_the_benchmark(tmp_path):
    sizes = words("--network siren --algorithm reptile sample --form direct --meta-batch 1 2 --length 3 --repeats 1")
    arguments = [*sizes, *words("--profile --json rows.json --out bars.png")]
    said = command("benchmark", *arguments, cwd=tmp_path)
    table = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["algorithm"], row["meta_batch"]) for row in table] == [
        (algorithm, batch) for batch in (1, 2) for algorithm in ("reptile", "sample")
    ]
    for row in table:
        assert row.keys() == ROW
        assert row["outputs_per_second"] == pytest.approx(3 * row["sequences_per_second"])
        assert row["sequences_per_second"] == pytest.approx(row["meta_batch"] / row["seconds"])
        assert sum(seconds for _, seconds, _ in row["operations"]) > 0
    assert len([line for line in said.stdout.splitlines() if line.startswith("siren  ")]) == 4
    assert "siren reptile direct, meta-batch 2, length 3" in said.stdout
    assert Image.open(tmp_path / "bars.png").size[0] > 100


STAND_INS = {  # for torch and for the checkout of the original program
    "torch.py": "from numpy import arange, stack\nfrom numpy.random import randint, rand\n"
    "__version__ = '0'\ndef get_num_threads(): return 1",
    "reptile_gen/__init__.py": "",
    "reptile_gen/model.py": "class Net:\n    def zero_grad(self): pass\nmake_text_model = make_mnist_model = make_mnist_model_siren = Net",
    "reptile_gen/maml.py": "def maml_grad(net, data, rate):\n    if len(data) > 1: raise MemoryError('too large')",
    "reptile_gen/reptile.py": "import time\ndef reptile_grad(net, data, rate): time.sleep(0.01 * len(data[0][0]))",
}


def test_the_original_program_is_timed_in_turn_with_ours(tmp_path):
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    arguments = words("--network siren --algorithm reptile --form direct --meta-batch 1 --length 3 --repeats 3 --json rows.json")
    said = command("benchmark", "--original", tmp_path, "--original-python", sys.executable, *arguments, cwd=tmp_path)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    ratios = np.array(row["original_seconds"]) / row["seconds"]
    assert len(ratios) == 3 and min(row["original_seconds"]) >= 0.03
    assert (row["least"], row["median"], row["most"]) == pytest.approx((ratios.min(), np.median(ratios), ratios.max()))
    assert "times as fast" in said.stdout
    with pytest.raises(InputError, match=r"could not be run .MemoryError: too large."):
        original.measure(BenchmarkConfig(("siren",), ("reptile",), ("direct",), (2,), (3,), original=tmp_path, repeats=1))


# ---------------------------------------------------------------- training


def test_what_a_run_leaves(trained):
    logged = rows(trained)
    assert [row["step"] for row in logged if "nats" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in logged if "valid_nats" in row] == [2, 4]
    assert all(0 < row["inner_gradient_norm"] <= row["inner_gradient_most"] for row in logged if "valid_nats" in row)
    assert all(row["gradient_norm"] > 0 for row in logged if "nats" in row)
    assert Image.open(trained / "curves.png").size[0] > 100 and Image.open(trained / "samples.png").size[0] > 100
    assert Run(trained).config() == dataclasses.replace(TINY, run=trained)


def test_the_learned_rates_and_the_weights_both_move(trained):
    run = Run(trained)
    data = load_run(trained).data
    begun = models.init(models.from_config(TINY, data), data, seed=0)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), begun, last_state(trained).params)
    assert all(change > 0 for change in jax.tree.leaves(moved))
    scored = {row["valid_nats"]: row["step"] for row in run.metrics() if "valid_nats" in row}
    assert run.best().steps()[0] == scored[min(scored)]


def test_tensorboard_gets_what_is_logged(tmp_path):
    training.train(dataclasses.replace(TINY, run=tmp_path / "run", steps=2, tensorboard=True))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    written = events.read_bytes()
    for name in {name for row in rows(tmp_path / "run") for name in row} - {"step"}:
        assert name.encode() in written


def test_without_tensorboardx_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="pip install tensorboardX"):
        training.train(dataclasses.replace(TINY, run=tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- evaluating


def test_the_nats_of_a_split_do_not_depend_on_the_batch(trained):
    _, _, data, model, params, _ = load_run(trained)
    index = np.arange(5)
    whole = scoring.score_all(model, params, data, "test", index, batch=5)
    np.testing.assert_allclose(scoring.score_all(model, params, data, "test", index, batch=2), whole, rtol=1e-5)


# ---------------------------------------------------------------- bad input


def refused(monkeypatch, capfd, name: str, *arguments: Any) -> str:
    """Runs a script as if typed; it must end with 2 and say one thing on stderr. Returns that, without tyro's frame."""
    monkeypatch.setattr(sys, "argv", [f"bin/{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "bin" / f"{name}.py"), run_name="__main__")
    said = capfd.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said
    return re.sub(r"[\s│╭╮╰╯─]+", " ", said)


DIGITS = ("digits-maml", "--run", "run")
BAD_TRAINING = {
    "preset": (["digits-mamI"], "no preset 'digits-mamI'. Perhaps you meant digits-maml"),
    "network": ([*DIGITS, "--network", "sirn"], "--network is 'sirn'. Perhaps you meant siren"),
    "data set": ([*DIGITS, "--data", "digit"], "'digit' is neither a data set"),
    "missing file": (["text-maml", "--run", "run", "--data", "no.txt"], "'no.txt' is neither a data set"),
    "empty file": (["text-maml", "--run", "run", "--data", "empty.txt"], "'empty.txt' is empty"),
    "folder for a file": (["text-maml", "--run", "run", "--data", "full"], "The folder 'full' holds no pictures"),
    "truncated gz": (["mnist-maml", "--run", "run", "--data-dir", "gz"], "gz"),
    "inner rate": ([*DIGITS, "--inner-rate", "-1"], "--inner-rate is -1.0; it must be a positive number"),
    "outer rate": ([*DIGITS, "--outer-rate", "0"], "--outer-rate is 0.0; it must be a positive number"),
    "outer rate nan": ([*DIGITS, "--outer-rate", "nan"], "--outer-rate is nan; it must be a positive number"),
    "steps": ([*DIGITS, "--steps", "0"], "--steps is 0; it must be at least 1"),
    "minutes": ([*DIGITS, "--minutes", "0"], "--minutes is 0.0; it must be a positive number"),
    "endless": ([*DIGITS, "--minutes", "inf"], "--minutes is inf; it must be a positive number"),
    "meta-batch": ([*DIGITS, "--meta-batch", "-2"], "--meta-batch is -2; it must be at least 1"),
    "seed": ([*DIGITS, "--seed", "-1"], "--seed is -1; it must be at least 0"),
    "reduce": ([*DIGITS, "--reduce", "3"], "cannot be reduced by 3"),
    "held out": ([*DIGITS, "--held-out", "0.9"], "held-out fraction"),
    "beta2": ([*DIGITS, "--beta2", "1"], "--beta2 is 1.0; it must lie between 0 and 1"),
    "muon's": ([*DIGITS, "--muon-rms", "1"], "--muon-rms is for Muon; give --optimizer muon too, or leave it out"),
    "muon's size": ([*DIGITS, "--muon-rms", "0"], "--muon-rms is 0.0; it must be a positive number"),
    "lstm by reptile": ([*DIGITS, "--network", "lstm", "--algorithm", "reptile"], "recurrent baseline has no inner loop"),
    "transformer by reptile": (
        [*DIGITS, "--network", "transformer", "--algorithm", "reptile"],
        "The transformer has no inner loop for 'reptile'",
    ),
    "inner steps of a transformer": (
        ["digits-transformer", "--inner-batch", "2"],
        "The transformer has no inner loop; leave out --inner-batch",
    ),
    "option of another baseline": (
        ["digits-transformer", "--features", "8"],
        "'transformer' has no option 'features'; it has width, depth, heads",
    ),
    "heads of attention": (["digits-transformer", "--heads", "7"], "which is not divisible by its 7 heads"),
    "reptile of rates": ([*DIGITS, "--algorithm", "reptile", "--fast", "None"], "Reptile has no gradient for inner rates"),
    "width zero": ([*DIGITS, "--width", "0"], "--width is 0; it must be at least 1"),
    "heads": ([*DIGITS, "--heads", "7"], "width is 64, which is not divisible by its 7 heads"),
    "keys": ([*DIGITS, "--keys", "7"], "keys are 7; they are pairs of a cosine and a sine"),
    "no such size": ([*DIGITS, "--widths", "3"], "'heads' has no option 'widths'"),
    "network of text": ([*DIGITS, "--network", "text-mlp"], "'text-mlp' is for lines"),
    "run is a file": (["digits-maml", "--run", "empty.txt"], "empty.txt is a file; --run needs a folder"),
    "run is full": (["digits-maml", "--run", "full"], "full is not empty and holds no run"),
    "unknown option": ([*DIGITS, "--stepz", "3"], "--stepz"),
    "not a number": ([*DIGITS, "--steps", "many"], "many"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_to_training_is_a_sentence_and_writes_nothing(case, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    for file in ("full/notes", *(f"gz/{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3"))):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_bytes(b"\x1f\x8b\x08 cut off")
    before, (arguments, sentence) = contents(tmp_path), BAD_TRAINING[case]
    assert sentence in refused(monkeypatch, capfd, "train", *arguments)
    assert contents(tmp_path) == before and not Path("run").exists()


TINY_OPTIONS = words(
    "--network siren --width None --heads None --keys None --fast None --inner-loss None --widths 6 4 --reduce 2 --rates per-array "
    "--inner-rate 0.05 --warmup 1 --clip 1 --weight-decay 0.01 --outer-rate 0.001 "
    "--schedule constant --beta2 0.999 --steps 4 --meta-batch 2 --eval-count 4"
)
BAD_RESUMING = {
    "not asked for": ([], "already holds a run; add --resume to go on"),
    "another seed": (["--resume", "--seed", "1"], "holds another configuration: seed was 0 and is 1"),
    "other sizes": (["--resume", "--widths", "5"], "holds another configuration: widths was (6, 4) and is (5,)"),
    "fewer steps": (["--resume", "--steps", "3"], "is a run of 4 steps; --steps 3 would shorten it"),
    "minutes": (["--resume", "--minutes", "3"], "is a run of 4 steps; it goes on by --steps, not by --minutes"),
}


@pytest.mark.parametrize("case", BAD_RESUMING)
def test_a_run_is_not_overwritten(case, copied, monkeypatch, capfd):
    before, (arguments, sentence) = contents(copied), BAD_RESUMING[case]
    assert sentence in refused(monkeypatch, capfd, "train", "digits-maml", "--run", copied, *TINY_OPTIONS, *arguments)
    assert contents(copied) == before


BAD_USE = {
    "no run": ("evaluate", ["--run", "nowhere"], "There is no run in nowhere"),
    "no run to draw from": ("sample", ["--run", "nowhere"], "There is no run in nowhere"),
    "split": ("evaluate", ["--split", "tests"], "--split is 'tests'. Perhaps you meant test"),
    "too many": ("evaluate", ["--count", "100000"], "--count is 100000, and the test split has 180 sequences"),
    "none to score": ("evaluate", ["--count", "0"], "--count is 0; it must be at least 1"),
    "none to draw": ("sample", ["--count", "0"], "--count is 0; it must be at least 1"),
    "batch": ("sample", ["--batch", "0"], "--batch is 0; it must be at least 1"),
    "temperature": ("sample", ["--temperature", "-1"], "temperature is -1.0; it must be at least 0"),
    "prompt of images": ("sample", ["--prompt", "a"], "--prompt begins a line, and this run was trained on images"),
    "part": ("sample", ["--complete", "tops"], "no part 'tops' of an image. Perhaps you meant top"),
    "picture": ("sample", ["--complete", "no.png"], "'no.png' cannot be read: No such file or directory"),
    "no folder for samples": ("sample", ["--out", "nowhere/a.png"], "nowhere/a.png"),
    "no folder for the summary": (
        "evaluate",
        ["--count", "2", "--json", "nowhere/file.json"],
        "--json is 'nowhere/file.json', in a folder that does not exist",
    ),
    "benchmark network": ("benchmark", ["--network", "siren", "gate"], "no network 'gate'. Perhaps you meant gated"),
    "benchmark preset": ("benchmark", ["--network", "names-heads"], "only a part learns, and Reptile needs all"),
    "benchmark algorithm": ("benchmark", ["--algorithm", "reptil"], "--algorithm is 'reptil'. Perhaps you meant reptile"),
    "benchmark form": ("benchmark", ["--form", "indirect"], "--form is 'indirect'. Perhaps you meant direct"),
    "benchmark length": ("benchmark", ["--length", "4", "0"], "--length is 0; it must be at least 1"),
    "no run to check": ("check", ["--run", "nowhere"], "There is no run in nowhere"),
    "no step to check": ("check", ["--steps", "0"], "--steps is 0; it must be at least 1"),
    "no device": ("evaluate", ["--devices", "0"], "--devices is 0; it must be at least 1"),
    "benchmark target": ("benchmark", ["--target", "tpu-v5"], "There is no target 'tpu-v5'. Perhaps you meant tpu-v5p"),
    "benchmark picture of a target": ("benchmark", ["--target", "h100", "--out", "a.png"], "With --target nothing is run"),
    "benchmark devices": ("benchmark", ["--devices", "0"], "--devices is 0; it must be at least 1"),
    "benchmark original": ("benchmark", ["--original", ".", "--algorithm", "maml"], "in which there is no reptile_gen/maml.py"),
    "benchmark what the original has not": ("benchmark", ["--original", "."], "--algorithm is first-order-maml; with --original"),
    "benchmark original and target": ("benchmark", ["--original", ".", "--target", "h100"], "With --target nothing is run"),
    "benchmark original and devices": (
        "benchmark",
        ["--original", ".", "--algorithm", "maml", "--devices", "1"],
        "--original and --devices cannot be used together",
    ),
    "benchmark shape": ("benchmark", ["--shape", "4", "4", "--length", "16"], "--shape and --length both say"),
    "benchmark axes": ("benchmark", ["--shape", *"22222"], "--shape has 5 axes; it must have one to four"),
    "benchmark symbols": ("benchmark", ["--symbols", "257"], "--symbols is 257; it must be at most 256"),
    "benchmark colours": (
        "benchmark",
        ["--network", "heads", "siren", "--algorithm", "maml", "--shape", "4", "4", "3"],
        "The network 'siren' is for pictures without colours, and the sequences have the shape (4, 4, 3)",
    ),
    "benchmark shape of the original": (
        "benchmark",
        ["--original", ".", "--algorithm", "maml", "--shape", "4", "4"],
        "--original and --shape cannot be used together",
    ),
    "benchmark meta-batch": ("benchmark", ["--meta-batch", "-1"], "--meta-batch is -1; it must be at least 1"),
}


@pytest.mark.parametrize("case", BAD_USE)
def test_bad_input_to_the_other_scripts_is_a_sentence(case, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    name, arguments, sentence = BAD_USE[case]
    run = [] if name == "benchmark" or "--run" in arguments else ["--run", trained]
    assert sentence in refused(monkeypatch, capfd, name, *run, *arguments)
    assert not list(tmp_path.iterdir())


def test_the_forms_of_a_run_are_compared(trained, tmp_path):
    said = command("check", "--run", trained, "--steps", 4, cwd=tmp_path).stdout
    assert "The forms agree" in said and "Taken over" in said


DAMAGE = {
    "configuration": (lambda run: cut(run / "config.json"), "config.json is not the configuration of a run"),
    "option of another version": (
        lambda run: (run / "config.json").write_text('{"sound": 1}'),
        "has options that this version of rgen does not know: sound",
    ),
    "data": (lambda run: cut(run / "data.npz"), "data.npz, the run's own copy of its data, is damaged"),
    "checkpoint cut": (lambda run: [cut(path) for path in (run / "best").rglob("*") if path.is_file()], "checkpoint of step"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "best"), "has no checkpoint yet"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_named_and_left_alone(case, copied, monkeypatch, capfd):
    damage, sentence = DAMAGE[case]
    damage(copied)
    before = contents(copied)
    assert sentence in refused(monkeypatch, capfd, "evaluate", "--run", copied)
    assert contents(copied) == before
