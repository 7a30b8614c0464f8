"""A run that is stopped in any way and goes on is, bit for bit, the run that was never stopped."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rgen import training
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.host.files import lock
from rgen.host.signals import Signals, interruptible
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run, load_run
from rgen.training import outer_loop
from runs import ROOT, TINY, contents, cut, last_state, rows, spoil_arrays, words

ODD = dataclasses.replace(TINY, steps=7, log_every=3, eval_every=5)  # lines and checkpoints at different steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of ODD, never stopped."""
    return training.train(dataclasses.replace(ODD, run=tmp_path_factory.mktemp("whole") / "run")).folder


def same(folder: Path, other: Path) -> None:
    ours, theirs = last_state(folder), last_state(other)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert rows(folder) == rows(other)
    for a, b in zip(jax.tree.leaves(load_run(folder).params), jax.tree.leaves(load_run(other).params)):
        np.testing.assert_array_equal(a, b)


def at_step(monkeypatch, act: Any) -> None:
    """Calls `act(step, batch)` whenever a batch is made, and trains on what it returns."""
    batch = Dataset.batch
    monkeypatch.setattr(Dataset, "batch", lambda data, seed, step, size: act(step, batch(data, seed, step, size)))


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 0), (signal.SIGINT, 3), (signal.SIGTERM, 4)])
def test_asked_to_stop_it_saves_and_goes_on(number, step, whole, tmp_path, monkeypatch, capsys):
    def ask(now, batch):
        if now == step:
            os.kill(os.getpid(), number)
        return batch

    again = dataclasses.replace(ODD, run=tmp_path / "run")
    with monkeypatch.context() as patch:
        at_step(patch, ask)
        with pytest.raises(SystemExit) as end:
            training.train(again)
    assert end.value.code == 128 + number
    said = capsys.readouterr().err
    assert f"Stopped after step {step + 1}, which is saved. The same command with --resume goes on." in said
    assert Run(again.run).training().steps() == [step + 1]
    training.train(dataclasses.replace(again, resume=True))
    same(again.run, whole)


def test_asked_again_it_stops_at_once(tmp_path, monkeypatch, request):
    # what Python does unless its parent had it ignored, as shells do with jobs in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def ask_twice(now, batch):
        if now == 1:
            for _ in range(2):  # to this thread, which takes each before it goes on: else both can be pending, and count as one
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return batch

    at_step(monkeypatch, ask_twice)
    with pytest.raises(KeyboardInterrupt):
        training.train(dataclasses.replace(ODD, run=tmp_path / "run"))
    assert Run(tmp_path / "run").training().steps() == []
    with (tmp_path / "run" / "lock").open("a") as file:
        lock(file, "")  # the folder is free


def test_a_closed_terminal_is_heard_where_it_is_not_ignored(request):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    with Signals() as heard:
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    with Signals() as ignored, interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    assert (heard.number, ignored.number) == (signal.SIGHUP, 0)


KILLS = 20


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path):
    """A real process, killed without warning; every second step is a checkpoint, so that many kills fall into a save."""
    options = words(
        "mnist-siren --data digits --widths 6 4 --reduce 2 --inner-rate 0.05 --rates fixed --steps 1000 --meta-batch 2 "
        "--log-every 3 --eval-every 2 --eval-count 4 --keep 3"
    )
    command = [sys.executable, str(ROOT / "bin" / "train.py"), *options]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(folder: str) -> subprocess.Popen:
        resume = ["--resume"] if (tmp_path / folder / "config.json").exists() else []
        return subprocess.Popen([*command, "--run", str(tmp_path / folder), *resume], env=environment, stderr=subprocess.PIPE, text=True)

    assert start("whole").wait() == 0
    seconds, kills, steps = random.Random(0), 0, set()
    while kills < KILLS:
        process = start("killed")
        time.sleep(seconds.uniform(2, 12))
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1]
            shutil.rmtree(tmp_path / "killed")  # it got through: from the beginning
            continue
        process.kill()
        process.wait()
        kills += 1
        steps.add(max((row["step"] for row in Run(tmp_path / "killed").metrics()), default=0))
    assert len(steps) > 5  # they fell at different moments
    process = start("killed")
    _, said = process.communicate()
    assert process.returncode == 0, said
    same(tmp_path / "killed", tmp_path / "whole")


# ---------------------------------------------------------------- damage


def _truncate(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            cut(path)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _arrays_of_another_step(folder: Path) -> None:
    """Whole and of the right shapes, so that only our checksums can tell."""
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.parent / "2" / "state", folder / "state")


@pytest.mark.parametrize("damage", [spoil_arrays, _truncate, _empty, _arrays_of_another_step])
def test_of_a_damaged_checkpoint_the_one_before_is_used(damage, trained, copied, capsys):
    damage(copied / "checkpoints" / "4")
    training.train(dataclasses.replace(TINY, run=copied, resume=True))
    said = capsys.readouterr().err
    assert "The checkpoint of step 4 in" in said and "The one before is used." in said
    same(copied, trained)
    assert (copied / "checkpoints" / "4.damaged").is_dir()


@pytest.mark.parametrize("damage", [spoil_arrays, _truncate])
def test_without_a_whole_checkpoint_nothing_is_changed(damage, copied):
    damage(copied / "checkpoints")
    before = contents(copied)
    with pytest.raises(InputError, match=r"The checkpoint of step 2 in .* (damaged|cannot be read)"):
        training.train(dataclasses.replace(TINY, run=copied, steps=5, resume=True))
    assert contents(copied) == before


def test_the_checkpoint_of_another_network_is_refused(copied):
    shutil.rmtree(copied / "checkpoints")
    checkpoints = Checkpoints(copied / "checkpoints")
    checkpoints.save(4, {"init": {"logits": np.zeros(3)}})
    before = contents(copied)
    with pytest.raises(InputError, match=r"checkpoint of step 4 .* does not fit the network of this version: .* needs shape"):
        training.train(dataclasses.replace(TINY, run=copied, steps=5, resume=True))
    assert contents(copied) == before


def test_the_newest_and_every_nth_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, every=4)
    for step in range(1, 12):
        checkpoints.save(step, {"a": np.zeros(2)})
    assert checkpoints.steps() == [11, 10, 8, 4]


def test_two_processes_do_not_train_in_one_folder(copied):
    with (copied / "lock").open("a") as file:
        lock(file, "")
        with pytest.raises(InputError, match=r"Another process is at work on the run in .* Wait until it has ended"):
            training.train(dataclasses.replace(TINY, run=copied, steps=5, resume=True))
    training.train(dataclasses.replace(TINY, run=copied, steps=5, resume=True))


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a file that grows too large is an error, as on a full disk
from rgen import commands
from rgen.runs import checkpoint
save = checkpoint.Checkpoints.save
def limited(self, step, state):
    if step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    save(self, step, state)
checkpoint.Checkpoints.save = limited
commands.run("train")
"""


def test_a_full_disk_is_a_sentence_and_what_was_saved_stays(tmp_path):
    options = words("mnist-siren --data digits --widths 6 4 --reduce 2 --steps 6 --meta-batch 2 --eval-every 2 --eval-count 4 --run")
    done = subprocess.run([sys.executable, "-c", FULL, *options, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "step 4 cannot be written to" in done.stderr and "--resume" in done.stderr
    assert Run(tmp_path / "run").training().steps() == [2]
    assert load_run(tmp_path / "run").step == 2


# ---------------------------------------------------------------- numbers


def _scaled(seqs: Any, by: float) -> Any:
    return seqs._replace(weight=seqs.weight * np.float32(by))


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, capsys):
    """It changes nothing but the count of steps: what follows is what follows without it."""
    at_step(monkeypatch, lambda step, batch: _scaled(batch, np.nan if step == 1 else 1))
    config = dataclasses.replace(TINY, steps=3, log_every=3, eval_every=3, warmup=0, run=tmp_path / "run")
    training.train(config)
    (line,) = [row for row in rows(config.run) if "nats" in row]
    assert line["skipped"] == 1 and np.isfinite(line["nats"])
    assert "1 steps skipped that were not finite" in capsys.readouterr().err
    state = last_state(config.run)
    assert int(state.step) == 3 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state.window.skipped) == 0 == int(state.bad)


def test_a_run_of_them_ends_with_advice_and_the_last_good_checkpoint(trained, copied, monkeypatch):
    bad = {"from": 2}
    at_step(monkeypatch, lambda step, batch: _scaled(batch, np.nan if step >= bad["from"] else 1))
    monkeypatch.setattr(outer_loop, "BAD", 3)
    shutil.rmtree(copied / "checkpoints" / "4")
    again = dataclasses.replace(TINY, run=copied, resume=True, steps=9, eval_every=100, log_every=100)
    with pytest.raises(InputError, match=r"The last 3 steps up to step 5 .* checkpoint of step 2 is kept .* Train anew in another folder"):
        training.train(again)
    assert Run(copied).training().steps() == [2]
    bad["from"] = 99
    shutil.copy(trained / "config.json", copied)  # of 4 steps
    training.train(dataclasses.replace(TINY, run=copied, resume=True))
    same(copied, trained)
