"""The page to play on: it computes what Python does, in a browser, and can be used on a phone and on a desk."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import NAMES, adapt, disturbed, inputs, jit, make, score

import rgen
from rgen import networks, play, sampling
from rgen.choices import PRETRAINED, SPLITS, Kind
from rgen.commands import sample
from rgen.config import SampleConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop, Params
from rgen.likelihood import Categorical, Ordered
from rgen.runs.folder import load_run
from rgen.sampling import Sampler, look
from rgen.sequence import Sequence
from runs import ROOT, command

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AGREE = 1e-4  # of probabilities, and of the nats of a whole sequence


@pytest.fixture(scope="module")
def browser():
    """A browser without a window: the one of playwright, or one that is installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    with api.sync_playwright() as engine:
        found = [path for path in (engine.chromium.executable_path, *map(shutil.which, BROWSERS)) if path and Path(path).exists()]
        if not found:
            pytest.skip("there is no browser: playwright install chromium")
        started = engine.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield started
        started.close()


def data_of(kind: Kind, shape: tuple[int, ...], symbols: int = 2, **options: Any) -> Dataset:
    """A data set without sequences."""
    return Dataset(kind, dict.fromkeys(SPLITS, np.zeros((0, *shape), np.uint8)), symbols, **options)


def opened(browser, path: Path, **options: Any) -> Any:
    """A tab with a page in it, which must not complain."""
    tab = browser.new_page(**options)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_function("find('nats').textContent !== ''")
    tab.complaints = errors
    return tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A folder of pages of pretrained weights, as the command writes them."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("digits", "names"):
        sample.main(SampleConfig(Path(f"pretrained:{name}"), page=folder / f"{name}.html"))
    run: Any = load_run("pretrained:digits")
    sampler = Sampler(dataclasses.replace(run.model, inner_batch=8), (8, 8))
    (folder / "digits by rows.html").write_text(play.page(sampler, run.params, run.data, "digits, a row a step"))
    return folder


# ---------------------------------------------------------------- the engine

LEARN = """({content, inputs, y, weight}) => {
  const arrays = content.arrays.map(decode), learn = load(content.learn, arrays), ask = load(content.ask, arrays);
  let fast = content.fast.map((number) => arrays[number]);
  const nats = y.map((outputs, t) => {
    const out = learn(...fast, ...inputs.map((part) => part[t].flat(Infinity)), outputs, weight[t]);
    fast = fast.map((_, i) => out[i].slice());
    return [...out[fast.length]];
  });
  return [nats, fast.map((array) => [...array]), [...ask(...fast, ...inputs.map((part) => [part[0][0]].flat(Infinity)))[0]]];
}"""


# with all primitives of the others
FIRST = ("lstm-block", "siren", "text-heads partly", "image-heads by memory")


@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_every_network_learns_as_in_python(name, browser):
    """Those that read the last outputs, or learn by a loss of their own, with several outputs a step."""
    loop, params, seqs = make(name)
    size = {"text-heads partly": 3, "image-heads by memory": 4}.get(name, 1)
    loop = dataclasses.replace(loop, inner_batch=size)
    seqs = seqs._replace(weight=np.ones_like(seqs.weight))
    fast, nats = adapt(loop, params, seqs)
    steps = jax.tree.map(lambda a: a[0], loop.read(params, seqs))
    first = jax.tree.map(lambda a: a[0], fast)
    asked = jit(InnerLoop.predict, static_argnums=0)(loop, params, first, jax.tree.map(lambda a: a[0, 0], steps.x))
    content = play.programs(loop, params, np.asarray(seqs.x)[0, 0], size)
    tab = browser.new_page()
    tab.add_script_tag(path=play.HERE / "engine.js")
    inputs = [np.asarray(part).tolist() for part in jax.tree.leaves(steps.x)]
    given = {"content": content, "inputs": inputs, "y": np.asarray(steps.y).tolist(), "weight": np.asarray(steps.weight).tolist()}
    found = tab.evaluate(LEARN, given)
    tab.close()
    np.testing.assert_allclose(np.ravel(found[0])[: nats.shape[1]], nats[0], atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(first), found[1], strict=True):
        np.testing.assert_allclose(theirs, np.ravel(ours), atol=1e-5)
    np.testing.assert_allclose(found[2], asked, atol=1e-5)


OPERATIONS = {
    "concatenate": lambda a: jnp.concatenate([a, 2 * a[:, :1], jnp.zeros((3, 2))], 1),
    "stack": lambda a: jnp.stack([a, a + 1], 1),
    "pad": lambda a: jax.lax.pad(a, 1.0, ((1, 0, 0), (0, 2, 1))),
    "slice": lambda a: a[::2, 1:],
    "sums": lambda a: (a.sum(0), a.max(1), a.min(), (a @ a.T)[1:], jnp.einsum("ij,kj->k", a, a)),
    "embedding": lambda a: a[jnp.array([2, 0, 2])],
    "clipped": lambda a: jnp.take(a, jnp.array([[5, -9], [1, 1]]), axis=0, mode="clip"),
    "columns": lambda a: a[:, jnp.array([3, 1])],
    "added": lambda a: jnp.zeros((3, 4)).at[jnp.array([2, 0, 2])].add(a),
    "integers": lambda a: ((a * 9).astype(int) // 4, (a > 0).sum(), jnp.where(a > 0, a, 0.5), ~(a > 0) & (a < 1)),
    "functions": lambda a: (jax.nn.softplus(a), jax.nn.log_softmax(a), jnp.tanh(a) ** 3, 1 / a, jax.nn.relu(a), jnp.clip(a, -0.1, 0.1)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_jax(name, browser):
    function = OPERATIONS[name]
    a = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    arrays = play.Arrays()
    with jax.enable_x64(False):
        program = play.compile_program(lambda given, a: function(a), arrays, (), a)
        expected = jax.tree.leaves(function(jnp.asarray(a)))
    tab = browser.new_page()
    tab.add_script_tag(path=play.HERE / "engine.js")
    run = "([program, arrays, a]) => load(program, arrays.map(decode))(a).map((array) => [...array])"
    found = tab.evaluate(run, [program, [play.encoded(array) for array in arrays.held], a.ravel().tolist()])
    tab.close()
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, np.ravel(ours).astype(float), atol=1e-5)


# ---------------------------------------------------------------- pages

STEPS = "learner.steps.map((step) => [step.place, step.y, step.nats])"


@pytest.mark.parametrize(("fill", "size"), [(True, 1), (False, 1), (True, 8)], ids=["from the top", "some pixels", "by rows"])
def test_beliefs_and_nats_of_digits(fill, size, browser, pages):
    run: Any = load_run("pretrained:digits")
    model = dataclasses.replace(run.model, inner_batch=size)
    digit = run.data.splits["test"][3].ravel().astype(int)
    known = np.arange(64) < 40 if fill else np.random.default_rng(0).random(64) < 0.4
    tab = opened(browser, pages / ("digits.html" if size == 1 else "digits by rows.html"))
    marked = np.where(known & ((digit > 0) | (np.arange(64) == 39) | (not fill)), digit, -1).tolist()
    tab.evaluate(f"find('fill').checked = {json.dumps(fill)}; marks.set({marked}); changed()")
    place, y, paid = np.array(tab.evaluate(STEPS)).T
    places = np.flatnonzero(known)
    np.testing.assert_array_equal(place, places)
    np.testing.assert_array_equal(y, digit[places])
    xs = np.stack(np.divmod(np.arange(64), 8), -1)
    seqs = Sequence(xs[None, places], digit[None, places], np.ones((1, len(places)), np.float32))
    with jax.enable_x64(False):
        nats = rgen.score(model, run.params, seqs)[0]
        believed = np.exp(rgen.belief(model, run.params, seqs, xs, every=len(places) // size // 2)[0, :, :, 1])
    np.testing.assert_allclose(paid, nats, atol=AGREE)
    assert paid.sum() == pytest.approx(float(nats.sum()), abs=AGREE)
    for moment, expected in zip((0, len(places) // 2, len(places)), (*believed[:2], believed[-1])):
        tab.evaluate(f"refresh({moment})")
        np.testing.assert_allclose(tab.evaluate("belief.map((of) => of.mean)"), expected, atol=AGREE)
    assert not tab.complaints
    tab.close()


def check_controls(tab: Any) -> None:
    """Each has a name, and lies within the page, however narrow."""
    controls = tab.locator("button, input, select, #picture").all()
    assert len(controls) > 3
    for control in controls:
        assert tab.evaluate("(e) => (e.labels?.length || e.textContent || e.ariaLabel) ? true : false", control.element_handle())
    for width in (280, 1280):
        tab.set_viewport_size({"width": width, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for control in controls:
            box = control.bounding_box()
            assert control.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= width


# ---------------------------------------------------------------- levels, colours and symbols

OTHER = {
    "levels": (data_of("image", (3, 4), 5), Ordered(5, 2), 1),
    "colour": (data_of("image", (2, 2, 3), 4, colour=True, order="random"), Categorical(), 1),
    "symbols": (data_of("array", (5,), 3), Categorical(), 2),
    "many symbols": (data_of("array", (2, 3), 256), Categorical(), 1),
    "bits": (data_of("array", (35,)), Categorical(), 1),
}
believe = jit(lambda loop, params, seqs, x: loop.belief(params, seqs, x, 1), static_argnums=0)


def tiny(data: Dataset, likelihood: Any, size: int, reads: Any = 0) -> tuple[InnerLoop, Params]:
    """A loop around a small network of heads, and its parameters."""
    outputs = likelihood.outputs if isinstance(likelihood, Ordered) else data.symbols
    network = networks.build("heads", data.shape, outputs, data.symbols, width=4, depth=1, heads=2, keys=4, context=reads)
    loop = InnerLoop(network, likelihood, rate=0.1, fast=("heads/memory",), inner_batch=size, form="direct")
    params = jit(loop.init)(jax.random.key(0), inputs(data.shape)[0])
    return loop, disturbed(params, np.random.default_rng(0))


def other(name: str, browser, folder: Path) -> tuple[Any, Callable[[int], None]]:
    """The page of a tiny network, and what holds it against Python once all outputs are there, after the first so many of them."""
    data, likelihood, size = OTHER[name]
    x = inputs(data.shape)
    loop, params = tiny(data, likelihood, size)
    (folder / "page.html").write_text(play.page(sampling.make_sampler(loop, data), params, data, name))
    tab = opened(browser, folder / "page.html")

    def check(count: int) -> None:
        steps = np.array(tab.evaluate(STEPS))
        (place, y), paid = steps[:, :2].T.astype(int), steps[:, 2]
        assert sorted(place) == list(range(len(x)))
        probs = np.exp(believe(loop, params, Sequence(x[None, place], y[None], np.ones((1, len(y)))), x)[0])
        np.testing.assert_allclose(paid, -np.log(probs[np.arange(len(y)) // size, place, y]), atol=AGREE)
        tab.evaluate(f"refresh({count})")
        now, levels = probs[-1 if count == len(y) else count // size], np.linspace(0, 1, data.symbols)
        tint = now @ (look.palette(data) * 255).round() / 255
        expected = np.stack([now @ levels, now @ levels**2, now.max(1), *tint.T], 1)
        found = np.array(tab.evaluate("belief.map((of) => [of.mean, of.spread, of.probability, ...of.tint])"))
        found /= [data.symbols - 1, data.symbols - 1, 1, 255, 255, 255]
        found[:, 1] = found[:, 0] ** 2 + found[:, 1] ** 2
        np.testing.assert_allclose(found, expected, atol=AGREE)
        assert tab.evaluate("belief.map((of) => of.likeliest)") == now.argmax(1).tolist()

    return tab, check


@pytest.mark.parametrize(("name", "reads"), [("colour", 2), ("levels", ((0, 1), (1, 0), (1, -1))), ("symbols", ((1,), (3,)))])
def test_a_network_that_reads_earlier_outputs_is_asked_about_the_next_place(name, reads, browser, tmp_path):
    data, likelihood, size = OTHER[name]
    loop, params = tiny(data, likelihood, size, reads)
    (tmp_path / "page.html").write_text(play.page(sampling.make_sampler(loop, data), params, data, name))
    tab = opened(browser, tmp_path / "page.html")
    said = tab.inner_text("main")
    assert f"and what it reads of {reads if name == 'colour' else len(reads)} earlier outputs" in said and "independently" not in said
    tab.uncheck("#fill")
    click(tab, 2)
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    steps = np.array(tab.evaluate(STEPS))
    (place, y), paid = steps[:, :2].T.astype(int), steps[:, 2]
    assert sorted(place) == list(range(len(place))) and place[0] == 2 * data.together  # what is known comes first
    asked = min(4, len(y) - 2)
    others = np.tile(y, (data.symbols, 1))
    others[:, asked] = np.arange(data.symbols)  # what each symbol would cost there
    x = inputs(data.shape)[place]
    x = np.broadcast_to(x, (data.symbols + 1, *x.shape))
    seqs = Sequence(x, np.concatenate([y[None], others]), np.ones(x.shape[:2], np.float32))
    nats = np.asarray(score(loop, params, seqs))
    np.testing.assert_allclose(paid, nats[0], atol=AGREE)
    tab.evaluate(f"refresh({asked})")
    mean = np.exp(-nats[1:, asked]) @ np.arange(data.symbols)
    found = tab.evaluate("belief.map((of) => of && of.mean)")
    assert found.pop(place[asked]) == pytest.approx(mean, abs=AGREE) and not any(found)
    following, last = (painted(tab, place[at] // data.together, 0.05) for at in (asked, -1))
    assert following != last
    check_controls(tab)
    assert not tab.complaints
    tab.close()


DRAWN_INK = [13, 122, 106]  # --drawn of page.css


def painted(tab: Any, pixel: int, part: float = 0.5) -> list[int]:
    """The colour of the picture at a part of the diagonal of a pixel."""
    at = f"({pixel} % columns + {part}) * CELL, (Math.floor({pixel} / columns) + {part}) * CELL"
    return tab.evaluate(f"[...picture.getContext('2d').getImageData({at}, 1, 1).data.slice(0, 3)]")


def point(tab: Any, pixel: int) -> str:
    """Moves the mouse to a pixel; what the page says of it."""
    box, (across, down) = tab.locator("#picture").bounding_box(), tab.evaluate("[columns, rows]")
    tab.mouse.move(box["x"] + (pixel % across + 0.5) * box["width"] / across, box["y"] + (pixel // across + 0.5) * box["height"] / down)
    return tab.inner_text("#pixel")


def click(tab: Any, *pixels: int) -> None:
    for pixel in pixels:
        point(tab, pixel)
        tab.mouse.down()
        tab.mouse.up()


def test_levels_are_drawn_with_a_slider_and_keys(browser, tmp_path):
    tab, check = other("levels", browser, tmp_path)
    assert "one are black" in tab.inner_text("fieldset") and not re.search("ink|paper", tab.inner_text("main"))
    sentence = r"Row 1, column 1: expected level \d\.\d, spread \d\.\d; likeliest \d, with probability 0\.\d+"
    assert re.fullmatch(sentence, point(tab, 0))
    tab.check("input[value='-1']")
    tab.fill("#level", "3")  # which chooses it
    click(tab, 1)
    for key in ("ArrowRight", "4", "ArrowRight", "5", "ArrowDown", "Enter"):  # there is no level 5
        tab.keyboard.press(key)
    tab.wait_for_function("find('nats').textContent.includes('8 known pixels')")
    assert tab.evaluate("[...marks]") == [-1, 3, 4, -1, -1, -1, -1, 3, -1, -1, -1, -1]
    assert point(tab, 7).startswith("Row 2, column 4: level 3, known: step 8 paid ")
    assert [painted(tab, pixel) for pixel in (0, 1, 2)] == [[level] * 3 for level in (0, 191, 255)]
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    assert painted(tab, 7, 0.05) == [191] * 3 and painted(tab, 8, 0.05) == DRAWN_INK
    check(12)
    check(5)
    (dot, expected), unknown = [painted(tab, 7, part) for part in (0.5, 0.15)], tab.evaluate("belief[7].tint")
    assert dot == [191] * 3 and np.allclose(expected, unknown, atol=1)
    check_controls(tab)
    assert not tab.complaints
    tab.close()


def test_a_colour_marks_three_outputs(browser, tmp_path):
    tab, check = other("colour", browser, tmp_path)
    assert re.match(r"Row 2, column 2: red expected level .*; green expected level .*; blue expected level ", point(tab, 3))
    tab.fill("#colour", "#ff8040")
    assert tab.input_value("#colour") == "#ffaa55"  # of four levels
    click(tab, 2)
    tab.wait_for_function("find('nats').textContent.includes('3 known levels')")
    assert tab.evaluate("[...marks]") == [-1] * 6 + [3, 2, 1] + [-1] * 3
    assert re.match(r"Row 2, column 1: red 3, known: step 1 paid .*; green 2, known: step 2 paid .*; blue 1", point(tab, 2))
    assert painted(tab, 2) == [255, 170, 85]
    tab.focus("#picture")
    for key in ("ArrowUp", "2"):
        tab.keyboard.press(key)
    tab.wait_for_function("find('nats').textContent.includes('6 known levels')")
    assert tab.evaluate("[...marks.slice(0, 3)]") == [2, 2, 2]
    tab.click("#one")
    tab.wait_for_function("learner.steps.length === 9")
    drawn = tab.evaluate("learner.steps.slice(6).map((step) => step.place)")
    assert drawn in ([3, 4, 5], [9, 10, 11])
    assert painted(tab, drawn[0] // 3) == tab.evaluate("learner.steps.slice(6).map((step) => 85 * step.y)")
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    check(12)
    check(7)  # red of the third pixel is learned
    assert point(tab, drawn[0] // 3).count("drawn: step 7") == 1
    check_controls(tab)
    assert not tab.complaints
    tab.close()


def test_an_array_has_a_button_for_each_symbol(browser, tmp_path):
    tab, check = other("symbols", browser, tmp_path)
    assert tab.locator("input[name=tool]").count() == 4 and not tab.locator("#level, #colour").count()
    said = tab.inner_text("main")
    assert "predicts 2 outputs with the same weights" in said and "learns 2 outputs together" in said and "as soon as" not in said
    assert re.match(r"Place 5: likeliest \d, with probability", point(tab, 4))
    tab.check("input[value='2']")
    click(tab, 0)
    tab.wait_for_function("find('position').textContent === 'After 1 of 1 outputs'")
    dot = painted(tab, 0)
    click(tab, 1)
    tab.check("input[value='1']")
    click(tab, 2)
    tab.wait_for_function("find('nats').textContent.includes('3 known places')")
    colours = (look.palette(OTHER["symbols"][0]) * 255).round().tolist()
    assert dot == colours[2] and [painted(tab, place) for place in range(3)] == [colours[2], colours[2], colours[1]]
    assert painted(tab, 0, 0.05) == colours[2] != painted(tab, 2, 0.05)  # the third waits for the fourth
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    check(5)
    check(3)
    check_controls(tab)
    assert not tab.complaints
    tab.close()


def test_many_symbols_share_a_slider(browser, tmp_path):
    tab, check = other("many symbols", browser, tmp_path)
    assert tab.input_value("#level") == "255" and tab.inner_text("#tone") == "255"
    tab.fill("#level", "200")
    click(tab, 1)
    tab.wait_for_function("find('nats').textContent.includes('2 known places')")
    assert tab.evaluate("[...marks]") == [-1, 200, -1, -1, -1, -1]
    assert painted(tab, 1) == (look.palette(OTHER["many symbols"][0])[200] * 255).round().tolist()
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    check(2)
    check_controls(tab)
    assert not tab.complaints
    tab.close()


def test_a_long_line_has_several_rows(browser, tmp_path):
    tab, _ = other("bits", browser, tmp_path)
    assert tab.evaluate("[rows, columns]") == [2, 18]
    assert "1 is ink, 0 is paper" in tab.inner_text("#keys") and "one after the other" in tab.inner_text("main")
    assert point(tab, 18).startswith("Place 19: probability of ink 0.")
    click(tab, 35)  # behind the last one, which it marks
    for key in ("ArrowRight", "ArrowUp", "1", "ArrowRight", "ArrowDown"):  # nothing is right of it, nor below the last column
        tab.keyboard.press(key)
    tab.wait_for_function("learner.steps.length === 35 && learner.steps[34].nats")
    assert tab.evaluate("[marks[16], marks[34], cursor]") == [1, 1, 17]
    check_controls(tab)
    assert not tab.complaints
    tab.close()


def test_inner_batches_are_said(browser, pages, tmp_path):
    run: Any = load_run("pretrained:names")
    sampler = sampling.make_sampler(dataclasses.replace(run.model, inner_batch=3), run.data)
    (tmp_path / "names.html").write_text(play.page(sampler, run.params, run.data, "names"))
    for path, sentence in (
        (tmp_path / "names.html", "and learns 3 symbols together, once all of them are there."),
        (
            pages / "digits by rows.html",
            "and learns 8 outputs together: these are drawn with the same weights, independently of each other.",
        ),
    ):
        tab = opened(browser, path)
        assert sentence in tab.inner_text("main") and "as soon as" not in tab.inner_text("main")
        assert tab.inner_text("#position") == "After 0 of 0 outputs"
        tab.close()


def test_a_digit_is_drawn_on_and_completed(browser, pages):
    run = load_run("pretrained:digits")
    tab = opened(browser, pages / "digits.html")
    box = tab.locator("#picture").bounding_box()

    def at(row: int, column: int) -> tuple[float, float]:
        return box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8

    tab.mouse.move(*at(0, 2))
    tab.mouse.down()
    tab.mouse.move(*at(0, 5))
    tab.mouse.move(*at(2, 5))
    tab.mouse.up()
    tab.wait_for_function("find('position').textContent === 'After 22 of 22 steps'")
    assert tab.evaluate("[...marks]") == [1 if p in (2, 3, 4, 5, 13, 21) else -1 for p in range(64)]
    tab.click("#one")
    tab.wait_for_function("learner.steps.length === 23")
    tab.click("#all")
    tab.wait_for_selector("#completions li")
    place, y, paid = np.array(tab.evaluate(STEPS)).T
    np.testing.assert_array_equal(place, np.arange(64))
    xs = np.stack(np.divmod(np.arange(64), 8), -1)
    seqs = Sequence(xs[None], y[None].astype(int), np.ones((1, 64), np.float32))
    with jax.enable_x64(False):
        expected = float(sampling.conditional_nats(run.model, run.params, seqs, (np.arange(64) < 22)[None]).sum())
    assert paid[22:].sum() == pytest.approx(expected, abs=AGREE)
    assert tab.inner_text("#completions li").strip() == f"{expected:.1f} nats"
    tab.click("#drop")
    tab.wait_for_function("learner.steps.length === 22")
    tab.focus("#picture")
    for key in ("ArrowDown", "ArrowLeft", "1"):  # from the end of the stroke
        tab.keyboard.press(key)
    tab.wait_for_function("learner.steps.length === 29")
    assert tab.evaluate("marks[28]") == 1
    assert not tab.complaints
    tab.close()


def test_a_name_is_begun_and_completed(browser, pages):
    run = load_run("pretrained:names")
    tab = opened(browser, pages / "names.html")
    tab.fill("#prompt", "mar")
    name = np.array([[*b"mar"]])
    seqs = Sequence(np.arange(3)[None], name, np.ones((1, 3), np.float32))
    with jax.enable_x64(False):
        believed = np.exp(rgen.belief(run.model, run.params, seqs, np.array([3]), every=3)[0, -1, 0])
        nats = float(rgen.score(run.model, run.params, seqs).sum())
    np.testing.assert_allclose(tab.evaluate("learner.probabilities(3, 3)"), believed, atol=AGREE)
    assert tab.inner_text("#nats") == f"Paid: {nats:.3f} nats for 3 symbols."
    assert tab.inner_text("#next tr:first-child td:last-child") == f"{believed.max():.4f}"
    assert tab.inner_text("#next tr:first-child td:first-child") == chr(believed.argmax())
    tab.click("#all")
    tab.wait_for_function("find('lines').children.length === 10")
    lines = tab.locator("#lines li").all_inner_texts()
    assert all(line.startswith("mar") and line.endswith("nats") for line in lines) and len(set(lines)) > 3
    drawn, y = [], tab.evaluate("learner.steps.map((step) => step.y)")
    with jax.enable_x64(False):
        padded = np.array([(y + [0] * 16)[:16]])
        seqs = Sequence(np.arange(16)[None], padded, (np.arange(16) < len(y)).astype(np.float32)[None])
        drawn = rgen.score(run.model, run.params, seqs)[0, 3:].sum()
    assert lines[-1].split()[-2] == f"{float(drawn):.2f}" and bytes(y).rstrip(b"\0").decode() == lines[-1].split()[0]
    tab.fill("#prompt", "a" * 20)
    assert "20 of at most 15 bytes; what is beyond is not read" in tab.inner_text("#length")
    assert tab.evaluate("learner.steps.length") == 15
    assert tab.is_disabled("#one")
    tab.fill("#prompt", "a" * 14 + "\0ë")  # whole characters are read
    assert tab.evaluate("learner.steps.length") == 14
    tab.fill("#prompt", "zoë")
    assert tab.evaluate("learner.steps.map((step) => step.y)") == [*"zoë".encode()]
    tab.click("#one")
    tab.wait_for_function("find('drew').textContent !== ''")
    assert not tab.complaints
    tab.close()


# Strokes as a list of (event, pointer, column in the first row). An event made by a program has no coalesced events, as in some browsers.
STROKES = """(events) => {
  picture.setPointerCapture = () => {}; // these pointers do not exist
  const box = picture.getBoundingClientRect();
  for (const [type, pointerId, column, more] of events) {
    const clientX = box.left + ((column + 0.5) * box.width) / columns, button = type === "pointermove" ? -1 : 0;
    picture.dispatchEvent(new PointerEvent(type, { bubbles: true, pointerId, clientX, clientY: box.top + 5, button, ...more }));
  }
  return [...marks.keys()].filter((place) => marks[place] >= 0);
}"""
DRAWN = {
    "a stroke": ([("pointerdown", 1, 0), ("pointermove", 1, 3), ("pointerup", 1, 3)], [0, 1, 2, 3]),
    "two fingers": (
        [
            ("pointerdown", 1, 0),
            ("pointerdown", 2, 7),
            ("pointermove", 1, 1),
            ("pointermove", 2, 6),
            ("pointerup", 1, 1),
            ("pointermove", 2, 5),
        ],
        [0, 1, 5, 6, 7],
    ),
    "two fingers that zoom": (
        [("pointerdown", 1, 0), ("pointerdown", 2, 7), ("pointercancel", 1, 0), ("pointermove", 2, 6), ("pointercancel", 2, 6)],
        [],
    ),
    "a stroke that ends unseen": ([("pointerdown", 1, 0), ("lostpointercapture", 1, 0), ("pointermove", 1, 3)], [0]),
    "the right button": ([("pointerdown", 1, 0, {"button": 2}), ("pointermove", 1, 3)], []),
    "Ctrl and a click": ([("pointerdown", 1, 0, {"ctrlKey": True}), ("pointermove", 1, 3)], []),
}


@pytest.mark.parametrize("case", DRAWN)
def test_pointers_draw_what_they_mean(case, browser, pages):
    tab = opened(browser, pages / "digits.html")
    events, marked = DRAWN[case]
    assert tab.evaluate(STROKES, events) == marked
    tab.focus("#picture")
    assert "undefined" not in tab.inner_text("#pixel")  # a stroke under way has not been learned
    tab.close()


def test_two_fingers_on_a_phone_zoom_and_draw_nothing(browser, pages):
    tab = opened(browser, pages / "digits.html", viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    box, touch = tab.locator("#picture").bounding_box(), tab.context.new_cdp_session(tab)
    for far in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4):
        places = enumerate((0.5 - far, 0.5 + far))
        fingers = [{"id": number, "x": box["x"] + part * box["width"], "y": box["y"] + part * box["height"]} for number, part in places]
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart" if far == 0.1 else "touchMove", "touchPoints": fingers})
    tab.wait_for_function("visualViewport.scale > 1.5")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert tab.evaluate("marks.every((mark) => mark === -1)")
    assert not tab.complaints
    tab.close()


def test_keys_of_the_browser_are_left_to_it(browser, pages):
    tab = opened(browser, pages / "digits.html")
    press = """([key, more]) => {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
      picture.dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    tab.focus("#picture")
    assert tab.inner_text("#pixel").startswith("Row 1, column 1: ")
    for keys in (["0", {"ctrlKey": True}], ["ArrowDown", {"altKey": True}], ["1", {"metaKey": True}], ["Tab", {}]):
        assert not tab.evaluate(press, keys)
    assert tab.evaluate("cursor === 0 && marks.every((mark) => mark === -1)")
    assert tab.evaluate(press, ["ArrowDown", {}]) and tab.evaluate(press, ["1", {}]) and tab.evaluate("marks[8]") == 1
    tab.close()


def test_each_of_many_fast_clicks_draws_a_pixel(browser, pages):
    tab = opened(browser, pages / "digits.html")
    assert tab.evaluate("for (let i = 0; i < 70; i++) find('one').click(); learner.steps.length") == 64
    tab.wait_for_function("find('one').disabled")
    assert not tab.complaints
    tab.close()


def test_without_javascript_the_page_says_so(browser, pages):
    for name in ("digits", "names"):
        tab = browser.new_page(java_script_enabled=False)
        tab.goto((pages / f"{name}.html").as_uri())
        assert "This page needs JavaScript" in tab.inner_text("body")
        tab.close()


@pytest.mark.parametrize("name", PRETRAINED)
def test_all_controls_fit(name, browser):
    tab = opened(browser, ROOT / "docs" / f"play-{name}.html")
    check_controls(tab)
    tab.close()


@pytest.mark.slow
def test_all_of_mnist(browser, tmp_path):
    """784 steps, in raster order."""
    run = load_run("pretrained:mnist")
    row, column = np.indices((28, 28)) - 13.5
    ring = (abs(np.hypot(row, column) - 7) < 1.5).ravel().astype(int)
    (tmp_path / "mnist.html").write_text(play.page(sampling.make_sampler(run.model, run.data), run.params, run.data, "mnist"))
    tab = opened(browser, tmp_path / "mnist.html")
    tab.evaluate(f"marks.set({ring.tolist()}); changed()")
    xs = np.stack(np.divmod(np.arange(784), 28), -1)
    seqs = Sequence(xs[None], ring[None], np.ones((1, 784), np.float32))
    with jax.enable_x64(False):
        nats = np.asarray(rgen.score(run.model, run.params, seqs))[0]
        believed = np.exp(rgen.belief(run.model, run.params, seqs, xs, every=392)[0, :, :, 1])
    paid = np.array(tab.evaluate(STEPS))[:, 2]
    np.testing.assert_allclose(paid, nats, atol=AGREE)
    assert paid.sum() == pytest.approx(nats.sum(), abs=AGREE)
    for moment in (0, 1, 2):
        tab.evaluate(f"refresh({392 * moment})")
        np.testing.assert_allclose(tab.evaluate("belief.map((of) => of.mean)"), believed[moment], atol=AGREE)
    tab.close()


# ---------------------------------------------------------------- without a browser


def test_the_command_writes_one_file(trained, tmp_path):
    said = command("sample", "--run", str(trained), "--page", "play.html", cwd=tmp_path)
    assert re.search(r"A page to play on, of step \d: play.html, \d+ kB", said.stdout)
    written = (tmp_path / "play.html").read_text()
    assert not re.search(r"https?:|<link|src=|@import|<!-- [A-Z]", written)  # all of it is inside
    content = json.loads(written.split('id="content">')[1].split("</script>")[0])
    assert content["shape"] == [4, 4] and content["order"] == list(range(16))


def test_random_orders_are_that_of_the_first_sample():
    loop, params, _ = make("image-heads")
    sampler = Sampler(loop, (2, 3), random_order=True)
    written = play.page(sampler, params, data_of("image", (2, 3)), "a <b>")
    order = np.asarray(sampler.places(sampler.keys(np.uint32(0), np.arange(1))))[0].tolist()
    assert f'"order":{json.dumps(order, separators=(",", ":"))},"raster":false' in written
    assert "<title>a &lt;b&gt;:" in written


def test_weights_that_half_precision_holds_take_half_the_place():
    assert [play.encoded(np.array([a], np.float32))["type"] for a in (0.5, 0.1, 1e6)] == ["float16", "float32", "float32"]


def sorting(params: Any, x: jax.Array) -> jax.Array:
    return jnp.sort(params) * x


def refused(case: str) -> tuple[Sampler, Any, Dataset]:
    if case == "axes":
        return Sampler(make("image-heads").loop, (2, 3, 2)), (), data_of("array", (2, 3, 2))
    loop = InnerLoop(rgen.Function(lambda key, x: jnp.ones(3), sorting), Categorical())
    return Sampler(loop, (7,)), loop.init(jax.random.key(0), jnp.int32(0)), data_of("text", (7,), 3)


REFUSED = {
    "axes": r"one or two axes; this run has arrays of the shape \(2, 3, 2\), which have 3",
    "sort": "The page cannot compute 'sort'",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_page_is_a_sentence(case):
    with pytest.raises(InputError, match=REFUSED[case]):
        play.page(*refused(case), title="title")


def test_options_that_do_not_go_with_a_page():
    page = Path("play.html")
    for options, sentence in (
        ({"export": page}, "--export and --page cannot be used together"),
        ({"belief": 2}, "--belief and --page cannot be used together"),
        ({"sort": True}, "--sort is about samples"),
        ({"top_k": 3}, "The page draws from the network's own probabilities; leave out --top-k"),
    ):
        with pytest.raises(InputError, match=sentence):
            dataclasses.replace(SampleConfig(Path("run"), page=page), **options)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_pages_of_the_docs_are_of_this_version(name):
    """Made anew by: rgen sample --run pretrained:NAME --page docs/play-NAME.html"""
    written = (ROOT / "docs" / f"play-{name}.html").read_text()
    for part in ("engine.js", "learner.js", "page.css"):
        assert (play.HERE / part).read_text() in written
    shared = "text" if name == "names" else "image"
    assert (play.HERE / f"{shared}.js").read_text() in written and (play.HERE / f"{shared}.html").read_text() in written
