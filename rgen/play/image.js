// Images: what is marked is learned, in the network's order of pixels; then the network may draw the rest.

const [rows, columns] = content.shape, count = rows * columns;
const CELL = Math.max(1, Math.floor(672 / Math.max(rows, columns)));
const picture = find("picture");
const marks = new Int8Array(count).fill(-1); // -1: unknown
const belief = new Float32Array(count); // probability of ink, after as many steps as the slider says
let cursor = null; // the pixel that is pointed at

picture.width = columns * CELL;
picture.height = rows * CELL;
find("fill").checked = content.raster;
find("brush").value = columns < 20 ? "1" : "2";
find("order").textContent = content.raster ? "row by row" : "a random one, the same for this page";

/** The known pixels as steps. */
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
  const learned = await inSlices(learner.steps.length, (i) => learner.after(i + 1), (i) => say(`Learning: ${i + 1} steps`));
  return learned && believe(steps);
}

/** Asks about every pixel. */
async function believe(steps) {
  const asked = await inSlices(count, (place) => (belief[place] = learner.probabilities(place, steps)[1]), paint);
  if (asked) show();
  return asked;
}

function say(text) {
  find("position").textContent = text;
}

function show() {
  const total = learner.steps.length, now = Number(slider.value), fixed = learner.steps.filter((step) => !step.drawn).length;
  say(`After ${now} of ${total} steps`);
  const paid = `Paid: ${learner.nats(false, now).toFixed(2)} nats for ${Math.min(now, fixed)} known pixels`;
  const drawn = now > fixed ? `, ${learner.nats(true, now).toFixed(2)} for ${now - fixed} drawn ones` : "";
  find("nats").textContent = `${paid}${drawn}.`;
  find("one").disabled = total === count;
  find("all").disabled = fixed === count;
  find("drop").disabled = fixed === total;
  paint();
  paintBars();
}

// ---------------------------------------------------------------- painting

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Paints pixels in cells of a size. */
function paintOn(canvas, cell, steps) {
  const pen = canvas.getContext("2d"), at = new Int32Array(count).fill(-1);
  const known = ["paper", "ink"].map(colour), drawn = ["drawn-paper", "drawn"].map(colour), unknown = colour("unknown"), red = colour("belief");
  learner.steps.forEach((step, i) => (at[step.place] = i));
  for (let place = 0; place < count; place++) {
    const step = learner.steps[at[place]], box = [(place % columns) * cell, Math.floor(place / columns) * cell, cell, cell];
    const learned = step && at[place] < steps;
    pen.fillStyle = learned ? (step.drawn ? drawn : known)[step.y] : unknown;
    pen.fillRect(...box);
    if (learned) continue;
    pen.globalAlpha = belief[place];
    pen.fillStyle = red;
    pen.fillRect(...box);
    pen.globalAlpha = 1;
    if (!step || cell < 4) continue;
    pen.fillStyle = (step.drawn ? drawn : known)[step.y];
    pen.fillRect(box[0] + cell * 0.35, box[1] + cell * 0.35, cell * 0.3, cell * 0.3);
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
  const bars = find("bars"), pen = bars.getContext("2d"), all = learner.steps;
  bars.width = bars.clientWidth * devicePixelRatio;
  bars.height = bars.clientHeight * devicePixelRatio;
  const width = bars.width / Math.max(all.length, 1), nats = all.map((step) => step.nats ?? 0), most = Math.max(1, ...nats);
  all.forEach((step, i) => {
    const height = Math.max(1, (nats[i] / most) * bars.height);
    pen.fillStyle = colour(step.drawn ? "drawn" : "ink");
    pen.globalAlpha = i < Number(slider.value) ? 1 : 0.3;
    pen.fillRect(i * width, bars.height - height, Math.max(width - 0.5, 0.5), height);
  });
}

// ---------------------------------------------------------------- marks

/** Marks a pixel and as many beside it as the brush is large. */
function mark(place, value, size = 1) {
  const top = Math.floor(place / columns) - Math.floor((size - 1) / 2), left = (place % columns) - Math.floor((size - 1) / 2);
  for (let row = Math.max(top, 0); row < Math.min(top + size, rows); row++)
    for (let column = Math.max(left, 0); column < Math.min(left + size, columns); column++) marks[row * columns + column] = value;
}

/** The pixel under the pointer. */
function pointed(event) {
  const box = picture.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * columns), row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  return Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1);
}

/** Marks a line of pixels. */
function stroke(from, to) {
  const value = Number(document.querySelector("input[name=tool]:checked").value), size = Number(find("brush").value);
  const [row, column] = [Math.floor(from / columns), from % columns];
  const [down, right] = [Math.floor(to / columns) - row, (to % columns) - column], length = Math.max(Math.abs(down), Math.abs(right), 1);
  for (let i = 0; i <= length; i++) mark(Math.round(row + (down * i) / length) * columns + Math.round(column + (right * i) / length), value, size);
}

function describe() {
  if (cursor === null) return;
  const now = Number(slider.value), at = learner.steps.findIndex((step) => step.place === cursor), step = learner.steps[at];
  const where = `Row ${Math.floor(cursor / columns) + 1}, column ${(cursor % columns) + 1}`;
  const word = step && (step.y ? "ink" : "paper");
  const learned = step?.nats !== undefined && at < now;
  const said = learned ? `${word}, ${step.drawn ? "drawn" : "known"}: step ${at + 1} paid ${step.nats.toFixed(3)} nats` : null;
  find("pixel").textContent = `${where}: ${said ?? `probability of ink ${belief[cursor].toFixed(3)}`}`;
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
const KEYS = { 1: 1, 0: 0, Backspace: -1, Delete: -1 };
picture.addEventListener("keydown", async (event) => {
  if (reserved(event) || !(event.key in ARROWS || event.key in KEYS)) return;
  event.preventDefault();
  if (event.key in ARROWS) {
    const [down, right] = ARROWS[event.key], row = Math.floor(cursor / columns) + down, column = (cursor % columns) + right;
    if (row >= 0 && row < rows && column >= 0 && column < columns) cursor = row * columns + column;
    paint();
  } else {
    mark(cursor, KEYS[event.key]);
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
find("drop").addEventListener("click", changed);
find("clear").addEventListener("click", () => {
  marks.fill(-1);
  find("completions").replaceChildren();
  changed();
});

/** Draws the next pixel that is not known. */
function drawNext() {
  const there = new Set(learner.steps.map((step) => step.place));
  learner.draw(content.order.find((place) => !there.has(place)), random);
  seek(learner.steps.length);
}

find("one").addEventListener("click", () => {
  job++;
  if (learner.steps.length < count) drawNext(); // at once, so that each of many fast clicks draws one
  refresh(learner.steps.length);
});

find("all").addEventListener("click", async () => {
  job++;
  if (learner.steps.length === count) learner.set(known()); // another one
  if (!(await refresh(learner.steps.length))) return;
  while (learner.steps.length < count) {
    const row = Math.min(columns, count - learner.steps.length);
    if (!(await inSlices(row, drawNext, paint)) || !(await believe(learner.steps.length))) return;
  }
  keep();
});

/** Puts the completed picture beside those before, with the nats of what was drawn. */
function keep() {
  const item = document.createElement("li"), small = document.createElement("canvas");
  [small.width, small.height] = [columns * 3, rows * 3];
  paintOn(small, 3, count);
  item.append(small, `${learner.nats(true).toFixed(1)} nats`);
  find("completions").prepend(item);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paint();
  paintBars();
});
addEventListener("resize", paintBars);
changed();
