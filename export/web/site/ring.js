/** Decoded pictures that wait for their time, and the workers that decode them. */

const OUTSTANDING = 2;
/** Most bytes of pictures that wait or are on their way. */
const MAX_RING_BYTES = 2 ** 27;
const MAX_PICTURES = 16;
/** Pictures over which the time of decoding is averaged. */
const AVERAGED = 64;

/** Decodes pictures ahead, each by the next free worker. Pictures have numbers, in order. */
export class Ring {
  decoded = 0;
  /** Milliseconds of a worker for a picture, on average over the latest. */
  milliseconds = 0;
  fault = null;
  #workers;
  #memories;
  #pictures = new Map();
  #faulty = new Set();
  #buffers = [];
  #generation = 0;
  #next = 0;
  #room = MAX_PICTURES;
  #timeOf = () => 0;
  #onPicture;
  #timed = 0;
  /** The worker whose GPU decodes all pictures, if any. */
  #fast = null;

  /** Take the workers; `onPicture` is called when one has answered. */
  constructor(workers, onPicture) {
    this.#workers = workers.map((worker) => ({ worker, outstanding: 0 }));
    this.#memories = workers.map(() => 0);
    this.#onPicture = onPicture;
  }

  /** What decodes: "wasm" or "webgpu". */
  get engine() {
    return this.#fast ? "webgpu" : "wasm";
  }

  /** Number of workers that decode. */
  get workerCount() {
    return this.#fast ? 1 : this.#workers.length;
  }

  /** Bytes of the workers' memory and of all pictures here. */
  get memoryBytes() {
    const pictures = [...this.#pictures.values()].reduce((sum, { length }) => sum + length, 0);
    const spare = this.#buffers.reduce((sum, { byteLength }) => sum + byteLength, 0);
    return this.#memories.reduce((sum, bytes) => sum + bytes, 0) + pictures + spare;
  }

  /** Begin anew at a number; `timeOf` maps a number to a time in frames, or to null at the end. */
  restart(first, timeOf, pictureBytes) {
    this.#generation++;
    for (const pixels of this.#pictures.values()) this.#buffers.push(pixels.buffer);
    this.#buffers = this.#buffers.filter(({ byteLength }) => byteLength === pictureBytes);
    this.#pictures.clear();
    this.#faulty.clear();
    this.#next = first;
    this.#timeOf = timeOf;
    this.#room = Math.max(Math.min(Math.floor(MAX_RING_BYTES / pictureBytes), MAX_PICTURES), 2);
  }

  /** Return the newest picture up to a number, and drop it with all before; or null. */
  take(number) {
    const found = [...this.#pictures.keys()].filter((each) => each <= number);
    for (const each of this.#faulty) if (each < number) this.#faulty.delete(each);
    if (!found.length) return null;
    const newest = Math.max(...found);
    const pixels = this.#pictures.get(newest);
    for (const each of found) {
      if (each !== newest) this.recycle(this.#pictures.get(each));
      this.#pictures.delete(each);
    }
    return { number: newest, pixels, dropped: found.length - 1 };
  }

  /** Whether a picture up to a number waits that comes after another. */
  has(number, after) {
    return [...this.#pictures.keys()].some((each) => each <= number && each > after);
  }

  /** Whether a picture cannot be decoded, so that nothing comes of it. */
  isFaulty(number) {
    return this.#faulty.has(number);
  }

  /** Give a picture's memory back, to decode another one into it. */
  recycle(pixels) {
    if (this.#buffers.length < this.#room) this.#buffers.push(pixels.buffer);
  }

  /** Ask for further pictures, from a number on at the earliest. */
  fill(earliest) {
    this.#next = Math.max(this.#next, earliest);
    const able = this.#fast ? [this.#fast] : this.#workers;
    for (const slot of able.toSorted((a, b) => a.outstanding - b.outstanding)) {
      while (slot.outstanding < OUTSTANDING) {
        const asked = this.#workers.reduce((sum, { outstanding }) => sum + outstanding, 0);
        if (this.#pictures.size + this.#faulty.size + asked >= this.#room) return;
        const time = this.#timeOf(this.#next);
        if (time === null) return;
        this.#ask(slot, this.#next++, time);
        if (able.length > 1) break;
      }
    }
  }

  #ask(slot, number, time) {
    const buffer = this.#buffers.pop();
    slot.outstanding++;
    const message = { type: "decode", id: [this.#generation, number], time, buffer };
    slot.worker.postMessage(message, buffer ? [buffer] : []);
  }

  /** Let the GPU of a worker decode alone, or none: the pace of one engine tells nothing of another's. */
  #follow(slot) {
    this.#fast = slot;
    this.#timed = 0;
  }

  #time(milliseconds) {
    this.#timed++;
    this.milliseconds += (milliseconds - this.milliseconds) / Math.min(this.#timed, AVERAGED);
  }

  /** Take the answer of a worker, given by its place. */
  receive(place, { id: [generation, number], fault, buffer, milliseconds, memory, engine }) {
    const slot = this.#workers[place];
    if (engine === "webgpu" && !this.#fast) this.#follow(slot);
    else if (engine === "wasm" && this.#fast === slot) this.#follow(null);
    else if (!this.#fast || this.#fast === slot) this.#time(milliseconds);
    slot.outstanding--;
    this.#memories[place] = memory;
    this.decoded++;
    const isWanted = generation === this.#generation;
    if (isWanted && fault) {
      this.fault = fault;
      this.#faulty.add(number);
    }
    const pixels = new Uint8ClampedArray(buffer);
    if (isWanted && !fault) this.#pictures.set(number, pixels);
    else this.recycle(pixels);
    this.#onPicture();
  }
}
