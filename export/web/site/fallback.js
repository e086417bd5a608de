/** Decoding by onnxruntime-web, for graphs that the kernels cannot run; loaded for those alone. */

import { BitstreamError } from "./errors.js";
import { ATTRIBUTES, FLOAT, INT64, size } from "./graph.js";
import { Weights } from "./segment.js";

const RUNTIME = "ort.wasm.min.mjs";
/** ONNX's format that all these graphs fit in. */
const IR_VERSION = 10;
// Kinds of attributes, which are the numbers of their fields but for these.
const FIELDS = { 1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8 };
const [A_FLOAT, AN_INTEGER, A_TEXT, A_TENSOR, A_LIST_OF_FLOATS] = [1, 2, 3, 4, 6];

/** Bytes of a protobuf message, as a list of parts. */
class Message {
  parts = [];

  /** Add an integer of up to 64 bits. */
  integer(number, value) {
    this.parts.push(varint(8 * number), varint(value));
    return this;
  }

  /** Add bytes, a text or a message. */
  bytes(number, value) {
    const whole = value instanceof Message ? value.joined : value;
    const data = typeof whole === "string" ? new TextEncoder().encode(whole) : whole;
    this.parts.push(varint(8 * number + 2), varint(data.length), data);
    return this;
  }

  get joined() {
    const joined = new Uint8Array(this.parts.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const part of this.parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }
}

/** Largest integer of 64 bits; as a number of JavaScript's, it is 1 more. */
const LARGEST = 2n ** 63n - 1n;

function long(value) {
  const whole = BigInt(value);
  return whole > LARGEST ? LARGEST : whole;
}

function varint(value) {
  const bytes = [];
  let rest = BigInt.asUintN(64, long(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Uint8Array.of(...bytes, Number(rest));
}

const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

function tensorOf({ name, shape, type, data }) {
  const arrays = { [FLOAT]: Float32Array, [INT64]: BigInt64Array };
  const values = type === INT64 ? Array.from(data, long) : data;
  const raw = bytesOf((arrays[type] ?? Int32Array).from(values));
  const message = new Message();
  for (const length of shape) message.integer(1, length);
  return message.integer(2, type).bytes(8, name).bytes(9, raw);
}

function attributeOf(name, value) {
  const kind = ATTRIBUTES[name];
  const message = new Message().bytes(1, name).integer(20, kind);
  const field = FIELDS[kind];
  if (kind === A_FLOAT) message.parts.push(varint(8 * field + 5), bytesOf(Float32Array.of(value)));
  else if (kind === AN_INTEGER) message.integer(field, value);
  else if (kind === A_TEXT) message.bytes(field, value);
  else if (kind === A_TENSOR) message.bytes(field, tensorOf(value));
  else if (kind === A_LIST_OF_FLOATS) message.bytes(field, bytesOf(Float32Array.from(value)));
  else for (const each of value) message.integer(field, each);
  return message;
}

function nodeOf({ op, inputs, outputs, attributes }) {
  const message = new Message();
  for (const name of inputs) message.bytes(1, name);
  for (const name of outputs) message.bytes(2, name);
  message.bytes(4, op);
  for (const [name, value] of Object.entries(attributes)) message.bytes(5, attributeOf(name, value));
  return message;
}

/** Return an input or output of floats; a length of null is open, and so is a shape of null. */
function valueOf(name, shape) {
  const tensor = new Message().integer(1, FLOAT);
  if (shape) {
    const lengths = new Message();
    for (const length of shape) {
      lengths.bytes(1, length === null ? new Message() : new Message().integer(1, length));
    }
    tensor.bytes(2, lengths);
  }
  return new Message().bytes(1, name).bytes(2, new Message().bytes(1, tensor));
}

/** Return a clip's graph as an ONNX model. */
function modelOf({ opset, time, frames, nodes, constants, tensors }) {
  const graph = new Message();
  for (const node of nodes) graph.bytes(1, nodeOf(node));
  graph.bytes(2, "clip");
  for (const constant of constants) graph.bytes(5, tensorOf(constant));
  graph.bytes(11, valueOf(time, [null]));
  for (const { name, shape } of tensors) graph.bytes(11, valueOf(name, shape));
  graph.bytes(12, valueOf(frames, null));
  const operators = new Message().bytes(1, "").integer(2, opset);
  return new Message().integer(1, IR_VERSION).bytes(7, graph).bytes(8, operators).joined;
}

/** A graph that onnxruntime-web runs with the weights of any of its segments. */
export class Fallback {
  #kernels;
  #clip;
  #ort;
  #session;
  #weights;
  #addresses;
  #inputs = {};
  #frame;
  #pixels;
  #turn = Promise.resolve();

  /**
   * Prepare a clip; `folder` is the address of onnxruntime-web's files. The kernels decode the
   * weights. Rejects if the runtime is not there, or refuses the graph.
   */
  static async make(clip, kernels, folder) {
    const ort = await import(new URL(RUNTIME, folder).href);
    // Threads would need memory that they share, and thus headers of the host.
    Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: folder });
    const options = { executionProviders: ["wasm"] };
    const session = await ort.InferenceSession.create(modelOf(clip.graph), options);
    return new Fallback(clip, kernels, ort, session);
  }

  constructor(clip, kernels, ort, session) {
    const { graph, header, segments } = clip;
    this.#clip = clip;
    this.#kernels = kernels;
    this.#ort = ort;
    this.#session = session;
    const shapes = graph.tensors.map(({ shape }) => shape);
    this.#addresses = shapes.map((shape) => kernels.reserve(4 * size(shape)));
    this.#weights = new Weights(segments, shapes, this.#addresses, kernels);
    this.#frame = kernels.reserve(4 * 3 * size(graph.frame));
    this.#pixels = kernels.reserve(4 * header.width * header.height);
  }

  /** Resolve with the RGBA pixels of a segment's time. Rejects with BitstreamError. */
  picture(place) {
    // One after the other: they share the weights.
    const picture = this.#turn.then(() => this.#draw(place));
    this.#turn = picture.catch(() => {});
    return picture;
  }

  async #draw({ index, time }) {
    const { graph, header } = this.#clip;
    const { Tensor } = this.#ort;
    if (this.#weights.load(index)) {
      graph.tensors.forEach(({ name, shape }, place) => {
        const floats = this.#kernels.floats(this.#addresses[place], size(shape)).slice();
        this.#inputs[name] = new Tensor("float32", floats, shape);
      });
    }
    const moment = new Tensor("float32", [time], [1]);
    const found = await this.#session.run({ ...this.#inputs, [graph.time]: moment });
    const { dims, data } = found[graph.frames];
    const [rows, stride] = graph.frame;
    if (String(dims) !== String([1, 3, rows, stride])) throw new BitstreamError("frames have another size");
    this.#kernels.floats(this.#frame, data.length).set(data);
    const { width, height } = header;
    this.#kernels.run.to_rgba(this.#pixels, this.#frame, height, width, rows, stride);
    return this.#kernels.bytes(this.#pixels, 4 * width * height).slice();
  }
}
