"""The options of the commands that read what was trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgen.choices import Split
from rgen.config import validation
from rgen.errors import InputError


@dataclass(frozen=True)
class Writes:
    """What is written."""

    overwrite: bool = field(default=False, kw_only=True)
    """Replace the files that the other options name, if they exist."""

    def replaces(self, option: str) -> bool:
        """Whether a file that exists is replaced: with --overwrite, or if rgen names it, since the option that would is left out."""
        return self.overwrite or getattr(self, option) is None


@dataclass(frozen=True)
class _Trained:
    """What is read: a run with its data, or weights that come with rgen, whose data is given."""

    run: Path
    """Folder of the run; or pretrained:digits, pretrained:mnist or pretrained:names, weights that come with rgen."""
    data: str | None = field(default=None, kw_only=True)
    """Of pretrained:names: the file of names it was trained on, if its sequences are needed or to be compared with."""
    data_dir: Path | None = field(default=None, kw_only=True)
    """Of pretrained:mnist: the folder with MNIST's four official files, packed or not, or Keras' mnist.npz."""
    download: bool = field(default=False, kw_only=True)
    """Of pretrained:mnist: allow the network to be used to get MNIST."""

    def source(self) -> dict[str, Any]:
        """Where the data is, as `rgen.load_run` takes it."""
        return {"data": self.data, "data_dir": self.data_dir, "download": self.download}


@dataclass(frozen=True)
class EvaluateConfig(Writes, _Trained):
    """Exact held-out nats of a trained run, beside what simple counting reaches on the same sequences."""

    split: Split = "test"
    """train, valid or test."""
    count: int | None = None
    """Score this many sequences, drawn by the seed; None: the whole split."""
    seed: int = 0
    """Which sequences are drawn with --count."""
    batch: int | None = None
    """Sequences scored at once; None: as many as the model and the device are good for."""
    out: Path | None = None
    """Write the nats of every sequence to this CSV file."""
    json: Path | None = None
    """Write the summary to this file."""
    devices: int | None = None
    """On CPUs: how many devices the cores are made into. None: one for each core."""

    def __post_init__(self) -> None:
        validation.types(self)
        validation.at_least(self, 1, "count", "batch", "devices")
        validation.at_most(self, validation.DEEPEST, "devices")
        validation.seeds(self, "seed")


@dataclass(frozen=True)
class SampleConfig(Writes, _Trained):
    """Draw sequences from a trained run, or complete known ones. Interrupted, the same command goes on where it stopped."""

    count: int = 64
    """How many to draw; memory does not grow with it."""
    seed: int = 0
    """Seed of the draws; sample k is the same whatever the count and the batch."""
    batch: int | None = None
    """Sequences drawn at once; None: as many as the model and the device are good for."""

    temperature: float = 1.0
    """Below 1: likelier outputs still oftener; above 1: less so; 0: always the most probable one (greedy)."""
    top_k: int | None = None
    """Draw only from the k most probable outputs."""
    top_p: float | None = None
    """Draw only from the fewest outputs that have this probability together."""
    min_p: float | None = None
    """Draw only from outputs at least this many times as probable as the most probable one."""

    prompt: str | None = None
    """Text: how every line begins."""
    complete: str | None = None
    """Images: what is known, the rest is drawn: top, bottom, left, right or random:0.3 (a share of the pixels) of the split's images; or a
    PNG of their size in which black is 1, white is 0 and grey is unknown."""
    each: int | None = None
    """Images: completions of each image of the split; None: 4."""
    split: Split = "test"
    """The split whose images are completed, or whose sequences are shown beside the samples: train, valid or test."""

    sort: bool = False
    """Write what has the fewest nats first."""
    nats: bool = False
    """Text: write each line's nats and a tab in front of it."""
    out: Path | None = None
    """The PNG, with all images as NPZ beside it; or the file of lines, with their nats in FILE.nats. None: RUN/samples.png, or lines on
    stdout. Of pretrained weights, what would go to RUN goes to the current folder."""
    json: Path | None = None
    """Write a summary to this file: mean nats, and for text how many lines stand in train and in test."""
    belief: int = 0
    """Instead of samples, show what the network believes of all places while it draws (or completes) so many images, or the first line:
    RUN/belief.png and .gif, or --out."""
    export: Path | None = None
    """Write the sampler with its weights to this file instead; it runs with JAX alone, as bin/run_exported.py in the source shows."""
    page: Path | None = None
    """Instead of samples, write a page to play on: one HTML file with the weights inside, in which one draws or types, and the network
    learns that and goes on."""
    devices: int | None = None
    """On CPUs: how many devices the cores are made into. None: one for each core."""

    def __post_init__(self) -> None:
        validation.types(self)
        validation.at_least(self, 1, "count", "batch", "each", "devices", "top_k")
        validation.at_most(self, validation.DEEPEST, "devices")
        validation.at_least(self, 0, "belief")
        if self.belief > 16:
            raise InputError(f"--belief is {self.belief}; at most 16 sequences fit into a picture.")
        validation.seeds(self, "seed")
        together = [option for option in ("prompt", "complete", "export", "page") if getattr(self, option) is not None]
        if len(together) > 1:
            raise InputError(f"{' and '.join(map(validation.flag, together))} cannot be used together; choose one.")
        if self.each is not None and (self.complete is None or self.complete.lower().endswith(".png")):
            raise InputError("--each is about the images of a split; use it with --complete and a part of them, or leave it out.")
        if self.belief and (self.export or self.page):
            raise InputError(f"--belief and {'--export' if self.export else '--page'} cannot be used together; choose one.")
        idle = [option for option in ("json", "sort", "nats") if getattr(self, option)]
        if idle and (self.belief or self.export or self.page):
            raise InputError(
                f"{validation.flag(idle[0])} is about samples, and with --belief, --export or --page none are written; leave it out."
            )
        changed = ["temperature"] if self.temperature != 1 else []
        changed += [option for option in ("top_k", "top_p", "min_p") if getattr(self, option) is not None]
        if changed and self.page:
            raise InputError(f"The page draws from the network's own probabilities; leave out {validation.flag(changed[0])}.")


@dataclass(frozen=True)
class ReportConfig(Writes):
    """Compare runs on one HTML page that holds all its pictures: curves, samples, nats, rates, and what differs in the configurations."""

    run: tuple[Path, ...]
    """Folders of the runs. Test nats are shown of those with a RUN/test.json, which `rgen evaluate --json` writes."""
    out: Path | None = None
    """The page; None: report.html."""

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("--run needs the folder of at least one run.")
        validation.folders("run", *self.run)


@dataclass(frozen=True)
class InsideConfig(Writes, _Trained):
    """Look inside a trained run, in one picture: where the nats are lost, which layers learn and when, what each head reads."""

    split: Split = "test"
    """train, valid or test."""
    count: int | None = None
    """Look at this many sequences, drawn by a seed; None: the whole split."""
    out: Path | None = None
    """The picture; None: RUN/inside.png."""
    devices: int | None = None
    """On CPUs: how many devices the cores are made into. None: one for each core."""

    def __post_init__(self) -> None:
        validation.types(self)
        validation.at_least(self, 1, "count", "devices")
        validation.at_most(self, validation.DEEPEST, "devices")


@dataclass(frozen=True)
class CheckConfig:
    """Compare the dual form with the direct one, the definition, on the first steps of a sequence of a run: nats and MAML's gradient."""

    run: Path
    """Folder of the run; or pretrained:digits, pretrained:mnist or pretrained:names."""
    steps: int = 16
    """Inner steps that are compared."""
    seed: int = 0
    """Seed of the initialization and of the outputs."""

    def __post_init__(self) -> None:
        validation.types(self)
        validation.at_least(self, 1, "steps")
        validation.seeds(self, "seed")
