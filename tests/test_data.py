"""Data sets: what is loaded, cut and batched, and what is refused."""

import bz2
import codecs
import gzip
import hashlib
import http.server
import io
import lzma
import os
import pickle
import re
import struct
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from rgen import data
from rgen.choices import ORDERS, SPLITS
from rgen.data import DataError, archive, images, mnist, text
from rgen.data.dataset import SURE, cut, draw
from rgen.errors import InputError

LINES = [b"alpha", b"beta", b"a line longer than the others", b"gamma", b"delta", b"epsilon", b"zeta", b"eta", b"theta", b"iota"]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def all_lines(loaded: data.Dataset) -> list[bytes]:
    return [line for split in SPLITS for line in loaded.decode(None, loaded.splits[split])]


# Text


def test_lines_come_back_and_are_cut_to_end_with_a_nul(tmp_path):
    loaded = data.load(write(tmp_path / "lines", b"\n".join(LINES)), max_length=8)
    assert sorted(all_lines(loaded)) == sorted(line[:7] for line in LINES)
    assert loaded.shape == (8,) and loaded.length == 8 and loaded.kind == "text" and loaded.symbols == 256
    assert any(note.startswith("Lines cut to 7 bytes") and "1 of 10" in note for note in loaded.notes)


def test_a_line_of_exactly_the_longest_usable_length_is_not_cut(tmp_path):
    loaded = data.load(write(tmp_path / "lines", b"1234567\nb\nc\n"), max_length=8)
    assert b"1234567" in all_lines(loaded) and len(loaded.notes) == 1


def test_windows_line_ends_empty_lines_and_nuls(tmp_path):
    loaded = data.load(write(tmp_path / "lines", b"one\r\n\r\ntwo\0rest\r\n\0\r\n\nthree\r\n"))
    assert sorted(all_lines(loaded)) == [b"one", b"three", b"two"]
    assert "Empty lines dropped: 3." in loaded.notes
    assert any("NUL" in note and note.endswith(" 2.") for note in loaded.notes)


WORDS = ["größe", "naïve\tAda", "Łódź", "zoë", "emil"]
TEXT = "\n".join(WORDS)
ENCODED = {
    "as it is": TEXT.encode(),
    "with a last end": TEXT.encode() + b"\n",
    "Windows": TEXT.replace("\n", "\r\n").encode(),
    "CR only": TEXT.replace("\n", "\r").encode(),
    "CR only, with a last end": TEXT.replace("\n", "\r").encode() + b"\r",
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    **{name: TEXT.encode(name) for name in ("utf-16", "utf-32")},
    "UTF-16-BE with a mark": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "UTF-32-BE with a mark, Windows": codecs.BOM_UTF32_BE + TEXT.replace("\n", "\r\n").encode("utf-32-be"),
    "gzip": gzip.compress(TEXT.encode()),
    "xz of UTF-16": lzma.compress(TEXT.encode("utf-16")),
    "bzip2": bz2.compress(TEXT.encode()),
    "bzip2, level 1": bz2.compress(TEXT.encode(), 1),
}


@pytest.mark.parametrize("case", ENCODED)
def test_text_is_read_right_however_it_is_stored(case, tmp_path):
    loaded = data.load(write(tmp_path / "words", ENCODED[case]), max_length=20)
    assert sorted(all_lines(loaded)) == sorted(word.encode() for word in WORDS)


def test_text_that_begins_as_a_compressed_file_does_is_text(tmp_path):
    loaded = data.load(write(tmp_path / "words", b"BZh\nBZh9\nPK\n" + b"LZIP\n"))
    assert sorted(all_lines(loaded)) == [b"BZh", b"BZh9", b"LZIP", b"PK"]


def tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        file.addfile(tarfile.TarInfo("empty.txt"))
    return whole.getvalue()


def picture(kind: str) -> bytes:
    whole = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(whole, kind)
    return whole.getvalue()


NOT_READ = {
    "Zstandard": (b"\x28\xb5\x2f\xfd" + TEXT.encode(), "is an archive, or compressed: unpack it first"),
    "ZIP": (b"PK\x03\x04" + TEXT.encode(), "is an archive"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + TEXT.encode(), "is an image"),
    "gzip of a PDF": (gzip.compress(b"%PDF-1.7\n" + TEXT.encode()), "is a PDF"),
    "cut gzip": (gzip.compress(TEXT.encode())[:-9], "compressed by gzip and damaged"),
    "cut xz": (lzma.compress(TEXT.encode())[:-9], "compressed by xz and damaged"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS .* git lfs pull"),
    "tar.gz": (gzip.compress(tar()), "is an archive"),
    **{kind: (picture(kind), "is an image") for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP")},
    "MNIST": (bytes((0, 0, 8, 3, 0, 0, 0, 9)) + bytes(range(256)), "an IDX file: .* --data-dir"),
    "SQLite": (b"SQLite format 3\0" + bytes(99), "no text"),
    "pickle": (pickle.dumps(WORDS), "no text"),
    "Python itself": (Path(sys.executable).read_bytes()[:9999], "no text"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "no text.* in UTF-8"),
    "random": (np.random.default_rng(0).bytes(5000), r"no text, since \d+% of its bytes are control characters"),
    "numbers": (np.arange(5000).astype(np.int16).tobytes(), "no text"),
    "odd UTF-16": (TEXT.encode("utf-16") + b"a", "looks like utf-16 and is not"),
}


@pytest.mark.parametrize("case", NOT_READ)
def test_text_that_is_not_read_says_why(case, tmp_path):
    content, sentence = NOT_READ[case]
    with pytest.raises(DataError, match=sentence):
        data.load(write(tmp_path / "words", content))


@pytest.mark.parametrize("separator", [b"\x01", b"\t", b"\x1b[0m", b"\x7f"])
def test_text_with_a_few_control_characters_is_text(tmp_path, separator):
    lines = [separator.join(word.encode() for word in WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))]
    assert sorted(all_lines(data.load(write(tmp_path / "words", b"\n".join(lines))))) == sorted(lines)
    old = write(tmp_path / "old", "\n".join(WORDS).encode("iso8859-2", "replace"))
    assert len(data.load(old).notes) == 1


def test_a_page_of_html_is_read_with_a_note(tmp_path):
    loaded = data.load(write(tmp_path / "names.txt", b"<!DOCTYPE HTML>\n<html>\n<p>404 Not found</p>\n"))
    assert "names.txt' begins as a page of HTML" in loaded.notes[0]


@settings(max_examples=200)
@given(st.text(max_size=9).map(str.encode), st.integers(4, 9))
def test_lines_are_cut_before_a_character_that_does_not_fit(line, most):
    short = text.shortened(line, most)
    assert line.decode().startswith(short.decode()) and len(short) <= most
    assert short == line or len(short) + len(line.decode()[len(short.decode())].encode()) > most


@given(st.binary(max_size=9), st.integers(1, 9))
def test_any_bytes_are_cut_to_what_fits(line, most):
    short = text.shortened(line, most)
    assert (line.startswith(short) and min(len(line), max(1, most - 3)) <= len(short) <= most) or not line


@pytest.mark.parametrize("score_padding", [False, True])
def test_text_weight_ends_with_the_first_nul(tmp_path, score_padding):
    loaded = data.load(write(tmp_path / "lines", b"ab\nab\nab\n"), max_length=5, score_padding=score_padding)
    x, y, weight = loaded.sequences("test", [0])
    np.testing.assert_array_equal(x, [[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(y, [[97, 98, 0, 0, 0]])
    np.testing.assert_array_equal(weight, [[1, 1, 1, 1, 1] if score_padding else [1, 1, 1, 0, 0]])
    assert (x.dtype, y.dtype, weight.dtype) == (np.int32, np.int32, np.float32)


def test_text_splits_share_no_line_and_follow_the_seed(tmp_path):
    path = write(tmp_path / "lines", b"\n".join(b"%d" % i for i in range(100)))
    one, same, other = (data.load(path, split_seed=seed, held_out=0.2) for seed in (1, 1, 2))
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 70, "valid": 10, "test": 20}
    assert len(set(all_lines(one))) == 100
    assert all_lines(one) == all_lines(same) != all_lines(other)
    assert "70 train, 10 valid, 20 test" in one.notes[0] and "split seed 1" in one.notes[0]


def test_listing_looks_like_ls():
    loaded = data.load("listing")
    lines = all_lines(loaded)
    assert len(lines) > 300
    pattern = re.compile(rb"[-l][-rwxsStT]{9} \d+ root root +\d+ (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 1-3]\d  \d{4} \S.*")
    assert all(pattern.fullmatch(line) and b"/" not in line for line in lines)
    assert any(line.endswith(b" argparse.py") for line in lines)
    assert all_lines(data.load("listing")) == lines


def test_a_listed_file_word_for_word(tmp_path):
    path = write(tmp_path / "name with space.py", b"x" * 51384)
    path.chmod(0o755)
    os.utime(path, (1516233600, 1516233600))
    (tmp_path / "site-packages").mkdir()
    write(tmp_path / "site-packages" / "other.py", b"")
    assert text.list_files(str(tmp_path)) == [b"-rwxr-xr-x 1 root root       51384 Jan 18  2018 name with space.py"]


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200) | st.lists(st.binary(max_size=12) | st.text(max_size=9).map(str.encode), max_size=30).map(b"\n".join),
    max_length=st.integers(2, 12),
)
def test_any_bytes_load_or_are_refused(tmp_path_factory, content, max_length):
    path = write(tmp_path_factory.getbasetemp() / "fuzz", content)
    try:
        loaded = data.load(path, max_length=max_length)
    except DataError as error:
        assert "fuzz" in str(error)
        return
    if content.startswith(tuple(text.MARKS)):
        return
    end = b"\n" if b"\n" in content else b"\r"
    lines = [line.removesuffix(b"\r") if end == b"\n" else line for line in content.split(end)]
    expected = [text.shortened(line.split(b"\0")[0], max_length - 1) for line in lines]
    assert sorted(all_lines(loaded)) == sorted(line for line in expected if line)
    weights = [loaded.sequences(split, range(len(rows))).weight.sum() for split, rows in loaded.splits.items()]
    assert sum(weights) == sum(len(line) + 1 for line in all_lines(loaded))


# Repeated sequences


def test_repeated_lines_are_noted_or_dropped(tmp_path):
    path = write(tmp_path / "lines", b"\n".join(b"line %d" % (number % 60) for number in range(100)))
    loaded, without = data.load(path, held_out=0.2), data.load(path, held_out=0.2, deduplicate=True)
    train = set(loaded.decode(None, loaded.splits["train"]))
    valid, test = (sum(line in train for line in loaded.decode(None, loaded.splits[split])) for split in ("valid", "test"))
    assert loaded.notes[1:] == (
        f"Lines that are in train too: {valid} of 10 valid and {test} of 20 test; --deduplicate drops repeated ones.",
    )
    assert sorted(all_lines(without)) == sorted(b"line %d" % number for number in range(60))
    assert "42 train, 6 valid, 12 test" in without.notes[0] and without.notes[1:] == ("Lines dropped, since they are repeated: 40.",)
    cut_same = data.load(write(tmp_path / "long", b"same1\nsame2\nsame3\nother\nthird\n"), max_length=5, deduplicate=True)
    assert sorted(all_lines(cut_same)) == [b"othe", b"same", b"thir"]


def test_of_given_splits_only_train_loses_repeated_images(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (30, 4, 6), np.uint8)
    lighter = np.where(grey >= 128, 200, grey)  # the same in black and white
    np.savez(tmp_path / "a.npz", train=np.concatenate([grey[:20], lighter[:3], lighter[18:]]), valid=grey[20:24], test=grey[24:])
    loaded, without = data.load(tmp_path / "a.npz"), data.load(tmp_path / "a.npz", deduplicate=True)
    assert loaded.notes[1].startswith("Images that are in train too: 4 of 4 valid and 6 of 6 test;")
    np.testing.assert_array_equal(without.splits["train"], grey[:20] >= 128)
    assert without.notes[1:] == ("Images dropped, since they are repeated: 15.",)
    assert len(data.load(tmp_path / "a.npz", binarize="dynamic").notes) == 1  # drawn from other greys
    np.savez(tmp_path / "b.npz", train=np.tile(grey[:20], (2, 1, 1)), test=grey[:6])
    valid = data.load(tmp_path / "b.npz", deduplicate=True)
    assert [len(valid.splits[split]) for split in SPLITS] == [13, 1, 6] and len(valid.notes) == 2
    np.savez(tmp_path / "c.npz", train=grey[:6], test=grey[:6])
    with pytest.raises(DataError, match="With --deduplicate nothing is left of train"):
        data.load(tmp_path / "c.npz", deduplicate=True)


# Images


def test_digits():
    loaded = data.load("digits")
    assert {name: split.shape for name, split in loaded.splits.items()} == {"train": (1527, 8, 8), "valid": (90, 8, 8), "test": (180, 8, 8)}
    assert loaded.kind == "image" and loaded.length == 64 and loaded.symbols == 2
    assert set(np.unique(loaded.splits["test"])) == {0, 1}
    assert data.load("digits", reduce=2).shape == (4, 4)
    assert len({image.tobytes() for split in loaded.splits.values() for image in split}) > 1700  # nearly all differ: no overlap


@pytest.mark.parametrize("order", ORDERS)
def test_images_come_back_from_their_pixels_in_any_order(order):
    loaded = data.load("digits", order=order)
    x, y, weight = loaded.sequences("valid", range(90))
    np.testing.assert_array_equal(loaded.decode(x, y), loaded.splits["valid"])
    rows = 1 if order == "raster" else 90  # one stands for all
    assert (x.shape, x.dtype, y.dtype, weight.dtype) == ((rows, 64, 2), np.int32, np.int32, np.float32)
    assert weight.min() == 1
    raster = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=-1)
    assert np.array_equal(x[0], raster) == (order == "raster")


@pytest.mark.parametrize(
    ("name", "options"), [("digits", {"order": "raster"}), ("digits", {"order": "random"}), ("listing", {"max_length": 16})]
)
def test_no_place_comes_twice_in_a_sequence(name, options):
    """What models by name promise of their data."""
    loaded = data.load(name, **options)
    for places in loaded.sequences("train", [0, 1, 2]).x:
        assert len(np.unique(places, axis=0)) == loaded.length


def test_random_orders_are_fixed_by_split_seed_split_and_image():
    loaded = data.load("digits", order="random")
    together, alone = loaded.sequences("test", [3, 5, 8]).x, loaded.sequences("test", [5]).x
    np.testing.assert_array_equal(together[1], alone[0])
    different = [together[0], together[1], loaded.sequences("valid", [5]).x[0]]
    different.append(data.load("digits", order="random", split_seed=1).sequences("test", [5]).x[0])
    assert len({order.tobytes() for order in different}) == 4
    drawn = [loaded.sequences("test", [5], np.random.default_rng(seed)).x for seed in (0, 1)]
    assert len({order.tobytes() for order in (*drawn, alone)}) == 3


@pytest.mark.parametrize("options", [{"name": "digits", "order": "random"}, {"name": "digits"}, {"name": "listing"}])
def test_batches_are_a_function_of_seed_and_step(options):
    one, other = data.load(**options), data.load(**options)
    other.batch(7, 0, 3)
    for mine, again in zip(one.batch(7, 1, 16), other.batch(7, 1, 16), strict=True):
        np.testing.assert_array_equal(mine, again)
    ys = [one.batch(seed, step, 16).y.tobytes() for seed, step in ((7, 1), (7, 2), (8, 1))]
    assert len(set(ys)) == 3


def test_batches_come_from_train_only():
    loaded = data.load("digits", order="random")
    batch = loaded.batch(0, 0, 200)
    train = {image.tobytes() for image in loaded.splits["train"]}
    assert {image.tobytes() for image in loaded.decode(batch.x, batch.y)} <= train


def black_and_white(grey, white: int, reduce: int) -> np.ndarray:
    return images.in_levels(images.chances(np.array(grey, np.uint8), white, reduce), 2)


def test_threshold_is_half_of_white_inclusive_and_comes_after_the_block_means():
    np.testing.assert_array_equal(black_and_white([[[127, 128], [0, 255]]], 255, 1), [[[0, 1], [0, 1]]])
    np.testing.assert_array_equal(black_and_white([[[7, 8], [0, 16]]], 16, 1), [[[0, 1], [0, 1]]])
    quarters = [[[255, 255, 127, 0], [0, 0, 255, 127], [255, 127, 100, 100], [0, 128, 100, 100]]]
    np.testing.assert_array_equal(black_and_white(quarters, 255, 2), [[[1, 0], [1, 0]]])  # sums 510, 509, 510, 400 of 1020


def test_by_chance_a_pixel_is_white_as_often_as_it_is_grey():
    grey = np.tile(np.array([0, 1, 64, 128, 254, 255], np.uint8)[:, None, None], (1, 150, 150))
    likely = images.chances(grey, 255, 1)
    np.testing.assert_array_equal(likely, grey.astype(int) * 257)
    drawn = draw(likely, np.random.default_rng(0)).mean((1, 2))
    assert drawn[0] == 0 and drawn[-1] == 1
    np.testing.assert_allclose(drawn, grey[:, 0, 0] / 255, atol=0.013)  # four standard errors
    assert draw(np.full((10, 10_000), SURE, np.uint16), np.random.default_rng(0)).all()


def test_static_pixels_are_drawn_once_and_dynamic_ones_anew_for_training_only(tmp_path):
    threshold, static, dynamic = (data.load("digits", binarize=how) for how in ("threshold", "static", "dynamic"))
    for split, pixels in static.splits.items():
        np.testing.assert_array_equal(pixels, data.load("digits", binarize="static").splits[split])
        np.testing.assert_array_equal(pixels, dynamic.splits[split])
        assert 0.05 < (pixels != threshold.splits[split]).mean() < 0.25
    other = data.load("digits", binarize="static", split_seed=1)
    assert other.splits["test"].mean() == pytest.approx(static.splits["test"].mean(), abs=0.02)
    batches = [dynamic.batch(0, step, 64).y for step in (0, 0, 1)]
    np.testing.assert_array_equal(batches[0], batches[1])  # a function of seed and step
    index = np.zeros(64, int)
    anew = [dynamic.sequences("train", index, np.random.default_rng(seed)).y for seed in (0, 1)]
    assert (anew[0] != anew[1]).any() and len({row.tobytes() for row in anew[0]}) == 64
    expected = load_digits(return_X_y=True)[0][cut(1797, 0.1, 0)["train"][0]] / 16
    np.testing.assert_allclose(np.concatenate(anew).mean(0), expected, atol=0.2)
    np.testing.assert_array_equal(dynamic.sequences("train", [0]).y[0], static.splits["train"][0].reshape(-1))
    (tmp_path / "data.npz").write_bytes(archive.to_npz(dynamic))
    again = archive.from_npz(tmp_path / "data.npz")
    np.testing.assert_array_equal(again.batch(3, 4, 8).y, dynamic.batch(3, 4, 8).y)
    (tmp_path / "data.npz").write_bytes(archive.to_npz(static))
    np.testing.assert_array_equal(archive.from_npz(tmp_path / "data.npz").batch(3, 4, 8).y, static.batch(3, 4, 8).y)


# MNIST, from files of a few images each


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def digits(array: np.ndarray) -> bytes:
    return b"\n".join(b" ".join(b"%d" % pixel for pixel in image.flat) for image in array) + b"\n"


IMAGES = {split: np.random.default_rng(n).integers(0, 256, (n, 28, 28), np.uint8) for split, n in {"train": 25, "test": 10}.items()}
BINARIZED = {
    split: np.random.default_rng(n).integers(0, 2, (n, 28, 28), np.uint8) for split, n in {"train": 6, "valid": 2, "test": 3}.items()
}
PATHS = mnist.PUBLISHED["mnist"].files


def sums(contents: dict[str, bytes]) -> dict[str, str]:
    return {split: hashlib.sha256(content).hexdigest() for split, content in contents.items()}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with files of a few images, whose checksums are taken for the published ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "VALID", 5)
    folder = tmp_path / "files"
    folder.mkdir()
    binarized = {split: digits(array) for split, array in BINARIZED.items()}
    of = {"mnist": sums({split: array.tobytes() for split, array in IMAGES.items()}), "binarized-mnist": sums(binarized)}
    for name, published in mnist.PUBLISHED.items():
        monkeypatch.setitem(mnist.PUBLISHED, name, published._replace(sums=of[name]))
    for split, array in IMAGES.items():
        write(folder / PATHS[split], gzip.compress(idx(array)))
    for split, content in binarized.items():
        write(folder / f"binarized_mnist_{split}.amat", content)
    return folder


def test_mnist_from_files(files):
    loaded = data.load("mnist", data_dir=files)
    white = {split: array >= 128 for split, array in IMAGES.items()}
    for split, expected in {"train": white["train"][:20], "valid": white["train"][20:], "test": white["test"]}.items():
        np.testing.assert_array_equal(loaded.splits[split], expected)
    assert loaded.shape == (28, 28) and "20 train, 5 valid, 10 test" in loaded.notes[0]
    assert data.load("mnist", data_dir=files, reduce=4).shape == (7, 7)


def test_binarized_mnist_has_its_own_three_splits(files):
    loaded = data.load("binarized-mnist", data_dir=files)
    for split, expected in BINARIZED.items():
        np.testing.assert_array_equal(loaded.splits[split], expected)


KEPT = {
    "unpacked": lambda split: (PATHS[split][:-3], idx(IMAGES[split])),
    "with a dot": lambda split: (PATHS[split][:-3].replace("-idx", ".idx"), idx(IMAGES[split])),
    "torchvision": lambda split: (f"MNIST/raw/{PATHS[split][:-3]}", idx(IMAGES[split])),
    "train and test exchanged": lambda split: (PATHS["test" if split == "train" else "train"], idx(IMAGES[split])),
}


@pytest.mark.parametrize("case", KEPT)
def test_mnist_is_known_by_its_contents(case, files, tmp_path):
    for split in IMAGES:
        path, content = KEPT[case](split)
        (tmp_path / "other" / path).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "other" / path, content)
    found = mnist.load("mnist", tmp_path / "other", download=False)
    for split, array in IMAGES.items():
        np.testing.assert_array_equal(found[split], array)


@pytest.mark.parametrize("inside", [True, False])
def test_mnist_as_keras_has_it(inside, files, tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=IMAGES["train"], y_train=np.arange(25), x_test=IMAGES["test"])
    assert len(data.load("mnist", data_dir=tmp_path if inside else tmp_path / "mnist.npz").splits["test"]) == 10


def test_data_that_are_not_there_say_how_to_get_them(files):
    with pytest.raises(DataError, match=r"--download.*--data-dir.*train-images-idx3-ubyte\.gz.*t10k-images-idx3-ubyte\.gz.*mnist\.npz"):
        data.load("mnist")
    with pytest.raises(DataError, match=r"--download.*--data-dir.*binarized_mnist_train\.amat"):
        data.load("binarized-mnist")


@pytest.fixture
def server(files, monkeypatch):
    """The published files at an address of this machine; a list of what was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            if self.command == "GET":
                asked.append(self.path.lstrip("/"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(files))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        here = {name: what._replace(url=f"http://127.0.0.1:{serving.server_port}/") for name, what in mnist.PUBLISHED.items()}
        monkeypatch.setattr(mnist, "PUBLISHED", here)
        yield asked
        serving.shutdown()


@pytest.mark.parametrize(("name", "damaged"), [("mnist", "t10k-images-idx3-ubyte.gz"), ("binarized-mnist", "binarized_mnist_valid.amat")])
def test_data_are_downloaded_once_when_asked_and_checked(name, damaged, files, server, tmp_path, capfd):
    whole = (files / damaged).read_bytes()
    write(files / damaged, whole[:-1])
    with pytest.raises(DataError, match=f"{damaged}' (cannot be unpacked|is not of)"):
        data.load(name, download=True)
    assert not list(tmp_path.glob(f"cache/**/{damaged}"))
    write(files / damaged, whole)
    server.clear()
    loaded = data.load(name, download=True)
    assert sorted(server) == sorted(mnist.PUBLISHED[name].files.values())
    assert data.load(name).fingerprint() == loaded.fingerprint() and len(server) == len(mnist.PUBLISHED[name].files)
    printed = capfd.readouterr()
    assert printed.out == "" and f"Downloading {name} once" in printed.err  # a program's own output must stay clean


def test_no_network_is_a_sentence(files, monkeypatch):
    nowhere = mnist.PUBLISHED["mnist"]._replace(url="http://127.0.0.1:9/")
    monkeypatch.setattr(mnist, "PUBLISHED", mnist.PUBLISHED | {"mnist": nowhere})
    with pytest.raises(DataError, match=r"mnist cannot be downloaded from .*refused"):
        data.load("mnist", download=True)


def test_what_tensorflow_datasets_has_prepared_is_read(files, tmp_path, monkeypatch, capsys):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Fake28(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path = tmp_path  # not a package

        def _info(self):
            image = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="bytes")
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image}))

        def _split_generators(self, dl_manager):
            return {split: ((i, {"image": image[..., None]}) for i, image in enumerate(IMAGES[split])) for split in ("train", "test")}

        def _generate_examples(self):
            raise AssertionError

    prepared = tmp_path / "prepared"
    Fake28(data_dir=prepared).download_and_prepare(file_format="array_record")
    (prepared / "fake28").rename(prepared / "mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    found = mnist.load("mnist", None, download=False)
    assert sorted(map(bytes, found["test"])) == sorted(map(bytes, IMAGES["test"].astype(np.uint8)))
    assert "in the order in which tensorflow-datasets" in capsys.readouterr().err
    next(prepared.glob("mnist/*/*test*")).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"cannot be read .*delete this folder"):
        mnist.load("mnist", None, download=False)


TRAIN = PATHS["train"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
REFUSED = {
    "no folder": (lambda folder: folder / "nowhere", "nowhere' does not exist; give the folder with the files"),
    "empty": (lambda folder: made(folder / "none"), "The train and test images of mnist are not in"),
    "cut short": (
        lambda folder: written(folder / TRAIN, (folder / TRAIN).read_bytes()[:99]),
        f"The train images .*{TRAIN}' cannot be unpacked",
    ),
    "another data set": (
        lambda folder: written(folder / TRAIN, idx(np.zeros((25, 28, 28), np.uint8))),
        f"{TRAIN}' is not of mnist, .* SHA-256 checksum: .* another data set such as Fashion-MNIST, whose images --data takes",
    ),
    "a folder of that name": (lambda folder: made(removed(folder / TRAIN) / TRAIN).parent, "The train images of mnist are not in"),
    "a pointer": (lambda folder: written(folder / TRAIN, POINTER), f"{TRAIN}' is a pointer of Git LFS .* git lfs pull"),
    "a page": (lambda folder: written(folder / TRAIN, b"<html><body>403</body></html>"), f"{TRAIN}' is a page of HTML"),
    "a pointer to Keras'": (lambda folder: written(folder / "mnist.npz", POINTER) / "mnist.npz", "a pointer of Git LFS"),
    "another file": (lambda folder: folder / TRAIN, "The test images of mnist are not in"),
}


def written(path: Path, content: bytes) -> Path:
    write(path, content)
    return path.parent


def removed(path: Path) -> Path:
    path.unlink()
    return path.parent


def made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_mnist_that_is_something_else_says_so(case, files):
    change, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence):
        data.load("mnist", data_dir=change(files))


# What is refused, in a sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digit"}, "'digit' is neither.*Did you mean digits"),
        ({"name": "no/such/file.txt"}, "no/such/file.txt.*file or folder"),
        ({"name": ""}, "neither"),
        ({"name": "a\0b"}, "neither"),
        ({"name": "digits", "order": "spiral"}, "order is 'spiral'.*raster, random"),
        ({"name": "digits", "binarize": "dither"}, "binarize is 'dither'.*threshold, static, dynamic"),
        ({"name": "binarized-mnist", "binarize": "static"}, "has no grey.*static"),
        ({"name": "digits", "reduce": 3}, "8 by 8.*reduced by 3.*1, 2, 4"),
        ({"name": "digits", "reduce": 8}, "reduced by 8"),
        ({"name": "digits", "reduce": 0}, "reduced by 0"),
        ({"name": "digits", "held_out": 0.0}, "between 0 and 1"),
        ({"name": "digits", "held_out": 0.9}, "none would be left"),
        ({"name": "digits", "held_out": float("nan")}, "between 0 and 1"),
        ({"name": "digits", "split_seed": -1}, "negative"),
        ({"name": "listing", "max_length": 1}, "at least 2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        data.load(**options)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\n\r\n\0\n", "no line"), (b"one", r"too few.*\(1\)"), (b"one\ntwo\n", r"too few.*\(2\).*at least 3")],
)
def test_text_files_without_enough_lines(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        data.load(write(tmp_path / "lines", content))


def test_text_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="folder"):
        data.load(tmp_path)
    (tmp_path / "pictures").mkdir()
    for pipe in (tmp_path / "pipe", tmp_path / "pipe.npy", tmp_path / "pictures" / "pipe.png"):
        os.mkfifo(pipe)
        with pytest.raises(DataError, match=r"pipe.* cannot be read: it is not a regular file"):
            data.load(pipe if pipe.suffix != ".png" else pipe.parent)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        data.load(tmp_path / "dangling")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(text, "open", refuse, raising=False)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        data.load(write(tmp_path / "lines", b"a\nb\nc\n"))


def test_bad_indices():
    loaded = data.load("digits")
    with pytest.raises(DataError, match="train, valid, test"):
        loaded.sequences("dev", [0])
    for index in (-1, 180):
        with pytest.raises(IndexError, match="0 to 179"):
            loaded.sequences("test", [index])
    none = loaded.sequences("test", [])
    assert (none.x.shape, none.y.shape) == ((1, 64, 2), (0, 64))
