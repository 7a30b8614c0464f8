"""The command lines as frozen dataclasses, and presets by name. Imports neither JAX nor data, so that `--help` is quick."""

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rgen.errors import InputError, nearest

ALGORITHMS = ("maml", "first-order-maml", "reptile")
RATE_KINDS = ("fixed", "per-array", "rank-one")
SCHEDULES = ("cosine", "constant")
SPLITS = ("train", "valid", "test")
FORMS = ("direct", "dual")
PRECISIONS = ("float32", "bfloat16")
INNER_LOSSES = ("nats", "memory")
IMAGE_DATA = ("digits", "mnist", "binarized-mnist")
IMAGE_NETWORKS = ("lstm-block", "siren", "gated", "image-heads")
TEXT_NETWORKS = ("text-mlp", "text-heads")
NETWORKS = (*TEXT_NETWORKS, *IMAGE_NETWORKS, "lstm")


@dataclass(frozen=True)
class TrainConfig:
    """Meta-train an initialization (or train the recurrent baseline). The run folder suffices to go on, evaluate and sample."""

    run: Path = Path("runs/run")
    """Folder of the run; made if it is not there."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder; a larger --steps than before is allowed."""

    data: str = "digits"
    """listing, digits, mnist, binarized-mnist, or the path of a text file with one sequence a line."""
    data_dir: Path | None = None
    """Folder with the four official MNIST .gz files."""
    download: bool = False
    """Allow the network to be used to get a data set."""
    max_length: int = 128
    """Text: steps a line; longer lines are cut so that each ends with its NUL."""
    held_out: float = 0.1
    """Fraction of the sequences held out for test where there is no official split; half as many for validation."""
    split_seed: int = 0
    """Seed of the split, and of the fixed random pixel orders."""
    order: str = "raster"
    """Images: pixel order, raster or random (another one for each image)."""
    reduce: int = 1
    """Images: side of the blocks whose means become the pixels of a smaller image."""
    score_padding: bool = False
    """Text: also score and learn the NULs behind a line's end, as the original program does."""

    network: str = "image-heads"
    """text-mlp, text-heads, lstm-block, siren, gated, image-heads, or lstm, the recurrent baseline."""
    width: int | None = None
    """Width of the network's layers; None: the network's own."""
    widths: tuple[int, ...] | None = None
    """Widths of the hidden layers of text-mlp and siren; None: the network's own."""
    depth: int | None = None
    """Number of blocks; None: the network's own."""
    features: int | None = None
    """Width of the embeddings; None: the network's own."""
    heads: int | None = None
    """Heads of the memory of text-heads and image-heads, a divisor of the width; None: the network's own."""
    keys: int | None = None
    """Features of a position for each head, an even number; None: the network's own."""

    context: int | None = None
    """How many of the last outputs text-heads and image-heads read beside the position; None: none."""

    rates: str = "fixed"
    """Inner rates: fixed (one number), per-array (learned), or rank-one (learned; a factor an input times one an output)."""
    inner_rate: float = 1e-3
    """The inner SGD rate, or where the learned ones start."""

    fast: tuple[str, ...] | None = None
    """What learns in the inner loop, by its place in the network, as heads/memory; the rest is the same for all sequences. None: all."""

    inner_loss: str | None = None
    """What the inner loop of text-heads and image-heads descends: nats, those that are paid, or memory, those of a gated readout of the
    memory, which writes down what was seen even where it was expected. None: nats."""

    form: str = "dual"
    """Form of the inner loop: dual (fast), or direct (the definition). Both give the same numbers up to rounding."""
    precision: str = "float32"
    """float32; or bfloat16 for the taps and products of the dual form, summed up in float32."""
    chunk: int | None = None
    """Dual form: steps of a chunk; None: chosen by the cost model."""
    fold: bool | None = None
    """Dual form: sum the taps of finished chunks up into weights; None: chosen by the cost model."""
    micro_batch: int | None = None
    """Dual form: sequences run at once; None: chosen by the cost model."""

    algorithm: str = "maml"
    """Meta-gradient: maml, first-order-maml or reptile. The recurrent baseline takes maml, which is backpropagation there."""
    steps: int = 10_000
    """Outer steps."""
    meta_batch: int = 50
    """Sequences in each outer step."""
    outer_rate: float = 1e-3
    """Adam's learning rate, after the warm-up."""
    warmup: int = 0
    """Outer steps over which the rate rises from zero."""
    schedule: str = "constant"
    """Outer rate after the warm-up: constant, or cosine (falls to zero at the last step)."""
    beta2: float = 0.999
    """Adam's second moment decay."""
    clip: float | None = None
    """Clip the meta-gradient to this global norm."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of the initialization; not of the inner rates."""
    seed: int = 0
    """Seed of the initialization, the batches and the samples."""

    distributed: str | None = None
    """Train as one of several processes: auto (as the cluster's environment says), or HOST:PORT,PROCESSES,NUMBER with the address of
    process 0. All share the run folder; process 0 writes."""
    log_every: int = 50
    """Outer steps between lines of metrics.jsonl."""
    eval_every: int = 500
    """Outer steps between checkpoints, each with validation nats and samples."""
    eval_count: int = 500
    """Validation sequences scored then; 0 for the whole split."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to RUN/tensorboard; needs pip install -e ".[tensorboard]"."""
    keep: int = 2
    """How many of the newest checkpoints are kept."""
    keep_every: int | None = None
    """Besides these, keep the checkpoint of every so many outer steps."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "meta_batch", "reduce", "log_every", "eval_every", "keep", "keep_every")
        _at_least(self, 0, "warmup", "eval_count", "weight_decay", "context")
        _seed(self, "seed", "split_seed")
        _at_least(self, 2, "max_length")
        _positive(self, "inner_rate", "outer_rate", "clip", "held_out")
        _one_of(self, "algorithm", ALGORITHMS)
        _one_of(self, "form", FORMS)
        _at_least(self, 1, "chunk", "micro_batch")
        _one_of(self, "precision", PRECISIONS)
        if self.precision == "bfloat16" and (self.form == "direct" or self.network == "lstm"):
            raise InputError("--precision bfloat16 is for the dual form of the inner loop; leave it out.")
        _one_of(self, "rates", RATE_KINDS)
        _one_of(self, "schedule", SCHEDULES)
        _one_of(self, "order", ("raster", "random"))
        _one_of(self, "network", NETWORKS)
        if not 0 < self.beta2 < 1:
            raise InputError(f"--beta2 is {self.beta2}; it must lie between 0 and 1.")
        if self.network == "lstm" and self.algorithm != "maml":
            raise InputError(f"The recurrent baseline has no inner loop for '{self.algorithm}'; train it with --algorithm maml.")
        if self.fast is not None and (self.network == "lstm" or self.algorithm == "reptile"):
            reason = "The recurrent baseline has no inner loop" if self.network == "lstm" else "Reptile needs weights that all learn"
            raise InputError(f"{reason}; leave out --fast.")
        if self.algorithm == "reptile" and self.rates != "fixed":
            raise InputError(f"Reptile has no gradient for inner rates; with --rates {self.rates} use maml or first-order-maml.")
        if self.inner_loss is not None:
            _one_of(self, "inner_loss", INNER_LOSSES)
        if self.algorithm == "reptile" and self.inner_loss == "memory":
            raise InputError("Reptile follows the inner loop, which must descend what is paid; leave out --inner-loss.")


@dataclass(frozen=True)
class EvaluateConfig:
    """Exact held-out nats of a trained run, beside what simple counting reaches on the same sequences."""

    run: Path
    """Folder of the run."""
    split: str = "test"
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

    def __post_init__(self) -> None:
        _one_of(self, "split", SPLITS)
        _at_least(self, 1, "count", "batch")
        _seed(self, "seed")


@dataclass(frozen=True)
class SampleConfig:
    """Draw sequences from a trained run, or complete known ones. Interrupted, the same command goes on where it stopped."""

    run: Path
    """Folder of the run."""
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
    split: str = "test"
    """The split whose images are completed, or whose sequences are shown beside the samples: train, valid or test."""

    sort: bool = False
    """Write what has the fewest nats first."""
    nats: bool = False
    """Text: write each line's nats and a tab in front of it."""
    out: Path | None = None
    """The PNG, with all images as NPZ beside it; or the file of lines, with their nats in FILE.nats. None: RUN/samples.png, or lines on
    stdout."""
    json: Path | None = None
    """Write a summary to this file: mean nats, and for text how many lines stand in train and in test."""
    belief: int = 0
    """Instead of samples, show what the network believes of all places while it draws (or completes) so many images, or the first line:
    RUN/belief.png and .gif, or --out."""
    export: Path | None = None
    """Instead of samples, write the sampler with its weights to this file; bin/run_exported.py runs it without rgen."""

    def __post_init__(self) -> None:
        _one_of(self, "split", SPLITS)
        _at_least(self, 1, "count", "batch", "each")
        _at_least(self, 0, "belief")
        if self.belief > 16:
            raise InputError(f"--belief is {self.belief}; at most 16 sequences fit into a picture.")
        _seed(self, "seed")
        together = [option for option in ("prompt", "complete", "export") if getattr(self, option) is not None]
        if len(together) > 1:
            raise InputError(f"{' and '.join(map(_flag, together))} cannot be used together; choose one.")
        if self.each is not None and (self.complete is None or self.complete.lower().endswith(".png")):
            raise InputError("--each is about the images of a split; use it with --complete and a part of them, or leave it out.")
        if self.belief and self.export:
            raise InputError("--belief and --export cannot be used together; choose one.")
        idle = [option for option in ("json", "sort", "nats") if getattr(self, option)]
        if idle and (self.belief or self.export):
            raise InputError(f"{_flag(idle[0])} is about samples, and with --belief or --export none are written; leave it out.")


@dataclass(frozen=True)
class ReportConfig:
    """Compare runs on one HTML page that holds all its pictures: curves, samples, nats, rates, and what differs in the configurations."""

    run: tuple[Path, ...]
    """Folders of the runs. Test nats are shown of those with a RUN/test.json, which bin/evaluate.py --json writes."""
    out: Path = Path("report.html")
    """The page."""

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("--run needs the folder of at least one run.")


@dataclass(frozen=True)
class InsideConfig:
    """Look inside a trained run, in one picture: where the nats are lost, which layers learn and when, what each head reads."""

    run: Path
    """Folder of the run."""
    split: str = "test"
    """train, valid or test."""
    count: int | None = None
    """Look at this many sequences, drawn by a seed; None: the whole split."""
    out: Path | None = None
    """The picture; None: RUN/inside.png."""

    def __post_init__(self) -> None:
        _one_of(self, "split", SPLITS)
        _at_least(self, 1, "count")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time MAML, first-order MAML, Reptile and sampling side by side: every combination of the first five options."""

    network: tuple[str, ...] = ("text-mlp", "lstm-block")
    """Networks, with their default sizes, all of which learns; or presets, with their networks, rates and what learns."""
    algorithm: tuple[str, ...] = ALGORITHMS
    """Meta-gradients: maml, first-order-maml, reptile; and sample, which draws sequences."""
    form: tuple[str, ...] = FORMS
    """Forms of the inner loop: direct, dual."""
    meta_batch: tuple[int, ...] = (8,)
    """Sequences in an outer step."""
    length: tuple[int, ...] = (128,)
    """Inner steps in a sequence; for images, pixels of the smallest square that has as many."""
    repeats: int = 3
    """Timed runs of each, alternating with the others; the median counts."""
    profile: bool = False
    """Also show where the time of each goes, by kind of XLA operation, summed over threads."""
    json: Path | None = None
    """Write the rows to this file."""
    out: Path | None = None
    """The picture; None: benchmark.png."""

    def __post_init__(self) -> None:
        for name in self.network:
            if name not in NETWORKS and name not in PRESETS:
                raise InputError(f"There is no network '{name}'. {nearest(name, (*NETWORKS, *PRESETS))}")
            if name not in NETWORKS and PRESETS[name][1].fast and "reptile" in self.algorithm:
                raise InputError(f"Of the preset '{name}' only a part learns, and Reptile needs all. Give --algorithm maml sample.")
        for option, choices in (("algorithm", (*ALGORITHMS, "sample")), ("form", FORMS)):
            for value in getattr(self, option):
                if value not in choices:
                    raise InputError(f"There is no {option} '{value}'. {nearest(value, choices)}")
        for option in ("network", "algorithm", "form", "meta_batch", "length"):
            if not getattr(self, option):
                raise InputError(f"{_flag(option)} needs at least one value.")
        for option in ("meta_batch", "length"):
            if min(getattr(self, option)) < 1:
                raise InputError(f"{_flag(option)} is {min(getattr(self, option))}; it must be at least 1.")
        _at_least(self, 1, "repeats")


# ---------------------------------------------------------------- checks


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _at_least(config: Any, least: int, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise InputError(f"{_flag(option)} is {value}; it must be at least {least}.")


def _seed(config: Any, *options: str) -> None:
    for option in options:
        if not 0 <= getattr(config, option) < 2**31:
            raise InputError(f"{_flag(option)} is {getattr(config, option)}; seeds lie between 0 and {2**31 - 1}.")


def _positive(config: Any, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"{_flag(option)} is {value}; it must be a positive number.")


def _one_of(config: Any, option: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, option)
    if value not in choices:
        raise InputError(f"{_flag(option)} is '{value}'. {nearest(value, choices)}")


# ---------------------------------------------------------------- as JSON


def to_json(config: TrainConfig) -> str:
    """The configuration as indented JSON; paths as strings."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str, origin: Path) -> TrainConfig:
    """Reads `to_json`'s text.

    Raises:
      InputError: it is not a configuration of this version; the message names `origin`.
    """
    try:
        values = json.loads(text)
        fields = {f.name for f in dataclasses.fields(TrainConfig)}
        if unknown := sorted(set(values) - fields):
            raise InputError(f"{origin} has options that this version of rgen does not know: {', '.join(unknown)}.")
        for path in ("run", "data_dir"):
            values[path] = values.get(path) and Path(values[path])
        for several in ("widths", "fast"):
            values[several] = values.get(several) and tuple(values[several])
        return TrainConfig(**values)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{origin} is not the configuration of a run: {error}. Restore it, or train anew in another folder.") from None


# ---------------------------------------------------------------- presets

# The original's settings: unixpickle/reptile-gen, text_train.py, mnist_train.py and mnist_baseline.py.
_TEXT = TrainConfig(data="listing", network="text-mlp", inner_rate=1e-3, outer_rate=1e-3, meta_batch=50)
_MNIST = TrainConfig(data="mnist", network="lstm-block", inner_rate=1e-3, outer_rate=1e-4, beta2=0.99, meta_batch=50)
_LSTM = TrainConfig(network="lstm", outer_rate=1e-3, meta_batch=50)
# An outer loop for few steps.
_QUICK = TrainConfig(outer_rate=5e-3, warmup=50, schedule="cosine", beta2=0.99, clip=1.0, weight_decay=1e-2, meta_batch=32)
# Ours: a memory of heads that learns in the inner loop, by nats of its own and at learned rank-one rates, and all else the same for all
# sequences.
_HEADS = replace(_QUICK, rates="rank-one", inner_rate=0.1, fast=("heads/memory",), inner_loss="memory")
# For pixels, many narrow heads: there are more places near one than in a line.
_PIXELS = replace(_HEADS, network="image-heads", width=128, heads=64, keys=32)
_DIGITS = replace(_PIXELS, width=64, heads=32, weight_decay=0.3)
# The sets of docs/results.md, where all networks have the same sequences and outer steps.
_NAMES = {"data": "names.txt", "max_length": 16, "held_out": 0.03122, "meta_batch": 64, "steps": 2500, "eval_count": 0}
_SMALL = {"data": "mnist", "reduce": 2, "steps": 1000, "eval_every": 250}
_SMALL_LSTM = replace(_QUICK, network="lstm", width=76, depth=1, features=48)


_PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "demo": (
        "What `make demo` trains: our network on the embedded digits, a few minutes on 2 cores.",
        replace(_DIGITS, steps=800, log_every=50, eval_every=200),
    ),
    "digits-maml": ("MAML on the embedded digits, our network.", replace(_DIGITS, steps=800, eval_every=100, eval_count=0)),
    "digits-reptile": (
        "Reptile on the embedded digits, our network, all of which learns.",
        replace(
            _QUICK,
            network="image-heads",
            width=64,
            algorithm="reptile",
            inner_rate=2e-2,
            outer_rate=2e-3,
            clip=None,
            weight_decay=0.1,
            steps=3000,
        ),
    ),
    "digits-lstm": (
        "The recurrent baseline on the embedded digits.",
        replace(_SMALL_LSTM, width=64, features=64, weight_decay=0.3, steps=2500, eval_every=250, eval_count=0),
    ),
    "names-heads": (
        "Our network on names, MAML; give --data names.txt, one name a line.",
        replace(_HEADS, network="text-heads", depth=1, **_NAMES),
    ),
    "names-context": ("The same, which reads the last 3 symbols too.", replace(_HEADS, network="text-heads", context=3, **_NAMES)),
    "names-lstm": ("A recurrent baseline of the same size on names.", replace(_SMALL_LSTM, **_NAMES)),
    "names-maml": ("The original's text model on names, MAML.", replace(_TEXT, **_NAMES)),
    "names-reptile": ("The original's text model on names, Reptile.", replace(_TEXT, algorithm="reptile", **_NAMES)),
    "small-mnist-heads": ("Our network on MNIST of 14x14 pixels, MAML.", replace(_PIXELS, **_SMALL)),
    "small-mnist-lstm": ("A recurrent baseline on MNIST of 14x14 pixels.", replace(_SMALL_LSTM, **_SMALL)),
    "text-maml": ("The original's text model, MAML.", replace(_TEXT, algorithm="maml")),
    "text-reptile": ("The original's text model, Reptile: its own settings.", replace(_TEXT, algorithm="reptile")),
    "text-heads": ("Our network on text, MAML.", replace(_HEADS, data="listing", network="text-heads", weight_decay=0.3)),
    "text-lstm": ("The recurrent baseline on text.", replace(_LSTM, data="listing")),
    "mnist-maml": ("The original's MNIST model, MAML.", replace(_MNIST, algorithm="maml")),
    "mnist-reptile": ("The original's MNIST model, Reptile: its own settings.", replace(_MNIST, algorithm="reptile")),
    "mnist-siren": ("The original's SIREN on MNIST, MAML.", replace(_MNIST, network="siren", algorithm="maml")),
    "mnist-heads": ("Our network on MNIST, MAML.", replace(_PIXELS, data="mnist")),
    "mnist-lstm": ("The recurrent baseline on MNIST: the original's own settings.", replace(_LSTM, data="mnist")),
}

PRESETS = {name: (text, replace(config, run=Path("runs") / name)) for name, (text, config) in _PRESETS.items()}


def choose_preset(arguments: list[str]) -> None:
    """Raises InputError, with the nearest names, if the first argument is no preset's name."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise InputError(f"There is no preset '{arguments[0]}'. {nearest(arguments[0], PRESETS)}")
