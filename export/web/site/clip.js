/** A clip: reads a file as its bytes arrive, and tells which segment shows a time. */

import { ChunkReader, MAX_FILE_BYTES, indexBytes, parseHeader } from "./container.js";
import { BitstreamError } from "./errors.js";
import { readTopology, size } from "./graph.js";
import { parseSegment } from "./segment.js";

const EXTRAS = ["META", "SOUN", "OPUS", "TEXT", "CUES"];
const MAX_NOTES = 100;
const MAX_RECORDS = 2 ** 20;
const MAX_CHAIN_WEIGHTS = 2 ** 27;

/** Reader of a file that arrives in pieces: complete segments are usable at once. */
export class ClipReader {
  header = null;
  graph = null;
  segments = [];
  /** Chunks besides those of pictures, which `extras.js` reads. */
  extras = [];
  #chunks = new ChunkReader();
  #dictionaries;
  #notes = [];
  #noteCount = 0;
  #index = null;
  #size = 0;
  #records = 0;
  #chain = 0;
  #first;
  #left;

  /**
   * Take the topologies' dictionaries by the file's version. `first` is the frame with which a part
   * of a clip goes on after the file's head, and `left` the number of bytes that it leaves out.
   */
  constructor(dictionaries, first = 0, left = 0) {
    this.#dictionaries = dictionaries;
    this.#first = first;
    this.#left = left;
  }

  /** Version of the file; 0 before it has arrived. */
  get version() {
    return this.#chunks.version;
  }

  /** Whether the file's last chunk has been read. */
  get isWhole() {
    return this.#index !== null;
  }

  /** Number of bytes read so far. */
  get fileBytes() {
    return this.#size;
  }

  /** Number of the frame after the last segment. */
  get end() {
    const last = this.segments.at(-1);
    return last ? last.start + last.frames : this.#first;
  }

  /** Number of weights of a segment. */
  get #weights() {
    return this.graph.tensors.reduce((sum, { shape }) => sum + size(shape), 0);
  }

  /** Take the next bytes. Throws BitstreamError if the file cannot be used at all. */
  feed(bytes) {
    this.#size += bytes.length;
    if (this.#size > MAX_FILE_BYTES) throw new BitstreamError("clip is too large");
    for (const chunk of this.#chunks.feed(bytes)) {
      if (!this.header) {
        this.header = parseHeader(essential(chunk, "HEAD"));
      } else if (!this.graph) {
        const payload = essential(chunk, "TOPO");
        this.graph = readTopology(payload, this.#dictionaries[this.version]);
        this.#checkFrame();
      } else {
        this.#take({ ...chunk, offset: chunk.offset + this.#left });
      }
    }
  }

  /** Return the faults of the whole file. Throws BitstreamError if no frame can be shown. */
  finish() {
    if (!this.graph) throw new BitstreamError("clip ends before its first segment");
    const more = this.#noteCount - MAX_NOTES;
    const damage = [...this.#notes, ...(more > 0 ? [`${more} more chunks are damaged`] : [])];
    const { skippedBytes, restBytes } = this.#chunks;
    if (skippedBytes) damage.push(`${skippedBytes} bytes belong to no chunk`);
    if (restBytes) damage.push(`clip ends inside a chunk, of which it has ${restBytes} bytes`);
    if (this.end < this.header.frames) {
      damage.push(`frames from ${this.end} to the end are missing`);
    }
    // The index tells of the segments before a part, too.
    const isWhole = this.#index && (this.#first || equal(this.#index, indexBytes(this.segments)));
    if (!damage.length && !isWhole) {
      damage.push(this.#index ? "index does not fit the segments" : "index is missing");
    }
    if (!this.segments.length) throw new BitstreamError(damage[0]);
    return damage;
  }

  /** Return the segment that shows a time, and the time since its start, both in frames. */
  locate(time) {
    const clamped = Math.min(Math.max(time, 0), this.header.frames - 1);
    let low = 0;
    let high = this.segments.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.segments[middle].start <= clamped) low = middle + 1;
      else high = middle;
    }
    const index = Math.max(low - 1, 0);
    const { start, frames } = this.segments[index];
    return { index, time: Math.min(Math.max(clamped - start, 0), frames - 1) };
  }

  #checkFrame() {
    const [height, width] = this.graph.frame;
    const even = (side) => side + (side % 2);
    if (height < even(this.header.height) || width < even(this.header.width)) {
      throw new BitstreamError(`topology makes frames of ${width}x${height}, which are too small`);
    }
  }

  #note(text) {
    if (this.#noteCount++ < MAX_NOTES) this.#notes.push(text);
  }

  #take({ kind, payload, offset, isIntact }) {
    if (!isIntact) {
      this.#note(`chunk ${kind} at byte ${offset} is damaged: its checksum differs`);
      return;
    }
    try {
      if (this.isWhole || kind === "HEAD" || kind === "TOPO") {
        throw new BitstreamError("it is out of order");
      }
      if (kind === "INDX") this.#index = payload;
      if (kind === "SEGM") this.#takeSegment(payload, offset);
      const begun = this.segments.length > 0;
      if (EXTRAS.includes(kind)) this.extras.push({ kind, payload, begun });
    } catch (error) {
      if (!(error instanceof BitstreamError)) throw error;
      this.#note(`chunk ${kind} at byte ${offset} cannot be used: ${error.message}`);
    }
  }

  #takeSegment(payload, offset) {
    const segment = parseSegment(payload, this.graph.tensors.length, this.version);
    const stop = segment.start + segment.frames;
    const fits = this.end <= segment.start && segment.frames > 0 && stop <= this.header.frames;
    if (!fits) {
      throw new BitstreamError(`frames ${segment.start} to ${stop} cannot follow ${this.end}`);
    }
    this.#records += segment.records.length;
    this.#chain = (segment.isKey ? 0 : this.#chain) + this.#weights;
    if (this.#records > MAX_RECORDS) throw new BitstreamError("clip has too many segments");
    if (this.#chain > MAX_CHAIN_WEIGHTS) {
      throw new BitstreamError("clip has too many segments without a key segment");
    }
    if (!segment.isKey && (segment.start > this.end || !this.segments.length)) {
      throw new BitstreamError(`segment at frame ${segment.start} needs the one before`);
    }
    if (segment.start > this.end) {
      this.#note(`frames ${this.end} to ${segment.start - 1} are missing`);
    }
    this.segments.push({ ...segment, offset });
  }
}

function equal(a, b) {
  return a?.length === b.length && a.every((byte, place) => byte === b[place]);
}

function essential({ kind, payload, isIntact }, wanted) {
  if (kind !== wanted || !isIntact) {
    throw new BitstreamError(`chunk ${wanted} is missing or damaged`);
  }
  return payload;
}
