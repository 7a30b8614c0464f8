"""The options of the commands that read what was trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rgen.choices import Split
from rgen.config.validation import Checked, Count, Number, Range, Seed, flag, require_folders
from rgen.errors import InputError


@dataclass(frozen=True)
class Writes(Checked):
    """A command that writes files."""

    overwrite: bool = field(default=False, kw_only=True)
    """Replace files that exist already."""

    def replaces(self, option: str) -> bool:
        """Whether a file that exists is replaced: with --overwrite, or if it has its default name."""
        return self.overwrite or getattr(self, option) is None


@dataclass(frozen=True)
class _Reads(Checked):
    """A command that reads a run with its data, or weights that come with rgen, whose data is given."""

    run: Path
    """Folder of the run; or pretrained:digits, pretrained:mnist or pretrained:names, weights that come with rgen."""
    data: str | None = field(default=None, kw_only=True)
    """For pretrained:names: the file of names it was trained on."""
    data_dir: Path | None = field(default=None, kw_only=True)
    """For pretrained:mnist: the folder with MNIST's two files of images (gzipped or not), or Keras' mnist.npz."""
    download: bool = field(default=False, kw_only=True)
    """For pretrained:mnist: allow downloading MNIST."""
    devices: Number | None = field(default=None, kw_only=True)
    """CPU only: number of devices to split the cores into. None: one per core."""

    def source(self) -> dict[str, Any]:
        """Where the data is, as `rgen.load_run` takes it."""
        return {"data": self.data, "data_dir": self.data_dir, "download": self.download}


@dataclass(frozen=True)
class EvaluateConfig(Writes, _Reads):
    """Score held-out sequences with a trained run: exact nats, next to simple counting models."""

    split: Split = "test"
    """Split to score: train, valid or test."""
    count: Count | None = None
    """Score this many randomly chosen sequences. None: the whole split."""
    seed: Seed = 0
    """Seed of the random choice."""
    batch: Count | None = None
    """Sequences scored at once. None: chosen for the model and the device."""
    out: Path | None = None
    """Write the nats of each sequence to this CSV file."""
    json: Path | None = None
    """Write the summary to this JSON file."""


@dataclass(frozen=True)
class SampleConfig(Writes, _Reads):
    """Draw samples from a trained run, or complete given beginnings or images. If interrupted, the same command continues."""

    count: Count = 64
    """Number of samples. Memory does not grow with it."""
    seed: Seed = 0
    """Seed of the samples. Sample k is the same for any --count and --batch."""
    batch: Count | None = None
    """Sequences drawn at once. None: chosen for the model and the device."""

    temperature: float = 1.0
    """Divide the logits by this: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy."""
    top_k: Count | None = None
    """Sample only from the k most probable outputs."""
    top_p: float | None = None
    """Sample only from the smallest set of outputs whose total probability is at least p."""
    min_p: float | None = None
    """Sample only from outputs at least p times as probable as the most probable one."""

    prompt: str | None = None
    """Text: the beginning of every line."""
    complete: str | None = None
    """Images and arrays: the given part of each one of the split: top, bottom, left, right or random:0.3 (30 % of the places);
    or a PNG file of the same size, in which transparent pixels are unknown, and grey ones if the run is in black and white;
    or an NPY file of symbols, in which -1 is unknown."""
    each: Count | None = None
    """Completions of each image or array of the split. None: 4."""
    split: Split = "test"
    """Split to complete sequences of, and to show next to the samples: train, valid or test."""

    sort: bool = False
    """Sort the samples by nats, most probable first."""
    nats: bool = False
    """Text: print the nats and a tab before each line."""
    out: Path | None = None
    """Images: the PNG file, with all samples in an .npz file next to it. None: RUN/samples.png.
    Text: the file of lines, with their nats in FILE.nats. None: stdout.
    Arrays: the NPY file, with their nats in FILE.nats and a picture next to it. None: RUN/samples.npy.
    Pretrained weights have no RUN; the current folder is used."""
    json: Path | None = None
    """Write a summary to this JSON file: mean nats, and for text how many lines occur in each split."""
    belief: Annotated[int, Range(0, 16)] = 0
    """Instead of samples, show how the predictions for all positions change while this many images or arrays, or one line, are drawn.
    Written as PNG and GIF. 0: off."""
    export: Path | None = None
    """Instead of samples, write the sampler and its weights to this file. It runs with JAX alone: see bin/run_exported.py."""
    page: Path | None = None
    """Instead of samples, write an interactive HTML page with the weights inside."""

    def __post_init__(self) -> None:
        super().__post_init__()
        modes = [option for option in ("belief", "export", "page") if getattr(self, option)]
        known = [option for option in ("prompt", "complete") if getattr(self, option) is not None]
        for together in (modes, known, [*known, *(mode for mode in modes if mode != "belief")]):
            if len(together) > 1:
                raise InputError(f"{flag(together[0])} and {flag(together[1])} cannot be used together; choose one.")
        if self.each is not None and not self.completes_split:
            raise InputError("--each needs --complete with a part of the split's sequences, such as top. Add it, or leave out --each.")
        idle = [option for option in ("json", "sort", "nats") if getattr(self, option)]
        if modes and idle:
            raise InputError(f"{flag(idle[0])} is about samples, and with {flag(modes[0])} none are written; leave it out.")
        options = {"temperature": 1, "top_k": None, "top_p": None, "min_p": None}
        changed = [option for option, default in options.items() if getattr(self, option) != default]
        if changed and self.page:
            raise InputError(f"The page draws from the network's own probabilities; leave out {flag(changed[0])}.")

    @property
    def completes_split(self) -> bool:
        """Whether sequences of a split are completed."""
        return self.complete is not None and not self.complete.lower().endswith((".png", ".npy"))


@dataclass(frozen=True)
class ReportConfig(Writes):
    """Compare runs on one HTML page: curves, samples, nats, speed, and differences in their options."""

    run: tuple[Path, ...]
    """Folders of the runs. Test nats are read from RUN/test.json, which `rgen evaluate --json RUN/test.json` writes."""
    out: Path | None = None
    """The page. None: report.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise InputError("--run needs the folder of at least one run.")
        require_folders(*self.run)


@dataclass(frozen=True)
class InsideConfig(Writes, _Reads):
    """Show in one picture where a trained run loses nats, which layers learn and when, and what each memory head reads."""

    split: Split = "test"
    """Split to score: train, valid or test."""
    count: Count | None = None
    """Use this many randomly chosen sequences. None: the whole split."""
    out: Path | None = None
    """The picture. None: RUN/inside.png (the current folder for pretrained weights)."""


@dataclass(frozen=True)
class CheckConfig(Checked):
    """Check on the network of a run that the dual and the direct form give the same nats and the same MAML gradient."""

    run: Path
    """Folder of the run; or pretrained:digits, pretrained:mnist or pretrained:names."""
    steps: Count = 16
    """Inner steps to compare."""
    seed: Seed = 0
    """Seed of the initialization and of the outputs."""
