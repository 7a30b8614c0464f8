"""A file that rgen did not write is not overwritten unless asked: every command, and every file that it writes."""

import dataclasses
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from rgen import play, scoring, training
from rgen.commands import benchmark, evaluate, inside, report, sample
from rgen.config import BenchmarkConfig, EvaluateConfig, InsideConfig, ReportConfig, SampleConfig, TrainConfig
from rgen.errors import InputError
from rgen.host import files
from rgen.host.files import RECORD, check_results, is_foreign, write
from rgen.runs.folder import Run
from rgen.sampling import export, film
from rgen.timing import limits, original, targets
from rgen.timing.benchmark import Timing
from runs import ROOT, contents

MINE = b"the user's own work\n"
ROWS = [Timing("siren", "maml", "dual", 1, 4, 1, 1.0, 4.0, 1.0, 0, 1.0, 1.0, 1.0, 0.5)]


class Case(NamedTuple):
    """A command: its configuration, the work that a refusal must come before, and what it writes."""

    command: Any
    config: Any
    work: tuple[Any, str]
    files: tuple[str, ...]


def bench(**options: Any) -> BenchmarkConfig:
    return BenchmarkConfig(("siren",), **options)


IMAGES, LINES, OF_TARGETS = Path("run"), Path("lines"), (targets, "measure")
CASES = {
    "evaluate --json": Case(evaluate, EvaluateConfig(IMAGES, count=2, json=Path("a.json")), (evaluate, "score_all"), ("a.json",)),
    "evaluate --out": Case(evaluate, EvaluateConfig(IMAGES, count=2, out=Path("größe.csv")), (evaluate, "score_all"), ("größe.csv",)),
    "sample --json": Case(sample, SampleConfig(LINES, count=2, json=Path("a.json")), (sample, "batches"), ("a.json",)),
    "sample --out, lines": Case(sample, SampleConfig(LINES, count=2, out=Path("a")), (sample, "batches"), ("a", "a.nats")),
    "sample --out, images": Case(sample, SampleConfig(IMAGES, count=2, out=Path("a.png")), (sample, "batches"), ("a.png", "a.npz")),
    "sample, images": Case(sample, SampleConfig(IMAGES, count=2), (sample, "batches"), ("run/samples.png", "run/samples.npz")),
    "sample --export": Case(sample, SampleConfig(IMAGES, export=Path("a")), (export, "export"), ("a",)),
    "sample --page": Case(sample, SampleConfig(IMAGES, page=Path("a.html")), (play, "page"), ("a.html",)),
    "sample --belief": Case(sample, SampleConfig(IMAGES, belief=1, out=Path("a.png")), (film, "show"), ("a.png", "a.gif")),
    "inside": Case(inside, InsideConfig(IMAGES, count=2), (inside, "picture"), ("run/inside.png",)),
    "inside --out": Case(inside, InsideConfig(IMAGES, count=2, out=Path("a.png")), (inside, "picture"), ("a.png",)),
    "report": Case(report, ReportConfig((IMAGES,)), (report, "page"), ("report.html",)),
    "benchmark": Case(benchmark, bench(), (benchmark, "measure"), ("benchmark.png",)),
    "benchmark --json": Case(benchmark, bench(json=Path("a.json"), out=Path("a.png")), (benchmark, "measure"), ("a.json", "a.png")),
    "benchmark --target": Case(benchmark, bench(json=Path("a.json"), target=("cpu",)), OF_TARGETS, ("a.json",)),
    "benchmark --original": Case(
        benchmark, bench(json=Path("a.json"), original=Path("old"), algorithm=("maml",)), (original, "measure"), ("a.json",)
    ),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    (folder / "lines.txt").write_bytes(b"".join(b"%d+%d\n" % (i, i % 7) for i in range(40)))
    sizes = {"network": "text-mlp", "features": 4, "widths": (5,), "max_length": 6}
    config = TrainConfig(steps=2, meta_batch=2, eval_every=2, eval_count=2, data=str(folder / "lines.txt"), run=folder / "run", **sizes)
    return training.train(config).folder


@pytest.fixture
def here(trained, lines, tmp_path, monkeypatch):
    """A folder with copies of both runs, which is the current one; the benchmark's work is left out."""
    for run, name in ((trained, IMAGES), (lines, LINES)):
        shutil.copytree(run, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # --target chooses the platform for the whole process
    for module, name, result in (
        *((benchmark, "measure", (ROWS, [])), (targets, "measure", ROWS), (original, "measure", ROWS)),
        *((limits, "measure", limits.Limits(1.0, 1.0)), (original, "check", None), (original, "table", ""), (targets, "table", "")),
    ):
        monkeypatch.setattr(module, name, lambda *_, result=result: result)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_users_stays(name, here, monkeypatch):
    command, config, (module, function), results = CASES[name]
    work, done, known = getattr(module, function), [], []

    def once(*arguments, **options):
        """The work itself, once; after that what it gave."""
        done.append(name)
        if not known:
            made = work(*arguments, **options)
            known.append(list(made) if function == "batches" else made)
        return known[0]

    monkeypatch.setattr(module, function, once)
    for result in map(Path, results):
        result.unlink(missing_ok=True)
        for mine in (MINE, b""):
            result.write_bytes(mine)
            before = contents(here)
            with pytest.raises(InputError, match=rf"--\w+ would replace '{result}', which is there already.*--overwrite"):
                command.main(config)
            assert contents(here) == before and not done
        command.main(dataclasses.replace(config, overwrite=True))
        done.clear()
        written = result.read_bytes()
        assert written and MINE not in written
        command.main(config)  # what it wrote itself
        done.clear()

        result.write_bytes(written + b" ")  # and the user changed
        with pytest.raises(InputError, match="is not as rgen wrote it"):
            command.main(config)
        assert result.read_bytes() == written + b" " and not done

        result.unlink()
        (here / "deep").mkdir(exist_ok=True)
        for target in (here / "deep" / "target", Path(os.devnull)):  # a link to what is not there yet, and to a device
            result.symlink_to(target)
            for _ in range(2):
                command.main(config)
            assert result.is_symlink() and (target.is_char_device() or target.read_bytes())
            done.clear()
            result.unlink()
        assert Path(os.devnull).is_char_device()
        (here / "deep" / "target").write_bytes(MINE)
        result.symlink_to(here / "deep" / "target")
        with pytest.raises(InputError, match="would replace"):
            command.main(config)
        assert (here / "deep" / "target").read_bytes() == MINE and not done
        result.unlink()
        shutil.rmtree(here / "deep")
    assert not [path for path in here.rglob("*") if path.suffix in (files.NEW, ".part")]


PLACES = {
    "a folder": (["run"], "--a is 'run', a folder; give a file"),
    "no folder": (["none/a"], "--a is 'none/a', in a folder that does not exist"),
    "in a file": (["user/a"], "in a folder that does not exist"),
    "a link to no folder": (["away"], "in a folder that does not exist"),
    "twice": (["a", "run/../a"], "--b and --a would write 'run/../a' twice"),
    "twice by a link": (["a", "same"], "--b and --a would write 'same' twice"),
    "its own record": ([RECORD], "would replace"),
    "another name of the user's file": (["run/../user"], "would replace"),
    "protected": (["protected"], "'protected', which is write-protected"),
    "too long": (["é" * 127], "cannot be written: File name too long"),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_no_result_can_be_is_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("user").write_bytes(MINE)
    write(Path("protected"), b"", False)
    Path("protected").chmod(0o444)
    Path("away").symlink_to("none/a")
    Path("same").symlink_to("a")
    paths, sentence = PLACES[case]
    before = contents(tmp_path)
    with pytest.raises(InputError, match=sentence):
        check_results([*zip(("--a", "--b"), map(Path, paths)), ("--c", None)], case == "protected")
    assert contents(tmp_path) == before


def test_what_appears_during_the_work_stays_and_the_result_too(tmp_path):
    out = tmp_path / "out"
    check_results([("--out", out)], False)
    with pytest.raises(InputError, match=r"written by another program in the meantime") as refused, files.writing(out, False) as file:
        file.write(b"result")
        out.write_bytes(MINE)
    (kept,) = tmp_path.glob("out.*.new")
    assert out.read_bytes() == MINE and kept.read_bytes() == b"result" and str(kept) in str(refused.value)


def test_what_rgen_wrote_is_known_in_another_place(tmp_path):
    """The folder moves, and nothing else of the machine is needed; under another name a copy is the user's."""
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "out", b"result", False)
    (tmp_path / "a").rename(tmp_path / "b")
    out, copy = tmp_path / "b" / "out", tmp_path / "b" / "copy"
    assert not is_foreign(out)
    shutil.copy(out, copy)
    assert is_foreign(copy)
    (tmp_path / "b" / RECORD).unlink()
    assert is_foreign(out)


@pytest.mark.parametrize("obstacle", ["folder", "pipe", "link", "not text"])
def test_a_record_that_cannot_be_kept_ends_nothing(obstacle, tmp_path):
    record, other = tmp_path / RECORD, tmp_path / "other"
    other.write_bytes(MINE)
    {
        "folder": record.mkdir,
        "pipe": lambda: os.mkfifo(record),
        "link": lambda: record.symlink_to(other),
        "not text": lambda: record.write_bytes(b"\xff\0\n"),
    }[obstacle]()
    write(tmp_path / "out", b"result", False)
    assert (tmp_path / "out").read_bytes() == b"result" and other.read_bytes() == MINE
    assert is_foreign(tmp_path / "out") == (obstacle != "not text")


def test_training_leaves_what_the_user_drew_over_and_says_so(trained, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for name in ("samples.png", "curves.png"):
        (run / name).write_bytes(MINE)
    before = Run(run).config()
    training.train(dataclasses.replace(before, run=run, resume=True, steps=before.steps + 1))
    said = capsys.readouterr().err
    for name in ("samples.png", "curves.png"):
        assert (run / name).read_bytes() == MINE and f"{name} is not as rgen wrote it, and is left as it is" in said


STREAMS = """
import sys
from pathlib import Path
from rgen.host.files import check_results, write
print("before")
out = Path(sys.argv[1])
check_results([("--out", out), ("--json", out)], False)
write(out, b"result\\n", False)
print("after")
"""


@pytest.mark.parametrize("place", ["/dev/stdout", "log"])
def test_what_goes_to_stdout_stands_between_what_is_printed(place, tmp_path):
    """Into a pipe, and into a file, which is not replaced."""
    command, expected = [sys.executable, "-c", STREAMS, place], b"before\nresult\nafter\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command, stdout=log, cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "log").read_bytes() == expected
    if place == "/dev/stdout":
        assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=True, env=environment).stdout == expected


def test_every_command_that_writes_has_the_option():
    from rgen.commands import COMMANDS, options_of

    writes = {name for name in COMMANDS if "overwrite" in {field.name for field in dataclasses.fields(options_of(name))}}
    assert writes == {*COMMANDS} - {"train", "check"}
    assert not [call for path in (ROOT / "rgen" / "commands").glob("*.py") for call in (".write_", "savefig") if call in path.read_text()]


def test_samples_go_on_under_the_rule(here, monkeypatch):
    """The samples of an interrupted call are kept beside the name; a file of the user's that appears meanwhile stays."""
    config = SampleConfig(LINES, count=4, batch=2, out=Path("out"))
    append = sample.Records.append

    def stop(self, values, nats):
        append(self, values, nats)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample.Records, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            sample.main(config)
    Path("out").write_bytes(MINE)
    with pytest.raises(InputError, match="would replace 'out'"):
        sample.main(config)
    assert Path("out").read_bytes() == MINE and list(here.glob("out.*.part"))
    Path("out").unlink()
    sample.main(config)
    assert Path("out").read_bytes().count(b"\n") == 4 and not list(here.glob("out.*.part"))


def test_the_readme_names_no_file_for_data_and_results():
    words = (ROOT / "README.md").read_text().split()
    named = {option: {after for word, after in pairwise(words) if word == option} for option in ("--data", "--out", "--json")}
    assert named["--data"] and not named["--data"] & (named["--out"] | named["--json"])


def test_inside_asks_before_it_scores(here, monkeypatch):
    monkeypatch.setattr(scoring, "score_all", lambda *_, **__: pytest.fail("worked before the check"))
    Path("run/inside.png").write_bytes(MINE)
    with pytest.raises(InputError, match="would replace"):
        inside.main(InsideConfig(IMAGES))
