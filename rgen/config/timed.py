"""The options of `rgen benchmark`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rgen.choices import ALGORITHMS, FORMS, NETWORKS, FormName, Timed
from rgen.config.presets import PRESETS
from rgen.config.trained import Writes
from rgen.config.validation import Count, Number, Range, flag
from rgen.errors import InputError, nearest


@dataclass(frozen=True)
class BenchmarkConfig(Writes):
    """Time MAML, first-order MAML, Reptile, scoring and sampling, for every combination of the first seven options."""

    network: tuple[str, ...] = ("text-mlp", "lstm-block")
    """Networks (default sizes, all parameters learn), or presets."""
    algorithm: tuple[Timed, ...] = ALGORITHMS
    """What to time: the meta-gradients maml, first-order-maml and reptile; score (evaluation); sample."""
    form: tuple[FormName, ...] = FORMS
    """Forms of the inner loop: direct, dual."""
    meta_batch: tuple[Count, ...] = (8,)
    """Numbers of sequences."""
    length: tuple[Count, ...] = ()
    """Inner steps per sequence. Images are the smallest square with that many pixels. Empty: 128, or all places of --shape."""
    inner_batch: tuple[Count, ...] = ()
    """Outputs per inner step. Empty: as the presets have it."""
    devices: tuple[Number, ...] = ()
    """Numbers of devices to use. Empty: as the other commands do."""
    shape: tuple[Count, ...] = ()
    """Sizes of the one to four axes of the sequences, such as 32 32 3, instead of --length."""
    symbols: Annotated[int, Range(2, 256)] | None = None
    """Number of symbols. None: 256 for text, and for networks with a --shape of one axis; 2 for images."""
    target: tuple[str, ...] = ()
    """Only compile, for accelerators that need not be there: tpu-v5e, tpu-v5p, tpu-v6e, h100; tpu-v5e:4 for four; or cpu.
    Reports memory, whether it fits, and kernel launches."""
    fit: bool = False
    """With --target: find the largest meta-batch that fits."""
    original: Path | None = None
    """Also time the original program, in turn with ours: a checkout of github.com/unixpickle/reptile-gen."""
    original_python: Path = Path("python3")
    """With --original: a Python that has torch."""
    repeats: Count = 3
    """Timed runs of each combination; the median is reported."""
    profile: bool = False
    """Also show where the time goes, by kind of XLA operation, summed over threads."""
    json: Path | None = None
    """Write the rows to this JSON file."""
    out: Path | None = None
    """The picture. None: benchmark.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.network:
            if name not in NETWORKS and name not in PRESETS:
                raise InputError(f"There is no network '{name}'. {nearest(name, (*NETWORKS, *PRESETS))}")
            if name not in NETWORKS and PRESETS[name][1].fast and "reptile" in self.algorithm:
                raise InputError(f"Of the preset '{name}' only a part learns, and Reptile needs all. Give --algorithm maml sample.")
        for option in ("network", "algorithm", "form", "meta_batch"):
            if not getattr(self, option):
                raise InputError(f"{flag(option)} needs at least one value.")
        if self.shape and self.length:
            raise InputError("--shape and --length both say how long the sequences are; give one of them.")
        if len(self.shape) > 4:
            raise InputError(f"--shape has {len(self.shape)} axes; it must have one to four.")
        if self.fit and not self.target:
            raise InputError("--fit asks what fits an accelerator; name it with --target, as in --target tpu-v5e.")
        idle = [option for option in ("original", "profile", "out", "devices") if getattr(self, option)]
        if self.target and idle:
            raise InputError(f"With --target nothing is run; leave out {flag(idle[0])}.")
        idle += [option for option in ("inner_batch", "shape", "symbols") if getattr(self, option)]
        if self.original and idle[1:]:
            raise InputError(f"--original and {flag(idle[1])} cannot be used together; choose one.")
        if self.original:
            self._check_original()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of inner steps, by --shape or by --length."""
        return (math.prod(self.shape),) if self.shape else self.length or (128,)

    def _check_original(self) -> None:
        """Raises InputError if the original program does not have what is asked for."""
        for option, has in (("network", ("text-mlp", "lstm-block", "siren")), ("algorithm", ("maml", "reptile"))):
            if others := set(getattr(self, option)) - set(has):
                raise InputError(f"{flag(option)} is {min(others)}; with --original it must be one of {', '.join(has)}.")
        if max(self.lengths) > 784 and self.network != ("text-mlp",):
            raise InputError(f"--length is {max(self.lengths)}; the original's images have 784 pixels.")
