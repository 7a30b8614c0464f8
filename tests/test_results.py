"""A file that the user names and that exists is replaced only with --overwrite; what rgen names itself is replaced. Every command."""

import dataclasses
import os
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from rgen import play, scoring, training
from rgen.commands import COMMANDS, benchmark, evaluate, inside, options_of, report, sample
from rgen.config import BenchmarkConfig, EvaluateConfig, InsideConfig, ReportConfig, SampleConfig, TrainConfig
from rgen.errors import InputError
from rgen.host import files
from rgen.host.files import check_results, replace, replacing
from rgen.runs.folder import Run
from rgen.sampling import export, film
from rgen.timing import benchmark as timing
from rgen.timing import original, targets
from runs import ROOT, TINY, contents

MINE = b"the user's own work\n"
ROWS = [timing.Timing("siren", "maml", "dual", 1, 4, (2, 2), 2, 1, 1, 1.0, 4.0, 1.0, 9, 1.0, None, None, [])]


class Case(NamedTuple):
    """A command: its configuration, the work that a refusal must come before, and what the user and rgen name."""

    command: Any
    config: Any
    work: tuple[Any, str]
    users: tuple[str, ...]
    own: tuple[str, ...] = ()


def bench(**options: Any) -> BenchmarkConfig:
    return BenchmarkConfig(("siren",), **options)


IMAGES, LINES, A, JSON, PNG = (Path(name) for name in ("run", "lines", "a", "a.json", "a.png"))
DRAWS, SCORES = (sample, "batches"), (evaluate, "score_all")
CASES = {
    "evaluate": Case(evaluate, EvaluateConfig(IMAGES, count=2, json=JSON, out=Path("größe.csv")), SCORES, ("a.json", "größe.csv")),
    "sample, lines": Case(sample, SampleConfig(LINES, count=2, out=A, json=JSON), DRAWS, ("a", "a.nats", "a.json")),
    "sample, images": Case(sample, SampleConfig(IMAGES, count=2, out=PNG), DRAWS, ("a.png", "a.npz")),
    "sample": Case(sample, SampleConfig(IMAGES, count=2, json=JSON), DRAWS, ("a.json",), ("run/samples.png", "run/samples.npz")),
    "sample --export": Case(sample, SampleConfig(IMAGES, export=A), (export, "export"), ("a",)),
    "sample --page": Case(sample, SampleConfig(IMAGES, page=A), (play, "page"), ("a",)),
    "sample --belief": Case(sample, SampleConfig(IMAGES, belief=1, out=PNG), (film, "show"), ("a.png", "a.gif")),
    "inside": Case(inside, InsideConfig(IMAGES, count=2), (scoring, "score_all"), (), ("run/inside.png",)),
    "inside --out": Case(inside, InsideConfig(IMAGES, count=2, out=PNG), (scoring, "score_all"), ("a.png",)),
    "report": Case(report, ReportConfig((IMAGES,)), (report, "page"), (), ("report.html",)),
    "report --out": Case(report, ReportConfig((IMAGES,), out=A), (report, "page"), ("a",)),
    "benchmark": Case(benchmark, bench(json=JSON), (timing, "measure"), ("a.json",), ("benchmark.png",)),
    "benchmark --out": Case(benchmark, bench(out=PNG), (timing, "measure"), ("a.png",)),
    "benchmark --target": Case(benchmark, bench(json=JSON, target=("cpu",)), (targets, "measure"), ("a.json",)),
    "benchmark --original": Case(benchmark, bench(json=JSON, original=A, algorithm=("maml",)), (original, "measure"), ("a.json",)),
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
        *((timing, "measure", ROWS), (targets, "measure", ROWS), (original, "measure", ROWS)),
        *((original, "check", None), (original, "table", ""), (targets, "table", "")),
    ):
        monkeypatch.setattr(module, name, lambda *_, result=result: result)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_what_the_user_names_stays_and_what_rgen_names_is_replaced(name, here, monkeypatch):
    command, config, (module, function), users, own = CASES[name]
    for file in own:
        Path(file).write_bytes(MINE)
    command.main(config)
    written = {file: Path(file).read_bytes() for file in (*users, *own)}
    assert all(written.values()) and MINE not in written.values()
    with monkeypatch.context() as patch:
        patch.setattr(module, function, lambda *_, **__: pytest.fail("worked before the check"))
        for file in users:  # each alone, by whomever it was written
            for content in (written[file], MINE, b""):
                for other in users:
                    Path(other).unlink(missing_ok=True)
                Path(file).write_bytes(content)
                before = contents(here)
                with pytest.raises(InputError, match=rf"--\w+ would replace '{file}', which exists already.*--overwrite"):
                    command.main(config)
                assert contents(here) == before
    command.main(dataclasses.replace(config, overwrite=True))
    assert all(Path(file).read_bytes() not in (MINE, b"") for file in users)


PLACES = {
    "a folder": (["run"], "--a is 'run', a folder; give a file"),
    "no folder": (["none/a"], "--a is 'none/a', in a folder that does not exist"),
    "in a file": (["user/a"], "in a folder that does not exist"),
    "a link to no folder": (["away"], "in a folder that does not exist"),
    "twice": (["a", "run/../a"], "--b and --a would write 'run/../a' twice"),
    "twice by a link": (["a", "same"], "--b and --a would write 'same' twice"),
    "another name of the user's file": (["run/../user"], "would replace"),
    "a link to the user's file": (["link"], "would replace"),
    "protected": (["protected"], "'protected', which is write-protected"),
    "too long": (["é" * 127], "cannot be written: File name too long"),
    "a link to what is not there": (["same"], None),
    "a device": (["/dev/null"], None),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_no_result_can_be_is_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("user").write_bytes(MINE)
    Path("protected").touch(0o444)
    for link, target in (("away", "none/a"), ("same", "a"), ("link", "user")):
        Path(link).symlink_to(target)
    paths, sentence = PLACES[case]
    before = contents(tmp_path)
    results = [*zip("ab", map(Path, paths)), ("c", None)]
    if sentence is None:
        check_results(results, lambda option: False)
        replace(Path(paths[0]), b"result", overwrite=False)
        assert Path("same").is_symlink() and Path("/dev/null").is_char_device()
        return
    with pytest.raises(InputError, match=sentence):
        check_results(results, lambda option: case == "protected")
    assert contents(tmp_path) == before


def test_what_appears_during_the_work_stays_and_the_result_too(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"written by another program in the meantime") as refused, replacing(out, False) as file:
        file.write(b"result")
        out.write_bytes(MINE)
    (kept,) = tmp_path.glob(f"out.*{files.NEW}")
    assert out.read_bytes() == MINE and kept.read_bytes() == b"result" and str(kept) in str(refused.value)


def test_what_earlier_versions_left_makes_no_folder_full(tmp_path):
    for name in ("lock", ".rgen-written"):
        (tmp_path / name).touch()
    assert not Run(tmp_path).reserve(TINY)
    (tmp_path / "notes").touch()
    with pytest.raises(InputError, match="is not empty and holds no run"):
        Run(tmp_path).reserve(TINY)


@pytest.mark.parametrize("place", ["/dev/stdout", "log"])
def test_what_goes_to_stdout_stands_between_what_is_printed(place, tmp_path):
    """Also if stdout is a file that is named too: it is not replaced."""
    stdout = os.dup(1)
    out = tmp_path / place
    try:
        with (tmp_path / "log").open("w") as log, redirect_stdout(log):
            os.dup2(log.fileno(), 1)
            print("before")
            check_results([("out", out), ("json", out)], lambda option: False)
            replace(out, b"result\n", False)
            print("after")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert (tmp_path / "log").read_bytes() == b"before\nresult\nafter\n"


def test_every_command_that_writes_has_the_option():
    writes = {name for name in COMMANDS if "overwrite" in {field.name for field in dataclasses.fields(options_of(name))}}
    assert writes == {*COMMANDS} - {"train", "check"}
    assert not [call for path in (ROOT / "rgen" / "commands").glob("*.py") for call in (".write_", "savefig") if call in path.read_text()]
