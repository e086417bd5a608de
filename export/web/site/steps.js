/** The operators: each makes the call of a kernel for a node, or nothing if there is nothing to do. */

import { UnsupportedError } from "./errors.js";
import { FLOAT, size } from "./graph.js";
import { axisOf, broadcastStrides, COPIES, loopsOf, resizeTaps, strides } from "./layout.js";

/** Axes that the kernel for copies has. */
const AXES = 6;
const OUTPUTS = 4;
const ACTIVATIONS = { Swish: 1, Sigmoid: 2 };

function unary(kernel) {
  return (_, [x], [y], { run }) => () => run[kernel](y.address, x.address, x.count);
}

function integerBinary(compute, a, b, y, kernels) {
  const first = indices(a.shape, y.shape, kernels);
  const second = indices(b.shape, y.shape, kernels);
  return () => {
    for (let index = 0; index < y.count; index++) {
      y.integers[index] = compute(a.integers[first[index]], b.integers[second[index]]);
    }
  };
}

/** Return the place in a broadcast value for each element of a shape. */
function indices(shape, wanted, kernels) {
  kernels.list(size(wanted));
  const from = broadcastStrides(shape, wanted);
  const to = strides(wanted);
  return Array.from({ length: size(wanted) }, (_, index) =>
    to.reduce((sum, step, axis) => sum + (Math.floor(index / step) % wanted[axis]) * from[axis], 0),
  );
}

/** Make an operator of two values, floats by a kernel and integers by a function. */
function binary(kernel, compute) {
  return (_, [a, b], [y], kernels) => {
    if (y.type !== FLOAT) return integerBinary(compute, a, b, y, kernels);
    const loops = loopsOf(a, b, y);
    while (loops.length < 3) loops.unshift({ length: 1, a: 0, b: 0 });
    const inner = loops.slice(-3);
    const outer = loops.slice(0, -3);
    const [i, j, k] = inner;
    const block = i.length * j.length * k.length;
    kernels.list(y.count / block);
    const calls = outer.reduce(
      (starts, { length, a: stepA, b: stepB }) =>
        starts.flatMap(([p, q]) =>
          Array.from({ length }, (_, index) => [p + stepA * index, q + stepB * index]),
        ),
      [[0, 0]],
    );
    const call = kernels.run[kernel];
    return () =>
      calls.forEach(([p, q], index) =>
        call(
          y.address + 4 * block * index, a.address + 4 * p, b.address + 4 * q, i.length, j.length,
          k.length, i.a, j.a, k.a, i.b, j.b, k.b,
        ),
      );
  };
}

/** Copy elements from one address to another, with strides for the axes of a shape. */
function strided(kernels, shape, from, to, target, source) {
  const missing = AXES - shape.length;
  // A block of pixels has two axes more.
  if (missing < 0) throw new UnsupportedError(`a value has over ${AXES} axes`);
  const pad = (list, value) => [...new Array(missing).fill(value), ...list];
  const table = kernels.putIntegers([...pad(shape, 1), ...pad(from, 0), ...pad(to, 0)]);
  return () => kernels.run.copy_strided(target, source, table);
}

/** Throw UnsupportedError for integers, which are not in the kernels' memory. */
function requireFloats({ type }) {
  if (type !== FLOAT) throw new UnsupportedError("integers change their layout");
}

/** Throw UnsupportedError for a value with a first axis of another length than 1. */
function requireSingle({ shape }) {
  if (shape[0] !== 1) throw new UnsupportedError("a picture is made of several at once");
}

/** Convolve; weights that do not vary are packed once for a segment. */
function conv(node, [x, weights, bias, residual], [y], kernels) {
  const { run } = kernels;
  const { group = 1, pads = [0, 0, 0, 0], activation, factor = 1 } = node.attributes;
  const [batch, channels, height, width] = x.shape;
  const [outputs, terms, rows, columns] = weights.shape;
  const [, , outHeight, outWidth] = y.shape;
  const isPadded = pads.some(Boolean);
  const paddedHeight = height + pads[0] + pads[2];
  const stride = width + pads[1] + pads[3];
  const plane = paddedHeight * stride;
  const padded = isPadded ? kernels.reserve(4 * channels * plane) : 0;
  /** Return the address of a picture's input, with its padding. */
  const input = (index) => {
    const from = x.address + 4 * channels * height * width * index;
    if (!isPadded) return from;
    run.pad_planes(padded, from, channels, height, width, pads[0], pads[1], paddedHeight, stride);
    return padded;
  };
  const made = 4 * outputs * outHeight * outWidth;
  const biases = bias?.address ?? 0;
  if (group > 1 && group === channels && outputs === channels) {
    return () => {
      for (let index = 0; index < batch; index++) {
        run.convolve_depthwise(
          y.address + made * index, input(index), weights.address, biases, channels, outHeight,
          outWidth, rows, columns, stride,
        );
      }
    };
  }
  const each = outputs / group;
  const count = terms * rows * columns;
  const packEach = 4 * Math.ceil(each / OUTPUTS) * OUTPUTS * count;
  const packed = kernels.reserve(group * packEach);
  kernels.list(count);
  const offsets = kernels.putIntegers(
    Array.from({ length: count }, (_, index) => {
      const column = index % columns;
      const row = Math.floor(index / columns) % rows;
      return Math.floor(index / rows / columns) * plane + row * stride + column;
    }),
  );
  // A convolution of single pixels takes the whole plane as one row.
  const isFlat = rows === 1 && columns === 1 && !isPadded;
  const lines = isFlat ? 1 : outHeight;
  const line = isFlat ? outHeight * outWidth : outWidth;
  const pack = () => {
    for (let index = 0; index < group; index++) {
      const from = weights.address + 4 * each * count * index;
      run.pack_weights(packed + packEach * index, from, each, count);
    }
  };
  const convolve = (to, from, added) => {
    for (let index = 0; index < group; index++) {
      const skip = (made / group) * index;
      run.convolve(
        to + skip, from + 4 * terms * plane * index, offsets, packed + packEach * index,
        biases && biases + 4 * each * index, added && added + skip, each, count, lines, line,
        isFlat ? line : stride, ACTIVATIONS[activation] ?? 0, factor,
      );
    }
  };
  const convolveAll = () => {
    if (weights.isVarying) pack();
    for (let index = 0; index < batch; index++) {
      const added = residual ? residual.address + made * index : 0;
      convolve(y.address + made * index, input(index), added);
    }
  };
  return weights.isVarying ? convolveAll : { prepare: pack, run: convolveAll };
}

function gridSample(node, [x, grid], [y], { run }) {
  requireSingle(x);
  const [, channels, height, width] = x.shape;
  const { mode = "linear", align_corners: aligned = 0, padding_mode: padding } = node.attributes;
  const isCubic = Number(mode.endsWith("cubic"));
  const count = grid.count / 2;
  // A planar grid has all xs first, then all ys.
  const [step, ys] = node.attributes.planar ? [1, 4 * count] : [2, 4];
  return () =>
    run.sample(
      y.address, x.address, grid.address, grid.address + ys, step, count, channels, height, width,
      isCubic, aligned, Number(padding === "border"),
    );
}

function resize(node, inputs, outputs, kernels) {
  const { run } = kernels;
  const [[x], [y]] = [inputs, outputs];
  const [batch, channels, height, width] = x.shape;
  const [, , outHeight, outWidth] = y.shape;
  kernels.list(8 * (outWidth + outHeight));
  const { across, down } = resizeTaps(node, inputs, outputs);
  const planes = batch * channels;
  const middle = kernels.reserve(4 * planes * height * outWidth);
  const [acrossPlaces, downPlaces] = [across, down].map(({ places: list }) => kernels.putIntegers(list));
  const [acrossWeights, downWeights] = [across, down].map(({ weights }) => kernels.putFloats(weights));
  return () => {
    run.resize_rows(
      middle, x.address, planes * height, width, outWidth, across.count, acrossPlaces, acrossWeights,
    );
    run.resize_columns(
      y.address, middle, planes, height, outHeight, outWidth, down.count, downPlaces, downWeights,
    );
  };
}

function gather(_, [x, places], [y], kernels) {
  const inner = size(x.shape.slice(1));
  const rows = x.shape[0];
  const place = (index) => {
    const found = places.integers[index];
    return Math.min(Math.max(found < 0 ? found + rows : found, 0), rows - 1);
  };
  if (y.type !== FLOAT) {
    return () => {
      for (let index = 0; index < y.count; index++) {
        y.integers[index] = x.integers[place(Math.floor(index / inner)) * inner + (index % inner)];
      }
    };
  }
  return () => {
    for (let index = 0; index < places.count; index++) {
      const source = kernels.floats(x.address + 4 * inner * place(index), inner);
      kernels.floats(y.address + 4 * inner * index, inner).set(source);
    }
  };
}

function cast(_, [x], [y], kernels) {
  const isFloat = x.type === FLOAT;
  if (y.type === FLOAT) {
    return () => {
      const from = isFloat ? kernels.floats(x.address, x.count) : x.integers;
      kernels.floats(y.address, y.count).set(from);
    };
  }
  return () => {
    const from = isFloat ? kernels.floats(x.address, x.count) : x.integers;
    for (let index = 0; index < y.count; index++) y.integers[index] = Math.trunc(from[index]) || 0;
  };
}

function clip(_, [x, least, most], [y], kernels) {
  const { run } = kernels;
  const bound = (value, otherwise) => () => {
    if (!value) return otherwise;
    return value.type === FLOAT ? kernels.floats(value.address, 1)[0] : value.integers[0];
  };
  const low = bound(least, -Infinity);
  const high = bound(most, Infinity);
  if (x.type === FLOAT) return () => run.clip(y.address, x.address, x.count, low(), high());
  return () => {
    for (let index = 0; index < y.count; index++) {
      y.integers[index] = Math.min(Math.max(x.integers[index], low()), high());
    }
  };
}

/** Make an operator that copies elements. */
function copying(op) {
  return (node, inputs, outputs, kernels) => {
    requireFloats(inputs[0]);
    const parts = COPIES[op](node, inputs, outputs).map((copy) => {
      const { x, y, shape, from, to, fromOffset = 0, toOffset = 0 } = copy;
      return strided(kernels, shape, from, to, y.address + 4 * toOffset, x.address + 4 * fromOffset);
    });
    return () => parts.forEach((part) => part());
  };
}

const expand = copying("Expand");
const concatFloats = copying("Concat");

function concat(node, inputs, [y], kernels) {
  if (y.type === FLOAT) return concatFloats(node, inputs, [y], kernels);
  return integerConcat(inputs, y, size(y.shape.slice(0, axisOf(node, y.shape))));
}

function integerConcat(inputs, y, outer) {
  return () => {
    let place = 0;
    for (let row = 0; row < outer; row++) {
      for (const { integers, count } of inputs) {
        for (let index = 0; index < count / outer; index++) {
          y.integers[place++] = integers[(row * count) / outer + index];
        }
      }
    }
  };
}

function matMul(_, [a, b], [y], kernels) {
  const { run } = kernels;
  const [rows, terms] = a.shape.slice(-2);
  const columns = b.shape.at(-1);
  const batches = y.shape.slice(0, -2);
  const first = indices(a.shape.slice(0, -2), batches, kernels);
  const second = indices(b.shape.slice(0, -2), batches, kernels);
  return () => {
    kernels.floats(y.address, y.count).fill(0);
    first.forEach((place, index) =>
      run.multiply(
        y.address + 4 * rows * columns * index, a.address + 4 * rows * terms * place,
        b.address + 4 * terms * columns * second[index], rows, terms, columns, terms, 1, columns, 1,
        1,
      ),
    );
  };
}

function gemm(node, [a, b, c], [y], kernels) {
  const { transA = 0, transB = 0, alpha = 1, beta = 1 } = node.attributes;
  const [rows, columns] = y.shape;
  const terms = a.shape[transA ? 0 : 1];
  const add = c && expand(node, [c], [y], kernels);
  return () => {
    kernels.floats(y.address, y.count).fill(0);
    add?.();
    if (add && beta !== 1) {
      const values = kernels.floats(y.address, y.count);
      values.forEach((value, index) => (values[index] = beta * value));
    }
    kernels.run.multiply(
      y.address, a.address, b.address, rows, terms, columns, transA ? 1 : terms,
      transA ? rows : 1, transB ? 1 : columns, transB ? terms : 1, alpha,
    );
  };
}

function power(_, [a, b], [y], kernels) {
  const first = indices(a.shape, y.shape, kernels);
  const second = indices(b.shape, y.shape, kernels);
  const read = (value) =>
    value.type === FLOAT ? kernels.floats(value.address, value.count) : value.integers;
  return () => {
    const [x, z] = [read(a), read(b)];
    const to = read(y);
    for (let index = 0; index < y.count; index++) to[index] = x[first[index]] ** z[second[index]];
  };
}

function instanceNormalization(node, [x, scale, shift], [y], { run }) {
  const [batch, channels] = x.shape;
  const inner = x.count / batch / channels;
  const { epsilon = 1e-5 } = node.attributes;
  const change = (kernel, by) =>
    run[kernel](y.address, y.address, by.address, batch, channels, inner, channels * inner, inner, 1, 0, 1, 0);
  return () => {
    run.normalize(y.address, x.address, batch * channels, inner, epsilon);
    change("times", scale);
    change("add", shift);
  };
}

function softmax(node, [x], [y], { run }) {
  const last = x.shape.at(-1);
  const { axis = -1 } = node.attributes;
  if (axis !== -1 && axis !== x.shape.length - 1) {
    throw new UnsupportedError("Softmax has another axis than the last");
  }
  return () => run.softmax(y.address, x.address, x.count / last, last);
}

const nothing = () => null;
const sine = (quarters) => (_, [x], [y], { run }) => () => run.sines(y.address, x.address, x.count, quarters);

/** Operators by name: functions of a node, its inputs, its outputs and the kernels. */
export const STEPS = {
  Abs: unary("absolute"), Add: binary("add", (a, b) => a + b), Cast: cast,
  Ceil: unary("ceiling"), Clip: clip, Concat: concat, Constant: nothing, Conv: conv,
  Cos: sine(1), DepthToSpace: copying("DepthToSpace"), Div: binary("divide", (a, b) => Math.trunc(a / b) || 0),
  Erf: unary("error_function"), Exp: unary("exponential"), Expand: expand,
  Floor: unary("floor_of"), Gather: gather, Gelu: unary("gelu"), Gemm: gemm,
  GridSample: gridSample, InstanceNormalization: instanceNormalization, MatMul: matMul,
  Max: binary("maximum", Math.max), Min: binary("minimum", Math.min),
  Mul: binary("times", (a, b) => a * b), Neg: unary("negative"), Pow: power,
  Relu: unary("relu"), Reshape: nothing, Resize: resize, Sigmoid: unary("sigmoid"),
  Sin: sine(0), Softmax: softmax, Split: copying("Split"), Sqrt: unary("square_root"), Squeeze: nothing,
  Sub: binary("subtract", (a, b) => a - b),
  Swish: (node, [x], [y], { run }) => () => run.swish(y.address, x.address, x.count, node.attributes.factor),
  Tanh: unary("tangent"), Transpose: copying("Transpose"), Unsqueeze: nothing,
};
