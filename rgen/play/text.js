// Text: the beginning of a line is learned; then the network says what it expects next, and may go on.

const prompt = find("prompt"), length = content.order.length;
const SHOWN = 12; // symbols whose probabilities are shown
const encoder = new TextEncoder();
const bytesOf = (text) => encoder.encode(text.replaceAll("\0", ""));
const textOf = (bytes) => new TextDecoder().decode(Uint8Array.from(bytes));
const nameOf = (byte) => (byte === content.end ? "end" : byte === 32 ? "space" : byte > 32 && byte < 127 ? String.fromCharCode(byte) : `x${byte.toString(16)}`);

/** What is typed, as steps: whole characters; a line has one symbol more, its end. */
function typed() {
  const bytes = new Uint8Array(length - 1), { written } = encoder.encodeInto(prompt.value.replaceAll("\0", ""), bytes);
  return Array.from(bytes.subarray(0, written), (y, place) => ({ place, y, drawn: false }));
}

function changed() {
  job++;
  seek(typed().length);
  return refresh();
}

async function refresh() {
  learner.set(typed());
  if (!(await inSlices(learner.steps.length, (i) => learner.after(i + 1)))) return false;
  const now = Number(slider.value), bytes = bytesOf(prompt.value).length;
  find("position").textContent = `After ${now} of ${learner.steps.length} ${OUTPUT}s`;
  find("length").textContent = `${bytes} of at most ${length - 1} bytes${bytes < length ? "" : "; what is beyond is not read"}`;
  find("one").disabled = bytes >= length - 1;
  find("nats").textContent = `Paid: ${learner.nats(false, now).toFixed(3)} nats for ${now} symbols.`;
  find("symbols").replaceChildren(...learner.steps.map((step, i) => symbol(step, i >= now)));
  showNext(learner.probabilities(now, now));
  return true;
}

/** A symbol above a line that is the redder, the more it cost. */
function symbol(step, later) {
  const element = document.createElement("span");
  element.textContent = step.y === 32 ? "\u00a0" : nameOf(step.y);
  element.title = `${step.nats.toFixed(3)} nats`;
  element.style.borderColor = `color-mix(in srgb, var(--belief) ${Math.min(100, 20 * step.nats)}%, var(--line))`;
  element.classList.toggle("later", later);
  return element;
}

/** Bars of the likeliest symbols. */
function showNext(probabilities) {
  const order = probabilities.map((_, y) => y).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
  find("next").replaceChildren(
    ...order.map((y) => {
      const row = document.createElement("tr"), bar = document.createElement("div");
      bar.style.width = `${(100 * probabilities[y]) / probabilities[order[0]]}%`;
      row.insertCell().textContent = nameOf(y);
      row.insertCell().append(bar);
      row.insertCell().textContent = probabilities[y].toFixed(4);
      return row;
    }),
  );
  const rest = 1 - order.reduce((sum, y) => sum + probabilities[y], 0);
  find("others").textContent = `All others together: ${Math.max(rest, 0).toFixed(4)}`;
}

/** Draws on until the end of the line, from the steps that there are. */
function finish() {
  let y = null;
  while (learner.steps.length < length && (y === null || y !== content.end)) y = learner.draw(learner.steps.length, random);
}

/** Shows the line that has been drawn, and what was paid for the drawn part. */
function keep() {
  const line = document.createElement("li"), text = document.createElement("span"), drawn = document.createElement("b"), paid = document.createElement("span");
  const ends = learner.steps.findIndex((step) => step.y === 0), shown = ends < 0 ? learner.steps : learner.steps.slice(0, ends);
  drawn.textContent = textOf(shown.filter((step) => step.drawn).map((step) => step.y));
  text.append(textOf(shown.filter((step) => !step.drawn).map((step) => step.y)), drawn);
  paid.textContent = `${learner.nats(true).toFixed(2)} nats`;
  line.append(text, paid);
  find("lines").append(line);
}

find("all").addEventListener("click", async () => {
  job++;
  find("lines").replaceChildren();
  await inSlices(10, () => {
    learner.set(typed());
    learner.after(learner.steps.length);
    finish();
    keep();
  });
});

find("one").addEventListener("click", () => {
  job++;
  learner.set(typed());
  const drawn = [];
  do drawn.push(learner.draw(learner.steps.length, random)); // a character may have several bytes
  while (drawn[0] > 127 && drawn.length < 4 && learner.steps.length < length - 1 && textOf(drawn).includes("\ufffd"));
  if (drawn[0] !== 0) prompt.value += textOf(drawn);
  changed();
  find("drew").textContent = drawn[0] === 0 ? "It drew the end of the line." : `It drew ${textOf(drawn)}`;
});

prompt.addEventListener("input", changed);
slider.addEventListener("input", () => {
  job++;
  refresh();
});
changed();
