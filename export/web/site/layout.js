/** Layouts of values: strides, and the places that operators read and write. */

import { size } from "./graph.js";

const CUBIC = -0.75;

/** Return strides in elements of a shape in row-major order. */
export function strides(shape) {
  const found = new Array(shape.length);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    found[axis] = step;
    step *= shape[axis];
  }
  return found;
}

/** Return strides with which a value of a shape is broadcast to another shape. */
export function broadcastStrides(shape, wanted) {
  const own = strides(shape);
  const missing = wanted.length - shape.length;
  return wanted.map((_, axis) => {
    const place = axis - missing;
    return place < 0 || shape[place] === 1 ? 0 : own[place];
  });
}

/**
 * Return the loops of an operator of two values, from the outermost on: lengths, and the strides
 * of both. Neighbouring axes that are passed in one go by both values are one loop.
 */
export function loopsOf(a, b, y) {
  const loops = [];
  const x = broadcastStrides(a.shape, y.shape);
  const z = broadcastStrides(b.shape, y.shape);
  y.shape.forEach((length, axis) => {
    if (length === 1) return;
    const last = loops.at(-1);
    if (last && last.a === x[axis] * length && last.b === z[axis] * length) {
      Object.assign(last, { length: last.length * length, a: x[axis], b: z[axis] });
    } else loops.push({ length, a: x[axis], b: z[axis] });
  });
  return loops;
}

/** Return the axis of an operator, counted from the first, for a value of a shape. */
export function axisOf(node, shape, otherwise) {
  return ((node.attributes.axis ?? otherwise) + shape.length) % shape.length;
}

function concat(node, inputs, [y]) {
  const axis = axisOf(node, y.shape);
  const outer = size(y.shape.slice(0, axis));
  const whole = size(y.shape.slice(axis));
  let place = 0;
  return inputs.map((x) => {
    const inner = x.count / outer;
    const toOffset = place;
    place += inner;
    return { x, y, shape: [outer, inner], from: [inner, 1], to: [whole, 1], toOffset };
  });
}

function split(node, [x], outputs) {
  const axis = axisOf(node, x.shape, 0);
  const outer = size(x.shape.slice(0, axis));
  const whole = x.count / outer;
  let place = 0;
  return outputs.map((y) => {
    const inner = y.count / outer;
    const fromOffset = place;
    place += inner;
    return { x, y, shape: [outer, inner], from: [whole, 1], to: [inner, 1], fromOffset };
  });
}

function transpose(node, [x], [y]) {
  const order = node.attributes.perm ?? x.shape.map((_, axis) => x.shape.length - 1 - axis);
  const from = strides(x.shape);
  return [{ x, y, shape: y.shape, from: order.map((axis) => from[axis]), to: strides(y.shape) }];
}

function depthToSpace(node, [x], [y]) {
  const block = node.attributes.blocksize;
  const [batch, channels, height, width] = x.shape;
  const depth = channels / block ** 2;
  // The axes: batch, channel, row, row in the block, column, column in the block.
  const shape = [batch, depth, height, block, width, block];
  const [a, b, c, d] = strides(x.shape);
  const from =
    node.attributes.mode === "CRD"
      ? [a, b * block ** 2, c, b * block, d, b]
      : [a, b, c, b * block * depth, d, b * depth];
  return [{ x, y, shape, from, to: strides(shape) }];
}

function expand(_, [x], [y]) {
  return [{ x, y, shape: y.shape, from: broadcastStrides(x.shape, y.shape), to: strides(y.shape) }];
}

/**
 * Operators that copy elements, by name: functions of a node, its inputs and its outputs. They
 * return copies from `x` to `y` of a shape, with strides `from` and `to`, and offsets in elements.
 */
export const COPIES = {
  Concat: concat, DepthToSpace: depthToSpace, Expand: expand, Split: split, Transpose: transpose,
};

/** Return the elements that make each element of a resized axis, for rows and for columns. */
export function resizeTaps(node, [x, , scales], [y]) {
  const { mode, coordinate_transformation_mode: places } = node.attributes;
  const isAligned = places === "align_corners";
  const given = scales?.count ? scales.constant : null;
  const along = (axis) => {
    const scale = given ? given[axis] : y.shape[axis] / x.shape[axis];
    return taps(x.shape[axis], y.shape[axis], scale, mode, isAligned);
  };
  return { across: along(3), down: along(2) };
}

/** Return the places and weights of the elements that make each element of a resized axis. */
function taps(length, out, scale, mode, isAligned) {
  const isCubic = mode === "cubic";
  const count = isCubic ? 4 : 2;
  const places = [];
  const weights = [];
  for (let index = 0; index < out; index++) {
    const exact = isAligned
      ? out > 1 ? (index * (length - 1)) / (out - 1) : 0
      : (index + 0.5) / scale - 0.5;
    const first = Math.floor(exact);
    const t = exact - first;
    const each = isCubic ? [cubic(1 + t), cubic(t), cubic(1 - t), cubic(2 - t)] : [1 - t, t];
    for (let tap = 0; tap < count; tap++) {
      places.push(Math.min(Math.max(first + tap - (isCubic ? 1 : 0), 0), length - 1));
      weights.push(each[tap]);
    }
  }
  return { count, places, weights };
}

/** Return the weight of cubic convolution at a distance. */
function cubic(x) {
  const a = CUBIC;
  return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}
