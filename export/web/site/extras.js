/** What a clip has besides pictures: sound, subtitles, and facts about the film; loaded for clips with any of them. */

import { BitstreamError } from "./errors.js";

const SAMPLE_RATE = 48000;
const PACKET_SAMPLES = 960;
const MAX_PACKET = 1276;
const MAX_PACKETS = 2 ** 22;
const SOUND_BYTES = 4;
const MAX_LANGUAGE = 35;
const MAX_TITLE = 255;
const MAX_TRACKS = 64;
const MAX_CUES = 2 ** 17;
const MAX_CUE_BYTES = 2 ** 24;
const MAX_TEXT = 2048;
const CUE_BYTES = 10;
const MAX_VALUE = 1024;
const MAX_ENTRIES = 1024;
/** Kinds of entries of META that are text alone, and of a chapter. */
const TEXTS = [, "title", "language", "date"];
const CHAPTER = 4;
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
/** What no text of a cue may hold: it would end the cue in WebVTT, or is no text. */
const FOREIGN = /-->|\n\n|^\n|\n$|[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

/** Reader of the chunks, in their order. */
export class ExtrasReader {
  /** Format of the sound, and its parts so far. */
  sound = null;
  parts = [];
  /** Text tracks, each with its cues so far; times are in seconds. */
  tracks = [];
  about = { title: "", language: "", date: "", chapters: [] };
  #header;
  #cueBytes = 0;
  #kinds = new Set();

  /** Take the clip's header. */
  constructor(header) {
    this.#header = header;
  }

  /** Take a chunk; `begun` tells whether there has been a segment. Throws BitstreamError. */
  take({ kind, payload, begun }) {
    if (kind === "OPUS") this.#takeSound(parsePackets(payload));
    else if (kind === "CUES") this.#takeCues(payload);
    else if (begun || (kind !== "TEXT" && this.#kinds.has(kind))) {
      throw new BitstreamError("it is out of order");
    } else if (kind === "SOUN") this.sound = parseSound(payload);
    else if (kind === "TEXT") this.#beginTrack(payload[0], parseTrack(payload));
    else this.about = parseAbout(payload);
    this.#kinds.add(kind);
  }

  #takeSound(part) {
    if (!this.sound) throw new BitstreamError("the sound is not described");
    const before = this.parts.at(-1);
    const last = part.first + part.packets.length - 1;
    const isEarly = before && part.first < before.first + before.packets.length;
    if (isEarly || packetTime(this.sound, last) >= this.#header.frames / this.#header.rate) {
      throw new BitstreamError("packets are out of order");
    }
    this.parts.push(part);
  }

  #beginTrack(number, track) {
    if (number !== this.tracks.length || number >= MAX_TRACKS) {
      throw new BitstreamError("it is out of order");
    }
    this.tracks.push(track);
  }

  #takeCues(payload) {
    if (this.#cueBytes + payload.length > MAX_CUE_BYTES) {
      throw new BitstreamError(`cues of a clip have over ${MAX_CUE_BYTES} bytes`);
    }
    const cues = parseCues(payload);
    const known = this.tracks[payload[0]]?.cues;
    if (!known) throw new BitstreamError("the text track is not described");
    const isEarly = known.length && cues[0].start < known.at(-1).start;
    if (isEarly || this.#isAfterEnd(Math.round(1000 * cues.at(-1).start))) {
      throw new BitstreamError("cues are out of order");
    }
    const count = this.tracks.reduce((sum, track) => sum + track.cues.length, cues.length);
    if (count > MAX_CUES) throw new BitstreamError(`clip has over ${MAX_CUES} cues`);
    for (const cue of cues) known.push(cue);
    this.#cueBytes += payload.length;
  }

  /** Whether a time in milliseconds is not before the end; fractions of rates want exact numbers. */
  #isAfterEnd(milliseconds) {
    const { frames, terms: [numerator, denominator] } = this.#header;
    return BigInt(milliseconds) * BigInt(numerator) >= 1000n * BigInt(frames) * BigInt(denominator);
  }
}

const viewOf = (payload) => new DataView(payload.buffer, payload.byteOffset, payload.length);

/** Return bytes as text. Throws BitstreamError if they are no UTF-8. */
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BitstreamError("a text is not UTF-8");
  }
}

/** Return bytes as a text in one line. Throws BitstreamError. */
function line(bytes) {
  const text = decoded(bytes);
  if (CONTROLS.test(text)) throw new BitstreamError("a text has control characters");
  return text;
}

/** Return a language tag. Throws BitstreamError. */
function tag(bytes) {
  const isText = bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
  if (bytes.length > MAX_LANGUAGE || !isText) throw new BitstreamError("a language is no text");
  return String.fromCharCode(...bytes);
}

/** Read the payload of SOUN. Throws BitstreamError. */
function parseSound(payload) {
  const [channels, , low, high] = payload;
  if (payload.length < SOUND_BYTES || (channels !== 1 && channels !== 2)) {
    throw new BitstreamError("description of the sound is invalid");
  }
  return { channels, delay: low | (high << 8), language: tag(payload.subarray(SOUND_BYTES)) };
}

/** Read the payload of OPUS: the number of the first packet, and packets. Throws BitstreamError. */
function parsePackets(payload) {
  const view = viewOf(payload);
  const first = payload.length < 4 ? MAX_PACKETS : view.getUint32(0, true);
  const packets = [];
  let at = 4;
  while (at + 2 < payload.length && first + packets.length < MAX_PACKETS) {
    const end = at + 2 + view.getUint16(at, true);
    const packet = payload.subarray(at + 2, end);
    if (end > payload.length || !isPacket(packet)) break;
    packets.push(packet);
    at = end;
  }
  if (!packets.length || at < payload.length) {
    throw new BitstreamError("sound does not consist of Opus frames of 20 ms");
  }
  return { first, packets };
}

/** Whether a packet is one frame of 20 ms (RFC 6716, section 3.1). */
function isPacket(packet) {
  if (!packet.length || packet.length > MAX_PACKET || packet[0] & 3) return false;
  const mode = packet[0] >> 3;
  if (mode >= 16) return mode % 4 === 3;
  return mode >= 12 ? mode % 2 === 1 : mode % 4 === 1;
}

/** Return the time at which a packet begins, in seconds since the clip's start. */
export function packetTime({ delay }, number) {
  return (number * PACKET_SAMPLES - delay) / SAMPLE_RATE;
}

/** Read the payload of TEXT: a track without cues. Throws BitstreamError. */
function parseTrack(payload) {
  const end = 2 + payload[1];
  if (payload.length < 2 || payload.length < end || payload.length > end + MAX_TITLE) {
    throw new BitstreamError("description of a text track is invalid");
  }
  return { language: tag(payload.subarray(2, end)), title: line(payload.subarray(end)), cues: [] };
}

/** Read the cues of the payload of CUES. Throws BitstreamError. */
function parseCues(payload) {
  const view = viewOf(payload);
  const cues = [];
  let at = 1;
  let before = 0;
  while (at < payload.length) {
    if (cues.length === MAX_CUES) throw new BitstreamError(`clip has over ${MAX_CUES} cues`);
    const begin = at + CUE_BYTES;
    const end = begin <= payload.length ? begin + view.getUint16(at + 8, true) : Infinity;
    if (end > payload.length) throw new BitstreamError("subtitles end inside a cue");
    const start = view.getUint32(at, true);
    const stop = view.getUint32(at + 4, true);
    const text = decoded(payload.subarray(begin, end));
    if (end === begin || end - begin > MAX_TEXT || FOREIGN.test(text)) {
      throw new BitstreamError("text of a cue breaks the rules of WebVTT");
    }
    if (start < before || stop <= start) throw new BitstreamError("a cue is out of order");
    cues.push({ start: start / 1000, stop: stop / 1000, text });
    before = start;
    at = end;
  }
  if (!cues.length) throw new BitstreamError("subtitles have no cue");
  return cues;
}

/** Read the payload of META; entries of unknown kinds are left out. Throws BitstreamError. */
function parseAbout(payload) {
  const view = viewOf(payload);
  const about = { title: "", language: "", date: "", chapters: [] };
  let at = 0;
  for (let count = 1; at < payload.length; count++) {
    const begin = at + 3;
    const length = begin <= payload.length ? view.getUint16(at + 1, true) : Infinity;
    const value = payload.subarray(begin, begin + length);
    if (value.length < length || length > MAX_VALUE || count > MAX_ENTRIES) {
      throw new BitstreamError("facts about the film are too long, or end inside an entry");
    }
    const kind = payload[at];
    if (TEXTS[kind]) about[TEXTS[kind]] = line(value);
    if (kind === CHAPTER) {
      if (length < 4) throw new BitstreamError("chapter has no start");
      const start = view.getUint32(begin, true) / 1000;
      if (about.chapters.length && start <= about.chapters.at(-1).start) {
        throw new BitstreamError("chapters are out of order");
      }
      about.chapters.push({ start, title: line(value.subarray(4)) });
    }
    at = begin + length;
  }
  return about;
}
