/** A worker: reads a clip as its bytes arrive, and decodes pictures that the page asks for. */

import { ClipReader } from "./clip.js";
import { Kernels } from "./kernels.js";
import { Program } from "./program.js";

let reader = null;
let kernels = null;
let program = null;

const handlers = {
  /** Begin with a clip, given the compiled kernels and the dictionaries. */
  open({ module, dictionaries }) {
    reader = new ClipReader(dictionaries);
    kernels = new Kernels(module);
    program = null;
  },

  /** Take further bytes of the clip; `isLast` tells that no more follow. */
  feed({ bytes, isLast }) {
    const known = reader.segments.length;
    reader.feed(bytes);
    const extras = reader.extras.splice(0);
    if (extras.length) postMessage({ type: "extras", extras, header: reader.header });
    const damage = isLast ? reader.finish() : [];
    if (!program && reader.graph && reader.segments.length) {
      program = new Program(reader, kernels);
    }
    if (isLast || reader.segments.length > known) {
      const { header, end, isWhole } = reader;
      const starts = reader.segments.slice(known).map(({ start }) => start);
      const message = { header, starts, end: isLast ? header.frames : end, isWhole, damage };
      postMessage({ type: "progress", ...message });
    }
  },

  /** Decode the picture at a time in frames since the clip's start. */
  decode({ id, time, buffer }) {
    const began = performance.now();
    const place = reader.locate(time);
    let fault = null;
    const { width, height } = program;
    const pixels = buffer ? new Uint8ClampedArray(buffer) : new Uint8ClampedArray(4 * width * height);
    try {
      program.load(place.index);
      pixels.set(program.picture(place.time));
    } catch (error) {
      if (error.name !== "BitstreamError") throw error;
      // A player holds the last picture where a segment is damaged.
      fault = error.message;
    }
    const milliseconds = performance.now() - began;
    const message = {
      type: "picture", id, time, fault, milliseconds, memory: kernels.memoryBytes,
      buffer: pixels.buffer,
    };
    postMessage(message, [pixels.buffer]);
  },
};

onmessage = ({ data }) => {
  try {
    handlers[data.type](data);
  } catch (error) {
    postMessage({ type: "error", name: error.name, message: error.message });
  }
};
