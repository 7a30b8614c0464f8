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

ARRAYS = ("chances",)  # fields that are arrays, beside the splits


def to_npz(data: Dataset) -> bytes:
    """An NPZ file of the splits, compressed (images with a bit a pixel), other arrays as they are, and the other fields as JSON."""
    about = {field.name: getattr(data, field.name) for field in dataclasses.fields(data) if field.name not in ("kind", "splits")}
    more = {name: array for name in ARRAYS if (array := about.pop(name, None)) is not None}
    about = json.dumps({"kind": data.kind, "shape": data.shape, "fields": about})
    pack = np.packbits if data.kind == "image" else np.asarray
    arrays: dict[str, Any] = {name: pack(rows) for name, rows in data.splits.items()}
    arrays |= {f"{name}_count": np.array(len(rows)) for name, rows in data.splits.items()}
    whole = io.BytesIO()
    np.savez_compressed(whole, about=np.array(about), **arrays, **more)
    return whole.getvalue()


def from_npz(path: Path) -> Dataset:
    """Reads what `to_npz` made.

    Raises:
      InputError: the file is damaged.
    """
    what = f"{path}, the run's own copy of its data,"
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            splits, more = {}, {}
            for name in file.files:
                if name in ARRAYS:
                    more[name] = file[name]
                elif f"{name}_count" in file.files:
                    shape = (int(file[f"{name}_count"]), *about["shape"])
                    rows = file[name]
                    splits[name] = np.unpackbits(rows, count=np.prod(shape)).reshape(shape) if about["kind"] == "image" else rows
    except MemoryError:
        raise
    except Exception as error:  # of what is damaged, NumPy raises whatever its bytes lead to
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the disk; zipfile's has EINVAL
            raise InputError(f"{what} cannot be read now ({error}). Run the same command again.") from error
        raise InputError(f"{what} is damaged ({error}). Train anew in another folder.") from error
    fields = about["fields"] | {"notes": tuple(about["fields"]["notes"])} | more
    return Dataset(about["kind"], splits, **fields)
