"""The commands: one module each, with `main(config)`. Here is what they share: from a command line to a configuration, and from an error
that a user can mend to a sentence and exit code 2."""

import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import tyro

from rgen import config
from rgen.choices import ONE_CPU_DEVICE
from rgen.config import checks
from rgen.errors import InputError, nearest
from rgen.host.cores import cores

COMMANDS: dict[str, Any] = {
    "train": config.TrainConfig,
    "evaluate": config.EvaluateConfig,
    "sample": config.SampleConfig,
    "inside": config.InsideConfig,
    "benchmark": config.BenchmarkConfig,
    "report": config.ReportConfig,
    "check": config.CheckConfig,
}


def main() -> None:
    """`rgen COMMAND ...`: one program for all commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: rgen COMMAND [OPTIONS]; rgen COMMAND --help has the options.\n")
        for command, options in COMMANDS.items():
            print(f"  rgen {command:<11} {options.__doc__.splitlines()[0]}")
    elif name not in COMMANDS:
        _fail(f"There is no command '{name}'. {nearest(name, COMMANDS)}", "rgen")
    else:
        run(name, sys.argv[2:], f"rgen {name}")


def run(name: str, arguments: list[str] | None = None, program: str | None = None) -> None:
    """Runs a command by its name, with the arguments of the command line unless others are given."""
    start(lambda: parse(name, arguments, program), name, program)


def parse(name: str, arguments: list[str] | None = None, program: str | None = None) -> Any:
    """The configuration of a command. Raises InputError; exits after --help, and if an option does not exist."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if name == "train":
        config.choose_preset(arguments)
    checks.words(COMMANDS[name], arguments)
    if name != "train":
        return tyro.cli(COMMANDS[name], args=arguments, prog=program)
    return tyro.extras.overridable_config_cli(config.PRESETS, args=arguments, prog=program)


def start(parse: Callable[[], Any], name: str, program: str | None = None) -> None:
    """Parses, then imports the command (and with it JAX) and calls its `main` with the configuration."""
    program = program or sys.argv[0].rsplit("/", 1)[-1]
    _open_streams()
    try:
        options = parse()
        os.environ["JAX_THREEFRY_PARTITIONABLE"] = "1"  # what a seed stands for does not depend on settings of JAX
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())
        if given := getattr(options, "devices", None):
            os.environ["JAX_NUM_CPU_DEVICES"] = str(max(given) if isinstance(given, tuple) else given)
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cpu_devices(options)))
        sys.unraisablehook = _unraisable
        import_module(f"rgen.commands.{name}").main(options)
    except InputError as error:
        _fail(str(error), program)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.", program)
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, AssertionError):  # JAX raises either
        if (sentence := _no_device()) is None:
            raise
        _fail(sentence, program)


def cache_folder() -> str:
    """Where JAX keeps what it compiled, so that the next start is quick."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rgen", "jax")


def cpu_devices(options: Any) -> int:
    """Into how many devices the cores are made, for a command with these options.

    XLA runs small products on one core, so that there is a device for each core: every core has sequences of its own. Only in training, the
    products of the recurrent baseline are large; one device that uses all cores is faster. docs/scaling.md has what was measured.
    """
    return 1 if isinstance(options, config.TrainConfig) and options.network in ONE_CPU_DEVICE else cores()


def _no_device() -> str | None:
    """What is wrong if JAX_PLATFORMS names what is not here; else None."""
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
    """Closed streams swallow what is written; those that lack a character, as of a folder's name, show it by its number."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unraisable(unraisable: Any) -> None:
    """Leaves out what Orbax's threads still report after a checkpoint could not be written, of which a sentence tells."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _fail(sentence: str, program: str) -> None:
    print(f"{program}: {sentence}", file=sys.stderr)
    sys.exit(2)
