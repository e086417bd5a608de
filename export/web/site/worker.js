/** A worker: reads a clip as its bytes arrive, and decodes pictures that the page asks for. */

import { ClipReader } from "./clip.js";
import { Kernels } from "./kernels.js";
import { Program } from "./program.js";

/** Largest difference between a picture of the GPU and one of the kernels, in steps of 8 bits. */
const MAX_DIFFERENCE = 1;

let reader = null;
let kernels = null;
let program = null;
/** What decodes a graph that the kernels cannot run, once it is ready; and where its files are. */
let fallback = null;
let runtime = null;
/** Which engine is wanted: "auto", "wasm" or "webgpu". */
let wanted = "wasm";
/** The program on a GPU, once it is ready, and whether its first picture was right. */
let gpu = null;
let isTrusted = false;

const handlers = {
  /** Begin with a clip, given the compiled kernels and the dictionaries. */
  open({ module, dictionaries, engine, first, left, runtime: folder }) {
    reader = new ClipReader(dictionaries, first, left);
    kernels = new Kernels(module);
    wanted = engine;
    runtime = folder;
  },

  /** Take further bytes of the clip; `isLast` tells that no more follow. */
  feed({ bytes, isLast }) {
    const known = reader.segments.length;
    reader.feed(bytes);
    const extras = reader.extras.splice(0);
    if (extras.length) postMessage({ type: "extras", extras, header: reader.header });
    const damage = isLast ? reader.finish() : [];
    if (!program && !fallback && reader.graph && reader.segments.length) begin();
    if (isLast || reader.segments.length > known) {
      const { header, end, isWhole } = reader;
      const starts = reader.segments.slice(known).map(({ start }) => start);
      const message = { header, starts, end: isLast ? header.frames : end, isWhole, damage };
      postMessage({ type: "progress", ...message });
    }
  },

  /** Decode the picture at a time in frames since the clip's start. */
  async decode({ id, time, buffer }) {
    const runner = await fallback;
    const asked = performance.now();
    const place = reader.locate(time);
    let fault = null;
    const { width, height } = reader.header;
    const pixels = buffer ? new Uint8ClampedArray(buffer) : new Uint8ClampedArray(4 * width * height);
    const isOnGpu = isTrusted;
    try {
      if (runner) pixels.set(await runner.picture(place));
      else await draw(place, pixels);
    } catch (error) {
      if (error.name !== "BitstreamError") throw error;
      // A player holds the last picture where a segment is damaged.
      fault = error.message;
    }
    const now = performance.now();
    // A GPU has several pictures under way at once, and others wait for their turn.
    const milliseconds = now - Math.max(asked, isOnGpu || runner ? answered : 0);
    answered = now;
    const message = {
      type: "picture", id, time, fault, milliseconds, buffer: pixels.buffer,
      memory: kernels.memoryBytes + (gpu?.memoryBytes ?? 0), engine: isTrusted ? "webgpu" : "wasm",
    };
    postMessage(message, [pixels.buffer]);
  },
};

/** Moment of the latest answer. */
let answered = 0;

/** Prepare the program, or what decodes instead. Throws UnsupportedError if nothing can. */
function begin() {
  const { mark } = kernels;
  try {
    program = new Program(reader, kernels);
  } catch (error) {
    if (error.name !== "UnsupportedError" || error.isTooLarge || !runtime) throw error;
    kernels.release(mark);
    fallback = openFallback(error);
    fallback.catch(tellError);
    return;
  }
  startGpu().catch((error) => dropGpu(error));
}

/** Return what decodes without the kernels. Rejects with their refusal if the runtime refuses, too. */
async function openFallback(refusal) {
  try {
    const { Fallback } = await import("./fallback.js");
    return await Fallback.make(reader, kernels, runtime);
  } catch (cause) {
    throw Object.assign(refusal, { cause });
  }
}

/** Decode a picture by the program, on the GPU or not. */
async function draw(place, pixels) {
  program.load(place.index);
  if (gpu) await drawByGpu(place, pixels);
  else pixels.set(program.picture(place.time));
}

/** Prepare the program for a GPU, if one is wanted and there; until then, the kernels decode. */
async function startGpu() {
  if (wanted === "wasm") return;
  const adapter = await navigator.gpu?.requestAdapter();
  // What computes on the CPU all the same is far slower than the kernels.
  const isSoftware = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  if (!adapter && wanted === "webgpu") throw new Error("the browser offers no GPU");
  if (!adapter || (isSoftware && wanted === "auto")) return;
  const { Gpu } = await import("./gpu.js");
  gpu = await Gpu.make(program, kernels, adapter);
}

/** Go on without the GPU, and tell why. */
function dropGpu(error) {
  gpu?.close();
  gpu = null;
  isTrusted = false;
  postMessage({ type: "gpufault", message: error.message });
}

/** Decode a picture by the GPU, or by the kernels if it fails; the first is compared with theirs. */
async function drawByGpu({ index, time }, pixels) {
  const engine = gpu;
  const expected = isTrusted ? null : program.picture(time).slice();
  try {
    await engine.draw(time, pixels);
    if (expected && differs(pixels, expected)) throw new Error("the GPU draws another picture");
    isTrusted = gpu === engine;
  } catch (error) {
    if (gpu === engine) dropGpu(error);
    program.load(index);
    pixels.set(program.picture(time));
  }
}

function differs(found, expected) {
  return found.some((value, place) => Math.abs(value - expected[place]) > MAX_DIFFERENCE);
}

function tellError(error) {
  postMessage({ type: "error", name: error.name, message: error.message });
}

onmessage = ({ data }) => {
  try {
    handlers[data.type](data)?.catch(tellError);
  } catch (error) {
    tellError(error);
  }
};
