"""The options of training, as a frozen dataclass and as JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rgen.choices import Algorithm, Binarize, FormName, InnerLoss, Network, Optimizer, Order, RateKind, Schedule
from rgen.config import checks
from rgen.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """Meta-train an initialization (or train the recurrent baseline). The run folder suffices to go on, evaluate and sample."""

    run: Path = Path("runs/run")
    """Folder of the run; made if it is not there."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder; a larger --steps than before is allowed, and more --minutes."""

    data: str = "digits"
    """listing, digits, mnist, binarized-mnist; the path of a text file with one sequence per line, also in UTF-16 or UTF-32 or compressed
    by gzip, xz or bzip2; or the path of images: a folder of pictures, also in folders inside of it, or a .npy or .npz file of [N, H, W], in
    which white is 1."""
    data_dir: Path | None = None
    """MNIST: the folder with its four official files, packed or not, or Keras' mnist.npz."""
    download: bool = False
    """Allow the network to be used to get a data set."""
    max_length: int = 128
    """Text: steps a line; longer lines are cut so that each ends with its NUL, and no character of UTF-8 is cut in two."""
    held_out: float = 0.1
    """Fraction of the sequences held out for test where there is no official split; half as many for validation."""
    split_seed: int = 0
    """Seed of the split, of the fixed random pixel orders, and of pixels that are drawn once."""
    deduplicate: bool = False
    """Drop lines or images that came before, so that nothing is trained on that is held out; data with splits of their own lose them in
    train only. What counts are lines as they are cut, and images as they are reduced, in black and white or, if they are drawn, in grey."""
    order: Order = "raster"
    """Images: pixel order, raster or random (another one for each image)."""
    reduce: int = 1
    """Images: side of the blocks whose means become the pixels of a smaller image."""
    binarize: Binarize = "threshold"
    """Images: how grey becomes black or white. threshold: white from a half on. static: drawn once by chance, white with the probability
    that is the grey value. dynamic: the same for validation and test, but training images are drawn anew each time."""
    score_padding: bool = False
    """Text: also score and learn the NULs behind a line's end, as the original program does."""

    network: Network = "image-heads"
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

    rates: RateKind = "fixed"
    """Inner rates: fixed (one number), per-array (learned), or rank-one (learned; a factor an input times one an output)."""
    inner_rate: float = 1e-3
    """The inner SGD rate, or where the learned ones start."""

    fast: tuple[str, ...] | None = None
    """What learns in the inner loop, by its place in the network, as heads/memory; the rest is the same for all sequences. None: all."""

    inner_loss: InnerLoss | None = None
    """What the inner loop of text-heads and image-heads descends: nats, those that are paid, or memory, those of a gated readout of the
    memory, which writes down what was seen even where it was expected. None: nats."""

    form: FormName = "dual"
    """Form of the inner loop: dual (fast), or direct (the definition). Both give the same numbers up to rounding."""
    chunk: int | None = None
    """Dual form: steps of a chunk; None: chosen by the cost model."""
    fold: bool | None = None
    """Dual form: sum the taps of finished chunks up into weights; None: chosen by the cost model."""
    micro_batch: int | None = None
    """Dual form: sequences run at once; None: chosen by the cost model."""

    algorithm: Algorithm = "maml"
    """Meta-gradient: maml, first-order-maml or reptile. The recurrent baseline takes maml, which is backpropagation there."""
    steps: int = 10_000
    """Outer steps."""
    minutes: float | None = None
    """Train for so many minutes instead of --steps: the end and the cosine of the outer rate follow the clock, --warmup is in steps all the
    same. Compiling, validation, samples and checkpoints do not count. Stopped, the run goes on with the seconds it has left."""
    meta_batch: int = 50
    """Sequences in each outer step."""
    optimizer: Optimizer = "adamw"
    """What follows the meta-gradient: adamw; or muon, which orthogonalizes the updates of the kernels of Dense layers and leaves all other
    parameters to AdamW."""
    outer_rate: float = 1e-3
    """The optimizer's learning rate, after the warm-up."""
    muon_rms: float = 0.6
    """Muon: root mean square of an update of a kernel, in outer rates. About 0.2 is that of AdamW."""
    warmup: int = 0
    """Outer steps over which the rate rises from zero."""
    schedule: Schedule = "constant"
    """Outer rate after the warm-up: constant, or cosine (falls to zero at the end)."""
    beta2: float = 0.999
    """Adam's second moment decay."""
    clip: float | None = None
    """Clip the meta-gradient to this global norm."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the initialization; not of the inner rates."""
    seed: int = 0
    """Seed of the initialization, the batches and the samples."""

    devices: int | None = None
    """On CPUs: how many devices the cores are made into. None: one for each core; one in all for the recurrent baseline, whose products are
    large enough for several cores."""
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
        checks.types(self)
        checks.folders("run", self.run)
        checks.at_least(self, 1, "steps", "meta_batch", "reduce", "log_every", "eval_every", "keep", "keep_every", "devices")
        checks.at_least(self, 0, "warmup", "eval_count", "weight_decay", "context")
        checks.seeds(self, "seed", "split_seed")
        checks.at_least(self, 2, "max_length")
        checks.positive(self, "inner_rate", "outer_rate", "muon_rms", "clip", "held_out", "minutes")
        checks.at_least(self, 1, "chunk", "micro_batch")
        checks.at_most(self, checks.WIDEST, "width", "widths", "features", "heads", "keys")
        checks.at_most(self, checks.DEEPEST, "depth", "context", "devices")
        if not 0 < self.beta2 < 1:
            raise InputError(f"--beta2 is {self.beta2}; it must lie between 0 and 1.")
        if self.optimizer != "muon" and self.muon_rms != type(self).muon_rms:
            raise InputError("--muon-rms is for Muon; give --optimizer muon too, or leave it out.")
        if self.network == "lstm" and self.algorithm != "maml":
            raise InputError(f"The recurrent baseline has no inner loop for '{self.algorithm}'; train it with --algorithm maml.")
        if self.fast is not None and (self.network == "lstm" or self.algorithm == "reptile"):
            reason = "The recurrent baseline has no inner loop" if self.network == "lstm" else "Reptile needs weights that all learn"
            raise InputError(f"{reason}; leave out --fast.")
        if self.algorithm == "reptile" and self.rates != "fixed":
            raise InputError(f"Reptile has no gradient for inner rates; with --rates {self.rates} use maml or first-order-maml.")
        if self.algorithm == "reptile" and self.inner_loss == "memory":
            raise InputError("Reptile follows the inner loop, which must descend what is paid; leave out --inner-loss.")


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
        if values.pop("precision", "float32") != "float32":
            raise InputError(
                f"{origin} says that the run was trained in bfloat16, which this version of rgen does not do. Its weights are float32: "
                'with "precision": "float32" there it is read, and goes on in that.'
            )
        fields = {f.name for f in dataclasses.fields(TrainConfig)}
        if unknown := sorted(name for name in set(values) - fields if values[name]):  # what is off asks for nothing
            names = ", ".join(unknown)
            raise InputError(f"{origin} has options that this version of rgen does not know: {names}. The version that made the run does.")
        values = {name: value for name, value in values.items() if name in fields}
        for path in ("run", "data_dir"):
            values[path] = values.get(path) and Path(values[path])
        for several in ("widths", "fast"):
            values[several] = values.get(several) and tuple(values[several])
        return TrainConfig(**values)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{origin} is not the configuration of a run: {error}. Restore it, or train anew in another folder.") from None
