"""Several processes on 127.0.0.1 train as one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_devices import TRAINING, close_metrics

from rgen import devices
from rgen.errors import InputError
from rgen.runs import checkpoint
from rgen.runs.checkpoint import Checkpoints
from rgen.runs.folder import Run, load_run
from runs import ROOT, command, words


def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(folder: Path, coordinator: str, number: int, options: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "bin" / "train.py"), *options.split()]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    joined = ["--distributed", f"{coordinator},2,{number}"]
    return subprocess.Popen([*command, *joined], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def both(folder: Path, options: str) -> list[str]:
    """Runs two processes to the end; what each of them said."""
    coordinator = address()
    processes = [start(folder, coordinator, number, options) for number in (1, 0)]
    said = ["".join(process.communicate(timeout=300)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def test_two_processes_are_one(tmp_path):
    """They give the numbers of one process with one device, which is this one, also when it goes on from their checkpoint."""

    def train(steps: int, run: str, *more: str) -> None:
        command("train", *words(TRAINING.format(steps=steps, run=run)), *more, cwd=tmp_path)

    train(4, "one")
    second, first = both(tmp_path, TRAINING.format(steps=4, run="two"))
    close_metrics(tmp_path / "two", tmp_path / "one")
    assert "step 4:" in first and "step" not in second  # one of them speaks
    assert load_run(tmp_path / "two").step == load_run(tmp_path / "one").step
    train(6, "one", "--resume")
    train(6, "two", "--resume")
    close_metrics(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_asked_to_stop_or_left_alone_they_end_and_go_on(tmp_path):
    """SIGTERM to one of them stops both; a process that is killed is missed within a minute; what they saved is gone on with."""
    options = TRAINING.format(steps=10**6, run="run")
    trials = (
        (signal.SIGTERM, 1, "Stopped after step"),
        (signal.SIGKILL, 1, "Another process was lost"),
        (signal.SIGKILL, 0, "If process 0 is lost, JAX ends this one too"),
    )
    for number, victim, sentence in trials:
        coordinator = address()
        resume = " --resume" if (tmp_path / "run").exists() else ""
        processes = [start(tmp_path, coordinator, process, options + resume) for process in (0, 1)]
        before = Run(tmp_path / "run").metrics()
        try:
            while len(Run(tmp_path / "run").metrics()) < len(before) + 20 and processes[0].poll() is None:
                time.sleep(0.5)
            processes[victim].send_signal(number)
            left = processes[1 - victim]
            said = left.communicate(timeout=60)[1]
            if number == signal.SIGKILL and victim == 1 and left.returncode == -signal.SIGABRT:
                sentence = "another task died"  # it was waiting for the other one to save, and JAX ends it
            elif victim == 1:
                assert left.returncode == (143 if number == signal.SIGTERM else 2), said
            assert sentence in said and "Traceback" not in said
            processes[victim].wait(60)
        finally:
            for process in processes:
                process.kill()
    assert Run(tmp_path / "run").training().steps()


def test_a_process_that_is_lost_while_saving_is_not_the_disks_fault(tmp_path, monkeypatch):
    """Saving, processes wait for each other: a collective's error there is JAX's, which `train` makes a sentence of."""

    def save(*_, **__):
        raise jax.errors.JaxRuntimeError("Gloo AllReduce failed: Connection closed by peer")

    checkpoints = Checkpoints(tmp_path / "run")
    monkeypatch.setattr(checkpoint.ocp, "save", save)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        checkpoints.save(1, {"w": np.zeros(2)})


@pytest.mark.parametrize("how", ["here", "127.0.0.1:1,2", "127.0.0.1:1,two,0"])
def test_how_to_join_is_checked(how):
    with pytest.raises(InputError, match="it must be auto, or HOST:PORT,PROCESSES,NUMBER"):
        devices.join(how)
