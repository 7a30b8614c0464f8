"""What is compared: for each data set and network, a preset and options behind it. Tune a row here, and run the leaderboard again."""

from pathlib import Path
from typing import NamedTuple

from rgen.choices import BoardData, BoardEntry
from rgen.config import checks
from rgen.errors import InputError


class Data(NamedTuple):
    """A data set of the leaderboard.

    Attributes:
      title: in the table.
      unit, key: of its score, and where `bin/evaluate.py --json` has it.
      option: of the leaderboard, which says where it is; None if it is embedded.
    """

    title: str
    unit: str
    key: str
    option: str | None


_IMAGE = ("nats per image", "nats_per_sequence")
DATA: dict[BoardData, Data] = {
    "digits": Data("digits, 8x8", *_IMAGE, None),
    "small-mnist": Data("MNIST, 14x14", *_IMAGE, "data_dir"),
    "mnist": Data("MNIST, 28x28", *_IMAGE, "data_dir"),
    "names": Data("names", "nats per symbol", "nats_per_symbol", "names"),
    "listing": Data("file listing", "bits per byte", "bits_per_symbol", "listing"),
}

ENTRIES: dict[BoardEntry, str] = {
    "original-reptile": "the original's network, Reptile",
    "original-maml": "the original's network, MAML",
    "heads": "ours",
    "context": "ours, told the last 3 outputs",
    "static": "its static twin, which learns nothing while it predicts",
    "lstm": "LSTM, told the last output",
}

_TWIN = "--context 3 --inner-loss nats --rates fixed --inner-rate 1e-12"
_FEW = "--meta-batch 8 --eval-every 1000"  # many steps of few sequences: for so few minutes better than the presets' 32, in validation nats
_MUON = "--optimizer muon"
_DIGITS = "--data digits --meta-batch 32 --eval-count 0 --eval-every 50"
_SMALL = f"small-mnist-heads {_FEW} {_MUON} --width 64"
_MNIST = f"mnist-heads {_FEW} {_MUON}"
_NAMES = f"--eval-every 2500 {_MUON}"
_TEXT = "--meta-batch 32 --eval-every 125 --eval-count 0"
_LINES = f"text-heads {_FEW} --eval-count 0"
_LSTM = "--width 104 --depth 1 --features 64 --outer-rate 5e-3 --warmup 50 --schedule cosine --beta2 0.99 --clip 1"

_RECIPES = {
    ("digits", "original-reptile"): f"mnist-reptile {_DIGITS}",
    ("digits", "original-maml"): f"mnist-maml {_DIGITS}",
    ("digits", "heads"): "digits-maml --eval-every 250",
    ("digits", "context"): "digits-maml --eval-every 250 --context 3",
    ("digits", "static"): f"digits-maml --eval-every 250 {_TWIN}",
    ("digits", "lstm"): "digits-lstm --eval-every 500",
    ("small-mnist", "original-reptile"): "mnist-reptile --reduce 2 --meta-batch 32 --eval-every 250",
    ("small-mnist", "original-maml"): "mnist-maml --reduce 2 --meta-batch 32 --eval-every 250",
    ("small-mnist", "heads"): _SMALL,
    ("small-mnist", "context"): f"{_SMALL} --context 3",
    ("small-mnist", "static"): f"{_SMALL} {_TWIN}",
    ("small-mnist", "lstm"): f"small-mnist-lstm {_FEW}",
    ("mnist", "original-reptile"): "mnist-reptile --eval-every 250",
    ("mnist", "original-maml"): "mnist-maml --eval-every 250",
    ("mnist", "heads"): _MNIST,
    ("mnist", "context"): f"{_MNIST} --context 3",
    ("mnist", "static"): f"{_MNIST} {_TWIN}",
    ("mnist", "lstm"): f"small-mnist-lstm --reduce 1 {_FEW}",
    ("names", "original-reptile"): "names-reptile --eval-every 250",
    ("names", "original-maml"): "names-maml --eval-every 250",
    ("names", "heads"): f"names-heads {_NAMES} --weight-decay 0.3",
    ("names", "context"): f"names-context {_NAMES} --weight-decay 0.3",
    ("names", "static"): f"names-context {_NAMES} --weight-decay 0.3 {_TWIN}",
    ("names", "lstm"): f"names-lstm {_NAMES} --outer-rate 1e-2 --weight-decay 0.1",
    ("listing", "original-reptile"): f"text-reptile {_TEXT}",
    ("listing", "original-maml"): f"text-maml {_TEXT}",
    ("listing", "heads"): _LINES,
    ("listing", "context"): f"{_LINES} --context 3",
    ("listing", "static"): f"{_LINES} {_TWIN}",
    ("listing", "lstm"): f"text-lstm {_FEW} --eval-count 0 {_MUON} {_LSTM} --weight-decay 0.5",
}


# How many test sequences are scored, drawn by a seed; all, where nothing is said. The original's image model takes seconds for 50 images.
SCORED: dict[tuple[str, str], int] = {
    (data, entry): 1000 for data in ("small-mnist", "mnist") for entry in ("original-reptile", "original-maml")
}


def recipe(data: BoardData, entry: BoardEntry, source: Path | None) -> list[str]:
    """The arguments of `rgen train`, without the budget.

    Raises:
      InputError: the data set needs a file or folder, which `source` does not give, or which does not exist.
    """
    option = DATA[data].option
    if option:
        flag = checks.flag(option)
        if source is None:
            raise InputError(f"The leaderboard of {data} needs its data: give {flag}, or leave it out of --data.")
        if not source.exists():
            raise InputError(f"{flag} is '{source}', which does not exist; give the place of the data.")
    where = [] if option is None else ["--data-dir" if option == "data_dir" else "--data", str(source)]
    return [*_RECIPES[data, entry].split(), *where]
