/** Types and shapes of a graph's values, and the limits of memory and arithmetic for a frame. */

import { BitstreamError, UnsupportedError } from "./errors.js";
import { FLOAT, INT32, INT64, size } from "./graph.js";

const RGB = 3;
const MAX_VALUES_PER_PIXEL = 512;
const FREE_VALUES = 2 ** 22;
const MAX_VALUES = 2 ** 30;
const MAX_ARITHMETIC_PER_PIXEL = 2 ** 19;
const FREE_ARITHMETIC = 2 ** 32;
const MAX_ARITHMETIC = 2 ** 40;
const TOUCHED = 16;
const MAX_AXES = 6;
/** Coefficient of cubic interpolation. */
const CUBIC = -0.75;
/** Numbers of times for which sizes are inferred: one, and two to see that they grow with it. */
const BATCHES = [1, 2, 256];

/**
 * Return the values of a graph for one time, by name: their `shape`, `type`, and whether they
 * vary (`isVarying`) with the time.
 *
 * Throws BitstreamError if the graph breaks a rule, and UnsupportedError for what this engine has
 * no kernel for.
 */
export function checkGraph(graph) {
  const [values, ...grown] = BATCHES.map((batch) => inferAll(graph, batch));
  BATCHES.slice(1).forEach((batch, index) => {
    for (const [name, { shape }] of grown[index]) checkGrowth(values.get(name).shape, shape, batch);
  });
  for (const [index, batch] of BATCHES.entries()) {
    const { shape, type } = [values, ...grown][index].get(graph.frames) ?? { shape: [] };
    if (String(shape) !== String([batch, RGB, ...graph.frame]) || type !== FLOAT) {
      throw new BitstreamError(`${graph.frames} has another size than it declares`);
    }
  }
  checkCost(graph, values);
  return values;
}

function checkGrowth(shape, grown, batch) {
  const isFixed = String(shape) === String(grown);
  const [first, ...rest] = shape;
  if (!isFixed && String([batch * first, ...rest]) !== String(grown)) {
    throw new BitstreamError("a value must grow with the number of times, along its first axis");
  }
}

function inferAll(graph, batch) {
  const given = [...graph.tensors, ...graph.constants];
  if (given.some(({ shape }) => shape.length > MAX_AXES)) {
    throw new UnsupportedError(`a value has over ${MAX_AXES} axes`);
  }
  const values = new Map([[graph.time, { shape: [batch], type: FLOAT, isVarying: true }]]);
  for (const { name, shape } of graph.tensors) values.set(name, { shape, type: FLOAT });
  for (const { name, shape, type, data } of graph.constants) {
    values.set(name, { shape, type, constant: data });
  }
  for (const node of graph.nodes) {
    const infer = INFER[node.op];
    if (!infer) throw new UnsupportedError(`the operator ${node.op} has no kernel here`);
    checkInputs(node);
    const inputs = node.inputs.map((name) => {
      const found = name ? values.get(name) : null;
      if (found === undefined) throw new BitstreamError(`${node.op} takes a value not made yet`);
      return found;
    });
    const made = infer(new Node(node, inputs));
    if (made.length !== node.outputs.length) throw invalid(node.op);
    const isVarying = inputs.some((input) => input?.isVarying);
    node.outputs.forEach((name, index) => {
      const { shape, type = FLOAT, constant } = made[index];
      const isWhole = shape.every((side) => Number.isInteger(side) && side > 0);
      if (shape.length > MAX_AXES) throw new UnsupportedError(`a value has over ${MAX_AXES} axes`);
      if (!isWhole || size(shape) > MAX_VALUES) {
        throw new BitstreamError(`${node.op} makes a value without a size over 0`);
      }
      values.set(name, { shape, type, constant, isVarying });
    });
  }
  return values;
}

/** Check the number of a node's inputs, and that none but the last ones are left out. */
function checkInputs({ op, inputs }) {
  const [least, most] = INPUTS[op] ?? [1, 1];
  if (inputs.length < least || inputs.length > most || !inputs.slice(0, least).every(Boolean)) {
    const isMore = (op === "Max" || op === "Min") && inputs.length;
    if (isMore) throw new UnsupportedError(`${op} takes another number of values than 2`);
    throw invalid(op);
  }
}

function invalid(op) {
  return new BitstreamError(`topology is no valid graph: ${op}`);
}

/** A node with its inputs, for inference. */
class Node {
  constructor({ op, attributes, outputs }, inputs) {
    this.op = op;
    this.attributes = attributes;
    this.inputs = inputs;
    this.outputs = outputs.length;
  }

  /** Return an input's shape; throws BitstreamError if it is left out. */
  shape(index = 0) {
    if (!this.inputs[index]) throw invalid(this.op);
    return this.inputs[index].shape;
  }

  type(index = 0) {
    if (!this.inputs[index]) throw invalid(this.op);
    return this.inputs[index].type;
  }

  /** Return an input's fixed numbers, or undefined if it is left out. */
  fixed(index) {
    const input = this.inputs[index];
    if (!input) return undefined;
    if (!input.constant) throw new BitstreamError(`${this.op} takes a size that is not constant`);
    return Array.from(input.constant);
  }

  axis(value, rank = this.shape().length) {
    const axis = value < 0 ? value + rank : value;
    if (!(axis >= 0 && axis < rank)) throw invalid(this.op);
    return axis;
  }

  /** Require a number of axes of the first input, and that it is of floats. */
  require(rank) {
    if (this.shape().length !== rank || this.type() !== FLOAT) {
      throw new UnsupportedError(`${this.op} takes floats of ${rank} axes here`);
    }
  }

  /** Require floats as all inputs. */
  floats() {
    if (this.inputs.some((input) => input && input.type !== FLOAT)) {
      throw new UnsupportedError(`${this.op} takes floats here`);
    }
  }
}

function same(node) {
  node.floats();
  return [{ shape: node.shape() }];
}

function broadcast(a, b, op) {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, index) => {
    const x = a[a.length - rank + index] ?? 1;
    const y = b[b.length - rank + index] ?? 1;
    if (x !== y && x !== 1 && y !== 1) throw invalid(op);
    return x === 1 ? y : x;
  });
}

function binary(node) {
  if (node.inputs.length !== 2 || node.type(0) !== node.type(1)) throw invalid(node.op);
  return [{ shape: broadcast(node.shape(0), node.shape(1), node.op), type: node.type() }];
}

function power(node) {
  return [{ shape: broadcast(node.shape(0), node.shape(1), node.op), type: node.type() }];
}

function clip(node) {
  for (const bound of node.inputs.slice(1)) {
    if (bound && (size(bound.shape) !== 1 || bound.type !== node.type())) throw invalid(node.op);
  }
  return [{ shape: node.shape(), type: node.type() }];
}

function gelu(node) {
  if ((node.attributes.approximate ?? "none") !== "none") {
    throw new UnsupportedError("Gelu is approximated");
  }
  return same(node);
}

function instanceNormalization(node) {
  const channels = String([node.shape()[1]]);
  if (String(node.shape(1)) !== channels || String(node.shape(2)) !== channels) {
    throw invalid(node.op);
  }
  return same(node);
}

function conv(node) {
  node.require(4);
  node.floats();
  const [batch, channels, height, width] = node.shape();
  const [outputs, terms, rows, columns] = node.shape(1);
  const { group = 1, auto_pad: padding = "NOTSET", kernel_shape: kernel } = node.attributes;
  const { pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1] } = node.attributes;
  if (!(group > 0) || node.shape(1).length !== 4 || channels !== terms * group || outputs % group) {
    throw invalid(node.op);
  }
  if (kernel && String(kernel) !== String([rows, columns])) throw invalid(node.op);
  if (node.inputs[2] && String(node.shape(2)) !== String([outputs])) throw invalid(node.op);
  if (padding !== "NOTSET" || String(strides) !== "1,1" || String(dilations) !== "1,1") {
    throw new UnsupportedError("Conv has steps, dilations or automatic padding");
  }
  if (pads.length !== 4 || pads.some((pad) => pad < 0 || pad > 2 ** 15)) throw invalid(node.op);
  const [top, left, bottom, right] = pads;
  const shape = [
    batch,
    outputs,
    height + top + bottom - rows + 1,
    width + left + right - columns + 1,
  ];
  return [{ shape }];
}

function resize(node) {
  node.require(4);
  const { mode = "nearest", coordinate_transformation_mode: places = "half_pixel" } =
    node.attributes;
  const isKnown =
    ["linear", "cubic"].includes(mode) &&
    ["half_pixel", "align_corners"].includes(places) &&
    !node.attributes.antialias &&
    !node.attributes.exclude_outside &&
    !node.attributes.axes &&
    (node.attributes.cubic_coeff_a ?? CUBIC) === CUBIC &&
    (node.attributes.keep_aspect_ratio_policy ?? "stretch") === "stretch" &&
    !node.inputs[1];
  if (!isKnown) throw new UnsupportedError("Resize has a mode without a kernel here");
  const scales = node.fixed(2);
  const sizes = scales?.length ? null : node.fixed(3);
  const shape = sizes ?? node.shape().map((length, axis) => Math.floor(length * scales?.[axis]));
  if (shape.length !== 4 || shape[0] !== node.shape()[0] || shape[1] !== node.shape()[1]) {
    throw new UnsupportedError("Resize changes other axes than rows and columns");
  }
  return [{ shape }];
}

function gridSample(node) {
  node.require(4);
  node.floats();
  const [batch, channels] = node.shape();
  const grid = node.shape(1);
  const { mode = "linear", padding_mode: padding = "zeros" } = node.attributes;
  if (grid.length !== 4 || grid[3] !== 2 || grid[0] !== batch) throw invalid(node.op);
  const modes = ["linear", "bilinear", "cubic", "bicubic"];
  if (!modes.includes(mode) || !["zeros", "border"].includes(padding)) {
    throw new UnsupportedError("GridSample has a mode without a kernel here");
  }
  return [{ shape: [batch, channels, grid[1], grid[2]] }];
}

function matMul(node) {
  node.floats();
  const a = node.shape(0);
  const b = node.shape(1);
  if (a.length < 2 || b.length < 2) throw new UnsupportedError("MatMul takes a vector");
  if (a.at(-1) !== b.at(-2)) throw invalid(node.op);
  const shape = [...broadcast(a.slice(0, -2), b.slice(0, -2), node.op), a.at(-2), b.at(-1)];
  return [{ shape }];
}

function gemm(node) {
  node.require(2);
  node.floats();
  const { transA, transB } = node.attributes;
  const [rows, terms] = transA ? node.shape().toReversed() : node.shape();
  const [others, columns] = transB ? node.shape(1).toReversed() : node.shape(1);
  if (node.shape(1).length !== 2 || terms !== others) throw invalid(node.op);
  if (node.inputs[2]) {
    const shape = broadcast(node.shape(2), [rows, columns], node.op);
    if (String(shape) !== String([rows, columns])) throw invalid(node.op);
  }
  return [{ shape: [rows, columns] }];
}

function reshape(node) {
  const wanted = node.fixed(1);
  if (wanted.length > MAX_AXES) throw new UnsupportedError(`a value has over ${MAX_AXES} axes`);
  const shape = wanted.map((length, axis) =>
    length === 0 && !node.attributes.allowzero ? node.shape()[axis] : length,
  );
  const open = shape.indexOf(-1);
  const count = size(node.shape());
  if (open >= 0) shape[open] = count / -size(shape);
  if (shape.some((length) => !(length > 0)) || size(shape) !== count) throw invalid(node.op);
  return [{ shape, type: node.type() }];
}

function split(node) {
  const axis = node.axis(node.attributes.axis ?? 0);
  const whole = node.shape()[axis];
  const count = node.attributes.num_outputs ?? node.outputs;
  const each = Math.ceil(whole / count);
  const sizes =
    node.fixed(1) ??
    Array.from({ length: count }, (_, index) => Math.min(each, whole - each * index));
  const sum = sizes.reduce((total, length) => total + length, 0);
  if (sum !== whole || sizes.some((length) => !(length > 0))) throw invalid(node.op);
  return sizes.map((length) => ({ shape: node.shape().with(axis, length), type: node.type() }));
}

function concat(node) {
  const axis = node.axis(node.attributes.axis ?? NaN);
  const first = node.shape();
  let length = 0;
  node.inputs.forEach((_, index) => {
    const shape = node.shape(index);
    const isFitting = shape.length === first.length && node.type(index) === node.type();
    if (!isFitting || shape.some((side, each) => each !== axis && side !== first[each])) {
      throw invalid(node.op);
    }
    length += shape[axis];
  });
  return [{ shape: first.with(axis, length), type: node.type() }];
}

function transpose(node) {
  const shape = node.shape();
  const order = node.attributes.perm ?? shape.map((_, axis) => shape.length - 1 - axis);
  const isPermutation = order.length === shape.length && shape.every((_, axis) => order.includes(axis));
  if (!isPermutation) throw invalid(node.op);
  return [{ shape: order.map((axis) => shape[axis]), type: node.type() }];
}

function depthToSpace(node) {
  node.require(4);
  const [batch, channels, height, width] = node.shape();
  const block = node.attributes.blocksize;
  if (!(block > 0) || channels % block ** 2) throw invalid(node.op);
  return [{ shape: [batch, channels / block ** 2, height * block, width * block] }];
}

function gather(node) {
  const axis = node.axis(node.attributes.axis ?? 0);
  if (![INT32, INT64].includes(node.type(1))) throw invalid(node.op);
  if (axis !== 0) throw new UnsupportedError("Gather has another axis than the first");
  return [{ shape: [...node.shape(1), ...node.shape().slice(1)], type: node.type() }];
}

function squeeze(node) {
  const shape = node.shape();
  const axes = node.fixed(1)?.map((axis) => node.axis(axis));
  if (axes?.some((axis) => shape[axis] !== 1)) throw invalid(node.op);
  const kept = shape.filter((length, axis) => (axes ? !axes.includes(axis) : length !== 1));
  return [{ shape: kept, type: node.type() }];
}

function unsqueeze(node) {
  const shape = node.shape();
  const given = node.fixed(1);
  if (given.length > MAX_AXES) throw new UnsupportedError(`a value has over ${MAX_AXES} axes`);
  const rank = shape.length + given.length;
  const axes = given.map((axis) => node.axis(axis, rank));
  if (new Set(axes).size !== axes.length) throw invalid(node.op);
  let next = 0;
  const found = Array.from({ length: rank }, (_, axis) => (axes.includes(axis) ? 1 : shape[next++]));
  return [{ shape: found, type: node.type() }];
}

function expand(node) {
  if (node.fixed(1).length > MAX_AXES) {
    throw new UnsupportedError(`a value has over ${MAX_AXES} axes`);
  }
  return [{ shape: broadcast(node.shape(), node.fixed(1), node.op), type: node.type() }];
}

function cast(node) {
  const type = node.attributes.to;
  if (![FLOAT, INT32, INT64].includes(type)) {
    throw new BitstreamError("values must be float32, int32 or int64");
  }
  return [{ shape: node.shape(), type }];
}

function constant(node) {
  const { value, value_float: float, value_int: integer } = node.attributes;
  if (value) return [{ shape: value.shape, type: value.type, constant: value.data }];
  if (float !== undefined) return [{ shape: [], constant: Float32Array.of(float) }];
  if (integer !== undefined) return [{ shape: [], type: INT64, constant: [integer] }];
  throw new UnsupportedError("Constant has a kind of value without a kernel here");
}

const INFER = {
  Abs: same, Add: binary, Cast: cast, Ceil: same, Clip: clip, Concat: concat,
  Constant: constant, Conv: conv, Cos: same, DepthToSpace: depthToSpace, Div: binary, Erf: same,
  Exp: same, Expand: expand, Floor: same, Gather: gather, Gelu: gelu, Gemm: gemm,
  GridSample: gridSample, InstanceNormalization: instanceNormalization, MatMul: matMul, Max: binary, Min: binary,
  Mul: binary, Neg: same, Pow: power, Relu: same, Reshape: reshape, Resize: resize,
  Sigmoid: same, Sin: same, Softmax: same, Split: split, Sqrt: same, Squeeze: squeeze,
  Sub: binary, Tanh: same, Transpose: transpose, Unsqueeze: unsqueeze,
};

/** Least and most inputs of operators that take another number than one. */
const INPUTS = {
  Add: [2, 2], Clip: [1, 3], Concat: [1, 4096], Constant: [0, 0], Conv: [2, 3], Div: [2, 2],
  Expand: [2, 2], Gather: [2, 2], Gemm: [2, 3], GridSample: [2, 2],
  InstanceNormalization: [3, 3], MatMul: [2, 2], Max: [2, 2], Min: [2, 2], Mul: [2, 2],
  Pow: [2, 2], Reshape: [2, 2], Resize: [1, 4], Split: [1, 2], Squeeze: [1, 2], Sub: [2, 2],
  Unsqueeze: [2, 2],
};

/** Check the memory and the arithmetic of a frame; the specification gives the bounds. */
function checkCost(graph, values) {
  const weigh = (name) => {
    const { shape, type } = values.get(name);
    return size(shape) * (type === INT64 ? 2 : 1);
  };
  const lastUse = new Map();
  graph.nodes.forEach(({ inputs, outputs }, index) => {
    for (const name of [...outputs, ...inputs]) lastUse.set(name, index);
  });
  const given = [graph.time, ...graph.tensors.map(({ name }) => name)];
  const weights = [...given, ...graph.constants.map(({ name }) => name)]
    .map(weigh)
    .reduce((sum, count) => sum + count, 0);
  const dropped = new Map();
  let held = 0;
  let peak = 0;
  let arithmetic = 0;
  graph.nodes.forEach((node, index) => {
    for (const name of node.outputs) {
      held += weigh(name);
      if (values.get(name).isVarying && name !== graph.frames) {
        const at = lastUse.get(name);
        dropped.set(at, (dropped.get(at) ?? 0) + weigh(name));
      }
    }
    peak = Math.max(peak, held);
    held -= dropped.get(index) ?? 0;
    arithmetic += multiplications(node, values, weigh);
  });
  const pixels = weigh(graph.frames) / RGB;
  const memory = Math.min(MAX_VALUES_PER_PIXEL * pixels + FREE_VALUES + weights, MAX_VALUES);
  if (weights + peak > memory) throw new BitstreamError("a frame needs too many values at once");
  const most = Math.min(MAX_ARITHMETIC_PER_PIXEL * pixels + FREE_ARITHMETIC, MAX_ARITHMETIC);
  if (arithmetic > most) throw new BitstreamError("a frame needs too many multiplications");
}

function multiplications({ op, inputs, outputs, attributes }, values, weigh) {
  const shape = (index) => values.get(inputs[index]).shape;
  const made = outputs.map(weigh).reduce((sum, count) => sum + count, 0);
  if (op === "Conv") return made * size(shape(1).slice(1));
  if (op === "MatMul") return made * shape(0).at(-1);
  if (op === "Gemm") return made * shape(0)[attributes.transA ? 0 : 1];
  return TOUCHED * (made + inputs.filter(Boolean).map(weigh).reduce((sum, x) => sum + x, 0));
}
