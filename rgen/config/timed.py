"""The options of `rgen benchmark`."""

from dataclasses import dataclass
from pathlib import Path

from rgen.choices import ALGORITHMS, FORMS, NETWORKS, FormName, Timed
from rgen.config import validation
from rgen.config.presets import PRESETS
from rgen.config.trained import Writes
from rgen.errors import InputError, nearest


@dataclass(frozen=True)
class BenchmarkConfig(Writes):
    """Time MAML, first-order MAML, Reptile, scoring and sampling side by side: every combination of the first six options."""

    network: tuple[str, ...] = ("text-mlp", "lstm-block")
    """Networks, with their default sizes, all of which learns; or presets, with their networks, rates and what learns."""
    algorithm: tuple[Timed, ...] = ALGORITHMS
    """Meta-gradients: maml, first-order-maml, reptile; score, as evaluation does; and sample, which draws sequences."""
    form: tuple[FormName, ...] = FORMS
    """Forms of the inner loop: direct, dual; and kept or folded, the dual form with the taps of all layers kept to the end or folded into
    weights, where dual leaves that to the cost model."""
    meta_batch: tuple[int, ...] = (8,)
    """Sequences in an outer step."""
    length: tuple[int, ...] = (128,)
    """Inner steps in a sequence; for images, pixels of the smallest square that has as many."""
    devices: tuple[int, ...] = ()
    """Over how many devices the sequences are spread; on CPUs, the cores are made into the largest of these numbers. None: as for other
    commands."""
    target: tuple[str, ...] = ()
    """Instead of running, compile for accelerators that need not be there: tpu-v5e, tpu-v5p, tpu-v6e, h100; tpu-v5e:4 for four of them; or
    for cpu, this machine. Says whether it fits, and how many kernels an inner step launches."""
    fit: bool = False
    """With --target: the largest meta-batch that fits, in place of --meta-batch."""
    original: Path | None = None
    """Time the original program too, in turn with ours: the folder of a checkout of github.com/unixpickle/reptile-gen. Prints how
    many times as fast ours is, over --repeats rounds."""
    original_python: Path = Path("python3")
    """With --original: a Python in which torch can be imported."""
    repeats: int = 3
    """Timed runs of each, alternating with the others; the median counts."""
    profile: bool = False
    """Also show where the time of each goes, by kind of XLA operation, summed over threads."""
    json: Path | None = None
    """Write the rows to this file."""
    out: Path | None = None
    """The picture; None: benchmark.png."""

    def __post_init__(self) -> None:
        validation.types(self)
        for name in self.network:
            if name not in NETWORKS and name not in PRESETS:
                raise InputError(f"There is no network '{name}'. {nearest(name, (*NETWORKS, *PRESETS))}")
            if name not in NETWORKS and PRESETS[name][1].fast and "reptile" in self.algorithm:
                raise InputError(f"Of the preset '{name}' only a part learns, and Reptile needs all. Give --algorithm maml sample.")
        for option in ("network", "algorithm", "form", "meta_batch", "length"):
            if not getattr(self, option):
                raise InputError(f"{validation.flag(option)} needs at least one value.")
        for option in ("meta_batch", "length", "devices"):
            if min(getattr(self, option), default=1) < 1:
                raise InputError(f"{validation.flag(option)} is {min(getattr(self, option))}; it must be at least 1.")
        validation.at_least(self, 1, "repeats")
        validation.at_most(self, validation.DEEPEST, "devices")
        if self.fit and not self.target:
            raise InputError("--fit asks what fits an accelerator; name it with --target, as in --target tpu-v5e.")
        idle = [option for option in ("profile", "out", "devices", "original") if getattr(self, option)]
        if self.target and idle:
            raise InputError(f"With --target nothing is run; leave out {validation.flag(idle[0])}.")
        if self.original:
            self._check_original([option for option in idle if option != "original"])

    def _check_original(self, idle: list[str]) -> None:
        if idle:
            raise InputError(f"--original and {validation.flag(idle[0])} cannot be used together; choose one.")
        for option, has in (("network", ("text-mlp", "lstm-block", "siren")), ("algorithm", ("maml", "reptile"))):
            if others := set(getattr(self, option)) - set(has):
                raise InputError(f"{validation.flag(option)} is {min(others)}, and with --original it must be of {', '.join(has)}.")
        if max(self.length) > 784 and self.network != ("text-mlp",):
            raise InputError(f"--length is {max(self.length)}; the original's images have 784 pixels.")
