"""`rgen evaluate`: exact held-out nats of a run, next to simple counting models."""

import json
import sys

import jax

from rgen import devices
from rgen.choices import PREFIX
from rgen.config import EvaluateConfig
from rgen.data import counts
from rgen.host.files import check_results, replace
from rgen.host.progress import Progress
from rgen.host.table import table
from rgen.models import fitting_batch
from rgen.runs.folder import load_run
from rgen.scoring import choose_exactly, score_all, summarize

COLUMNS = {"nats_per_sequence": ".3f", "standard_error": ".3f", "nats_per_symbol": ".4f", "bits_per_symbol": ".4f"}
OF_IMAGES = {"nats_per_sequence": ".3f", "standard_error": ".3f", "bits_per_dim": ".4f"}


def main(config: EvaluateConfig) -> None:
    """`rgen evaluate`."""
    check_results([("json", config.json), ("out", config.out)], config.replaces)
    name, _, data, model, params, step = load_run(config.run, **config.source(), needs_data=True)
    index = choose_exactly(data, config.split, config.count, config.seed)
    batch = config.batch or fitting_batch(model, data)
    print(devices.sentence(), file=sys.stderr)
    with Progress(len(index), 0, config.split) as progress:
        nats = score_all(model, params, data, config.split, index, batch, progress).sum(1)
    symbols = data.sequences(config.split, index).weight.sum(1)
    images = data.kind == "image"

    def named(summary: dict[str, float | int]) -> dict[str, float | int]:  # what is said of pictures
        return summary | {"bits_per_dim": summary["bits_per_symbol"]} if images else summary

    summary = named(summarize(nats, symbols)) | {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "step": step}
    if config.json:
        replace(config.json, (json.dumps(summary, indent=2) + "\n").encode(), config.overwrite)
    if config.out:
        lines = [f"{i},{paid},{count:.0f}\n" for i, paid, count in zip(index, nats.tolist(), symbols)]
        replace(config.out, "".join(["sequence,nats,symbols\n", *lines]).encode(), config.overwrite)
    references = {name: named(summarize(values, symbols)) for name, values in counts.reference_nats(data, config.split, index).items()}
    who = name if name.startswith(PREFIX) else "this run"
    title = f"{len(index)} {config.split} sequences"
    rows = [{title: name, **row} for name, row in {f"{who}, step {step}": summary, **references}.items()]
    print(table({title: "", **(OF_IMAGES if images else COLUMNS)}, rows))
