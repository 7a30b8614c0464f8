"""Folders of pictures and arrays of NumPy: read correctly, or refused with a reason."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from rgen import data, training
from rgen.data import DataError, Dataset, conditioning, pictures
from rgen.data.dataset import cut
from rgen.runs.folder import load_run
from rgen.sampling import make_sampler
from runs import TINY

GREY = np.random.default_rng(0).integers(0, 256, (30, 4, 6), np.uint8)
WHITE = (GREY >= 128).astype(np.uint8)


def draw(folder: Path, images: np.ndarray, end: str = "png", *modes: str, **options) -> Path:
    """Writes them as pictures, converted to one mode after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        for mode in modes:
            picture = picture.convert(mode)
        picture.save(folder / f"{number:03}.{end}", **options)
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
    "transparent": lambda at: draw(at / "a", COLOUR, "png", "RGBA"),
    "of 16 bits": lambda at: draw(at / "a", GREY.astype(np.uint16) * 257),
    "bitmaps": lambda at: draw(at / "a", GREY, "BMP"),
    "JPEG 2000": lambda at: draw(at / "a", GREY, "jp2"),
    "Targa": lambda at: draw(at / "a", COLOUR, "TGA"),
    "of 16 bits, big-endian": lambda at: draw(at / "a", GREY.astype(">u2") * 257, "tif"),
    "white is 0": lambda at: draw(at / "a", GREY, "tif", tiffinfo={262: 0}),
    "PGM of 16 bits": lambda at: draw(at / "a", GREY.astype(np.uint16) * 257, "pgm"),
    "floats": lambda at: draw(at / "a", (GREY / 255).astype(np.float32), "tif"),
    "a hair above 1": lambda at: one(at / "a.npy", GREY / 254.99),
    "1": lambda at: draw(at / "a", WHITE * 255, "png", "1"),
    "P": lambda at: draw(at / "a", WHITE * 255, "png", "P"),
    "LA": lambda at: draw(at / "a", GREY, "png", "LA"),
    "PA": lambda at: draw(at / "a", WHITE * 255, "tif", "P", "PA"),
    "CMYK": lambda at: draw(at / "a", WHITE * 255, "tif", "RGB", "CMYK"),
    "YCbCr": lambda at: draw(at / "a", WHITE * 255, "tif", "RGB", "YCbCr"),
    "LAB": lambda at: draw(at / "a", WHITE * 255, "tif", "RGB", "LAB"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_images_are_read_right_however_they_are_stored(case, tmp_path):
    if case == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("this Pillow cannot read the YCbCr TIFF that it writes")
    loaded = data.load(WHOLE[case](tmp_path), split_seed=3)
    assert loaded.shape == (4, 6) and "25 train, 2 valid, 3 test images of 4 by 6 pixels" in loaded.notes[0]
    for split, rows in cut(30, 0.1, 3).items():
        np.testing.assert_array_equal(loaded.splits[split], WHITE[rows])


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "F", "I;16", "I;16B"]
)
def test_black_and_white_are_so_in_every_mode_of_pillow(mode, tmp_path, monkeypatch):
    """Also in those that no format has that can be written here."""
    grey = np.repeat([[0, 255]], 3, 0).astype(np.uint8)
    by_way_of = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    picture = Image.fromarray(grey if mode != "F" else grey / np.float32(255))
    if mode.startswith("I"):
        picture = Image.frombytes(mode, (2, 3), (grey.astype(np.uint16) * 257).tobytes())
    elif mode not in ("L", "F"):
        picture = picture.convert(by_way_of).convert(mode)
    monkeypatch.setattr(Image, "open", lambda path: picture)
    np.testing.assert_array_equal(pictures.read(tmp_path / "any", paper=128)[0], grey)


def test_what_is_transparent_is_paper_in_16_bits_too(tmp_path):
    ink = np.where(WHITE == 0, 1000, 0).astype(np.uint16)
    loaded = data.load(draw(tmp_path / "a", ink, transparency=0), split_seed=3)
    np.testing.assert_array_equal(loaded.splits["test"], WHITE[cut(30, 0.1, 3)["test"]])


TURNED = {1: None, **{number + 2: Image.Transpose(way) for number, way in enumerate((0, 3, 1, 5, 2, 6, 4))}}
"""Orientation in EXIF -> what turns an upright picture so that a viewer turns it back."""


@pytest.mark.parametrize("kind", ["L", "I;16", "P"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_read_as_viewers_show_them(orientation, kind, tmp_path):
    exif, way = Image.Exif(), TURNED[orientation]
    exif[0x0112] = orientation
    picture = Image.fromarray(WHITE[0] * np.uint16(65535) if kind == "I;16" else WHITE[0] * 255)
    picture = picture if kind == "I;16" else picture.convert(kind)
    (picture if way is None else picture.transpose(way)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.png", 255)[0], WHITE[0] * 255)
    np.testing.assert_array_equal(conditioning.file(Dataset("image", {"train": WHITE}), tmp_path / "a.png").y, 1 - WHITE[0])


def test_damaged_exif_data_are_ignored(tmp_path, recwarn):
    Image.fromarray(WHITE[0] * 255).save(tmp_path / "a.png", exif=b"damaged")
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.png", 255)[0], WHITE[0] * 255)
    assert not recwarn.list


def in_classes(folder: Path, images: np.ndarray) -> Path:
    """Half in a folder, half in one inside of another."""
    draw(folder / "cat", images[::2])
    draw(folder / "dog" / "small", images[1::2])
    return folder


def test_pictures_in_subfolders_are_read_and_other_files_are_noted(tmp_path):
    at = draw(in_classes(tmp_path / "a", GREY[:20]), GREY[20:])
    rest(at)
    (at / "cat" / "photo.HEIC").write_bytes(b"any")
    (at / "cat" / "Thumbs.db").write_bytes(b"any")
    draw(at / "__MACOSX", GREY[:3])
    (at / "dog" / "above").symlink_to(at)
    (at / "linked").symlink_to(draw(tmp_path / "elsewhere", GREY[:5]))
    loaded = data.load(at)
    read = np.concatenate([GREY[20:], GREY[:20:2], GREY[1:20:2], GREY[:5]])
    for split, rows in cut(35, 0.1, 0).items():
        np.testing.assert_array_equal(loaded.splits[split], (read >= 128)[rows])
    left, inside, again = loaded.notes[1:]
    assert left.endswith("Pillow does not open them as pictures: .heic: 1, .txt: 1.")
    assert inside.startswith("Pictures are read from 3 folders inside") and again.startswith("Images that are in train too")


def test_given_splits_may_have_subfolders(tmp_path):
    at = tmp_path / "a"
    in_classes(at / "train", GREY[:20])
    in_classes(at / "test", GREY[20:])
    loaded = data.load(draw(at, GREY[:4]))
    np.testing.assert_array_equal(loaded.splits["test"], np.concatenate([WHITE[20::2], WHITE[21::2]]))
    assert "4 pictures that are not in its folders train, test" in loaded.notes[1] and "from 4 folders inside" in loaded.notes[2]


LOSSLESS: dict[str, Any] = {"webp": {"lossless": True}}


@pytest.mark.parametrize("end", ["gif", "tif", "png", "webp"])
def test_the_first_of_several_frames_is_read_and_the_others_are_noted(end, tmp_path):
    at, frames = draw(tmp_path / "a", GREY), [Image.fromarray(image * 255) for image in WHITE[1:4]]
    path = at / f"zz.{end}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **LOSSLESS.get(end, {}))
    loaded = data.load(at)
    assert loaded.notes[1] == "Further frames, pages or layers left out: 2, in 1 of the pictures."
    everything = {image.tobytes() for split in loaded.splits.values() for image in split}
    assert WHITE[1].tobytes() in everything and sum(map(len, loaded.splits.values())) == 31
    with pytest.raises(DataError, match="has 3 frames, pages or layers; save one of them"):
        conditioning.file(Dataset("image", {"train": WHITE}), path)


FOLDERS = {"Train": slice(6, 26), "validation": slice(26, 30), "test": slice(6)}
OWN = {
    "an archive": lambda at: save(at / "a.npz", train=GREY[:20], valid=GREY[20:24], test=GREY[24:]),
    "other names": lambda at: save(at / "a.npz", x_train=GREY[:20], y_train=np.arange(20), X_VAL=GREY[20:24], x_test=GREY[24:]),
    "folders": lambda at: [draw(at / "a" / name, GREY[rows]) for name, rows in FOLDERS.items()] and at / "a",
}


@pytest.mark.parametrize("case", OWN)
def test_given_splits_are_kept(case, tmp_path):
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


MIXED = {
    "bytes and proportions": (GREY[:20], GREY[20:] / 255),
    "bytes as numbers, and proportions": (GREY[:20].astype(float), GREY[20:] / 255),
    "bytes and booleans": (GREY[:20], WHITE[20:].astype(bool)),
    "ones and booleans": (WHITE[:20].astype(np.int64), WHITE[20:].astype(bool)),
}


@pytest.mark.parametrize("case", MIXED)
def test_splits_may_be_of_two_types(case, tmp_path):
    train, test = MIXED[case]
    loaded = data.load(save(tmp_path / "a.npz", train=train, valid=train, test=test))
    np.testing.assert_array_equal(loaded.splits["train"], WHITE[:20])
    np.testing.assert_array_equal(loaded.splits["test"], WHITE[20:])


def spoilt(path: Path, content: bytes = b"\x89PNG no more") -> Path:
    path.write_bytes(content)
    return path.parent if path.parent.name == "a" else path


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
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
    "black and white, or nearly black": (
        lambda at: save(at / "a.npz", train=GREY[:20], test=np.minimum(GREY[20:], 1).astype(np.int64)),
        "test has integers from 0 to 1 and train from 0 to 255, so what is white in test is not sure. Save black and white as booleans",
    ),
    "splits of two sizes": (lambda at: save(at / "a.npz", train=GREY, test=GREY[:, :2]), "images of 2 by 6 and 4 by 6 pixels"),
    "which of them": (lambda at: save(at / "a.npz", one=GREY, two=GREY), "has the arrays one, two. Which are the sequences is not clear"),
    "nothing": (lambda at: save(at / "a.npz"), "has no array"),
    "objects": (lambda at: one(at / "a.npy", np.array([{}], object)), "Object arrays cannot be loaded"),
    "words": (lambda at: one(at / "a.npy", np.array(["a"])), "has elements of the type"),
    "complex": (lambda at: one(at / "a.npy", GREY * 1j), "has elements of the type complex128"),
    "flat": (lambda at: one(at / "a.npy", GREY.reshape(30, 24) / 255), "has fractions, and symbols are integers"),
    "names that differ by case": (
        lambda at: save(at / "a.npz", Train=GREY, train=GREY, test=GREY),
        "arrays Train and train, which are the same",
    ),
    "folders that do": (
        lambda at: [draw(at / "a" / name, GREY) for name in ("Test", "test", "train")] and at / "a",
        "folders (Test and test|test and Test), which are the same split",
    ),
    "32 bits": (lambda at: draw(at / "a", GREY.astype(np.int32), "tif"), "what is white is not sure. Save it with 8 or 16 bits"),
    "16 bits, white is 0": (lambda at: draw(at / "a", GREY * np.uint16(257), "tif", tiffinfo={262: 0}), "what is white is not sure"),
    "bright floats": (
        lambda at: draw(at / "a", GREY.astype(np.float32), "tif"),
        "has numbers from .* to 2.*expected are numbers 0 to 1",
    ),
    "slightly too bright": (lambda at: one(at / "a.npy", GREY / 250), "has numbers from 0 to 1.02. Expected"),
    "a pointer": (lambda at: spoilt(draw(at / "a", GREY) / "007.png", POINTER), "it is a pointer of Git LFS .* git lfs pull"),
    "a pointer to an array": (lambda at: spoilt(at / "a.npy", POINTER), "it is a pointer of Git LFS .* git lfs pull"),
    "a page": (lambda at: spoilt(at / "a.npz", b"<!DOCTYPE html>\n<html>404"), "it is a page of HTML"),
    "a page as a picture": (lambda at: spoilt(draw(at / "a", GREY) / "007.png", b"<html>404"), "it is a page of HTML"),
    "a pickle": (lambda at: spoilt(at / "a.npy", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0"), "damaged, too large, or not NumPy's .*pickle"),
    "others only": (
        lambda at: spoilt((at / "a").mkdir() or at / "a" / "b.txt").parent,
        "holds no pictures .*not open them as pictures: .txt: 1",
    ),
    "four channels": (lambda at: one(at / "a.npy", np.zeros((9, 4, 4, 4))), r"has the shape \(9, 4, 4, 4\)"),
    "no pixels": (lambda at: one(at / "a.npy", np.zeros((9, 0, 4))), "has the shape"),
    "no images": (lambda at: one(at / "a.npy", GREY[:0]), "has the shape"),
    "too few": (lambda at: one(at / "a.npy", GREY[:2]), "none would be left to train on"),
    "NaN": (lambda at: one(at / "a.npy", np.where(GREY > 9, np.nan, 0.5)), "has numbers from nan to nan"),
    "too bright": (
        lambda at: one(at / "a.npy", GREY + 0.5),
        "has numbers from 0.5 to 255.5. Expected are bytes 0 to 255, booleans, or numbers 0 to 1",
    ),
    "negative": (lambda at: one(at / "a.npy", GREY.astype(int) - 1), "has numbers from -1 to"),
    "too large": (lambda at: one(at / "a.npy", GREY.astype(int) * 9), "has numbers from 0 to 2"),
    "damaged": (lambda at: spoilt(at / "a.npy", b"\x93NUMPY\1\0nothing"), "cannot be read: it is damaged, too large, or not NumPy's"),
    "empty": (lambda at: spoilt(at / "a.npz", b""), "cannot be read: it is damaged, too large, or not NumPy's"),
    "text": (lambda at: spoilt(at / "a.npy", b"alpha\nbeta\n"), "cannot be read"),
    "a folder of that name": (lambda at: (at / "a.npy").mkdir() or at / "a.npy", "holds no pictures"),
    "not there": (lambda at: at / "no.npy", "is neither a data set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_says_why(case, tmp_path):
    path, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence):
        data.load(path(tmp_path))


@pytest.mark.parametrize("limit", [10, 20])
def test_pictures_that_are_too_large_say_so(limit, tmp_path, monkeypatch):
    """Pillow warns from its limit on, and refuses from twice that on."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"000.png' is too large: it has 24 pixels.* Make it smaller"):
        data.load(draw(tmp_path / "a", GREY))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_load_or_are_refused(tmp_path_factory, drawn):
    """Arrays and pictures, cut and changed anywhere, or in the header of an array by what stands in headers."""
    end, write = drawn.draw(
        st.sampled_from((("npy", np.save), ("npz", np.savez), ("npz", np.savez_compressed), ("png", None), ("tif", None)))
    )
    content = io.BytesIO()
    write(content, GREY[:9]) if write else Image.fromarray(GREY[0]).save(content, {"png": "PNG", "tif": "TIFF"}[end])
    whole = bytearray(content.getvalue())
    values = st.sampled_from(b"0123456789(){}[]',:<>| abefFTuO-+*\\\n") | st.integers(0, 255)
    for _ in range(drawn.draw(st.integers(0, 3))):
        whole[drawn.draw(st.integers(0, min(127, len(whole) - 1)) | st.integers(0, len(whole) - 1))] = drawn.draw(values)
    folder = tmp_path_factory.mktemp("any")
    path = folder / f"a.{end}"
    path.write_bytes(whole[: drawn.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    try:
        if write:
            data.load(path)
        else:
            pictures.read(path, 255)
    except DataError as error:
        assert str(path) in str(error) or "train on" in str(error)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_images_with_a_side_of_1(shape, tmp_path):
    images = (np.arange(30 * shape[0] * shape[1]).reshape(30, *shape) % 7).astype(np.uint8) * 42
    for path in (one(tmp_path / "a.npy", images), one(tmp_path / "b.npy", images[..., None]), draw(tmp_path / "c", images)):
        loaded = data.load(path)
        assert loaded.shape == shape
        np.testing.assert_array_equal(loaded.splits["train"], images[cut(30, 0.1, 0)["train"]] >= 128)
    with pytest.raises(DataError, match=r"cannot be reduced by 2; factors that fit are 1\."):
        data.load(path, reduce=2)


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
        assert loaded.batch(0, 0, 2).y.max() < loaded.symbols
        assert loaded.shape == (shape[1:3] if loaded.kind == "image" else shape[1:])


def test_rectangular_images_are_reduced_by_what_divides_both_sides(tmp_path):
    path = one(tmp_path / "a.npy", GREY)
    expected = GREY.reshape(30, 2, 2, 3, 2).mean((2, 4)) >= 127.5
    np.testing.assert_array_equal(data.load(path, reduce=2).splits["test"], expected[cut(30, 0.1, 0)["test"]])
    with pytest.raises(DataError, match="Images of 4 by 6 pixels cannot be reduced by 3; factors that fit are 1, 2"):
        data.load(path, reduce=3)


def test_a_run_of_them_trains_and_draws(tmp_path):
    config = replace(TINY, data=str(one(tmp_path / "a.npy", GREY)), reduce=1, run=tmp_path / "run", steps=2)
    training.train(config)
    run = load_run(tmp_path / "run")
    images, nats = make_sampler(run.model, run.data).draw(run.params, seed=0, index=np.arange(3))
    assert images.shape == (3, 4, 6) and np.isfinite(nats).all()
