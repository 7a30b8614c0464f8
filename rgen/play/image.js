// Pictures, and arrays with one or two axes: what is marked is learned, in the network's order of places; then the network may draw the
// rest. A pixel shows one output, or in colour three: red, green and blue.

const SHORT = 32; // places of a row, if an array has one axis only
const BUTTONS = 20; // symbols that have a button each
const { palette, symbols, channels, kind } = content; // without a palette, symbol 1 is ink and 0 is paper
const length = content.order.length, count = length / channels; // outputs, and pixels
const look = !palette ? "ink" : channels > 1 ? "colour" : kind === "array" && symbols <= BUTTONS ? "symbols" : "level";
const unit = look === "colour" ? "level" : palette && kind === "array" ? "place" : "pixel"; // what an output is called
const called = kind === "array" ? "symbol" : "level"; // and what it is one of
const line = content.shape.length === 1;
const columns = line ? Math.ceil(count / Math.ceil(count / SHORT)) : content.shape[1], rows = Math.ceil(count / columns);
const CELL = Math.max(1, Math.floor(672 / Math.max(rows, columns)));
const picture = find("picture");
const marks = new Int16Array(length).fill(-1); // -1: unknown
const belief = new Array(length).fill(null); // what is expected after as many steps as the slider says; see `expected`
let cursor = null; // the pixel that is pointed at

picture.width = columns * CELL;
picture.height = rows * CELL;
picture.style.maxWidth = `${27 * Math.min(1, (2 * columns) / rows)}rem`;
find("fill").checked = content.raster;
find("brush").value = columns < 20 ? "1" : "2";
find("order").textContent = content.raster ? (line ? "one after the other" : "row by row") : "a random one, the same for this page";
for (const part of document.querySelectorAll("[data-only]")) if (!part.dataset.only.split(" ").includes(look)) part.remove();
if (palette) {
  reword(kind, Math.min(9, symbols - 1));
  if (look === "colour") reword("colour");
  picture.setAttribute("aria-label", kind === "array" ? "Places" : "Pixels");
}

/** The places of the outputs of a pixel. */
const placesOf = (pixel) => Array.from({ length: channels }, (_, c) => pixel * channels + c);

/** The known outputs as steps. */
function known() {
  const last = find("fill").checked ? content.order.findLastIndex((place) => marks[place] >= 0) : -1;
  const places = content.order.filter((place, i) => marks[place] >= 0 || i <= last);
  return places.map((place) => ({ place, y: Math.max(marks[place], 0), drawn: false }));
}

/** Learns what is known now, and asks about the rest. */
function changed() {
  job++;
  learner.set(known());
  return refresh(learner.steps.length);
}

/** Shows the picture after the first `steps` steps, once all have been learned. */
async function refresh(steps) {
  seek(steps);
  const learned = await inSlices(learner.steps.length, (i) => learner.after(i + 1), (i) => say(`Learning: ${i + 1} ${OUTPUT}s`));
  return learned && believe(steps);
}

/** The places without an output, in the network's order. */
function missing() {
  const there = new Set(learner.steps.map((step) => step.place));
  return content.order.filter((place) => !there.has(place));
}

/** Asks about places. */
async function believe(steps, places = content.order) {
  if (IN_TURN) {
    belief.fill(null);
    places = [...learner.steps.map((step) => step.place), ...missing()].slice(steps, steps + 1);
  }
  const asked = await inSlices(places.length, (i) => (belief[places[i]] = expected(learner.probabilities(places[i], steps))), paint);
  if (asked) show();
  return asked;
}

/**
 * What probabilities say of a place: the mean of its symbol, and the standard deviation; the likeliest symbol; the mean colour; and how red
 * that makes it: by the probability of ink, or by how unsure it is.
 */
function expected(probabilities) {
  let mean = 0, square = 0, entropy = 0, likeliest = 0;
  const tint = [0, 0, 0];
  probabilities.forEach((p, y) => {
    mean += p * y;
    square += p * y * y;
    if (p > 0) entropy -= p * Math.log(p);
    if (p > probabilities[likeliest]) likeliest = y;
    for (let c = 0; palette && c < 3; c++) tint[c] += p * palette[y][c];
  });
  const spread = Math.sqrt(Math.max(0, square - mean * mean));
  const unsure = kind === "array" ? entropy / Math.log(symbols) : (2 * spread) / (symbols - 1);
  return { mean, spread, likeliest, probability: probabilities[likeliest], tint, red: palette ? unsure : mean };
}

function say(text) {
  find("position").textContent = text;
}

function show() {
  const total = learner.steps.length, now = Number(slider.value), fixed = learner.steps.filter((step) => !step.drawn).length;
  say(`After ${now} of ${total} ${OUTPUT}s`);
  const paid = `Paid: ${learner.nats(false, now).toFixed(2)} nats for ${Math.min(now, fixed)} known ${unit}s`;
  const drawn = now > fixed ? `, ${learner.nats(true, now).toFixed(2)} for ${now - fixed} drawn ones` : "";
  find("nats").textContent = `${paid}${drawn}.`;
  find("one").disabled = total === length;
  find("all").disabled = fixed === length;
  find("drop").disabled = fixed === total;
  paint();
  paintBars();
}

// ---------------------------------------------------------------- painting

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The colour of the outputs of a pixel, steps or what is expected, with the colours of known and of drawn ink. */
function shade(parts, inks) {
  if (!palette) return inks[Number(parts[0].drawn)][parts[0].y];
  const amounts = [0, 1, 2].map((c) => parts[c % channels].tint?.[c] ?? palette[parts[c % channels].y][c]);
  return `rgb(${amounts.map(Math.round)})`;
}

/** Paints pixels in cells of a size: what is learned as it is; else what is expected, and a dot of what is there but not learned yet. */
function paintOn(canvas, cell, steps) {
  const pen = canvas.getContext("2d"), at = new Int32Array(length).fill(-1), learned = learner.whole(steps), large = cell >= 4;
  const [unknown, red, drawn, focus] = ["unknown", "belief", "drawn", "focus"].map(colour);
  const inks = [["paper", "ink"], ["drawn-paper", "drawn"]].map((names) => names.map(colour));
  [pen.strokeStyle, pen.lineWidth] = [unknown, cell / 24];
  learner.steps.forEach((step, i) => (at[step.place] = i));
  for (let pixel = 0; pixel < count; pixel++) {
    const places = placesOf(pixel), there = places.map((place) => learner.steps[at[place]]);
    const parts = places.map((place, c) => (there[c] && at[place] < learned ? there[c] : belief[place]));
    const left = (pixel % columns) * cell, top = Math.floor(pixel / columns) * cell;
    const fill = (style, size, alpha = 1) => {
      [pen.fillStyle, pen.globalAlpha] = [style, alpha];
      pen.fillRect(left + (cell - size) / 2, top + (cell - size) / 2, size, size);
      pen.globalAlpha = 1;
    };
    if (there.every((step, c) => step && step === parts[c])) {
      fill(shade(there, inks), cell);
      if (!palette || !large || !there[0].drawn) continue;
      pen.fillStyle = drawn; // a corner
      pen.beginPath();
      for (const [x, y] of [[0, 0], [0.4, 0], [0, 0.4]]) pen.lineTo(left + x * cell, top + y * cell);
      pen.closePath();
      pen.fill();
      pen.stroke();
      continue;
    }
    fill(palette ? inks[0][0] : unknown, cell);
    if (parts.some(Boolean)) {
      fill(red, cell, Math.min(1, parts.reduce((sum, part) => sum + (part?.red ?? 0), 0) / channels));
      if (palette && parts.every(Boolean))
        for (const [size, alpha] of large ? [[1, 0.25], [0.8, 1]] : [[1, 1]]) fill(shade(parts, inks), size * cell, alpha);
    }
    if (!large || !there.every(Boolean)) continue;
    if (palette) fill(there[0].drawn ? drawn : focus, cell * 0.45);
    fill(shade(there, inks), cell * 0.3);
  }
}

function paint() {
  paintOn(picture, CELL, Number(slider.value));
  if (cursor === null || document.activeElement !== picture) return;
  const pen = picture.getContext("2d");
  pen.strokeStyle = colour("focus");
  pen.lineWidth = 3;
  pen.strokeRect((cursor % columns) * CELL + 1.5, Math.floor(cursor / columns) * CELL + 1.5, CELL - 3, CELL - 3);
}

/** Nats of each step, and where the slider is. */
function paintBars() {
  const bars = find("bars"), pen = bars.getContext("2d"), all = learner.steps, inks = ["ink", "drawn"].map(colour);
  bars.width = bars.clientWidth * devicePixelRatio;
  bars.height = bars.clientHeight * devicePixelRatio;
  const width = bars.width / Math.max(all.length, 1), nats = all.map((step) => step.nats ?? 0), most = Math.max(1, ...nats);
  all.forEach((step, i) => {
    const height = Math.max(1, (nats[i] / most) * bars.height);
    pen.fillStyle = inks[Number(step.drawn)];
    pen.globalAlpha = i < Number(slider.value) ? 1 : 0.3;
    pen.fillRect(i * width, bars.height - height, Math.max(width - 0.5, 0.5), height);
  });
}

// ---------------------------------------------------------------- marks

/** A choice to draw with, in front of what shows it. */
function tool(value, ...parts) {
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "tool", value, checked: !find("tools").children.length });
  label.append(input, ...parts);
  find("tools").append(label);
}

/** A small square in the colour of a symbol. */
function swatch(y) {
  const element = document.createElement("span");
  element.className = "key";
  element.style.background = `rgb(${palette[y]})`;
  return element;
}

if (look === "ink") for (const [value, name] of [[1, " ink"], [0, " paper"]]) tool(value, name);
else if (look === "symbols") palette.forEach((_, y) => tool(y, swatch(y), String(y)));
else {
  tool("mixed", look === "colour" ? " colour" : ` ${called}`);
  find("tools").append(find("mixer"));
}
tool(-1, " unknown");

/** What is chosen to draw with: a symbol for each output of a pixel. */
function chosen() {
  const { value } = document.querySelector("input[name=tool]:checked");
  if (value !== "mixed") return new Array(channels).fill(Number(value));
  return look === "level" ? [Number(find("level").value)] : rounded(find("colour").value);
}

/** The levels of a colour such as #ff8000. */
const rounded = (text) => [1, 3, 5].map((i) => Math.round((parseInt(text.slice(i, i + 2), 16) / 255) * (symbols - 1)));

/** Marks a pixel and as many beside it as the brush is large. */
function mark(pixel, values, size = 1) {
  const top = Math.floor(pixel / columns) - Math.floor((size - 1) / 2), left = (pixel % columns) - Math.floor((size - 1) / 2);
  for (let row = Math.max(top, 0); row < Math.min(top + size, rows); row++)
    for (let column = Math.max(left, 0); column < Math.min(left + size, columns); column++)
      if (row * columns + column < count) marks.set(values, (row * columns + column) * channels);
}

/** The pixel under the pointer. */
function pointed(event) {
  const box = picture.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * columns), row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  return Math.min(Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1), count - 1);
}

/** Marks a line of pixels. */
function stroke(from, to) {
  const values = chosen(), size = Number(find("brush").value);
  const [row, column] = [Math.floor(from / columns), from % columns];
  const [down, right] = [Math.floor(to / columns) - row, (to % columns) - column], far = Math.max(Math.abs(down), Math.abs(right), 1);
  for (let i = 0; i <= far; i++) mark(Math.round(row + (down * i) / far) * columns + Math.round(column + (right * i) / far), values, size);
}

function describe() {
  if (cursor === null) return;
  const where = line ? `Place ${cursor + 1}` : `Row ${Math.floor(cursor / columns) + 1}, column ${(cursor % columns) + 1}`;
  find("pixel").textContent = `${where}: ${placesOf(cursor).map(told).filter(Boolean).join("; ") || "unknown"}`;
}

/** What is there at a place, or what is expected. */
function told(place, channel) {
  const at = learner.steps.findIndex((step) => step.place === place), step = learner.steps[at], of = belief[place];
  const part = look === "colour" ? ["red ", "green ", "blue "][channel] : "";
  if (step?.nats !== undefined && at < Number(slider.value)) {
    const word = !palette ? ["paper", "ink"][step.y] : look === "colour" ? step.y : `${called} ${step.y}`;
    return `${part}${word}, ${step.drawn ? "drawn" : "known"}: ${OUTPUT} ${at + 1} paid ${step.nats.toFixed(3)} nats`;
  }
  if (!of) return "";
  if (!palette) return `probability of ink ${of.mean.toFixed(3)}`;
  const [mean, spread] = [of.mean, of.spread].map((value) => value.toFixed(symbols > 20 ? 0 : 1));
  const moments = kind === "array" ? "" : `expected level ${mean}, spread ${spread}; `;
  return `${part}${moments}likeliest ${of.likeliest}, with probability ${of.probability.toFixed(3)}`;
}

/** Whether a click or a key is the browser's or the system's: Ctrl and 0, Alt and an arrow, Ctrl and a click on a Mac. */
const reserved = (event) => event.ctrlKey || event.altKey || event.metaKey;

const strokes = new Map(); // number of a pointer that draws -> where it was
let before; // the marks before these strokes
picture.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || reserved(event)) return;
  if (strokes.size === 0) before = marks.slice();
  picture.setPointerCapture(event.pointerId);
  strokes.set(event.pointerId, pointed(event));
  drag(event, [event]);
});
picture.addEventListener("pointermove", (event) => {
  if (strokes.has(event.pointerId)) return drag(event, [...(event.getCoalescedEvents?.() ?? []), event]);
  cursor = pointed(event);
  describe();
});
for (const end of ["pointerup", "lostpointercapture"])
  picture.addEventListener(end, (event) => {
    if (strokes.delete(event.pointerId) && strokes.size === 0) finish();
  });
picture.addEventListener("pointercancel", () => {
  if (strokes.size === 0) return;
  strokes.clear(); // the browser scrolls or zooms instead: nothing was meant to be drawn
  marks.set(before);
  finish();
});

/** A stroke goes on: what is marked is shown at once, and learned when all strokes end. */
function drag(event, parts) {
  job++;
  for (const part of parts) {
    cursor = pointed(part);
    stroke(strokes.get(event.pointerId), cursor);
    strokes.set(event.pointerId, cursor);
  }
  learner.set(known());
  seek(learner.steps.length);
  paint();
}

async function finish() {
  await changed();
  describe();
}

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** What a key marks the pixel with, if it does. */
function typed(key) {
  if (key === "Enter") return chosen();
  const y = key === "Backspace" || key === "Delete" ? -1 : /^[0-9]$/.test(key) && Number(key) < symbols ? Number(key) : null;
  return y === null ? null : new Array(channels).fill(y);
}

picture.addEventListener("keydown", async (event) => {
  const values = typed(event.key);
  if (reserved(event) || !(event.key in ARROWS || values)) return;
  event.preventDefault();
  if (event.key in ARROWS) {
    const [down, right] = ARROWS[event.key], row = Math.floor(cursor / columns) + down, column = (cursor % columns) + right;
    if (row >= 0 && row < rows && column >= 0 && column < columns && row * columns + column < count) cursor = row * columns + column;
    paint();
  } else {
    mark(cursor, values);
    await changed();
  }
  describe();
});
picture.addEventListener("focus", () => {
  cursor ??= 0;
  paint();
  describe();
});
picture.addEventListener("blur", paint);

// ---------------------------------------------------------------- controls

slider.addEventListener("input", async () => {
  job++;
  if (await refresh(Number(slider.value))) describe();
});
find("fill").addEventListener("change", changed);
if (look === "level") {
  find("level").max = symbols - 1; // first: it bounds the value
  find("level").value = symbols - 1;
  find("level").setAttribute("aria-label", called);
  find("level").addEventListener("input", choose);
}
if (look === "colour") find("colour").addEventListener("change", choose);
if (find("mixer")) choose();

/** Draws with the level or the colour that has been chosen, which becomes one that there is. */
function choose() {
  document.querySelector("input[value=mixed]").checked = true;
  if (look === "level") find("tone").replaceChildren(swatch(find("level").value), find("level").value);
  else find("colour").value = `#${chosen().map((y, c) => palette[y][c].toString(16).padStart(2, "0")).join("")}`;
}

find("drop").addEventListener("click", changed);
find("clear").addEventListener("click", () => {
  marks.fill(-1);
  find("completions").replaceChildren();
  changed();
});

/** Draws what is not known of the next pixel. */
function drawNext() {
  const left = missing(), pixel = Math.floor(left[0] / channels);
  for (const place of left) if (Math.floor(place / channels) === pixel) learner.draw(place, random);
  seek(learner.steps.length);
}

find("one").addEventListener("click", () => {
  job++;
  if (learner.steps.length < length) drawNext(); // at once, so that each of many fast clicks draws one
  refresh(learner.steps.length);
});

find("all").addEventListener("click", async () => {
  job++;
  if (learner.steps.length === length) learner.set(known()); // another one
  if (!(await refresh(learner.steps.length))) return;
  while (learner.steps.length < length) {
    const row = Math.min(columns, Math.ceil((length - learner.steps.length) / channels));
    if (!(await inSlices(row, drawNext, paint)) || !(await believe(learner.steps.length, missing()))) return;
  }
  keep();
});

/** Puts the completed picture beside those before, with the nats of what was drawn. */
function keep() {
  const item = document.createElement("li"), small = document.createElement("canvas");
  [small.width, small.height] = [columns * 3, rows * 3];
  paintOn(small, 3, length);
  item.append(small, `${learner.nats(true).toFixed(1)} nats`);
  find("completions").prepend(item);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paint();
  paintBars();
});
addEventListener("resize", paintBars);
changed();
