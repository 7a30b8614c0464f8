"""Checkpoints: Orbax writes them; our checksums tell whether they are what was saved."""

import hashlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

import rgen
from rgen.errors import InputError
from rgen.models import by_path

PLAIN = re.compile(r"[\w .,+=@~#-]*")  # names of folders that Orbax reads as they are; it globs some others and splits at colons
LEFT = (".orbax-checkpoint-tmp", ".removed")  # in the names of folders that were being written or removed
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # a missing file is damage; other errors of the system are not


class Damaged(InputError):
    """A checkpoint is not what was saved."""


class Unwritable(InputError):
    """A checkpoint cannot be written."""


class Checkpoints:
    """The newest `keep` checkpoints in a folder, one folder per outer step, and those of every `every`-th step.

    A kill at any moment leaves those that were complete before. With `clean`, what such a kill left is removed, which only the
    process that writes may ask for.
    """

    def __init__(self, folder: Path, keep: int = 2, every: int | None = None, clean: bool = False):
        self._folder, self._keep, self._every = folder, keep, every
        self._first = jax.process_index() == 0
        self._orbax_folder = self._find_plain_path()
        self._damaged: set[int] = set()
        if clean and self._first and folder.is_dir():
            for path in folder.iterdir():
                if any(mark in path.name for mark in LEFT):
                    shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays, then removes what is not kept. Raises Unwritable."""
        arrays = jax.tree.map(np.asarray, state)
        metadata: Any = {"arrays": _describe(by_path(arrays)), "versions": versions()}
        try:
            self._folder.mkdir(exist_ok=True)  # not its parents: a run folder that was moved is not made anew
            ocp.save(str(self._orbax_folder / str(step)), arrays, custom_metadata=metadata, overwrite=True)
            for old in self.steps()[self._keep :]:
                if self._every is None or old % self._every:
                    self._remove(old)
        except jax.errors.JaxRuntimeError:  # another process is lost; the disk is well
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds
            raise Unwritable(
                f"The checkpoint of step {step} cannot be written to {self._folder} ({_short(error)}). "
                "Earlier checkpoints are intact. Free some space, or make the folder writable, and continue with --resume."
            ) from error

    def _remove(self, step: int) -> None:
        if self._first:
            path = (self._folder / str(step)).rename(free(self._folder / f"{step}{LEFT[1]}"))  # a kill leaves no half of a checkpoint
            shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps there are, the newest first."""
        names = [path.name for path in self._folder.iterdir() if path.is_dir()] if self._folder.is_dir() else []
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints after `step`, which will be made again; damaged ones are kept as STEP.damaged."""
        for later in [s for s in self.steps() if s > step]:
            if later not in self._damaged:
                self._remove(later)
            elif self._first:
                (self._folder / str(later)).rename(free(self._folder / f"{later}.damaged"))

    def newest(self, like: Any, say: Callable[[str], None], may_lack: Collection[str] = ()) -> tuple[int, Any] | None:
        """Loads the newest checkpoint that is not damaged: (step, state); None if there are none.

        Args:
          like, may_lack: as for `load`.
          say: called with a sentence for each damaged checkpoint.
        Raises:
          Damaged: all of them are.
          InputError: it is of another network or version, or cannot be read now.
        """
        steps = self.steps()
        for step in steps:
            try:
                return step, self.load(step, like, may_lack)
            except Damaged as error:
                self._damaged.add(step)
                if step == steps[-1]:
                    raise Damaged(f"{error} No intact one is left; train again in another folder.") from error
                say(f"{error} The one before is used.")
        return None

    def load(self, step: int, like: Any, may_lack: Collection[str] = ()) -> Any:
        """Loads a checkpoint.

        Args:
          like: a pytree of arrays or shapes, whose structure, shapes and types the result has.
          may_lack: branches of the tree that may be absent, as in checkpoints of older versions; they are as in `like` then.
        Raises:
          Damaged: it is not what was saved.
          InputError: it is of another network or version, or cannot be read now.
        """
        where = f"The checkpoint of step {step} in {self._folder}"
        arrays, saved_with, day = self._read(step, where)
        wanted = by_path(like)
        for name in (*wanted, *arrays):
            needed, there = (tuple(tree[name].shape) if name in tree else None for tree in (wanted, arrays))
            if needed == there or (None in (needed, there) and name.split("/")[0] in may_lack):
                continue
            needed, there = ("nothing" if shape is None else f"shape {list(shape)}" for shape in (needed, there))
            raise InputError(
                f"{where} does not fit the network of this version: {name} needs {needed}, and there is {there}."
                f"{_changes(saved_with)} It was saved on {day}; a version of rgen of that day goes on with it."
            )
        leaves = [jnp.asarray(arrays[name].astype(a.dtype)) if name in arrays else a for name, a in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read(self, step: int, where: str) -> tuple[dict[str, np.ndarray], dict[str, str], date]:
        """Arrays by their paths, compared with their checksums; versions and day. Raises as `load`."""
        path, saved_with = str(self._orbax_folder / str(step)), {}
        read_metadata, read = ocp.metadata, ocp.load  # outside of try: an Orbax without them is no damage
        try:
            about: Any = read_metadata(path)
            saved, saved_with = about.custom_metadata["arrays"], dict(about.custom_metadata.get("versions", {}))
            day = date.fromtimestamp(about.init_timestamp_nsecs / 1e9)
            # load as NumPy arrays, on whatever devices they were; broadcast, since a damaged shape may be of any size
            shapes = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), about.metadata)
            arrays = by_path(read(path, shapes))
            found = _describe(arrays)
            wrong = [*(saved.keys() ^ found.keys())]
            wrong += [name for name in saved.keys() & found.keys() if found[name] | saved[name] != found[name]]
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds
            if (reason := _unreadable(self._folder / str(step), error)) is not None:
                raise InputError(f"{where} cannot be read now ({reason}). Nothing was changed; run the same command again.") from error
            if saved_with.get("orbax-checkpoint", version("orbax-checkpoint")) != version("orbax-checkpoint"):
                raise InputError(f"{where} cannot be read ({_short(error)}).{_changes(saved_with)} Use those versions.") from error
            raise Damaged(f"{where} is damaged ({_short(error)}).") from error
        if wrong:
            raise Damaged(f"{where} is damaged: {min(wrong)} is not what was saved.")
        return arrays, saved_with, day

    def _find_plain_path(self) -> Path:
        """The folder's path; if Orbax would misread it, a link to it that exists as long as this object."""
        if _is_plain(folder := self._folder.absolute()):
            return folder
        try:
            links = Path(tempfile.mkdtemp(prefix="rgen-"))
            weakref.finalize(self, shutil.rmtree, links, ignore_errors=True)
            (links / "checkpoints").symlink_to(folder, target_is_directory=True)
        except OSError as error:
            reason = f"no link to it can be made ({error})"
        else:
            if _is_plain(links):
                return links / "checkpoints"
            reason = f"the path of the folder for temporary files, {links.parent}, has some too"
        raise InputError(
            f"The path {folder} has characters that Orbax misreads, and {reason}; choose a --run folder whose path has none of "
            "[ ] * ? : \\ or control characters, or move the run to one."
        )


def _is_plain(path: Path) -> bool:
    return all(PLAIN.fullmatch(part) for part in path.parts[1:])


def _unreadable(folder: Path, error: BaseException | None) -> str | None:
    """The system's reason if a checkpoint's files could not, or cannot, be read; None if they can, so that they are damaged."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, ABSENT):
            return _short(error)
        error = error.__cause__ or error.__context__
    try:
        for parent, _, files in os.walk(folder, onerror=_raise):
            for name in files:
                (Path(parent) / name).read_bytes()
    except ABSENT:
        return None
    except OSError as system:
        return _short(system)
    return None


def _raise(error: OSError) -> None:
    raise error


def free(path: Path) -> Path:
    """The path if nothing is there, else the first of PATH-2, PATH-3, ... where nothing is."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def versions() -> dict[str, str]:
    """The versions that a checkpoint may depend on."""
    # rgen itself may run without being installed
    return {"rgen": rgen.__version__, **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}}


def _changes(before: dict[str, str]) -> str:
    now = versions()
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if name in before and before[name] != now[name]]
    return f" It was saved with {'; '.join(changed)}." if changed else ""


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _describe(arrays: dict[str, Any]) -> dict[str, dict]:
    """Shape, type and checksum of each array."""
    found = {}
    for name, array in arrays.items():
        checksum = hashlib.sha256(array.tobytes()).hexdigest()
        found[name] = {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": checksum}
    return found
