"""Grids of any shape and number of symbols: what they are read from, that models are exact on them, how they are shown."""

import dataclasses
import itertools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export as jax_export
from made_up import Ising, colours
from PIL import Image

from rgen import data, meta, models, networks, scoring
from rgen.config import PRESETS, TrainConfig
from rgen.config.train import from_json, to_json
from rgen.data import Dataset, archive, conditioning, counts
from rgen.fast import Direct
from rgen.host import plots
from rgen.likelihood import Ordered
from rgen.sampling import complete, film, look, make_sampler
from rgen.sequence import Given, Sequence
from runs import ROOT

TINY: dict[str, Any] = {"width": 4, "depth": 1, "heads": 2, "keys": 4, "features": 2}


def grid_model(shape: tuple[int, ...], symbols: int, **options: Any) -> Any:
    config = TrainConfig(**TINY, inner_rate=0.1, inner_loss="memory", fast=("heads/memory",), rates="rank-one", **options)
    return models.configured(config, shape, symbols)


def disturbed(model: Any, shape: tuple[int, ...], scale: float = 0.5) -> Any:
    """Parameters in float64, none of which is where it is initialized."""
    x = np.zeros(() if len(shape) == 1 else len(shape), np.int32)
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0), x))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(a, float) + scale * rng.standard_normal(a.shape) for a in leaves])


def places(shape: tuple[int, ...]) -> np.ndarray:
    found = np.argwhere(np.ones(shape))
    return (found[:, 0] if len(shape) == 1 else found).astype(np.int32)


# ---------------------------------------------------------------- models


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from([2, 3, 7, 256]), st.booleans())
@settings(max_examples=5, derandomize=True, suppress_health_check=(HealthCheck.too_slow,))
def test_forms_drawing_and_completing_agree_on_any_grid(sizes, symbols, ordered):
    """The dual form is the direct one; what is drawn has the nats that scoring gives it; what is known is fed and paid the same."""
    shape = (*sizes, 2)  # at least two places
    model = grid_model(shape[-4:], symbols, likelihood="ordered" if ordered and symbols > 2 else None)
    params, x = disturbed(model, shape[-4:]), places(shape[-4:])[None]
    rng = np.random.default_rng(1)
    y = rng.integers(symbols, size=(3, x.shape[1])).astype(np.int32)
    seqs = Sequence(x, y, np.ones(y.shape))
    direct = dataclasses.replace(model, form=Direct())
    nats, gradient = jax.jit(meta.maml, static_argnums=0)(model, params, seqs)
    others, by_definition = jax.jit(meta.maml, static_argnums=0)(direct, params, seqs)
    np.testing.assert_allclose(nats, others, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), gradient, by_definition)
    keys = jax.random.split(jax.random.key(2), 3)
    known = Given(y, np.broadcast_to(np.arange(y.shape[1]) < 1, y.shape))
    drawn = complete(model, params, x, known, keys)
    assert (drawn.y[:, 0] == y[:, 0]).all() and int(drawn.y.max()) < symbols
    np.testing.assert_allclose(scoring.score(model, params, seqs._replace(y=drawn.y)), drawn.nll, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", [None, "ordered"])
def test_all_colour_pictures_of_one_pixel_have_the_probability_one(likelihood):
    shape, symbols = (1, 2, 3), 3
    model = grid_model(shape, symbols, likelihood=likelihood)
    every = np.array(list(itertools.product(range(symbols), repeat=6)), np.int32)
    seqs = Sequence(places(shape)[None], every, np.ones(every.shape))
    nats = scoring.score(model, disturbed(model, shape), seqs).sum(1)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)
    assert np.ptp(nats) > 0.1


def test_levels_have_logits_of_their_own_and_between_knots():
    likelihood = Ordered(9, knots=3)  # at the levels 0, 4 and 8
    own = np.arange(9.0) % 4
    knots = np.array([1.0, -1.0, 2.0]) * np.sqrt([1.875, 2.75, 1.875])  # their weights have the length 1
    expected = np.array([1, 0.5, 0, -0.5, -1, -0.25, 0.5, 1.25, 2]) + own
    found = likelihood.log_probs(jnp.array([*knots, *own]))
    np.testing.assert_allclose(found, expected - np.log(np.exp(expected).sum()), rtol=1e-12)
    np.testing.assert_allclose([likelihood.nll(jnp.array([*knots, *own]), jnp.int32(y)) for y in range(9)], -found, rtol=1e-12)
    for levels in (3, 256):  # also with more knots than levels
        of_many = Ordered(levels)
        large = 1e6 * np.random.default_rng(0).standard_normal(of_many.outputs).astype(np.float32)
        gradients = jax.vmap(jax.grad(of_many.nll), (None, 0))(jnp.asarray(large), jnp.arange(levels))
        assert np.abs(gradients).max() <= np.sqrt(2) + 1e-6


def test_neighbours_of_a_colour_are_of_the_same_colour():
    assert networks.neighbours(("left", "0,0,1"), (4, 4, 3)) == ((0, 1, 0), (0, 0, 1))
    with pytest.raises(ValueError, match="a step along 2 axes, and the sequences have 1"):
        networks.neighbours(("left",), (16,))
    with pytest.raises(ValueError, match="'0,-1' comes later in raster order"):
        grid_model((2, 3), 2, neighbours=("left", "0,-1"))


def test_the_nearest_neighbours():
    assert networks.neighbours(("nearest-3",), (16,)) == ((1,), (2,), (3,))
    assert networks.neighbours(("nearest-4",), (8, 8)) == networks.neighbours((*networks.NEIGHBOURS,), (8, 8))
    box = {(row, column) for row in range(3) for column in range(-2, 3) if (row, column) > (0, 0)}  # at most two away
    twelve = networks.neighbours(("nearest-12",), (28, 28))
    assert set(twelve) == box and len(twelve) == 12
    for wrong in ("nearest", "nearest-0", "nearest-1000", "nearest-1.5"):
        with pytest.raises(ValueError, match=f"'{wrong}' is none of left, above"):
            networks.neighbours((wrong,), (28, 28))


@pytest.mark.parametrize(("shape", "count"), [((32, 32, 3), 64), ((3, 4, 5, 2), 24), ((2, 2), 6)])
def test_the_nearest_places_before_are_before_and_in_the_grid_if_it_has_so_many(shape, count):
    steps = networks.places_before(shape, count)
    assert len(set(steps)) == count and all(step > (0,) * len(shape) for step in steps)
    inside = [all(abs(n) < size for n, size in zip(step, shape)) for step in steps]
    assert all(inside) == (shape != (2, 2))


def test_axes_of_one_place_take_no_time():
    assert networks.places_before((1, 1, 4096), 3) == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert networks.places_before((1, 64, 1, 1), 32)[-1] == (0, 32, 0, 0)


# ---------------------------------------------------------------- data


def save(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def test_levels_are_equal_steps_from_black_to_white(tmp_path):
    grey = np.arange(256, dtype=np.uint8).repeat(4).reshape(64, 4, 4)
    for levels in (2, 3, 17, 256):
        found = data.load(save(tmp_path / "grey.npy", grey), levels=levels)
        assert found.symbols == levels and found.kind == "image"
        values = np.concatenate(list(found.splits.values())).ravel()
        np.testing.assert_array_equal(np.sort(values), np.floor(np.arange(256) / 255 * (levels - 1) + 0.5).repeat(4))
    digits = data.load("digits", levels=17, held_out=0.1)
    from sklearn.datasets import load_digits

    every = np.concatenate(list(digits.splits.values())).reshape(-1, 64)
    np.testing.assert_array_equal(np.sort(every, 0), np.sort(load_digits(return_X_y=True)[0], 0))


@pytest.mark.parametrize("order", ["raster", "random"])
def test_colours_of_a_pixel_come_one_after_the_other(tmp_path, order):
    pictures = colours(9, side=4)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    found = data.load(tmp_path, colour=True, levels=256, order=order)
    assert found.shape == (4, 4, 3) and found.symbols == 256
    seqs = found.sequences("train", range(3), np.random.default_rng(0))
    assert (np.asarray(seqs.x)[..., 2] == np.tile(np.arange(3), 16)).all()
    assert (seqs.x[:, ::3, :2] == seqs.x[:, 2::3, :2]).all()
    np.testing.assert_array_equal(found.decode(seqs.x, seqs.y), found.splits["train"][:3])
    assert {p.tobytes() for rows in found.splits.values() for p in rows} == {p.tobytes() for p in pictures}
    sampler = make_sampler(grid_model(found.shape, 256), found)
    visited = np.asarray(sampler.inputs(sampler.places(sampler.keys(np.uint32(0), np.arange(2)))))
    assert (visited[..., 2] == np.tile(np.arange(3), 16)).all() and visited.shape[0] == (2 if order == "random" else 1)


def test_what_an_array_holds_follows_from_its_type_and_shape(tmp_path):
    rng = np.random.default_rng(0)
    bright, dark, at = rng.integers(0, 256, (9, 4, 5), np.uint8), rng.integers(0, 10, (9, 4, 5), np.uint8), tmp_path / "a.npy"
    cases = [
        (bright, {}, "image", 2),
        (bright.astype(int), {"levels": 8}, "image", 8),
        (bright.astype(float), {"levels": 256}, "image", 256),  # bytes
        (bright / 255, {}, "image", 2),
        (dark > 4, {}, "image", 2),
        (dark > 4, {"symbols": 2}, "array", 2),
        (dark, {"symbols": 10}, "array", 10),
        (dark, {"levels": 2}, "image", 2),
        (dark.astype(float), {"symbols": 12}, "array", 12),
        (dark.reshape(9, 20), {}, "array", 10),
        (dark.reshape(9, 2, 2, 5), {}, "array", 10),
        (dark.reshape(9, 2, 2, 5, 1), {}, "array", 10),
    ]
    for array, options, kind, symbols in cases:
        found = data.load(save(at, array), **options)
        assert (found.kind, found.symbols) == (kind, symbols), (array.shape, array.dtype, options)
        if kind == "array":
            every = np.sort(np.concatenate(list(found.splits.values())), axis=None)
            np.testing.assert_array_equal(every, np.sort(array, axis=None))


VALUES = np.random.default_rng(0).integers(0, 9, (9, 4, 5))
BAD_DATA: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unclear": (
        VALUES,
        {},
        r"numbers from 0 to 8 .*: pictures, or symbols\? For symbols give --symbols, as --symbols 9; for pictures",
    ),
    "voxels": (VALUES[..., None].repeat(3, -1) > 4, {}, r"pictures, or symbols\? For symbols give --symbols, as --symbols 2"),
    "voxels with four axes": (VALUES[..., None].repeat(4, -1) * 30, {}, "For symbols give --symbols"),
    "floats": (VALUES + 0.5, {}, "has numbers from 0.5 to 8.5. Expected are"),
    "fractions": (VALUES / 8, {"symbols": 9}, "has fractions, and symbols are integers"),
    "not a number": (np.full((9, 4), np.nan), {"symbols": 9}, "has numbers from nan to nan"),
    "negative": (VALUES - 1, {"symbols": 9}, "has numbers from -1 to 7"),
    "above 256": (VALUES * 99, {"symbols": 256}, "has numbers from 0 to 792"),
    "more than said": (VALUES, {"symbols": 5}, r"has the symbol 8 and --symbols is 5\. Give --symbols 9"),
    "one axis too many": (VALUES[..., None, None, None], {"symbols": 9}, r"has the shape \(9, 4, 5, 1, 1, 1\)"),
    "no axis": (VALUES[:, 0, 0], {"symbols": 9}, r"has the shape \(9,\)"),
    "an empty axis": (VALUES[:, :0], {"symbols": 9}, r"has the shape \(9, 0, 5\)"),
    "one symbol": (VALUES[:, :, 0] * 0, {}, "has no symbol but 0"),
    "colours of grey": (VALUES * 30, {"colour": True}, r"--colour is for pictures \[N, H, W, 3\]"),
    "grey in colour": ((VALUES * 30)[..., None].repeat(3, -1), {"colour": True}, "are grey; leave out --colour"),
    "drawn levels": (VALUES * 30, {"levels": 4, "binarize": "static"}, "--binarize static makes two levels, and --levels is 4"),
    "both": (VALUES, {"levels": 4, "symbols": 9}, "--symbols is for the symbols of .* an option of pictures was given too"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_what_cannot_be_read_is_said(case, tmp_path):
    array, options, sentence = BAD_DATA[case]
    with pytest.raises(data.DataError, match=sentence):
        data.load(save(tmp_path / "a.npy", array), **options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("listing", {"levels": 4}, "--levels is for pictures, and --data is 'listing', text"),
        ("listing", {"order": "random"}, "--order is for pictures, and --data is 'listing', text"),
        ("listing", {"reduce": 2}, "--reduce is for pictures"),
        ("listing", {"symbols": 4}, "--symbols is for the symbols of a .npy or .npz file, and --data is 'listing'"),
        ("digits", {"colour": True}, "digits has no colours"),
        ("digits", {"symbols": 17}, "--symbols is for the symbols of a .npy or .npz file"),
    ],
)
def test_options_of_other_data_are_refused(name, options, sentence):
    with pytest.raises(data.DataError, match=sentence):
        data.load(name, **options)


def test_more_symbols_in_test_than_in_train_are_said(tmp_path):
    np.savez(tmp_path / "a.npz", train=VALUES[:, 0] % 5, test=VALUES[:, 0])
    with pytest.raises(data.DataError, match=r"has the symbol 8 in test and in train the largest is 4. Give --symbols 9"):
        data.load(tmp_path / "a.npz")
    assert data.load(tmp_path / "a.npz", symbols=9).symbols == 9


@pytest.mark.parametrize("symbols", [2, 5])
def test_a_run_keeps_its_data_and_those_of_earlier_versions_are_read(tmp_path, symbols):
    rows = {split: np.random.default_rng(0).integers(symbols, size=(3, 2, 5), dtype=np.uint8) for split in ("train", "valid", "test")}
    found = Dataset("array", rows, symbols, order="random", split_seed=3)
    (tmp_path / "data.npz").write_bytes(archive.to_npz(found))
    again = archive.from_npz(tmp_path / "data.npz")
    assert again.fingerprint() == found.fingerprint()
    assert [getattr(again, name) for name in ("kind", "symbols", "order", "split_seed", "shape")] == ["array", symbols, "random", 3, (2, 5)]
    old: dict[str, Any] = {name: np.packbits(values % 2) for name, values in rows.items()}  # as the versions before wrote them
    old |= {f"{name}_count": np.array(3) for name in rows}
    fields = {"notes": [], "split_seed": 0, "order": "raster", "max_length": 0, "score_padding": False}
    np.savez(tmp_path / "old.npz", about=np.array(json.dumps({"kind": "image", "shape": [2, 5], "fields": fields})), **old)
    before = archive.from_npz(tmp_path / "old.npz")
    assert (before.kind, before.symbols) == ("image", 2)
    np.testing.assert_array_equal(before.splits["test"], rows["test"] % 2)


def test_networks_are_found_by_their_former_names():
    assert TrainConfig(network="text-heads") == TrainConfig(network="image-heads") == TrainConfig(network="heads")
    old = json.loads(to_json(PRESETS["digits-maml"][1])) | {"network": "image-heads"}
    for name in ("levels", "colour", "symbols", "likelihood"):
        del old[name]
    assert from_json(json.dumps(old), Path("config.json")) == PRESETS["digits-maml"][1]


def test_ordered_is_refused_where_there_is_no_order():
    config = TrainConfig(likelihood="ordered")
    with pytest.raises(ValueError, match="is for three levels or more, and the data have two"):
        models.configured(config, (4, 4), 2)
    with pytest.raises(ValueError, match="the bytes of a text have no order"):
        models.from_config(config, Dataset("text", {"train": np.zeros((1, 4), np.uint8)}, 256))


def test_tables_of_counts_sum_to_one_on_a_grid():
    rng = np.random.default_rng(0)
    every = np.array(list(itertools.product(range(3), repeat=4)), np.uint8).reshape(-1, 2, 1, 2)
    found = Dataset("array", {"train": rng.integers(3, size=(50, 2, 1, 2), dtype=np.uint8), "test": every}, 3)
    nats = counts.reference_nats(found, "test", range(len(every)))
    assert set(nats) == {"independent places", "previous along axis 1", "previous along axis 2", "previous along axis 3"}
    for each in nats.values():
        assert np.exp(-each).sum() == pytest.approx(1)
    assert set(counts.reference_nats(dataclasses.replace(found, order="random"), "test", [0])) == {"independent places"}


# ---------------------------------------------------------------- given parts


def test_a_given_picture_is_read_in_its_levels_and_transparent_is_unknown(tmp_path):
    grey = Dataset("image", {"train": np.zeros((1, 1, 4), np.uint8)}, 5)
    pixels = np.array([[[0, 0, 0, 255], [255, 255, 255, 255], [128, 128, 128, 255], [9, 9, 9, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    y, known = conditioning.file(grey, tmp_path / "a.png")
    assert known.tolist() == [[True, True, True, False]] and y[0, :3].tolist() == [0, 4, 2]
    pixels[0, 1] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    for levels in (2, 5):
        with pytest.raises(data.DataError, match="has colours, and this run's pictures have none; save it in grey"):
            conditioning.file(dataclasses.replace(grey, symbols=levels), tmp_path / "colour.png")
    coloured = Dataset("image", {"train": np.zeros((1, 1, 4, 3), np.uint8)}, 3, colour=True)
    y, known = conditioning.file(coloured, tmp_path / "colour.png")
    assert y[0, 1].tolist() == [2, 0, 0] and known[0].all(-1).tolist() == [True, True, True, False]


def test_a_given_array_has_minus_one_where_it_is_not_known(tmp_path):
    found = Dataset("array", {"train": np.zeros((1, 2, 2), np.uint8)}, 3)
    y, known = conditioning.file(found, save(tmp_path / "a.npy", np.array([[0, -1], [2, 1]])))
    assert known.tolist() == [[True, False], [True, True]] and y[known].tolist() == [0, 2, 1]
    for array, sentence in (
        (np.zeros((2, 3), int), "of the shape"),
        (np.full((2, 2), 3), "3 to 3; this run's are 0 to 2"),
        (np.zeros((2, 2)), "float64"),
    ):
        with pytest.raises(data.DataError, match=sentence):
            conditioning.file(found, save(tmp_path / "a.npy", array))
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, 2), int))
    with pytest.raises(data.DataError, match="holds several arrays; save one"):
        conditioning.file(found, tmp_path / "a.npy")
    with pytest.raises(data.DataError, match="give an NPY file, in which -1 is unknown"):
        conditioning.file(found, Path("a.png"))
    share = conditioning.part(dataclasses.replace(found, splits={"train": np.zeros((1, 4, 5, 2), np.uint8)}), "random:0.5", 3, 0)
    assert share.shape == (3, 4, 5, 2) and (share.sum((1, 2, 3)) == 20).all()


# ---------------------------------------------------------------- pictures


def test_grids_of_one_to_four_axes_become_pictures():
    for shape, size in {(5,): (1, 5), (2, 5): (2, 5), (3, 2, 5): (2, 17), (2, 3, 2, 5): (5, 17)}.items():
        found = Dataset("array", {"train": np.zeros((1, *shape), np.uint8)}, 4)
        values = np.random.default_rng(0).integers(4, size=(2, *shape))
        shown = look.pictures(found, values)
        assert shown.shape == (2, *size, 3)
        certain = np.eye(4)[values]
        np.testing.assert_allclose(look.expected(found, certain), shown)
        np.testing.assert_allclose(look.spread(found, certain)[look.flat(np.ones((2, *shape, 1)), len(shape), 0)[..., 0] > 0], 1)


def test_levels_are_shown_from_black_to_white_and_two_as_ink_on_paper():
    grey = Dataset("image", {"train": np.zeros((1, 1, 3), np.uint8)}, 3)
    np.testing.assert_array_equal(look.pictures(grey, np.array([[[0, 1, 2]]]))[0, 0, :, 0], [0, 0.5, 1])
    two = dataclasses.replace(grey, symbols=2)
    np.testing.assert_array_equal(look.pictures(two, np.array([[[0, 1, 1]]]))[0, 0, :, 0], [1, 0, 0])
    even = np.full((1, 1, 3, 3), 1 / 3)
    np.testing.assert_allclose(look.expected(grey, even), 0.5)
    assert (look.spread(grey, even)[..., 1] < 1).all()


def test_wide_pictures_have_fewer_columns_than_asked_for():
    assert [plots.fitting(8, width) for width in (28, 400, 5000)] == [8, 3, 1]


@pytest.mark.parametrize(
    ("kind", "values", "shown"),
    [
        ("text", np.frombuffer(b"ab\0", np.uint8), "b'ab'"),
        ("array", np.array([4, 0, 3]), "[4 0 3]"),
        ("image", np.full((1, 2, 3), 9), "[[[9 9 9]"),
    ],
)
def test_a_sampler_of_any_data_runs_alone(kind, values, shown, tmp_path, monkeypatch, capsys):
    def draw(seed, numbers):
        return jnp.broadcast_to(values.astype(np.uint8), (*numbers.shape, *values.shape)), jnp.zeros(numbers.shape)

    draw.__name__ = f"draw_{kind}"
    (batch,) = jax_export.symbolic_shape("B")
    shapes = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    (tmp_path / "sampler").write_bytes(jax_export.export(jax.jit(draw))(*shapes).serialize())
    monkeypatch.setattr(sys, "argv", ["run_exported.py", str(tmp_path / "sampler"), "1", "0"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "bin" / "run_exported.py"), run_name="__main__")
    assert not end.value.code and shown in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 2)])
def test_a_belief_in_an_array_is_shown(shape):
    found = Dataset("array", {"train": np.zeros((1, *shape), np.uint8)}, 3)
    model = grid_model(shape, 3)
    strip, animation = film.show(make_sampler(model, found), disturbed(model, shape), found, 0, 2, None)
    assert strip[:8] == b"\x89PNG\r\n\x1a\n" and animation[:3] == b"GIF"


# ---------------------------------------------------------------- against physics


def test_the_ising_model_is_what_enumeration_says():
    ising = Ising(3, 4, 0.4)
    every = (np.arange(2**12)[:, None] >> np.arange(12) & 1).reshape(-1, 3, 4)
    assert np.exp(-ising.nats(every)).sum() == pytest.approx(1)
    probability = np.exp(-ising.nats(every))
    assert ising.entropy() == pytest.approx((probability * ising.nats(every)).sum(), abs=1e-5)
    drawn = ising.sample(4000)
    error = ising.pairs(drawn).std() / np.sqrt(4000)
    assert ising.pairs(drawn).mean() == pytest.approx((probability * ising.pairs(every)).sum(), abs=4 * error)
    per_spin = Ising(60, 10, 0.3).log_z() / 600  # Onsager's free energy of the infinite lattice, by its integral
    angle = (np.arange(4000) + 0.5) / 4000 * np.pi
    k = 2 * np.sinh(0.6) / np.cosh(0.6) ** 2
    onsager = np.log(2 * np.cosh(0.6)) + np.log((1 + np.sqrt(1 - (k * np.sin(angle)) ** 2)) / 2).mean() / 2
    assert per_spin == pytest.approx(onsager, abs=0.01)  # but for the ends of the cylinder


@pytest.mark.slow
def test_a_network_learns_the_ising_model(tmp_path):
    """Its nats are above the exact ones, which nothing can beat, and near to them; and so is the energy of its samples."""
    from rgen.training import train

    ising = Ising(6, 6)
    save(tmp_path / "ising.npy", ising.sample(6000))
    config = dataclasses.replace(
        PRESETS["digits-maml"][1],
        data=str(tmp_path / "ising.npy"),
        symbols=2,
        steps=600,
        eval_every=600,
        weight_decay=0.01,
        run=tmp_path / "run",
    )
    from rgen.runs.folder import load_run
    from rgen.sampling import batches

    with jax.enable_x64(False):
        train(config)
        run = load_run(tmp_path / "run")
        held = run.data.splits["test"]
        nats = scoring.score_all(run.model, run.params, run.data, "test", np.arange(len(held)), 200).sum(1)
        drawn = np.concatenate([values for values, _ in batches(make_sampler(run.model, run.data), run.params, 0, range(1000), 200)])
    excess = nats - ising.nats(held)
    error = excess.std() / np.sqrt(len(held))
    assert -4 * error < excess.mean() < 0.05 * ising.entropy()
    off = ising.pairs(drawn).mean() - ising.mean_pairs()
    assert abs(off) < 4 * ising.pairs(drawn).std() / np.sqrt(1000) + 0.1 * ising.mean_pairs()
