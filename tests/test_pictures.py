"""Anybody's images: folders of pictures, and arrays of NumPy; read right, or refused in a sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from rgen import data, training
from rgen.data import DataError, pictures
from rgen.runs.folder import load_run
from rgen.sampling import make_sampler
from runs import TINY

GREY = np.random.default_rng(0).integers(0, 256, (30, 4, 6), np.uint8)
WHITE = (GREY >= 128).astype(np.uint8)


def draw(folder: Path, images: np.ndarray, end: str = "png", mode: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(folder / f"{number:03}.{end}")
    return folder


def save(path: Path, **named: np.ndarray) -> Path:
    np.savez(path, **named)  # type: ignore[reportArgumentType]
    return path


def one(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def rest(folder: Path) -> Path:
    """Files that are no pictures."""
    (folder / "notes.txt").write_text("nothing")
    (folder / ".hidden.png").write_text("nothing")
    return folder


COLOUR = np.repeat(GREY[..., None], 3, -1)
WHOLE = {
    "bytes": lambda at: one(at / "a.npy", GREY),
    "numbers 0 to 1": lambda at: one(at / "a.npy", GREY / 255),
    "float32": lambda at: one(at / "a.npy", (GREY / 255).astype(np.float32)),
    "half precision": lambda at: one(at / "a.npy", WHITE.astype(np.float16)),
    "booleans": lambda at: one(at / "a.npy", WHITE > 0),
    "0 and 1": lambda at: one(at / "a.npy", WHITE.astype(np.int64)),
    "big-endian, in columns": lambda at: one(at / "a.npy", np.asfortranarray(GREY.astype(">i4"))),
    "a channel": lambda at: one(at / "a.npy", GREY[..., None]),
    "colours": lambda at: one(at / "a.npy", COLOUR),
    "an archive of one": lambda at: save(at / "a.npz", arr_0=GREY),
    "an archive with labels": lambda at: save(at / "a.npz", labels=np.arange(30), pictures=GREY),
    "pictures": lambda at: rest(draw(at / "a", GREY)),
    "in colour": lambda at: draw(at / "a", COLOUR),
    "transparent": lambda at: draw(at / "a", COLOUR, mode="RGBA"),
    "of 16 bits": lambda at: draw(at / "a", GREY.astype(np.uint16) * 257),
    "bitmaps": lambda at: draw(at / "a", GREY, "BMP"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_images_are_read_right_however_they_are_stored(case, tmp_path):
    loaded = data.load(WHOLE[case](tmp_path), split_seed=3)
    assert loaded.shape == (4, 6) and "25 train, 2 valid, 3 test images of 4 by 6 pixels" in loaded.notes[0]
    for split, rows in data.cut(30, 0.1, 3).items():
        np.testing.assert_array_equal(loaded.splits[split], WHITE[rows])


FOLDERS = {"Train": slice(6, 26), "validation": slice(26, 30), "test": slice(6)}
OWN = {
    "an archive": lambda at: save(at / "a.npz", train=GREY[:20], valid=GREY[20:24], test=GREY[24:]),
    "other names": lambda at: save(at / "a.npz", x_train=GREY[:20], y_train=np.arange(20), X_VAL=GREY[20:24], x_test=GREY[24:]),
    "folders": lambda at: [draw(at / "a" / name, GREY[rows]) for name, rows in FOLDERS.items()] and at / "a",
}


@pytest.mark.parametrize("case", OWN)
def test_splits_of_their_own_are_kept(case, tmp_path):
    loaded = data.load(OWN[case](tmp_path))
    parts = (WHITE[6:26], WHITE[26:], WHITE[:6]) if case == "folders" else (WHITE[:20], WHITE[20:24], WHITE[24:])
    for split, part in zip(("train", "valid", "test"), parts):
        np.testing.assert_array_equal(loaded.splits[split], part)
    assert "(its own splits)" in loaded.notes[0]


def test_valid_is_cut_from_train_where_there_is_none(tmp_path):
    loaded = data.load(save(tmp_path / "a.npz", train=GREY[:20], test=GREY[20:]))
    assert [len(loaded.splits[split]) for split in ("train", "valid", "test")] == [19, 1, 10]
    np.testing.assert_array_equal(loaded.splits["test"], WHITE[20:])
    both = np.concatenate([loaded.splits["train"], loaded.splits["valid"]])
    assert sorted(map(bytes, both)) == sorted(map(bytes, WHITE[:20]))


def spoilt(path: Path, content: bytes = b"\x89PNG no more") -> Path:
    path.write_bytes(content)
    return path.parent if path.parent.name == "a" else path


REFUSED = {
    "no pictures": (lambda at: at, "holds no pictures"),
    "two sizes": (
        lambda at: draw(draw(at / "a", GREY), GREY[:1, :3]) and at / "a",
        "001.png' has 4 by 6 pixels, and .*000.png' has 3 by 6",
    ),
    "a damaged picture": (
        lambda at: spoilt(draw(at / "a", GREY) / "007.png"),
        "007.png' cannot be read: it is not a picture, or a damaged one",
    ),
    "a split missing": (lambda at: draw(at / "a" / "train", GREY).parent, "has folders for train, and none for test"),
    "a split twice": (lambda at: save(at / "a.npz", val=GREY, valid=GREY, train=GREY, test=GREY), "val.* which are the same split"),
    "splits of two sizes": (lambda at: save(at / "a.npz", train=GREY, test=GREY[:, :2]), "images of 2 by 6 and 4 by 6 pixels"),
    "which of them": (lambda at: save(at / "a.npz", one=GREY, two=GREY), "has the arrays one, two. Which are images is not clear"),
    "nothing": (lambda at: save(at / "a.npz"), "has no array"),
    "objects": (lambda at: one(at / "a.npy", np.array([{}], object)), "holds Python objects, which are not read"),
    "words": (lambda at: one(at / "a.npy", np.array(["a"])), "has elements of the type"),
    "complex": (lambda at: one(at / "a.npy", GREY * 1j), "has elements of the type complex128"),
    "flat": (lambda at: one(at / "a.npy", GREY.reshape(30, 24)), r"has the shape \(30, 24\). Expected"),
    "four channels": (lambda at: one(at / "a.npy", np.zeros((9, 4, 4, 4))), r"has the shape \(9, 4, 4, 4\)"),
    "no pixels": (lambda at: one(at / "a.npy", np.zeros((9, 0, 4))), "which holds no pixel"),
    "no images": (lambda at: one(at / "a.npy", GREY[:0]), "which holds no pixel"),
    "too few": (lambda at: one(at / "a.npy", GREY[:2]), "none would be left to train on"),
    "NaN": (lambda at: one(at / "a.npy", np.where(GREY > 9, np.nan, 0.5)), "has numbers from nan to nan"),
    "too bright": (
        lambda at: one(at / "a.npy", GREY * 1.0),
        "has numbers from 0 to 255. Expected are bytes 0 to 255, booleans, or numbers 0 to 1",
    ),
    "negative": (lambda at: one(at / "a.npy", GREY.astype(int) - 1), "has numbers from -1 to"),
    "too large": (lambda at: one(at / "a.npy", GREY.astype(int) * 9), "has numbers from 0 to 2"),
    "damaged": (lambda at: spoilt(at / "a.npy", b"\x93NUMPY\1\0nothing"), "cannot be read: it is damaged or not NumPy's"),
    "empty": (lambda at: spoilt(at / "a.npz", b""), "cannot be read: it is damaged or not NumPy's"),
    "text": (lambda at: spoilt(at / "a.npy", b"alpha\nbeta\n"), "cannot be read"),
    "a folder of that name": (lambda at: (at / "a.npy").mkdir() or at / "a.npy", "holds no pictures"),
    "not there": (lambda at: at / "no.npy", "is neither a data set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_says_why(case, tmp_path):
    path, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence):
        data.load(path(tmp_path))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_array_loads_or_is_refused(tmp_path_factory, drawn):
    shape = drawn.draw(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
    path = one(tmp_path_factory.mktemp("any") / "a.npy", drawn.draw(arrays.arrays(arrays.scalar_dtypes(), shape)))
    try:
        loaded = data.load(path, binarize=drawn.draw(st.sampled_from(("threshold", "static", "dynamic"))))
    except DataError as error:
        assert "array" in str(error) or str(path) in str(error) or "train on" in str(error)
    else:
        assert set(np.unique(loaded.batch(0, 0, 2).y)) <= {0, 1} and loaded.shape == shape[1:3]


def test_images_that_are_no_squares_are_reduced_by_what_divides_both_sides(tmp_path):
    path = one(tmp_path / "a.npy", GREY)
    expected = GREY.reshape(30, 2, 2, 3, 2).mean((2, 4)) >= 127.5
    np.testing.assert_array_equal(data.load(path, reduce=2).splits["test"], expected[data.cut(30, 0.1, 0)["test"]])
    with pytest.raises(DataError, match="Images of 4 by 6 pixels cannot be reduced by 3; factors that fit are 1, 2"):
        data.load(path, reduce=3)


def test_a_run_of_them_trains_draws_and_goes_on_where_the_file_was_moved(tmp_path):
    path = one(tmp_path / "a.npy", GREY)
    config = replace(TINY, data=str(path), reduce=1, run=tmp_path / "run", steps=2)
    training.train(config)
    run = load_run(tmp_path / "run")
    images, nats = make_sampler(run.model, run.data).draw(run.params, seed=0, index=np.arange(3))
    assert images.shape == (3, 4, 6) and np.isfinite(nats).all()
    moved = path.rename(tmp_path / "b.npy")
    assert training.train(replace(config, data=str(moved), resume=True, steps=3)).metrics()[-1]["step"] == 3
    assert pictures.is_images(moved)
