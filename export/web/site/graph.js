/** The network of a clip: reads the ONNX model in TOPO, and checks the rules of the format. */

import { BitstreamError } from "./errors.js";
import { inflate } from "./inflate.js";

export const FLOAT = 1;
export const INT32 = 6;
export const INT64 = 7;
const MAX_BYTES = 2 ** 20;
const MAX_NODES = 4096;
const MAX_TENSORS = 1024;
const MAX_WEIGHTS = 2 ** 25;
const MAX_ELEMENTS = 2 ** 20;
const OPSETS = [18, 23];
const IR_VERSIONS = [8, 12];
const TIME = "t";
const FRAMES = "rgb";
const OPERATORS = new Set(
  `Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv Cos DepthToSpace Div
  Erf Exp Expand Floor Gather Gelu Gemm GlobalAveragePool GridSample InstanceNormalization
  LayerNormalization LeakyRelu Log MatMul Max Min Mul Neg Pad Pow ReduceMean Relu Reshape Resize
  Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze`.split(/\s+/),
);

// Kinds of protobuf's wire format.
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** Kinds of a field that may be packed, of integers and of floats. */
const INTEGERS = [VARINT, BYTES];
const FLOATS = [FIXED32, BYTES];

/**
 * Yield the fields of a protobuf message: number, kind and value.
 *
 * `known` has the kinds of each field. Others are skipped, as protobuf does.
 */
function* fields(bytes, known) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; ) {
    let key;
    [key, at] = varint(bytes, at);
    const kind = key % 8;
    const number = Math.floor(key / 8);
    if (number < 1 || number >= 2 ** 29) throw new BitstreamError("topology is not an ONNX model");
    let value;
    if (kind === VARINT) {
      [value, at] = varint(bytes, at);
    } else {
      let length = kind === FIXED64 ? 8 : 4;
      if (kind === BYTES) [length, at] = varint(bytes, at);
      const isKnown = kind === FIXED64 || kind === BYTES || kind === FIXED32;
      if (!isKnown || length < 0 || at + length > bytes.length) {
        throw new BitstreamError("topology is not an ONNX model");
      }
      value = kind === FIXED32 ? view.getFloat32(at, true) : bytes.subarray(at, at + length);
      at += length;
    }
    if (known[number]?.includes(kind)) yield { number, kind, value };
  }
}

const MODEL = { 1: [VARINT], 7: [BYTES], 8: [BYTES], 20: [BYTES], 25: [BYTES] };
const OPSET = { 1: [BYTES], 2: [VARINT] };
const GRAPH = { 1: [BYTES], 5: [BYTES], 11: [BYTES], 12: [BYTES], 13: [BYTES], 15: [BYTES] };
const NODE = { 1: [BYTES], 2: [BYTES], 4: [BYTES], 5: [BYTES], 7: [BYTES] };
const ATTRIBUTE = {
  1: [BYTES], 2: [FIXED32], 3: [VARINT], 4: [BYTES], 5: [BYTES], 7: FLOATS, 8: INTEGERS,
  20: [VARINT],
};
const TENSOR = {
  1: INTEGERS, 2: [VARINT], 4: FLOATS, 5: INTEGERS, 7: INTEGERS, 8: [BYTES], 9: [BYTES],
  13: [BYTES], 14: [VARINT],
};
const VALUE = { 1: [BYTES], 2: [BYTES] };
const TYPE = { 1: [BYTES] };
const TENSOR_TYPE = { 1: [VARINT], 2: [BYTES] };
const SHAPE = { 1: [BYTES] };
const DIMENSION = { 1: [VARINT] };

// Kinds of attributes.
const A_FLOAT = 1;
const AN_INTEGER = 2;
const A_TEXT = 3;
const A_TENSOR = 4;
const A_LIST_OF_FLOATS = 6;
const A_LIST = 7;
/** Attributes of all operators: their kinds. */
export const ATTRIBUTES = {
  align_corners: AN_INTEGER, allowzero: AN_INTEGER, alpha: A_FLOAT, antialias: AN_INTEGER,
  approximate: A_TEXT, auto_pad: A_TEXT, axes: A_LIST, axis: AN_INTEGER, beta: A_FLOAT,
  blocksize: AN_INTEGER, ceil_mode: AN_INTEGER, coordinate_transformation_mode: A_TEXT,
  count_include_pad: AN_INTEGER, cubic_coeff_a: A_FLOAT, dilations: A_LIST, epsilon: A_FLOAT,
  exclude_outside: AN_INTEGER, extrapolation_value: A_FLOAT, fmod: AN_INTEGER, group: AN_INTEGER,
  keep_aspect_ratio_policy: A_TEXT, keepdims: AN_INTEGER, kernel_shape: A_LIST, mode: A_TEXT,
  momentum: A_FLOAT, nearest_mode: A_TEXT, noop_with_empty_axes: AN_INTEGER,
  num_outputs: AN_INTEGER, padding_mode: A_TEXT, pads: A_LIST, perm: A_LIST, saturate: AN_INTEGER,
  stash_type: AN_INTEGER, strides: A_LIST, to: AN_INTEGER, training_mode: AN_INTEGER,
  transA: AN_INTEGER, transB: AN_INTEGER, value: A_TENSOR, value_float: A_FLOAT,
  value_floats: A_LIST_OF_FLOATS, value_int: AN_INTEGER, value_ints: A_LIST,
};

/** Read a signed integer of up to ten bytes; return it and the place after it. */
function varint(bytes, at) {
  let low = 0;
  let high = 0;
  for (let shift = 0; shift < 70; shift += 7) {
    if (at >= bytes.length) break;
    const byte = bytes[at++];
    const part = byte & 0x7f;
    if (shift < 28) low |= part << shift;
    else if (shift === 28) {
      low |= part << 28;
      high |= part >> 4;
    } else high |= part << (shift - 32);
    if (byte < 0x80) return [(high | 0) * 2 ** 32 + (low >>> 0), at];
  }
  throw new BitstreamError("topology is not an ONNX model");
}

/** Return a text; protobuf's texts are UTF-8. */
function text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BitstreamError("topology is not an ONNX model");
  }
}

/** Add a field's numbers, which are packed or single, to a list. */
function numbers(list, { kind, value }) {
  if (kind === BYTES) for (let at = 0; at < value.length; ) {
    let number;
    [number, at] = varint(value, at);
    list.push(number);
  } else list.push(value);
}

function floats(list, { kind, value }) {
  if (kind !== BYTES) {
    list.push(value);
    return;
  }
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  if (value.length % 4) throw new BitstreamError("topology is not an ONNX model");
  for (let at = 0; at < value.length; at += 4) list.push(view.getFloat32(at, true));
}

function readTensor(bytes) {
  const shape = [];
  const floatData = [];
  const integers = [];
  let type = 0;
  let name = "";
  let raw = null;
  for (const field of fields(bytes, TENSOR)) {
    switch (field.number) {
      case 1: numbers(shape, field); break;
      case 2: type = field.value; break;
      case 4: floats(floatData, field); break;
      case 5: case 7: numbers(integers, field); break;
      case 8: name = text(field.value); break;
      case 9: raw = field.value; break;
      case 13: throw new BitstreamError("a constant lies outside the clip");
      case 14: if (field.value) throw new BitstreamError("a constant lies outside the clip");
    }
  }
  if (shape.some((length) => length < 0) || size(shape) > MAX_ELEMENTS) {
    throw new BitstreamError(`a constant must have at most ${MAX_ELEMENTS} elements`);
  }
  if (![FLOAT, INT32, INT64].includes(type)) {
    throw new BitstreamError(`constants must be float32, int32 or int64, got type ${type}`);
  }
  const data = raw ? fromRaw(raw, type) : type === FLOAT ? floatData : integers;
  if (data.length !== size(shape)) throw new BitstreamError("a constant has another size");
  return { name, shape, type, data: type === FLOAT ? Float32Array.from(data) : data };
}

function fromRaw(raw, type) {
  const width = type === INT64 ? 8 : 4;
  if (raw.length % width) throw new BitstreamError("a constant has another size");
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  return Array.from({ length: raw.length / width }, (_, index) => {
    if (type === FLOAT) return view.getFloat32(4 * index, true);
    if (type === INT32) return view.getInt32(4 * index, true);
    return view.getInt32(8 * index + 4, true) * 2 ** 32 + view.getUint32(8 * index, true);
  });
}

function readAttribute(bytes) {
  const attribute = { name: "", type: 0 };
  const found = { 1: 0, 2: 0, 3: "", 4: null, 6: [], 7: [] };
  const kinds = { 2: A_FLOAT, 3: AN_INTEGER, 4: A_TEXT, 5: A_TENSOR, 7: A_LIST_OF_FLOATS, 8: A_LIST };
  const given = new Set();
  for (const field of fields(bytes, ATTRIBUTE)) {
    if (kinds[field.number]) given.add(kinds[field.number]);
    switch (field.number) {
      case 1: attribute.name = text(field.value); break;
      case 2: found[1] = field.value; break;
      case 3: found[2] = field.value; break;
      case 4: found[3] = String.fromCharCode(...field.value.subarray(0, 64)); break;
      case 5: found[4] = readTensor(field.value); break;
      case 7: floats(found[6], field); break;
      case 8: numbers(found[7], field); break;
      case 20: attribute.type = field.value; break;
    }
  }
  if (!Object.hasOwn(ATTRIBUTES, attribute.name) || ATTRIBUTES[attribute.name] !== attribute.type) {
    throw new BitstreamError(`attribute ${attribute.name.slice(0, 20)} is unknown, or of another kind`);
  }
  given.delete(attribute.type);
  if (given.size) throw new BitstreamError(`attribute ${attribute.name} has values of two kinds`);
  return [attribute.name, found[attribute.type]];
}

function readNode(bytes) {
  const node = { op: "", inputs: [], outputs: [], attributes: {} };
  let domain = "";
  for (const { number, value } of fields(bytes, NODE)) {
    switch (number) {
      case 1: node.inputs.push(text(value)); break;
      case 2: node.outputs.push(text(value)); break;
      case 4: node.op = text(value); break;
      case 5: {
        const [name, found] = readAttribute(value);
        if (Object.hasOwn(node.attributes, name)) {
          throw new BitstreamError(`attribute ${name} stands twice`);
        }
        node.attributes[name] = found;
        break;
      }
      case 7: domain = text(value); break;
    }
  }
  if (domain || !OPERATORS.has(node.op)) {
    throw new BitstreamError(`operator ${domain}${domain && "."}${node.op} is not allowed`);
  }
  if (!node.outputs.length || !node.outputs.every(Boolean)) {
    throw new BitstreamError(`operator ${node.op} leaves an output out`);
  }
  return node;
}

/** Read a graph's input or output: its name, type and shape, in which 0 is an open length. */
function readValue(bytes) {
  const value = { name: "", type: 0, shape: null };
  for (const field of fields(bytes, VALUE)) {
    if (field.number === 1) value.name = text(field.value);
    if (field.number !== 2) continue;
    for (const kind of fields(field.value, TYPE)) {
      for (const part of fields(kind.value, TENSOR_TYPE)) {
        if (part.number === 1) value.type = part.value;
        if (part.number === 2) value.shape = readShape(part.value);
      }
    }
  }
  return value;
}

function readShape(bytes) {
  const shape = [];
  for (const { value } of fields(bytes, SHAPE)) {
    let length = 0;
    for (const part of fields(value, DIMENSION)) length = part.value;
    shape.push(length);
  }
  return shape;
}

export function size(shape) {
  return shape.reduce((product, length) => product * length, 1);
}

/**
 * Read and check the payload of TOPO of a file's version, given the version's dictionary.
 *
 * Returns the graph's `tensors` (the coded tensors), `constants`, `nodes` and the `frame` shape, and
 * the version of its operators, `opset`.
 * Sizes of inner values are not checked here; `Shapes` does it. Throws BitstreamError.
 */
export function readTopology(payload, dictionary) {
  const model = { ir: 0, opsets: [], graph: null };
  for (const { number, value } of fields(inflate(payload, MAX_BYTES, dictionary), MODEL)) {
    switch (number) {
      case 1: model.ir = value; break;
      case 7: model.graph = value; break;
      case 8: model.opsets.push(readOpset(value)); break;
      case 20: case 25: throw new BitstreamError("topology has functions or training steps");
    }
  }
  const [opset, ...more] = model.opsets;
  if (!opset || more.length || opset.domain || !isWithin(opset.version, OPSETS)) {
    throw new BitstreamError(`topology must use ONNX's own operators, of version ${OPSETS}`);
  }
  if (!isWithin(model.ir, IR_VERSIONS)) {
    throw new BitstreamError(`topology must be of ONNX's format ${IR_VERSIONS}, got ${model.ir}`);
  }
  if (!model.graph) throw new BitstreamError("topology has no graph");
  return { opset: opset.version, ...readGraph(model.graph) };
}

function readOpset(bytes) {
  const opset = { domain: "", version: 0 };
  for (const { number, value } of fields(bytes, OPSET)) {
    if (number === 1) opset.domain = text(value);
    if (number === 2) opset.version = value;
  }
  return opset;
}

function isWithin(value, [least, most]) {
  return value >= least && value <= most;
}

function readGraph(bytes) {
  const nodes = [];
  const constants = [];
  const inputs = [];
  const outputs = [];
  for (const { number, value } of fields(bytes, GRAPH)) {
    switch (number) {
      case 1:
        if (nodes.length === MAX_NODES) throw new BitstreamError("topology has too many nodes");
        nodes.push(readNode(value));
        break;
      case 5: constants.push(readTensor(value)); break;
      case 11: inputs.push(readValue(value)); break;
      case 12: outputs.push(readValue(value)); break;
      case 13: case 15: throw new BitstreamError("topology has sparse tensors or inner sizes");
    }
  }
  const [time, ...tensors] = inputs;
  const [frames] = outputs;
  if (outputs.length !== 1 || frames.name !== FRAMES || time?.name !== TIME) {
    throw new BitstreamError(`topology must map ${TIME} to ${FRAMES}`);
  }
  if (time.type !== FLOAT || time.shape?.length !== 1 || time.shape[0]) {
    throw new BitstreamError(`${TIME} must be float32 of shape (N,)`);
  }
  const [batch, channels, ...frame] = frames.shape ?? [];
  if (frames.type !== FLOAT || batch || channels !== 3 || frame.length !== 2) {
    throw new BitstreamError(`${FRAMES} must be float32 of shape (N, 3, H, W)`);
  }
  checkTensors(tensors);
  tensors.forEach((tensor, index) => (tensor.name = String(index)));
  constants.forEach((constant, index) => (constant.name = `c${index}`));
  resolve(nodes, tensors, constants);
  return { tensors, constants, nodes, frame, frames: FRAMES, time: TIME };
}

function checkTensors(tensors) {
  if (!tensors.length || tensors.length > MAX_TENSORS) {
    throw new BitstreamError(`topology must have 1..${MAX_TENSORS} coded tensors`);
  }
  let weights = 0;
  for (const { type, shape } of tensors) {
    if (type !== FLOAT || !shape?.length || shape.some((length) => length < 1)) {
      throw new BitstreamError("coded tensors must be float32 of fixed shape");
    }
    weights += size(shape);
  }
  if (!(weights <= MAX_WEIGHTS)) {
    throw new BitstreamError(`topology has over ${MAX_WEIGHTS} weights`);
  }
}

/** Put names in place of the references of all nodes. */
function resolve(nodes, tensors, constants) {
  const made = [TIME];
  let next = 0;
  const find = (reference) => {
    if (reference === "") return "";
    const first = reference[0];
    const number = (digits) => {
      if (!/^-?[0-9]{1,5}$/.test(digits)) {
        throw new BitstreamError(`topology has a reference ${reference.slice(0, 20)}`);
      }
      return Number(digits);
    };
    let value;
    if (first === "+") {
      const index = next + number(reference.slice(1) || "0");
      next = index + 1;
      value = tensors[index]?.name;
    } else if (first === "c") {
      value = constants[number(reference.slice(1))]?.name;
    } else {
      value = made[made.length + number(reference)];
    }
    if (value === undefined) {
      throw new BitstreamError(`topology refers to ${reference.slice(0, 20)}, where nothing is`);
    }
    return value;
  };
  for (const node of nodes) {
    node.inputs = node.inputs.map(find);
    node.outputs = node.outputs.map((name) => {
      if (name !== "_" && name !== FRAMES) {
        throw new BitstreamError(`topology has an output ${name.slice(0, 20)}`);
      }
      if (name === FRAMES && made.includes(FRAMES)) {
        throw new BitstreamError("two values have the same name");
      }
      made.push(name === FRAMES ? FRAMES : `v${made.length}`);
      return made.at(-1);
    });
  }
}
