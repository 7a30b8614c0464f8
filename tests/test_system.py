"""What surrounds a command: signals, the terminal, closed pipes and full disks, a home that cannot be written."""

import errno
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from rgen import commands, errors
from rgen.errors import InputError
from rgen.host import files, signals
from rgen.host.files import replace
from rgen.host.terminal import Terminal, visible
from rgen.runs.folder import Run
from runs import ROOT, words

# ---------------------------------------------------------------- signals

# Before the command: how to ask for its end, and a call from which Python does not come back, as from a compiler
MOMENTS = """
import ctypes, gc, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell's foreground

def ask(number):
    os.kill(os.getpid(), number)
    for _ in range(10):
        pass

def ask_later(number, seconds=0.3):
    threading.Timer(seconds, ask, [number]).start()

def never_return():
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)
"""
RUN = "import sys; sys.argv[0] = 'rgen'; from rgen.commands import main; main()"
LINES = "sample --run pretrained:names --count 6 --batch 2 --out lines"
TRAIN = "train digits-maml --network siren --widths 4 --reduce 2 --steps 9 --meta-batch 2 --run run"
TRAIN += " --rates fixed --fast None --inner-loss None --width None --heads None --keys None"
IN_GC = """
def callback(phase, info):
    if "jax" in sys.modules and "rgen.sampling" in sys.modules and callback in gc.callbacks:
        gc.callbacks.remove(callback)
        ask(signal.SIGINT)
gc.callbacks.append(callback)
"""
IN_A_BATCH = """
from rgen.sampling.records import Records
append = Records.append
def one(*arguments):
    append(*arguments)
    ask_later(signal.SIGINT)
    never_return()
Records.append = one
"""
WRITING = """
from rgen.host import files
def write(number):
    ask_later(signal.SIGTERM)
    never_return()
files.os.fsync = write
"""
IN_A_STEP = """
from rgen.data import Dataset
batch = Dataset.batch
def slow(data, seed, step, size):
    if step == 2:
        ask_later(signal.SIGHUP)
        time.sleep(2.5)
    return batch(data, seed, step, size)
Dataset.batch = slow
"""
TWICE_IN_A_STEP = IN_A_STEP.replace("time.sleep(2.5)", "ask_later(signal.SIGINT, 0.9); never_return()")
ASKED = {
    "in a callback": (IN_GC, LINES, 130, set(), ""),
    "drawing": (IN_A_BATCH, LINES, 130, {"part"}, "Stopped; 2 samples are kept in lines."),
    "writing": (WRITING, LINES, 143, {"part"}, ""),
    "training": (IN_A_STEP, TRAIN, 129, {"run"}, "Stopped after step 3, which is saved"),
    "training, twice": (TWICE_IN_A_STEP, TRAIN, 130, {"run"}, ""),
}


@pytest.mark.parametrize("moment", ASKED)
def test_asked_to_end_a_command_does(moment, tmp_path):
    """And it leaves what can be gone on with, and nothing else."""
    before, command, code, left, said = ASKED[moment]
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MOMENTS + before + RUN, *words(command)],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120, "env": os.environ | {"TMPDIR": str(tmp_path / "tmp")}},
    )
    assert done.returncode == code and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr
    found = {path.name.split(".")[-1] for path in tmp_path.iterdir()} - {"tmp"}
    if moment == "in a callback":  # the exception is lost, and the command may be done before its time is up
        found -= {"part", "lines", "nats"}
    assert found == left and not list((tmp_path / "tmp").iterdir())
    assert not list(tmp_path.rglob("*.new"))
    if left == {"run"}:
        assert Run(tmp_path / "run").training().steps() == ([3] if code == 129 else [])


@pytest.fixture
def ended(monkeypatch):
    """The signals by which the process would have been ended, after little patience."""
    found: list[int] = []
    monkeypatch.setattr(signals, "PATIENCE", 0.05)
    monkeypatch.setattr(signals, "end", found.append)
    return found


def wait_for(what) -> bool:
    return any(what() or time.sleep(0.02) for _ in range(500))


def test_a_signal_that_was_dropped_ends_the_process(ended, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with signals.interruptible():
        Finalized()
        assert wait_for(lambda: ended) and signals.asked() == signal.SIGTERM
    assert ended == [signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    assert ended == [signal.SIGTERM]  # this one was heard


def test_what_takes_its_time_is_ended_by_the_next_signal(ended):
    with signals.interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            signals.take_time()
        time.sleep(0.2)
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)  # which does not interrupt it
        assert wait_for(lambda: ended)


def test_the_last_acts_are_done_in_their_order_and_do_not_hold_the_end_up(monkeypatch):
    done, stopped = [], threading.Event()
    monkeypatch.setattr(os, "_exit", done.append)
    with signals.leaving(lambda: done.append("outer")), signals.leaving(lambda: 1 / 0), signals.leaving(lambda: done.append("inner")):
        signals.end(signal.SIGINT)
    assert done == ["inner", "outer", 130]
    with signals.leaving(stopped.wait):
        signals.end(signal.SIGTERM)
    stopped.set()
    assert done[3:] == [143]
    with pytest.raises(KeyboardInterrupt), signals.leaving(lambda: done.append("interrupted")):
        raise KeyboardInterrupt
    assert done[4:] == ["interrupted"] and signals._before_end == []


# ---------------------------------------------------------------- the terminal

NASTY = "a\x1b]0;TITLE\x07\r\x0e\x7f\x9b31mb\u202ec[red]\tü"
SHOWN = r"a\x1b]0;TITLE\x07\x0d\x0e\x7f\x9b31mb\u202ec[red]" + "\tü"
PRINTS = f"""
import sys
from pathlib import Path
from rgen.commands import guarded
from rgen.errors import InputError
from rgen.host.files import replace
from rgen.host.progress import Progress

def work():
    print({NASTY!r})
    sys.stdout.buffer.write({NASTY!r}.encode() + b"\\xff\\n")
    sys.stdout.flush()
    replace(Path("/dev/stdout"), {NASTY!r}.encode() + b"\\n")
    with Progress(2, 0, "bar") as progress:
        progress.update(1, "note")
        print({NASTY!r}, file=sys.stderr)
        progress.say({NASTY!r})
    raise InputError({NASTY!r})

guarded(work, "rgen")
"""


def on_a_terminal(*command: str, cwd: Path | None = None) -> bytes:
    """What a command with both streams there writes, its ends of lines as they were."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=cwd):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    return said.replace(b"\r\n", b"\n")


def test_control_characters_are_shown_and_do_not_act():
    assert visible(NASTY) == SHOWN
    said = on_a_terminal(sys.executable, "-c", PRINTS).decode()
    assert said.count(SHOWN) == 6 and rf"{SHOWN}\xff" in said and f"rgen: {SHOWN}\n" in said
    assert not set(said) & (set(map(chr, range(32))) - set("\t\r\n")) and "\x7f" not in said and "\x9b" not in said
    assert said.count(f"\r{SHOWN}\n") == 2  # where a bar stood
    piped = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True).stdout
    assert piped == f"{NASTY}\n{NASTY}".encode() + b"\xff\n" + f"{NASTY}\n".encode()


def test_help_has_colours_and_mistakes_have_not_those_that_were_typed(tmp_path):
    shown = on_a_terminal(sys.executable, "-c", RUN, "check", "--help")
    assert b"--seed" in shown and (b"\x1b[" in shown or os.environ.get("TERM") in (None, "dumb"))
    wrong = on_a_terminal(sys.executable, "-c", RUN, "check", "--run", "a", "\x1b]0;TITLE\x07")
    assert b"TITLE" in wrong and b"\x1b]" not in wrong and b"\x07" not in wrong


def test_samples_on_a_terminal_are_shown(tmp_path):
    """The lines that `rgen sample` prints go through the stream's buffer."""

    class Kept(list):
        write = list.append

    kept = Kept()
    Terminal(kept).buffer.write(b"\x1bc\n\xc2\x9b")
    assert kept == ["\\x1bc\n\\x9b"]


# ---------------------------------------------------------------- closed pipes, full disks

HELPS = {
    "program": ("--help", 1, 2, "1"),
    "command": ("train --help", 1, 2, ""),
    "no command": ("trian", 2, 2, "1"),
    "report": ("report --run {run}", 1, 2, "1"),
}


@pytest.mark.parametrize("case", HELPS)
def test_where_nobody_reads_and_nothing_can_be_written(case, trained, tmp_path):
    """What is printed is written in the end, or at once, as PYTHONUNBUFFERED has it."""
    command, closed, full, at_once = HELPS[case]
    program = [sys.executable, "-c", RUN, *words(command.format(run=trained))]
    environment = {"cwd": tmp_path, "env": os.environ | {"PYTHONUNBUFFERED": at_once}}
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(program, stdout=writes, stderr=subprocess.PIPE, text=True, **environment)
    assert done.returncode == closed and "Error" not in done.stderr and "ignored" not in done.stderr, done.stderr
    both = subprocess.run(program, stdout=writes, stderr=writes, **environment)
    assert both.returncode in (closed, 1)
    os.close(writes)
    with open("/dev/full", "wb") as device:
        done = subprocess.run(program, stdout=device, stderr=subprocess.PIPE, text=True, **environment)
    assert done.returncode == full and "Traceback" not in done.stderr and "ignored" not in done.stderr
    if closed == 1:
        assert done.stderr.splitlines()[-1].endswith(": stdout: No space left on device.")


def test_an_exported_sampler_that_nobody_reads(tmp_path):
    subprocess.run([sys.executable, "-c", RUN, *words("sample --run pretrained:names --export sampler")], cwd=tmp_path, check=True)
    program = [sys.executable, str(ROOT / "bin" / "run_exported.py"), "sampler", "3", "0"]
    reads, writes = os.pipe()
    os.close(reads)
    with open("/dev/full", "wb") as device:
        for out, code, said in ((writes, 1, ""), (device, 1, "run_exported.py: stdout: No space left on device.\n")):
            done = subprocess.run(program, stdout=out, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
            assert (done.returncode, done.stderr) == (code, said)
    os.close(writes)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    code, said = commands._outcome(lambda: replace(tmp_path / "result", b"x"))
    assert (code, said) == (2, f"{tmp_path / 'result'}: No space left on device.") and not list(tmp_path.iterdir())
    code, said = commands._outcome(lambda: replace(Path("/dev/full"), b"x"))
    assert (code, said) == (2, "/dev/full: No space left on device.")
    with pytest.raises(OSError) as error, files.naming(tmp_path / "other"):
        raise FileNotFoundError(errno.ENOENT, "none", "its own")
    assert error.value.filename == "its own"


# ---------------------------------------------------------------- a home that cannot be written


def test_without_a_home_nothing_is_said_and_nothing_fails(tmp_path):
    homeless = {"HOME": "/proc/nope", "XDG_CACHE_HOME": "/proc/nope", "PYTHONWARNINGS": "error"}
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"} | homeless
    program = [sys.executable, "-c", RUN, *words("sample --run pretrained:digits --count 1 --out a.png")]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and (tmp_path / "a.png").exists(), done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("Computing on")] == []


def test_nothing_imports_matplotlib_before_there_is_a_picture():
    names = ", ".join(f"rgen.commands.{name}" for name in commands.COMMANDS)
    code = f"import sys, rgen.training, rgen.sampling.film, {names}; print([name for name in sys.modules if 'matplotlib' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert not [path for path in (ROOT / "rgen").rglob("*.py") if "pyplot" in path.read_text().replace("without pyplot", "")]


# ---------------------------------------------------------------- what a command is called


@pytest.mark.parametrize(
    ("called", "named"),
    [
        ("rgen", "rgen train"),
        ("/usr/local/bin/rgen", "rgen train"),
        ("", "rgen train"),
        ("/home/me/bin/sample.py", "rgen train"),
        (f"{ROOT}/bin/sample.py", f"{ROOT}/bin/train.py"),
    ],
)
def test_a_command_is_named_as_it_was_called(called, named, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert errors.command("train") == named
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["bin/sample.py"])
    with pytest.raises(InputError, match=r"make one with bin/train.py PRESET --run"):
        commands.import_module("rgen.runs.folder").load_run(tmp_path)
