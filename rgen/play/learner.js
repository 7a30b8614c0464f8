// The inner loop over a list of steps, { place, y, drawn }, and what both kinds of page share.

const content = JSON.parse(document.getElementById("content").textContent);
const SAVED = 64e6; // bytes of fast weights that are kept
const IN_TURN = Boolean(content.recent || content.nearby); // a network that reads earlier outputs is asked about the next one only

class Learner {
  /** The content of the page: programs, arrays, inputs of all places. */
  constructor(content) {
    const arrays = content.arrays.map(decode), start = content.fast.map((number) => arrays[number]);
    const bytes = 4 * start.reduce((sum, a) => sum + a.length, 0);
    this.content = content;
    this.learn = load(content.learn, arrays);
    this.ask = load(content.ask, arrays);
    this.every = content.batch * Math.max(1, Math.ceil((bytes * content.order.length) / content.batch / SAVED));
    this.steps = [];
    this.at = new Map(); // place -> number of its step
    this.saved = [start]; // fast weights after 0, every, 2 * every, ... outputs
    this.last = [0, start]; // a number of outputs, and the fast weights after them
  }

  /** Replaces the steps; what has been learned of those at the beginning that stay the same is kept. */
  set(steps) {
    let same = 0;
    while (same < steps.length && steps[same].place === this.steps[same]?.place && steps[same].y === this.steps[same].y) same++;
    this.steps = steps.map((step, i) => (i < same ? { ...step, nats: this.steps[i].nats } : step));
    this.at = new Map(steps.map((step, i) => [step.place, i]));
    this.saved.length = Math.min(this.saved.length, Math.floor(same / this.every) + 1);
    if (this.last[0] > same - (same % this.content.batch)) this.last = [0, this.saved[0]];
  }

  /** What the network reads at a place, after `count` outputs: its input, and perhaps earlier outputs. */
  input(place, count) {
    const { recent, nearby, inputs } = this.content;
    if (!IN_TURN) return [inputs[place]];
    const numbers = nearby ? nearby[place].map((other) => this.at.get(other)) : Array.from({ length: recent }, (_, i) => count - 1 - i);
    return [inputs[place], numbers.map((number) => (number < count ? this.steps[number]?.y ?? -1 : -1))];
  }

  /** The fast weights after one inner step, on the outputs from `from` to `to`; the nats of these are known then. */
  learned(fast, from, to) {
    const numbers = Array.from({ length: this.content.batch }, (_, k) => Math.min(from + k, to - 1));
    const read = numbers.map((number) => this.input(this.steps[number].place, number));
    const inputs = read[0].map((_, part) => read.flatMap((input) => input[part]));
    const weights = numbers.map((_, k) => (from + k < to ? 1 : 0)); // what fills the step up counts for nothing
    const out = this.learn(...fast, ...inputs, numbers.map((number) => this.steps[number].y), weights);
    for (let number = from; number < to; number++) this.steps[number].nats = out[fast.length][number - from];
    return fast.map((_, i) => out[i].slice());
  }

  /** How many of the first `count` outputs have been learned: an inner step is taken once all its outputs are there. */
  whole(count) {
    const { batch, order } = this.content;
    return count === order.length ? count : count - (count % batch);
  }

  /** The fast weights with which the output after the first `count` is predicted. */
  after(count) {
    const { batch } = this.content, whole = this.whole(count);
    const near = Math.min(Math.floor(whole / this.every), this.saved.length - 1);
    let [at, fast] = this.last;
    if (at > whole || at < near * this.every) [at, fast] = [near * this.every, this.saved[near]];
    while (at < whole) {
      fast = this.learned(fast, at, Math.min(at + batch, whole));
      at = Math.min(at + batch, whole);
      if (at % this.every === 0 && this.saved.length === at / this.every) this.saved.push(fast);
    }
    this.last = [at, fast];
    for (; at < count; at++) {
      const step = this.steps[at]; // paid, and learned with the others of its inner step
      step.nats ??= -this.ask(...fast, ...this.input(step.place, at))[0][step.y];
    }
    return fast;
  }

  /** Probabilities of all outputs at a place, after the first `count` steps. */
  probabilities(place, count) {
    return Array.from(this.ask(...this.after(count), ...this.input(place, count))[0], Math.exp);
  }

  /** Draws the output of a place after all steps, and adds it to them. */
  draw(place, random) {
    const probabilities = this.probabilities(place, this.steps.length);
    let y = 0;
    for (let left = random() - probabilities[0]; left >= 0 && y + 1 < probabilities.length; left -= probabilities[y]) y++;
    this.at.set(place, this.steps.length);
    this.steps.push({ place, y, drawn: true });
    this.after(this.steps.length);
    return y;
  }

  /** The sum of the nats of the first `count` steps that were drawn, or of those that were not. */
  nats(drawn, count = this.steps.length) {
    return this.steps.slice(0, count).reduce((sum, step) => sum + (step.drawn === drawn ? step.nats : 0), 0);
  }
}

/** Random numbers from 0 to 1 of a seed (mulberry32): not those of JAX, so samples are others than bin/sample.py draws. */
function randomOf(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** One thing at a time that takes long: starting the next one calls off the one before. */
let job = 0;

/** Calls work(0), ..., work(count - 1), and `shown` whenever the page may be seen; returns whether it was not called off. */
async function inSlices(count, work, shown = () => {}) {
  const mine = job;
  let began = performance.now();
  for (let i = 0; i < count; i++) {
    work(i);
    if (performance.now() - began < 20) continue;
    shown(i);
    await new Promise((resolve) => setTimeout(resolve));
    if (job !== mine) return false;
    began = performance.now();
  }
  return true;
}

/** Puts the slider to a number of steps. */
function seek(steps) {
  slider.max = Math.max(steps, learner.steps.length);
  slider.value = steps;
}

/** Changes words by the data: those of `data-KEY`, where # is a number, take the place of what is in an element. */
function reword(key, number) {
  for (const element of document.querySelectorAll(`[data-${key}]`)) element.textContent = element.dataset[key].replaceAll("#", number);
}

const find = (id) => document.getElementById(id);
const slider = find("slider");
const learner = new Learner(content);
const random = randomOf(1);
const OUTPUT = content.batch > 1 ? "output" : "step"; // what the slider counts
if (content.batch > 1) reword("batch", content.batch);
if (content.batch > 1 && !IN_TURN) reword("apart");
if (IN_TURN) reword("turn", content.recent || content.nearby[0].length);
