"""Weights that come with the package: their nats, and what each command does without their data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import rgen
from rgen import pretrained
from rgen.choices import PRETRAINED
from rgen.commands import check, evaluate, sample
from rgen.config import CheckConfig, EvaluateConfig, ReportConfig, SampleConfig, TrainConfig, trained
from rgen.errors import InputError
from rgen.pretrained import Source
from rgen.runs.folder import Trained, load_run
from rgen.scoring import score_all
from runs import ROOT

FILES = {"weights.npz", "config.json", "about.json", "card.md"}
NAMES = [b"emma", b"noah", b"isabella", b"xqzt", b"mohammed"]


def about(name: str) -> dict:
    return json.loads((pretrained.HERE / name / "about.json").read_text())


@pytest.fixture
def names(tmp_path, monkeypatch) -> Path:
    """A file of a few names, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "few.txt"
    path.write_bytes(b"\n".join(NAMES * 20))
    return path


# ---------------------------------------------------------------- the weights


def test_every_name_is_a_folder_with_all_it_needs():
    assert {path.name for path in pretrained.HERE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(PRETRAINED)
    for name in PRETRAINED:
        files = {path.name: path for path in (pretrained.HERE / name).iterdir()}
        assert set(files) == FILES and sum(path.stat().st_size for path in files.values()) < 1e6
        test, card = about(name)["test"], files["card.md"].read_text()
        assert f"**{test['nats_per_sequence']:.3f}**" in card and f"standard error {test['standard_error']:.3f}" in card
        assert f"{sum(a.size for a in jax.tree.leaves(load_run(f'pretrained:{name}').params)):,} parameters" in card
        assert f"pretrained:{name}" in Path(str(trained.__file__)).read_text()  # the help of --run


def test_nats_of_the_digits_are_those_of_the_card():
    run = load_run("pretrained:digits")
    nats = score_all(run.model, run.params, run.data, "test", np.arange(180), 180).sum(1)
    assert nats.mean() == pytest.approx(about("digits")["test"]["nats_per_sequence"], abs=1e-3)


def put(run: Trained, rows: np.ndarray) -> np.ndarray:
    """Nats of sequences of one's own."""
    data = dataclasses.replace(run.data, splits=run.data.splits | {"test": rows.astype(np.uint8)})
    return score_all(run.model, run.params, data, "test", np.arange(len(rows)), len(rows)).sum(1)


def test_nats_of_a_ring_and_a_bar():
    """Any change of the network, of a parameter's name or of the precision shows."""
    row, column = np.indices((28, 28)) - 13.5
    ring, bar = abs(np.hypot(row, column) - 7) < 1.5, (abs(row) < 9) & (abs(column) < 1.2)
    np.testing.assert_allclose(put(load_run("pretrained:mnist"), np.stack([ring, bar])), [40.7257, 19.1578], atol=1e-3)


def test_nats_of_names():
    rows = np.stack([np.frombuffer(name.ljust(16, b"\0"), np.uint8) for name in NAMES])
    np.testing.assert_allclose(put(load_run("pretrained:names"), rows), [9.0521, 9.5869, 8.3130, 38.9228, 12.7596], atol=1e-3)


@pytest.mark.parametrize("half", [False, True])
def test_what_is_packed_is_read(half, trained, tmp_path):
    _, config, data, _, params, step = load_run(trained)
    pretrained.pack(tmp_path / "own", config, data, params, step, {}, half)
    read = pretrained.load(tmp_path / "own", Source(), False)
    assert read[0] == config and read[4] == step and read[1].shape == data.shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3 if half else 0, atol=1e-6 if half else 0), params, read[3])


def test_weights_of_another_network_are_refused(trained, tmp_path):
    _, config, data, _, params, step = load_run(trained)
    pretrained.pack(tmp_path / "own", dataclasses.replace(config, widths=(6, 5)), data, params, step, {}, False)
    with pytest.raises(InputError, match="do not fit the network of this version"):
        pretrained.load(tmp_path / "own", Source(), False)


def test_the_example_of_the_readme():
    names: dict[str, Any] = {"rgen": rgen, "np": np}
    exec((ROOT / "README.md").read_text().split("```python\n")[2].split("```")[0], names)
    assert names["images"].shape == (16, 28, 28) and 40 < names["nats"].mean() < 70


# ---------------------------------------------------------------- the commands


def test_images_are_drawn_and_completed_without_their_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grey = np.full((28, 28), 128, np.uint8)
    grey[:6] = 255
    Image.fromarray(grey).save("known.png")
    sample.main(SampleConfig(Path("pretrained:mnist"), count=2, complete="known.png"))
    assert "pretrained-mnist-samples.png pretrained-mnist-samples.npz" in capsys.readouterr().out
    with np.load("pretrained-mnist-samples.npz") as file:
        assert file["images"].shape == (2, 28, 28) and not file["images"][:, :6].any() and file["images"].any()


def test_lines_are_compared_if_the_data_is_given(names, capsys):
    options = {"count": 4, "prompt": "em", "out": Path("out.txt"), "json": Path("out.json")}
    sample.main(SampleConfig(Path("pretrained:names"), **options))
    assert "to compare" not in capsys.readouterr().err and "new" not in json.loads(Path("out.json").read_text())
    drawn = Path("out.txt").read_bytes()
    assert all(line.startswith(b"em") for line in drawn.splitlines())
    sample.main(SampleConfig(Path("pretrained:names"), **options, data=str(names), overwrite=True))
    said = capsys.readouterr().err
    assert "This is not the data that pretrained:names was trained on: " in said and "30,533 train, 500 valid, 1,000 test there" in said
    assert "to compare" in said and sum(json.loads(Path("out.json").read_text()).get(key, 0) for key in ("new", "in_train")) > 0
    assert Path("out.txt").read_bytes() == drawn


def test_names_are_scored_if_the_data_is_given(names, capsys):
    evaluate.main(EvaluateConfig(Path("pretrained:names"), data=str(names)))
    assert "pretrained:names, step 32500" in capsys.readouterr().out


def test_what_goes_into_a_run_goes_into_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample.main(SampleConfig(Path("pretrained:digits"), belief=1))
    sample.main(SampleConfig(Path("pretrained:digits"), count=2))
    files = {"belief.png", "belief.gif", "samples.png", "samples.npz"}
    assert {path.name for path in tmp_path.iterdir()} == {f"pretrained-digits-{file}" for file in files}
    said = capsys.readouterr().out
    assert all(f"pretrained-digits-{file}" in said for file in files)


@pytest.mark.slow
def test_the_forms_agree_without_data(capsys):
    check.main(CheckConfig(Path("pretrained:names"), steps=4))
    assert "The forms agree" in capsys.readouterr().out


REFUSED = {
    "unknown": (lambda: load_run("pretrained:mnits"), "no weights 'pretrained:mnits'. Perhaps you meant pretrained:mnist"),
    "names not there": (lambda: load_run("pretrained:names", needs_data=True), "needs the data of pretrained:names.*--data names.txt"),
    "scored without": (lambda: evaluate.main(EvaluateConfig(Path("pretrained:names"))), "needs the data of pretrained:names"),
    "file for mnist": (lambda: load_run("pretrained:mnist", data="a"), "--data cannot be used with pretrained:mnist.*--data-dir"),
    "folder for names": (
        lambda: load_run("pretrained:names", data_dir="a"),
        "--data-dir cannot be used with pretrained:names",
    ),
    "for digits": (
        lambda: load_run("pretrained:digits", download=True),
        "--download cannot be used with pretrained:digits: its data",
    ),
    "no such file": (lambda: load_run("pretrained:names", data="no.txt"), "'no.txt' is neither a data set"),
    "trained": (lambda: TrainConfig(run=Path("pretrained:mnist")), "--run is pretrained:mnist, weights that come with rgen"),
    "compared": (lambda: ReportConfig((Path("pretrained:mnist"),)), "--run is pretrained:mnist, weights that come with rgen"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempt, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        attempt()


def test_mnist_that_is_needed_and_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"mnist is not in .*--download. Or give, with --data-dir"):
        load_run("pretrained:mnist", needs_data=True)


def test_a_run_has_its_data(trained):
    with pytest.raises(InputError, match=r"--data-dir is for pretrained weights; the run in .* its own copy"):
        load_run(trained, data_dir=trained)
