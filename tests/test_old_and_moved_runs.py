"""Run folders in any place and of any age: read back as they were, or a sentence that says the true reason. No work is lost."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_resume import at_step

from rgen import training
from rgen.commands import train as train_command
from rgen.data import archive
from rgen.errors import InputError
from rgen.runs import checkpoint
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run, load_run
from rgen.training import hooks
from rgen.training.budget import AwakeClock
from runs import ROOT, TINY, contents, last_state

OLD = sorted((ROOT / "tests" / "old_runs").glob("*.zip"))
NAMES = [
    *("[2026] thesis", "a]b[c", "a\\b", "*", "?", "~ $HOME {a,b} %d%s a#b", "new\nline", "größe", "C:", "gs:"),
    *("4", "4.orbax-checkpoint-tmp-1", "4.removed", "ocdbt.process_0", os.fsdecode(b"\xff\xfe")),
]


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_read_back_whatever_its_path(name, tmp_path):
    state, folder = {"a": np.arange(3.0)}, tmp_path / name / "run"
    folder.parent.mkdir()
    written = Checkpoints(folder, keep=1, clean=True)
    for step in (1, 2):
        written.save(step, state)
    assert written.steps() == [2]
    for place in (folder, Path(shutil.copytree(folder, tmp_path / "elsewhere"))):
        np.testing.assert_array_equal(Checkpoints(place).load(2, state)["a"], state["a"])


def test_a_path_that_nothing_can_mend_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[temp]"))
    for message in ("no link to it can be made", "has some too"):
        with pytest.raises(InputError, match=rf"{message}.* choose a --run folder"):
            training.train(dataclasses.replace(TINY, run=tmp_path / "[run]"))
        assert not (tmp_path / "[run]").exists()
        (tmp_path / "[temp]").mkdir(exist_ok=True)


def test_samples_that_were_moved_away_are_not_named(copied, capsys):
    (copied / "samples.png").unlink()
    train_command.main(dataclasses.replace(TINY, run=copied, resume=True))
    said = capsys.readouterr().out
    assert "Curves:" in said and "Next:" in said and "Samples:" not in said


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize("archive", OLD, ids=lambda path: path.stem)
def test_runs_of_older_versions_go_on(archive, tmp_path):
    shutil.unpack_archive(archive, tmp_path)
    run = Run(tmp_path / "run")
    assert load_run(run.folder).step in run.best().steps()
    before = last_state(run.folder).params
    config = run.config()
    more = {"steps": config.steps + 1} if config.minutes is None else {"minutes": config.minutes + 0.005}
    training.train(dataclasses.replace(config, run=run.folder, resume=True, **more))
    step, after = max(run.training().steps()), last_state(run.folder).params
    assert step > 2 and any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)))
    assert run.metrics()[-1]["step"] == step


def test_there_is_an_old_run_of_each_layout():
    assert len(OLD) == 5


def test_a_difference_of_versions_is_not_called_damage(copied, monkeypatch):
    checkpoints, like = Run(copied).training(), last_state(copied)
    with pytest.raises(InputError, match=r"bad needs shape \[2\].* saved on \d+-\d+-\d+; a version of rgen of that day") as refused:
        checkpoints.load(4, like._replace(bad=np.zeros(2)), may_lack=("bad",))
    assert "damaged" not in str(refused.value)
    monkeypatch.setattr(checkpoint, "version", lambda name: "99")
    monkeypatch.setattr(checkpoint.ocp, "load", lambda *_: 1 / 0)
    with pytest.raises(InputError, match=r"cannot be read \(ZeroDivisionError.*orbax-checkpoint [\d.]+, now 99. Use those versions"):
        checkpoints.newest(like, print)


def test_options_that_are_gone_matter_only_where_they_were_used(copied):
    file = copied / "config.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"dropout": 0.0}))
    assert Run(copied).config() == dataclasses.replace(TINY, run=Path(known["run"]))
    file.write_text(json.dumps(known | {"dropout": 0.1}))
    with pytest.raises(InputError, match=r"does not know: dropout\. The version that made the run does"):
        Run(copied).config()


# ---------------------------------------------------------------- errors of the disk


@pytest.mark.parametrize("where", ["load", "files", "data"])
def test_what_cannot_be_read_now_is_not_damaged(where, copied, monkeypatch):
    """It is not replaced by an older one, and nothing is changed."""

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    def fail_otherwise(*_):
        raise ValueError("as tensorstore raises, whatever the reason")

    before = contents(copied)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, "load", fail if where == "load" else fail_otherwise)
        if where == "files":
            patch.setattr(checkpoint.Path, "read_bytes", fail)
        if where == "data":
            patch.setattr(archive.np, "load", fail)
        what = r"data\.npz" if where == "data" else "step 4"
        with pytest.raises(InputError, match=rf"{what},? .*cannot be read now .*Input/output error.* [Rr]un the same command again"):
            training.train(dataclasses.replace(TINY, run=copied, resume=True))
    assert contents(copied) == before


def fill(run: Run, patch: pytest.MonkeyPatch) -> None:
    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    patch.setattr(hooks, "replace", fail)


def replace_by_file(run: Run, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run.folder.parent)
    run.folder.parent.touch()


LOST = {
    "moved": (lambda run, patch: run.folder.rename(run.folder.with_name("moved")), "was moved or removed", "place"),
    "removed": (lambda run, patch: shutil.rmtree(run.folder), "was moved or removed", "place"),
    "no place beside it": (replace_by_file, "was moved or removed", "temp"),
    "full": (fill, "samples.png cannot be written: No space left on device", "place"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_run_whose_folder_is_lost_is_saved_elsewhere(case, trained, tmp_path, monkeypatch):
    lose, reason, place = LOST[case]
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    config = dataclasses.replace(TINY, run=tmp_path / "place" / "run", eval_every=3)
    with monkeypatch.context() as patch:

        def act(step, batch):
            if step == 2:
                lose(Run(config.run), patch)
            return batch

        at_step(patch, act)
        with pytest.raises(InputError, match=rf"{reason}.* after step 3 is saved in .*; the same command goes on with --run .* --resume"):
            training.train(config)
    rescued = tmp_path / place / "run-rescued"
    assert load_run(rescued).step == 3 and [row["step"] for row in Run(rescued).metrics() if "nats" in row][:2] == [1, 2]
    training.train(dataclasses.replace(config, run=rescued, resume=True))
    for a, b in zip(jax.tree.leaves(last_state(rescued)), jax.tree.leaves(last_state(trained)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_run(rescued).step == 4  # the nats of step 3 are not known


# ---------------------------------------------------------------- time


def test_time_in_which_the_process_is_stopped_is_left_out():
    times = iter([0.0, 1.5, 3.0, 50.0, 51.0])
    clock = AwakeClock(now=lambda: next(times))
    assert [clock() for _ in range(4)] == [1.5, 3.0, 3.0, 4.0] and clock.stopped == 47


STOPPED = """
import time
from rgen.training.budget import process_clock
began, clock, before = time.monotonic(), process_clock(), process_clock()()
print("ready", flush=True)
input()
print(clock() - before < time.monotonic() - began - 2, clock.stopped > 2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
def test_a_real_process_that_is_stopped():
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate("\n")[0] == "True True\n"


# ---------------------------------------------------------------- others' logs


def test_importing_rgen_silences_nobody():
    code = "import logging, rgen.runs.folder; print([logging.getLogger(name).level for name in ('absl', 'asyncio')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert str(int(logging.CRITICAL)) not in said
