"""bin/sample.py: bulk, going on, completions, belief and export, on tiny runs."""

import ast
import dataclasses
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from rgen import training
from rgen.commands import sample
from rgen.config import SampleConfig, TrainConfig
from rgen.data import DataError, Dataset, conditioning
from rgen.errors import InputError
from rgen.runs.folder import load_run
from rgen.sampling import records
from rgen.sampling.records import Records, as_text
from runs import ROOT

TINY = TrainConfig(steps=2, meta_batch=2, log_every=1, eval_every=2, eval_count=2, inner_rate=0.05)
DIGITS = dataclasses.replace(TINY, network="siren", widths=(6, 4), reduce=2, order="random")
TEXT = dataclasses.replace(TINY, network="text-mlp", features=4, widths=(5,), max_length=6)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return training.train(dataclasses.replace(DIGITS, run=tmp_path_factory.mktemp("digits") / "run")).folder


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    (folder / "lines.txt").write_bytes(b"".join(b"%d+%d\n" % (i, i % 7) for i in range(40)))
    return training.train(dataclasses.replace(TEXT, data=str(folder / "lines.txt"), run=folder / "run")).folder


def run(**options) -> None:
    sample.main(SampleConfig(**options))


# ---------------------------------------------------------------- bulk


def stop(*_) -> None:
    raise KeyboardInterrupt


def test_stopped_in_the_middle_it_goes_on_to_the_same_files(lines, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole.txt", tmp_path / "stopped.txt"
    run(run=lines, count=11, batch=3, seed=4, out=whole)
    append, appended = Records.append, []

    def stop_after_two(self, values, nats):
        append(self, values, nats)
        appended.append(len(values))
        if len(appended) == 2:
            stop()

    monkeypatch.setattr(Records, "append", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(run=lines, count=11, batch=3, seed=4, out=stopped)
    (part,) = tmp_path.glob("stopped.txt.*.part")
    assert f"6 samples are kept in {part}" in capsys.readouterr().err and not stopped.exists()
    part.write_bytes(part.read_bytes()[:-5])  # as a kill in the middle of writing would leave it
    stopped.write_bytes(b"mine")
    with pytest.raises(InputError, match="would replace"):
        run(run=lines, count=11, batch=4, seed=4, out=stopped)
    assert stopped.read_bytes() == b"mine" and part.exists()
    stopped.unlink()
    with monkeypatch.context() as patch:  # the lines are written, and the summary is not
        patch.setattr(sample, "_compared", stop)
        with pytest.raises(KeyboardInterrupt):
            run(run=lines, count=11, batch=4, seed=4, out=stopped)
    assert {*tmp_path.iterdir()} == {whole, tmp_path / "whole.txt.nats", part}
    run(run=lines, count=11, batch=4, seed=4, out=stopped)
    assert sum(appended[2:]) == 6  # the five whole records were not drawn again
    assert stopped.read_bytes() == whole.read_bytes() and len(whole.read_bytes().splitlines()) == 11
    np.testing.assert_allclose(np.loadtxt(f"{stopped}.nats"), np.loadtxt(f"{whole}.nats"), atol=2e-4)
    assert not list(tmp_path.glob("*.part"))


def test_a_smaller_count_leaves_what_was_drawn_beyond_it(lines, tmp_path, monkeypatch, capsys):
    append, out = Records.append, tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Records, "append", lambda *arguments: stop(append(*arguments)))
        with pytest.raises(KeyboardInterrupt):
            run(run=lines, count=12, batch=8, out=out)
    run(run=lines, count=2, out=out)
    assert out.read_bytes().count(b"\n") == 2
    run(run=lines, count=12, out=out, overwrite=True)
    assert "8 samples are there already" in capsys.readouterr().err and not list(tmp_path.glob("*.part"))


def test_two_processes_do_not_draw_the_same(tmp_path):
    first = Records(tmp_path / "out", {}, (2,))
    with pytest.raises(InputError, match="Another process is at work on"):
        Records(tmp_path / "out", {}, (2,))
    first.close(delete=True)
    Records(tmp_path / "out", {}, (2,)).close(delete=True)


def test_other_options_do_not_go_on_with_what_is_there(tmp_path):
    shape, of = (6,), dict[str, object]
    first = Records(tmp_path / "out", of(seed=1), shape)
    first.append(np.ones((3, 6), np.uint8), np.arange(3.0))
    first.close()
    assert len(Records(tmp_path / "out", of(seed=2), shape)) == 0
    again = Records(tmp_path / "out", of(seed=1), shape)
    assert len(again) == 3
    np.testing.assert_array_equal(again.nats(2), [0, 1])
    arrays = [np.arange(4), np.ones(4)]
    assert records.digest(arrays) == records.digest([a.copy() for a in arrays])
    assert records.digest(arrays) != records.digest([arrays[0], arrays[1] + 1e-12])


def test_lines_and_their_nats_in_order(lines, tmp_path, capsys):
    """The nats beside a line are those of scoring it; --sort puts the likeliest first; the summary counts."""
    for name, sort in (("drawn", False), ("sorted", True)):
        run(run=lines, count=20, out=tmp_path / name, sort=sort, json=tmp_path / f"{name}.json")
    drawn, in_order = ((tmp_path / name).read_bytes().splitlines() for name in ("drawn", "sorted"))
    nats, sorted_nats = (np.loadtxt(tmp_path / f"{name}.nats") for name in ("drawn", "sorted"))
    assert sorted(drawn) == sorted(in_order) and drawn != in_order
    np.testing.assert_array_equal(sorted_nats, np.sort(nats))
    summary = json.loads((tmp_path / "drawn.json").read_text())
    assert summary["count"] == 20 == sum(summary[key] for key in ("new", "in_train", "in_valid", "in_test"))
    assert summary["nats_per_sequence"] == pytest.approx(nats.mean(), abs=1e-4)
    _, _, data, model, params, _ = load_run(lines)
    assert data.kind == "text"
    whole = [line for line in drawn if b"?" not in line]
    y = np.stack([np.frombuffer(line.ljust(6, b"\0"), np.uint8) for line in whole])
    seqs = dataclasses.replace(data, splits={**data.splits, "test": y}).sequences("test", np.arange(len(y)))
    scored = np.asarray(model.score(params, seqs)).sum(1)
    np.testing.assert_allclose(scored, nats[[line in whole for line in drawn]], atol=1e-3)


def test_images_come_with_their_nats(digits, tmp_path):
    run(run=digits, count=5, batch=2, out=tmp_path / "sheet.png", sort=True)
    assert Image.open(tmp_path / "sheet.png").size[0] > 100
    with np.load(tmp_path / "sheet.npz") as file:
        images, nats, number = file["images"], file["nats"], file["number"]
    assert images.shape == (5, 4, 4) and set(np.unique(images)) <= {0, 1} and (np.diff(nats) >= 0).all()
    assert sorted(number) == list(range(5)) and len({image.tobytes() for image in images}) > 1


# ---------------------------------------------------------------- completions


def test_lines_begin_with_the_prompt(lines, tmp_path):
    run(run=lines, count=7, prompt="1+", temperature=0.5, out=tmp_path / "out")
    written = (tmp_path / "out").read_bytes().splitlines()
    assert len(written) == 7 and all(line.startswith(b"1+") for line in written) and len(set(written)) > 1


def test_images_are_completed(digits, tmp_path, capsys):
    """Each image of the split several times; the truth is scored too. The known pixels stay."""
    run(run=digits, count=10, each=4, complete="left", out=tmp_path / "left.png", json=tmp_path / "left.json", batch=3)
    said, summary = capsys.readouterr().out, json.loads((tmp_path / "left.json").read_text())
    assert summary["completed"] == 3 and f"the truth: {summary['truth_nats_per_sequence']:.2f}" in said
    with np.load(tmp_path / "left.npz") as file:
        drawn = file["images"]
    _, _, data, *_ = load_run(digits)
    index = sample.choose(data, "test", 3, 0)
    truth = data.splits["test"][index[np.arange(10) // 4]]
    np.testing.assert_array_equal(drawn[:, :, :2], truth[:, :, :2])
    assert (drawn != truth).any()


def test_a_picture_with_grey_in_it_is_completed(digits, tmp_path):
    grey = np.full((4, 4), 128, np.uint8)
    grey[0], grey[1] = 0, 255
    Image.fromarray(grey).save(tmp_path / "known.png")
    run(run=digits, count=9, complete=str(tmp_path / "known.png"), out=tmp_path / "out.png")
    with np.load(tmp_path / "out.npz") as file:
        drawn = file["images"]
    assert drawn[:, 0].all() and not drawn[:, 1].any() and len({image.tobytes() for image in drawn}) > 1


IMAGES = Dataset("image", {"train": np.zeros((1, 4, 6), np.uint8)})


def test_parts_of_images():
    def share(name):
        return conditioning.part(IMAGES, name, 50, 0)

    assert share("top")[7].tolist() == [[True] * 6] * 2 + [[False] * 6] * 2
    assert share("right")[7].tolist() == [[False] * 3 + [True] * 3] * 4
    assert (share("top") != share("bottom")).all() and (share("left") != share("right")).all()
    assert (share("random:0.25").sum((1, 2)) == 6).all() and share("random:0.25").any(0).all()
    assert not share("random:0").any() and share("random:1").all()


def test_pictures(tmp_path):
    """Black is 1, white is 0, what is grey or transparent is unknown; of 8 bits and of 16."""
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[0] = [0, 0, 0, 255]
    rgba[1] = 255
    rgba[2] = [128, 128, 128, 255]
    for values in (rgba, np.repeat([200, 65535, 32768, 40000], 6).reshape(4, 6).astype(np.uint16)):
        Image.fromarray(values).save(tmp_path / "some.png")
        y, is_known = conditioning.file(IMAGES, tmp_path / "some.png")
        assert is_known.tolist() == [[True] * 6] * 2 + [[False] * 6] * 2
        assert y[0].all() and not y[1].any()


LINES = Dataset("text", {"train": np.zeros((1, 6), np.uint8)}, 256)
BAD_PARTS = {
    "prompt of images": (lambda folder: conditioning.prompt(IMAGES, "a"), "this run was trained on images"),
    "no prompt": (lambda folder: conditioning.prompt(LINES, ""), "The prompt has 0 bytes; this run's lines have 1 to 5"),
    "long prompt": (lambda folder: conditioning.prompt(LINES, "abcdef"), "The prompt has 6 bytes"),
    "NUL": (lambda folder: conditioning.prompt(LINES, "a\0b"), "The prompt has 3 bytes and a NUL among them"),
    "part of a line": (lambda folder: conditioning.part(LINES, "top", 1, 0), "this run was trained on text"),
    "no such part": (lambda folder: conditioning.part(IMAGES, "tob", 1, 0), "no part 'tob' of an image. Perhaps you meant top"),
    "no share": (lambda folder: conditioning.part(IMAGES, "random", 1, 0), "comes the known share"),
    "bad share": (lambda folder: conditioning.part(IMAGES, "random:1.5", 1, 0), "from 0 to 1"),
    "share nan": (lambda folder: conditioning.part(IMAGES, "random:nan", 1, 0), "from 0 to 1"),
    "no file": (lambda folder: conditioning.file(IMAGES, folder / "no.png"), "cannot be read: No such file"),
    "folder": (lambda folder: conditioning.file(IMAGES, folder), "cannot be read"),
    "no picture": (lambda folder: conditioning.file(IMAGES, _write(folder / "a.png", b"text")), "not a picture"),
    "cut": (lambda folder: conditioning.file(IMAGES, _write(folder / "a.png", _png((6, 4))[:20])), "not a picture, or a damaged one"),
    "size": (
        lambda folder: conditioning.file(IMAGES, _write(folder / "a.png", _png((5, 4)))),
        "has 5 by 4 pixels; this run's have 6 by 4",
    ),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("case", BAD_PARTS)
def test_a_bad_part_is_a_sentence(case, tmp_path):
    make, sentence = BAD_PARTS[case]
    with pytest.raises(DataError, match=sentence):
        make(tmp_path)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"prompt": "a", "complete": "top"}, "--prompt and --complete cannot be used together"),
        ({"complete": "top", "export": Path("a")}, "--complete and --export cannot be used together"),
        ({"belief": 1, "export": Path("a")}, "--belief and --export"),
        ({"each": 0}, "--each is 0"),
        ({"each": 2}, "--each needs --complete"),
        ({"each": 2, "complete": "a.png"}, "--each needs --complete"),
        ({"belief": 17}, "--belief is 17; it must be at most 16"),
        ({"belief": 1, "sort": True}, "--sort is about samples"),
        ({"belief": -1}, "--belief is -1"),
    ],
)
def test_options_that_do_not_fit_together(options, sentence):
    with pytest.raises(InputError, match=sentence):
        SampleConfig(Path("run"), **options)


def test_more_images_than_there_are(digits):
    with pytest.raises(InputError, match="--count 1000 with --each 1 completes 1000 images, and test has 180"):
        run(run=digits, count=1000, each=1, complete="top")


# ---------------------------------------------------------------- belief and export


def frames(path: Path) -> int:
    with Image.open(path) as film:
        return sum(1 for _ in ImageSequence.Iterator(film))


@pytest.mark.parametrize("options", [{}, {"complete": "random:0.5"}, {"complete": "top", "count": 1, "each": 1}])
def test_belief_of_images(options, digits, tmp_path):
    run(run=digits, belief=2, out=tmp_path / "belief.png", **options)
    assert Image.open(tmp_path / "belief.png").size[0] > 300
    assert frames(tmp_path / "belief.gif") == 17  # 16 pixels, and before them


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"out": Path("picture.jpg")}, "must end with .png"),
        ({"nats": True}, "--nats writes nats in front of lines"),
        ({"json": Path("no/folder/a.json")}, "--json is 'no/folder/a.json', in a folder that does not exist"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_drawn(options, sentence, digits, tmp_path):
    with pytest.raises(InputError, match=sentence):
        run(run=digits, count=3, **({"out": tmp_path / "a.png"} | options))
    assert not list(tmp_path.iterdir())


def test_completions_of_a_smaller_count_are_the_first_of_a_larger(digits, tmp_path):
    for count in (4, 8):
        run(run=digits, count=count, each=2, complete="random:0.4", out=tmp_path / f"{count}.png")
    few, many = (np.load(tmp_path / f"{count}.npz")["images"] for count in (4, 8))
    np.testing.assert_array_equal(few, many[:4])


def test_belief_of_text(lines, tmp_path):
    run(run=lines, belief=1, prompt="12", out=tmp_path / "belief.png")
    assert 3 <= frames(tmp_path / "belief.gif") <= 7


def run_exported(monkeypatch, *arguments: str) -> Any:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["run_exported.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "bin" / "run_exported.py"), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("name", ["digits", "lines"])
def test_an_exported_sampler_draws_the_same_without_rgen(name, request, tmp_path, monkeypatch, capsys):
    folder = request.getfixturevalue(name)
    run(run=folder, export=tmp_path / "sampler")
    run(run=folder, count=5, seed=3, out=tmp_path / "out.png")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "rgen", None)
    assert run_exported(monkeypatch, str(tmp_path / "sampler"), "5", "3") == 0
    said = capsys.readouterr().out
    if name == "lines":
        shown = [ast.literal_eval(line) for line in said.splitlines()[1::2]]
        assert as_text(shown) == (tmp_path / "out.png").read_bytes() and len(shown) == 5
    else:
        with np.load(tmp_path / "out.npz") as file:
            drawn = file["images"]
        pixels = [[mark == "#" for mark in line[::2]] for line in said.splitlines() if not line.endswith(" nats")]
        np.testing.assert_array_equal(np.reshape(pixels, (5, 4, 4)), drawn)


BAD_EXPORTS = {
    "no file": (["nowhere", "3", "0"], "'nowhere' must be a file"),
    "none": (["sampler", "0", "0"], "0 at least 1"),
    "seed": (["sampler", "1", "-1"], "-1 a seed from 0"),
    "not a number": (["sampler", "many", "0"], "invalid int value: 'many'"),
    "damaged": (["sampler", "1", "0"], "'sampler' is not what rgen sample --export writes, or it is damaged"),
}


@pytest.mark.parametrize("case", BAD_EXPORTS)
def test_bad_input_to_what_runs_exports_is_a_sentence(case, tmp_path, monkeypatch, capsys):
    arguments, sentence = BAD_EXPORTS[case]
    monkeypatch.chdir(tmp_path)
    Path("sampler").write_bytes(b"no sampler")
    assert run_exported(monkeypatch, *arguments) == 2 and sentence in capsys.readouterr().err


def test_what_is_exported_runs_everywhere_for_any_batch(digits, tmp_path):
    run(run=digits, export=tmp_path / "sampler", temperature=0.0)
    exported = jax.export.deserialize(bytearray((tmp_path / "sampler").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    values, nats = exported.call(np.uint32(7), np.arange(3, dtype=np.int32))
    again, _ = exported.call(np.uint32(7), np.arange(1, 2, dtype=np.int32))
    assert values.shape == (3, 4, 4) and nats.shape == (3,)
    np.testing.assert_array_equal(again[0], values[1])
