/** The compiled kernels, and their memory. */

import { tooLarge } from "./errors.js";

const PAGE_BYTES = 2 ** 16;
const ALIGNMENT = 16;
/** Bytes that kernels may read or write beyond a buffer's end. */
const MARGIN = 64;
/** Most memory that a clip may need: a stranger's clip must not take all of a phone's. */
const MAX_MEMORY_BYTES = 2 ** 30;

/** Most numbers that steps of a program keep outside of this memory. */
const MAX_LISTED = 2 ** 22;

/** An instance of the kernels. Buffers are reserved one after the other, and released together. */
export class Kernels {
  #memory;
  #next;
  #listed = 0;

  constructor(module) {
    this.run = new WebAssembly.Instance(module, {}).exports;
    this.#memory = this.run.memory;
    this.#next = this.run.__heap_base.value;
  }

  /** Bytes of memory in all. */
  get memoryBytes() {
    return this.#memory.buffer.byteLength;
  }

  /** End of the reserved buffers, for `release`. */
  get mark() {
    return this.#next;
  }

  /** Release all buffers that were reserved after a mark. */
  release(mark) {
    this.#next = mark;
  }

  /** Reserve a buffer; return its address. Throws UnsupportedError if it is too large. */
  reserve(bytes) {
    const start = Math.ceil(this.#next / ALIGNMENT) * ALIGNMENT;
    const stop = start + bytes + MARGIN;
    const missing = stop - this.#memory.buffer.byteLength;
    if (stop > MAX_MEMORY_BYTES) throw tooLarge("the clip needs over 1 GiB of memory");
    if (missing > 0) {
      try {
        this.#memory.grow(Math.ceil(missing / PAGE_BYTES));
      } catch {
        throw tooLarge("there is not enough memory for the clip");
      }
    }
    this.#next = stop;
    return start;
  }

  /** Count numbers that a step keeps by itself. Throws UnsupportedError if they are too many. */
  list(count) {
    this.#listed += count;
    if (this.#listed > MAX_LISTED) throw tooLarge("the clip's graph lists too much");
  }

  floats(address, count) {
    return new Float32Array(this.#memory.buffer, address, count);
  }

  integers(address, count) {
    return new Int32Array(this.#memory.buffer, address, count);
  }

  bytes(address, count) {
    return new Uint8Array(this.#memory.buffer, address, count);
  }

  /** Reserve a buffer with integers. */
  putIntegers(values) {
    const address = this.reserve(4 * values.length);
    this.integers(address, values.length).set(values);
    return address;
  }

  /** Reserve a buffer with floats. */
  putFloats(values) {
    const address = this.reserve(4 * values.length);
    this.floats(address, values.length).set(values);
    return address;
  }
}
