"""A data set in one file, so that a run does not depend on where its data came from."""

import dataclasses
import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rgen.data.dataset import Dataset
from rgen.errors import InputError


def to_npz(data: Dataset) -> bytes:
    """An NPZ file of the splits (two symbols with a bit each) and the chances, if there are any; the other fields are JSON in it."""
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    splits, kind, chances = fields.pop("splits"), fields.pop("kind"), fields.pop("chances")
    pack = np.packbits if data.symbols == 2 else np.asarray
    arrays: dict[str, Any] = {name: pack(rows) for name, rows in splits.items()}
    arrays |= {f"{name}_count": np.array(len(rows)) for name, rows in splits.items()}
    if chances is not None:
        arrays["chances"] = chances
    whole = io.BytesIO()
    np.savez_compressed(whole, about=np.array(json.dumps({"kind": kind, "shape": data.shape, "fields": fields})), **arrays)
    return whole.getvalue()


def from_npz(path: Path) -> Dataset:
    """Reads what `to_npz` made.

    Raises:
      InputError: the file is damaged.
    """
    what = f"{path}, the run's own copy of its data,"
    try:
        with np.load(path) as file:
            arrays = dict(file)
        about, chances = json.loads(str(arrays["about"])), arrays.get("chances")
        splits = {name: arrays[name] for name in arrays if f"{name}_count" in arrays}
        fields = {"symbols": 256 if about["kind"] == "text" else 2} | about["fields"]  # earlier versions had only these
        if fields["symbols"] == 2:
            shapes = {name: (int(arrays[f"{name}_count"]), *about["shape"]) for name in splits}
            splits = {name: np.unpackbits(rows, count=np.prod(shapes[name])).reshape(shapes[name]) for name, rows in splits.items()}
    except MemoryError:
        raise
    except Exception as error:  # of what is damaged, NumPy raises whatever its bytes lead to
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the disk; zipfile's has EINVAL
            raise InputError(f"{what} cannot be read now ({error}). Run the same command again.") from error
        raise InputError(f"{what} is damaged ({error}). Train anew in another folder.") from error
    fields |= {"notes": tuple(fields["notes"]), "chances": chances}
    return Dataset(about["kind"], splits, **fields)
