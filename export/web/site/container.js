/** The container: chunks with checksums, the header and the index; docs/reference/bitstream.md. */

import { BitstreamError } from "./errors.js";

export const MAX_FILE_BYTES = 2 ** 30;
const MAX_CHUNK_BYTES = 2 ** 28;
const SIGNATURE_BYTES = 8;
const VERSIONS = [1, 2];
/** Bytes of a chunk before its payload, and of the checksum after it. */
const START_BYTES = 12;
const CHECKSUM_BYTES = 4;
const KIND_AT = 10;
const DELTA = 1;
const ESSENTIALS = 2;
const HEADER_BYTES = 18;
const MAX_SETTINGS_BYTES = 1024;
const MAX_SIDE = 8192;
const MAX_FRAMES = 2 ** 24;
const MAX_TERM = 100_000_000;
const MAX_RATE = 1000;
const CONTINUOUS = 1;
/** Bytes of the index for a segment. */
export const ENTRY_BYTES = 17;

const TABLE = new Uint32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** Return the CRC-32 of bytes that follow others of a known CRC-32. */
export function crc32(bytes, seed = 0) {
  let value = ~seed;
  for (let index = 0; index < bytes.length; index++) {
    value = TABLE[(value ^ bytes[index]) & 0xff] ^ (value >>> 8);
  }
  return ~value >>> 0;
}

/** Cuts a file into chunks as its bytes arrive, and finds the next chunk after damage. */
export class ChunkReader {
  version = 0;
  skippedBytes = 0;
  #buffer = new Uint8Array(0);
  #start = 0;
  #stop = 0;
  #offset = 0;
  #essentials = 0;
  #clip = 0;
  #segment = 0;

  /** Number of bytes of an incomplete chunk: 0 at the end of a complete file. */
  get restBytes() {
    return this.#stop - this.#start;
  }

  /** Yield the chunks that further bytes complete. Throws BitstreamError if it is no clip. */
  *feed(bytes) {
    this.#append(bytes);
    if (!this.version && !this.#readSignature()) return;
    for (let chunk = this.#next(); chunk; chunk = this.#next()) yield chunk;
  }

  #append(bytes) {
    const rest = this.restBytes;
    if (this.#stop + bytes.length > this.#buffer.length) {
      const room = this.#start > this.#buffer.length / 2 && rest + bytes.length <= this.#buffer.length;
      const buffer = room ? this.#buffer : new Uint8Array(2 * rest + bytes.length);
      buffer.set(this.#buffer.subarray(this.#start, this.#stop));
      this.#buffer = buffer;
      this.#start = 0;
      this.#stop = rest;
    }
    this.#buffer.set(bytes, this.#stop);
    this.#stop += bytes.length;
  }

  #drop(count) {
    this.#start += count;
    this.#offset += count;
  }

  #readSignature() {
    if (this.restBytes < SIGNATURE_BYTES) return false;
    const bytes = this.#buffer.subarray(this.#start, this.#stop);
    if (text(bytes, 0) !== "NERV") throw new BitstreamError("not a nervcast clip");
    const version = bytes[4] | (bytes[5] << 8);
    if (!VERSIONS.includes(version)) {
      throw new BitstreamError(
        `clip is of version ${version}, this decoder reads versions ${VERSIONS.join(" and ")}`,
      );
    }
    this.#drop(SIGNATURE_BYTES);
    this.version = version;
    return true;
  }

  #next() {
    while (this.restBytes >= START_BYTES) {
      const bytes = this.#buffer.subarray(this.#start, this.#stop);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      const length = view.getUint32(4, true);
      if (crc32(bytes.subarray(0, 8)) !== view.getUint32(8, true) || length > MAX_CHUNK_BYTES) {
        this.#resynchronise(bytes);
        continue;
      }
      const end = START_BYTES + length;
      if (bytes.length < end + CHECKSUM_BYTES) return null;
      const kind = text(bytes, 0);
      const payload = bytes.slice(START_BYTES, end);
      const checksum = crc32(payload, this.#seed(kind, payload));
      const isIntact = checksum === view.getUint32(end, true);
      if (isIntact) this.#take(kind, checksum);
      const chunk = { kind, payload, offset: this.#offset, isIntact };
      this.#drop(end + CHECKSUM_BYTES);
      return chunk;
    }
    return null;
  }

  #seed(kind, payload) {
    return kind === "SEGM" && payload[KIND_AT] === DELTA ? this.#segment : this.#clip;
  }

  #take(kind, checksum) {
    if (this.#essentials < ESSENTIALS) {
      this.#clip = checksum;
      this.#essentials++;
    } else if (kind === "SEGM") {
      this.#segment = checksum;
    }
  }

  /** Drop all bytes before the next possible start of a segment or an index. */
  #resynchronise(bytes) {
    let step = 1;
    while (step + 4 <= bytes.length && !["SEGM", "INDX"].includes(text(bytes, step))) step++;
    // The last bytes may be the beginning of a type, whose end has not arrived yet.
    this.skippedBytes += step;
    this.#drop(step);
  }
}

function text(bytes, at) {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}

/** Read the payload of HEAD. Throws BitstreamError. */
export function parseHeader(payload) {
  if (payload.length < HEADER_BYTES || payload.length > HEADER_BYTES + MAX_SETTINGS_BYTES) {
    throw new BitstreamError(`header cannot have ${payload.length} bytes`);
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const width = view.getUint16(0, true);
  const height = view.getUint16(2, true);
  const frames = view.getUint32(4, true);
  const numerator = view.getUint32(8, true);
  const denominator = view.getUint32(12, true);
  const flags = payload[16];
  if (!(inRange(width, MAX_SIDE) && inRange(height, MAX_SIDE))) {
    throw new BitstreamError(`frame size must be in 1..${MAX_SIDE}, got ${width}x${height}`);
  }
  if (!inRange(frames, MAX_FRAMES)) {
    throw new BitstreamError(`frames must be in 1..${MAX_FRAMES}, got ${frames}`);
  }
  const termsFit = inRange(numerator, MAX_TERM) && inRange(denominator, MAX_TERM);
  if (!termsFit || numerator > MAX_RATE * denominator) {
    throw new BitstreamError(`invalid frame rate ${numerator}/${denominator}`);
  }
  if (flags & ~CONTINUOUS) throw new BitstreamError(`unknown flags ${flags}`);
  let settings;
  try {
    settings = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      payload.subarray(HEADER_BYTES),
    );
  } catch {
    throw new BitstreamError("settings are not UTF-8");
  }
  return {
    width,
    height,
    frames,
    rate: numerator / denominator,
    terms: [numerator, denominator],
    isContinuous: Boolean(flags & CONTINUOUS),
    settings,
  };
}

function inRange(value, most) {
  return value > 0 && value <= most;
}

/** Return the payload of the index of segments. */
export function indexBytes(segments) {
  const bytes = new Uint8Array(ENTRY_BYTES * segments.length + 4);
  const view = new DataView(bytes.buffer);
  segments.forEach(({ offset, start, frames, isKey }, index) => {
    const at = ENTRY_BYTES * index;
    view.setUint32(at, offset, true);
    view.setUint32(at + 8, start, true);
    view.setUint32(at + 12, frames, true);
    view.setUint8(at + 16, Number(isKey));
  });
  view.setUint32(bytes.length - 4, segments.length, true);
  return bytes;
}
