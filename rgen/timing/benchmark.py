"""Times the meta-gradients side by side on made-up data: every row compiled first, then run in turn, each run waited for."""

import dataclasses
import math
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgen import data, meta, models, networks, scoring
from rgen.batching import shards_of
from rgen.choices import NETWORKS, ONE_CPU_DEVICE
from rgen.config import PRESETS, BenchmarkConfig, TrainConfig
from rgen.devices import place
from rgen.errors import InputError
from rgen.fast import Dual, InnerLoop
from rgen.hardware import Hardware, hardware, require_memory
from rgen.host import plots
from rgen.host.progress import Progress
from rgen.sequence import Sequence, SequenceModel
from rgen.timing import limits, profile


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table, and one object of the JSON file."""

    network: str
    algorithm: str
    form: str
    meta_batch: int
    length: int
    devices: int
    seconds: float
    inner_steps_per_second: float
    sequences_per_second: float
    temp_bytes: int
    compile_seconds: float
    least_flops: float
    least_bytes: float
    share_of_limit: float


def configuration(name: str) -> TrainConfig:
    """Of a network with its default sizes, or of a preset."""
    return TrainConfig(network=name) if name in NETWORKS else PRESETS[name][1]


def made_up(kind: str, meta_batch: int, length: int) -> tuple[tuple[int, ...], int, Sequence]:
    """Random sequences, "text" or "image": (shape of the data, symbols, batch). Images are the smallest square with `length` pixels."""
    what, remedy = f"--meta-batch {meta_batch} with --length {length}", "Make one of them smaller."
    require_memory(3 * 4 * meta_batch * length, what, remedy)  # outputs, weights and nats
    rng = np.random.default_rng(0)
    text = kind == "text"
    side = math.ceil(math.sqrt(length))
    x = np.arange(length) if text else np.stack(np.divmod(np.arange(length), side), axis=-1)
    symbols = 256 if text else 2
    y = rng.integers(symbols, size=(meta_batch, length), dtype=np.int32)
    seqs = Sequence(x.astype(np.int32)[None], y, np.ones(y.shape, np.float32))
    return ((length,) if text else (side, side)), symbols, seqs


def draw_samples(model: SequenceModel, params: Any, seqs: Sequence) -> Any:
    """Draws as many sequences instead of learning from these."""
    # of keys that come from the outputs, and so lie on the devices over which these are spread
    numbers = seqs.y @ jnp.arange(1, seqs.y.shape[1] + 1)
    return model.sample(params, seqs.x, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers))


TIMED = {**meta.ALGORITHMS, "score": scoring.score, "sample": draw_samples}
FOLD = {"kept": False, "folded": True}  # what these forms fix of the dual one


def cases(config: BenchmarkConfig, network: str) -> list[tuple[str, str]]:
    """(algorithm, form) of all combinations; the recurrent baseline, which has no inner loop, has one form, and one gradient."""
    if configuration(network).network != "lstm":
        return list(product(config.algorithm, config.form))
    others = [algorithm for algorithm in config.algorithm if algorithm in ("score", "sample")]
    gradient = len(others) < len(config.algorithm)
    return [(algorithm, "direct") for algorithm in (["maml"] if gradient else []) + others]


def device_counts(config: BenchmarkConfig, network: str, algorithm: str) -> tuple[int, ...]:
    """Over how many devices the sequences are spread: as asked, or as the commands do. Raises InputError if there are not so many."""
    there = hardware()
    if max(config.devices, default=1) > there.devices:
        raise InputError(f"--devices is {max(config.devices)}, and there are {there.devices}.")
    alone = there.platform == "cpu" and configuration(network).network in ONE_CPU_DEVICE and algorithm in meta.ALGORITHMS
    return config.devices or (1 if alone else there.devices,)


def model_and_data(name: str, form: str, meta_batch: int, length: int, there: Hardware | None = None) -> tuple[SequenceModel, Sequence]:
    """The model of a network or preset, planned for some devices, and made-up data for it."""
    config = configuration(name)
    config = dataclasses.replace(config, form="direct" if form == "direct" else "dual")
    # the recurrent baseline takes both; by its own name, images
    text = networks.NETWORKS.get(config.network, ("image",))[0] == "text" or (name in PRESETS and config.data not in data.IMAGES)
    shape, symbols, seqs = made_up("text" if text else "image", meta_batch, length)
    model = models.configured(config, shape, symbols)
    if isinstance(model, InnerLoop) and isinstance(model.form, Dual):
        dual = dataclasses.replace(model.form, hardware=there)
        if form in FOLD:  # of every layer: where taps cost more, the cost model would carry weights
            dual = dataclasses.replace(dual, fold=FOLD[form], every_layer=True)
        model = dataclasses.replace(model, form=dual)
    return model, seqs


def prepare(
    name: str, algorithm: str, form: str, meta_batch: int, length: int, devices: int | None = None
) -> tuple[Callable[[], Any], float, int, limits.Work]:
    """Compiles a meta-gradient or the sampler: (a call that runs it, seconds to compile, bytes of temporaries, the least work)."""
    model, seqs = model_and_data(name, form, meta_batch, length, hardware()._replace(devices=devices or jax.device_count()))
    models.check_network_fits(jax.eval_shape(model.init, jax.random.key(0), seqs.x[0, 0]), 1)
    params = model.init(jax.random.key(0), seqs.x[0, 0])
    params, seqs = place(params, seqs, devices)
    before = time.perf_counter()
    function = jax.jit(TIMED[algorithm], static_argnums=0).lower(model, params, seqs).compile()
    seconds = time.perf_counter() - before
    memory: Any = function.memory_analysis()
    work = limits.least_work(model, algorithm, params, seqs) if isinstance(model, InnerLoop) else limits.Work(math.nan, math.nan)
    return lambda: function(params, seqs), seconds, memory.temp_size_in_bytes, work


def settled(call: Callable[[], Any]) -> float:
    """Seconds of a call that follows another of its own, as in training: after a larger program its memory has to be found anew."""
    limits.timed(call)
    return limits.timed(call)


def measure(config: BenchmarkConfig, limit: limits.Limits) -> tuple[list[Row], list[str]]:
    """Times all combinations: (rows, profiles as text if they are asked for).

    Those of one network, size and length run in turn, on all numbers of devices, so that a busy machine is busy for all of them.

    Raises:
      InputError: there are not as many devices as asked for.
    """
    groups = list(product(config.network, config.meta_batch, config.length))
    rows, profiles = [], []
    with Progress(len(groups), 0, "benchmark") as progress:
        for done, (network, meta_batch, length) in enumerate(groups):
            these = [(*case, devices) for case in cases(config, network) for devices in device_counts(config, network, case[0])]
            ready = []
            for algorithm, form, devices in these:
                ready.append((shards_of(meta_batch, devices), *prepare(network, algorithm, form, meta_batch, length, devices)))
            for _, call, *_ in ready:
                limits.timed(call)
            times = np.array([[settled(call) for _, call, *_ in ready] for _ in range(config.repeats)])
            for (algorithm, form, _), (devices, _, compile_seconds, temp, work), seconds in zip(these, ready, np.median(times, axis=0)):
                steps, sequences = meta_batch * length / seconds, meta_batch / seconds
                share = limit.seconds(work) / seconds
                cost = (devices, float(seconds), steps, sequences, int(temp), compile_seconds)
                rows.append(Row(network, algorithm, form, meta_batch, length, *cost, work.flops, work.bytes, float(share)))
            if config.profile:
                for (algorithm, form, _), (devices, call, *_) in zip(these, ready):
                    title = f"{network} {algorithm} {form}, B {meta_batch}, T {length}, {devices} devices"
                    profiles.append(profile.table(title, profile.by_operation(lambda call=call: jax.block_until_ready(call()))))
            progress.update(done + 1, network)
    return rows, profiles


def table(rows: list[Row]) -> str:
    """The rows as text.

    `/ reptile` is the time relative to Reptile of the same network, form and size, `x direct` the speed relative to the direct form;
    `of limit` is the share of what the machine could do of the least work (above 1 where the caches are faster than the memory).
    """
    head = f"{'network':<18}{'algorithm':<18}{'form':<8}{'B':>5}{'T':>6}{'devices':>9}{'seconds':>10}{'inner steps/s':>15}{'seq/s':>9}"
    head += f"{'temp MB':>10}{'compile s':>11}{'/ reptile':>11}{'x direct':>10}{'GFLOP':>10}{'GB':>9}{'of limit':>10}"
    lines = [head]
    reptile = {(r.network, r.form, r.meta_batch, r.length, r.devices): r.seconds for r in rows if r.algorithm == "reptile"}
    direct = {(r.network, r.algorithm, r.meta_batch, r.length, r.devices): r.seconds for r in rows if r.form == "direct"}
    for r in rows:
        ratio = r.seconds / reptile.get((r.network, r.form, r.meta_batch, r.length, r.devices), math.nan)
        speed = direct.get((r.network, r.algorithm, r.meta_batch, r.length, r.devices), math.nan) / r.seconds
        line = (
            f"{r.network:<18}{r.algorithm:<18}{r.form:<8}{r.meta_batch:>5}{r.length:>6}{r.devices:>9}{r.seconds:>10.4f}"
            f"{r.inner_steps_per_second:>15,.0f}{r.sequences_per_second:>9.2f}"
            f"{r.temp_bytes / 1e6:>10.1f}{r.compile_seconds:>11.1f}{ratio:>11.2f}"
            f"{speed:>10.2f}{r.least_flops / 1e9:>10.1f}{r.least_bytes / 1e9:>9.1f}{r.share_of_limit:>10.2f}"
        )
        lines.append(line.replace("nan", "  -"))
    return "\n".join(lines)


def draw(rows: list[Row]) -> bytes:
    """A PNG: bars; or, of more than two lengths or meta-batches, how time and memory grow with them."""
    lengths, batches = {row.length for row in rows}, {row.meta_batch for row in rows}
    if max(len(lengths), len(batches)) <= 2:
        labels = [f"{r.network} {r.form}\nB={r.meta_batch} T={r.length} D={r.devices}" for r in rows]
        return plots.bars(labels, [r.algorithm for r in rows], [r.inner_steps_per_second for r in rows], "inner steps per second")
    over_length = len(lengths) >= len(batches)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for r in rows:
        size, held = (r.length, f"B={r.meta_batch}") if over_length else (r.meta_batch, f"T={r.length}")
        lines.setdefault(f"{r.network} {r.algorithm} {r.form}, {held}", []).append((size, r.seconds, r.temp_bytes / 1e6))
    return plots.growth(lines, "inner steps T" if over_length else "sequences B")
