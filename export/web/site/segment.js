/** A segment: reads the payload of SEGM, and decodes its weights. */

import { BitstreamError } from "./errors.js";
import { size } from "./graph.js";
import { inflate } from "./inflate.js";

const PREFIX_BYTES = 12;
const RECORD_BYTES = 11;
const PLAIN = 0;
const HUFFMAN = 1;
const RANGE = 2;
const HUFFMAN_BOUND = 127;
const MAX_BOUND = 4095;
const LEVELS = 64;
const SMALLEST_STEP = 2 ** -64;
const LARGEST_STEP = 2 ** 64;
const DELTA = 1;
const PREDICTED = 2;
const ROWS = 4;
const COLUMNS = 8;
const PAIRS = 16;
const CHANNELS = 32;
const SECOND = 64;
const CONTEXT = 128;
const CONTEXT_WEIGHTS = 10;
const CONTEXT_WEIGHT_LEVEL = 34;
const MAX_CONTEXT_INTEGERS = 2 ** 22;
const MAX_PLANES = 2 ** 13;
const ROOT = Math.fround(Math.SQRT2);
const FAULTS = {
  1: "its code is invalid",
  2: "its models have too many symbols",
  3: "its integers are out of range after prediction",
};

/**
 * Read the payload of SEGM of a file's version, with a number of tensors.
 *
 * The weights are not decoded yet. Throws BitstreamError.
 */
export function parseSegment(payload, tensors, version) {
  if (payload.length < PREFIX_BYTES) throw new BitstreamError("a segment is too short");
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const start = view.getUint32(0, true);
  const frames = view.getUint32(4, true);
  const count = view.getUint16(8, true);
  const [kind, coder] = payload.subarray(10, 12);
  if (kind > DELTA || coder > RANGE || (coder === RANGE && version === 1)) {
    throw new BitstreamError(`unknown kind of segment ${kind} or coder ${coder}`);
  }
  if (count !== tensors) {
    throw new BitstreamError(`segment has ${count} tensors, expected ${tensors}`);
  }
  const [fields, stop] = recordBytes(payload, view, count, coder);
  const records = Array.from({ length: count }, (_, index) => parseRecord(fields, index));
  for (const { flags, bound } of records) {
    if (coder === HUFFMAN && (flags & ~DELTA || bound !== HUFFMAN_BOUND)) {
      throw new BitstreamError("a segment has models, which Huffman's code has not");
    }
    if (coder === PLAIN && flags & CONTEXT) {
      throw new BitstreamError("a segment has contexts, which its coder has not");
    }
  }
  const isKey = !records.some(({ flags }) => flags & DELTA);
  if (isKey !== (kind === 0)) throw new BitstreamError("a segment is of the other kind");
  return { start, frames, coder, records, isKey, code: payload.subarray(stop) };
}

/** Return the records' bytes, unpacked, and the place of the code after them. */
function recordBytes(payload, view, count, coder) {
  const length = count * RECORD_BYTES;
  if (coder !== RANGE) {
    const stop = PREFIX_BYTES + length;
    if (payload.length < stop) throw new BitstreamError("a segment is too short");
    return [payload.subarray(PREFIX_BYTES, stop), stop];
  }
  if (payload.length < PREFIX_BYTES + 2) throw new BitstreamError("a segment is too short");
  const begin = PREFIX_BYTES + 2;
  const stop = begin + view.getUint16(PREFIX_BYTES, true);
  const planes = inflate(payload.subarray(begin, stop), length);
  if (planes.length !== length) throw new BitstreamError(`records must have ${length} bytes`);
  const fields = new Uint8Array(length);
  for (let place = 0; place < length; place++) {
    fields[place] = planes[(place % RECORD_BYTES) * count + Math.floor(place / RECORD_BYTES)];
  }
  return [fields, stop];
}

function parseRecord(bytes, index) {
  const at = RECORD_BYTES * index;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, RECORD_BYTES);
  const step = view.getFloat32(0, true);
  const bound = view.getUint16(4, true);
  const [level, flags, rowLevel, columnLevel, channelLevel] = bytes.subarray(at + 6, at + 11);
  if (flags & CONTEXT && flags & (ROWS | COLUMNS | PAIRS)) {
    throw new BitstreamError("a tensor with contexts has no rows and columns");
  }
  const isInRange =
    bound > 0 &&
    bound <= MAX_BOUND &&
    Math.max(level, rowLevel, columnLevel, channelLevel) < LEVELS &&
    step >= SMALLEST_STEP &&
    step <= LARGEST_STEP;
  if (!isInRange) throw new BitstreamError("a tensor's parameters are out of range");
  return { step, bound, level, flags, rowLevel, columnLevel, channelLevel };
}

/**
 * Decode a segment's weights to the tensors' `addresses`, whose `shapes` are given.
 *
 * The tensors of a delta segment are added to the weights that are there. Throws BitstreamError.
 */
export function decodeWeights(segment, shapes, addresses, kernels) {
  const mark = kernels.mark;
  try {
    const decode = segment.coder === HUFFMAN ? decodeHuffman : decodeRange;
    decode(segment, shapes, addresses, kernels);
  } finally {
    kernels.release(mark);
  }
}

function decodeHuffman(segment, shapes, addresses, kernels) {
  const count = shapes.map(size).reduce((sum, each) => sum + each, 0);
  const symbols = new Int8Array(inflate(segment.code, count).buffer);
  if (symbols.length !== count) throw new BitstreamError(`segment must hold ${count} weights`);
  if (symbols.includes(-128)) throw new BitstreamError("an integer is out of range");
  let place = 0;
  shapes.forEach((shape, index) => {
    const { step, flags } = segment.records[index];
    const integers = symbols.subarray(place, (place += size(shape)));
    dequantize(kernels, addresses[index], kernels.putIntegers(integers), [step], [size(shape)], 0, flags);
  });
}

function decodeRange(segment, shapes, addresses, kernels) {
  const planes = shapes
    .filter((_, index) => segment.records[index].flags & CONTEXT)
    .reduce((sum, shape) => sum + size(shape.slice(0, 2)), 0);
  if (planes > MAX_PLANES) throw new BitstreamError(`tensors have over ${MAX_PLANES} planes`);
  if (segment.code.length % 4) throw new BitstreamError("a code must consist of 4-byte words");
  const code = kernels.reserve(segment.code.length);
  kernels.bytes(code, segment.code.length).set(segment.code);
  kernels.run.code_begin(code, segment.code.length / 4);
  const mark = kernels.mark;
  shapes.forEach((shape, index) => {
    decodeTensor(segment.records[index], shape, addresses[index], kernels);
    kernels.release(mark);
  });
}

/** The weights of a segment at a time, in the kernels' memory. */
export class Weights {
  /** Number of the segment whose weights are there; -1 if none are. */
  loaded = -1;
  #segments;
  #shapes;
  #addresses;
  #kernels;
  /** Errors of segments that cannot be decoded, by their numbers. */
  #faults = new Map();

  constructor(segments, shapes, addresses, kernels) {
    this.#segments = segments;
    this.#shapes = shapes;
    this.#addresses = addresses;
    this.#kernels = kernels;
  }

  /**
   * Decode a segment, and those that it builds on; return whether it was not there before. Throws
   * BitstreamError.
   */
  load(index) {
    if (index === this.loaded) return false;
    let first = index;
    while (!this.#segments[first].isKey && first - 1 !== this.loaded) first--;
    for (let each = first; each <= index; each++) {
      if (this.#faults.has(each)) throw this.#faults.get(each);
    }
    this.loaded = -1;
    for (let each = first; each <= index; each++) {
      try {
        decodeWeights(this.#segments[each], this.#shapes, this.#addresses, this.#kernels);
      } catch (error) {
        this.#faults.set(each, error);
        throw error;
      }
    }
    this.loaded = index;
    return true;
  }
}

function decodeTensor(record, shape, address, kernels) {
  const { flags } = record;
  const axis = flags & SECOND ? 1 : 0;
  if (axis >= shape.length) throw new BitstreamError("a tensor of one axis has no second");
  const offsets =
    flags & CHANNELS ? sideIntegers(kernels, shape[axis], record.channelLevel).values : [0];
  const integers = kernels.reserve(4 * size(shape));
  const models = kernels.reserve(kernels.run.model_bytes(record.bound));
  const decode = flags & CONTEXT ? decodeLatent : decodePlain;
  decode(record, shape, integers, models, kernels);
  if (flags & PREDICTED) {
    check(kernels.run.undo_prediction(integers, shape[0], size(shape.slice(1))));
  }
  const steps = channelSteps(record.step, offsets);
  dequantize(kernels, address, integers, steps, shape, axis, flags);
}

function decodePlain(record, shape, to, models, kernels) {
  const { flags } = record;
  const rows = size(shape.slice(0, flags & PAIRS ? 2 : 1));
  const columns = size(shape) / rows;
  const side = (flag, count, level) =>
    flags & flag ? sideIntegers(kernels, count, level).address : 0;
  const rowOffsets = side(ROWS, rows, record.rowLevel);
  const columnOffsets = side(COLUMNS, columns, record.columnLevel);
  const scratch = kernels.reserve(5 * rows * columns);
  check(
    kernels.run.decode_plain(
      to, rows, columns, record.level, rowOffsets, columnOffsets, record.bound, models, scratch,
    ),
  );
}

function decodeLatent(record, shape, to, models, kernels) {
  if (shape.length !== 4 || size(shape) > MAX_CONTEXT_INTEGERS) {
    throw new BitstreamError("a tensor with contexts has other axes, or too many integers");
  }
  const bases = sideIntegers(kernels, shape[1], record.rowLevel);
  kernels.integers(bases.address, shape[1]).set(bases.values.map((value) => value + record.level));
  const weights = sideIntegers(kernels, CONTEXT_WEIGHTS, CONTEXT_WEIGHT_LEVEL);
  const scratch = kernels.reserve(Number(kernels.run.latent_bytes(...shape)));
  check(
    kernels.run.decode_latent(
      to, ...shape, bases.address, weights.address, record.bound, models, scratch,
    ),
  );
}

/** Decode offsets or weights; return their address and their values. */
function sideIntegers(kernels, count, level) {
  const address = kernels.reserve(4 * count);
  check(kernels.run.decode_side(address, count, level));
  return { address, values: kernels.integers(address, count).slice() };
}

function check(fault) {
  if (fault) throw new BitstreamError(`a segment cannot be decoded: ${FAULTS[fault]}`);
}

/** Return the steps of channels, whose offsets are in half octaves, rounded to float32. */
function channelSteps(step, offsets) {
  return Array.from(offsets, (offset) => {
    const odd = offset & 1;
    const first = odd ? Math.fround(step * ROOT) : step;
    return Math.fround(first * 2 ** ((offset - odd) / 2));
  });
}

function dequantize(kernels, to, integers, steps, shape, axis, flags) {
  const single = steps.length === 1;
  const outer = single ? 1 : size(shape.slice(0, axis));
  const inner = size(shape) / steps.length / outer;
  const address = kernels.putFloats(steps);
  kernels.run.dequantize(to, integers, address, outer, steps.length, inner, flags & DELTA);
}
