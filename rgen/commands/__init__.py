"""The commands: one module each, with `main(config)`. Here is what they share.

A command line becomes a configuration, and an error that a user can fix becomes a sentence and exit code 2. What takes long to import is
imported only once Ctrl-C is handled.
"""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from rgen.choices import ONE_CPU_DEVICE
from rgen.errors import InputError, nearest
from rgen.host import signals
from rgen.host.cores import cores
from rgen.host.terminal import Terminal

COMMANDS = ("train", "evaluate", "sample", "inside", "benchmark", "report", "check")


def options_of(name: str) -> Any:
    """The class of a command's configuration."""
    return getattr(import_module("rgen.config"), f"{name.capitalize()}Config")


def main() -> None:
    """`rgen COMMAND ...`: one program for all commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        run(name, sys.argv[2:], f"rgen {name}")
    else:
        guarded(lambda: _overview(name), "rgen")


def _overview(name: str) -> None:
    if name not in ("-h", "--help"):
        raise InputError(f"There is no command '{name}'. {nearest(name, COMMANDS)}")
    print("usage: rgen COMMAND [OPTIONS]; rgen COMMAND --help has the options.\n")
    for command in COMMANDS:
        print(f"  rgen {command:<11} {options_of(command).__doc__.splitlines()[0]}")


def run(name: str, arguments: list[str] | None = None, program: str | None = None) -> None:
    """Runs a command by its name, with the arguments of the command line unless others are given.

    Parses first, then imports the command, and with it JAX.
    """

    def work() -> None:
        Terminal.colours = True  # of the help
        options = parse(name, arguments, program)
        Terminal.colours = False
        _prepare_libraries(options)
        import_module(f"rgen.commands.{name}").main(options)

    guarded(work, program or sys.argv[0].rsplit("/", 1)[-1])


def parse(name: str, arguments: list[str] | None = None, program: str | None = None) -> Any:
    """The configuration of a command. Raises InputError; exits after --help, and if an option does not exist."""
    import tyro

    from rgen import config
    from rgen.config import validation

    arguments = sys.argv[1:] if arguments is None else arguments
    if name == "train":
        config.choose_preset(arguments)
    validation.check_words(options_of(name), arguments)
    if name != "train":
        return tyro.cli(options_of(name), args=arguments, prog=program)
    return tyro.extras.overridable_config_cli(config.PRESETS, args=arguments, prog=program)


def guarded(work: Callable[[], object], program: str) -> None:
    """Does the work of a program and exits: with code 2 and a sentence for an error that a user can fix, 1 if nobody reads the output,
    128 + its number after a signal."""
    _open_streams()
    sys.unraisablehook = _unraisable
    with signals.interruptible():
        code: Any = 130
        try:
            code, sentence = _outcome(work)
            if sentence:
                with suppress(OSError):
                    print(f"{program}: {sentence}", file=sys.stderr)
            _close_streams()
        except BaseException as error:
            if not (signals.asked() or isinstance(error, KeyboardInterrupt)):
                raise
        if number := signals.asked():
            signals.end(number)  # Python's own end waits for threads
        sys.exit(code)


def _outcome(work: Callable[[], object]) -> tuple[Any, str]:
    """The exit code, and the sentence to print."""
    code = 0
    try:
        try:
            work()
        except SystemExit as end:  # after --help, and of options that do not exist
            code = end.code
        sys.stdout.flush()  # here, where a full disk can still be reported
    except InputError as error:
        return 2, str(error)
    except BrokenPipeError:
        return 1, ""
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = error.filename or ("stdout" if full else "")  # `rgen.host.files` names the file
        return 2, f"{where}{': ' * bool(where)}{error.strerror or error}."
    except (RuntimeError, AssertionError, ArithmeticError, MemoryError, ValueError) as error:  # JAX raises any of these
        if (sentence := _too_large(error) or _no_device()) is None:
            raise
        return 2, sentence
    return code, ""


def _prepare_libraries(options: Any) -> None:
    """Settings that must be made before libraries are imported."""
    os.environ["JAX_THREEFRY_PARTITIONABLE"] = "1"  # so that a seed means the same whatever JAX's settings
    try:
        os.makedirs(cache_folder(), exist_ok=True)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())
    except OSError:  # no home folder: Matplotlib would search all fonts at each start, and fontconfig complain
        os.environ.setdefault("MPL_IGNORE_SYSTEM_FONTS", "1")
    if given := getattr(options, "devices", None):
        os.environ["JAX_NUM_CPU_DEVICES"] = str(max(given) if isinstance(given, tuple) else given)
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cpu_devices(options)))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    for name in ("absl", "asyncio", "matplotlib"):  # Orbax logs errors that we report, Matplotlib that there is no home folder
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cache_folder() -> str:
    """JAX's compilation cache, so that the next start is quick."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rgen", "jax")


def cpu_devices(options: Any) -> int:
    """The number of CPU devices for a command with these options.

    XLA runs small matrix products on one core, so there is one device per core, each with some of the sequences. Training the recurrent
    baseline has large products, for which one device that uses all cores is faster (docs/scaling.md).
    """
    return 1 if isinstance(options, options_of("train")) and options.network in ONE_CPU_DEVICE else cores()


def _too_large(error: Exception) -> str | None:
    """A sentence if the error says that there is not enough memory; else None."""
    said = str(error)
    signs = ("RESOURCE_EXHAUSTED", "Out of memory", "Maximum allowed dimension exceeded", "array is too big")
    if not isinstance(error, MemoryError | OverflowError) and not any(sign in said for sign in signs):
        return None
    hardware, line = import_module("rgen.hardware"), said.partition("\n")[0][:200]
    return (
        f"This does not fit into {hardware.gigabytes(hardware.main_memory())} of memory ({line}). Give a smaller --meta-batch, --batch, "
        "--max-length, --length or --width, or a larger --reduce, if the command has it."
    )


def _no_device() -> str | None:
    """A sentence if JAX_PLATFORMS names a device that is not there; else None."""
    if not (platforms := os.environ.get("JAX_PLATFORMS")):
        return None
    try:
        import_module("jax").devices()
    except (RuntimeError, AssertionError):
        return (
            f"JAX_PLATFORMS is '{platforms}', and JAX finds no such device here. Install JAX for it (pip install 'rgen[cuda]' or "
            "'rgen[tpu]'), set it to cpu, or leave it out."
        )
    return None


def _open_streams() -> None:
    """Replaces closed streams by the null device; shows by their numbers characters that a stream lacks, and on a terminal control
    characters too."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Terminal(stream) if stream.isatty() else stream)


def _close_streams() -> None:
    """Writes what is left in them, or drops it: else Python would report at exit that it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _unraisable(unraisable: Any) -> None:
    """Ignores what is handled elsewhere: Ctrl-C, and Orbax's threads after a checkpoint could not be written."""
    if unraisable.exc_type is not KeyboardInterrupt and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
