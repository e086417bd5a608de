/** Decoding on a GPU, by WebGPU: most of a program's steps as compute shaders. */

import { UnsupportedError } from "./errors.js";
import { FLOAT } from "./graph.js";
import { passesOf, pixels, WORKGROUP } from "./shaders.js";

/** Operators that begin what the GPU computes; all that follows from them is computed there. */
const STARTS = new Set(["Conv", "DepthToSpace", "GridSample", "Resize"]);
/** Elements of their outputs at least: the kernels compute smaller ones sooner than they are sent. */
const LEAST_COUNT = 2048;
/** Most memory of the GPU that a clip may need. */
const MAX_BYTES = 2 ** 30;
/** A free buffer of up to so many times the bytes that are wanted is taken. */
const MAX_WASTE = 2;
const FLOAT_BYTES = 4;
/** Most passes for a picture, and most shaders: a stranger's graph must not keep compilers busy. */
const MAX_PASSES = 4096;
const MAX_SHADERS = 512;
/** Most workgroups of a dispatch in one dimension, as all GPUs have them. */
const MAX_GROUPS = 65535;

/** A program whose steps run on a GPU, as far as they follow from large ones. */
export class Gpu {
  /** Number of the segment whose weights the GPU has. */
  #loaded = -1;
  #program;
  #kernels;
  #device;
  #before;
  #passes = [];
  #constants = [];
  #buffers = new Map();
  #output;
  #reads = [];
  #free = [];
  #bytes = 0;
  isLost = false;

  /**
   * Prepare a program on the device of an adapter.
   *
   * Throws UnsupportedError if the program has a step without a shader, or needs too much memory.
   * `least` is the number of elements of the first output that is computed on the GPU.
   */
  static async make(program, kernels, adapter, { starts = STARTS, least = LEAST_COUNT } = {}) {
    const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits;
    const requiredLimits = { maxStorageBufferBindingSize, maxBufferSize };
    const device = await adapter.requestDevice({ requiredLimits });
    const gpu = new Gpu(program, kernels, device);
    try {
      await gpu.#prepare(starts, least);
    } catch (error) {
      device.destroy();
      throw error;
    }
    return gpu;
  }

  constructor(program, kernels, device) {
    this.#program = program;
    this.#kernels = kernels;
    this.#device = device;
    device.lost.then(() => (this.isLost = true));
    // After a command that failed, an older picture would be taken for the new one.
    device.addEventListener("uncapturederror", () => (this.isLost = true));
  }

  /** Bytes of the GPU's memory. */
  get memoryBytes() {
    return this.#bytes;
  }

  async #prepare(starts, least) {
    const { frame, width, height, steps } = this.#program;
    const { before, after, sent } = divide(steps, starts, least);
    if (!after.some(({ outputs }) => outputs.some(({ root }) => root === frame.root))) {
      throw new UnsupportedError("there is nothing for a GPU to compute");
    }
    const known = new Set(before.flatMap(({ outputs }) => outputs.map(({ root }) => root)));
    const given = [...sent.values()].filter(({ root }) => !known.has(root)); // the time itself
    this.#before = [
      { run() {}, sent: given },
      ...before.map(({ run, outputs }) => ({ run, sent: outputs.filter(({ root }) => sent.has(root)) })),
    ];
    if (after.reduce((sum, { inputs, outputs }) => sum + inputs.length + outputs.length, 0) > MAX_PASSES) {
      throw new UnsupportedError("the clip needs too many passes of the GPU");
    }
    const passes = after.map(passesOf);
    const picture = { root: null, count: width * height };
    passes.push([pixels(frame, picture, width, height)]);
    const lastUses = lastUsesOf(passes);
    for (const value of sent.values()) this.#own(value);
    if (new Set(passes.flat().map(({ code }) => code)).size > MAX_SHADERS) {
      throw new UnsupportedError("the clip needs too many shaders");
    }
    const pipelines = new Map();
    for (const [index, parts] of passes.entries()) {
      for (const part of parts) {
        this.#own(part.output);
        const buffers = [...part.inputs.map((input) => this.#bufferOf(input)), this.#buffers.get(part.output.root)];
        if (!pipelines.has(part.code)) {
          pipelines.set(part.code, this.#compile(part.code));
          pipelines.get(part.code).catch(() => {}); // who waits for it will hear of its failure
        }
        this.#passes.push({ pipeline: pipelines.get(part.code), buffers, ...groupsOf(part.count) });
      }
      for (const root of lastUses.get(index) ?? []) this.#drop(root);
    }
    this.#output = this.#buffers.get(null);
    for (const each of this.#passes) {
      each.pipeline = await each.pipeline;
      const entries = each.buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
      each.group = this.#device.createBindGroup({ layout: each.pipeline.getBindGroupLayout(0), entries });
    }
  }

  async #compile(code) {
    const module = this.#device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const fault = messages.find(({ type }) => type === "error");
    if (fault) throw new Error(`a shader does not compile: ${fault.message}`);
    return this.#device.createComputePipelineAsync({ layout: "auto", compute: { module } });
  }

  /** Make a buffer. Throws UnsupportedError if it is too large. */
  #make(bytes, usage) {
    const size = Math.ceil(bytes / 16) * 16;
    this.#bytes += size;
    if (this.#bytes > MAX_BYTES || size > this.#device.limits.maxStorageBufferBindingSize) {
      throw new UnsupportedError("the clip needs too much memory of the GPU");
    }
    return this.#device.createBuffer({ size, usage });
  }

  /** Give a value that varies a buffer, unless it has one: a free one, if that is large enough. */
  #own({ root, count }) {
    if (this.#buffers.has(root)) return;
    const bytes = FLOAT_BYTES * count;
    const place = this.#free.findIndex(({ size }) => size >= bytes && size <= MAX_WASTE * bytes + 256);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = place < 0 ? this.#make(bytes, usage) : this.#free.splice(place, 1)[0];
    this.#buffers.set(root, buffer);
  }

  #drop(root) {
    if (this.#buffers.has(root)) this.#free.push(this.#buffers.get(root));
  }

  /** Return the buffer of an input of a pass; those that do not vary get their contents later. */
  #bufferOf({ value, pack = null, data = null }) {
    if (value?.isVarying) return this.#buffers.get(value.root);
    const known = this.#constants.find((each) => !pack && !data && each.value.root === value.root && !each.pack);
    if (known) return known.buffer;
    const read = () => {
      const floats = this.#kernels.floats(value.address, value.count);
      return pack ? pack(floats) : floats;
    };
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const buffer = this.#make(FLOAT_BYTES * (data ?? read()).length, usage);
    if (data) this.#device.queue.writeBuffer(buffer, 0, data);
    else this.#constants.push({ value, pack, read, buffer });
    return buffer;
  }

  /** Send the weights of the program's segment, unless they are there. */
  #load() {
    if (this.#loaded === this.#program.loaded) return;
    for (const { read, buffer } of this.#constants) this.#send(buffer, read());
    this.#loaded = this.#program.loaded;
  }

  #send(buffer, floats) {
    this.#device.queue.writeBuffer(buffer, 0, floats);
  }

  /**
   * Write the RGBA pixels of a time in frames since the loaded segment's start to an array.
   *
   * Rejects if the GPU is lost.
   */
  async draw(time, pixels) {
    const { queue } = this.#device;
    this.#load();
    this.#program.begin(time);
    for (const { run, sent } of this.#before) {
      run();
      // At once: the kernels use a value's memory again.
      for (const { root, address, count } of sent) {
        this.#send(this.#buffers.get(root), this.#kernels.floats(address, count));
      }
    }
    const encoder = this.#device.createCommandEncoder();
    const commands = encoder.beginComputePass();
    for (const { pipeline, group, across, down } of this.#passes) {
      commands.setPipeline(pipeline);
      commands.setBindGroup(0, group);
      commands.dispatchWorkgroups(across, down);
    }
    commands.end();
    const bytes = FLOAT_BYTES * this.#program.width * this.#program.height;
    const read = this.#reads.pop() ?? this.#make(bytes, GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ);
    encoder.copyBufferToBuffer(this.#output, 0, read, 0, bytes);
    queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    pixels.set(new Uint8ClampedArray(read.getMappedRange(0, bytes)));
    read.unmap();
    this.#reads.push(read);
    if (this.isLost) throw new Error("the GPU was lost");
  }

  /** Release all of the GPU's memory. */
  close() {
    this.#device.destroy();
  }
}

/** Return the numbers of workgroups, in two dimensions, for a number of invocations. */
function groupsOf(count) {
  const groups = Math.ceil(count / WORKGROUP);
  const down = Math.ceil(groups / MAX_GROUPS);
  return { across: Math.ceil(groups / down), down };
}

/** Divide steps into those before the GPU and those on it; also return what is sent, by its root. */
function divide(steps, starts, least) {
  const made = new Set();
  const before = [];
  const after = [];
  for (const step of steps) {
    const { node, inputs, outputs } = step;
    const isFollowing = inputs.some((value) => value && made.has(value.root));
    const [{ type, count }] = outputs;
    const isStart = starts.has(node.op) && type === FLOAT && count >= least;
    (isFollowing || isStart ? after : before).push(step);
    if (isFollowing || isStart) for (const { root } of outputs) made.add(root);
  }
  const read = after.flatMap(({ inputs }) => inputs.filter((value) => value?.isVarying));
  const sent = read.filter(({ root }) => !made.has(root));
  return { before, after, sent: new Map(sent.map((value) => [value.root, value])) };
}

/** Return the roots of the values that are last used by each step, by its number. */
function lastUsesOf(passes) {
  const last = new Map();
  passes.forEach((parts, index) => {
    for (const { inputs, output } of parts) {
      last.set(output.root, index);
      for (const { value } of inputs) if (value?.isVarying) last.set(value.root, index);
    }
  });
  last.delete(null);
  const found = new Map();
  for (const [root, index] of last) found.set(index, [...(found.get(index) ?? []), root]);
  return found;
}
