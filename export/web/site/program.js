/** A program: a graph as calls of kernels, with a place in memory for each value. */

import { FLOAT, size } from "./graph.js";
import { fuse } from "./fusion.js";
import { checkGraph } from "./shapes.js";
import { STEPS } from "./steps.js";
import { Weights } from "./segment.js";

const FLOAT_BYTES = 4;
const ALIGNMENT = 64;

/** A graph that is ready to run with the weights of any of its segments. */
export class Program {
  /** What is computed for each picture: nodes, their values, and calls of kernels. */
  steps = [];
  #kernels;
  #constantSteps = [];
  #time;
  #pixels;
  #weights;

  /**
   * Check a clip's graph, and reserve the memory for its weights and values.
   *
   * Throws BitstreamError for a graph that breaks a rule, and UnsupportedError for one that these
   * kernels cannot run.
   */
  constructor(clip, kernels) {
    const { graph, header } = clip;
    const shapes = checkGraph(graph);
    this.#kernels = kernels;
    this.width = header.width;
    this.height = header.height;
    this.shapes = graph.tensors.map(({ shape }) => shape);
    const nodes = fuse(graph, shapes);
    const values = this.#place(graph, nodes, shapes);
    this.addresses = graph.tensors.map(({ name }) => values.get(name).address);
    this.#weights = new Weights(clip.segments, this.shapes, this.addresses, kernels);
    for (const node of nodes) {
      const inputs = node.inputs.map((name) => (name ? values.get(name) : null));
      const outputs = node.outputs.map((name) => values.get(name));
      const isVarying = outputs.some((value) => value.isVarying);
      const step = STEPS[node.op](node, inputs, outputs, kernels);
      const { prepare, run } = typeof step === "function" ? { run: step } : (step ?? {});
      if (prepare) this.#constantSteps.push(prepare);
      if (run && isVarying) this.steps.push({ node, inputs, outputs, run });
      else if (run) this.#constantSteps.push(run);
    }
    this.#time = values.get(graph.time).address;
    const [rows, stride] = graph.frame;
    /** The picture's colours (3, rows of `stride`), of which a part is shown. */
    this.frame = { ...values.get(graph.frames), rows, stride };
    this.#pixels = kernels.reserve(4 * this.width * this.height);
  }

  /** Give each value an address, or the numbers of an integer value. Views share an address. */
  #place(graph, nodes, shapes) {
    const kernels = this.#kernels;
    const values = new Map();
    for (const [name, value] of shapes) values.set(name, { ...value, count: size(value.shape) });
    const owner = views(nodes);
    const lastUse = new Map([[graph.frames, nodes.length]]);
    nodes.forEach(({ inputs }, index) => {
      for (const name of inputs) {
        const root = owner(name);
        lastUse.set(root, Math.max(lastUse.get(root) ?? -1, index));
      }
    });
    lastUse.set(owner(graph.frames), nodes.length);
    const arena = new Arena();
    const dropped = new Map();
    const own = (name, index) => {
      const value = values.get(name);
      if (value.type !== FLOAT) {
        kernels.list(value.count);
        value.integers = Array.from(value.constant ?? { length: value.count }, Number);
        return;
      }
      if (value.constant) value.address = kernels.putFloats(value.constant);
      else if (!value.isVarying) value.address = kernels.reserve(FLOAT_BYTES * value.count);
      else {
        value.offset = arena.take(FLOAT_BYTES * value.count);
        const last = Math.max(lastUse.get(name) ?? index, index);
        dropped.set(last, [...(dropped.get(last) ?? []), value]);
      }
    };
    own(graph.time, -1);
    for (const { name } of [...graph.tensors, ...graph.constants]) own(name, -1);
    nodes.forEach(({ outputs }, index) => {
      for (const name of outputs) if (owner(name) === name) own(name, index);
      for (const value of dropped.get(index) ?? []) {
        arena.give(value.offset, FLOAT_BYTES * value.count);
      }
    });
    const base = kernels.reserve(arena.bytes);
    for (const value of values.values()) {
      if (value.offset !== undefined) value.address = base + value.offset;
    }
    for (const [name, value] of values) {
      value.root = owner(name);
      const { address, integers } = values.get(value.root);
      Object.assign(value, { address, integers });
    }
    return values;
  }

  /** Decode the weights of a segment, and of those that it builds on. Throws BitstreamError. */
  load(index) {
    if (!this.#weights.load(index)) return;
    for (const step of this.#constantSteps) step();
  }

  /** Number of the segment whose weights are loaded; -1 if none are. */
  get loaded() {
    return this.#weights.loaded;
  }

  /** Begin with the picture of a time in frames since the loaded segment's start. */
  begin(time) {
    this.#kernels.floats(this.#time, 1)[0] = time;
  }

  /** Return the RGBA pixels of a time in frames since the loaded segment's start, as a view. */
  picture(time) {
    const { address, rows, stride } = this.frame;
    this.begin(time);
    for (const { run } of this.steps) run();
    this.#kernels.run.to_rgba(this.#pixels, address, this.height, this.width, rows, stride);
    return this.#kernels.bytes(this.#pixels, 4 * this.width * this.height);
  }
}

/** Operators whose output is their first input, seen in another shape. */
const VIEWS = new Set(["Reshape", "Squeeze", "Unsqueeze"]);

/** Return a function from a value's name to the name of the value in whose memory it lies. */
function views(nodes) {
  const roots = new Map();
  for (const { op, inputs, outputs } of nodes) {
    if (VIEWS.has(op)) roots.set(outputs[0], roots.get(inputs[0]) ?? inputs[0]);
  }
  return (name) => roots.get(name) ?? name;
}

/** Places for values that live for a part of a frame's computation. */
class Arena {
  bytes = 0;
  #free = [];

  /** Return the offset of a free place, the smallest that is large enough. */
  take(bytes) {
    const wanted = Math.ceil(bytes / ALIGNMENT) * ALIGNMENT + ALIGNMENT;
    const fitting = this.#free.filter((gap) => gap.bytes >= wanted);
    if (!fitting.length) {
      const offset = this.bytes;
      this.bytes += wanted;
      return offset;
    }
    const gap = fitting.reduce((best, each) => (each.bytes < best.bytes ? each : best));
    const { offset } = gap;
    gap.offset += wanted;
    gap.bytes -= wanted;
    return offset;
  }

  /** Free a place again, and join it with those beside it. */
  give(offset, bytes) {
    const wanted = Math.ceil(bytes / ALIGNMENT) * ALIGNMENT + ALIGNMENT;
    this.#free.push({ offset, bytes: wanted });
    this.#free.sort((a, b) => a.offset - b.offset);
    this.#free = this.#free.reduce((joined, gap) => {
      const last = joined.at(-1);
      if (last && last.offset + last.bytes === gap.offset) last.bytes += gap.bytes;
      else if (gap.bytes) joined.push(gap);
      return joined;
    }, []);
  }
}
