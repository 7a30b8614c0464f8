"""Counting models: they are probabilities, and they count what they say."""

import itertools

import numpy as np
import pytest

from rgen.data import Dataset, load
from rgen.data.counts import reference_nats

OFFSETS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))


def random_images(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (n, height, width), np.uint8)


def test_probabilities_of_all_images_sum_to_one():
    every = np.array(list(itertools.product((0, 1), repeat=9)), np.uint8).reshape(-1, 3, 3)
    data = Dataset("image", {"train": random_images(20, 3, 3) * np.eye(3, dtype=np.uint8), "test": every})
    nats = reference_nats(data, "test", range(len(every)))
    assert set(nats) == {"independent pixels", "4 known neighbours"}
    for each in nats.values():
        assert np.exp(-each).sum() == pytest.approx(1, rel=1e-12)


def test_probabilities_of_all_lines_sum_to_one():
    def rows(*lines: str) -> np.ndarray:
        return np.array([[ord(letter) for letter in line.ljust(2, "\0")] for line in lines], np.uint8)

    first, second = np.divmod(np.arange(256 * 256), 256)
    every = np.stack([first, second], axis=-1).astype(np.uint8)
    every = every[(first > 0) | (second == 0)]  # nothing but NUL follows a NUL
    data = Dataset("text", {"train": rows("a", "ab", "b", "ca", "a"), "test": every}, 256)
    nats = reference_nats(data, "test", range(len(every)))
    assert set(nats) == {"independent symbols", "previous symbol"}
    for each in nats.values():
        assert np.exp(-each).sum() == pytest.approx(1, rel=1e-9)


def test_text_nats_by_hand():
    line = np.array([[97, 0, 0, 0]], np.uint8)
    data = Dataset("text", {"train": np.repeat(line, 9, axis=0), "test": line}, 256)
    nats = reference_nats(data, "test", [0])
    one = 9.5 / (18 + 128)  # nine a and nine NUL in 18 scored steps, half a count for each of 256 bytes
    assert nats["independent symbols"][0] == pytest.approx(-2 * np.log(one))
    assert nats["previous symbol"][0] == pytest.approx(-2 * np.log((9 + 1.5 * one) / (9 + 1.5)))


def test_padding_counts_when_it_is_scored():
    line = np.array([[97, 0, 0, 0]], np.uint8)
    data = Dataset("text", {"train": np.repeat(line, 9, axis=0), "test": line}, 256, score_padding=True)
    a, nul = 9.5 / (36 + 128), 27.5 / (36 + 128)
    nats = reference_nats(data, "test", [0])
    assert nats["independent symbols"][0] == pytest.approx(-np.log(a) - 3 * np.log(nul))
    after = [(9 + 1.5 * a) / 10.5, (9 + 1.5 * nul) / 10.5, (18 + 1.5 * nul) / 19.5, (18 + 1.5 * nul) / 19.5]  # the start is no NUL
    assert nats["previous symbol"][0] == pytest.approx(-np.log(after).sum())


def slow_nats(data: Dataset, index: list[int]) -> list[float]:
    """Neighbour counts, a pixel at a time."""

    def cells(split, i):
        seqs, known = data.sequences(split, [i]), {}
        for (row, column), y in zip(seqs.x[0], seqs.y[0], strict=True):
            yield (row, column, *(known.get((row + r, column + c)) for r, c in OFFSETS)), y
            known[row, column] = y

    counts = {}
    for i in range(len(data.splits["train"])):
        for cell, y in cells("train", i):
            counts.setdefault(cell, [0.5, 0.5])[y] += 1
    pairs = {i: [(counts.get(cell, [0.5, 0.5]), y) for cell, y in cells("test", i)] for i in index}
    return [-sum(np.log(count[y] / sum(count)) for count, y in pairs[i]) for i in index]


@pytest.mark.parametrize("order", ["raster", "random"])
def test_neighbour_counts_agree_with_a_pixel_at_a_time(order):
    data = Dataset("image", {"train": random_images(60, 4, 5), "test": random_images(12, 4, 5, seed=1)}, order=order)
    index = [7, 0, 11]
    nats = reference_nats(data, "test", index)["4 known neighbours"]
    np.testing.assert_allclose(nats, slow_nats(data, index), rtol=1e-12)


def test_blocks_do_not_matter():
    data = Dataset("image", {"train": random_images(30, 3, 4), "test": random_images(2001, 3, 4, seed=1)}, order="random")
    whole, last = reference_nats(data, "test", range(2001)), reference_nats(data, "test", [2000])
    for name, nats in whole.items():
        assert nats.shape == (2001,) and nats[-1] == last[name][0]
        assert reference_nats(data, "test", [])[name].shape == (0,)


def test_on_digits_neighbours_beat_independent_pixels():
    nats = reference_nats(load("digits"), "test", range(180))
    assert 24 < nats["independent pixels"].mean() < 27  # 25.4
    assert 19 < nats["4 known neighbours"].mean() < 22  # 20.2
