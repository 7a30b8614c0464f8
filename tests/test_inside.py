"""What bin/inside.py shows."""

from typing import Any

import numpy as np
from PIL import Image
from problems import make

from rgen.commands import inside
from rgen.networks import keys_of
from rgen.sequence import Sequence
from runs import command


def test_nats_by_place_are_means_of_what_was_scored_there():
    x = np.array([[[0, 0], [0, 1], [1, 0]], [[1, 0], [0, 0], [0, 1]]])
    nats, weight = np.array([[1.0, 2.0, 4.0], [8.0, 3.0, 0.0]]), np.array([[1, 1, 1], [1, 1, 0]])
    found = inside.by_place(Sequence(x, np.zeros((2, 3)), weight), nats, (2, 2))
    np.testing.assert_array_equal(found, [[2.0, 2.0], [6.0, np.nan]])


def test_a_head_reads_what_its_keys_and_rates_say():
    loop, params, seqs = make("text-heads partly")
    found = inside.similarities(loop, params, np.arange(7))
    assert found is not None and found.shape == (2, 7, 7)
    np.testing.assert_allclose(found, found.swapaxes(1, 2), atol=1e-12)
    np.testing.assert_allclose(np.einsum("hii->hi", found).mean(1), 1)
    # what a step at place s changes of what is read at place t is in proportion to it
    fast, _ = loop.adapt(params, Sequence(seqs.x[:1, :1], seqs.y[:1, :1], np.ones((1, 1))))
    change = np.asarray(fast["heads"]["memory"]["kernel"][0] - params.init["heads"]["memory"]["kernel"])  # [H, keys, values]
    network: Any = loop.network
    read = np.einsum("htk,hkv->htv", np.asarray(keys_of(network, params.init)), change)
    np.testing.assert_allclose(read / read[:, :1], np.broadcast_to((found[:, 0] / found[:, :1, 0])[..., None], read.shape), rtol=1e-3)


def test_the_picture(trained, tmp_path):
    said = command("inside", "--run", str(trained), "--split", "valid", "--out", "picture.png", cwd=tmp_path)
    assert "picture.png" in said.stdout
    assert Image.open(tmp_path / "picture.png").size[1] > 500
