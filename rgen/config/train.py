"""The options of training, as a frozen dataclass and as JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rgen.choices import (
    BASELINES,
    RENAMED,
    Algorithm,
    Binarize,
    FormName,
    InnerLoss,
    InnerOptimizer,
    LikelihoodName,
    Network,
    Optimizer,
    Order,
    RateKind,
    Schedule,
)
from rgen.config.validation import Checked, Count, CountOrZero, NotNegative, Number, Positive, Range, Seed, Size, flag, require_folders
from rgen.errors import InputError


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Meta-train an initialization, or train a baseline. The run folder is all that other commands need."""

    run: Path = Path("runs/run")
    """Folder of the run; made if it does not exist."""
    resume: bool = False
    """Continue from the last checkpoint in the run folder. --steps or --minutes may be larger than before."""

    data: str = "digits"
    """listing, digits, mnist or binarized-mnist; or one of these:
    a text file with one sequence per line, in UTF-8, or UTF-16 or UTF-32 with a byte order mark, also compressed by gzip, xz or bzip2;
    a folder of pictures, with subfolders; a .npy or .npz file of pictures [N, H, W] in which white is 1, or of symbols [N, ...]."""
    data_dir: Path | None = None
    """MNIST: the folder with its two files of images (gzipped or not), or Keras' mnist.npz; binarized-mnist: with its three .amat files."""
    download: bool = False
    """Allow downloading a data set."""
    max_length: Annotated[int, Range(2)] = 128
    """Text: bytes per line, including the NUL that ends it. Longer lines are cut, never within a UTF-8 character."""
    held_out: Positive = 0.1
    """Fraction of the sequences held out as the test split if there is no official one; half as many for validation."""
    split_seed: Seed = 0
    """Seed of the splits, of random pixel orders, and of pixels that are binarized once."""
    deduplicate: bool = False
    """Drop repeated lines or images, as they are after cutting or reducing, so that no held-out sequence is trained on.
    Official validation and test splits stay whole."""
    order: Order = "raster"
    """Images and arrays: order of the places, raster or random (a different one for each sequence)."""
    reduce: Count = 1
    """Images: reduce the size by averaging blocks of this many by this many pixels."""
    binarize: Binarize = "threshold"
    """Images: how grey becomes black or white.
    threshold: white from one half on.
    static: drawn once, white with the probability given by the grey value.
    dynamic: as static, but training images are drawn again each time."""
    levels: Annotated[int, Range(2, 256)] | None = None
    """Images: number of equal steps from black to white. None: 2, black and white."""
    colour: bool = False
    """Images: keep colours; red, green and blue of a pixel are predicted one after the other."""
    symbols: Annotated[int, Range(2, 256)] | None = None
    """Arrays: how many symbols there are, and that a .npy or .npz file does not hold pictures. None: one more than the largest."""
    score_padding: bool = False
    """Text: also score and learn the NULs after the end of a line, as the original program does."""

    network: Network = "heads"
    """heads, our own, for any data; the original's: text-mlp for lines, lstm-block, siren and gated for images; or a baseline: lstm,
    told the previous output, or transformer, told all before. text-heads and image-heads are former names of heads."""
    width: Size | None = None
    """Width of the network's layers. None: the network's default."""
    widths: tuple[Size, ...] | None = None
    """Widths of the hidden layers of text-mlp and siren. None: the network's default."""
    depth: Number | None = None
    """Number of blocks. None: the network's default."""
    features: Size | None = None
    """Width of the embeddings. None: the network's default."""
    heads: Size | None = None
    """Number of heads, of the memory or of attention; divides the width. None: the network's default."""
    keys: Size | None = None
    """Key size of each head, an even number. None: the network's default."""

    context: Annotated[int, Range(0, 2**10)] | None = None
    """How many of the last outputs the network of heads reads in addition to the position. None: 0."""
    neighbours: tuple[str, ...] | None = None
    """Which outputs the network of heads reads in addition to the position, where they came earlier (instead of --context). For images:
    left, above, above-left, above-right; steps back along each axis, such as 0,2 for the pixel two to the left; or nearest-12: the 12
    nearest places before."""
    likelihood: LikelihoodName | None = None
    """How the network's outputs are read: categorical (a logit for each symbol; of two symbols, one for both), or ordered (for
    levels: what is learned of one is learned of its neighbours too, in part). None: categorical."""

    rates: RateKind = "fixed"
    """Inner learning rates: fixed (one constant), per-array (one learned rate per parameter array),
    or rank-one (one learned rate per weight: a factor of its input times a factor of its output)."""
    inner_rate: Positive = 1e-3
    """Learning rate of the inner steps; the initial value if it is learned."""
    inner_batch: Count = 1
    """Outputs per inner step: all are predicted by the same weights, then learned by one step on the sum of their nats."""
    inner_optimizer: InnerOptimizer = "sgd"
    """Optimizer of the inner loop, its state new for every sequence: sgd; or, with --form direct, momentum (0.9), nesterov (0.9),
    adam or rmsprop, whose updates are multiplied by the inner rates."""
    inner_steps: Count = 1
    """Inner steps on the same outputs, which are predicted and paid before the first of them."""
    inner_clip: Positive | None = None
    """Clip each inner gradient to this global norm; needs --form direct."""
    inner_decay: Annotated[float, Range(0, 1)] = 0.0
    """Fraction of the way back to the initialization that each inner step begins with; needs --form direct."""

    fast: tuple[str, ...] | None = None
    """The parameters that learn in the inner loop, by path, such as heads/memory; all others stay fixed there. None: all learn."""

    inner_loss: InnerLoss | None = None
    """Loss of the inner loop of the network of heads: nats (the reported loss),
    or memory (nats of a small gated readout of the memory). None: nats."""

    form: FormName = "dual"
    """How the inner loop is computed: dual (fast) or direct (by definition). Results are equal up to rounding."""
    chunk: Count | None = None
    """Dual form: inner steps per chunk. None: chosen by the cost model."""
    fold: bool | None = None
    """Dual form: fold the taps of finished chunks into weights. None: chosen by the cost model."""
    micro_batch: Count | None = None
    """Dual form: sequences processed at once. None: chosen by the cost model."""

    algorithm: Algorithm = "maml"
    """Meta-gradient: maml, first-order-maml or reptile. For a baseline, maml is ordinary backpropagation."""
    steps: Count = 10_000
    """Number of outer steps."""
    minutes: Positive | None = None
    """Train for this many minutes; the schedule follows the clock, warm-up counts steps.
    Compiling, validation, sampling and checkpoints are not counted."""
    meta_batch: Count = 50
    """Sequences in each outer step."""
    optimizer: Optimizer = "adamw"
    """Optimizer of the outer loop: adamw; or muon, for the kernels of Dense layers, with AdamW for all other parameters."""
    outer_rate: Positive = 1e-3
    """Learning rate of the optimizer, after warm-up."""
    muon_rms: Positive = 0.6
    """Muon: root mean square of an update, in units of the learning rate. AdamW's is about 0.2."""
    warmup: CountOrZero = 0
    """Outer steps of linear warm-up."""
    schedule: Schedule = "constant"
    """Learning rate after warm-up: constant, or cosine (decays to zero at the end)."""
    beta2: float = 0.999
    """Adam's decay rate of the second moment."""
    clip: Positive | None = None
    """Clip the meta-gradient to this global norm."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the initialization; learned inner rates do not decay."""
    weight_noise: NotNegative = 0.0
    """Gaussian noise on the kernels and embeddings of the initialization, drawn anew for each outer step: its standard deviation, in
    units of each array's root mean square. Against overfitting: about 0.1 for small data. Training nats are then those with noise."""
    seed: Seed = 0
    """Seed of the initialization, the batches, the noise on the weights and the samples."""

    devices: Number | None = None
    """CPU only: number of devices to split the cores into. None: one per core, or a single one for the recurrent baseline."""
    distributed: str | None = None
    """Train as one of several processes: auto (read from the cluster's environment),
    or HOST:PORT,PROCESSES,NUMBER with the address of process 0. All share the run folder; process 0 writes."""
    log_every: Count = 50
    """Outer steps between lines of metrics.jsonl."""
    eval_every: Count = 500
    """Outer steps between checkpoints, each with validation and samples."""
    eval_count: CountOrZero = 500
    """Validation sequences to score each time; 0 scores the whole split."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to RUN/tensorboard. Needs pip install -e ".[tensorboard]"."""
    keep: Count = 2
    """Number of newest checkpoints to keep."""
    keep_every: Count | None = None
    """Also keep every checkpoint whose step is a multiple of this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "network", RENAMED.get(self.network, self.network))
        require_folders(self.run)
        if not 0 < self.beta2 < 1:
            raise InputError(f"--beta2 is {self.beta2}; it must lie between 0 and 1.")
        if self.optimizer != "muon" and self.muon_rms != type(self).muon_rms:
            raise InputError("--muon-rms is for Muon; give --optimizer muon too, or leave it out.")
        baseline = BASELINES.get(self.network, "").capitalize()
        if baseline and self.algorithm != "maml":
            raise InputError(f"{baseline} has no inner loop for '{self.algorithm}'; train it with --algorithm maml.")
        inner = ("fast", "inner_batch", "inner_optimizer", "inner_steps", "inner_clip", "inner_decay")
        changed = [flag(option) for option in inner if getattr(self, option) != getattr(type(self), option)]
        if baseline and changed:
            raise InputError(f"{baseline} has no inner loop; leave out {changed[0]}.")
        other = [option for option in ("--inner-optimizer", "--inner-clip", "--inner-decay") if option in changed]
        if other and self.algorithm == "reptile":
            raise InputError(f"Reptile takes inner steps of plain SGD; leave out {other[0]}, or use maml or first-order-maml.")
        if other and self.form == "dual":
            raise InputError(f"The dual form takes inner steps of plain SGD; with {other[0]} give --form direct.")
        if self.context and self.neighbours:
            raise InputError("--context and --neighbours both say which earlier outputs are read; give one of them.")
        if self.algorithm == "reptile":
            if self.fast is not None:
                raise InputError("Reptile needs weights that all learn; leave out --fast.")
            if self.rates != "fixed":
                raise InputError(f"Reptile has no gradient for inner rates; with --rates {self.rates} use maml or first-order-maml.")
            if self.inner_loss == "memory":
                raise InputError("Reptile follows the inner loop, which must minimize the reported nats; leave out --inner-loss.")


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
        for several in ("widths", "fast", "neighbours"):
            values[several] = None if values.get(several) is None else tuple(values[several])
        return TrainConfig(**values)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{origin} is not the configuration of a run: {error}. Restore it, or train anew in another folder.") from None
