// Runs programs: rgen/play/instructions.py says what the instructions mean. All arrays are made once, and each instruction becomes a
// function without arguments that fills the array of its result.

const KINDS = { float16: Float32Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** An array that the page holds: { type, data }, little-endian in base64. */
function decode({ type, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return type === "float16" ? Float32Array.from(new Uint16Array(bytes.buffer), half) : new KINDS[type](bytes.buffer);
}

/** The number of the 16 bits of a float in half precision. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** A program and the decoded arrays -> a function from inputs (arrays or numbers) to outputs (arrays that the next run overwrites). */
function load(program, arrays) {
  const slots = program.slots.map(([type, size]) => new KINDS[type](size));
  for (const [slot, number] of program.given) slots[slot] = arrays[number];
  const prepare = ([operation, result, operands, ...rest]) => {
    const step = INSTRUCTIONS[operation](slots[result], operands.map((slot) => slots[slot]), ...rest);
    if (typeof step === "function") return step;
    slots[result] = step; // a part of an operand as it lies
    return () => {};
  };
  const steps = program.code.map(prepare);
  return (...inputs) => {
    program.inputs.forEach((slot, i) => (typeof inputs[i] === "number" ? slots[slot].fill(inputs[i]) : slots[slot].set(inputs[i])));
    for (const step of steps) step();
    return program.outputs.map((slot) => slots[slot]);
  };
}

/** Where the elements of a view lie, in order. */
function places(shape, strides, offset) {
  let found = [offset];
  shape.forEach((size, axis) => {
    found = found.flatMap((place) => Array.from({ length: size }, (_, i) => place + i * strides[axis]));
  });
  return Int32Array.from(found);
}

/** Each: the array of the result, those of the operands, and the rest of the instruction. */
const INSTRUCTIONS = {
  map(out, arrays, expression) {
    const names = ["a", "b", "c"].slice(0, arrays.length);
    const read = names.map((name, i) => `${name} = ${name}s[${arrays[i].length === 1 ? 0 : "i"}]`);
    const body = `for (let i = 0; i < out.length; i++) { const ${read}; out[i] = ${expression}; }`;
    return new Function("out", ...names.map((name) => `${name}s`), `return () => { ${body} };`)(out, ...arrays);
  },

  view(out, [a], shape, strides, offset) {
    const at = places(shape, strides, offset);
    if (at.every((place, i) => place === offset + i)) return a.subarray(offset, offset + at.length);
    return () => { for (let i = 0; i < at.length; i++) out[i] = a[at[i]]; };
  },

  put(out, arrays, views) {
    const writes = arrays.map((a, i) => [a, places(...views[i])]);
    return () => { for (const [a, at] of writes) for (let i = 0; i < at.length; i++) out[at[i]] = a[i]; };
  },

  reduce(out, [array], start, expression, count) {
    const body = `for (let i = 0, j = 0; i < out.length; i++) {
      let a = ${start};
      for (const end = j + ${count}; j < end; j++) { const b = array[j]; a = ${expression}; }
      out[i] = a;
    }`;
    return new Function("out", "array", `return () => { ${body} };`)(out, array);
  },

  dot(out, [a, b], B, M, K, N) {
    return () => { for (let i = 0; i < B; i++) multiply(out, a, b, i * M, i * K * N, M, K, N); };
  },

  gather(out, [a, index], ...lookup) {
    const [start, at] = finder(index, ...lookup);
    return () => {
      for (let i = 0, j = 0; j < out.length; i++) {
        const from = start(i);
        for (let n = 0; n < at.length; n++, j++) out[j] = from < 0 ? NaN : a[from + at[n]];
      }
    };
  },

  scatter(out, [a, index, b], ...lookup) {
    const [start, at] = finder(index, ...lookup);
    return () => {
      out.set(a);
      for (let i = 0, j = 0; j < b.length; i++) {
        const from = start(i);
        for (let n = 0; n < at.length; n++, j++) if (from >= 0) out[from + at[n]] += b[j];
      }
    };
  },
};

/**
 * M rows of `a`, from the given one on, times the matrix [K, N] that begins at an element of `b`, along the rows of the matrix as they lie
 * in memory; four at once save most of the reading and writing of sums.
 */
function multiply(out, a, b, row, from, M, K, N) {
  for (let i = row; i < row + M; i++) {
    const to = i * N, first = K % 4;
    let k = i * K, at = from;
    out.fill(0, to, to + N);
    for (; k < i * K + first; k++, at += N) for (let n = 0; n < N; n++) out[to + n] += a[k] * b[at + n];
    for (; k < (i + 1) * K; k += 4, at += 4 * N) {
      const p = a[k], q = a[k + 1], r = a[k + 2], s = a[k + 3];
      const second = at + N, third = second + N, fourth = third + N;
      for (let n = 0; n < N; n++) out[to + n] += p * b[at + n] + q * b[second + n] + r * b[third + n] + s * b[fourth + n];
    }
  }
}

/** For lookups: a function from the number of an index to where its view begins (-1: beyond the table), and the view's places. */
function finder(index, steps, limits, shape, strides, clip) {
  const start = (i) => {
    let place = 0;
    for (let k = 0; k < steps.length; k++) {
      let at = index[i * steps.length + k];
      if (clip) at = Math.min(Math.max(at, 0), limits[k]);
      else if (at < 0 || at > limits[k]) return -1;
      place += at * steps[k];
    }
    return place;
  };
  return [start, places(shape, strides, 0)];
}
